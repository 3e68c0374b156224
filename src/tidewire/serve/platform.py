"""What the gateway needs from the running process, and its limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import polars as pl

from tidewire.bus.protocol import Bus
from tidewire.records.clock import Clock, Rng
from tidewire.records.record import RecordType
from tidewire.serve.gaps import Refill
from tidewire.serve.params import AuditRequest
from tidewire.serve.quarantine import Desk, NoDesk
from tidewire.serve.reload import Reload
from tidewire.store.protocol import Store


class Latest(Protocol):
    """The latest values in memory."""

    def get(self, kind: RecordType, where: Mapping[str, Sequence[str]]) -> pl.DataFrame:
        """The last row of each series that matches, forming rows included, in the type's schema."""
        ...


@dataclass(frozen=True)
class Health:
    """Whether work can be done, and what each part says."""

    ready: bool
    checks: Mapping[str, str] = field(default_factory=dict[str, str])


def _healthy() -> Health:
    return Health(ready=True)


def _no_sources() -> list[dict[str, Any]]:
    return []


async def _no_audit(_request: AuditRequest) -> dict[str, Any]:
    return {}


async def _no_reload() -> dict[str, Any]:
    return {"sources": [], "problems": []}


def _no_refill(source: str | None) -> list[str]:
    return []


@dataclass(frozen=True)
class Platform:
    """The parts of the running process that are served.

    ``resolve`` turns any spelling of a symbol into its canonical id and raises `InstrumentError` or
    `AmbiguousInstrument`. ``sources`` gives the status of each source, ``audit`` the sums of the fates and, if asked
    for, what differs, ``quarantine`` decides about quarantined rows, ``refill`` has sources look at their gaps again,
    ``reload`` the platform at its plugin directory.
    """

    store: Store
    cache: Latest
    bus: Bus
    clock: Clock
    rng: Rng
    resolve: Callable[[str], str]
    sources: Callable[[], list[dict[str, Any]]] = _no_sources
    health: Callable[[], Health] = _healthy
    audit: Callable[[AuditRequest], Awaitable[dict[str, Any]]] = _no_audit
    quarantine: Desk = field(default_factory=NoDesk)
    refill: Refill = _no_refill
    reload: Reload = _no_reload


@dataclass(frozen=True)
class ServeConfig:
    """Limits of the gateway. Sizes in bytes, times in seconds.

    ``cursor_key`` signs cursors; without one they end with the process. ``hosts`` are accepted ``Host`` and
    ``Origin`` names beside the loopback ones.
    """

    host: str = "127.0.0.1"
    port: int = 8321
    hosts: tuple[str, ...] = ()
    cursor_key: bytes = b""
    renders: int = 4
    """Answers turned into bytes at the same time; more wait."""
    requests: int = 512
    """HTTP connections beside the WebSocket ones; more are refused with 503."""
    connections: int = 256
    """WebSocket connections; more are refused with 503."""
    channels: int = 1_000
    """Subscriptions of one connection."""
    queue_bytes: int = 1 << 20
    """What may wait for one connection; beyond it event channels have gaps."""
    tick: float = 0.01
    """Rows of one channel that arrive within this time share a frame."""
    full_grace: float = 5.0
    """How long a connection may stay full before it is closed with 4008."""
    close_timeout: float = 5.0
    """How long a closing connection may take to read what is left."""
    ping_interval: float = 20.0
    drain: float = 5.0
    """How long running requests may take to end when the gateway stops."""
