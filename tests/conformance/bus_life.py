"""How every bus starts and closes; a part of `conformance.bus`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from conformance.bus_kit import Recorder, data, eventually, new_stream, note, soon, span, turns
from tidewire.bus import START, Bus, Full
from tidewire.errors import BusClosed
from tidewire.records.clock import ManualClock
from tidewire.records.event import Event


class LifeConformance:
    """The fixtures are those of `BusConformance`."""

    backpressure: bool

    async def test_a_bus_that_is_not_open_says_so(self, unstarted: Bus, bus: Bus) -> None:
        await soon(bus.close())
        for each in (unstarted, bus):
            with pytest.raises(BusClosed):
                await each.publish(note("a.b"))
            with pytest.raises(BusClosed):
                each.offer(note("a.b"))
            with pytest.raises(BusClosed):
                each.subscribe("a.b", Recorder())
            with pytest.raises(BusClosed):
                each.once("a.b")
            with pytest.raises(BusClosed):
                each.consume("sink", "data.trade.stored", positions={})
            assert each.stats().subscriptions == ()
        with pytest.raises(BusClosed):
            await bus.start()
        await soon(bus.close())
        await soon(unstarted.close())

    async def test_close_lets_handlers_finish_what_is_queued(self, bus: Bus) -> None:
        held, onward = Recorder(held=True), Recorder()

        async def handler(event: Event) -> None:
            await held(event)
            await bus.publish(note("a.onward"))

        subscription = bus.subscribe("a.b", handler)
        bus.subscribe("a.onward", onward)
        for _ in range(5):
            await bus.publish(note("a.b"))
        await held.has(1)
        closing = asyncio.create_task(bus.close())
        await turns()
        with pytest.raises(BusClosed):
            await bus.publish(note("a.b"))
        assert not closing.done()
        held.gate.set()
        await soon(closing)
        assert len(held.events) == 5
        assert len(onward.events) == 5
        assert subscription.closed
        assert subscription.stats().errors == 0

    async def test_close_waits_no_longer_than_the_grace_time(self, bus: Bus, clock: ManualClock) -> None:
        held, once_held = Recorder(held=True), Recorder(held=True)
        subscription = bus.subscribe("a.b", held, queue=1, full=Full.BLOCK)
        once, handled = bus.once("never.*"), bus.once("a.b", once_held)
        await bus.publish(note("a.b"))
        await held.has(1)
        await once_held.has(1)
        await bus.publish(note("a.b"))
        waiting = asyncio.create_task(bus.publish(note("a.b")))
        await asyncio.sleep(0)
        closing = asyncio.create_task(bus.close())
        await eventually(lambda: clock.sleepers)
        await clock.advance(4.9)
        assert not closing.done()
        await clock.advance(0.2)
        await soon(closing)
        if self.backpressure:
            with pytest.raises(BusClosed):
                await soon(waiting)
        for future in (once, handled):
            with pytest.raises(BusClosed):
                await soon(future)
        assert len(held.events) == 1
        assert subscription.closed

    async def test_a_consumer_reads_to_its_end_after_close(self, bus: Bus, clock: ManualClock) -> None:
        stream = new_stream()
        consumer = bus.consume("sink", "data.trade.processed", positions={stream: START})
        for prev in range(3):
            await bus.publish(data(stream, prev, prev + 1))
        await eventually(lambda: consumer.stats().queued == 3)
        await soon(bus.close())
        got: list[Any] = []
        async for item in consumer:
            got.append(span(item))
            consumer.done(item)
        assert got == [(0, 1), (1, 2), (2, 3)]
        assert consumer.position(stream) == 3

    async def test_closing_ends_a_waiting_read(self, bus: Bus) -> None:
        consumer = bus.consume("sink", "data.trade.processed", positions={})
        reading = asyncio.create_task(anext(consumer, None))
        await asyncio.sleep(0)
        await soon(bus.close())
        assert await soon(reading) is None
