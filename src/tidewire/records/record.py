"""`Record`: one class is one record type, and everything else follows from it.

::

    class Trade(MarketRecord, order="sequence"):
        "One executed trade, as the venue reported it."

        price = Price("Price of the trade.", unit="quote asset", above=0)

Defining the class registers the type: the Polars and Arrow schema, the store's tables, the JSON form, the OpenAPI
component, the stream channel and the reference page are all derived from it (`RecordType`, `forms`).
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import polars as pl
import pyarrow as pa

from tidewire.errors import NotFound, nearest
from tidewire.records._dataframely import Column, Schema, failures, quick_tests, rule, rules_of
from tidewire.records.roles import Ordinal, Sequence, Symbol, Text, Time, role_of

LINEAGE = ("public_at", "ingested_at", "frame", "ordinal")

MAX_RULES = 64


@dataclass(frozen=True)
class Field:
    """One column of a record type."""

    name: str
    role: str
    unit: str
    about: str
    nullable: bool
    key: bool
    dtype: pl.DataType
    choices: tuple[str, ...]
    example: Any


class RecordType:
    """What follows from a `Record` class; reached as ``Trade.type``."""

    def __init__(self, record: type[Record], options: Options) -> None:
        self.record = record
        self.version = options.version
        self.order = options.order
        self.final = options.final
        self.contiguous = options.contiguous
        self.instant = options.instant
        self.reference = options.reference
        self.folded = options.folded
        self._series = options.series
        self.name = re.sub(r"(?<!^)(?=[A-Z])", "_", record.__name__).lower()
        self.family = record.__module__.rpartition(".")[2]
        self.about = (record.__doc__ or "").strip().partition("\n")[0]

    def __repr__(self) -> str:
        return f"<RecordType {self.name}@{self.version}>"

    @property
    def table(self) -> str:
        """Table name, with the major version: ``trade_v1``."""
        return f"{self.name}_v{self.version}"

    @functools.cached_property
    def fields(self) -> dict[str, Field]:
        """All columns in storage order: what the row is about first, its lineage last."""
        found = self.record.columns()
        first = [name for name in ("source", "instrument", "event_time") if name in found]
        names = [*first, *(name for name in found if name not in {*first, *LINEAGE}), *LINEAGE]
        return {name: _field(name, found[name]) for name in names}

    @functools.cached_property
    def schema(self) -> pl.Schema:
        """The Polars schema, in storage order."""
        return pl.Schema({name: field.dtype for name, field in self.fields.items()})

    @functools.cached_property
    def arrow(self) -> pa.Schema:
        """The Arrow schema, in storage order."""
        types = pl.DataFrame(schema=self.schema).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
        return pa.schema([f.with_nullable(self.fields[f.name].nullable) for f in types])

    @functools.cached_property
    def key(self) -> tuple[str, ...]:
        """The columns that say which fact a row is; always contains ``source``."""
        return tuple(name for name, field in self.fields.items() if field.key)

    @functools.cached_property
    def series(self) -> tuple[str, ...]:
        """The columns that say which series a row belongs to: ``order`` grows within one."""
        return self._series or tuple(name for name in self.key if name != self.order)

    @functools.cached_property
    def payload(self) -> tuple[str, ...]:
        """The columns whose change makes a row a revision: all but the key and the lineage."""
        left_out = {*self.key, *LINEAGE}
        return tuple(name for name in self.fields if name not in left_out)

    @functools.cached_property
    def rules(self) -> dict[str, pl.Expr]:
        """Rule name → expression that is true for a good row (null counts as true)."""
        found = rules_of(self.record)
        if len(found) > MAX_RULES:
            raise TypeError(f"{self.record.__name__} has {len(found)} rules; the mask of reasons has {MAX_RULES} bits.")
        return found

    @functools.cached_property
    def _all_good(self) -> list[pl.Expr]:
        return [good.all(ignore_nulls=True).alias(str(place)) for place, good in enumerate(self.rules.values())]

    @functools.cached_property
    def _quick(self) -> list[tuple[str, Callable[[pl.Series], bool]]]:
        return [(name, test) for name, column in self.record.columns().items() for test in quick_tests(column).values()]

    @functools.cached_property
    def _not_quick(self) -> list[pl.Expr]:
        quick = {
            f"{name}|{rule_name}" for name, column in self.record.columns().items() for rule_name in quick_tests(column)
        }
        return [
            good.all(ignore_nulls=True).alias(name.replace("|", "_"))
            for name, good in self.rules.items()
            if name not in quick
        ]

    def _is_good(self, rows: pl.DataFrame) -> bool:
        """Whether every row is good. Almost every batch is, and for a small one an expression costs 15 µs a rule."""
        if not all(test(rows.get_column(name)) for name, test in self._quick):
            return False
        return not self._not_quick or all(rows.select_seq(self._not_quick).row(0))

    def check(self, rows: pl.DataFrame) -> pl.Series:
        """The reason bitmask of each row (UInt64): bit i is set where the i-th rule of `rules` fails; 0 is good."""
        if rows.is_empty() or self._is_good(rows):
            return pl.Series("mask", [0], dtype=pl.UInt64).new_from_index(0, rows.height)
        verdicts = rows.select(self._all_good).row(0)
        bits = [
            (~good.fill_null(value=True)).cast(pl.UInt64) * (1 << place)
            for place, (good, verdict) in enumerate(zip(self.rules.values(), verdicts, strict=True))
            if not verdict
        ]
        if not bits:
            raise AssertionError(f"{self.name}: the quick tests and the rules disagree")
        return rows.select(functools.reduce(operator.or_, bits).alias("mask")).to_series()

    def reasons(self, rows: pl.DataFrame) -> list[list[str]]:
        """For rows that all fail: the names of the rules each fails. Slow; for rows that failed `check` only."""
        return failures(self.record, rows.select(list(self.schema)))

    @functools.cached_property
    def _empty(self) -> pl.DataFrame:
        return pl.DataFrame(schema=self.schema)

    def empty(self) -> pl.DataFrame:
        """No rows, in the right shape."""
        return self._empty.clone()


@dataclass(frozen=True)
class Options:
    """What a record class says beside its columns; given as class keywords."""

    version: int = 1
    order: str | None = None
    final: str | None = None
    contiguous: bool = False
    series: tuple[str, ...] = ()
    instant: bool = False
    reference: bool = False
    folded: bool = False


_TYPES: dict[str, RecordType] = {}
_NOTED: ContextVar[list[str] | None] = ContextVar("noted", default=None)


class Record(Schema):
    """The columns every record type has. Subclass it (or `MarketRecord`) to make a type.

    Class keywords:

    - ``version``: the major version, in table and topic names;
    - ``order``: the column that grows within a series;
    - ``series``: the columns that name a series, where they are not the key without ``order``;
    - ``contiguous``: the ``order`` column counts without holes, so a jump is a gap;
    - ``instant``: ``event_time`` is when the venue acted, so the skew between its clock and ours shows in it;
    - ``final``: a Flag column; rows where it is false are forming, they live on the bus and in the cache only;
    - ``reference``: a small table of definitions: a row is compared with all rows ever stored, so a definition that
      did not change is a duplicate and one that did is a revision;
    - ``folded``: a row follows from many frames, not from its own alone, so an audit counts rows and names none;
    - ``abstract``: no type of its own.
    """

    type: ClassVar[RecordType]

    source = Text("Which source said so; two vendors' rows are two facts.", key=True, example="binance")
    event_time = Time("What moment the row is about.")
    public_at = Time("When anyone could have known it; a backtest must not see the row before.")
    ingested_at = Time("When its bytes reached us: the receive time of the frame.")
    frame = Sequence("Sequence of the journal frame the row was parsed from.")
    ordinal = Ordinal("Place of the row inside its frame.")

    def __init_subclass__(cls, *, abstract: bool = False, **options: Any) -> None:
        super().__init_subclass__()
        if abstract:
            return
        valid = [option.name for option in fields(Options)]
        for name in options.keys() - set(valid):
            raise TypeError(
                f"{cls.__name__}: unknown keyword {name!r}.{nearest(name, valid)} Valid: {', '.join(valid)}."
            )
        cls.type = RecordType(cls, Options(**options))
        _check_definition(cls.type)
        if (noted := _NOTED.get()) is not None:
            noted.append(cls.type.name)
            return
        known = _TYPES.get(cls.type.name)
        if known is not None and _place(known.record) != _place(cls):
            raise TypeError(f"record type {cls.type.name!r} is already defined by {known.record.__module__}")
        _TYPES[cls.type.name] = cls.type


def _place(record: type[Record]) -> tuple[str, str]:
    return record.__module__, record.__qualname__


def _check_definition(kind: RecordType) -> None:
    """What a plugin's author gets wrong is told when the class is defined, not when the first row comes."""
    who = kind.record.__name__
    if not kind.about:
        raise TypeError(f"{who} has no docstring; its first line says what a row is, on the reference page.")
    for option, name in [("order", kind.order), ("final", kind.final), *(("series", name) for name in kind.series)]:
        if name is not None and name not in kind.fields:
            raise TypeError(f"{who}: {option}={name!r} is no column.{nearest(name, kind.fields)}")
    if kind.final is not None and kind.fields[kind.final].role != "flag":
        raise TypeError(f"{who}: final={kind.final!r} is a {kind.fields[kind.final].role}; it must be a Flag.")
    if "source" not in kind.key:
        raise TypeError(f"{who}: 'source' is not in the key; two vendors' rows are two facts.")


class MarketRecord(Record, abstract=True):
    """A record about one instrument."""

    instrument = Symbol("Canonical id of the instrument.")


def types() -> Mapping[str, RecordType]:
    """Every record type that is defined, by name."""
    return dict(sorted(_TYPES.items()))


def record_type(name: str) -> RecordType:
    """The record type of that name, or `NotFound` with the nearest valid one."""
    try:
        return _TYPES[name]
    except KeyError:
        raise NotFound(f"No record type {name!r}.{nearest(name, _TYPES)} Valid: {', '.join(types())}.") from None


@contextmanager
def noted() -> Generator[list[str]]:
    """Names of the record types defined inside, none of which becomes known: for code that is only looked at."""
    names: list[str] = []
    token = _NOTED.set(names)
    try:
        yield names
    finally:
        _NOTED.reset(token)


def forget(name: str) -> None:
    """Undo a definition, when a plugin is unloaded."""
    _TYPES.pop(name, None)


def _field(name: str, column: Column) -> Field:
    facts = column.metadata or {}
    return Field(
        name=name,
        role=role_of(column),
        unit=facts["unit"],
        about=column.description or "",
        nullable=column.nullable,
        key=facts["key"],
        dtype=column.dtype,
        choices=facts.get("choices", ()),
        example=facts["example"],
    )


__all__ = ["LINEAGE", "Field", "MarketRecord", "Record", "RecordType", "forget", "record_type", "rule", "types"]
