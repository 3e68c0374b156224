from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from tidewire import telemetry
from tidewire.collect.ws import WsClient
from tidewire.collect.ws_config import WsConfig, WsState
from tidewire.errors import InputError, TransientError
from tidewire.records.clock import Clock, ManualClock, SeededRng, SystemClock, UpstreamClock

TEXT, BINARY, PING, PONG = WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.PING, WSMsgType.PONG
CONTINUATION = WSMsgType.CONTINUATION
QUICK = WsConfig(backoff_s=0.001, backoff_s_max=0.002, trust_env=False, messages_per_second=10_000)


class Peer(WSListener):
    """The server's end of one connection: keeps what came, answers pings unless told not to."""

    def __init__(self, server: Server, request: WSUpgradeRequest) -> None:
        self.server, self.request = server, request
        self.texts: list[str] = []
        self.frames: list[tuple[WSMsgType, bytes]] = []
        self.transport: Any = None
        self.gone = False

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.server.peers.append(self)
        self.server.greet(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        self.frames.append((frame.msg_type, payload))
        if frame.msg_type is TEXT:
            self.texts.append(payload.decode())
        elif frame.msg_type is PING and self.server.answers_pings:
            transport.send_pong(payload)
        elif frame.msg_type is WSMsgType.CLOSE:
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.gone = True


class Server:
    """A real picows server on loopback."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.answers_pings = True
        self.refuses = False
        self.greet: Callable[[Peer], None] = lambda _: None
        self.url = ""

    def listen(self, request: WSUpgradeRequest) -> Peer | None:
        return None if self.refuses else Peer(self, request)


@asynccontextmanager
async def serving(greet: Callable[[Peer], None] = lambda _: None) -> AsyncIterator[Server]:
    server = Server()
    server.greet = greet
    listening = await ws_create_server(server.listen, "127.0.0.1", 0, enable_auto_pong=False)
    server.url = f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}/ws"
    try:
        yield server
    finally:
        for peer in server.peers:
            peer.transport.disconnect(graceful=False)
        listening.close()
        await listening.wait_closed()


class Feed:
    """A client that writes down everything it is told, in order."""

    def __init__(self, url: str, config: WsConfig = QUICK, clock: Clock | None = None) -> None:
        self.log: list[WsState | bytes] = []
        self.frames: list[bytes] = []
        self.stamps: list[int] = []
        self.states: list[WsState] = []
        self.client = WsClient(url, self.on_frame, self.on_state, clock or SystemClock(), SeededRng(1), config)

    def on_frame(self, payload: bytes, wall_ns: int) -> None:
        self.log.append(payload)
        self.frames.append(payload)
        self.stamps.append(wall_ns)

    def on_state(self, state: WsState) -> None:
        self.log.append(state)
        self.states.append(state)

    @property
    def reasons(self) -> list[str]:
        return [state.reason for state in self.states]


@asynccontextmanager
async def feeding(url: str, config: WsConfig = QUICK, clock: Clock | None = None) -> AsyncIterator[Feed]:
    feed = Feed(url, config, clock)
    feed.client.start()
    try:
        yield feed
    finally:
        await feed.client.stop()


async def until(condition: Callable[[], bool], what: str = "the condition") -> None:
    try:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - conditions of real sockets have no event
                await asyncio.sleep(0)
    except TimeoutError:
        pytest.fail(f"{what} did not come true in 5 s")


async def test_frames_come_whole_in_order_and_stamped() -> None:
    async with serving() as server, feeding(server.url) as feed:
        await until(lambda: feed.client.connected)
        before = SystemClock().wall_ns()
        for number in range(500):
            server.peers[0].transport.send(TEXT if number % 2 else BINARY, b"%d" % number)
        await until(lambda: len(feed.frames) == 500)
        assert feed.frames == [b"%d" % number for number in range(500)]
        assert before <= feed.stamps[0] <= feed.stamps[-1] <= SystemClock().wall_ns()
        assert feed.stamps == sorted(feed.stamps)
        assert feed.client.last_frame_ns == feed.stamps[-1]
        assert (feed.client.connects, feed.reasons) == (1, ["connected"])
        assert "Sec-WebSocket-Extensions" not in server.peers[0].request.headers


async def test_states_stand_before_and_after_the_frames_of_their_connection() -> None:
    def greet(peer: Peer) -> None:
        peer.transport.send(TEXT, b"first words")
        peer.transport.send_close(WSCloseCode.GOING_AWAY, b"maintenance")

    async with serving(greet) as server, feeding(server.url) as feed:
        await until(lambda: len(feed.states) >= 4)
        shape = [entry if isinstance(entry, bytes) else (entry.connected, entry.connection) for entry in feed.log[:6]]
        assert shape == [(True, 1), b"first words", (False, 1), (True, 2), b"first words", (False, 2)]
        assert feed.reasons[1] == "closed by the other side: 1001 maintenance"
        assert feed.states[0].since_ns <= feed.states[1].since_ns
    name = server.url.split("/")[2]
    assert telemetry.value("tidewire_collect_ws_disconnects_total", source=name, cause="closed") >= 2
    assert telemetry.value("tidewire_collect_ws_up", source=name) == 0


async def test_close_codes_without_a_name_are_told() -> None:
    async with (
        serving(lambda peer: peer.transport.underlying_transport.write(b"\x88\x04\x0f\xa1no")) as server,
        feeding(server.url) as feed,
    ):
        await until(lambda: len(feed.states) >= 2)
        assert feed.reasons[1] == "closed by the other side: 4001 no"


async def test_an_abrupt_end_in_the_middle_of_a_frame() -> None:
    async with serving() as server, feeding(server.url) as feed:
        await until(lambda: feed.client.connected)
        peer = server.peers[0]
        peer.transport.send(TEXT, b"whole")
        peer.transport.underlying_transport.write(b"\x81\x7e\x01\x00half of it")
        peer.transport.disconnect()
        await until(lambda: feed.client.connects == 2)
        assert feed.frames == [b"whole"]
        assert feed.reasons[:3] == ["connected", "connection lost", "connected"]


async def test_subscriptions_are_sent_again_by_the_caller() -> None:
    async with serving() as server:
        feed = Feed(server.url)

        def on_state(state: WsState) -> None:
            if state.connected:
                feed.client.send_text(f"subscribe {state.connection}")

        feed.client = WsClient(server.url, feed.on_frame, on_state, SystemClock(), SeededRng(1), QUICK)
        feed.client.start()
        await until(lambda: bool(server.peers and server.peers[0].texts))
        server.peers[0].transport.disconnect()
        await until(lambda: len(server.peers) == 2 and bool(server.peers[1].texts))
        assert [peer.texts for peer in server.peers] == [["subscribe 1"], ["subscribe 2"]]
        await feed.client.stop()


async def test_refusals_are_told_each_time_and_never_end_it() -> None:
    async with serving() as server:
        server.refuses = True
        async with feeding(server.url) as feed:
            await until(lambda: len(feed.states) >= 3)
            assert all("404" in reason and reason.startswith("connect failed") for reason in feed.reasons[:3])
            assert {(state.connected, state.connection) for state in feed.states[:3]} == {(False, 0)}
            server.refuses = False
            await until(lambda: feed.client.connected)
    assert (
        telemetry.value("tidewire_collect_ws_disconnects_total", source=server.url.split("/")[2], cause="refused") >= 3
    )


async def test_nobody_there() -> None:
    async with serving() as server:
        pass
    async with feeding(server.url) as feed:
        await until(lambda: len(feed.states) >= 2)
        assert feed.reasons[0].startswith("connect failed: ConnectionRefusedError")
        with pytest.raises(TransientError, match="not connected"):
            feed.client.send_text("x")


async def test_a_server_that_goes_before_it_answers_is_tried_again() -> None:
    def go(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    server = await asyncio.start_server(go, "127.0.0.1", 0)
    async with server, feeding(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws") as feed:
        await until(lambda: len(feed.states) >= 3)
        assert {state.connected for state in feed.states} == {False}
        assert all(reason.startswith("connect failed: ") for reason in feed.reasons)


async def test_a_server_that_never_shakes_hands() -> None:
    writers: list[asyncio.StreamWriter] = []

    async def mute(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with feeding(url, replace(QUICK, connect_timeout_s=0.02)) as feed:
        await until(lambda: len(feed.states) >= 2)
        assert "imeout" in feed.reasons[0] or "time-out" in feed.reasons[0]
    for writer in writers:
        writer.close()
    server.close()
    await server.wait_closed()


async def test_back_off_grows_and_starts_over_after_a_good_connection() -> None:
    class Highest(SeededRng):
        def uniform(self, low: float, high: float) -> float:
            return high

    clock = ManualClock()
    config = replace(QUICK, backoff_s=1, backoff_s_max=6, stable_s=10, silence_s=1000, ping_idle_s=1000)
    async with serving() as server:
        server.refuses = True
        feed = Feed(server.url)
        feed.client = WsClient(server.url, feed.on_frame, feed.on_state, clock, Highest(), config)
        feed.client.start()
        for failures, wait_s in enumerate([2, 4, 6, 6], start=1):
            await until(lambda: len(feed.states) == failures and clock.sleepers == 1)  # noqa: B023
            await clock.advance(wait_s - 0.001)
            assert (len(feed.states), clock.sleepers) == (failures, 1)
            server.refuses = failures < 4
            await clock.advance(0.001)
        await until(lambda: feed.client.connected)
        server.peers[0].transport.send(TEXT, b"data")
        await until(lambda: bool(feed.frames))
        await clock.advance(10)
        server.peers[0].transport.disconnect()
        await until(lambda: not feed.client.connected and clock.sleepers == 1)
        await clock.advance(0.999)
        assert feed.client.connects == 1
        await clock.advance(0.001)
        await until(lambda: feed.client.connects == 2)
        await feed.client.stop()


@pytest.mark.parametrize("first", [False, True])
async def test_silence_makes_a_new_connection_even_if_nothing_ever_came(first: bool) -> None:
    clock = ManualClock()
    config = replace(QUICK, silence_s=30, ping_idle_s=7, pong_timeout_s=3)
    async with serving() as server, feeding(server.url, config, clock) as feed:
        await until(lambda: feed.client.connected and clock.sleepers > 0)
        if first:
            await clock.advance(5)
            server.peers[0].transport.send(TEXT, b"the last")
            await until(lambda: feed.frames == [b"the last"])
        for _ in range(29):
            await clock.advance(1)
            pings = sum(kind is PING for kind, _ in server.peers[0].frames)
            server.peers[0].transport.send_ping(b"alive")
            answered = sum(kind is PONG for kind, _ in server.peers[0].frames)
            await until(lambda: sum(kind is PONG for kind, _ in server.peers[0].frames) > answered)  # noqa: B023
        assert feed.client.connected, "pings are life, but not data"
        assert pings == 0, "the server was heard all the time"
        await clock.advance(1)
        await until(lambda: len(feed.states) >= 2)
        assert feed.reasons[1] == "silence: no data for 30 s"
        await clock.advance(1)
        await until(lambda: feed.client.connects == 2)


async def test_an_idle_connection_is_pinged_and_lives_by_its_pongs() -> None:
    clock = ManualClock()
    config = replace(QUICK, silence_s=1000, ping_idle_s=10, pong_timeout_s=5)
    async with serving() as server, feeding(server.url, config, clock) as feed:
        await until(lambda: feed.client.connected and clock.sleepers > 0)
        for number in range(1, 6):
            await clock.advance(10)
            await until(lambda: sum(kind is PING for kind, _ in server.peers[0].frames) == number)  # noqa: B023
            link: Any = feed.client._link
            await until(lambda: link._pinged_ns is None)  # noqa: B023
        assert (feed.client.connects, len(feed.states)) == (1, 1)
        server.answers_pings = False
        await clock.advance(10)
        await until(lambda: sum(kind is PING for kind, _ in server.peers[0].frames) == 6)
        await clock.advance(4.9)
        assert feed.client.connected
        await clock.advance(0.2)
        await until(lambda: len(feed.states) >= 2)
        assert feed.reasons[1] == "no pong within 5 s"


async def test_data_after_a_ping_is_as_good_as_a_pong() -> None:
    clock = ManualClock()
    config = replace(QUICK, silence_s=1000, ping_idle_s=10, pong_timeout_s=5)
    async with serving() as server, feeding(server.url, config, clock) as feed:
        server.answers_pings = False
        await until(lambda: feed.client.connected and clock.sleepers > 0)
        await clock.advance(11)
        server.peers[0].transport.send(TEXT, b"busy")
        await until(lambda: bool(feed.frames))
        await clock.advance(9.5)
        assert len(feed.states) == 1


async def test_server_pings_are_answered_with_their_payload() -> None:
    async with serving() as server, feeding(server.url) as feed:
        await until(lambda: feed.client.connected)
        server.peers[0].transport.send_ping(b"1723161255343")
        await until(lambda: (PONG, b"1723161255343") in server.peers[0].frames)
        assert feed.frames == []


async def test_fragments_are_joined() -> None:
    async with serving() as server, feeding(server.url) as feed:
        await until(lambda: feed.client.connected)
        send = server.peers[0].transport.send
        send(TEXT, b"one ", fin=False)
        send(CONTINUATION, b"", fin=False)
        server.peers[0].transport.send_ping(b"between")
        send(CONTINUATION, b"message", fin=True)
        send(BINARY, b"", fin=False)
        send(CONTINUATION, b"", fin=True)
        send(TEXT, b"next")
        await until(lambda: len(feed.frames) == 3)
        assert feed.frames == [b"one message", b"", b"next"]
        assert feed.client.connects == 1


async def test_fragments_have_a_size_cap() -> None:
    async with serving() as server, feeding(server.url, replace(QUICK, message_bytes_max=1000)) as feed:
        await until(lambda: feed.client.connected)
        server.peers[0].transport.send(TEXT, b"x" * 600, fin=False)
        server.peers[0].transport.send(CONTINUATION, b"x" * 600, fin=False)
        await until(lambda: feed.client.connects == 2)
        assert (feed.reasons[1], feed.frames) == ("message over 1000 bytes", [])


async def test_one_frame_has_the_same_cap() -> None:
    async with serving() as server, feeding(server.url, replace(QUICK, message_bytes_max=1000)) as feed:
        await until(lambda: feed.client.connected)
        server.peers[0].transport.send(TEXT, b"x" * 1001)
        await until(lambda: feed.client.connects == 2)
        assert feed.reasons[1].startswith("protocol error: 1009")
        assert feed.frames == []


@pytest.mark.parametrize("kinds", [[(CONTINUATION, True)], [(TEXT, False), (TEXT, True)]])
async def test_mixed_fragments_are_a_protocol_error(kinds: list[tuple[WSMsgType, bool]]) -> None:
    async with serving() as server, feeding(server.url) as feed:
        await until(lambda: feed.client.connected)
        for kind, fin in kinds:
            server.peers[0].transport.send(kind, b"x", fin=fin)
        await until(lambda: feed.client.connects == 2)
        assert (feed.reasons[1], feed.frames) == ("protocol error: fragments of two messages mixed", [])


async def test_an_upstream_that_plays_a_recording_says_its_time() -> None:
    clock = UpstreamClock()
    told = [1_723_161_255_343_000_000, 1_723_161_255_350_000_000]
    async with serving() as server, feeding(server.url, replace(QUICK, clock=clock), clock) as feed:
        await until(lambda: feed.client.connected)
        transport = server.peers[0].transport
        for wall_ns in told:
            transport.send_pong(b"TW" + struct.pack("<q", wall_ns))
            transport.send(TEXT, b"a")
            transport.send(TEXT, b"b")
        await until(lambda: len(feed.frames) == 4)
        assert feed.stamps == [told[0], told[0], told[1], told[1]]
        assert clock.wall_ns() == told[1]
        transport.disconnect()
        await until(lambda: len(feed.states) >= 2)
        assert feed.states[1].since_ns == told[1]


async def test_other_unsolicited_pongs_mean_nothing() -> None:
    clock = UpstreamClock()
    async with (
        serving() as server,
        feeding(server.url, replace(QUICK, clock=clock)) as feed,
        feeding(server.url) as plain,
    ):
        await until(lambda: len(server.peers) == 2)
        for peer in server.peers:
            peer.transport.send_pong(b"TW short")
            peer.transport.send_pong(b"XX" + struct.pack("<q", 5))
            peer.transport.send(TEXT, b"a")
        await until(lambda: bool(feed.frames and plain.frames))
        server.peers[1].transport.send_pong(b"TW" + struct.pack("<q", 5))
        server.peers[1].transport.send(TEXT, b"b")
        await until(lambda: len(feed.frames) + len(plain.frames) == 3)
        now_ns = SystemClock().wall_ns()
        assert all(now_ns - 10**10 < stamp <= now_ns for stamp in plain.stamps)


async def test_texts_are_spaced_and_in_order() -> None:
    clock = ManualClock()
    config = replace(QUICK, messages_per_second=5, silence_s=1000, ping_idle_s=1000)
    async with serving() as server, feeding(server.url, config, clock) as feed:
        await until(lambda: feed.client.connected)
        for number in range(8):
            feed.client.send_text(str(number))
        peer = server.peers[0]
        await until(lambda: peer.texts == ["0"])
        await clock.advance(0.39)
        await until(lambda: peer.texts == ["0", "1"])
        await clock.advance(0.61)
        await until(lambda: len(peer.texts) == 6)
        await clock.advance(0.4)
        await until(lambda: len(peer.texts) == 8)
        assert peer.texts == [str(number) for number in range(8)]


async def test_the_queue_of_texts_is_bounded() -> None:
    config = replace(QUICK, messages_per_second=0.001, queue_max=3)
    async with serving() as server, feeding(server.url, config) as feed:
        await until(lambda: feed.client.connected)
        feed.client.send_text("goes")
        await until(lambda: server.peers[0].texts == ["goes"])
        for _ in range(3):
            feed.client.send_text("waits")
        with pytest.raises(TransientError, match="3 messages already wait"):
            feed.client.send_text("too many")


async def test_pause_is_felt_by_the_server_and_loses_nothing() -> None:
    clock = ManualClock()
    config = replace(QUICK, silence_s=30, ping_idle_s=10, pong_timeout_s=5)
    async with serving() as server, feeding(server.url, config, clock) as feed:
        await until(lambda: feed.client.connected and clock.sleepers > 0)
        feed.client.pause()
        transport = server.peers[0].transport
        sent = 0
        while transport.underlying_transport.get_write_buffer_size() == 0:
            transport.send(BINARY, struct.pack("<q", sent) + bytes(100_000))
            sent += 1
            assert sent < 2000
        assert feed.frames == []
        await clock.advance(120)
        assert feed.client.connected, "a paused connection is not silent"
        assert feed.client.paused
        feed.client.resume()
        await until(lambda: len(feed.frames) == sent)
        assert [struct.unpack_from("<q", frame)[0] for frame in feed.frames] == list(range(sent))
        assert feed.client.connects == 1


async def test_pause_lasts_over_a_new_connection() -> None:
    clock = ManualClock()
    async with serving(lambda peer: peer.transport.send(TEXT, b"hi")) as server:
        feed = Feed(server.url, QUICK, clock)
        feed.client.pause()
        feed.client.start()
        await until(lambda: feed.client.connected)
        server.peers[0].transport.send(TEXT, b"more")
        for _ in range(50):
            await asyncio.sleep(0)
        assert b"more" not in feed.frames, "only what came with the handshake is delivered"
        feed.client.resume()
        await until(lambda: feed.frames == [b"hi", b"more"])
        await feed.client.stop()


async def test_a_caller_that_fails_gets_nothing_more_of_that_connection() -> None:
    async with serving() as server:
        feed = Feed(server.url)
        broken = [b"2"]

        def on_frame(payload: bytes, wall_ns: int) -> None:
            if payload in broken:
                broken.clear()
                raise RuntimeError("journal is full")
            feed.on_frame(payload, wall_ns)

        feed.client = WsClient(server.url, on_frame, feed.on_state, SystemClock(), SeededRng(1), QUICK)
        feed.client.start()
        await until(lambda: feed.client.connected)
        peer = server.peers[0]
        frames = b"".join(b"\x81\x01" + b"%d" % number for number in range(5))
        peer.transport.underlying_transport.write(frames)
        await until(lambda: feed.client.connects == 2)
        assert feed.frames == [b"0", b"1"]
        assert feed.reasons[1] == "on_frame failed: RuntimeError"
        await feed.client.stop()


async def test_on_state_that_fails_does_not_end_the_client() -> None:
    async with serving() as server:
        calls: list[WsState] = []

        def on_state(state: WsState) -> None:
            calls.append(state)
            if len(calls) == 1:
                raise RuntimeError("cannot subscribe")

        client = WsClient(server.url, lambda *_: None, on_state, SystemClock(), SeededRng(1), QUICK)
        client.start()
        await until(lambda: client.connects == 2)
        assert [state.reason for state in calls] == ["connected", "on_state failed", "connected"]
        await client.stop()


async def test_keys_go_out_in_the_handshake() -> None:
    keys = iter(["one", "two"])
    async with (
        serving() as server,
        feeding(server.url, replace(QUICK, headers=lambda: {"X-Key": next(keys)})) as feed,
    ):
        await until(lambda: feed.client.connected)
        server.peers[0].transport.disconnect()
        await until(lambda: feed.client.connects == 2)
        assert [peer.request.headers["X-Key"] for peer in server.peers] == ["one", "two"]


async def test_an_explicit_proxy_is_used() -> None:
    heads: list[bytes] = []

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
        writer.close()

    proxy = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    address = f"http://user:pass-5150@127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    async with feeding("ws://exchange.invalid:9443/ws", replace(QUICK, proxy=address)) as feed:
        await until(lambda: len(feed.states) >= 1)
    assert heads[0].startswith(b"CONNECT exchange.invalid:9443 HTTP/1.1\r\n")
    assert feed.reasons[0].startswith("connect failed: ProxyError")
    assert "5150" not in "".join(feed.reasons)
    proxy.close()
    await proxy.wait_closed()


async def test_stop_says_goodbye_and_delivers_no_more() -> None:
    async with serving() as server, feeding(server.url) as feed:
        await until(lambda: feed.client.connected)
        feed.client.start()
        await feed.client.stop()
        await feed.client.stop()
        assert feed.reasons == ["connected", "stopped"]
        assert not feed.client.connected
        await until(lambda: server.peers[0].gone)
        closing = [payload for kind, payload in server.peers[0].frames if kind is WSMsgType.CLOSE]
        assert closing == [struct.pack(">H", 1000) + b"stopped"]
        assert len(server.peers) == 1


async def test_stop_while_it_waits_to_connect_again() -> None:
    clock = ManualClock()
    async with serving() as server:
        server.refuses = True
        feed = Feed(server.url, replace(QUICK, backoff_s=100), clock)
        feed.client.start()
        await until(lambda: clock.sleepers == 1)
        await feed.client.stop()
        assert len(feed.states) == 1


@pytest.mark.parametrize("after", range(12))
async def test_stop_at_any_moment_of_connecting_leaves_no_connection(after: int) -> None:
    async with serving() as server:
        feed = Feed(server.url)
        feed.client.start()
        for _ in range(after):
            await asyncio.sleep(0)
        await feed.client.stop()
        for _ in range(50):
            await asyncio.sleep(0)
        assert not feed.client.connected
        assert feed.reasons in ([], ["connected", "stopped"])
        await until(lambda: all(peer.gone for peer in server.peers))


@pytest.mark.parametrize("url", ["http://h/x", "ws://", "h"])
def test_a_bad_url_says_so(url: str) -> None:
    with pytest.raises(InputError, match="write ws:// or wss://"):
        Feed(url)


@pytest.mark.parametrize("name", ["silence_s", "queue_max", "messages_per_second"])
def test_bad_options_say_so(name: str) -> None:
    with pytest.raises(InputError, match=name):
        WsConfig(**{name: 0})  # type: ignore[arg-type]
