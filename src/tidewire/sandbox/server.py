"""The sandbox itself: one loopback port with Binance and Harbour, REST and WebSocket, and ``/sandbox/...`` to steer it.

``GET /sandbox/status``, ``GET /sandbox/ledger`` (both of spot; ``?market=usdm``, ``coinm`` or ``harbour``: of
another), ``GET`` and ``POST /sandbox/faults``, ``POST /sandbox/play``, ``POST /sandbox/pause``, ``POST
/sandbox/shutdown``, ``POST /sandbox/listing``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from tidewire import telemetry
from tidewire.errors import InputError
from tidewire.records.clock import Clock, ShiftedClock, SystemClock
from tidewire.sandbox.china.sites import China
from tidewire.sandbox.config import (
    FailRest,
    Faults,
    LimitConfig,
    SandboxConfig,
    changed_faults,
    session_ns,
    symbol_names,
)
from tidewire.sandbox.hub import Connection, Hub
from tidewire.sandbox.market import Market, check_symbols
from tidewire.sandbox.tape import Tape
from tidewire.sandbox.venues import SPOT, Make, Venue, venues

__all__ = ["FailRest", "Faults", "LimitConfig", "Sandbox", "SandboxConfig", "run", "symbol_names"]

_log = telemetry.log("sandbox")
_BODY_MAX = 65_536


class _Shutdown(msgspec.Struct, forbid_unknown_fields=True):
    after_s: Annotated[float, msgspec.Meta(ge=0)] = 10.0


class _Listing(msgspec.Struct, forbid_unknown_fields=True):
    listed: list[str] = msgspec.field(default_factory=list, name="list")
    delisted: list[str] = msgspec.field(default_factory=list, name="delist")


class Sandbox:
    """A local upstream in the caller's event loop.

    `start` raises `InputError` for a configuration that cannot be used and `OSError` when the port is taken.
    ``market`` makes the market that is driven where no recording is, for programs that bring one of their own.
    """

    def __init__(
        self,
        config: SandboxConfig,
        clock: Clock | None = None,
        market: Make = Market,
    ) -> None:
        check_symbols(config.symbols)
        self._config = config
        self._clock = clock or SystemClock()
        if config.session_at is not None:
            self._clock = ShiftedClock(self._clock, session_ns(config.session_at), config.session_speed)
        self._venues = venues(config, self._clock, market)
        self._china = China(config, self._clock) if config.china_stocks else None
        self._upstream = self._venues[SPOT].upstream
        self._runner: web.AppRunner | None = None
        self._drive: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._port = 0

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
        if self._china is not None:
            await self._china.start()
        for venue in self._venues.values():
            venue.hub.attach(venue.upstream.subscribed, venue.upstream.expected(self._config.start_on))
            if isinstance(venue.upstream, Market) and not self._config.start_on:
                venue.hub.started.set()
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
        tasks = [*self._closing, *([drive] if drive is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for venue in self._venues.values():
            await venue.hub.stop()
        if self._china is not None:
            await self._china.stop()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _run(self) -> None:
        await asyncio.gather(*(_play(venue) for venue in self._venues.values()))

    @property
    def china(self) -> China:
        """The Chinese sites; `InputError` where there are none."""
        if self._china is None:
            raise InputError("There are no Chinese sites; set china_stocks.")
        return self._china

    # --- steering

    def play(self) -> None:
        """Begin now, whoever is subscribed, or go on after a pause."""
        for venue in self._venues.values():
            venue.hub.started.set()

    def pause(self) -> None:
        """Let the synthetic markets stand still until `play`: nothing is traded, nothing sent."""
        for venue in self._venues.values():
            venue.hub.started.clear()

    async def finished(self) -> None:
        """Wait until the recording, or the configured number of events of each market, has been played."""
        if self._drive is not None:
            await asyncio.shield(self._drive)

    @property
    def faults(self) -> Faults:
        """The fault switches, the same of all markets."""
        return self._venues[SPOT].hub.faults.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        for venue in self._venues.values():
            venue.hub.faults.set(faults)
            if venue.hub.faults.away:
                venue.hub.disconnect_all("fault: the venue is away")
        if self._china is not None:
            self._china.set_faults(faults)

    def disconnect(self) -> int:
        """Cut every connection now; return how many."""
        return sum(venue.hub.disconnect_all("fault: disconnect now") for venue in self._venues.values())

    def shutdown(self, after_s: float) -> int:
        """Say goodbye on every connection now, and cut after a while those that stayed; return how many heard it."""
        heard = [
            (venue.hub, connection)
            for venue in self._venues.values()
            for connection in venue.hub.say_goodbye(venue.upstream.now_ns() // 1_000_000)
        ]
        task = asyncio.get_running_loop().create_task(self._cut_later(heard, after_s))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return len(heard)

    async def _cut_later(self, connections: Sequence[tuple[Hub, Connection]], after_s: float) -> None:
        await self._clock.sleep(after_s)
        for hub, connection in connections:
            if connection.open:
                hub.cut(connection, "the server shuts down", 1001)

    def change_listing(self, listed: Sequence[str] = (), delisted: Sequence[str] = ()) -> None:
        """List symbols of spot anew, and end others; `InputError` for what cannot be, and for a recording."""
        if not isinstance(self._upstream, Market):
            raise InputError("A recording lists what it lists; start a synthetic market.")
        for name in listed:
            self._upstream.list_symbol(name)
        for name in delisted:
            self._upstream.delist(name)

    def status(self, market: str = SPOT) -> dict[str, Any]:
        """Mode, state (waiting, playing, paused, done, failed), clock, connections, subscriptions and counts."""
        return self._venue(market).status(self._config.events)

    def ledger(self, market: str = SPOT) -> dict[str, dict[str, object]]:
        """What was sent of each stream of a market that anyone listened to."""
        return self._venue(market).ledger()

    def _venue(self, market: str) -> Venue:
        if market not in self._venues:
            raise InputError(f"No market {market!r}; there are {', '.join(self._venues)}.")
        return self._venues[market]

    # --- the application

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=_BODY_MAX, middlewares=[self._refuse])
        for venue in self._venues.values():
            venue.route(application.router, self._clock, self._config.limits)
        if self._china is not None:
            self._china.route(application.router)
        if self._config.session_at is not None:
            application.on_response_prepare.append(self._tell_time)
        application.router.add_get("/sandbox/status", self._get_status)
        application.router.add_get("/sandbox/ledger", self._get_ledger)
        application.router.add_get("/sandbox/faults", self._get_faults)
        application.router.add_post("/sandbox/faults", self._post_faults)
        application.router.add_post("/sandbox/shutdown", self._post_shutdown)
        application.router.add_post("/sandbox/listing", self._post_listing)
        application.router.add_post("/sandbox/play", self._post_play)
        application.router.add_post("/sandbox/pause", self._post_pause)
        return application

    async def _get_status(self, request: web.Request) -> web.Response:
        return _of_market(request, self.status)

    async def _get_ledger(self, request: web.Request) -> web.Response:
        return _of_market(request, self.ledger)

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

    async def _post_shutdown(self, request: web.Request) -> web.Response:
        """``{"after_s": 10}``: ``serverShutdown`` to everyone now, the cut after that time."""
        try:
            wanted = msgspec.json.decode(await request.read() or b"{}", type=_Shutdown)
        except msgspec.MsgspecError as error:
            return _json({"error": str(error)}, status=400)
        return _json({"connections": self.shutdown(wanted.after_s)})

    async def _post_listing(self, request: web.Request) -> web.Response:
        """``{"list": ["NEWUSDT"], "delist": ["OLDUSDT"]}``."""
        try:
            wanted = msgspec.json.decode(await request.read(), type=_Listing)
            self.change_listing(wanted.listed, wanted.delisted)
        except (msgspec.MsgspecError, InputError) as error:
            return _json({"error": str(error)}, status=400)
        return _json(self.status())

    async def _post_play(self, _request: web.Request) -> web.Response:
        self.play()
        return _json(self.status())

    async def _post_pause(self, _request: web.Request) -> web.Response:
        self.pause()
        return _json(self.status())

    @web.middleware
    async def _refuse(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """While the venue is away, whoever asks it anything finds the connection broken."""
        if (
            self._venues[SPOT].hub.faults.away
            and not request.path.startswith("/sandbox/")
            and request.transport is not None
        ):
            request.transport.abort()
            return web.Response(status=503)  # reaches nobody
        return await handler(request)

    async def _tell_time(self, _request: web.Request, response: web.StreamResponse) -> None:
        """Tell a product that runs on our clock the time, and that it goes on."""
        response.headers["X-Tidewire-Time"] = str(self._clock.wall_ns())
        response.headers["X-Tidewire-Speed"] = f"{self._config.session_speed:g}"


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")


def _of_market(request: web.Request, facts: Callable[[str], object]) -> web.Response:
    try:
        return _json(facts(request.query.get("market", SPOT)))
    except InputError as error:
        return _json({"error": str(error)}, status=400)


async def _play(venue: Venue) -> None:
    try:
        await venue.upstream.run()
    except Exception as error:
        # A market that has stopped playing must say so in its status, not die unseen in a task.
        venue.failure = f"{type(error).__name__}: {error}"
        _log.exception("playing failed")


async def run(config: SandboxConfig, clock: Clock | None = None) -> None:
    """Serve until cancelled."""
    sandbox = Sandbox(config, clock)
    try:
        await sandbox.start()
        await asyncio.get_running_loop().create_future()
    finally:
        await sandbox.stop()
