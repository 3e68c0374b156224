"""The sandbox itself: one loopback port with Binance's REST and WebSocket, and ``/sandbox/...`` to steer it.

``GET /sandbox/status``, ``GET /sandbox/ledger``, ``GET`` and ``POST /sandbox/faults``, ``POST /sandbox/play``,
``POST /sandbox/pause``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from tidewire import telemetry
from tidewire.errors import InputError
from tidewire.records.clock import Clock, SystemClock
from tidewire.sandbox.binance import Rest
from tidewire.sandbox.config import FailRest, Faults, LimitConfig, SandboxConfig, changed_faults, symbol_names
from tidewire.sandbox.hub import Hub
from tidewire.sandbox.market import Market, check_symbols
from tidewire.sandbox.streams import StreamServer
from tidewire.sandbox.tape import Tape

__all__ = ["FailRest", "Faults", "LimitConfig", "Sandbox", "SandboxConfig", "run", "symbol_names"]

_log = telemetry.log("sandbox")
_BODY_MAX = 65_536


class Sandbox:
    """A local upstream in the caller's event loop.

    `start` raises `InputError` for a configuration that cannot be used and `OSError` when the port is taken.
    ``market`` makes the market that is driven where no recording is, for programs that bring one of their own.
    """

    def __init__(
        self,
        config: SandboxConfig,
        clock: Clock | None = None,
        market: Callable[[SandboxConfig, Hub, Clock], Market] = Market,
    ) -> None:
        check_symbols(config.symbols)
        self._config = config
        self._clock = clock or SystemClock()
        tell = config.tape is not None or config.start_ns is not None
        self._hub = Hub(self._clock, config.faults, config.limits, tell_clock=tell)
        self._upstream: Market | Tape = (
            Tape(config.tape, config, self._hub, self._clock)
            if config.tape is not None
            else market(config, self._hub, self._clock)
        )
        self._runner: web.AppRunner | None = None
        self._drive: asyncio.Task[None] | None = None
        self._port = 0
        self._failure: str | None = None

    @property
    def url(self) -> str:
        """Base of REST, ``http://127.0.0.1:<port>``."""
        return f"http://{self._place()}"

    @property
    def ws_url(self) -> str:
        """Base of WebSocket, ``ws://127.0.0.1:<port>``; streams are at ``/ws`` and ``/stream`` below it."""
        return f"ws://{self._place()}"

    def _place(self) -> str:
        host = self._config.host
        return f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}"

    async def start(self) -> None:
        """Listen, and begin (or wait to begin) playing."""
        if isinstance(self._upstream, Tape):
            await self._upstream.load()
        self._hub.attach(self._upstream.subscribed, self._upstream.expected(self._config.start_on))
        if isinstance(self._upstream, Market) and not self._config.start_on:
            self._hub.started.set()
        runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=1.0, handle_signals=False)
        await runner.setup()
        self._runner = runner
        try:
            site = web.TCPSite(runner, self._config.host, self._config.port)
            await site.start()
        except OSError:
            await runner.cleanup()
            raise
        self._port = cast("int", runner.addresses[0][1])
        self._drive = asyncio.get_running_loop().create_task(self._run())
        _log.info("sandbox listens", url=self.url, mode=self._upstream.mode)

    async def stop(self) -> None:
        """Stop playing, close every connection, free the port; safe to call twice."""
        drive, self._drive = self._drive, None
        if drive is not None:
            drive.cancel()
            await asyncio.gather(drive, return_exceptions=True)
        await self._hub.stop()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _run(self) -> None:
        try:
            await self._upstream.run()
        except Exception as error:
            # A sandbox that has stopped playing must say so in its status, not die unseen in a task.
            self._failure = f"{type(error).__name__}: {error}"
            _log.exception("playing failed")

    # --- steering

    def play(self) -> None:
        """Begin now, whoever is subscribed, or go on after a pause."""
        self._hub.started.set()

    def pause(self) -> None:
        """Let the synthetic market stand still until `play`: nothing is traded, nothing sent."""
        self._hub.started.clear()

    async def finished(self) -> None:
        """Wait until the recording, or the configured number of events, has been played."""
        if self._drive is not None:
            await asyncio.shield(self._drive)

    @property
    def faults(self) -> Faults:
        """The fault switches."""
        return self._hub.faults.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._hub.faults.set(faults)
        if self._hub.faults.away:
            self._hub.disconnect_all("fault: the venue is away")

    def disconnect(self) -> int:
        """Cut every connection now; return how many."""
        return self._hub.disconnect_all("fault: disconnect now")

    def status(self) -> dict[str, Any]:
        """Mode, state (waiting, playing, paused, done, failed), clock, connections, subscriptions and counts."""
        upstream = self._upstream
        return {
            "mode": upstream.mode,
            "state": "failed" if self._failure else upstream.state,
            "failure": self._failure,
            "clock_ns": upstream.now_ns(),
            "events": upstream.events,
            "events_total": upstream.total if isinstance(upstream, Tape) else self._config.events,
            "connections": len(self._hub.connections),
            "subscriptions": {stream: len(channel.listeners) for stream, channel in self._hub.channels.items()},
            "sent": {stream: entry.sent for stream, entry in self._hub.ledger.items() if entry.sent},
            "symbols": list(upstream.symbols),
        }

    def ledger(self) -> dict[str, dict[str, object]]:
        """What was sent of each stream that anyone listened to."""
        return {stream: entry.facts() for stream, entry in self._hub.ledger.items()}

    # --- the application

    def _application(self) -> web.Application:
        rest = Rest(self._upstream, self._hub.faults, self._clock, self._config.limits)
        streams = StreamServer(self._hub, self._clock, self._config.limits)
        application = web.Application(client_max_size=_BODY_MAX, middlewares=[self._refuse])
        application.router.add_get("/api/v3/{path:.+}", rest.handle)
        application.router.add_get("/ws", streams.handle)
        application.router.add_get("/ws/{streams:.*}", streams.handle)
        application.router.add_get("/stream", streams.handle)
        application.router.add_get("/sandbox/status", self._get_status)
        application.router.add_get("/sandbox/ledger", self._get_ledger)
        application.router.add_get("/sandbox/faults", self._get_faults)
        application.router.add_post("/sandbox/faults", self._post_faults)
        application.router.add_post("/sandbox/play", self._post_play)
        application.router.add_post("/sandbox/pause", self._post_pause)
        return application

    async def _get_status(self, _request: web.Request) -> web.Response:
        return _json(self.status())

    async def _get_ledger(self, _request: web.Request) -> web.Response:
        return _json(self.ledger())

    async def _get_faults(self, _request: web.Request) -> web.Response:
        return _json(self.faults)

    async def _post_faults(self, request: web.Request) -> web.Response:
        """Switches as JSON; ``"disconnect": true`` cuts every connection now."""
        try:
            change = msgspec.json.decode(await request.read(), type=dict[str, Any])
            now = change.pop("disconnect", False)
            if not isinstance(now, bool):
                raise InputError(f"disconnect is {now!r}; valid is true or false.")
            self.faults = changed_faults(self.faults, change)
        except (msgspec.MsgspecError, InputError) as error:
            return _json({"error": str(error)}, status=400)
        if now:
            self.disconnect()
        return _json(self.faults)

    async def _post_play(self, _request: web.Request) -> web.Response:
        self.play()
        return _json(self.status())

    async def _post_pause(self, _request: web.Request) -> web.Response:
        self.pause()
        return _json(self.status())

    @web.middleware
    async def _refuse(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """While the venue is away, whoever asks it anything finds the connection broken."""
        if self._hub.faults.away and not request.path.startswith("/sandbox/") and request.transport is not None:
            request.transport.abort()
            return web.Response(status=503)  # reaches nobody
        return await handler(request)


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")


async def run(config: SandboxConfig, clock: Clock | None = None) -> None:
    """Serve until cancelled."""
    sandbox = Sandbox(config, clock)
    try:
        await sandbox.start()
        await asyncio.get_running_loop().create_future()
    finally:
        await sandbox.stop()
