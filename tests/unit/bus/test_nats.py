"""What only a bus over NATS has to do; what every bus does is in tests/conformance."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import nats
import polars as pl
import pytest

from conformance.bus_kit import Recorder, data, eventually, new_stream, note, soon, span
from nats_server import NatsServer, config, served
from tidewire import telemetry
from tidewire.bus import START, Full
from tidewire.bus.config import NatsConfig
from tidewire.bus.nats import NatsBus
from tidewire.errors import BusError, EventsLost
from tidewire.records.batch import Batch, Lineage
from tidewire.records.clock import SeededRng, SystemClock
from tidewire.records.event import Event, data_event
from tidewire.records.record import record_type

_serial = count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with served(tmp_path_factory.mktemp("nats")) as server:
        yield server


@asynccontextmanager
async def opened(settings: NatsConfig) -> AsyncIterator[NatsBus]:
    bus = NatsBus(SystemClock(), SeededRng(next(_serial)), settings, grace=2.0)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.close()


@pytest.fixture
async def bus(server: NatsServer) -> AsyncIterator[NatsBus]:
    async with opened(config(server, f"unit{next(_serial)}")) as bus:
        yield bus


# -- between processes ----------------------------------------------------------------------------------------------


async def test_buses_of_one_prefix_share_events_and_those_of_others_do_not(server: NatsServer) -> None:
    stream, seen, strange = new_stream(), Recorder(), Recorder()
    settings = config(server, "shared.desk")
    async with opened(settings) as one, opened(settings) as two, opened(config(server, "shared.other")) as other:
        two.subscribe("*.error", seen)
        other.subscribe(">", strange)
        consumer = two.consume("sink", "data.*.processed", positions={stream: START})
        await soon(two.publish(note("a.b")))  # after it, both are there
        await soon(two.publish(data(new_stream(), 0, 0, "stored")))
        sent = note("collector.binance.error", what="it broke")
        await soon(one.publish(sent))
        await soon(one.publish(data(stream, 0, 3)))
        await seen.has(1)
        assert seen.events == [sent]
        assert span(await soon(anext(consumer))) == (0, 3)
        await soon(other.publish(note("the.last.error")))
        await strange.has(1)
        assert [event.subject for event in strange.events] == ["the.last.error"]


# -- large, damaged and foreign messages ----------------------------------------------------------------------------


def large_batch(stream: object, rows: int) -> Event:
    kind = record_type("trade")
    numbers = pl.int_range(rows, eager=True)
    columns = {
        name: numbers.hash(seed=len(name)).cast(pl.String)
        if dtype == pl.String
        else pl.repeat(None, rows, eager=True, dtype=dtype)
        for name, dtype in kind.schema.items()
    }
    return data_event("processed", Batch(kind, pl.DataFrame(columns), Lineage(stream.journal, 0, 0, 1, 0, "t")), 0)  # type: ignore[attr-defined]


async def test_what_is_larger_than_a_message_arrives_whole(bus: NatsBus) -> None:
    stream, seen = new_stream(), Recorder()
    consumer = bus.consume("sink", "data.trade.processed", positions={stream: START}, queue=1)
    bus.subscribe(">", seen)
    event, facts = large_batch(stream, 100_000), note("a.b", text="x" * 3_000_000)
    assert len(event.payload_bytes) > 3 << 20
    await soon(bus.publish(event))
    await soon(bus.publish(facts))
    item = await soon(anext(consumer))
    assert isinstance(item, Event)
    assert item.batch.rows.equals(event.batch.rows)
    await seen.has(2)
    assert seen.events[1] == facts


async def test_messages_of_others_are_counted_and_dropped(server: NatsServer) -> None:
    settings, stream, seen = config(server, "junk"), new_stream(), Recorder()
    async with opened(settings) as bus:
        consumer = bus.consume("sink", "data.trade.processed", positions={stream: START})
        bus.subscribe("data.>", seen)
        await soon(bus.publish(data(stream, 0, 1)))
        before = telemetry.value("tidewire_bus_nats_damaged_total")
        client = await nats.connect(server.url)
        await client.jetstream().publish("junk.data.trade.processed", b"hello")
        await client.close()
        await soon(bus.publish(data(stream, 1, 2)))
        assert [span(await soon(anext(consumer))) for _ in range(2)] == [(0, 1), (1, 2)]
        await seen.has(2)
        assert telemetry.value("tidewire_bus_nats_damaged_total") == before + 2


async def test_a_damaged_message_of_ours_is_told_to_consumers(server: NatsServer) -> None:
    settings, stream, seen = config(server, "damaged"), new_stream(), Recorder()
    async with opened(settings) as bus:
        consumer = bus.consume("sink", "data.trade.processed", positions={stream: START})
        bus.subscribe("data.>", seen)
        await soon(bus.publish(data(stream, 0, 1)))
        client = await nats.connect(server.url)
        headers = {"Nats-Msg-Id": "other.1.0", "Tidewire-Event": "e", "Tidewire-Hash": "0"}
        await client.jetstream().publish("damaged.data.trade.processed", b"hello", headers=headers)
        await client.close()
        await eventually(lambda: consumer.stats().queued == 1)
        await eventually(lambda: not bus._feeds[consumer].begun)  # type: ignore[index]
        with pytest.raises(EventsLost, match="a message is damaged"):
            await soon(anext(consumer))
        await soon(bus.publish(data(stream, 1, 2)))
        await seen.has(2)


# -- bounds ---------------------------------------------------------------------------------------------------------


async def test_in_flight_is_bounded_and_offers_are_refused(server: NatsServer) -> None:
    async with opened(config(server, "bounded", in_flight=2)) as bus:
        assert bus.offer(note("a.b"))
        assert bus.offer(note("a.b"))
        assert not bus.offer(note("a.b"))
        waiting = asyncio.create_task(bus.publish(note("a.b")))
        await soon(waiting)
        await eventually(lambda: bus.offer(note("a.b")))


async def test_a_cancelled_publisher_gives_its_room_back(server: NatsServer) -> None:
    async with opened(config(server, "cancelled", in_flight=2)) as bus:
        for _ in range(20):
            tasks = [asyncio.create_task(bus.publish(data(new_stream(), 0, 1))) for _ in range(6)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            await soon(asyncio.gather(*tasks, return_exceptions=True))
            assert all(task.cancelled() for task in tasks[::2])
            assert all(task.exception() is None for task in tasks[1::2])
        await eventually(lambda: bus._outbox._held == 0)
        assert not bus._outbox._jobs


async def test_subscriptions_leave_nothing_at_the_server(server: NatsServer) -> None:
    async with opened(config(server, "tidy")) as bus:
        for number in range(20):
            subscription = bus.subscribe("a.*", Recorder(), full=Full.BLOCK if number % 2 else Full.DROP_OLDEST)
            consumer = bus.consume("sink", "data.*.stored", positions={})
            once = bus.once("b.*")
            await soon(bus.publish(note("b.c")))
            await soon(once)
            bus.unsubscribe(subscription)
            consumer.close()
        await soon(bus.publish(note("a.b")))
        assert (bus._lines, bus._shared, bus._feeds) == ({}, {}, {})
        client = await nats.connect(server.url)
        assert await client.jetstream().consumers_info("tidy") == []
        await client.close()


# -- starting -------------------------------------------------------------------------------------------------------


async def why_not(settings: NatsConfig) -> str:
    with pytest.raises(BusError) as caught:
        async with opened(settings):
            pass
    return str(caught.value)


async def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    said = await why_not(config(server, "a"))
    assert said.startswith(f"No NATS server at {server.url}: ")
    assert "nats-server -js" in said
    assert "bus.servers" in said


async def test_a_server_without_jetstream_is_told(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, jetstream=False)
    server.start()
    try:
        assert "-js" in await why_not(config(server, "a"))
    finally:
        server.kill()


async def test_logins_are_used_and_their_refusal_is_told_without_them(tmp_path: Path) -> None:
    for extra, right, wrong in (
        ('authorization { token: "s3cret" }', {"token": "s3cret"}, {"token": "wr0ng"}),
        (
            'authorization { user: "tide", password: "s3cret" }',
            {"user": "tide", "password": "s3cret"},
            {"user": "tide", "password": "wr0ng"},
        ),
    ):
        server = NatsServer(tmp_path / next(iter(right)), extra)
        server.start()
        try:
            async with opened(config(server, "a", **right)) as bus:
                await soon(bus.publish(note("a.b")))
            for settings in (wrong, {}):
                said = await why_not(config(server, "a", **settings))
                assert "refused the login" in said
                assert "wr0ng" not in said
            assert "s3cret" not in repr(config(server, "a", **right))
        finally:
            server.kill()


async def test_streams_that_cannot_be_had_are_told(server: NatsServer) -> None:
    async with opened(config(server, "mine")):
        assert "bus.prefix of its own" in await why_not(config(server, "mine", stream="another"))
    assert "lower it, or give the server more max_file" in await why_not(config(server, "vast", max_bytes=1 << 45))


async def test_a_stream_is_brought_up_to_date(server: NatsServer) -> None:
    stream = new_stream()
    async with opened(config(server, "grown")) as bus:
        await soon(bus.publish(data(stream, 0, 1)))
    async with opened(config(server, "grown", max_bytes=48 << 20, max_age_s=60.0)):
        client = await nats.connect(server.url)
        info = await client.jetstream().stream_info("grown")
        await client.close()
    assert (info.config.max_bytes, info.config.max_age, info.config.duplicate_window) == (48 << 20, 60.0, 60.0)
    assert info.state.messages == 1


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    files = directory / "server.pem", directory / "server.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-out", str(files[0]), "-keyout", str(files[1])),
        ],
        check=True,
        capture_output=True,
    )
    return files


async def test_tls_is_spoken_where_the_server_wants_it(tmp_path: Path) -> None:
    signed, key = certificate(tmp_path)
    server = NatsServer(tmp_path / "server", f'tls {{ cert_file: "{signed}", key_file: "{key}" }}')
    server.start()
    try:
        async with opened(config(server, "a", ca=signed)) as bus:
            await soon(bus.publish(note("a.b")))
        assert "bus.tls_ca" in await why_not(config(server, "a"))
    finally:
        server.kill()


def test_nothing_is_trusted_blindly(tmp_path: Path) -> None:
    from tidewire.bus._nats_link import tls_context

    signed, _ = certificate(tmp_path)
    context = tls_context(NatsConfig(ca=signed))
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
