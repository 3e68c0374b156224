"""The bus of one process keeps every promise, and the suite notices when it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from conformance.bus import BusConformance
from conformance.bus_kit import FAULTS, data, new_stream, survives
from tidewire.bus import START, Bus, Hole, MemoryBus
from tidewire.bus.delivery import Subscriber
from tidewire.bus.inbox import Inbox
from tidewire.bus.progress import Progress
from tidewire.records.clock import ManualClock
from tidewire.records.event import Event


@asynccontextmanager
async def opened(clock: ManualClock) -> AsyncIterator[Bus]:
    bus = MemoryBus(clock, grace=5.0)
    await bus.start()
    yield bus
    closing = asyncio.create_task(bus.close())
    while not closing.done():
        await clock.advance(5.0)


class TestMemoryBus(BusConformance):
    @pytest.fixture
    async def bus(self, clock: ManualClock) -> AsyncIterator[Bus]:
        async with opened(clock) as bus:
            yield bus

    @pytest.fixture
    def unstarted(self, clock: ManualClock) -> Bus:
        return MemoryBus(clock)


take, done = Progress.take, Progress.done


def ignores_holes(self: Progress, event: Event) -> Event | Hole | None:
    self._line(event.batch.stream).reached = event.batch.lineage.prev
    return take(self, event)


def keeps_repeats(self: Progress, event: Event) -> Event | Hole | None:
    line = self._line(event.batch.stream)
    if event.batch.lineage.last <= line.reached:
        return event
    return take(self, event)


def hides_holes(self: Progress, event: Event) -> Event | Hole | None:
    item = take(self, event)
    return None if isinstance(item, Hole) else item


def takes_the_overlapping(self: Progress, event: Event) -> Event | Hole | None:
    line = self._line(event.batch.stream)
    if event.batch.lineage.prev < line.reached < event.batch.lineage.last:
        line.reached = event.batch.lineage.prev
    return take(self, event)


def passes_the_undone(self: Progress, event: Event) -> None:
    done(self, event)
    line = self._line(event.batch.stream)
    line.position = max(line.position, event.batch.lineage.last)


def newest_first(self: Inbox) -> Event:
    return self.pending.pop()


async def returns_at_once(_: MemoryBus) -> None:
    return


async def drops(_: Inbox, event: Event) -> None:
    return


MUTANTS: dict[str, tuple[type, str, Callable[..., Any], str]] = {
    "holes are jumped": (Progress, "take", ignores_holes, "test_a_hole_is_reported_and_never_jumped"),
    "repeats are delivered": (Progress, "take", keeps_repeats, "test_a_consumer_resumes_from_its_positions"),
    "holes are not told": (Progress, "take", hides_holes, "test_a_batch_that_overlaps_is_a_hole"),
    "overlaps are delivered": (Progress, "take", takes_the_overlapping, "test_a_batch_that_overlaps_is_a_hole"),
    "positions pass the undone": (Progress, "done", passes_the_undone, "test_seeking_back_asks_for_what_was_delivered"),
    "queues are stacks": (Inbox, "pop", newest_first, "test_events_of_one_publisher_arrive_in_order"),
    "unsubscribing is forgotten": (Subscriber, "cancel", lambda _: None, "test_nothing_is_delivered_after_unsubscribe"),
    "closing does not wait": (MemoryBus, "_drain", returns_at_once, "test_close_lets_handlers_finish_what_is_queued"),
    "waiting publishers are dropped": (Inbox, "push", drops, "test_publish_waits_and_offer_does_not"),
    "queues have no end": (Inbox, "full", property(lambda _: False), "test_drop_oldest_keeps_the_latest"),
}


class TestSuite:
    """Each promise broken on purpose turns the suite red."""

    @pytest.fixture
    async def bus(self) -> AsyncIterator[Bus]:
        async with opened(ManualClock()) as bus:
            yield bus

    @pytest.mark.parametrize("name", MUTANTS)
    async def test_a_broken_bus_is_found_out(self, name: str, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
        where, what, broken, caught_by = MUTANTS[name]
        monkeypatch.setattr("conformance.bus_kit.PATIENCE", 0.2)
        monkeypatch.setattr(where, what, broken)
        with pytest.raises((AssertionError, TimeoutError)):
            await getattr(BusConformance(), caught_by)(bus)

    @pytest.mark.parametrize("name", ["holes are jumped", "repeats are delivered", "holes are not told"])
    async def test_faults_catch_broken_positions(self, name: str, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
        where, what, broken, _ = MUTANTS[name]
        monkeypatch.setattr("conformance.bus_kit.PATIENCE", 0.2)
        monkeypatch.setattr(where, what, broken)
        with pytest.raises((AssertionError, TimeoutError)):
            await survives(bus, [*FAULTS, *FAULTS, "ok"])

    async def test_the_sound_bus_passes_the_same(self, bus: Bus) -> None:
        await survives(bus, [*FAULTS, *FAULTS, "ok"])
        stream = new_stream()
        consumer = bus.consume("sound", "data.trade.processed", positions={stream: START})
        await bus.publish(data(stream, 0, 1))
        assert isinstance(await anext(consumer), Event)
