"""Roles: what a column *is* (a price, a size, a time), not merely how it is stored.

The role fixes the exact storage type everywhere at once, and how text from a source becomes that type. These
types are part of the storage format and must not change: ``Price`` is ``Decimal(38, 12)``, ``Size`` and ``Amount``
``Decimal(38, 8)``, ``Coin`` ``Decimal(38, 18)``; ratios are Float64; times are UTC microseconds, days are dates.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence as Seq
from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from tidewire.records._dataframely import Bool, Column, Date, Datetime, Decimal, Float64, Int32, Int64, List, String

Check = Any  # one rule or a mapping of named rules, each from the column's expression to a boolean expression

PRICE = (38, 12)
SIZE = (38, 8)
COIN = (38, 18)
UTC_US = pl.Datetime("us", "UTC")
_EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)
_FIRST_DAY = date(1900, 1, 1)
_END_OF_DAYS = date(2100, 1, 1)


def _facts(role: str, unit: str, *, key: bool, example: Any) -> dict[str, Any]:
    return {"role": role, "unit": unit, "key": key, "example": example}


class _DecimalRole(Decimal):
    """A role stored as an exact decimal."""

    role = ""
    size = SIZE

    def __init__(
        self,
        about: str,
        *,
        unit: str,
        nullable: bool = False,
        key: bool = False,
        min: int | None = None,
        above: int | None = None,
        example: str = "1.5",
    ) -> None:
        super().__init__(
            *self.size,
            nullable=nullable,
            min=min,
            min_exclusive=above,
            description=about,
            metadata=_facts(self.role, unit, key=key, example=example),
        )


class Price(_DecimalRole):
    """A price: ``Decimal(38, 12)``, in the quote currency per unit."""

    role = "price"
    size = PRICE


class Size(_DecimalRole):
    """A quantity: ``Decimal(38, 8)``, in shares, contracts or the base asset (never lots)."""

    role = "size"


class Amount(_DecimalRole):
    """A turnover: ``Decimal(38, 8)``, in yuan or the quote asset."""

    role = "amount"


class Coin(_DecimalRole):
    """A native chain amount: ``Decimal(38, 18)``, in coins."""

    role = "coin"
    size = COIN


class Ratio(Float64):
    """A ratio, indicator or adjustment factor: Float64, 0.01 = 1 %."""

    def __init__(self, about: str, *, unit: str = "1", nullable: bool = False) -> None:
        super().__init__(
            nullable=nullable, description=about, metadata=_facts("ratio", unit, key=False, example=0.0123)
        )


class Count(Int64):
    """A whole number of things: Int64."""

    def __init__(
        self, about: str, *, unit: str = "1", nullable: bool = False, key: bool = False, min: int | None = 0
    ) -> None:
        facts = _facts("count", unit, key=key, example=3)
        super().__init__(nullable=nullable, min=min, description=about, metadata=facts)


class Ordinal(Int32):
    """A place inside something: Int32, from 0."""

    def __init__(self, about: str, *, key: bool = False) -> None:
        super().__init__(min=0, description=about, metadata=_facts("ordinal", "1", key=key, example=0))


class Sequence(Int64):
    """A number a venue or the journal counts up: Int64. Only order and neighbourhood mean something."""

    def __init__(self, about: str, *, nullable: bool = False, key: bool = False) -> None:
        facts = _facts("sequence", "1", key=key, example=1024)
        super().__init__(nullable=nullable, min=0, description=about, metadata=facts)


class Time(Datetime):
    """A moment: UTC microseconds."""

    def __init__(self, about: str, *, nullable: bool = False, key: bool = False) -> None:
        facts = _facts("time", "UTC", key=key, example="2026-01-05T01:30:00.000000Z")
        super().__init__(
            nullable=nullable,
            time_unit="us",
            time_zone="UTC",
            check={"plausible": plausible},
            description=about,
            metadata={**facts, "quick": {"check__plausible": all_plausible}},
        )


class Day(Date):
    """A day of a calendar, such as a trading day: a date without a time, in the time zone of what it is about."""

    def __init__(self, about: str, *, nullable: bool = False, key: bool = False) -> None:
        facts = _facts("day", "", key=key, example="2026-01-05")
        super().__init__(
            nullable=nullable,
            check={"plausible": plausible_day},
            description=about,
            metadata={**facts, "quick": {"check__plausible": all_plausible_days}},
        )


class Text(String):
    """Text in UTF-8; ``choices`` closes the list of values."""

    def __init__(
        self,
        about: str,
        *,
        choices: Seq[str] = (),
        nullable: bool = False,
        key: bool = False,
        example: str = "text",
    ) -> None:
        facts = _facts("text", "", key=key, example=choices[0] if choices else example)
        facts["choices"] = tuple(choices)
        check = {"known": functools.partial(one_of, choices=choices)} if choices else None
        super().__init__(
            nullable=nullable, min_length=1 if key else None, check=check, description=about, metadata=facts
        )


class Symbol(String):
    """A canonical instrument id, ``SYMBOL.VENUE``."""

    def __init__(self, about: str, *, nullable: bool = False, key: bool = True) -> None:
        super().__init__(
            nullable=nullable,
            min_length=1,  # the instrument book knows spellings; a pattern here would double the cost of a batch
            description=about,
            metadata=_facts("symbol", "", key=key, example="BTC-USDT.BINANCE"),
        )


class Flag(Bool):
    """Yes or no."""

    def __init__(self, about: str, *, nullable: bool = False) -> None:
        super().__init__(nullable=nullable, description=about, metadata=_facts("flag", "", key=False, example=True))


class Json(String):
    """A JSON document as text, for what has no columns of its own."""

    def __init__(self, about: str, *, nullable: bool = False) -> None:
        super().__init__(nullable=nullable, description=about, metadata=_facts("json", "", key=False, example="{}"))


class Prices(List):
    """A list of prices, best first."""

    def __init__(self, about: str, *, unit: str) -> None:
        facts = _facts("prices", unit, key=False, example=["1.5", "1.4"])
        super().__init__(Decimal(*PRICE), description=about, metadata=facts)


class Sizes(List):
    """A list of sizes, in the order of the prices beside it."""

    def __init__(self, about: str, *, unit: str) -> None:
        facts = _facts("sizes", unit, key=False, example=["10", "2"])
        super().__init__(Decimal(*SIZE), description=about, metadata=facts)


def plausible(column: pl.Expr) -> pl.Expr:
    """Between 1990 and 2100: a millisecond taken for a microsecond falls outside."""
    return (column >= _EARLIEST) & (column < _LATEST)


def all_plausible(series: pl.Series) -> bool:
    """The same of a whole Series, by its extremes."""
    least: Any = series.min()
    most: Any = series.max()
    return least is None or bool(least >= _EARLIEST and most < _LATEST)


def plausible_day(column: pl.Expr) -> pl.Expr:
    """Between 1900 and 2100: listings and companies are older than electronic data."""
    return (column >= _FIRST_DAY) & (column < _END_OF_DAYS)


def all_plausible_days(series: pl.Series) -> bool:
    """The same of a whole Series, by its extremes."""
    least: Any = series.min()
    most: Any = series.max()
    return least is None or bool(least >= _FIRST_DAY and most < _END_OF_DAYS)


def one_of(column: pl.Expr, choices: Seq[str]) -> pl.Expr:
    """One of a closed list; comparing a few strings is much cheaper than a set lookup."""
    if len(choices) > 4:
        return column.is_in(list(choices))
    return functools.reduce(operator.or_, [column == choice for choice in choices])


def role_of(column: Column) -> str:
    """The role's name: ``price``, ``size``, ``time`` …"""
    return (column.metadata or {})["role"]
