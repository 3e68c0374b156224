from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from conformance.bus_kit import Recorder, data, eventually, new_stream, note, soon
from tidewire import telemetry
from tidewire.bus import START, Full, MemoryBus
from tidewire.bus import memory as memory_module
from tidewire.errors import BusError
from tidewire.records.clock import ManualClock
from tidewire.records.event import Event


@pytest.fixture
async def bus() -> AsyncIterator[MemoryBus]:
    bus = MemoryBus(ManualClock(), grace=0.0)
    await bus.start()
    await bus.start()
    yield bus
    await bus.close()


async def test_routes_are_bounded(bus: MemoryBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "_ROUTES", 10)
    seen = Recorder()
    bus.subscribe("a.*", seen)
    for number in range(35):
        await bus.publish(note(f"a.s{number}"))
        assert len(bus._routes) <= 10
    await seen.has(35)


async def test_a_route_without_receivers_is_remembered_too(bus: MemoryBus) -> None:
    await bus.publish(note("a.b"))
    assert bus._routes == {"a.b": ()}


async def test_subscribing_is_seen_by_subjects_met_before(bus: MemoryBus) -> None:
    await bus.publish(note("a.b"))
    seen = Recorder()
    subscription = bus.subscribe("a.*", seen)
    await bus.publish(note("a.b"))
    await seen.has(1)
    bus.unsubscribe(subscription)
    await bus.publish(note("a.b"))
    await asyncio.sleep(0)
    assert len(seen.events) == 1


@pytest.mark.parametrize("queue", [1, 2, 7])
async def test_a_publisher_that_never_waits_gives_handlers_their_turn(bus: MemoryBus, queue: int) -> None:
    seen: list[str] = []
    subscription = bus.subscribe("a.b", lambda event: seen.append(event.id), queue=queue)
    for _ in range(500):
        await bus.publish(note("a.b"))
    await eventually(lambda: len(seen) == 500)
    assert subscription.stats().dropped == 0


async def test_a_handler_does_not_wait_for_itself(bus: MemoryBus) -> None:
    errors: list[BusError] = []

    async def handler(_: Event) -> None:
        try:
            await bus.publish(note("a.b"))
            await bus.publish(note("a.b"))
        except BusError as error:
            errors.append(error)
            bus.unsubscribe(subscription)

    subscription = bus.subscribe("a.b", handler, queue=1, full=Full.BLOCK)
    await bus.publish(note("a.b"))
    await eventually(lambda: errors)
    assert "would wait for ever; use offer" in str(errors[0])


async def test_waiting_is_measured(bus: MemoryBus) -> None:
    stream = new_stream()
    before = telemetry.value("tidewire_bus_publish_wait_seconds_count")
    published = telemetry.value("tidewire_bus_published_total")
    consumer = bus.consume("sink", "data.trade.stored", positions={stream: START}, queue=1)
    await bus.publish(data(stream, 0, 1, "stored"))
    waiting = asyncio.create_task(bus.publish(data(stream, 1, 2, "stored")))
    await asyncio.sleep(0)
    await soon(anext(consumer))
    await soon(waiting)
    assert telemetry.value("tidewire_bus_publish_wait_seconds_count") == before + 1
    assert telemetry.value("tidewire_bus_published_total") == published + 2


async def test_holes_and_repeats_are_counted(bus: MemoryBus) -> None:
    stream = new_stream()
    consumer = bus.consume("counted", "data.trade.stored", positions={stream: START})
    for prev, last in ((0, 1), (0, 1), (2, 3)):
        await bus.publish(data(stream, prev, last, "stored"))
    await soon(anext(consumer))
    await soon(anext(consumer))
    assert telemetry.value("tidewire_bus_repeats_total", consumer="counted") == 1
    assert telemetry.value("tidewire_bus_holes_total", consumer="counted") == 1


async def test_nothing_is_left_when_subscriptions_end(bus: MemoryBus) -> None:
    for _ in range(20):
        subscription = bus.subscribe("a.b", Recorder())
        consumer = bus.consume("sink", "data.trade.stored", positions={})
        future = bus.once("a.b")
        bus.unsubscribe(subscription)
        consumer.close()
        future.cancel()
    await eventually(lambda: not bus._running and not bus._receivers)
    assert not bus._consumers


async def test_close_waits_for_the_handler_of_once() -> None:
    bus = MemoryBus(ManualClock())
    await bus.start()
    held = Recorder(held=True)
    future = bus.once("a.b", held)
    await bus.publish(note("a.b"))
    closing = asyncio.create_task(bus.close())
    await held.has(1)
    assert not closing.done()
    held.gate.set()
    await soon(closing)
    assert (await future).subject == "a.b"


async def test_close_waits_for_publishers_of_a_consumer_that_reads() -> None:
    bus, stream = MemoryBus(ManualClock()), new_stream()
    await bus.start()
    consumer = bus.consume("sink", "data.trade.stored", positions={stream: START}, queue=1)
    await bus.publish(data(stream, 0, 1, "stored"))
    waiting = asyncio.create_task(bus.publish(data(stream, 1, 2, "stored")))
    await asyncio.sleep(0)
    closing = asyncio.create_task(bus.close())
    await asyncio.sleep(0)
    consumer.done(await soon(anext(consumer)))
    await soon(waiting)
    await soon(closing)
    consumer.done(await soon(anext(consumer)))
    assert await anext(consumer, None) is None
    assert consumer.position(stream) == 2


async def test_a_handler_that_closes_the_bus_is_ended_by_the_grace_time() -> None:
    clock = ManualClock()
    bus = MemoryBus(clock, grace=1.0)
    await bus.start()
    subscription = bus.subscribe("a.b", lambda _: bus.close())
    await bus.publish(note("a.b"))
    await eventually(lambda: clock.sleepers)
    await clock.advance(1.0)
    await soon(bus.close())
    assert subscription.closed
