"""A sandbox on a free port, an HTTP client, and a WebSocket client that remembers everything it received."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
import picows
import pytest

from tidewire.records.clock import Clock
from tidewire.sandbox.server import Sandbox, SandboxConfig

START_NS = 1_760_000_000_000_000_000


class Listener(picows.WSListener):
    """Keeps text messages, pings, pongs and the close code; answers pings unless told not to."""

    def __init__(self, auto_pong: bool) -> None:
        self._auto_pong = auto_pong
        self.texts: list[bytes] = []
        self.log: list[tuple[str, bytes]] = []
        self.close_code: int | None = None
        self.gone = asyncio.Event()
        self._news = asyncio.Event()
        self.transport: Any = None

    def on_ws_connected(self, transport: Any) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        payload = frame.get_payload_as_bytes()
        self.log.append((frame.msg_type.name, payload))
        if frame.msg_type == picows.WSMsgType.TEXT:
            self.texts.append(payload)
        elif frame.msg_type == picows.WSMsgType.PING and self._auto_pong:
            transport.send_pong(payload)
        elif frame.msg_type == picows.WSMsgType.CLOSE:
            self.close_code = int(frame.get_close_code())
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        self._news.set()

    def on_ws_disconnected(self, transport: Any) -> None:
        self.gone.set()
        self._news.set()

    def send(self, request: Any) -> None:
        data = request if isinstance(request, bytes) else msgspec.json.encode(request)
        self.transport.send(picows.WSMsgType.TEXT, data)

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not done():
                assert not self.gone.is_set(), f"the connection ended, close code {self.close_code}"
                self._news.clear()
                await self._news.wait()

    async def until_texts(self, count: int) -> list[Any]:
        await self.until(lambda: len(self.texts) >= count)
        return self.json()

    async def until_gone(self) -> None:
        async with asyncio.timeout(20):
            await self.gone.wait()

    async def ask(self, request: Any) -> Any:
        """Send a request and return the reply to it: the first message that is no market data."""
        before = len(self.texts)
        self.send(request)

        def replies() -> list[Any]:
            decoded = [msgspec.json.decode(text) for text in self.texts[before:]]
            return [m for m in decoded if "result" in m or "error" in m or "code" in m]

        await self.until(lambda: bool(replies()))
        return replies()[0]

    def json(self) -> list[Any]:
        return [msgspec.json.decode(text) for text in self.texts]


@dataclass
class Reply:
    status: int
    headers: Any
    body: Any


class Local:
    """One sandbox with its clients."""

    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self._session = session
        self._transports: list[Any] = []

    async def get(self, path: str, **options: Any) -> Reply:
        async with self._session.get(self.sandbox.url + path, **options) as reply:
            raw = await reply.read()
            kind = reply.headers.get("Content-Type", "")
            return Reply(reply.status, reply.headers, msgspec.json.decode(raw) if "json" in kind else raw)

    async def api(self, path: str, **params: Any) -> Any:
        reply = await self.get(f"/api/v3/{path}", params={k: str(v) for k, v in params.items()})
        assert reply.status == 200, reply.body
        return reply.body

    async def post(self, path: str, body: Any) -> Reply:
        async with self._session.post(self.sandbox.url + path, data=msgspec.json.encode(body)) as reply:
            return Reply(reply.status, reply.headers, msgspec.json.decode(await reply.read()))

    async def listen(self, path: str, *, auto_pong: bool = True) -> Listener:
        # The client's own automatic pong would hide the pings.
        transport, listener = await picows.ws_connect(
            lambda: Listener(auto_pong), self.sandbox.ws_url + path, enable_auto_pong=False
        )
        self._transports.append(transport)
        return listener

    async def close(self) -> None:
        for transport in self._transports:
            transport.disconnect()
        await self._session.close()
        await self.sandbox.stop()


Opener = Callable[..., Awaitable[Local]]


@pytest.fixture
async def local() -> AsyncIterator[Opener]:
    """``await local(rate=..., ...)`` starts a sandbox with that configuration."""
    opened: list[Local] = []

    async def start(clock: Clock | None = None, **config: Any) -> Local:
        config.setdefault("history_hours", 3)
        sandbox = Sandbox(SandboxConfig(**config), clock)
        await sandbox.start()
        place = Local(sandbox, aiohttp.ClientSession())
        opened.append(place)
        return place

    yield start
    for place in opened:
        await place.close()


@pytest.fixture
def start_ns() -> int:
    return START_NS
