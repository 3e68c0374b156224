"""The filler: what is missing is asked for, and what came of it is written down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidewire.collect import Filler, Missing, OpenGap, Range, control
from tidewire.collect.fill import ANSWERS, FILLING, POLL_S, REQUEST
from tidewire.errors import RateLimited, TerminalError, TransientError
from tidewire.journal import Kind
from tidewire.records.batch import Batch, Lineage, gaps
from tidewire.records.clock import ManualClock
from tidewire.records.event import data_event, notice
from tidewire.records.market import Trade
from unit.collect.kit import Place, ToyApp, place, toy, until


def gap(first: int, last: int, **more: Any) -> OpenGap:
    facts = {"instrument": "BTC-USDT.X", "record_type": "trade", "gap_id": str(first), "cause": "sequence"}
    facts |= {"state": "open", "event_time": first, "until_time": last + 1, "first_sequence": first}
    facts |= {"last_sequence": last, "missing": last - first + 1}
    return OpenGap("toy", control.GapTold(**{**facts, **more}))


@dataclass
class Ledger:
    """A store of gaps: rows that were asked for come when `arrive` says so."""

    gaps: dict[str, OpenGap]
    have: set[int] = field(default_factory=set[int])
    waited_for: list[int] = field(default_factory=list[int])
    told: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    place: Place | None = None

    async def open_gaps(self, source: str, *, given_up: bool = False) -> Sequence[OpenGap]:
        states = {"open", "filling", "unfillable"} if given_up else {"open", "filling"}
        return [each for each in self.gaps.values() if each.told.state in states and each.source == source]

    async def missing(self, gap: OpenGap) -> Sequence[Range] | None:
        if gap.told.first_sequence is None:
            return None
        wanted = range(gap.told.first_sequence, (gap.told.last_sequence or 0) + 1)
        return [(number, number) for number in wanted if number not in self.have]

    async def stored(self, sequence: int) -> None:
        """As the pipe does: gaps that control frames tell of get their newer state."""
        self.waited_for.append(sequence)
        assert self.place is not None
        for frame in self.place.frames():
            if frame.kind is Kind.CONTROL:
                act = msgspec.json.decode(frame.payload, type=control.Act)
                assert isinstance(act, control.GapTold)
                self.gaps[act.gap_id] = OpenGap(frame.origin.source, act)

    def states(self) -> dict[str, str]:
        return {name: each.told.state for name, each in self.gaps.items()}


class Past(ToyApp):
    """Has a past of trades; ``answers`` are what each attempt brings."""

    answers: list[Any]
    asked: list[Missing]
    ledger: Ledger

    def fills(self, record_type: str) -> bool:
        return record_type == "trade"

    async def fill(self, missing: Missing) -> int:
        self.asked.append(missing)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        self.ledger.have |= set(answer)
        return 7


@asynccontextmanager
async def filling(
    directory: Path, ledger: Ledger, answers: list[Any], *, past: bool = True
) -> AsyncIterator[tuple[Place, Past, ManualClock]]:
    clock = ManualClock()
    async with place(directory, clock) as here:
        app = toy(here)
        if past:
            app.__class__ = Past
        assert isinstance(app, ToyApp)
        app.answers, app.asked, app.ledger = answers, [], ledger  # type: ignore[attr-defined]
        ledger.place = here
        task = asyncio.create_task(Filler(app, ledger).run())
        await asyncio.sleep(0)
        try:
            yield here, app, clock  # type: ignore[misc]
            assert not task.done(), task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})


async def told(here: Place, count: int) -> list[control.GapTold]:
    """The states written so far, once there are so many."""
    await until(lambda: sum(frame.kind is Kind.CONTROL for frame in here.frames()) >= count, f"{count} states")
    acts = [msgspec.json.decode(f.payload, type=control.Act) for f in here.frames() if f.kind is Kind.CONTROL]
    return [act for act in acts if isinstance(act, control.GapTold)]


async def test_what_is_missing_is_asked_for_at_once_and_found_filled(tmp_path: Path) -> None:
    ledger = Ledger({"10": gap(10, 12), "20": gap(20, 20)}, have={11})
    async with filling(tmp_path, ledger, [[10, 12, 20]]) as (here, app, clock):
        await clock.advance(1.0)
        states = await told(here, 4)
        assert [(act.gap_id, act.state, act.missing) for act in states] == [
            ("10", "filling", 2),
            ("20", "filling", 1),
            ("10", "filled", 0),
            ("20", "filled", 0),
        ]
        await until(lambda: set(ledger.states().values()) == {"filled"}, "both stored as filled")
    (asked,) = app.asked
    assert asked.ranges == ((10, 10), (12, 12), (20, 20))
    assert (asked.record_type, asked.instrument, asked.start_us, asked.end_us) == ("trade", "BTC-USDT.X", 10, 21)
    assert 7 in ledger.waited_for, "it looked again only when the replies were stored"
    assert FILLING in here.subjects()


async def test_gaps_of_two_instruments_may_have_one_id(tmp_path: Path) -> None:
    """What the processor has said already is not said again because another instrument's gap is open."""
    done = gap(10, 10)
    ledger = Ledger({"10": done, "other": gap(10, 10, instrument="ETH-USDT.X")})

    class Said(Ledger):
        async def stored(self, sequence: int) -> None:
            await super().stored(sequence)
            if 10 in self.have:
                self.gaps.pop("10", None)  # the processor saw it close

    ledger.__class__ = Said
    refusal = TransientError("busy")
    async with filling(tmp_path, ledger, [[10], refusal]) as (here, app, clock):
        await clock.advance(1.0)
        await until(lambda: len(app.asked) == 1, "asked")
        await here.journal.drain()
        told_of = [act.instrument for act in await told(here, 1) if act.state == "filled"]
        assert told_of.count("BTC-USDT.X") == 0


async def test_nothing_is_asked_when_all_came_by_itself(tmp_path: Path) -> None:
    ledger = Ledger({"10": gap(10, 12)}, have={10, 11, 12})
    async with filling(tmp_path, ledger, []) as (here, app, clock):
        await clock.advance(1.0)
        (state,) = await told(here, 1)
        assert (state.state, state.missing) == ("filled", 0)
        assert app.asked == []


async def test_a_late_row_has_a_moment_to_come(tmp_path: Path) -> None:
    ledger = Ledger({"10": gap(10, 10)})
    async with filling(tmp_path, ledger, [[10]]) as (here, app, clock):
        await clock.advance(0.9)
        assert here.frames() == []
        assert app.asked == []


async def test_a_source_without_a_past_gives_up(tmp_path: Path) -> None:
    ledger = Ledger({"10": gap(10, 10)})
    async with filling(tmp_path, ledger, [], past=False) as (here, _, clock):
        await clock.advance(1.0)
        (state,) = await told(here, 1)
        assert (state.state, state.missing) == ("unfillable", 1)
        assert state.detail == "toy has no past trade to ask for"


async def test_a_gap_that_its_collector_mends_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyApp, "mends", lambda _, told: told.cause == "total")
    ledger = Ledger({"7": gap(7, 9, cause="total"), "10": gap(10, 10)})
    async with filling(tmp_path, ledger, [], past=False) as (here, _, clock):
        await clock.advance(1.0)
        (state,) = await told(here, 1)
        assert state.gap_id == "10"
        assert ledger.states()["7"] == "open"


async def test_a_refusal_gives_up_and_says_why(tmp_path: Path) -> None:
    ledger = Ledger({"10": gap(10, 10)})
    async with filling(tmp_path, ledger, [TerminalError("no longer listed")]) as (here, _, clock):
        await clock.advance(1.0)
        states = await told(here, 2)
        assert [(act.state, act.detail) for act in states] == [("filling", None), ("unfillable", "no longer listed")]


async def test_rows_the_source_does_not_have_are_given_up_after_some_answers(tmp_path: Path) -> None:
    ledger = Ledger({"10": gap(10, 12)})
    async with filling(tmp_path, ledger, [[10], [], []]) as (here, app, clock):
        await clock.advance(1.0)
        await until(lambda: len(app.asked) == 1, "the first attempt")
        while len(app.asked) < ANSWERS:
            count = len(app.asked)
            await until(lambda: clock.sleepers > 0, "it waits")
            await clock.advance(1.0)
            assert len(app.asked) <= count + 1
        states = await told(here, 3)
        assert states[-1].state == "unfillable"
        assert states[-1].detail == f"the source answered {ANSWERS} times without 2 rows"
        assert [act.missing for act in states if act.state == "filling"] == [3, 2]


@pytest.mark.parametrize("error", [TransientError("busy"), RateLimited("slow down", 60.0), ValueError("odd")])
async def test_an_attempt_that_failed_is_made_again_later(tmp_path: Path, error: Exception) -> None:
    ledger = Ledger({"10": gap(10, 10)})
    async with filling(tmp_path, ledger, [error, [10]]) as (here, app, clock):
        await clock.advance(1.0)
        await until(lambda: len(app.asked) == 1, "the first attempt")
        await until(lambda: clock.sleepers > 0, "it waits")
        await clock.advance(0.5)
        assert len(app.asked) == 1
        if isinstance(error, RateLimited):
            await clock.advance(50)
            assert len(app.asked) == 1, "it stays away as long as it was asked to"
        for _ in range(30):
            await clock.advance(1.0)
        await until(lambda: ledger.states()["10"] == "filled", "filled")
        assert [act.state for act in await told(here, 2)] == ["filling", "filled"]


async def test_a_gap_found_is_looked_at_soon(tmp_path: Path) -> None:
    ledger = Ledger({})
    async with filling(tmp_path, ledger, [[10]]) as (here, app, clock):
        await clock.advance(1.0)
        await until(lambda: clock.sleepers > 0, "it rests")
        ledger.gaps["10"] = gap(10, 10)
        row = {"source": "toy", "instrument": "BTC-USDT.X", "record_type": "trade", "gap_id": "10"}
        batch = Batch(Trade.type, Trade.type.empty(), Lineage("j", 0, 0, 1, 0, "t"), gaps=gaps([row]))
        await here.bus.publish(data_event("processed", batch, 0))
        await until(lambda: clock.sleepers > 0, "it takes a moment")
        for _ in range(5):
            await clock.advance(0.5)
        await until(lambda: len(app.asked) == 1, "asked")


async def test_without_a_hint_it_looks_now_and_then(tmp_path: Path) -> None:
    ledger = Ledger({})
    async with filling(tmp_path, ledger, [[10]]) as (_, app, clock):
        await clock.advance(1.0)
        ledger.gaps["10"] = gap(10, 10)
        await until(lambda: clock.sleepers > 0, "it rests")
        await clock.advance(POLL_S / 2)
        assert app.asked == []
        await clock.advance(POLL_S)
        await until(lambda: len(app.asked) == 1, "asked")


async def test_what_was_given_up_is_tried_again_on_request(tmp_path: Path) -> None:
    ledger = Ledger({"10": gap(10, 10, state="unfillable")})
    async with filling(tmp_path, ledger, [[10]]) as (here, app, clock):
        await clock.advance(2.0)
        assert app.asked == []
        await here.bus.publish(notice(REQUEST, "test", {"source": "other"}, clock, here.context.rng))
        await clock.advance(2.0)
        assert app.asked == []
        await here.bus.publish(notice(REQUEST, "test", {"source": "toy"}, clock, here.context.rng))
        await clock.advance(2.0)
        await until(lambda: ledger.states()["10"] == "filled", "filled")


async def test_a_hole_without_end_is_given_up(tmp_path: Path) -> None:
    class Endless(Ledger):
        async def missing(self, gap: OpenGap) -> Sequence[Range] | None:
            return [(10, 10**12)]

    async with filling(tmp_path, Endless({"10": gap(10, 10**12)}), []) as (here, app, clock):
        await clock.advance(1.0)
        (state,) = await told(here, 1)
        assert state.state == "unfillable"
        assert "numbered anew" in (state.detail or "")
        assert app.asked == []


async def test_a_gap_whose_rows_nothing_tells_is_given_up(tmp_path: Path) -> None:
    ledger = Ledger({"t": gap(1, 2, gap_id="t", first_sequence=None, last_sequence=None, missing=None)})
    async with filling(tmp_path, ledger, []) as (here, _, clock):
        await clock.advance(1.0)
        (state,) = await told(here, 1)
        assert (state.state, state.detail) == ("unfillable", "nothing tells which rows are missing")
