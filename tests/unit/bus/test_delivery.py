from __future__ import annotations

import asyncio

import pytest

from conformance.bus_kit import Recorder, data, eventually, new_stream, note, soon
from tidewire.bus import START
from tidewire.bus.delivery import CROWDED, REFUSED, TAKEN, QueuedConsumer, Subscriber, Terms
from tidewire.bus.protocol import Full
from tidewire.errors import BusClosed, BusError
from tidewire.records.event import Event


async def test_a_consumer_has_one_reader() -> None:
    consumer = QueuedConsumer("c", "data.*.stored", positions={}, queue=1, detach=lambda _: None)
    reading = asyncio.create_task(anext(consumer))
    await asyncio.sleep(0)
    with pytest.raises(BusError, match="two tasks read"):
        await anext(consumer)
    consumer.close()
    with pytest.raises(StopAsyncIteration):
        await reading


async def test_a_consumer_passes_over_what_has_no_batch() -> None:
    stream = new_stream()
    consumer = QueuedConsumer("c", "data.*.stored", positions={stream: START}, queue=1, detach=lambda _: None)
    assert consumer.put(note("data.trade.stored")) == TAKEN
    assert consumer.put(data(stream, 0, 1)) == TAKEN
    assert consumer.put(note("data.trade.stored")) == TAKEN
    assert consumer.put(data(stream, 1, 2)) == REFUSED
    assert consumer.stats().queued == 1


async def test_a_queue_says_when_it_is_crowded() -> None:
    held = Recorder(held=True)
    subscriber = Subscriber(Terms("a.b", held, 4, Full.BLOCK, None, ""), lambda _: None)
    assert [subscriber.put(note("a.b")) for _ in range(5)] == [TAKEN, CROWDED, CROWDED, CROWDED, REFUSED]
    await held.has(1)
    # The handler runs and waits: others having a turn would not help.
    assert [subscriber.put(note("a.b")) for _ in range(2)] == [TAKEN, REFUSED]
    held.gate.set()
    await eventually(lambda: subscriber.settled)
    subscriber.cancel()
    await soon(subscriber.task)


async def test_a_busy_handler_lets_others_run() -> None:
    turns: list[int] = []
    done = 0

    def handler(_: Event) -> None:
        nonlocal done
        done += 1

    subscriber = Subscriber(Terms("a.b", handler, 500, Full.BLOCK, None, ""), lambda _: None)
    for _ in range(400):
        subscriber.put(note("a.b"))

    while done < 400:
        await asyncio.sleep(0)
        turns.append(done)
    assert max(later - earlier for earlier, later in zip([0, *turns], turns, strict=False)) <= 64
    subscriber.cancel()
    await soon(subscriber.task)


async def test_a_stopped_subscriber_cancels_its_handler() -> None:
    held, ended = Recorder(held=True), []
    subscriber = Subscriber(Terms("a.b", held, 4, Full.BLOCK, None, ""), ended.append)
    subscriber.put(note("a.b"))
    await held.has(1)
    subscriber.stop(BusClosed("gone"))
    with pytest.raises(asyncio.CancelledError):
        await soon(subscriber.task)
    assert ended == [subscriber]
    assert subscriber.stats().errors == 0
    assert subscriber.put(note("a.b")) == TAKEN
    assert subscriber.stats().queued == 0
