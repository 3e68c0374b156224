"""A push feed: every message goes to the journal first, and every break leaves a mark there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from tidewire import telemetry
from tidewire.collect import control
from tidewire.collect.ws import WsClient
from tidewire.collect.ws_config import WsConfig, WsState
from tidewire.errors import JournalError
from tidewire.journal import Kind, Origin

if TYPE_CHECKING:
    from tidewire.collect.app import Context

COUNT_EVERY = 100

_log = telemetry.log("collect")
_frames = telemetry.counter("collect_frames", "Messages received from feeds", ("source",))
_bytes = telemetry.counter("collect_frame_bytes", "Bytes received from feeds", ("source",))
_paused = telemetry.counter("collect_feed_pauses", "Times a feed was paused because the journal was full", ("source",))


@dataclass(frozen=True)
class Lost:
    """Since when nothing came, and why."""

    since_ns: int
    because: Literal["down", "silence", "disconnect"]


class Feed:
    """One WebSocket connection of a source, kept up and journaled.

    ``opened(feed, state)`` is called for each new connection, before anything of it, and ``ended(feed, state)`` when
    one is over. ``farewell`` are the beginnings of messages that say the connection will be cut, and what is called
    then. ``number()`` numbers connections. ``label`` is how frames name the address, where that is long.
    """

    def __init__(
        self,
        source: str,
        url: str,
        context: Context,
        config: WsConfig,
        *,
        opened: Callable[[Feed, WsState], None],
        ended: Callable[[Feed, WsState], None],
        farewell: tuple[tuple[bytes, ...], Callable[[], None]],
        number: Callable[[], int],
        label: str = "",
    ) -> None:
        self._source = source
        self._context = context
        self._url = url
        self._opened = opened
        self._ended = ended
        self._farewells, self._farewell = farewell
        self._number = number
        self._label = label or url
        self._origin = Origin(source, "stream", self._label)
        self._resume: asyncio.Task[None] | None = None
        self._count = _frames.labels(source)
        self._volume = _bytes.labels(source)
        self._taken = self._taken_bytes = 0
        upstream = context.upstream
        config = replace(config, name=config.name or source, clock=upstream)
        self.client = WsClient(url, self._take, self._turn, context.clock, context.rng, config)
        self.last_error = ""

    def start(self) -> None:
        """Connect and stay connected."""
        self.client.start()

    async def stop(self) -> None:
        """Close; no message is taken after this returned."""
        await self.client.stop()
        self._add_up()
        if self._resume is not None:
            self._resume.cancel()

    def mark(self, lost: Lost, streams: Sequence[control.Carried], wall_ns: int) -> None:
        """Write down that nothing of these streams came until now."""
        act = control.Resumed(lost.since_ns, lost.because, lost.because, streams)
        self._context.journal.append(self._origin, control.encode(act), kind=Kind.CONTROL, wall_ns=wall_ns)

    def reconnect(self, reason: str) -> None:
        """Make the connection anew; what is missed meanwhile becomes a gap as after any break."""
        self.client.reconnect(reason)

    @property
    def connected(self) -> bool:
        """Whether a connection is up."""
        return self.client.connected

    @property
    def last_frame_ns(self) -> int | None:
        """When the last message came."""
        return self.client.last_frame_ns

    def _take(self, payload: bytes, wall_ns: int) -> None:
        journal = self._context.journal
        journal.append(self._origin, payload, wall_ns=wall_ns)
        if payload.startswith(self._farewells):
            self._farewell()
        self._taken += 1
        self._taken_bytes += len(payload)
        if self._taken >= COUNT_EVERY:
            self._add_up()
        if journal.full and self._resume is None:
            self._resume = asyncio.create_task(self._wait_for_room(), name=f"feed {self._source} waits")

    def _add_up(self) -> None:
        """Bring the metrics up to date; an increment for each message would cost more than taking it."""
        self._count.inc(self._taken)
        self._volume.inc(self._taken_bytes)
        self._taken = self._taken_bytes = 0

    async def _wait_for_room(self) -> None:
        """Stop reading until the journal has room: the upstream feels it as TCP back-pressure."""
        _paused.labels(self._source).inc()
        self.client.pause()
        try:
            await self._context.journal.ready()
        except JournalError as error:
            self.last_error = str(error)
            return
        self._resume = None
        self.client.resume()

    def _turn(self, state: WsState) -> None:
        if state.connected:
            self.last_error = ""
            self._origin = Origin(self._source, "stream", f"{self._label}#{self._number()}")
            self._opened(self, state)
            return
        self.last_error = state.reason
        if state.connection:
            self._ended(self, state)
