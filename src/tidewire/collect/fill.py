"""Filling gaps: what is missing is asked for again, behind everything live, and only what is stored counts as filled.

A gap is a row in the store. Each App that can ask for the past has a `Filler`: it looks at the open gaps, newest first,
asks the store which of their rows are really missing, lets the App ask the source for those, waits until the replies
are stored, and looks again. The processor marks a gap as filled when its last missing row came; what it cannot know
(the source has nothing, or answered without some rows) the filler writes into the journal as the gap's newer state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from tidewire import telemetry
from tidewire.bus import Full, Subscription
from tidewire.collect import control
from tidewire.errors import RateLimited, TerminalError
from tidewire.journal import Kind, Origin
from tidewire.records.event import Event
from tidewire.records.ops import Gap

if TYPE_CHECKING:
    from tidewire.collect.app import App

POLL_S = 30.0
"""How often the open gaps are looked at when nothing points at new ones."""
RETRY_S = 5.0
RETRY_S_MAX = 600.0
ANSWERS = 3
"""A source that answered so often without a row does not have it."""
MOST_ROWS = 10_000_000

REQUEST = "control.gap.fill"
"""The subject on which anyone may ask for gaps to be filled, also for those that were given up."""

FILLING = "control.gap.filling"

_log = telemetry.log("collect")
_fills = telemetry.counter("gap_fills", "Attempts to fill the gaps of a series, by outcome", ("source", "outcome"))
_open = telemetry.gauge("gaps_open", "Gaps that are open or being filled, as far as they were looked at", ("source",))

Range = tuple[int, int]
"""First and last missing order value: sequences, or opening times of bars in UTC microseconds."""


@dataclass(frozen=True)
class OpenGap:
    """A gap of a source, as it was last told."""

    source: str
    told: control.GapTold

    @property
    def series(self) -> tuple[str, str, str | None]:
        """What it is a gap of: record type, instrument, interval."""
        return self.told.record_type, self.told.instrument, self.told.series

    @property
    def name(self) -> tuple[str, str, str]:
        """What tells it from all other gaps of its source."""
        return self.told.record_type, self.told.instrument, self.told.gap_id


@dataclass(frozen=True)
class Missing:
    """What an App is to ask for: the missing ``ranges`` of one series, ascending.

    ``start_us`` and ``end_us`` bound the event times of all that is missing, UTC microseconds, both inclusive.
    """

    record_type: str
    instrument: str
    series: str | None
    ranges: tuple[Range, ...]
    start_us: int
    end_us: int


class GapLedger(Protocol):
    """What is known of gaps: the store, and how far it is."""

    async def open_gaps(self, source: str, *, given_up: bool = False) -> Sequence[OpenGap]:
        """Gaps of a source that are open or being filled, newest first; ``given_up``: also the unfillable ones."""
        ...

    async def missing(self, gap: OpenGap) -> Sequence[Range] | None:
        """Which of its rows are not stored; ``None`` for a gap that no order value can tell the rows of."""
        ...

    async def stored(self, sequence: int) -> None:
        """Return when everything up to this frame is stored."""
        ...


@dataclass
class _Try:
    answers: int = 0
    failures: int = 0
    not_before_ns: int = 0


class Filler:
    """Fills the gaps of one App, one series at a time, until cancelled."""

    def __init__(self, app: App, ledger: GapLedger, settle_s: float = 1.0) -> None:
        self._app = app
        self._ledger = ledger
        self._settle_s = settle_s
        self._hint = asyncio.Event()
        self._again = False
        self._tries: dict[tuple[str, str, str | None], _Try] = {}

    async def run(self) -> None:
        """Look at the open gaps whenever one is found, and every `POLL_S`."""
        bus, clock = self._app.context.bus, self._app.context.clock
        subscriptions: list[Subscription] = [
            bus.subscribe("data.*.processed", self._look, full=Full.DROP_OLDEST, name="gaps"),
            bus.subscribe(REQUEST, self._asked, full=Full.DROP_OLDEST, name="gap requests"),
        ]
        try:
            while True:
                # A message that is late by a moment closes its hole itself.
                await clock.sleep(self._settle_s)
                again, self._again = self._again, False
                self._hint.clear()
                await self._round(given_up=again)
                await self._wait(clock.sleep(self._pause_s()))
        finally:
            for subscription in subscriptions:
                bus.unsubscribe(subscription)
            _open.labels(self._app.name).set(0)

    def _look(self, event: Event) -> None:
        batch = event.batch
        if (batch.gaps is not None and batch.gaps.height) or (batch.type is Gap.type and batch.rows.height):
            self._hint.set()

    def _asked(self, event: Event) -> None:
        if event.facts.get("source") in (None, self._app.name):
            self._tries.clear()
            self._again = True
            self._hint.set()

    async def _wait(self, pause: Any) -> None:
        hint, sleep = asyncio.ensure_future(self._hint.wait()), asyncio.ensure_future(pause)
        try:
            await asyncio.wait((hint, sleep), return_when=asyncio.FIRST_COMPLETED)
        finally:
            hint.cancel()
            sleep.cancel()

    def _pause_s(self) -> float:
        """Until the next attempt that was put off, at most `POLL_S`."""
        now = self._app.context.clock.mono_ns()
        waits = [(each.not_before_ns - now) / 1e9 for each in self._tries.values() if each.not_before_ns > now]
        return max(0.0, min([POLL_S, *waits]))

    async def _round(self, *, given_up: bool) -> None:
        try:
            found = await self._ledger.open_gaps(self._app.name, given_up=given_up)
        except Exception as error:
            _log.warning("gaps cannot be read; trying again", source=self._app.name, error=str(error))
            return
        _open.labels(self._app.name).set(len(found))
        gaps = [gap for gap in found if not self._app.mends(gap.told)]
        by_series: dict[tuple[str, str, str | None], list[OpenGap]] = {}
        for gap in gaps:
            by_series.setdefault(gap.series, []).append(gap)
        self._tries = {name: known for name, known in self._tries.items() if name in by_series}
        for name, some in by_series.items():
            attempt = self._tries.setdefault(name, _Try())
            if attempt.not_before_ns > self._app.context.clock.mono_ns():
                continue
            try:
                outcome = await self._fill(some, attempt)
            except Exception as error:
                outcome = self._failed(name, attempt, error)
            _fills.labels(self._app.name, outcome).inc()

    async def _fill(self, gaps: Sequence[OpenGap], attempt: _Try) -> str:
        """One attempt at the gaps of one series; what came of it."""
        if not self._app.fills(gaps[0].told.record_type):
            await self._give_up(_not_yet(gaps), f"{self._app.name} has no past {gaps[0].told.record_type} to ask for")
            return "unfillable"
        before = await self._askable(gaps)
        wanted = _merged(before)
        if wanted is not None:
            await self._tell([(gap, "filling", _count(gap, ranges), None) for gap, ranges in before if ranges])
            self._app.tell(FILLING, {"instrument": wanted.instrument, "record_type": wanted.record_type})
            try:
                last = await self._app.fill(wanted)
            except TerminalError as error:
                await self._give_up([gap for gap, ranges in before if ranges], str(error))
                return "unfillable"
            await self._ledger.stored(last)
        after = await self._missing([gap for gap, _ in before])
        # The processor says itself that a hole is closed, unless a restart made it forget the hole.
        unsaid = {gap.name for gap in await self._ledger.open_gaps(self._app.name, given_up=True)}
        left = [(gap, ranges) for gap, ranges in after if ranges and gap.name in unsaid]
        filled = [gap for gap, ranges in after if not ranges and gap.name in unsaid]
        await self._tell([(gap, "filled", 0, "all that was missing is stored") for gap in filled])
        if not left:
            self._tries.pop(gaps[0].series, None)
            return "filled" if after else "unfillable"
        attempt.answers += 1
        if attempt.answers >= ANSWERS:
            count = sum(_count(gap, ranges) for gap, ranges in left)
            await self._give_up([gap for gap, _ in left], f"the source answered {ANSWERS} times without {count} rows")
            return "unfillable"
        self._put_off(attempt, attempt.answers)
        return "incomplete"

    async def _askable(self, gaps: Sequence[OpenGap]) -> list[tuple[OpenGap, Sequence[Range]]]:
        """What is missing; a hole without end is no loss but a venue that numbers anew, and is given up."""
        found: list[tuple[OpenGap, Sequence[Range]]] = []
        for gap, ranges in await self._missing(gaps):
            if _count(gap, ranges) <= MOST_ROWS:
                found.append((gap, ranges))
            else:
                await self._give_up([gap], f"over {MOST_ROWS:,} rows: the venue seems to have numbered anew")
        return found

    async def _missing(self, gaps: Sequence[OpenGap]) -> list[tuple[OpenGap, Sequence[Range]]]:
        found: list[tuple[OpenGap, Sequence[Range]]] = []
        for gap in gaps:
            ranges = await self._ledger.missing(gap)
            if ranges is None:
                await self._give_up(_not_yet([gap]), "nothing tells which rows are missing")
            else:
                found.append((gap, ranges))
        return found

    async def _give_up(self, gaps: Sequence[OpenGap], why: str) -> None:
        await self._tell([(gap, "unfillable", gap.told.missing, why) for gap in gaps])

    async def _tell(self, states: Sequence[tuple[OpenGap, str, int | None, str | None]]) -> None:
        """Write newer states into the journal, those that are news, and wait until they are stored."""
        journal, last = self._app.context.journal, 0
        for gap, state, missing, detail in states:
            told = msgspec.structs.replace(gap.told, state=state, missing=missing, detail=detail)
            if told != gap.told:
                origin = Origin(gap.source, "gaps", "")
                last = journal.append(origin, control.encode(told), kind=Kind.CONTROL)
        if last:
            await journal.accept(last)
            await self._ledger.stored(last)

    def _failed(self, name: tuple[str, str, str | None], attempt: _Try, error: Exception) -> str:
        attempt.failures += 1
        wait_s = self._put_off(attempt, attempt.failures)
        if isinstance(error, RateLimited):
            attempt.not_before_ns += round(error.retry_after * 1e9)
        _log.warning(
            "gap not filled; trying again", source=self._app.name, series=name, error=str(error), wait_s=wait_s
        )
        return "failed"

    def _put_off(self, attempt: _Try, times: int) -> float:
        context = self._app.context
        longest = min(RETRY_S_MAX, RETRY_S * 2.0 ** min(times - 1, 20))
        wait_s = context.rng.uniform(longest / 2, longest)
        attempt.not_before_ns = context.clock.mono_ns() + round(wait_s * 1e9)
        return wait_s


def _not_yet(gaps: Sequence[OpenGap]) -> list[OpenGap]:
    """Those that are not given up; what was said of the others stays."""
    return [gap for gap in gaps if gap.told.state != "unfillable"]


def _count(gap: OpenGap, ranges: Sequence[Range]) -> int:
    """How many rows the ranges hold; a bar's length is known from the gap itself."""
    told = gap.told
    if told.first_sequence is not None:
        return sum(last - first + 1 for first, last in ranges)
    whole = told.missing or 1
    step = max(1, (told.until_time - told.event_time) // whole)
    return sum((last - first) // step + 1 for first, last in ranges)


def _merged(missing: Sequence[tuple[OpenGap, Sequence[Range]]]) -> Missing | None:
    """What is missing of all gaps of a series together; ``None`` when that is nothing."""
    some = [(gap, ranges) for gap, ranges in missing if ranges]
    if not some:
        return None
    kind, instrument, series = some[0][0].series
    return Missing(
        record_type=kind,
        instrument=instrument,
        series=series,
        ranges=tuple(sorted({each for _, ranges in some for each in ranges})),
        start_us=min(gap.told.event_time for gap, _ in some),
        end_us=max(gap.told.until_time for gap, _ in some),
    )


def told_of(row: Mapping[str, Any]) -> OpenGap:
    """A gap from its row, times as UTC microseconds."""
    fields = control.GapTold.__struct_fields__
    return OpenGap(row["source"], control.GapTold(**{name: row[name] for name in fields}))
