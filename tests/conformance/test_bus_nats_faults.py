"""The NATS server is killed, robbed of its store, cut off and struck dumb; a consumer with the journal gets all of it.

Events flow while it happens, several on the way at a time. Rules of the bus broken on purpose turn these tests red.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import nats
import pytest

from conformance.bus_kit import Journal, Sink, data, new_stream, span
from integration.kit import until
from nats_server import NatsServer, Proxy, config, served
from tidewire import telemetry
from tidewire.bus import START, Consumer, Hole, _nats_envelope, _nats_in
from tidewire.bus import nats as bus_nats
from tidewire.bus._nats_in import Feed
from tidewire.bus._nats_out import Mark, Outbox
from tidewire.bus.nats import NatsBus
from tidewire.errors import BusError, EventsLost
from tidewire.records.clock import SeededRng, SystemClock
from tidewire.records.event import Event

BATCHES = 600
AT_A_TIME = 16
TROUBLES = 3
_serial = count(1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with served(tmp_path) as server:
        yield server


@asynccontextmanager
async def opened(where: NatsServer | Proxy, prefix: str = "", **changes: object) -> AsyncIterator[NatsBus]:
    number = next(_serial)
    bus = NatsBus(SystemClock(), SeededRng(number), config(where, prefix or f"t{number}", **changes), grace=2.0)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.close()


async def flow(bus: NatsBus, trouble: Callable[[], Awaitable[None]], *, queue: int = 4, within_s: float = 30.0) -> Sink:
    """Publish a journal, with trouble three times on the way; return what a sink made of it."""
    journal = Journal(BATCHES)
    sink = Sink(bus, journal, queue)

    async def publish() -> None:
        while journal.published < BATCHES:
            events = [journal.next() for _ in range(min(AT_A_TIME, BATCHES - journal.published))]
            await asyncio.gather(*(bus.publish(event) for event in events))

    async def make_trouble() -> None:
        for number in range(1, TROUBLES + 1):
            await until(lambda n=number: journal.published >= BATCHES * n // (TROUBLES + 1), "events", poll_s=0.001)
            await trouble()

    async with asyncio.timeout(within_s):
        await asyncio.gather(publish(), sink.run(), make_trouble())
    assert sink.got == journal.batches
    return sink


async def kept(server: NatsServer, bus: NatsBus) -> int:
    """How many messages the bus's stream has."""
    client = await nats.connect(server.url)
    try:
        return (await client.jetstream().stream_info(bus._config.stream_name)).state.messages
    finally:
        await client.close()


# -- the server dies ------------------------------------------------------------------------------------------------


async def killed(server: NatsServer) -> None:
    async def kill() -> None:
        server.restart()

    async with opened(server) as bus:
        sink = await flow(bus, kill)
        assert await kept(server, bus) == BATCHES
    assert (sink.lost, sink.holes, sink.skipped) == (0, 0, 0), "it goes on as if nothing had happened"


async def test_a_killed_server_is_not_even_noticed(server: NatsServer) -> None:
    before = telemetry.value("tidewire_bus_nats_connects_total")
    await killed(server)
    assert telemetry.value("tidewire_bus_nats_connects_total") >= before + 1 + TROUBLES


async def test_a_server_that_forgets_everything_is_made_good(server: NatsServer) -> None:
    async def forget() -> None:
        server.restart(forget=True)

    async with opened(server) as bus:
        sink = await flow(bus, forget)
    assert sink.lost >= 1


async def forgotten_at_rest(server: NatsServer) -> None:
    stream = new_stream()
    async with opened(server) as bus:
        consumer = bus.consume("sink", "data.trade.processed", positions={stream: START}, queue=1)
        for prev in range(3):
            await bus.publish(data(stream, prev, prev + 1))
        assert span(await anext(consumer)) == (0, 1)
        server.restart(forget=True)
        async with asyncio.timeout(5):
            with pytest.raises(EventsLost, match="begin again from your own positions"):
                await read_on(consumer)


async def read_on(consumer: Consumer) -> None:
    async for item in consumer:
        assert isinstance(item, Event)
        consumer.done(item)


async def test_what_was_lost_before_a_silence_is_told(server: NatsServer) -> None:
    await forgotten_at_rest(server)


async def test_a_server_that_is_away_for_long_fails_publishers_and_is_found_again(server: NatsServer) -> None:
    stream = new_stream()
    async with opened(server, patience_s=0.3) as bus:
        server.kill()
        with pytest.raises(BusError, match=r"not taken within 0.3 s .*127\.0\.0\.1"):
            await bus.publish(data(stream, 0, 1))
        server.start()
        consumer = bus.consume("sink", "data.trade.processed", positions={stream: START})
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(BusError):
                    await bus.publish(data(stream, 0, 1))
                    break
            assert span(await anext(consumer)) == (0, 1)


# -- the connection breaks ------------------------------------------------------------------------------------------


async def cut(server: NatsServer, queue: int = 4) -> None:
    async with Proxy.before(server) as proxy, opened(proxy) as bus:

        async def trouble() -> None:
            proxy.cut()

        sink = await flow(bus, trouble, queue=queue)
        assert proxy.connections > TROUBLES
        assert await kept(server, bus) == BATCHES
    assert (sink.lost, sink.holes, sink.skipped) == (0, 0, 0)


@pytest.mark.parametrize("queue", [1, 4, 300])
async def test_a_cut_connection_is_not_even_noticed(server: NatsServer, queue: int) -> None:
    await cut(server, queue)


async def cut_while_full(server: NatsServer) -> None:
    """What lay between server and queue when the connection broke comes again, and once."""
    stream = new_stream()
    async with Proxy.before(server) as proxy, opened(proxy) as bus:
        consumer = bus.consume("sink", "data.trade.processed", positions={stream: START}, queue=2)
        for prev in range(9):
            await bus.publish(data(stream, prev, prev + 1))
        for cuts in range(3):
            await until(lambda: consumer.stats().queued == 2, "a full queue")
            before = telemetry.value("tidewire_bus_nats_connects_total")
            proxy.cut()
            await until(lambda n=before: telemetry.value("tidewire_bus_nats_connects_total") > n, "a new connection")
            async with asyncio.timeout(5):
                for place in (2 * cuts, 2 * cuts + 1):
                    item = await anext(consumer)
                    assert isinstance(item, Event)
                    assert span(item) == (place, place + 1)
                    consumer.done(item)
        assert consumer.stats().skipped == 0


async def test_a_connection_cut_while_a_consumer_is_full_loses_nothing(server: NatsServer) -> None:
    await cut_while_full(server)


async def lost_replies(server: NatsServer) -> None:
    async with Proxy.before(server) as proxy, opened(proxy, timeout_s=0.3) as bus:

        async def trouble() -> None:
            connections = proxy.connections
            proxy.swallows_replies = True
            await until(lambda: proxy.connections > connections, "the connection is given up", poll_s=0.001)
            proxy.swallows_replies = False

        sink = await flow(bus, trouble)
        assert await kept(server, bus) == BATCHES, "what the server had is sent again and not kept twice"
    assert (sink.lost, sink.holes, sink.skipped) == (0, 0, 0)


async def test_lost_replies_repeat_nothing(server: NatsServer) -> None:
    await lost_replies(server)


async def test_requests_that_get_nowhere_are_sent_again(server: NatsServer) -> None:
    async with Proxy.before(server) as proxy, opened(proxy, timeout_s=0.3) as bus:

        async def trouble() -> None:
            connections = proxy.connections
            proxy.swallows_requests = True
            await until(lambda: proxy.connections > connections, "the connection is given up", poll_s=0.001)
            proxy.swallows_requests = False

        sink = await flow(bus, trouble)
    assert (sink.lost, sink.holes, sink.skipped) == (0, 0, 0)


# -- what the server keeps ------------------------------------------------------------------------------------------


async def published_again(server: NatsServer) -> None:
    """A pipe that begins again publishes the same ``(prev, last]``, well within the server's window for repeats."""
    stream = new_stream()
    async with opened(server, "shared") as bus:
        await bus.publish(data(stream, 0, 1))
        consumer = bus.consume("sink", "data.trade.processed", positions={stream: START})
        await bus.publish(data(stream, 0, 1))
        async with asyncio.timeout(5):
            assert span(await anext(consumer)) == (0, 1)
    async with opened(server, "shared") as bus:  # and a process that begins again
        consumer = bus.consume("sink", "data.trade.processed", positions={stream: START})
        await bus.publish(data(stream, 0, 1))
        async with asyncio.timeout(5):
            assert span(await anext(consumer)) == (0, 1)
        assert await kept(server, bus) == 3


async def test_what_is_published_again_on_purpose_arrives_again(server: NatsServer) -> None:
    await published_again(server)


async def test_a_consumer_the_stream_outruns_sees_a_hole(server: NatsServer) -> None:
    stream = new_stream()
    async with opened(server, max_bytes=20_000) as bus:
        consumer = bus.consume("sink", "data.trade.processed", positions={stream: START}, queue=1)
        for prev in range(100):
            await bus.publish(data(stream, prev, prev + 1))
        async with asyncio.timeout(5):
            while isinstance(item := await anext(consumer), Event):
                consumer.done(item)
        assert isinstance(item, Hole)
        assert item.last > item.position + 1


@pytest.mark.parametrize("how", ["consumer", "stream"])
async def test_what_is_deleted_at_the_server_is_made_again(server: NatsServer, how: str) -> None:
    journal = Journal(40)
    async with opened(server) as bus:
        sink = Sink(bus, journal)
        running = asyncio.create_task(sink.run())
        for _ in range(20):
            await bus.publish(journal.next())
        client = await nats.connect(server.url)
        jetstream, stream = client.jetstream(), bus._config.stream_name
        if how == "consumer":
            (found,) = await jetstream.consumers_info(stream)
            await jetstream.delete_consumer(stream, found.name)
        else:
            await jetstream.delete_stream(stream)
        await client.close()
        for _ in range(20):
            await bus.publish(journal.next())
        async with asyncio.timeout(20):
            await running
    assert sink.got == journal.batches
    assert sink.skipped == 0


async def test_what_is_purged_before_it_came_is_told(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nats_in, "_PULL_S", 0.2)
    stream = new_stream()
    async with opened(server) as bus:
        consumer = bus.consume("sink", "data.trade.processed", positions={stream: START}, queue=1)
        for prev in range(5):
            await bus.publish(data(stream, prev, prev + 1))
        client = await nats.connect(server.url)
        await client.jetstream().purge_stream(bus._config.stream_name)
        await client.close()
        async with asyncio.timeout(5):
            with pytest.raises(EventsLost):
                await read_on(consumer)


# -- rules broken on purpose ----------------------------------------------------------------------------------------

_pack, _carry, _feed_take, _resume = _nats_envelope.pack, Outbox.carry, Feed._take, Feed.resume


def identified_by_event(event: Any, life: str, number: int, limit: int) -> Any:
    same = sum(event.id.encode()) * 1_000_003 % 999_983
    return _pack(event, "life", same, limit)


async def sends_nothing_again(self: Outbox, connection: Any, inbox: str) -> None:
    for sending in tuple(self._flight.values()):
        self._land(sending)
        sending.finish()
    await _carry(self, connection, inbox)


async def sends_again_backwards(self: Outbox, connection: Any, inbox: str) -> None:
    self._flight = dict(reversed(self._flight.items()))
    await _carry(self, connection, inbox)


async def seen_before_delivered(self: Feed, message: Any, message_id: str) -> None:
    self.seen = Mark(message.metadata.sequence.stream, message_id)
    await _feed_take(self, message, message_id)


async def resumes_at_the_end(self: Feed, connection: Any, *, intact: bool) -> None:
    if self.begun:
        self.begun = False
        await self.begin(connection)


async def resumes_blindly(self: Feed, connection: Any, *, intact: bool) -> None:
    self.seen = Mark()
    await _resume(self, connection, intact=True)


MUTANTS: dict[str, tuple[Any, str, Any, Callable[[NatsServer], Awaitable[None]]]] = {
    "messages are identified by their event": (bus_nats, "pack", identified_by_event, published_again),
    "nothing is sent again": (Outbox, "carry", sends_nothing_again, cut),
    "what is sent again is out of order": (Outbox, "carry", sends_again_backwards, cut),
    "consumers resume at the end": (Feed, "resume", resumes_at_the_end, cut),
    "seen before delivered": (Feed, "_take", seen_before_delivered, cut_while_full),
    "lost messages are not told": (Feed, "resume", resumes_blindly, forgotten_at_rest),
    "a silent server is waited for": (Outbox, "overdue", lambda *_: False, lost_replies),
}


@pytest.mark.parametrize("name", MUTANTS)
async def test_a_broken_rule_is_found_out(name: str, server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    where, what, broken, caught_by = MUTANTS[name]
    monkeypatch.setattr(where, what, broken)
    with pytest.raises((AssertionError, TimeoutError, BusError, pytest.fail.Exception)):
        async with asyncio.timeout(6):
            await caught_by(server)
