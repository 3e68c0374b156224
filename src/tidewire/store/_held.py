"""What the tables hold, asked by place instead of by time: for whoever checks them against the frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import duckdb
import polars as pl

from tidewire.records.batch import HOUR_US
from tidewire.records.record import RecordType
from tidewire.store._once import same_key
from tidewire.store._schema import columns_of, fetch, quoted, registered, revisions_table
from tidewire.store.protocol import JOURNAL, REVISION, Stretch

Span = tuple[datetime | None, datetime | None]
"""A half-open range of times; ``None``: without bound."""


def counts(
    connection: duckdb.DuckDBPyConnection, kinds: Iterable[RecordType], span: Span
) -> Counter[tuple[str, str, int]]:
    """Rows by (type, source, hour of ``ingested_at``), revisions included."""
    found: Counter[tuple[str, str, int]] = Counter()
    tests, values = _within("ingested_at", span)
    for kind in kinds:
        for table in _tables(kind):
            rows = connection.execute(
                f"SELECT source, epoch_us(ingested_at) // {HOUR_US:d} * {HOUR_US:d} AS hour, count(*)"
                f" FROM {quoted(table)} WHERE {tests} GROUP BY ALL",
                values,
            )
            found.update({(kind.name, source, hour): n for source, hour, n in rows.fetchall()})
    return found


def of_frames(connection: duckdb.DuckDBPyConnection, kind: RecordType, stretch: Stretch) -> pl.DataFrame:
    """Every version stored under these frames."""
    values = {"journal": stretch.journal, "source": stretch.source, "after": stretch.after, "last": stretch.last}
    return _versions(
        connection,
        kind,
        " WHERE t.source = $source AND t.frame > $after AND t.frame <= $last"
        f" AND t.{JOURNAL} = (SELECT id FROM _journals WHERE uuid = $journal)",
        values,
    )


def strays(
    connection: duckdb.DuckDBPyConnection,
    kind: RecordType,
    source: str,
    span: Span,
    known: Sequence[Stretch],
    limit: int,
) -> pl.DataFrame:
    """Versions ingested in a span of time that are of none of these frames, ``limit`` at most."""
    tests, values = _within("t.ingested_at", span)
    values["source"] = source
    for place, stretch in enumerate(known):
        names = {f"journal{place}": stretch.journal, f"after{place}": stretch.after, f"last{place}": stretch.last}
        values |= names
        tests += (
            f" AND (t.frame <= $after{place} OR t.frame > $last{place} OR t.{JOURNAL} IS DISTINCT FROM"
            f" (SELECT id FROM _journals WHERE uuid = $journal{place}))"
        )
    return _versions(connection, kind, f" WHERE t.source = $source AND {tests} LIMIT {limit:d}", values)


def versions(connection: duckdb.DuckDBPyConnection, kind: RecordType, keys: pl.DataFrame, span: Span) -> pl.DataFrame:
    """Every version of these keys whose ``event_time`` is in the span."""
    tests, values = _within("t.event_time", span)
    with registered(connection, "_keys", keys.select(kind.key).unique()):
        return _versions(connection, kind, f" SEMI JOIN _keys AS k ON {same_key(kind, 't', 'k')} WHERE {tests}", values)


def _versions(
    connection: duckdb.DuckDBPyConnection, kind: RecordType, which: str, values: dict[str, Any]
) -> pl.DataFrame:
    parts: list[pl.DataFrame] = []
    names = columns_of(kind.schema, "t")
    for table in _tables(kind):
        found = f"SELECT {names}, t.{JOURNAL} AS _id FROM {quoted(table)} AS t{which}"
        named = f"SELECT f.*, j.uuid AS {JOURNAL} FROM ({found}) AS f LEFT JOIN _journals AS j ON j.id = f._id"
        parts.append(fetch(connection, named, values).with_columns(pl.lit(table != kind.table).alias(REVISION)))
    dtypes = {**kind.schema, JOURNAL: pl.String(), REVISION: pl.Boolean()}
    return pl.concat(parts).select(pl.col(name).cast(dtype) for name, dtype in dtypes.items())


def _tables(kind: RecordType) -> tuple[str, str]:
    return kind.table, revisions_table(kind)


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
