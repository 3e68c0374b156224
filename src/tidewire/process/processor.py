"""The processor: each collected batch becomes a processed one, with every row accounted for.

In this order: rules, clock skew, forming rows aside, repeats out, holes found. What a batch comes to depends on the
frames before it, not on how they were cut into batches.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import polars as pl

from tidewire import telemetry
from tidewire.bus import Bus
from tidewire.process.series import Hole, SeriesWatch, describe
from tidewire.process.skew import SkewWatch
from tidewire.records.batch import Batch, Fate, fates_of, gaps, joined, quarantined, rejection
from tidewire.records.clock import Clock
from tidewire.records.event import Event, data_event
from tidewire.records.record import RecordType

FUTURE = "future_event"

_log = telemetry.log("process")
_rows = telemetry.counter("process_rows", "Rows processed, by what became of them", ("type", "fate"))
_gaps = telemetry.counter("process_gaps", "Gaps found or filled", ("type", "state"))
_failed = telemetry.counter("process_rule_failures", "Rows that failed a rule", ("type", "rule"))


class Processor:
    """Turns collected batches into processed ones; remembers series and skews between batches."""

    def __init__(self) -> None:
        self.skew = SkewWatch()
        self._series: dict[str, SeriesWatch] = {}

    def watch(self, kind: RecordType) -> SeriesWatch:
        """What is remembered of a type's series; seed it from the store after a restart."""
        return self._series.setdefault(kind.name, SeriesWatch(kind))

    def warm(self, batch: Batch, position: int) -> None:
        """Look at frames up to ``position`` that were processed before a restart, without an outcome."""
        kind = batch.type
        known = batch.rows["frame"] <= position
        rows = batch.rows.filter(known)
        if rows.is_empty():
            return
        connections = None if batch.connections is None else batch.connections.filter(known)
        wrong, _ = self._wrong(kind, rows, connections)
        rows = rows.filter(~wrong)
        self.watch(kind).remember(rows if kind.final is None else rows.filter(pl.col(kind.final)))

    def process(self, batch: Batch) -> Batch:
        """The processed batch: good rows, forming rows, rejected rows, gaps and fates of the same frames."""
        fates = Counter(batch.fates)
        if batch.rows.is_empty():
            return batch.with_(connections=None)
        good, rejected = self._check(batch, fates)
        forming, good = _split_forming(batch.type, good, fates)
        found = self.watch(batch.type).sort(good)
        if found.duplicates is not None:
            fates += fates_of(found.duplicates, "duplicate")
            _rows.labels(batch.type.name, "duplicate").inc(found.duplicates.height)
        _rows.labels(batch.type.name, "good").inc(found.rows.height)
        return batch.with_(
            rows=found.rows,
            forming=forming,
            rejected=joined(batch.rejected, rejected),
            gaps=joined(batch.gaps, self._gap_rows(batch.type, found.holes)),
            fates=fates,
            connections=None,
        )

    def _check(self, batch: Batch, fates: Counter[Fate]) -> tuple[pl.DataFrame, pl.DataFrame | None]:
        kind, rows = batch.type, batch.rows
        mask, future = self._wrong(kind, rows, batch.connections)
        if not mask.any():
            return rows, None
        bad = rows.filter(mask)
        early = set() if future is None else set(future.filter(mask).arg_true())
        rejected = _rejections(batch.lineage.journal, kind, bad, early)
        fates += fates_of(bad, "quarantined")
        _rows.labels(kind.name, "quarantined").inc(bad.height)
        return rows.filter(~mask), quarantined(rejected)

    def _wrong(
        self, kind: RecordType, rows: pl.DataFrame, connections: pl.Series | None
    ) -> tuple[pl.Series, pl.Series | None]:
        """Which rows fail, and which of these because they come from the future (``None``: none do)."""
        mask = kind.check(rows) > 0
        if not kind.instant or connections is None:
            return mask, None
        future = self.skew.future(kind.name, rows, connections)
        return mask if future is None else mask | future, future

    def _gap_rows(self, kind: RecordType, holes: list[Hole]) -> pl.DataFrame | None:
        if not holes:
            return None
        for hole in holes:
            _gaps.labels(kind.name, hole.state).inc()
        return gaps([dict(describe(kind, hole)) for hole in holes])


def _rejections(journal: str, kind: RecordType, bad: pl.DataFrame, early: set[int]) -> list[dict[str, Any]]:
    by_rule = [place for place in range(bad.height) if place not in early or kind.check(bad[place])[0]]
    reasons: dict[int, list[str]] = dict(zip(by_rule, kind.reasons(bad[by_rule]) if by_rule else [], strict=True))
    found: list[dict[str, Any]] = []
    for place, row in enumerate(bad.iter_rows(named=True)):
        names = [*reasons.get(place, []), *([FUTURE] if place in early else [])]
        for name in names:
            _failed.labels(kind.name, name).inc()
        found.append(rejection(journal, kind.name, row, {name: row.get(name.partition("|")[0]) for name in names}))
    return found


def _split_forming(
    kind: RecordType, rows: pl.DataFrame, fates: Counter[Fate]
) -> tuple[pl.DataFrame | None, pl.DataFrame]:
    """Rows that are not final are folded into the final one that follows."""
    if kind.final is None or rows[kind.final].all():
        return None, rows
    forming = rows.filter(~pl.col(kind.final))
    fates += fates_of(forming, "folded")
    return forming, rows.filter(pl.col(kind.final))


class ProcessStage:
    """Runs a processor on the bus: ``data.*.collected`` in, ``data.*.processed`` and ``data.*.quarantined`` out."""

    def __init__(self, bus: Bus, processor: Processor, clock: Clock) -> None:
        self._bus = bus
        self._processor = processor
        self._clock = clock

    async def take(self, event: Event) -> None:
        """Process one collected batch and publish what came of it."""
        batch = self._processor.process(event.batch)
        now = self._clock.wall_ns()
        if batch.rejected is not None and batch.rejected.height:
            trace = event.trace_id
            _log.warning("rows quarantined", type=batch.type.name, rows=batch.rejected.height, trace_id=trace)
            self._bus.offer(data_event("quarantined", batch, now))
        await self._bus.publish(data_event("processed", batch, now))
