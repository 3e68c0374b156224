"""The processor: each collected batch becomes a processed one, with every row accounted for.

In this order: rules, clock skew, checks that reject, forming rows aside, repeats out, holes found, checks that flag.
What a batch comes to depends on the frames before it, not on how they were cut into batches. The circuit breaker
watches how many rows fail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
import polars as pl

from tidewire import telemetry
from tidewire.bus import Bus
from tidewire.process.breaker import Breaker, BreakerConfig, Flags, Ints, Turn
from tidewire.process.checks import CheckConfig, Checker, Looked
from tidewire.process.series import Hole, SeriesWatch, describe
from tidewire.process.skew import SkewWatch
from tidewire.records.batch import Batch, Fate, fates_of, fresh, gaps, joined, quarantined, rejection
from tidewire.records.clock import Clock, utc
from tidewire.records.event import Event, data_event
from tidewire.records.market import Instrument
from tidewire.records.record import RecordType

FUTURE = "future_event"
FRAME = "frame"
"""The type of a quarantined row that is a whole frame."""

_PLACE = ("source", "frame", "ordinal", "ingested_at")

_log = telemetry.log("process")
_rows = telemetry.counter("process_rows", "Rows processed, by what became of them", ("type", "fate"))
_gaps = telemetry.counter("process_gaps", "Gaps found or filled", ("type", "state"))
_checked = telemetry.counter("process_checked_rows", "Rows that were checked, good or not", ("source", "type"))
_failed = telemetry.counter("process_rule_failures", "Rows that failed a rule", ("source", "type", "rule"))


class Processor:
    """Turns collected batches into processed ones; remembers series and skews between batches."""

    def __init__(self, breaker: BreakerConfig | None = None, checks: CheckConfig | None = None) -> None:
        self.skew = SkewWatch()
        self.breaker = Breaker(breaker)
        self.checks = Checker(checks)
        self._series: dict[str, SeriesWatch] = {}

    def watch(self, kind: RecordType) -> SeriesWatch:
        """What is remembered of a type's series; seed it from the store after a restart."""
        return self._series.setdefault(kind.name, SeriesWatch(kind))

    def warm(self, batch: Batch, position: int, held: pl.DataFrame | None = None) -> None:
        """Look at frames up to ``position`` that were processed before a restart, without an outcome.

        ``held`` are the rows that went into quarantine then, by ``record_type``, ``frame`` and ``row``: a parser that
        knows more by now may find them good, but they are not stored, and what repeats them is no repeat.
        """
        kind = batch.type
        known = batch.rows["frame"] <= position
        rows = batch.rows.filter(known)
        rejected = fresh(batch.rejected)
        rejected = None if rejected is None else rejected.filter(pl.col("frame") <= position)
        connections = None if batch.connections is None else batch.connections.filter(known)
        looked = self.checks.look(kind, rows)
        wrong = None if rows.is_empty() else self._wrong(kind, rows, connections)[0] | _among(kind, rows, held)
        if looked is not None and looked.reasons and wrong is not None:
            wrong |= _refused(looked)
        for stream in _streams(kind, rows, wrong, rejected):
            self._see(*stream)
        list(self.breaker.take())  # told when it happened
        if wrong is None:
            return
        rows = rows.filter(~wrong)
        rows = rows if kind.final is None else rows.filter(pl.col(kind.final))
        self.watch(kind).remember(rows)
        if looked is not None:
            self.checks.remember(kind, looked, rows)

    def process(self, batch: Batch) -> Batch:
        """The processed batch: good rows, forming rows, rejected rows, gaps and fates of the same frames."""
        fates = Counter(batch.fates)
        before = fresh(batch.rejected)
        if before is not None:
            _count_reasons(before.select("source", "record_type", "reasons").iter_rows())
        if batch.rows.is_empty():
            self._count(batch.type, batch.rows, None, before)
            return batch.with_(connections=None)
        if batch.type is Instrument.type:
            self.checks.learn(batch.rows)
        looked = self.checks.look(batch.type, batch.rows)
        good, rejected = self._check(batch, fates, looked)
        forming, good = _split_forming(batch.type, good, fates)
        found = self.watch(batch.type).sort(good)
        if found.duplicates is not None:
            fates.update(fates_of(found.duplicates, "duplicate"))
            _rows.labels(batch.type.name, "duplicate").inc(found.duplicates.height)
        _rows.labels(batch.type.name, "good").inc(found.rows.height)
        return batch.with_(
            rows=found.rows,
            forming=forming,
            rejected=_in_order(joined(batch.rejected, rejected)),
            gaps=joined(batch.gaps, self._gap_rows(batch.type, found.holes)),
            findings=self._findings(batch, looked, found.rows),
            fates=fates,
            connections=None,
        )

    def judge(
        self, journal: str, kind: RecordType, rows: pl.DataFrame, connections: pl.Series | None
    ) -> tuple[pl.Series, list[dict[str, Any]]]:
        """Which rows fail, and the `Quarantined` rows that say why, as plain values."""
        return self._judge(journal, rows, self._wrong(kind, rows, connections), kind, self.checks.look(kind, rows))

    @staticmethod
    def _judge(
        journal: str,
        rows: pl.DataFrame,
        wrong: tuple[pl.Series, pl.Series | None],
        kind: RecordType,
        looked: Looked | None,
    ) -> tuple[pl.Series, list[dict[str, Any]]]:
        mask, future = wrong
        refused = looked.reasons if looked is not None else {}
        if looked is not None and refused:
            mask |= _refused(looked)
        if not mask.any():
            return mask, []
        early = set() if future is None else set(future.filter(mask).arg_true())
        checked = (
            {at: refused[place] for at, place in enumerate(mask.arg_true()) if place in refused} if refused else {}
        )
        return mask, _rejections(journal, kind, rows.filter(mask), early, checked)

    def _findings(self, batch: Batch, looked: Looked | None, good: pl.DataFrame) -> pl.DataFrame | None:
        if looked is None:
            return batch.findings
        return joined(batch.findings, self.checks.flags(batch.lineage.journal, batch.type, looked, good))

    def _check(
        self, batch: Batch, fates: Counter[Fate], looked: Looked | None
    ) -> tuple[pl.DataFrame, pl.DataFrame | None]:
        kind, rows = batch.type, batch.rows
        wrong = self._wrong(kind, rows, batch.connections)
        mask, rejections = self._judge(batch.lineage.journal, rows, wrong, kind, looked)
        self._count(kind, rows, mask if rejections else None, fresh(batch.rejected))
        if not rejections:
            return rows, None
        rejected = quarantined(rejections)
        _count_reasons((row["source"], kind.name, row["reasons"]) for row in rejections)
        fates.update(fates_of(rejected, "quarantined"))
        _rows.labels(kind.name, "quarantined").inc(rejected.height)
        return rows.filter(~mask), rejected

    def _count(
        self, kind: RecordType, rows: pl.DataFrame, mask: pl.Series | None, rejected: pl.DataFrame | None
    ) -> None:
        for source, name, times, failed in _streams(kind, rows, mask, rejected):
            _checked.labels(source, name).inc(len(times))
            self._see(source, name, times, failed)

    def _see(self, source: str, name: str, times: Ints, failed: Flags | None) -> None:
        self.breaker.see(source, name, times, failed)
        if name != FRAME and self.breaker.watches(source, FRAME):
            # Frames that could not be read are many or few beside all rows of those that could.
            self.breaker.see(source, FRAME, times, None)

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


def _among(kind: RecordType, rows: pl.DataFrame, held: pl.DataFrame | None) -> pl.Series:
    """Which rows are among those held, one by one or with their whole frame."""
    none = pl.Series([False]).new_from_index(0, rows.height)
    if held is None or held.is_empty():
        return none
    frames = held.filter(record_type=FRAME)["frame"].unique()
    own = held.filter(record_type=kind.name).select("frame", ordinal=pl.col("row").cast(pl.Int32)).unique()
    marked = own.with_columns(held=True)
    known = rows.select("frame", "ordinal").join(marked, on=["frame", "ordinal"], how="left", maintain_order="left")
    return known["held"].fill_null(value=False) | rows["frame"].is_in(frames.implode())


def _in_order(rejected: pl.DataFrame | None) -> pl.DataFrame | None:
    """A decision after the row it is about: of one key the later row is the newer state."""
    if rejected is None or rejected["decision_frame"].null_count() == rejected.height:
        return rejected
    return rejected.sort(pl.coalesce("decision_frame", "frame"), maintain_order=True)


def _streams(
    kind: RecordType, rows: pl.DataFrame, mask: pl.Series | None, rejected: pl.DataFrame | None
) -> Iterator[tuple[str, str, Ints, Flags | None]]:
    """What was checked, by source and type in the order of frames: receive times, and what failed (``None``: nothing).

    Of ``rows`` those in ``mask`` failed; ``rejected`` failed before.
    """
    clean = mask is None and (rejected is None or rejected.is_empty())
    if clean and rows.height and rows["source"].min() == rows["source"].max():  # almost every batch
        yield str(rows["source"][0]), kind.name, _micros(rows), None
        return
    parts = [] if rejected is None else [rejected.select(*_PLACE, type="record_type", failed=True)]
    if rows.height:
        failed = pl.Series([False]).new_from_index(0, rows.height) if mask is None else mask
        parts.append(rows.select(*_PLACE, type=pl.lit(kind.name)).with_columns(failed.alias("failed")))
    if not parts:
        return
    every = pl.concat(parts).sort("frame", "ordinal", maintain_order=True)
    for (source, name), part in every.partition_by("source", "type", as_dict=True).items():
        yield str(source), str(name), _micros(part), part["failed"].to_numpy()


def _micros(rows: pl.DataFrame) -> Ints:
    """Receive times; a view, where `to_physical` costs as much as all the rest."""
    return rows["ingested_at"].to_numpy().view(np.int64)


def _count_reasons(rejected: Iterable[tuple[Any, ...]]) -> None:
    """Count each rule that a row failed: source, type and reasons of rows on their way into quarantine."""
    for source, kind, reasons in rejected:
        for rule in msgspec.json.decode(reasons):
            _failed.labels(source, kind, rule).inc()


def _refused(looked: Looked) -> pl.Series:
    """Which rows a check rejects."""
    mask = np.zeros(looked.rows.height, dtype=np.bool_)
    mask[list(looked.reasons)] = True
    return pl.Series(mask)


def _rejections(
    journal: str, kind: RecordType, bad: pl.DataFrame, early: set[int], checked: Mapping[int, Mapping[str, str]]
) -> list[dict[str, Any]]:
    """``early`` rows come from the future; ``checked``: by place, the checks that reject a row, and what they found."""
    other = early | checked.keys()
    by_rule = [place for place in range(bad.height) if place not in other or kind.check(bad[place])[0]]
    reasons: dict[int, list[str]] = dict(zip(by_rule, kind.reasons(bad[by_rule]) if by_rule else [], strict=True))
    found: list[dict[str, Any]] = []
    for place, row in enumerate(bad.iter_rows(named=True)):
        names = [*reasons.get(place, []), *([FUTURE] if place in early else [])]
        said = {name: row.get(name.partition("|")[0]) for name in names} | dict(checked.get(place, {}))
        found.append(rejection(journal, kind.name, row, said))
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
        for turn in self._processor.breaker.take():
            self._tell(turn, batch, now)
        rejected = self._loud(fresh(batch.rejected))
        if rejected:
            trace = event.trace_id
            _log.warning("rows quarantined", type=batch.type.name, rows=rejected, trace_id=trace)
            self._bus.offer(data_event("quarantined", batch, now))
        await self._bus.publish(data_event("processed", batch, now))

    def _loud(self, rejected: pl.DataFrame | None) -> int:
        """How many rows to give notice of: not those of a stream whose breaker is open."""
        if rejected is None or not self._processor.breaker.open:
            return 0 if rejected is None else rejected.height
        streams = rejected.group_by("source", "record_type").len().iter_rows()
        return sum(rows for source, kind, rows in streams if not self._processor.breaker.is_open(source, kind))

    def _tell(self, turn: Turn, batch: Batch, now: int) -> None:
        what = "opened" if turn.opened else "closed"
        facts = {"source": turn.source, "type": turn.type, "at": utc(turn.at_us * 1_000).isoformat()}
        facts |= {"rows": turn.rows, "quarantined": turn.failed, "trace_id": batch.lineage.trace_id}
        if turn.opened:
            _log.error("quarantine breaker opened: source broken, not data", **facts)
        else:
            _log.warning("quarantine breaker closed", **facts)
        subject = f"control.quarantine.{what}"
        place = f"{batch.lineage.journal}.{batch.lineage.last}"
        name = f"{subject}.{turn.source}.{turn.type}.{place}"
        self._bus.offer(Event(name, subject, turn.source, now, 1, batch.lineage.trace_id, facts))
