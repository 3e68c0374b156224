"""The pump: everything accepted, in order, once, at its pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tidewire.collect import Assembler, Outcome, Parsed, Pump, PumpConfig
from tidewire.errors import JournalError
from tidewire.journal import Frame, Origin
from tidewire.records.batch import Stream
from tidewire.records.clock import Clock, ManualClock, SystemClock
from tidewire.records.event import Event
from tidewire.records.market import Trade
from tidewire.records.record import types
from unit.collect.kit import Place, place, until

ORIGIN = Origin("toy", "stream", "ws#1")


class Numbers:
    """Each payload is the number of a trade."""

    def parse(self, frames: Sequence[Frame]) -> Outcome:
        at = [frame.wall_ns // 1_000 for frame in frames]
        ids = [frame.payload.decode() for frame in frames]
        columns = {
            "instrument": ["A-B.X"] * len(frames),
            "event_time": at,
            "public_at": at,
            "trade_id": ids,
            "sequence": [int(one) for one in ids],
            "price": ["1"] * len(frames),
            "size": ["1"] * len(frames),
        }
        return Outcome(parsed=[Parsed(Trade.type, columns, frames)])


@asynccontextmanager
async def pumping(
    directory: Path,
    config: PumpConfig,
    clock: Clock | None = None,
    positions: dict[Stream, int] | None = None,
    is_heard: Callable[[], bool] = lambda: True,
) -> AsyncIterator[tuple[Place, Pump, list[Event]]]:
    async with place(directory) as here:
        heard: list[Event] = []
        here.bus.subscribe("data.*.collected", heard.append, queue=100_000)
        assembler = Assembler(here.journal.uuid, {"toy": Numbers()})
        pump = Pump(here.journal, assembler, here.bus, clock or SystemClock(), config, is_heard)
        named = {Stream(here.journal.uuid, name, lane): at for (_, name, lane), at in (positions or {}).items()}
        task = asyncio.create_task(pump.run(named))
        try:
            yield here, pump, heard
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def append(here: Place, first: int, last: int) -> None:
    for number in range(first, last + 1):
        here.journal.append(ORIGIN, str(number).encode())
    await here.journal.drain()


def trades(heard: list[Event]) -> list[int]:
    return [n for event in heard if event.subject == "data.trade.collected" for n in event.batch.rows["sequence"]]


async def test_everything_in_order_and_once(tmp_path: Path) -> None:
    async with pumping(tmp_path, PumpConfig(parse_ms=0, step_frames=7)) as (here, pump, heard):
        for first in range(1, 200, 40):
            await append(here, first, first + 39)
        await until(lambda: len(trades(heard)) >= 200)
        assert trades(heard) == list(range(1, 201))
        sizes = [event.batch.rows.height for event in heard if event.subject == "data.trade.collected"]
        assert max(sizes) <= 7
        assert pump.position == 200
        # Positions follow each other.
        reached = 0
        for event in heard:
            if event.batch.type is Trade.type:
                assert event.batch.lineage.prev == reached
                reached = event.batch.lineage.last


async def test_idle_streams_get_marks_when_everything_is_read(tmp_path: Path) -> None:
    async with pumping(tmp_path, PumpConfig(parse_ms=0, mark_ms=1)) as (here, _, heard):
        await append(here, 1, 10)
        await until(lambda: len({event.batch.type.name for event in heard}) == len(types()))
        last = {event.batch.stream: event.batch.lineage.last for event in heard}
        assert set(last.values()) == {10}


async def test_it_continues_given_positions(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await append(here, 1, 20)
        at = {Stream("", name, 0): 20 for name in types()} | {Stream("", "trade", 0): 15}
    async with pumping(tmp_path, PumpConfig(parse_ms=0), positions=at) as (_, _, heard):
        await until(lambda: len(trades(heard)) >= 5)
        assert trades(heard) == [16, 17, 18, 19, 20]
        event = heard[0]
        assert (event.batch.lineage.prev, event.batch.lineage.last) == (15, 20)


async def test_a_step_waits_for_time_or_for_frames(tmp_path: Path) -> None:
    clock = ManualClock()
    config = PumpConfig(parse_ms=10, parse_frames=50, mark_ms=1e9)
    async with pumping(tmp_path, config, clock) as (here, _, heard):
        await append(here, 1, 3)
        await until(lambda: clock.sleepers == 1)
        await append(here, 4, 6)
        assert trades(heard) == []
        await clock.advance(0.009)
        assert trades(heard) == []
        await clock.advance(0.002)
        await until(lambda: bool(trades(heard)))
        assert [event.batch.rows.height for event in heard if event.batch.rows.height] == [6]
        # Enough frames: nobody waits.
        before = clock.mono_ns()
        await append(here, 7, 60)
        await until(lambda: clock.sleepers == 1 or len(trades(heard)) == 60)
        if len(trades(heard)) < 60:  # the first of them were seen before the rest came
            await clock.advance(0.01)
        await until(lambda: len(trades(heard)) == 60)
        assert clock.mono_ns() - before <= 10_000_000
        assert trades(heard) == list(range(1, 61))


async def test_while_nobody_listens_steps_are_further_apart(tmp_path: Path) -> None:
    clock, listening = ManualClock(), False
    config = PumpConfig(parse_ms=10, unheard_ms=100, mark_ms=1e9)
    async with pumping(tmp_path, config, clock, is_heard=lambda: listening) as (here, _, heard):
        await append(here, 1, 3)
        await until(lambda: clock.sleepers == 1)
        await clock.advance(0.095)
        await append(here, 4, 6)
        assert trades(heard) == []
        await clock.advance(0.01)
        await until(lambda: trades(heard) == [1, 2, 3, 4, 5, 6])
        assert [event.batch.rows.height for event in heard if event.batch.rows.height] == [6]
        await append(here, 7, 9)
        await until(lambda: clock.sleepers == 1)
        await clock.advance(0.02)
        assert len(trades(heard)) == 6
        listening = True  # somebody comes: it is their pace from the next look on
        await clock.advance(0.01)
        await until(lambda: len(trades(heard)) == 9)


async def test_it_ends_with_the_journal(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        pump = Pump(here.journal, Assembler(here.journal.uuid, {}), here.bus, SystemClock())
        task = asyncio.create_task(pump.run({}))
        await asyncio.sleep(0)
        await here.journal.close()
        with pytest.raises(JournalError):
            await task
