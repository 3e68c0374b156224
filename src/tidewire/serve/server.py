"""`Gateway`: the web application on a loopback address, inside the running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from asyncio.transports import BaseTransport
from collections.abc import Generator
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from tidewire import telemetry
from tidewire.errors import ConfigError
from tidewire.serve.connection import ABORT
from tidewire.serve.platform import Platform, ServeConfig
from tidewire.serve.rest import Application

_LOG = telemetry.log("serve")

# Frames of clients are short lists of channel names.
_LARGEST_FRAME = 64 * 1024
# Seconds for the other side to answer a close frame.
_CLOSE_TIMEOUT = 5.0


class _WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol, but a reader that is dead is cut off.

    Closing a transport waits until what it buffered is read, which a dead reader never does.
    """

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):
            extensions: dict[str, Any] = self.scope.setdefault("extensions", {}) or {}
            extensions[ABORT] = self.transport.abort

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.close_timer is not None:
            self.close_timer.cancel()
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self.close_timeout = _CLOSE_TIMEOUT
        # Waiting frames belong into the outbox, where they are counted and conflated.
        self.transport.set_write_buffer_limits(high=64 * 1024)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process that runs us has its own."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class Gateway:
    """Serves a platform. ``sock`` is a listening or bound socket to use instead of ``config.host`` and ``port``."""

    def __init__(
        self, platform: Platform, config: ServeConfig | None = None, sock: socket.socket | None = None
    ) -> None:
        self.config = config or ServeConfig()
        self.application = Application(platform, self.config)
        self._given = sock
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it listens, e.g. ``http://127.0.0.1:8321``."""
        assert self._socket is not None, "start() first"
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def is_heard(self) -> bool:
        """Whether a client has a stream open."""
        return self.application.hub.is_heard

    async def start(self) -> None:
        """Listen and serve. Raises `ConfigError` for an address beyond loopback, or one that is taken."""
        self._socket = self._given or bound(self.config.host, self.config.port)
        _check_loopback(self._socket.getsockname()[0])
        # Inherited by accepted sockets; without it an answer in two writes waits 40 ms for the client's ACK.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = self._server = _Server(self._uvicorn())
        await self.application.hub.start()
        self._serving = asyncio.create_task(server.serve(sockets=[self._socket]), name="gateway")
        ready = asyncio.create_task(server.ready.wait())
        await asyncio.wait((ready, self._serving), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._serving.done():
            await self.application.hub.stop()
            self._serving.result()
        _LOG.info("gateway listens", url=self.url)

    def _uvicorn(self) -> uvicorn.Config:
        return uvicorn.Config(
            self.application.api,
            http="h11",
            ws=_WebSocketProtocol,
            ws_max_size=_LARGEST_FRAME,
            ws_ping_interval=self.config.ping_interval,
            ws_ping_timeout=self.config.ping_interval,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            limit_concurrency=self.config.requests + self.config.connections,
            server_header=False,
            timeout_graceful_shutdown=max(1, round(self.config.drain)),
        )

    async def stop(self) -> None:
        """Turn unready, say ``bye`` to streams, let running requests end, close. Idempotent."""
        if self._server is None or self._serving is None:
            return
        self.application.draining = True
        await self.application.hub.drain()
        self._server.should_exit = True
        await self._serving
        await self.application.hub.stop()
        self._server = self._serving = None
        _LOG.info("gateway stopped")


def bound(host: str, port: int) -> socket.socket:
    """A socket bound to a loopback address; port 0 takes a free one. `ConfigError` says what to do otherwise."""
    _check_loopback(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        found.close()
        raise ConfigError(
            f"listen: cannot listen on {host}:{port}: {error}. Choose another listen.port, or end what uses this one."
        ) from error
    return found


def _check_loopback(host: str) -> None:
    if host == "localhost":
        return
    try:
        inside = ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = False
    if not inside:
        raise ConfigError(
            f"listen.host: {host!r} is not a loopback address, and without keys and TLS the API must not be reachable "
            "from elsewhere. Valid: 127.0.0.1, ::1, localhost."
        )
