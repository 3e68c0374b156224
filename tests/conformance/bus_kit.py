"""What the suite of buses is made of: events, handlers that record, waiting for conditions, a bus with faults."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, settings

from tidewire.bus import START, Bus, Consumer, Hole
from tidewire.records.batch import Batch, Lineage, Stream
from tidewire.records.event import Event, data_event
from tidewire.records.record import record_type

_serial = itertools.count(1)
PATIENCE = 10.0
FAULTS = ("ok", "drop", "repeat", "late")

hypothesis_settings = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow],
)


async def eventually(condition: Callable[[], Any]) -> None:
    """Let everything run until the condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - conditions of any kind, also of what the network brings
            await asyncio.sleep(0)


async def turns(count: int = 20) -> None:
    """Give what should not happen a chance to happen."""
    for _ in range(count):
        await asyncio.sleep(0)


async def soon(awaitable: Any) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await awaitable


def note(subject: str, **facts: Any) -> Event:
    number = next(_serial)
    return Event(f"e{number}", subject, "test", number, 1, f"t{number}", facts)


def data(stream: Stream, prev: int, last: int, stage: str = "processed") -> Event:
    kind = record_type(stream.type)
    batch = Batch(kind, kind.empty(), Lineage(stream.journal, stream.lane, prev, last, 0, "t"))
    return data_event(stage, batch, 0)


def new_stream(kind: str = "trade", lane: int = 0) -> Stream:
    return Stream(f"journal{next(_serial)}", kind, lane)


def span(item: Event) -> tuple[int, int]:
    return item.batch.lineage.prev, item.batch.lineage.last


class Recorder:
    """A handler that keeps ids, and can be held in its first call."""

    def __init__(self, *, held: bool = False) -> None:
        self.events: list[Event] = []
        self.gate = asyncio.Event()
        if not held:
            self.gate.set()

    async def __call__(self, event: Event) -> None:
        self.events.append(event)
        await self.gate.wait()

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.events]

    async def has(self, count: int) -> None:
        await eventually(lambda: len(self.events) >= count)


class FaultyBus:
    """Publishes to a bus as a bad network would: drops, repeats, delivers late. ``plan`` holds one fault per event."""

    def __init__(self, bus: Bus, plan: Sequence[str]) -> None:
        self._bus = bus
        self._plan = iter(plan)
        self._late: list[Event] = []

    async def publish(self, event: Event) -> None:
        fault = next(self._plan, "ok")
        if fault == "drop":
            return
        if fault == "late":
            self._late.append(event)
            return
        await self._bus.publish(event)
        if fault == "repeat":
            await self._bus.publish(event)
        await self.flush()

    async def flush(self) -> None:
        late, self._late = self._late, []
        for event in reversed(late):
            await self._bus.publish(event)


async def follow(consumer: Consumer, stream: Stream, journal: list[tuple[int, int]], end: int) -> list[tuple[int, int]]:
    """What a sink ends up with that re-reads holes from the journal."""
    got: list[tuple[int, int]] = []
    async for item in consumer:
        if isinstance(item, Hole):
            got += [part for part in journal if item.position < part[1] <= item.last]
            consumer.seek(stream, item.last)
        else:
            got.append(span(item))
            consumer.done(item)
        if consumer.position(stream) >= end:
            break
    return got


async def survives(bus: Bus, plan: Sequence[str]) -> None:
    """A consumer on a faulty bus, with the journal at hand, gets every batch once and in order."""
    stream = new_stream()
    consumer = bus.consume(stream.journal, "data.trade.processed", positions={stream: START}, queue=4)
    cuts = list(itertools.accumulate((1 + number % 3 for number in range(len(plan) + 1)), initial=0))
    journal = list(itertools.pairwise(cuts))
    faulty = FaultyBus(bus, plan)

    async def publish() -> None:
        for prev, last in journal[:-1]:
            await faulty.publish(data(stream, prev, last))
        await faulty.flush()
        # What is lost at the very end shows when the stream goes on.
        await bus.publish(data(stream, *journal[-1]))

    got, _ = await soon(asyncio.gather(follow(consumer, stream, journal, cuts[-1]), publish()))
    counts = consumer.stats()
    consumer.close()
    assert got == journal
    assert counts.holes >= ("drop" in plan)
    assert counts.skipped >= ("repeat" in plan)
