"""What durable consumers must do on every bus; a part of `conformance.bus`."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.bus_kit import (
    FAULTS,
    Recorder,
    data,
    eventually,
    hypothesis_settings,
    new_stream,
    note,
    soon,
    span,
    survives,
)
from tidewire.bus import START, Bus, Hole
from tidewire.errors import BusError


class ConsumerConformance:
    """The fixtures are those of `BusConformance`."""

    backpressure: bool

    async def test_a_consumer_delivers_each_stream_in_order(self, bus: Bus) -> None:
        one, two = new_stream(), new_stream("quote", 3)
        consumer = bus.consume("sink", "data.*.processed", positions={one: START, two: START})
        await bus.publish(note("data.trade.processed"))
        for prev, last in ((0, 4), (4, 5), (5, 5), (5, 9)):
            await bus.publish(data(one, prev, last))
            await bus.publish(data(two, prev, last))
            await bus.publish(data(two, prev, last, "stored"))
        got = [await soon(anext(consumer)) for _ in range(8)]
        assert [span(item) for item in got if item.batch.stream == one] == [(0, 4), (4, 5), (5, 5), (5, 9)]
        assert [span(item) for item in got if item.batch.stream == two] == [(0, 4), (4, 5), (5, 5), (5, 9)]
        assert {item.subject.rpartition(".")[2] for item in got} == {"processed"}
        assert consumer.positions() == {one: START, two: START}
        for item in got:
            consumer.done(item)
        assert consumer.positions() == {one: 9, two: 9}
        stats = consumer.stats()
        assert (stats.delivered, stats.unfinished, stats.holes) == (8, 0, 0)

    async def test_a_consumer_resumes_from_its_positions(self, bus: Bus) -> None:
        stream = new_stream()
        consumer = bus.consume("sink", "data.trade.processed", positions={stream: 7})
        for prev, last in ((0, 3), (3, 7), (7, 8), (7, 8), (3, 7), (8, 11)):
            await bus.publish(data(stream, prev, last))
        got = [await soon(anext(consumer)) for _ in range(2)]
        assert [span(item) for item in got] == [(7, 8), (8, 11)]
        assert consumer.stats().skipped == 4

    async def test_a_stream_that_is_not_known_begins_at_its_start(self, bus: Bus) -> None:
        known, new = new_stream(), new_stream()
        consumer = bus.consume("sink", "data.trade.processed", positions={known: 3})
        await bus.publish(data(new, 5, 6))
        assert await soon(anext(consumer)) == Hole(new, START, 5, 6)
        consumer.seek(new, 6)
        await bus.publish(data(new, 6, 8))
        item = await soon(anext(consumer))
        consumer.done(item)
        assert consumer.positions() == {known: 3, new: 8}

    async def test_a_hole_is_reported_and_never_jumped(self, bus: Bus) -> None:
        stream = new_stream()
        consumer = bus.consume("sink", "data.trade.processed", positions={stream: START})
        for prev, last in ((0, 2), (3, 4), (4, 6), (2, 3), (3, 4)):
            await bus.publish(data(stream, prev, last))
        got = [await soon(anext(consumer)) for _ in range(5)]
        assert [item if isinstance(item, Hole) else span(item) for item in got] == [
            (0, 2),
            Hole(stream, 2, 3, 4),
            Hole(stream, 2, 4, 6),
            (2, 3),
            (3, 4),
        ]
        assert consumer.stats().holes == 2

    async def test_a_batch_that_overlaps_is_a_hole(self, bus: Bus) -> None:
        stream = new_stream()
        consumer = bus.consume("sink", "data.trade.processed", positions={stream: 10})
        await bus.publish(data(stream, 5, 15))
        hole = await soon(anext(consumer))
        assert hole == Hole(stream, 10, 5, 15)
        assert hole.overlaps
        consumer.seek(stream, 15)
        await bus.publish(data(stream, 15, 16))
        assert span(await soon(anext(consumer))) == (15, 16)

    async def test_seeking_back_asks_for_what_was_delivered(self, bus: Bus) -> None:
        stream = new_stream()
        consumer = bus.consume("sink", "data.trade.processed", positions={stream: START})
        for prev in range(3):
            await bus.publish(data(stream, prev, prev + 1))
        got = [await soon(anext(consumer)) for _ in range(3)]
        consumer.done(got[0])
        consumer.seek(stream, 1)
        consumer.done(got[1])
        consumer.done(got[2])
        assert consumer.position(stream) == 1
        await bus.publish(data(stream, 3, 4))
        assert await soon(anext(consumer)) == Hole(stream, 1, 3, 4)

    @hypothesis_settings
    @given(order=st.permutations(range(8)), again=st.lists(st.integers(0, 7), max_size=4))
    async def test_done_in_any_order_never_passes_an_undone_event(
        self, bus: Bus, order: list[int], again: list[int]
    ) -> None:
        stream = new_stream()
        consumer = bus.consume(stream.journal, "data.trade.processed", positions={stream: START}, queue=8)
        for prev in range(8):
            await bus.publish(data(stream, prev, prev + 1))
        got = [await soon(anext(consumer)) for _ in range(8)]
        done: set[int] = set()
        for number in [*order[:5], *(each for each in again if each in order[:5]), *order[5:]]:
            consumer.done(got[number])
            done.add(number)
            assert consumer.position(stream) == next(n for n in range(9) if n not in done)
        assert consumer.stats().unfinished == 0
        consumer.close()

    @hypothesis_settings
    @given(plan=st.lists(st.sampled_from(FAULTS), min_size=1, max_size=30))
    async def test_faults_of_the_bus_are_all_noticed(self, bus: Bus, plan: list[str]) -> None:
        await survives(bus, plan)

    async def test_every_kind_of_fault_was_met(self, bus: Bus) -> None:
        await survives(bus, ["ok", "drop", "repeat", "late", "late", "ok", "repeat", "drop", "ok"])

    async def test_a_consumer_bounds_what_is_not_done(self, bus: Bus) -> None:
        stream = new_stream()
        consumer = bus.consume("sink", "data.trade.processed", positions={stream: START}, queue=2)
        for prev in range(2):
            await soon(bus.publish(data(stream, prev, prev + 1)))
        first = await soon(anext(consumer))
        await soon(anext(consumer))
        await soon(bus.publish(data(stream, 2, 3)))
        reading = asyncio.create_task(anext(consumer))
        await eventually(lambda: consumer.stats().queued == 1)
        assert not reading.done()
        consumer.done(first)
        assert span(await soon(reading)) == (2, 3)

    async def test_publish_waits_for_a_full_consumer(self, bus: Bus) -> None:
        if not self.backpressure:
            pytest.skip("a broker holds what does not fit")
        stream, seen = new_stream(), Recorder()
        consumer = bus.consume("sink", "data.trade.processed", positions={stream: START}, queue=1)
        bus.subscribe("data.>", seen)
        await soon(bus.publish(data(stream, 0, 1)))
        assert not bus.offer(data(stream, 1, 2))
        waiting = asyncio.create_task(bus.publish(data(stream, 1, 2)))
        await seen.has(3)
        assert not waiting.done()
        assert consumer.stats().refused == 1
        assert span(await soon(anext(consumer))) == (0, 1)
        await soon(waiting)

    async def test_a_refused_offer_shows_as_a_hole(self, bus: Bus) -> None:
        if not self.backpressure:
            pytest.skip("a broker holds what does not fit")
        stream = new_stream()
        consumer = bus.consume("sink", "data.trade.processed", positions={stream: START}, queue=1)
        assert bus.offer(data(stream, 0, 1))
        assert not bus.offer(data(stream, 1, 2))
        consumer.done(await soon(anext(consumer)))
        assert bus.offer(data(stream, 2, 3))
        assert await soon(anext(consumer)) == Hole(stream, 1, 2, 3)

    async def test_a_cancelled_read_loses_nothing(self, bus: Bus) -> None:
        stream = new_stream()
        consumer = bus.consume("sink", "data.trade.processed", positions={stream: START})
        for _ in range(3):
            reading = asyncio.create_task(anext(consumer))
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        await bus.publish(data(stream, 0, 1))
        assert span(await soon(anext(consumer))) == (0, 1)

    async def test_a_closed_consumer_frees_its_publishers_and_its_name(self, bus: Bus) -> None:
        stream = new_stream()
        consumer = bus.consume("sink", "data.trade.processed", positions={stream: START}, queue=1)
        with pytest.raises(BusError, match="'sink' is open already"):
            bus.consume("sink", "data.trade.processed", positions={})
        await soon(bus.publish(data(stream, 0, 1)))
        waiting = asyncio.create_task(bus.publish(data(stream, 1, 2)))
        await asyncio.sleep(0)
        consumer.close()
        consumer.close()
        await soon(waiting)
        with pytest.raises(StopAsyncIteration):
            await soon(anext(consumer))
        again = bus.consume("sink", "data.trade.processed", positions={stream: 2})
        await bus.publish(data(stream, 2, 3))
        assert span(await soon(anext(again))) == (2, 3)
