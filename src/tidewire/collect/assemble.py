"""From frames to batches: the only road from bytes to rows, live and in replay.

A source's parser turns its frames into columns of plain values; the `Assembler` makes exact batches of them,
quarantines what cannot be read, counts what came in, and gives each batch its place ``(prev, last]`` in the journal.
"""

from __future__ import annotations

import itertools
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import polars as pl
import xxhash

from tidewire import telemetry
from tidewire.collect import control, decision
from tidewire.collect.decision import FRAME
from tidewire.collect.parser import Ask, Outcome, Parsed, Parser
from tidewire.errors import ParseError
from tidewire.journal import Frame, Kind
from tidewire.records.batch import (
    HOUR_US,
    Batch,
    Fate,
    Lineage,
    Stream,
    fates_of,
    fresh,
    joined,
    moved,
    quarantined,
    rejection,
)
from tidewire.records.exact import build
from tidewire.records.ops import Quarantined
from tidewire.records.record import RecordType, types

SHOWN_BYTES = 2_000
_HOUR_NS = HOUR_US * 1_000

_log = telemetry.log("collect")
_rows = telemetry.counter("parse_rows", "Rows parsed from frames", ("source", "type"))
_bad = telemetry.counter("parse_unreadable_frames", "Frames that could not be read", ("source",))


class Assembler:
    """Turns frames into batches, continuing given positions."""

    def __init__(self, journal: str, parsers: Mapping[str, Parser], lanes: int = 1) -> None:
        self._journal = journal
        self._parsers = dict(parsers)
        self._lanes = lanes
        self._positions: dict[Stream, int] = {}
        self._asks: list[tuple[str, Ask]] = []

    @property
    def parsers(self) -> Mapping[str, Parser]:
        """What turns frames into rows, by source."""
        return self._parsers

    def adopt(self, source: str, parser: Parser) -> None:
        """Parse the frames of a source by this parser from the next step on."""
        self._parsers[source] = parser

    def start(self, positions: Mapping[Stream, int], oldest: int = 1) -> int:
        """Continue these positions; returns the frame after which to read.

        A stream without a position, that of a new record type, begins with the ``oldest`` frame the journal has: its
        first batch covers the older ones too, which cannot be read here any more.
        """
        own = {stream: at for stream, at in positions.items() if stream.journal == self._journal}
        self._positions = {stream: own.get(stream, 0) for stream in self._streams()} | own
        new = [stream for stream, at in self._positions.items() if not at]
        if new and oldest > 1:
            _log.warning(
                "older frames are in the archive only; types that have no rows of them begin here",
                types=sorted({stream.type for stream in new}),
                frame=oldest,
            )
        return min((at or oldest - 1 for at in self._positions.values()), default=0)

    def step(self, frames: Sequence[Frame]) -> list[Batch]:
        """The batches of these frames, which follow those of the last step."""
        if not frames:
            return []
        built: dict[str, list[_Rows]] = {}
        chatter = _Chatter()
        for source, group in _by_source(frames).items():
            self._parse(source, group, built, chatter)
        last = frames[-1]
        batches = [batch for name, parts in built.items() for batch in self._batches(name, parts, last)]
        batches += self._chatter(chatter, last)
        return batches

    def asks(self) -> list[tuple[str, Ask]]:
        """What parsers want of their sources since the last call: the source and what it is asked for."""
        asks, self._asks = self._asks, []
        return asks

    def marks(self, last: Frame, until_ns: int = 0) -> list[Batch]:
        """Progress marks: empty batches that bring every stream to ``last``.

        With ``until_ns``, a time that no later frame is stamped before, all streams are known to be complete until
        then, also those that are at ``last`` already.
        """
        known = types()
        batches = [
            self._batch(known[stream.type], stream.lane, known[stream.type].empty(), last)
            for stream in self._streams()
            if until_ns or self._positions.get(stream, 0) < last.sequence
        ]
        if not until_ns:
            return batches
        return [batch.with_(lineage=replace(batch.lineage, until_us=until_ns // 1_000)) for batch in batches]

    def _streams(self) -> list[Stream]:
        return [Stream(self._journal, name, lane) for name in types() for lane in range(self._lanes)]

    def _parse(self, source: str, frames: list[Frame], built: dict[str, list[_Rows]], chatter: _Chatter) -> None:
        place = Place(self._journal, source)
        parser = self._parsers.get(source)
        # In the order of the journal: what a parser has learned when a decision comes must not depend on the cut.
        for kind, run in itertools.groupby(frames, key=operator.attrgetter("kind")):
            if kind is Kind.DATA:
                readings = _parse_safely(parser, place, list(run))
            else:
                readings = [redo(place, frame, parser) for frame in run]
            for reading in readings:
                for part, rows in reading.built:
                    built.setdefault(part.type.name, []).append(rows)
                    _rows.labels(source, part.type.name).inc(len(part.frames))
                for name, states in reading.states.items():
                    built.setdefault(name, []).append(_Rows.of_states(states))
                chatter.add(source, reading)
                self._asks += [(source, ask) for ask in reading.outcome.asks]

    def _batches(self, name: str, parts: list[_Rows], last: Frame) -> list[Batch]:
        whole = parts[0] if len(parts) == 1 else _concat(parts)
        kind = types()[name]
        if self._lanes == 1:
            return self._finish(kind, 0, whole, last)
        lanes = self._lanes_of(whole.rows, _lane_key(kind))
        rejected = pl.DataFrame() if whole.rejected is None else whole.rejected
        rejected_lanes = self._lanes_of(rejected, _lane_key(kind)) if rejected.height else pl.Series([], dtype=pl.Int64)
        found: list[Batch] = []
        for lane in sorted({*lanes, *rejected_lanes}):
            mine = rejected.filter(rejected_lanes == lane) if rejected.height else None
            found += self._finish(kind, lane, replace(whole.keep(lanes == lane), rejected=mine), last)
        return found

    def _lanes_of(self, rows: pl.DataFrame, column: str) -> pl.Series:
        keys = rows[column].fill_null("")
        lanes = {key: lane_of(key, self._lanes) for key in keys.unique()}
        return keys.replace_strict(lanes, return_dtype=pl.Int64)

    def _finish(self, kind: RecordType, lane: int, part: _Rows, last: Frame) -> list[Batch]:
        position = self._positions.get(Stream(self._journal, kind.name, lane), 0)
        if last.sequence <= position:
            return []
        if part.first <= position:  # a restart reads again from the slowest stream
            rejected = None if part.rejected is None else part.rejected.filter(position < _TOLD)
            part = replace(part.keep(part.rows["frame"] > position), rejected=rejected)
        batch = self._batch(kind, lane, part.rows, last)
        return [batch.with_(rejected=part.rejected, fates=part.fates(), connections=part.connections)]

    def _batch(self, kind: RecordType, lane: int, rows: pl.DataFrame, last: Frame) -> Batch:
        stream = Stream(self._journal, kind.name, lane)
        prev = self._positions.get(stream, 0)
        self._positions[stream] = last.sequence
        trace = f"{self._journal[:8]}-{last.sequence:x}"
        return Batch(kind, rows, Lineage(self._journal, lane, prev, last.sequence, last.wall_ns // 1_000, trace))

    def _chatter(self, chatter: _Chatter, last: Frame) -> list[Batch]:
        """Frames without rows and unreadable ones are accounted for on the lane of ``quarantined``."""
        stream = Stream(self._journal, Quarantined.type.name, 0)
        position = self._positions.get(stream, 0)
        fates, rejected = chatter.after(position, self._journal)
        if not fates or last.sequence <= position:
            return []
        batch = self._batch(Quarantined.type, 0, Quarantined.type.empty(), last)
        return [batch.with_(rejected=rejected, fates=fates)]


def lane_of(key: str, lanes: int) -> int:
    """The lane of an instrument (or other key); part of the storage format."""
    return xxhash.xxh3_64_intdigest(key.encode()) % lanes


def _lane_key(kind: RecordType) -> str:
    return "instrument" if "instrument" in kind.key else "source"


def _by_source(frames: Sequence[Frame]) -> dict[str, list[Frame]]:
    groups: dict[str, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(frame.origin.source, []).append(frame)
    return groups


class _Control:
    """Parses control frames."""

    def parse(self, frames: Sequence[Frame]) -> Outcome:
        return control.parse(frames[0])


@dataclass
class Reading:
    """What a parser made of frames, and the rows built of it; of a decision, the states that follow from it."""

    outcome: Outcome
    built: list[tuple[Parsed, _Rows]] = field(default_factory=list["tuple[Parsed, _Rows]"])
    states: Mapping[str, pl.DataFrame] = field(default_factory=dict[str, pl.DataFrame])
    """Newer `Quarantined` rows by the type they are about."""
    frame_states: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """The same about whole frames, as plain values."""


class Place(NamedTuple):
    """Where frames are: in which journal, of which source."""

    journal: str
    source: str


def redo(place: Place, frame: Frame, parser: Parser | None) -> Reading:
    """What a frame that is no data comes to: the gaps of a control frame, the rows and states of a decision."""
    if frame.kind is Kind.CONTROL:
        return _parse_safely(_Control(), place, [frame])[0]
    try:
        decided = decision.decode(frame)
    except ParseError as error:
        return Reading(Outcome(unreadable=[(frame, str(error))]))
    unknown = {target.record_type for target in decided.targets} - {FRAME, *types()}
    if unknown:
        return Reading(Outcome(unreadable=[(frame, f"no record type {', '.join(sorted(unknown))} is loaded")]))
    if decided.copied is None or decided.act == "reject":
        reading = Reading(Outcome(control=[frame]))
    else:
        again = decision.copied_into(frame, decided.copied)
        original = _Control() if decided.copied.kind == Kind.CONTROL else parser
        retry = None if original is None else decision.Retry(decided, decided.copied, original)
        reading = _parse_safely(retry, place, [again])[0]
    states = decided.states(place.source, place.journal, frame)
    by_type: dict[str, list[dict[str, Any]]] = {}
    for state in states:
        by_type.setdefault(state["record_type"], []).append(state)
    reading.frame_states = by_type.pop(FRAME, [])
    reading.states = {name: quarantined(rows) for name, rows in by_type.items()}
    return reading


def _parse_safely(parser: Parser | None, place: Place, frames: list[Frame]) -> list[Reading]:
    """A parser that raises, or gives what fits no column, is a bug; its frames are quarantined, the rest goes on."""
    if parser is None:
        return [
            Reading(
                Outcome(unreadable=[(frame, f"no parser for source {place.source!r} is loaded") for frame in frames])
            )
        ]
    try:
        outcome = parser.parse(frames)
        return [Reading(outcome, [(part, _rows_of(place, part)) for part in outcome.parsed if part.frames])]
    except Exception as error:
        if len(frames) == 1:
            _log.exception("parser failed", source=place.source, frame=frames[0].sequence)
            return [Reading(Outcome(unreadable=[(frames[0], f"{type(error).__name__}: {error}")]))]
    middle = len(frames) // 2
    return _parse_safely(parser, place, frames[:middle]) + _parse_safely(parser, place, frames[middle:])


@dataclass
class _Rows:
    """Built rows of one type, with the connection of each and the ones that were not exact."""

    rows: pl.DataFrame
    connections: pl.Series
    rejected: pl.DataFrame | None

    @classmethod
    def of_states(cls, states: pl.DataFrame) -> _Rows:
        """No rows of a type, only decisions about some."""
        kind = types()[states["record_type"][0]]
        return cls(kind.empty(), pl.Series("connection", [], dtype=pl.String), states)

    @property
    def first(self) -> int:
        """The first frame that any of it is from."""
        # Rejected rows of several parts are not in order.
        told = None if self.rejected is None else self.rejected.select(_TOLD).to_series()
        frames = [part for part in (self.rows["frame"], told) if part is not None and len(part)]
        return min(int(frame.min()) for frame in frames)  # pyright: ignore[reportArgumentType]

    def keep(self, mask: pl.Series) -> _Rows:
        return _Rows(self.rows.filter(mask), self.connections.filter(mask), self.rejected)

    def fates(self) -> Counter[Fate]:
        """Every parsed row is received; those that were not exact are quarantined already; decisions move some."""
        counted = fates_of(self.rows, "received")
        rejected = fresh(self.rejected)
        if self.rejected is not None and rejected is not None:
            counted += fates_of(rejected, "received") + fates_of(rejected, "quarantined")
            counted.update(moved(self.rejected))
        return counted


_TOLD = pl.coalesce("decision_frame", "frame")
"""The frame of this journal that a `Quarantined` row is from: where it was quarantined, or decided about."""


def _rows_of(place: Place, part: Parsed) -> _Rows:
    frames = part.frames
    sequences = [frame.sequence for frame in frames]
    times = [frame.wall_ns // 1_000 for frame in frames]
    columns: dict[str, Any] = {"ingested_at": times, **part.columns, "source": place.source, "frame": sequences}
    columns["ordinal"] = part.ordinals or [0] * len(frames)
    built = build(part.type, columns, len(frames))
    requests = [None if part.past else frame.origin.request for frame in frames]
    connections = pl.Series("connection", requests, dtype=pl.String)
    bad = {index: dict(found) for index, found in part.wrong.items()}
    for index, found in built.not_exact.items():
        bad.setdefault(index, {}).update(found)
    if not bad:
        return _Rows(built.rows, connections, None)
    rejected = [
        rejection(place.journal, part.type.name, built.rows.row(index, named=True), {"not_exact": found})
        for index, found in sorted(bad.items())
    ]
    good = pl.Series([index not in bad for index in range(len(frames))])
    return _Rows(built.rows.filter(good), connections.filter(good), quarantined(rejected))


def _concat(parts: list[_Rows]) -> _Rows:
    """Rows of several sources or endpoints in one order: that of the journal."""
    rows = pl.concat([part.rows for part in parts])
    order = rows.select(pl.arg_sort_by("frame", "ordinal")).to_series()
    connections = pl.concat([part.connections for part in parts])
    return _Rows(
        rows[order],
        connections.gather(order),
        joined(*(part.rejected for part in parts)),
    )


class _Chatter:
    """Frames that came to no rows, and decisions about such."""

    def __init__(self) -> None:
        self._rowless: dict[str, list[tuple[str, Frame]]] = {"control": [], "folded": [], "filtered": []}
        self._unreadable: list[tuple[str, Frame, str]] = []
        self._states: list[dict[str, Any]] = []

    def add(self, source: str, reading: Reading) -> None:
        self._rowless["control"] += [(source, frame) for frame in reading.outcome.control]
        self._rowless["folded"] += [(source, frame) for frame in reading.outcome.folded]
        self._rowless["filtered"] += [(source, frame) for frame in reading.outcome.filtered]
        for frame, why in reading.outcome.unreadable:
            self._unreadable.append((source, frame, why))
            _bad.labels(source).inc()
        self._states += reading.frame_states

    def after(self, position: int, journal: str) -> tuple[Counter[Fate], pl.DataFrame | None]:
        fates: Counter[Fate] = Counter()
        for fate, frames in self._rowless.items():
            hours = Counter(
                (source, frame.wall_ns // _HOUR_NS) for source, frame in frames if frame.sequence > position
            )
            for (source, hour), count in hours.items():
                fates[Fate(source, hour * HOUR_US, "received")] += count
                fates[Fate(source, hour * HOUR_US, fate)] += count
        rejected: list[dict[str, Any]] = []
        for source, frame, why in self._unreadable:
            if frame.sequence > position:
                hour = frame.wall_ns // 1_000 // HOUR_US * HOUR_US
                fates[Fate(source, hour, "received")] += 1
                fates[Fate(source, hour, "quarantined")] += 1
                rejected.append(_unreadable(Place(journal, source), frame, why))
        rejected += [state for state in self._states if state["decision_frame"] > position]
        if not rejected:
            return fates, None
        rows = quarantined(rejected)
        fates.update(moved(rows))
        return fates, rows


def _unreadable(place: Place, frame: Frame, why: str) -> dict[str, Any]:
    row = {"source": place.source, "frame": frame.sequence, "ordinal": 0, "ingested_at": frame.wall_ns // 1_000}
    shown = frame.payload[:SHOWN_BYTES].decode("utf-8", "replace")
    row |= {"collector": frame.origin.collector, "begins": shown}
    return rejection(place.journal, FRAME, row, {"unreadable": why})
