"""What the ``where`` of a query means, for tables and for frames alike.

A column's accepted values are alternatives; columns must all agree. In text, ``*`` stands for any number of
characters; other columns are compared by value.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import polars as pl

from tidewire.errors import QueryError, nearest
from tidewire.records.record import RecordType

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Condition:
    """One column: rows whose value is one of ``values`` or like one of ``patterns``."""

    column: str
    values: tuple[Any, ...]
    patterns: tuple[str, ...]

    def likes(self) -> list[str]:
        r"""The patterns as SQL ``LIKE`` patterns with the escape character ``\``."""
        return [
            pattern.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_").replace("*", "%")
            for pattern in self.patterns
        ]

    def expression(self, dtype: pl.DataType) -> pl.Expr:
        """The condition on a frame."""
        column = pl.col(self.column)
        tests = [column == pl.lit(value, dtype=dtype) for value in self.values]
        tests += [_like(column, pattern) for pattern in self.patterns]
        return functools.reduce(operator.or_, tests)


def conditions(kind: RecordType, where: Mapping[str, Sequence[str]]) -> list[Condition]:
    """Check and parse a ``where``.

    Raises:
        QueryError: an unknown column, or a value that cannot be one of its column.
    """
    return [_condition(kind, column, values) for column, values in where.items()]


def known_column(kind: RecordType, column: str) -> str:
    """The column, or `QueryError` with the nearest one there is."""
    if column not in kind.fields:
        raise QueryError(
            f"{kind.name} has no column {column!r}.{nearest(column, kind.fields)} Valid: {', '.join(kind.fields)}."
        )
    return column


def _condition(kind: RecordType, column: str, values: Sequence[str]) -> Condition:
    dtype = kind.fields[known_column(kind, column)].dtype
    if not values:
        raise QueryError(f"The filter on {column!r} names no value; leave it out to accept all.")
    if isinstance(dtype, pl.String):
        patterns = tuple(value for value in values if "*" in value)
        return Condition(column, tuple(value for value in values if "*" not in value), patterns)
    return Condition(column, tuple(_value(column, dtype, value) for value in values), ())


def _value(column: str, dtype: pl.DataType, text: str) -> Any:
    try:
        return _parsed(dtype, text)
    except (ValueError, InvalidOperation):
        raise QueryError(f"{text!r} is not a value of {column!r}, which holds {_FORMS[type(dtype)]}.") from None


def _parsed(dtype: pl.DataType, text: str) -> Any:
    if isinstance(dtype, pl.Boolean):
        return {"true": True, "false": False}.get(text.lower()) if text.lower() in {"true", "false"} else _no()
    if isinstance(dtype, (pl.Int32, pl.Int64)):
        number = int(text)
        return number if -(2**63) <= number < 2**63 else _no()
    if isinstance(dtype, pl.Float64):
        return float(text)
    if isinstance(dtype, pl.Decimal):
        number = Decimal(text)
        fits = number.is_finite() and number == round(number, dtype.scale) and abs(number) < 10 ** (38 - dtype.scale)
        return number if fits else _no()
    if isinstance(dtype, pl.Datetime):
        if text.isdecimal():
            return _EPOCH + timedelta(microseconds=int(text))
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if isinstance(dtype, pl.Date):
        return date.fromisoformat(text)
    return _no()


def _no() -> Any:
    raise ValueError


_FORMS: dict[Any, str] = {
    pl.Boolean: "true or false",
    pl.Int32: "whole numbers",
    pl.Int64: "whole numbers",
    pl.Float64: "numbers",
    pl.Decimal: "decimal numbers of limited scale",
    pl.Datetime: "RFC 3339 times or UTC microseconds",
    pl.Date: "days such as 2026-01-05",
    pl.List: "lists, which cannot be filtered by",
}


def _like(column: pl.Expr, pattern: str) -> pl.Expr:
    escaped = "".join(".*" if part == "*" else "\\" + part if part in _SPECIAL else part for part in pattern)
    return column.str.contains(f"(?s)^(?:{escaped})$")


_SPECIAL = set(r"\.+*?()|[]{}^$#&-~")
