"""What every version of the API and the command line share: read requests in, rows and their meta out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import polars as pl

from tidewire.errors import QueryError
from tidewire.records.clock import utc
from tidewire.records.forms import Numbers
from tidewire.records.ops import Gap
from tidewire.records.record import RecordType, types
from tidewire.serve.cursor import Cursors, digest
from tidewire.serve.params import MAX_ROWS_COLUMNAR, Params, type_named, understand
from tidewire.serve.platform import Platform
from tidewire.store.protocol import Query, Result

_MOST_GAPS = 100
_GAPS_READ = 1_000
_GAP_FACTS = ("instrument", "source", "series", "event_time", "until_time", "cause", "state", "missing")


@dataclass(frozen=True)
class Answer:
    """Rows of one type, and what has to be known about them."""

    type: RecordType
    rows: pl.DataFrame
    meta: dict[str, Any]
    next_cursor: str | None
    numbers: Numbers


class Service:
    """Answers read requests. Knows nothing of HTTP."""

    def __init__(self, platform: Platform, cursor_key: bytes = b"") -> None:
        self.platform = platform
        self._cursors = Cursors(cursor_key or bytes.fromhex(platform.rng.token(32)))

    async def read(self, name: str, params: Params, *, columnar: bool = False) -> Answer:
        """A page of rows in a time range."""
        kind = type_named(name)
        request = understand(kind, params, self.platform.resolve, columnar=columnar)
        query = request.query
        bound = _filters(query)
        if request.cursor:
            place = self._cursors.read(request.cursor, bound)
            if query.snapshot is not None and query.snapshot != place.snapshot:
                raise QueryError(
                    f"snapshot: {stamp(query.snapshot)} differs from the cursor's, {stamp(place.snapshot)}; "
                    "leave snapshot= out when following a cursor."
                )
            query = replace(query, snapshot=place.snapshot, after=place.after)
        result = await self.platform.store.read(query)
        following = None if result.next is None else self._cursors.write(bound, result.snapshot, result.next)
        shown = types()["kline"] if query.interval else kind
        meta = _meta(shown, result, query)
        meta["next_cursor"] = following
        meta["gaps"], meta["gaps_left_out"] = await self._gaps(query)
        return Answer(shown, result.rows, meta, following, request.numbers)

    async def latest(self, name: str, params: Params, *, columnar: bool = False) -> Answer:
        """The last row of each series, forming bars included; with ``as_of`` or ``snapshot`` from the store alone."""
        kind = type_named(name)
        request = understand(kind, params, self.platform.resolve, columnar=columnar, latest=True)
        query = request.query
        # All series: which rows are within the limit is known only after the cache had its say.
        result = await self.platform.store.latest(replace(query, fields=(), limit=MAX_ROWS_COLUMNAR, prefer=()))
        rows = result.rows
        if query.as_of is None and query.snapshot is None:
            # The cache is ahead of the store by what is not committed yet; the store knows what the cache forgot.
            rows = _newest(kind, rows, self.platform.cache.get(kind, query.where))
        rows = (
            _preferred(kind, rows, query.prefer)
            .sort(kind.series)
            .head(query.limit)
            .select(query.fields or rows.columns)
        )
        meta = _meta(kind, replace(result, rows=rows), query)
        meta["server_time"] = stamp(utc(self.platform.clock.wall_ns()))
        return Answer(kind, rows, meta, None, request.numbers)

    async def _gaps(self, query: Query) -> tuple[list[dict[str, Any]], int]:
        """Holes known in the range asked for, newest first, and how many more there are."""
        if query.type.name in {"gap", "quarantined"}:
            return [], 0
        where: dict[str, Sequence[str]] = {"record_type": (query.type.name,)}
        where |= {name: query.where[name] for name in ("instrument", "source") if name in query.where}
        if "interval" in query.where:
            where["series"] = query.where["interval"]
        asked = Query(Gap.type, where, end=query.end, snapshot=query.snapshot, order="desc", limit=_GAPS_READ)
        rows = (await self.platform.store.read(asked)).rows.filter(pl.col("state") != "filled")
        if query.start is not None:
            rows = rows.filter(pl.col("until_time") > query.start)
        found = rows.head(_MOST_GAPS).select(_GAP_FACTS).rename({"event_time": "start", "until_time": "end"})
        listed = found.with_columns(pl.col("start", "end").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")).to_dicts()
        return listed, rows.height - len(listed)


def _newest(kind: RecordType, stored: pl.DataFrame, cached: pl.DataFrame) -> pl.DataFrame:
    if cached.is_empty():
        return stored
    both = pl.concat([stored, cached.select(stored.columns)])
    ordered = both.sort("event_time", "ingested_at", "frame", "ordinal", maintain_order=True)
    return ordered.unique(kind.series, keep="last", maintain_order=True)


def _preferred(kind: RecordType, rows: pl.DataFrame, prefer: Sequence[str]) -> pl.DataFrame:
    """Of the last rows of several sources the newest, and of equally new ones that of the source preferred."""
    if not prefer:
        return rows
    rank = pl.col("source").replace_strict(list(prefer), range(len(prefer)), default=len(prefer), return_dtype=pl.Int64)
    ordered = rows.sort(-pl.col("event_time").to_physical(), rank, "source", maintain_order=True)
    return ordered.unique([name for name in kind.series if name != "source"] or ["source"], keep="first")


def _filters(query: Query) -> bytes:
    where = {name: sorted(values) for name, values in query.where.items()}
    times = [time and time.isoformat() for time in (query.start, query.end, query.as_of)]
    return digest([query.type.table, where, times, query.order, query.interval, query.revisions, *query.prefer])


def _meta(kind: RecordType, result: Result, query: Query) -> dict[str, Any]:
    rows = result.rows
    sources = rows["source"].unique().sort().to_list() if "source" in rows.columns else []
    return {
        "type": kind.name,
        "version": kind.version,
        "rows": rows.height,
        "snapshot": stamp(result.snapshot),
        "watermark": stamp(result.watermark),
        "as_of": query.as_of and stamp(query.as_of),
        "next_cursor": None,
        "sources": sources,
        "units": {name: kind.fields[name].unit for name in rows.columns if kind.fields[name].unit},
    }


def stamp(moment: datetime) -> str:
    """RFC 3339, UTC, microseconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
