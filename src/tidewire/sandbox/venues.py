"""The markets of the sandbox: spot, two of futures and Harbour, each with listeners, ledger, limits and addresses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tidewire.records.clock import Clock
from tidewire.sandbox.binance import Rest
from tidewire.sandbox.config import LimitConfig, SandboxConfig
from tidewire.sandbox.futures import FuturesMarket, is_public
from tidewire.sandbox.futures_rest import FuturesRest
from tidewire.sandbox.harbour import HarbourMarket, notice
from tidewire.sandbox.harbour_rest import HarbourRest
from tidewire.sandbox.harbour_streams import HarbourStreams
from tidewire.sandbox.hub import Hub
from tidewire.sandbox.market import Market
from tidewire.sandbox.streams import StreamServer
from tidewire.sandbox.tape import Tape

Make = Callable[[SandboxConfig, Hub, Clock], Market]
"""What makes the market that is driven."""
SPOT, USDM, COINM, HARBOUR = "spot", "usdm", "coinm", "harbour"


@dataclass
class Venue:
    """One market: what drives it, and who listens."""

    name: str
    upstream: Market | Tape
    hub: Hub
    failure: str | None = None

    def route(self, router: web.UrlDispatcher, clock: Clock, limits: LimitConfig) -> None:
        """Serve it under the paths it has at Binance; COIN-M, which has a host of its own there, below ``/dstream``."""
        if isinstance(self.upstream, HarbourMarket):
            router.add_get("/harbour/ws", HarbourStreams(self.upstream, self.hub, clock, limits).handle)
            router.add_get("/harbour/{path:.+}", HarbourRest(self.upstream, self.hub.faults, clock, limits).handle)
            return
        if isinstance(self.upstream, FuturesMarket):
            rest: Rest = FuturesRest(self.upstream, self.hub.faults, clock, limits)
        else:
            rest = Rest(self.upstream, self.hub.faults, clock, limits)
        router.add_get({SPOT: "/api/v3", USDM: "/fapi/v1", COINM: "/dapi/v1"}[self.name] + "/{path:.+}", rest.handle)
        if self.name == USDM:
            self._streams(router, "/public", StreamServer(self.hub, clock, limits, is_public))
            self._streams(router, "/market", StreamServer(self.hub, clock, limits, lambda name: not is_public(name)))
        else:
            prefix = "/dstream" if self.name == COINM else ""
            self._streams(router, prefix, StreamServer(self.hub, clock, limits))

    def _streams(self, router: web.UrlDispatcher, prefix: str, streams: StreamServer) -> None:
        router.add_get(f"{prefix}/ws", streams.handle)
        router.add_get(prefix + "/ws/{streams:.*}", streams.handle)
        router.add_get(f"{prefix}/stream", streams.handle)

    def status(self, events: int | None) -> dict[str, Any]:
        """How it stands; ``events`` is how many a synthetic market was to have."""
        upstream = self.upstream
        return {
            "mode": upstream.mode,
            "state": "failed" if self.failure else upstream.state,
            "failure": self.failure,
            "clock_ns": upstream.now_ns(),
            "events": upstream.events,
            "events_total": upstream.total if isinstance(upstream, Tape) else events,
            "connections": len(self.hub.connections),
            "subscriptions": {stream: len(channel.listeners) for stream, channel in self.hub.channels.items()},
            "sent": {stream: entry.sent for stream, entry in self.hub.ledger.items() if entry.sent},
            "symbols": list(upstream.symbols),
        }

    def ledger(self) -> dict[str, dict[str, object]]:
        """What was sent of each stream that anyone listened to."""
        return {stream: entry.facts() for stream, entry in self.hub.ledger.items()}


def venues(config: SandboxConfig, clock: Clock, market: Make = Market) -> dict[str, Venue]:
    """The markets of a configuration; spot is always one, made by ``market``."""
    tell = config.tape is not None or config.start_ns is not None

    def hub() -> Hub:
        return Hub(clock, config.faults, config.limits, tell_clock=tell)

    spot = hub()
    upstream = market(config, spot, clock) if config.tape is None else Tape(config.tape, config, spot, clock)
    found = {SPOT: Venue(SPOT, upstream, spot)}
    for name, symbols in ((USDM, config.usdm_symbols), (COINM, config.coinm_symbols)):
        if symbols:
            own = hub()
            found[name] = Venue(name, FuturesMarket(config, own, clock, inverse=name == COINM), own)
    if config.harbour_symbols:
        own = hub()
        own.goodbye = notice
        found[HARBOUR] = Venue(HARBOUR, HarbourMarket(config, own, clock), own)
    return found
