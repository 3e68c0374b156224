"""What the tables hold, asked by place instead of by time: for whoever checks them against the frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import polars as pl

from tidewire.records.batch import HOUR_US
from tidewire.records.record import RecordType
from tidewire.store._book import EPOCH, MICROSECOND
from tidewire.store._cold import Bounds, Cold, whole
from tidewire.store._once import same_key
from tidewire.store._schema import columns_of, fetch, quoted, registered, revisions_table
from tidewire.store.protocol import JOURNAL, REVISION, Stretch

Span = tuple[datetime | None, datetime | None]
"""A half-open range of times; ``None``: without bound."""


def counts(
    connection: duckdb.DuckDBPyConnection, kinds: Iterable[RecordType], span: Span, cold: Cold | None
) -> Counter[tuple[str, str, int]]:
    """Rows by (type, source, hour of ``ingested_at``), revisions included.

    Of sealed rows whole hours are known; a span that cuts one has them counted.
    """
    found: Counter[tuple[str, str, int]] = Counter()
    tests, values = _within("ingested_at", span)
    start, end = map(_micros, span)
    cut = any(at is not None and at % HOUR_US for at in (start, end))
    for kind in kinds:
        if cold is not None and not cut:
            hours = _cold_hours(connection, kind, start, end)
            found.update({(kind.name, source, hour): n for source, hour, n in hours})
        bounds = Bounds(ingested=(start, end))
        first = whole(cold, connection, kind, bounds) if cut else quoted(kind.table)
        for table in (first, quoted(revisions_table(kind))):
            rows = connection.execute(
                f"SELECT source, epoch_us(ingested_at) // {HOUR_US:d} * {HOUR_US:d} AS hour, count(*)"
                f" FROM {table} WHERE {tests} GROUP BY ALL",
                values,
            )
            found.update({(kind.name, source, hour): n for source, hour, n in rows.fetchall()})
    return found


def of_frames(
    connection: duckdb.DuckDBPyConnection, kind: RecordType, stretch: Stretch, cold: Cold | None
) -> pl.DataFrame:
    """Every version stored under these frames."""
    bounds = Bounds(frames=(stretch.after + 1, stretch.last), sources=(stretch.source,), journal=stretch.journal)
    values = {"journal": stretch.journal, "source": stretch.source, "after": stretch.after, "last": stretch.last}
    return _versions(
        connection,
        (kind, whole(cold, connection, kind, bounds)),
        " WHERE t.source = $source AND t.frame > $after AND t.frame <= $last"
        f" AND t.{JOURNAL} = (SELECT id FROM _journals WHERE uuid = $journal)",
        values,
    )


@dataclass(frozen=True)
class Astray:
    """Which rows are astray: of a source, ingested in ``span``, of none of the frames ``known``; ``limit`` at most."""

    source: str
    span: Span
    known: Sequence[Stretch]
    limit: int


def strays(connection: duckdb.DuckDBPyConnection, kind: RecordType, astray: Astray, cold: Cold | None) -> pl.DataFrame:
    """Versions ingested in a span of time that are of none of some frames."""
    source, span, known, limit = astray.source, astray.span, astray.known, astray.limit
    start, end = map(_micros, span)
    table = whole(cold, connection, kind, Bounds(ingested=(start, end), sources=(source,)))
    tests, values = _within("t.ingested_at", span)
    values["source"] = source
    for place, stretch in enumerate(known):
        names = {f"journal{place}": stretch.journal, f"after{place}": stretch.after, f"last{place}": stretch.last}
        values |= names
        tests += (
            f" AND (t.frame <= $after{place} OR t.frame > $last{place} OR t.{JOURNAL} IS DISTINCT FROM"
            f" (SELECT id FROM _journals WHERE uuid = $journal{place}))"
        )
    return _versions(connection, (kind, table), f" WHERE t.source = $source AND {tests} LIMIT {limit:d}", values)


def versions(
    connection: duckdb.DuckDBPyConnection, kind: RecordType, keys: pl.DataFrame, span: Span, cold: Cold | None
) -> pl.DataFrame:
    """Every version of these keys whose ``event_time`` is in the span."""
    start, end = map(_micros, span)
    table = whole(cold, connection, kind, Bounds(event=(start, end)))
    tests, values = _within("t.event_time", span)
    with registered(connection, "_keys", keys.select(kind.key).unique()):
        which = f" SEMI JOIN _keys AS k ON {same_key(kind, 't', 'k')} WHERE {tests}"
        return _versions(connection, (kind, table), which, values)


def _versions(
    connection: duckdb.DuckDBPyConnection, among: tuple[RecordType, str], which: str, values: dict[str, Any]
) -> pl.DataFrame:
    """Versions among the rows of a type: the first ones are behind the given ``FROM``."""
    kind, first = among
    parts: list[pl.DataFrame] = []
    names = columns_of(kind.schema, "t")
    for table in (first, quoted(revisions_table(kind))):
        found = f"SELECT {names}, t.{JOURNAL} AS _id FROM {table} AS t{which}"
        named = f"SELECT f.*, j.uuid AS {JOURNAL} FROM ({found}) AS f LEFT JOIN _journals AS j ON j.id = f._id"
        parts.append(fetch(connection, named, values).with_columns(pl.lit(table != first).alias(REVISION)))
    dtypes = {**kind.schema, JOURNAL: pl.String(), REVISION: pl.Boolean()}
    return pl.concat(parts).select(pl.col(name).cast(dtype) for name, dtype in dtypes.items())


def _cold_hours(
    connection: duckdb.DuckDBPyConnection, kind: RecordType, start: int | None, end: int | None
) -> list[tuple[str, int, int]]:
    return connection.execute(
        "SELECT source, hour_us, sum(n)::BIGINT FROM _cold_hours WHERE type = $table"
        " AND hour_us >= coalesce($start, hour_us) AND hour_us < coalesce($end, hour_us + 1) GROUP BY ALL",
        {"table": kind.table, "start": start, "end": end},
    ).fetchall()


def _micros(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - EPOCH) // MICROSECOND


def _within(column: str, span: Span) -> tuple[str, dict[str, Any]]:
    start, end = span
    tests = ["true"]
    values: dict[str, Any] = {}
    if start is not None:
        tests.append(f"{column} >= $start")
        values["start"] = start
    if end is not None:
        tests.append(f"{column} < $end")
        values["end"] = end
    return " AND ".join(tests), values
