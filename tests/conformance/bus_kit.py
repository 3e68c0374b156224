"""What the suite of buses is made of: events, handlers that record, waiting for conditions, a bus with faults."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, settings

from tidewire.bus import START, Bus, Consumer, Hole
from tidewire.errors import EventsLost
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


class Journal:
    """What was published to one stream, as the journal would tell: batches, and how many were published so far."""

    def __init__(self, count: int) -> None:
        self.stream = new_stream()
        cuts = list(itertools.accumulate((1 + number % 3 for number in range(count)), initial=0))
        self.batches = list(itertools.pairwise(cuts))
        self.end = cuts[-1]
        self.published = 0

    def next(self) -> Event:
        """The next batch, about to be published."""
        self.published += 1
        return data(self.stream, *self.batches[self.published - 1])

    def between(self, position: int, last: int) -> list[tuple[int, int]]:
        """The batches of a hole."""
        return [batch for batch in self.batches if position < batch[1] <= last]


class Sink:
    """A consumer that keeps what it gets and reads from the journal what it does not get."""

    def __init__(self, bus: Bus, journal: Journal, queue: int = 4) -> None:
        self.got: list[tuple[int, int]] = []
        self.lost = 0
        self.skipped = self.holes = 0
        self._bus = bus
        self._journal = journal
        self._queue = queue
        self.consumer = self._consume(START)

    async def run(self) -> None:
        """Until it has everything."""
        stream, journal = self._journal.stream, self._journal
        while self.consumer.position(stream) < journal.end:
            try:
                item = await anext(self.consumer)
            except EventsLost:
                self._begin_again()
                continue
            if isinstance(item, Hole):
                self.got += journal.between(item.position, item.last)
                self.consumer.seek(stream, item.last)
            else:
                self.got.append(span(item))
                self.consumer.done(item)
        self._close()

    def _begin_again(self) -> None:
        position = self.consumer.position(self._journal.stream)
        self.lost += 1
        self._close()
        head = self._journal.batches[self._journal.published - 1][1] if self._journal.published else START
        self.consumer = self._consume(head)
        self.got += self._journal.between(position, head)

    def _consume(self, position: int) -> Consumer:
        stream = self._journal.stream
        return self._bus.consume(
            stream.journal, "data.trade.processed", positions={stream: position}, queue=self._queue
        )

    def _close(self) -> None:
        counts = self.consumer.stats()
        self.skipped += counts.skipped
        self.holes += counts.holes
        self.consumer.close()


async def survives(bus: Bus, plan: Sequence[str]) -> None:
    """A consumer on a faulty bus, with the journal at hand, gets every batch once and in order."""
    journal = Journal(len(plan) + 1)
    sink = Sink(bus, journal)
    faulty = FaultyBus(bus, plan)

    async def publish() -> None:
        for _ in plan:
            await faulty.publish(journal.next())
        await faulty.flush()
        # What is lost at the very end shows when the stream goes on.
        await bus.publish(journal.next())

    await soon(asyncio.gather(sink.run(), publish()))
    assert sink.got == journal.batches
    assert sink.holes >= ("drop" in plan)
    assert sink.skipped >= ("repeat" in plan)
