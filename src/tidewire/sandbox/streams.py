"""The WebSocket side: connections, requests on them, pings and limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

import msgspec
from aiohttp import WSMessage, WSMsgType, web
from aiohttp.abc import AbstractStreamWriter

from tidewire.records.clock import Clock
from tidewire.sandbox.config import LimitConfig
from tidewire.sandbox.hub import Connection, Hub, Socket, everything
from tidewire.sandbox.limits import Window

_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
POLICY = 1008
"""The close code for a client that does not keep to the rules."""


class _Refused(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class _AiohttpSocket:
    """Frames made by the hub go straight to the transport; control frames through aiohttp."""

    def __init__(self, ws: web.WebSocketResponse, request: web.Request, writer: AbstractStreamWriter) -> None:
        self._ws = ws
        self._protocol = request.protocol
        self._transport = request.transport
        self._writer = writer

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def full(self) -> bool:
        return self._protocol.writing_paused

    async def drain(self) -> None:
        await self._writer.drain()

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.close()

    async def close(self, code: int, reason: str) -> None:
        await self._ws.close(code=code, message=reason.encode()[:120])


class Session(Protocol):
    """The conversation on one connection."""

    async def beat(self) -> None:
        """Watch the client until the connection ends."""
        ...

    async def receive(self, message: WSMessage) -> None:
        """One message of the client."""
        ...


Begin = Callable[[Socket, web.WebSocketResponse], tuple[Connection, Session]]
"""What makes a connection of a socket and adds it to the hub."""


async def converse(hub: Hub, request: web.Request, begin: Begin) -> web.StreamResponse:
    """One connection, from upgrade to end."""
    ws = web.WebSocketResponse(autoping=False, compress=False, timeout=1.0, max_msg_size=65_536)
    if not ws.can_prepare(request).ok:
        return web.Response(status=400, text="This address speaks WebSocket")
    writer = await ws.prepare(request)
    assert writer is not None
    connection, session = begin(_AiohttpSocket(ws, request, writer), ws)
    heart = asyncio.get_running_loop().create_task(session.beat())
    try:
        async for message in ws:
            await session.receive(message)
    except ConnectionError:
        pass
    finally:
        heart.cancel()
        hub.remove(connection)
    return ws


class StreamServer:
    """Accepts ``/ws/...`` and ``/stream?streams=...`` and answers requests on them.

    ``serves`` says which streams there are at this address; all of them without it.
    """

    def __init__(
        self, hub: Hub, clock: Clock, limits: LimitConfig, serves: Callable[[str], bool] | None = None
    ) -> None:
        self._hub = hub
        self._clock = clock
        self._limits = limits
        self._arrivals = Window(clock, limits.connections_per_5_minutes, 300.0)
        self._serves = serves

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One connection, from upgrade to end."""
        resource = request.match_info.route.resource
        combined = resource is not None and resource.canonical.endswith("/stream")
        tail = request.query.get("streams", "") if combined else request.match_info.get("streams", "")
        streams = [name for name in tail.split("/") if name]
        unit = request.query.get("timeUnit", "MILLISECOND").upper()
        if not self._arrivals.allow():
            return web.Response(status=429, headers={"Retry-After": "300"}, text="Too many connections")
        if unit not in ("MILLISECOND", "MICROSECOND") or len(streams) > self._limits.streams_per_connection:
            return web.Response(status=400, text="Invalid request")

        def begin(socket: Socket, ws: web.WebSocketResponse) -> tuple[Connection, Session]:
            micro, number = unit == "MICROSECOND", self._hub.next_number()
            connection = Connection(number, socket, combined=combined, micro=micro, serves=self._serves or everything)
            self._hub.add(connection)
            self._hub.subscribe(connection, streams)
            return connection, _Session(self._hub, self._clock, self._limits, connection, ws)

        return await converse(self._hub, request, begin)


class _Session(Session):
    """The conversation on one connection."""

    def __init__(
        self, hub: Hub, clock: Clock, limits: LimitConfig, connection: Connection, ws: web.WebSocketResponse
    ) -> None:
        self._hub = hub
        self._clock = clock
        self._limits = limits
        self._connection = connection
        self._ws = ws
        self._window = Window(clock, limits.client_messages_per_second, 1.0)
        self._pong_ns = clock.mono_ns()

    async def beat(self) -> None:
        """Ping, and cut a client that does not answer or has been here for a day."""
        opened = self._clock.mono_ns()
        while self._connection.open:
            await self._clock.sleep(self._limits.ping_interval_s)
            now = self._clock.mono_ns()
            if now - self._pong_ns > self._limits.pong_timeout_s * 1e9:
                self._hub.cut(self._connection, "Pong timeout", POLICY)
            elif now - opened > self._limits.connection_age_s * 1e9:
                self._hub.cut(self._connection, "Connection too old", 1001)
            elif not self._hub.faults.silent:
                try:
                    await self._ws.ping(str(self._clock.wall_ns() // 1_000_000).encode())
                except ConnectionError:
                    return

    async def receive(self, message: WSMessage) -> None:
        """One message of the client."""
        if not self._connection.open:
            return
        if not self._window.allow():
            self._hub.cut(self._connection, "Too many requests", POLICY)
        elif message.type is WSMsgType.PING:
            await self._ws.pong(cast("bytes", message.data))
        elif message.type is WSMsgType.PONG:
            self._pong_ns = self._clock.mono_ns()
        elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            await self._answer(message.data)

    async def _answer(self, text: str | bytes) -> None:
        ident: Any = None
        try:
            request = _decode(text)
            ident = _ident(request)
            result = self._perform(request)
            reply: dict[str, Any] = {"result": result, "id": ident}
        except _Refused as refused:
            error = {"code": refused.code, "msg": str(refused)}
            reply = error if ident is None else {"error": error, "id": ident}
        if not self._hub.faults.silent:
            await self._ws.send_str(msgspec.json.encode(reply).decode())

    def _perform(self, request: dict[str, Any]) -> Any:
        method = request.get("method")
        if method is None:
            raise _Refused(2, "Invalid request: missing field `method`")
        if method not in _METHODS:
            names = ", ".join(f"`{name}`" for name in _METHODS)
            raise _Refused(2, f"Invalid request: unknown variant `{method}`, expected one of {names}")
        params = request.get("params", [])
        if not isinstance(params, list):
            raise _Refused(2, "Invalid request: params must be an array")
        given = cast("list[Any]", params)
        if method == "LIST_SUBSCRIPTIONS":
            return list(self._connection.streams)
        if method in ("SET_PROPERTY", "GET_PROPERTY"):
            return self._property(method, given)
        if not given or not all(isinstance(name, str) for name in given):
            raise _Refused(2, "Invalid request: params must be an array of stream names")
        if method == "UNSUBSCRIBE":
            self._hub.unsubscribe(self._connection, given)
        elif len(self._connection.streams.keys() | set(given)) > self._limits.streams_per_connection:
            raise _Refused(2, f"Invalid request: more than {self._limits.streams_per_connection} streams")
        else:
            self._hub.subscribe(self._connection, given)
        return None

    def _property(self, method: str, params: list[Any]) -> bool | None:
        if not params or not isinstance(params[0], str):
            raise _Refused(2, "Invalid request: property name must be a string")
        if params[0] != "combined":
            raise _Refused(0, "Unknown property")
        if method == "GET_PROPERTY":
            return self._connection.combined
        if len(params) != 2:
            raise _Refused(2, "Invalid request: SET_PROPERTY takes a name and a value")
        if not isinstance(params[1], bool):
            raise _Refused(1, "Invalid value type: expected Boolean")
        self._connection.combined = params[1]
        return None


def _decode(text: str | bytes) -> dict[str, Any]:
    try:
        request = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise _Refused(3, f"Invalid JSON: {error}") from error
    if not isinstance(request, dict):
        raise _Refused(2, "Invalid request: expected an object")
    return cast("dict[str, Any]", request)


def _ident(request: dict[str, Any]) -> int | str | None:
    ident = request.get("id")
    if ident is None or (isinstance(ident, int) and not isinstance(ident, bool)):
        return ident
    if isinstance(ident, str) and len(ident) <= 36:
        return ident
    raise _Refused(2, "Invalid request: request ID must be an integer or a string of at most 36 characters")
