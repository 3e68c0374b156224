"""Harbour's WebSocket: one address, everything subscribed by message; who says nothing is cut."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from aiohttp import WSMessage, WSMsgType, web

from tidewire.records.clock import Clock
from tidewire.sandbox.config import LimitConfig
from tidewire.sandbox.harbour import CHANNELS, HarbourMarket, stream_of
from tidewire.sandbox.hub import Connection, Hub, Socket
from tidewire.sandbox.limits import Window
from tidewire.sandbox.streams import POLICY, Session, converse

BAD_REQUEST, NO_OP, NO_CHANNEL, NO_SYMBOL, TOO_MANY = "2001", "2002", "2003", "2004", "2005"
IDLE = 4004
"""The close code for a client that said nothing."""


class _Arg(msgspec.Struct):
    channel: str
    symbol: str


class _Request(msgspec.Struct):
    op: str
    args: list[_Arg]


class HarbourStreams:
    """Accepts ``/harbour/ws``."""

    def __init__(self, market: HarbourMarket, hub: Hub, clock: Clock, limits: LimitConfig) -> None:
        self._market = market
        self._hub = hub
        self._clock = clock
        self._limits = limits
        self._arrivals = Window(clock, limits.connections_per_5_minutes, 300.0)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One connection, from upgrade to end."""
        if not self._arrivals.allow():
            return web.Response(status=429, headers={"Retry-After": "300"}, text="Too many connections")
        return await converse(self._hub, request, self._begin)

    def _begin(self, socket: Socket, ws: web.WebSocketResponse) -> tuple[Connection, Session]:
        connection = Connection(self._hub.next_number(), socket, combined=False, micro=False)
        self._hub.add(connection)
        return connection, _HarbourSession(self._market, self._hub, self._clock, self._limits, connection, ws)


class _HarbourSession(Session):
    """The conversation on one connection."""

    def __init__(
        self,
        market: HarbourMarket,
        hub: Hub,
        clock: Clock,
        limits: LimitConfig,
        connection: Connection,
        ws: web.WebSocketResponse,
    ) -> None:
        self._market = market
        self._hub = hub
        self._clock = clock
        self._limits = limits
        self._connection = connection
        self._ws = ws
        self._window = Window(clock, limits.client_messages_per_second, 1.0)
        self._heard_ns = clock.mono_ns()

    async def beat(self) -> None:
        """Cut a client that says nothing."""
        while self._connection.open:
            left_ns = self._heard_ns + round(self._limits.harbour_idle_s * 1e9) - self._clock.mono_ns()
            if left_ns > 0:
                await self._clock.sleep(left_ns / 1e9)
            else:
                self._hub.cut(self._connection, f"No message for {self._limits.harbour_idle_s:g} s", IDLE)

    async def receive(self, message: WSMessage) -> None:
        """One message of the client."""
        if not self._connection.open:
            return
        if message.type is WSMsgType.PING:
            await self._ws.pong(cast("bytes", message.data))
        elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            self._hear(message.data)

    def _hear(self, text: str | bytes) -> None:
        if not self._window.allow():
            self._hub.cut(self._connection, "Too many requests", POLICY)
            return
        self._heard_ns = self._clock.mono_ns()
        if text in ("ping", b"ping"):
            self._hub.reply(self._connection, b"pong")
            return
        try:
            request = msgspec.json.decode(text, type=_Request)
        except msgspec.MsgspecError as error:
            self._error(BAD_REQUEST, f"Invalid request: {error}")
            return
        if request.op not in ("subscribe", "unsubscribe"):
            self._error(NO_OP, f"There is no op {request.op!r}; valid are subscribe, unsubscribe.")
        elif not request.args:
            self._error(BAD_REQUEST, "Invalid request: args is empty")
        for arg in request.args if request.op in ("subscribe", "unsubscribe") else ():
            if self._connection.open and self._may(request.op, arg):
                self._perform(request.op, arg)

    def _may(self, op: str, arg: _Arg) -> bool:
        streams, most = self._connection.streams, self._limits.harbour_channels_per_connection
        if arg.channel not in CHANNELS:
            self._error(NO_CHANNEL, f"There is no channel {arg.channel!r}; valid are {', '.join(CHANNELS)}.", arg)
        elif arg.symbol not in self._market.pairs:
            self._error(NO_SYMBOL, f"There is no symbol {arg.symbol!r}.", arg)
        elif op == "subscribe" and len(streams.keys() | {stream_of(arg.channel, arg.symbol)}) > most:
            self._error(TOO_MANY, f"More than {most} channels on one connection.", arg)
        else:
            return True
        return False

    def _perform(self, op: str, arg: _Arg) -> None:
        stream, done = stream_of(arg.channel, arg.symbol), msgspec.json.encode({"event": op, "arg": arg})
        if op == "unsubscribe":
            self._hub.unsubscribe(self._connection, [stream])
            self._hub.reply(self._connection, done)
            return
        self._market.tell(stream)
        if not self._connection.open:  # a fault cut it just now
            return
        self._hub.subscribe(self._connection, [stream])
        self._hub.reply(self._connection, done)
        first = self._market.first(arg.channel, arg.symbol)
        if first is not None:
            self._hub.reply(self._connection, first)

    def _error(self, code: str, message: str, arg: _Arg | None = None) -> None:
        about: dict[str, Any] = {} if arg is None else {"arg": arg}
        self._hub.reply(
            self._connection, msgspec.json.encode({"event": "error", "code": code, "msg": message, **about})
        )
