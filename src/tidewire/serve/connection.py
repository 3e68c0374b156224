"""One stream connection: reads the client's frames, sends what waits in its outbox."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, cast

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from tidewire import telemetry
from tidewire.errors import TidewireError, nearest
from tidewire.serve.channels import pattern_of
from tidewire.serve.outbox import Frame, Outbox, encode
from tidewire.serve.platform import Platform, ServeConfig

SUBPROTOCOLS = ("tidewire.v1.json",)
ABORT = "tidewire.abort"
"""Name of the ASGI extension with which a connection whose reader is dead is cut."""

_LOG = telemetry.log("serve")
_SENT = telemetry.counter("ws_sent_bytes", "Bytes of messages sent to stream connections.")

_OPS = ("subscribe", "unsubscribe", "ping")
# Answers that may wait before no more of the client's frames are read.
_ANSWERS = 32
_RECONNECT_MS = 1_000


class _Command(msgspec.Struct, forbid_unknown_fields=True):
    op: str
    channels: list[str] = []
    id: str | int | None = None


class Connection:
    """The state of one connection; ``changed`` is called when its ``patterns`` change."""

    def __init__(self, socket: WebSocket, config: ServeConfig, platform: Platform, changed: Callable[[], None]) -> None:
        self.patterns: dict[str, None] = {}
        self.session = platform.rng.token(8)
        self._socket = socket
        self._config = config
        self._platform = platform
        self._changed = changed
        self._box = Outbox(config.queue_bytes)
        self._wake = asyncio.Event()
        self._answered = asyncio.Event()
        self._full_since: int | None = None
        self._close: tuple[int, str] = (1000, "")
        self._deadline: asyncio.Task[None] | None = None

    def welcome(self, epoch: str, server_time: str) -> None:
        """The first frame."""
        limits = {
            "channels": self._config.channels,
            "queue_bytes": self._config.queue_bytes,
            "tick_ms": round(self._config.tick * 1_000),
        }
        self._answer(op="welcome", session=self.session, epoch=epoch, server_time=server_time, limits=limits)

    async def run(self) -> None:
        """Read and send until either side ends."""
        sending = asyncio.create_task(self._send())
        reading = asyncio.create_task(self._read())
        try:
            await asyncio.wait((sending, reading), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, reading, self._deadline):
                if task is not None:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, OSError):
                        await task

    def put(self, frame: Frame) -> None:
        """A frame of a channel it subscribed to."""
        self._box.put(frame)
        if not self._box.full:
            self._full_since = None
        elif self._full_since is None:
            self._full_since = self._platform.clock.mono_ns()
            _LOG.warning("slow stream reader", session=self.session, waiting_bytes=self._box.waiting_bytes)
        self._wake.set()

    def overdue(self, now_ns: int) -> bool:
        """Whether it has been full for longer than allowed."""
        full = self._full_since is not None and self._box.full and not self._box.ended
        return full and now_ns - cast("int", self._full_since) > self._config.full_grace * 1e9

    def evict(self) -> None:
        """Give up what waits, say what is missing, close with 4008."""
        self._finish(4008, "the reader is too slow", give_up=True)

    def end(self, code: int, reason: str) -> None:
        """Send what waits, say ``bye``, close."""
        self._finish(code, reason, give_up=False)

    def _finish(self, code: int, reason: str, *, give_up: bool) -> None:
        if self._box.ended:
            return
        _LOG.info("stream connection ends", session=self.session, code=code, reason=reason)
        bye = encode(op="bye", code=code, reason=reason, reconnect=True, after_ms=_RECONNECT_MS)
        (self._box.abandon if give_up else self._box.end)(bye)
        self._close = (code, reason)
        self._deadline = asyncio.create_task(self._cut())
        self._wake.set()

    async def _cut(self) -> None:
        await self._platform.clock.sleep(self._config.close_timeout)
        self.abort()

    def abort(self) -> None:
        """Cut the connection without waiting for its reader."""
        abort = self._socket.scope.get("extensions", {}).get(ABORT)
        if abort is not None:
            abort()

    async def _send(self) -> None:
        while True:
            text = self._box.pop()
            if text is not None:
                await self._socket.send({"type": "websocket.send", "text": text})
                _SENT.inc(len(text))
                self._answered.set()
            elif self._box.ended:
                await self._socket.close(*self._close)
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _read(self) -> None:
        while True:
            while self._box.control >= _ANSWERS:
                self._answered.clear()
                await self._answered.wait()
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            self._handle(message)

    def _answer(self, **fields: object) -> None:
        self._box.answer(encode(**{name: value for name, value in fields.items() if value is not None}))
        self._wake.set()

    def _handle(self, message: Any) -> None:
        text = message.get("text")
        if text is None:
            self._answer(
                op="error", code="invalid_frame", detail="A binary frame; this sub-protocol sends JSON as text."
            )
            return
        try:
            command = msgspec.json.decode(text, type=_Command)
        except msgspec.DecodeError as error:
            detail = f'{error}. Valid: {{"op": "subscribe", "channels": ["trade.BTC-USDT.BINANCE"]}}.'
            self._answer(op="error", code="invalid_frame", detail=detail)
            return
        if command.op == "ping":
            self._answer(op="pong", id=command.id)
        elif command.op not in _OPS:
            detail = f"No operation {command.op!r}.{nearest(command.op, _OPS)} Valid: {', '.join(_OPS)}."
            self._answer(op="error", code="unknown_op", detail=detail, id=command.id)
        elif not command.channels:
            detail = f'{command.op} needs channels, e.g. ["trade.BTC-USDT.BINANCE"].'
            self._answer(op="error", code="invalid_frame", detail=detail, id=command.id)
        else:
            self._subscriptions(command)

    def _subscriptions(self, command: _Command) -> None:
        done: list[str] = []
        adding = command.op == "subscribe"
        for channel in command.channels:
            try:
                pattern = pattern_of(channel, self._platform.resolve)
            except TidewireError as error:
                self._answer(op="error", code=error.code, detail=str(error), channel=channel, id=command.id)
                continue
            if not adding:
                self.patterns.pop(pattern, None)
            elif pattern not in self.patterns and len(self.patterns) >= self._config.channels:
                detail = f"At most {self._config.channels} subscriptions; use a pattern such as trade.> instead."
                self._answer(op="error", code="too_many_channels", detail=detail, channel=channel, id=command.id)
                break
            else:
                self.patterns[pattern] = None
            done.append(pattern)
        self._changed()
        if done:
            self._answer(op="subscribed" if adding else "unsubscribed", channels=done, id=command.id)
