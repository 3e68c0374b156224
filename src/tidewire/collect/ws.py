"""The WebSocket client of every source: one connection that is kept up for ever, and says so when it is not."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import Callable
from typing import cast

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from tidewire import telemetry
from tidewire.collect.http import env_proxy, websocket_url
from tidewire.collect.masked import told
from tidewire.collect.timer import within
from tidewire.collect.ws_config import WsConfig, WsState
from tidewire.errors import TransientError
from tidewire.records.clock import Clock, Rng

_SECOND_NS = 1_000_000_000
_CLOSE_TIMEOUT_S = 2.0
_TEXT = WSMsgType.TEXT
_BINARY = WSMsgType.BINARY
_TOLD = struct.Struct("<2sq")
_TOLD_MAGIC = b"TW"
_log = telemetry.log("collect")
_up = telemetry.gauge("collect_ws_up", "WebSocket connections that are up", ("source",))
_connects = telemetry.counter("collect_ws_connects", "WebSocket connections opened", ("source",))
_ends = telemetry.counter(
    "collect_ws_disconnects",
    "WebSocket connections ended or not opened, by cause: silence, no_pong, closed, lost, refused, error, stopped",
    ("source", "cause"),
)


class WsClient:
    """Keeps one WebSocket connection up, from `start` to `stop`.

    ``on_frame(payload, wall_ns)`` gets every message, whole and in order, inside the callback of the socket: it must
    be quick and must not raise; if it does the connection is closed, so that nothing follows what was lost.
    ``on_state`` is called for each connection opened and ended and for each attempt that failed, also in order with
    the frames. Subscriptions do not outlive a connection: send them again in ``on_state(connected)``.

    ``clock`` measures and waits; frames are stamped with ``config.clock`` if there is one, else with ``clock``.
    """

    def __init__(
        self,
        url: str,
        on_frame: Callable[[bytes, int], None],
        on_state: Callable[[WsState], None],
        clock: Clock,
        rng: Rng,
        config: WsConfig | None = None,
    ) -> None:
        self._url = websocket_url(url)
        self._on_frame = on_frame
        self._on_state = on_state
        self._clock = clock
        self._rng = rng
        self._config = config or WsConfig()
        self._stamp: Clock = self._config.clock or clock
        self._name = self._config.name or self._url.authority.rpartition("@")[2]
        self._link: _Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._paused = False
        self._connects = 0
        self._last_frame_ns: int | None = None

    @property
    def connected(self) -> bool:
        """Whether a connection is open now."""
        return self._link is not None

    @property
    def connects(self) -> int:
        """How many connections were opened so far."""
        return self._connects

    @property
    def age_s(self) -> float:
        """How long the connection has been open; 0 when there is none."""
        return 0.0 if self._link is None else self._link.lived_s

    @property
    def frames(self) -> int:
        """How many messages the connection brought."""
        return 0 if self._link is None else self._link.frames

    @property
    def last_frame_ns(self) -> int | None:
        """The stamp of the last data frame; ``None`` before the first."""
        return self._link.last_frame_ns or self._last_frame_ns if self._link is not None else self._last_frame_ns

    @property
    def paused(self) -> bool:
        """Whether reading is paused."""
        return self._paused

    def start(self) -> None:
        """Begin to connect; nothing happens when it was started already. Needs a running event loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep_up(), name=f"ws {self._name}")

    async def stop(self) -> None:
        """Close the connection and connect no more. No frame is delivered after this returns."""
        task, self._task = self._task, None
        if task is None:
            return
        await self._say_goodbye()
        task.cancel()
        await asyncio.wait((task,))
        # A handshake may have ended in the very moment of the cancellation.
        await self._say_goodbye()

    async def _say_goodbye(self) -> None:
        link = self._link
        if link is None:
            return
        link.end("stopped", "stopped", WSCloseCode.OK)
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await link.closed.wait()
        except TimeoutError:
            _log.warning("websocket did not close in time", source=self._name)

    def send_text(self, text: str) -> None:
        """Queue a text message; sent in order, at most ``messages_per_second``.

        Raises `TransientError` when there is no connection, or ``queue_max`` texts wait already. What waits when the
        connection ends is dropped.
        """
        if self._link is None:
            raise TransientError(f"{self._name}: not connected; send again once on_state says connected.")
        self._link.queue(text)

    def reconnect(self, reason: str) -> None:
        """Give up the connection, if there is one, and make another; ``reason`` is told."""
        if self._link is not None:
            self._link.end("silence", reason, WSCloseCode.GOING_AWAY)

    def pause(self) -> None:
        """Read no more, on this connection and the next ones: the upstream feels it as TCP back-pressure.

        What was read from the socket already is still delivered.
        """
        self._paused = True
        if self._link is not None:
            self._link.read(False)

    def resume(self) -> None:
        """Read again after `pause`."""
        self._paused = False
        if self._link is not None:
            self._link.read(True)

    async def _keep_up(self) -> None:
        failures = 0
        while True:
            stable = await self._connection()
            failures = 0 if stable else failures + 1
            grown_s = self._config.backoff_s * 2.0 ** min(failures, 30)
            wait_s = self._rng.uniform(0.0, min(self._config.backoff_s_max, grown_s))
            _log.info("websocket reconnects", source=self._name, wait_s=wait_s, failures=failures)
            await self._clock.sleep(wait_s)

    async def _connection(self) -> bool:
        """One connection from its opening to its end; whether it was a good one."""
        link = _Link(self, self._on_frame, self._clock, self._stamp, self._config)
        try:
            await self._open(link)
        except asyncio.CancelledError:
            link.abandoned = True
            raise
        except Exception as error:
            # Proxy and TLS libraries raise errors of their own; none of them may end the reconnecting.
            link.abandoned = True
            if link.opened:
                link.end("error", told(error), WSCloseCode.GOING_AWAY)
                await link.closed.wait()
            else:
                self._failed(error)
            return False
        helpers = (asyncio.create_task(link.watch()), asyncio.create_task(link.send_queued()))
        try:
            await link.closed.wait()
            await link.retrieve()
        finally:
            for helper in helpers:
                helper.cancel()
            for outcome in await asyncio.gather(*helpers, return_exceptions=True):
                if isinstance(outcome, Exception):
                    _log.error("websocket helper failed", source=self._name, error=told(outcome))
        return link.frames > 0 and link.lived_s >= self._config.stable_s

    async def _open(self, link: _Link) -> None:
        config = self._config
        if config.gate is not None:
            await config.gate()
        headers = dict(config.headers()) if config.headers is not None else {}
        async with asyncio.timeout(config.connect_timeout_s):
            await ws_connect(
                lambda: link,
                str(self._url),
                websocket_handshake_timeout=config.connect_timeout_s,
                enable_auto_pong=False,
                max_frame_size=config.message_bytes_max,
                extra_headers=headers,
                max_redirects=0,
                proxy=config.proxy or env_proxy(self._url, config.trust_env),
            )
        if not link.opened:  # the peer went before it answered; picows returns as if all were well
            raise TransientError("lost before the handshake was done")

    def _failed(self, error: Exception) -> None:
        _ends.labels(self._name, "refused").inc()
        self.tell(False, f"connect failed: {'time-out' if isinstance(error, TimeoutError) else told(error)}")

    # What follows is called by the link.

    def opened(self, link: _Link) -> None:
        """The handshake is done; frames may follow at once."""
        self._link = link
        self._connects += 1
        _connects.labels(self._name).inc()
        _up.labels(self._name).inc()
        if self._paused:
            link.read(False)
        if not self.tell(True, "connected"):
            link.end("error", "on_state failed", WSCloseCode.OK)

    def ended(self, link: _Link, cause: str, reason: str) -> None:
        """The connection is over; no frame of it follows."""
        self._last_frame_ns = link.last_frame_ns or self._last_frame_ns
        self._link = None
        _ends.labels(self._name, cause).inc()
        _up.labels(self._name).dec()
        self.tell(False, reason)

    def tell(self, connected: bool, reason: str) -> bool:
        """Report a change; whether the caller took it."""
        state = WsState(connected, self._connects, reason, self._stamp.wall_ns())
        say = _log.info if connected or reason == "stopped" else _log.warning
        say("websocket", source=self._name, connected=connected, connection=self._connects, reason=reason)
        try:
            self._on_state(state)
        except Exception:
            _log.exception("on_state of a websocket raised", source=self._name)
            return False
        return True


class _Link(WSListener):
    """One connection."""

    def __init__(
        self,
        client: WsClient,
        on_frame: Callable[[bytes, int], None],
        clock: Clock,
        stamp: Clock,
        config: WsConfig,
    ) -> None:
        self._client = client
        self._on_frame = on_frame
        self._clock = clock
        self._config = config
        self._wall_ns = stamp.wall_ns
        self._mono_ns = clock.mono_ns
        self._transport: WSTransport | None = None
        self._reading = True
        self._resumed = asyncio.Event()
        self._ended: tuple[str, str] | None = None
        self._fragments: list[bytes] | None = None
        self._fragments_bytes = 0
        self._queue: deque[bytes] = deque()
        self._queued = asyncio.Event()
        self._next_send_ns = 0
        self._spacing_ns = round(_SECOND_NS / config.messages_per_second)
        self._opened_ns = 0
        self.opened = False
        self._data_ns = 0
        self._heard_ns = 0
        self._pinged_ns: int | None = None
        self.abandoned = False
        self.closed = asyncio.Event()
        self.frames = 0
        self.last_frame_ns: int | None = None

    @property
    def lived_s(self) -> float:
        return (self._mono_ns() - self._opened_ns) / _SECOND_NS

    def on_ws_connected(self, transport: WSTransport) -> None:
        if self.abandoned:
            transport.disconnect(graceful=False)
            return
        self._transport = transport
        self.opened = True
        self._opened_ns = self._data_ns = self._heard_ns = self._mono_ns()
        self._client.opened(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if (kind is _TEXT or kind is _BINARY) and frame.fin and self._fragments is None:
            self._deliver(frame.get_payload_as_bytes())
        else:
            self._heard_ns = self._mono_ns()
            self._seldom(transport, frame, kind)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.opened:
            return
        cause, reason = self._ended or _why(transport)
        self._client.ended(self, cause, reason)
        self.closed.set()

    def _deliver(self, payload: bytes) -> None:
        if self._ended is not None:
            return
        self._data_ns = self._mono_ns()
        self.last_frame_ns = wall_ns = self._wall_ns()
        self.frames += 1
        try:
            self._on_frame(payload, wall_ns)
        except Exception as error:
            _log.exception("on_frame of a websocket raised")
            self.end("error", f"on_frame failed: {type(error).__name__}", WSCloseCode.GOING_AWAY)

    def _seldom(self, transport: WSTransport, frame: WSFrame, kind: WSMsgType) -> None:
        """Everything but a whole data message."""
        if kind is WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
            self._next_send_ns = max(self._next_send_ns, self._mono_ns()) + self._spacing_ns
        elif kind is WSMsgType.PONG:
            self._pong(frame.get_payload_as_bytes())
        elif kind is WSMsgType.CLOSE:
            code = frame.get_close_code()
            transport.send_close(WSCloseCode.OK if code is WSCloseCode.NO_INFO else code)
            transport.disconnect()
        elif (kind is WSMsgType.CONTINUATION) == (self._fragments is None):
            self.end("error", "protocol error: fragments of two messages mixed", WSCloseCode.PROTOCOL_ERROR)
        else:
            self._join(frame)

    def _join(self, frame: WSFrame) -> None:
        fragments = self._fragments = self._fragments or []
        fragments.append(frame.get_payload_as_bytes())
        self._fragments_bytes += len(fragments[-1])
        if self._fragments_bytes > self._config.message_bytes_max:
            self.end("error", f"message over {self._config.message_bytes_max} bytes", WSCloseCode.MESSAGE_TOO_BIG)
        elif frame.fin:
            self._fragments, self._fragments_bytes = None, 0
            self._deliver(b"".join(fragments))

    def _pong(self, payload: bytes) -> None:
        if len(payload) == _TOLD.size and payload.startswith(_TOLD_MAGIC):
            if self._config.clock is not None:
                self._config.clock.tell(_TOLD.unpack(payload)[1])
        else:
            self._pinged_ns = None

    def end(self, cause: str, reason: str, code: WSCloseCode) -> None:
        """Close now; the first reason given is the one told."""
        if self._ended is not None or self._transport is None:
            return
        self._ended = (cause, reason)
        self._transport.send_close(code, reason.encode()[:100])
        # Not gracefully: a peer that no longer reads would keep the connection half open for minutes.
        self._transport.disconnect(graceful=False)

    async def retrieve(self) -> None:
        """Take the exception that picows keeps for whoever waits; `_why` tells the same."""
        if self._transport is not None:
            with contextlib.suppress(Exception):
                await self._transport.wait_disconnected()

    def read(self, on: bool) -> None:
        """Read from the socket, or not."""
        if on == self._reading or self._transport is None or self._transport.is_disconnected:
            return
        self._reading = on
        if on:
            # The upstream could not be heard meanwhile: its silence counts from here.
            self._data_ns = self._heard_ns = self._mono_ns()
            self._pinged_ns = None
            self._transport.underlying_transport.resume_reading()
            self._resumed.set()
        else:
            self._resumed.clear()
            self._transport.underlying_transport.pause_reading()

    def queue(self, text: str) -> None:
        """Put a text in the line."""
        if len(self._queue) >= self._config.queue_max:
            raise TransientError(
                f"{self._config.queue_max} messages already wait to be sent: send fewer or larger ones."
            )
        self._queue.append(text.encode())
        self._queued.set()

    async def send_queued(self) -> None:
        """Send what is queued, evenly spaced: a burst could break the host's limit, which counts pongs too."""
        while True:
            await self._queued.wait()
            wait_ns = self._next_send_ns - self._mono_ns()
            if wait_ns > 0:
                await self._clock.sleep(wait_ns / _SECOND_NS)
                continue
            text = self._queue.popleft()
            if not self._queue:
                self._queued.clear()
            self._next_send_ns = self._mono_ns() + self._spacing_ns
            cast("WSTransport", self._transport).send(_TEXT, text)

    async def watch(self) -> None:
        """Close the connection when it brings nothing, or answers no ping."""
        silence_ns, idle_ns, pong_ns = (
            round(seconds * _SECOND_NS)
            for seconds in (self._config.silence_s, self._config.ping_idle_s, self._config.pong_timeout_s)
        )
        while self._ended is None:
            if not self._reading:
                await self._resumed.wait()
            now_ns = self._mono_ns()
            heard_ns = max(self._heard_ns, self._data_ns)
            if self._pinged_ns is not None and heard_ns > self._pinged_ns:
                # Whatever came after the ping shows the same as its pong.
                self._pinged_ns = None
            if now_ns >= self._data_ns + silence_ns:
                self.end("silence", f"silence: no data for {self._config.silence_s:g} s", WSCloseCode.GOING_AWAY)
                return
            if self._pinged_ns is not None and now_ns >= self._pinged_ns + pong_ns:
                self.end("no_pong", f"no pong within {self._config.pong_timeout_s:g} s", WSCloseCode.GOING_AWAY)
                return
            if self._pinged_ns is None and now_ns >= heard_ns + idle_ns:
                self._pinged_ns = now_ns
                self._next_send_ns = max(self._next_send_ns, now_ns) + self._spacing_ns
                cast("WSTransport", self._transport).send_ping(b"")
            next_ns = self._pinged_ns + pong_ns if self._pinged_ns is not None else heard_ns + idle_ns
            await within(self._clock, (min(next_ns, self._data_ns + silence_ns) - now_ns) / _SECOND_NS, self.closed)


def _why(transport: WSTransport) -> tuple[str, str]:
    """Cause and reason of an end that was not ours."""
    shake = transport.close_handshake
    # picows leaves it unset when the connection broke without a word.
    if cast("object", shake) is None:
        return "lost", "connection lost"
    if shake.recv is not None and (shake.recv_then_sent or shake.sent is None):
        return "closed", f"closed by the other side: {_code(shake.recv.code)} {shake.recv.reason}".rstrip()
    if shake.sent is not None:
        return "error", f"protocol error: {_code(shake.sent.code)} {shake.sent.reason}".rstrip()
    return "lost", "connection lost"


def _code(code: object) -> int:
    """The number of a close code, which picows holds in an enum of integers."""
    return int(cast("int", code))
