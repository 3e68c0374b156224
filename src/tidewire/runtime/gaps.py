"""What is known of gaps and streams: for the processor that begins again, and for those who watch and fill them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tidewire.collect import OpenGap, Range, told_of
from tidewire.process.checks.known import FIELDS
from tidewire.process.processor import Processor
from tidewire.process.series import Hole, hole_of
from tidewire.process.steps import step_of, stretches
from tidewire.records.clock import utc
from tidewire.records.market import Instrument
from tidewire.records.ops import Gap
from tidewire.records.record import RecordType, types
from tidewire.store.cache import LatestCache
from tidewire.store.protocol import EVERYTHING, Query, Store

HOLES_LOOKED_INTO = 200
"""How many open holes, the newest, are compared with the store when the pipe begins: a read each."""

OPEN = ("open", "filling")
GAPS_READ = 1_000
"""How many open gaps of a source are looked at at once, the newest."""
DRIFT_US = 60_000_000
"""How far the times of a hole's rows may lie outside those of its neighbours: venues number and stamp in two places."""
_PAGE = 100_000

Orders = npt.NDArray[np.int64]


async def seed(processor: Processor, store: Store) -> None:
    """Give the processor what is stored: how far each series has come, and the holes that are open."""
    for kind in types().values():
        if kind.order is not None:
            processor.watch(kind).seed(await store.marks(kind))
    told = tuple(name for name in FIELDS if name in Instrument.type.schema)
    known = Query(Instrument.type, snapshot=EVERYTHING, limit=1_000_000, fields=told)
    processor.checks.learn((await store.read(known)).rows)
    query = Query(Gap.type, where={"state": OPEN}, snapshot=EVERYTHING, limit=100_000)
    found: list[tuple[RecordType, Hole]] = []
    for row in (await store.read(query)).rows.iter_rows(named=True):
        kind = types().get(row["record_type"])
        hole = hole_of(kind, row) if kind is not None else None
        if kind is not None and hole is not None:
            found.append((kind, hole))
    for left, (kind, hole) in zip(range(len(found), 0, -1), found, strict=True):
        looked = hole.first < hole.last and left <= HOLES_LOOKED_INTO
        came = await stored_of(store, kind, hole) if looked else ()
        processor.watch(kind).seed_hole(hole, came)


async def stored_of(store: Store, kind: RecordType, hole: Hole) -> Orders:
    """Which of a hole's order values are stored, ascending."""
    assert kind.order is not None
    where = {name: [str(value)] for name, value in zip(kind.series, hole.series, strict=True)}
    start, end = utc((hole.after_us - DRIFT_US) * 1_000), utc((hole.before_us + DRIFT_US) * 1_000)
    query = Query(kind, where=where, start=start, end=end, snapshot=EVERYTHING, fields=(kind.order,), limit=_PAGE)
    parts: list[Orders] = []
    while True:
        page = await store.read(query)
        parts.append(page.rows[kind.order].to_physical().drop_nulls().cast(pl.Int64).to_numpy())
        if page.next is None:
            break
        query = replace(query, after=page.next)
    orders: Orders = np.unique(np.concatenate(parts))
    return orders[(orders >= hole.first) & (orders <= hole.last)]


def missing_of(hole: Hole, stored: Orders, step: int) -> list[Range]:
    """The order values of a hole that are not stored, as ranges."""
    found: list[Range] = []
    at = hole.first
    for first, last in stretches(stored, step):
        if first > at:
            found.append((at, first - step))
        at = last + step
    if at <= hole.last:
        found.append((at, hole.last))
    return found


class StoreLedger:
    """Gaps as the store has them; ``stored`` waits until a frame is."""

    def __init__(self, store: Store, stored: Callable[[int], Awaitable[None]]) -> None:
        self._store = store
        self._stored = stored

    async def open_gaps(self, source: str, *, given_up: bool = False) -> Sequence[OpenGap]:
        """Gaps of a source that are open or being filled, newest first."""
        states = (*OPEN, "unfillable") if given_up else OPEN
        where = {"state": states, "source": (source,)}
        asked = Query(Gap.type, where, snapshot=EVERYTHING, order="desc", limit=GAPS_READ)
        rows = (await self._store.read(asked)).rows.with_columns(pl.col("event_time", "until_time").to_physical())
        return [told_of(row) for row in rows.iter_rows(named=True)]

    async def missing(self, gap: OpenGap) -> Sequence[Range] | None:
        """Which of its rows are not stored."""
        kind = types().get(gap.told.record_type)
        hole = None if kind is None else hole_of(kind, _row(gap))
        if kind is None or hole is None:
            return None
        return missing_of(hole, await stored_of(self._store, kind, hole), step_of(kind, hole.series))

    async def stored(self, sequence: int) -> None:
        """Return when everything up to this frame is stored."""
        await self._stored(sequence)


def _row(gap: OpenGap) -> dict[str, object]:
    """A gap as `hole_of` takes it; where it was shown does not matter here."""
    told = gap.told
    return {
        "source": gap.source,
        **{name: getattr(told, name) for name in told.__struct_fields__},
        "frame": 0,
        "ordinal": 0,
        "ingested_at": 0,
    }


def last_rows(cache: LatestCache, kind: str) -> dict[tuple[str, str | None], dict[str, Any]]:
    """The last row of each stream of a type by instrument and interval, times as UTC microseconds.

    Of order books, which may be stored in several depths, it is the one that came last.
    """
    rows = cache.get(types()[kind]).sort("ingested_at").with_columns(pl.col(pl.Datetime).to_physical())
    return {(row["instrument"], row.get("interval")): row for row in rows.iter_rows(named=True)}
