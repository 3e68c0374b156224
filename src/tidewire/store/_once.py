"""Each row once: which rows of a commit are new, which repeat a stored row, which revise one.

Rows whose ``order`` value is above all stored ones of their series cannot repeat anything; that is almost every row.
The rest are compared with stored rows of the same key near their event time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import duckdb
import polars as pl

from tidewire.records.record import RecordType
from tidewire.store._cold import Bounds, Cold, whole
from tidewire.store._schema import (
    MARK,
    UNMARKED,
    columns_of,
    fetch,
    last_table,
    quoted,
    registered,
    revisions_table,
)
from tidewire.store.protocol import JOURNAL

NEW, DUPLICATE, REVISION = 0, 1, 2

DRIFT_US = 60_000_000
"""How far the event times of two reports of one fact may be apart."""

RECEIPT_DRIFT_US = 600_000_000
"""The same where the event time is only the time of receipt: a repeat may come minutes later."""

_OWN = ("_place", "_at", "_drift", "_fact")
"""Columns of a comparison that are no part of the rows."""

_UNKNOWN = 2**63 - 1
_NEVER = -(2**63)

Key = tuple[Any, ...]


class Marks:
    """The highest stored ``order`` value of each series of each type, for a bounded number of series.

    A series with a row that has no ``order`` value is at infinity: its rows are always compared.
    """

    def __init__(self, max_series: int) -> None:
        self._max = max_series
        self._marks: OrderedDict[tuple[str, Key], int] = OrderedDict()
        self._forgot: set[str] = set()

    def load(self, connection: duckdb.DuckDBPyConnection, kind: RecordType, *, sealed: bool) -> None:
        """Read the marks of a type from its tables; ``sealed``: some of its rows are in files."""
        if kind.order is None:
            return
        order = f"epoch_us({quoted(kind.order)})" if _is_time(kind) else quoted(kind.order)
        names = columns_of(kind.series)
        tables = " UNION ALL ".join(
            f"SELECT {names}, {order} AS _order FROM {quoted(table)}" for table in (kind.table, revisions_table(kind))
        )
        if sealed:
            mark = f"CASE WHEN NOT {UNMARKED} THEN {order.replace(quoted(kind.order), MARK)} END"
            tables += f" UNION ALL SELECT {names}, {mark} AS _order FROM {quoted(last_table(kind))}"
        rows = connection.execute(
            f"SELECT {names}, CASE WHEN count(*) = count(_order) THEN max(_order)::BIGINT END"
            f" FROM ({tables}) GROUP BY ALL LIMIT {self._max + 1:d}"
        )
        for row in rows.fetchall():
            self.raise_to(kind, row[:-1], _UNKNOWN if row[-1] is None else row[-1])

    def get(self, kind: RecordType, series: Key) -> int:
        """The mark; below everything for a series never stored, above everything where that is not known."""
        return self._marks.get((kind.table, series), _UNKNOWN if kind.table in self._forgot else _NEVER)

    def raise_to(self, kind: RecordType, series: Key, mark: int) -> None:
        """Rows up to ``mark`` are stored; the series least recently written is forgotten when there are too many."""
        name = (kind.table, series)
        self._marks[name] = max(mark, self.get(kind, series))
        self._marks.move_to_end(name)
        if len(self._marks) > self._max:
            (table, _), _ = self._marks.popitem(last=False)
            self._forgot.add(table)


class Judge:
    """Classifies the rows of one type within the running transaction."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, marks: Marks, revised: dict[str, int], cold: Cold | None
    ) -> None:
        self._connection = connection
        self._cold = cold
        self._marks = marks
        self._revised = revised

    def classify(self, kind: RecordType, rows: pl.DataFrame) -> tuple[pl.Series | None, dict[Key, int]]:
        """What each row is (`NEW`, `DUPLICATE`, `REVISION`; ``None``: all are new), and marks to raise on commit.

        ``rows`` are in the order they are committed in, with the column ``_journal``.
        """
        if kind.order is None or kind.reference:
            return self._compare(kind, rows), {}
        groups = _groups(kind, rows)
        alone = (groups["_distinct"] == groups["_height"]).all() or rows.select(kind.key).n_unique() == rows.height
        raised: dict[Key, int] = {}
        floors: list[int] = []
        for *series, low, high, _, missing, _ in groups.iter_rows():
            key = tuple(series)
            mark = self._marks.get(kind, key)
            floors.append(_UNKNOWN if missing or not alone else _NEVER if mark < low else mark)
            raised[key] = _UNKNOWN if missing else high
        if all(floor == _NEVER for floor in floors):
            return None, raised
        suspects = self._suspects(kind, rows, groups.with_columns(pl.Series("_floor", floors, dtype=pl.Int64)))
        if suspects.all():
            return self._compare(kind, rows), raised
        verdict = pl.Series([NEW], dtype=pl.UInt8).new_from_index(0, rows.height)
        places = suspects.arg_true()
        return verdict.scatter(places, self._compare(kind, rows.filter(suspects))), raised

    def _suspects(self, kind: RecordType, rows: pl.DataFrame, groups: pl.DataFrame) -> pl.Series:
        order = _physical(rows, kind)
        if groups.height == 1:
            return (order <= groups["_floor"][0]).fill_null(value=True)
        floors = rows.select(kind.series).join(
            groups.select(*kind.series, "_floor"), on=kind.series, how="left", nulls_equal=True, maintain_order="left"
        )["_floor"]
        return (order <= floors).fill_null(value=True)

    def _compare(self, kind: RecordType, rows: pl.DataFrame) -> pl.Series:
        """Compare each row with the state of its key before it: a stored row, or an earlier one of this commit."""
        states = self._states(kind, rows)
        places = pl.int_range(rows.height, dtype=pl.Int64, eager=True).alias("_place")
        needed = [*kind.key, *(name for name in kind.payload if name != "event_time")]
        timed = "event_time" in kind.payload
        # The time of receipt says nothing about the fact: two receipts of one row are one row.
        own_time = pl.when(pl.col("event_time") != pl.col("ingested_at")).then("event_time").alias("_time")
        chosen: list[Any] = [*needed, *([own_time] if timed else [])]
        if "event_time" in kind.schema and not kind.reference:
            chosen += [pl.col("event_time").to_physical().alias("_at"), _drift().alias("_drift")]
        both = pl.concat(
            [
                states.select(chosen).with_columns(_place=pl.lit(-1, dtype=pl.Int64)),
                rows.select(chosen).with_columns(places),
            ]
        )
        both = _by_fact(kind, both).sort("_fact", "_place")
        payload = [name for name in both.columns if name not in kind.key and name not in _OWN]
        judged = both.select(
            "_place",
            pl.when(~_as_before(["_fact"]))
            .then(pl.lit(NEW, dtype=pl.UInt8))
            .when(_as_before(payload))
            .then(pl.lit(DUPLICATE, dtype=pl.UInt8))
            .otherwise(pl.lit(REVISION, dtype=pl.UInt8))
            .alias("verdict"),
        )
        return judged.filter(pl.col("_place") >= 0).sort("_place")["verdict"]

    def _states(self, kind: RecordType, rows: pl.DataFrame) -> pl.DataFrame:
        """The latest stored version of every key among the rows, as far as there is one."""
        now, drift = pl.col("event_time").to_physical(), _drift()
        time = kind.schema["event_time"]
        asked = rows.select(*kind.key, (now - drift).cast(time).alias("_from"), (now + drift).cast(time).alias("_to"))
        names = columns_of([*kind.schema, JOURNAL], "t")
        same = same_key(kind, "t", "c")
        near = "" if kind.reference else " AND t.event_time BETWEEN c._from AND c._to"
        bound = "" if kind.reference else " WHERE t.event_time BETWEEN $low AND $high"
        limits = {} if kind.reference else {"low": asked["_from"].min(), "high": asked["_to"].max()}
        # Rows that reach back into sealed spans are rare; of others no file is even asked for.
        span = asked.select(pl.col("_from").min().to_physical(), pl.col("_to").max().to_physical()).row(0)
        table = whole(self._cold, self._connection, kind, Bounds(event=span))
        found = f"SELECT {names} FROM {table} AS t SEMI JOIN _asked AS c ON {same}{near}{bound}"
        with registered(self._connection, "_asked", asked):
            first = fetch(self._connection, found, limits)
        if first.is_empty() or not self._revised.get(kind.table):
            return _latest(kind, [first])
        with registered(self._connection, "_first", first.select(kind.key)):
            revisions = f"SELECT {names} FROM {quoted(revisions_table(kind))} AS t SEMI JOIN _first AS c ON {same}"
            later = fetch(self._connection, revisions, {})
        return _latest(kind, [first, later])


def _drift() -> pl.Expr:
    return pl.when(pl.col("event_time") == pl.col("ingested_at")).then(RECEIPT_DRIFT_US).otherwise(DRIFT_US)


def _by_fact(kind: RecordType, rows: pl.DataFrame) -> pl.DataFrame:
    """Number the facts: rows of one key, and near in time, as if each had been compared with what was stored.

    A venue that numbers anew uses its keys again; whether both rows come in one commit must not matter.
    """
    if "_at" not in rows.columns:
        return rows.sort(kind.key).with_columns((~_as_before(kind.key)).cum_sum().alias("_fact"))
    far = pl.col("_at") - pl.col("_at").shift(1) > pl.max_horizontal("_drift", pl.col("_drift").shift(1))
    other = ~_as_before(kind.key) | far.fill_null(value=False)
    return rows.sort(*kind.key, "_at").with_columns(other.cum_sum().alias("_fact"))


def _latest(kind: RecordType, versions: list[pl.DataFrame]) -> pl.DataFrame:
    ranked = [frame.with_columns(_rank=pl.lit(rank)) for rank, frame in enumerate(versions)]
    return (
        pl.concat(ranked)
        .sort("_rank", "ingested_at", "frame", "ordinal", JOURNAL)
        .unique(kind.key, keep="last", maintain_order=True)
    )


def same_key(kind: RecordType, left: str, right: str) -> str:
    """A test that the rows of two tables have the same key."""
    tests = [
        f"{left}.{quoted(name)} {'IS NOT DISTINCT FROM' if kind.fields[name].nullable else '='} {right}.{quoted(name)}"
        for name in kind.key
    ]
    return " AND ".join(tests)


def _as_before(names: Iterable[str]) -> pl.Expr:
    """Whether the row above has the same values."""
    return pl.all_horizontal(
        pl.lit(value=True),
        *((pl.col(name).eq_missing(pl.col(name).shift(1)) & (pl.int_range(pl.len()) > 0)) for name in names),
    )


def _groups(kind: RecordType, rows: pl.DataFrame) -> pl.DataFrame:
    """Per series: lowest and highest order, how many distinct, how many missing, how many rows."""
    order = _physical(rows, kind).alias("_order")
    return (
        rows.select(kind.series)
        .with_columns(order)
        .group_by(kind.series, maintain_order=True)
        .agg(
            pl.col("_order").min().alias("_low"),
            pl.col("_order").max().alias("_high"),
            pl.col("_order").n_unique().alias("_distinct"),
            pl.col("_order").null_count().alias("_missing"),
            pl.len().alias("_height"),
        )
    )


def _physical(rows: pl.DataFrame, kind: RecordType) -> pl.Series:
    assert kind.order is not None
    return rows[kind.order].to_physical().cast(pl.Int64)


def _is_time(kind: RecordType) -> bool:
    return kind.order is not None and isinstance(kind.schema[kind.order], pl.Datetime)
