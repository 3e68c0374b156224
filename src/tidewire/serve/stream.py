"""The stream: processed rows from the bus to WebSocket connections, each row encoded once for all of them.

Server frames are ``welcome``, ``subscribed``, ``unsubscribed``, ``data``, ``gap``, ``error``, ``pong`` and ``bye``;
client frames ``subscribe``, ``unsubscribe`` and ``ping``. ``seq`` counts the data frames of a channel within one
``epoch``; it is the same for every connection, so a jump without a ``gap`` frame means conflation.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping

import msgspec
import polars as pl
from starlette.websockets import WebSocket, WebSocketDisconnect

from tidewire import telemetry
from tidewire.bus.protocol import Full, Subscription
from tidewire.records.batch import Batch, Stream
from tidewire.records.clock import utc
from tidewire.records.event import Event
from tidewire.records.forms import row_texts
from tidewire.records.ops import Finding, Gap, Quarantined
from tidewire.records.record import RecordType
from tidewire.records.subject import matches
from tidewire.serve.channels import STATE, channels_of, concerns
from tidewire.serve.connection import SUBPROTOCOLS, Connection
from tidewire.serve.outbox import Frame, gap_frame
from tidewire.serve.platform import Platform, ServeConfig
from tidewire.serve.problems import document
from tidewire.serve.service import stamp

_LOG = telemetry.log("serve")
_OPEN = telemetry.gauge("ws_connections", "Open stream connections.")
_REFUSED = telemetry.counter("ws_refused", "Connections refused: full, subprotocol.", ("reason",))
_EVICTED = telemetry.counter("ws_evictions", "Connections closed because of their reader.", ("reason",))
_ROWS = telemetry.counter("ws_rows", "Rows encoded for streams.", ("type",))
_HOLES = telemetry.counter("ws_bus_holes", "Holes in what the bus delivered to the gateway; each is told as a gap.")

# How long rows wait for those of other types that were parsed with them.
_TOGETHER_S = 0.002
# Rows that may wait for the next tick, and rows of one data frame.
_PENDING_ROWS = 50_000
_FRAME_ROWS = 500
# Channels whose readers, and whose numbers, are remembered.
_ROUTES = 65_536
_BUS_QUEUE = 4_096

Part = tuple[bool, list[pl.DataFrame]]
"""Rows that wait, and whether they are state."""


class Hub:
    """Everything between the bus and the connections."""

    def __init__(self, platform: Platform, config: ServeConfig) -> None:
        self.platform = platform
        self.config = config
        self.epoch = platform.rng.token(4)
        self._connections: dict[Connection, None] = {}
        self._routes: dict[str, tuple[Connection, ...]] = {}
        self._numbers: dict[str, int] = {}
        self._floor = 0
        self._positions: dict[Stream, int] = {}
        self._pending: dict[RecordType, list[Part]] = {}
        self._pending_rows = 0
        self._dirty = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._draining = False
        self._subscription: Subscription | None = None
        self._ticking: asyncio.Task[None] | None = None

    @property
    def is_heard(self) -> bool:
        """Whether anybody is connected."""
        return bool(self._connections)

    async def start(self) -> None:
        """Take events from the bus. A gateway that falls behind loses the oldest and tells its clients so."""
        self._subscription = self.platform.bus.subscribe(
            "data.*.processed", self._take, queue=_BUS_QUEUE, full=Full.DROP_OLDEST, name="stream"
        )
        self._ticking = asyncio.create_task(self._tick(), name="stream tick")

    async def drain(self) -> None:
        """Send what waits and ``bye`` to everyone, and wait until they are gone, at most the drain time."""
        self._draining = True
        self._flush()
        for connection in list(self._connections):
            connection.end(1012, "the server is stopping")
        try:
            async with asyncio.timeout(self.config.drain):
                await self._empty.wait()
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()

    async def stop(self) -> None:
        """Let go of the bus."""
        if self._subscription is not None:
            self.platform.bus.unsubscribe(self._subscription)
        if self._ticking is not None:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking

    async def serve(self, socket: WebSocket) -> None:
        """One connection, from its handshake to its end."""
        state = socket.scope["state"]
        state["route"] = "/v1/stream"
        asked: list[str] = socket.scope["subprotocols"]
        chosen = next((name for name in asked if name in SUBPROTOCOLS), None)
        where = ("/v1/stream", state["request_id"], state["trace_id"])
        if asked and chosen is None:
            _REFUSED.labels("subprotocol").inc()
            detail = f"None of the sub-protocols {', '.join(asked)} is known. Valid: {', '.join(SUBPROTOCOLS)}."
            await socket.send_denial_response(document(400, "invalid_query", detail, where))
            return
        if self._draining or len(self._connections) >= self.config.connections:
            _REFUSED.labels("full").inc()
            detail = f"{len(self._connections)} of {self.config.connections} connections are open, or the server stops."
            await socket.send_denial_response(document(503, "too_many_connections", detail, where))
            return
        connection = Connection(socket, self.config, self.platform, self._changed)
        self._connections[connection] = None
        self._empty.clear()
        _OPEN.inc()
        try:
            await socket.accept(chosen)
            connection.welcome(self.epoch, stamp(utc(self.platform.clock.wall_ns())))
            await connection.run()
        except (WebSocketDisconnect, OSError):
            pass
        finally:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        self._connections.pop(connection, None)
        self._changed()
        _OPEN.dec()
        if not self._connections:
            self._empty.set()

    def _changed(self) -> None:
        """Somebody's subscriptions changed."""
        self._routes.clear()

    def _readers(self, channel: str) -> tuple[Connection, ...]:
        found = self._routes.get(channel)
        if found is None:
            if len(self._routes) >= _ROUTES:
                self._routes.clear()
            found = tuple(c for c in self._connections if any(matches(p, channel) for p in c.patterns))
            self._routes[channel] = found
        return found

    def _take(self, event: Event) -> None:
        if isinstance(event.payload, Mapping):
            return
        batch = event.batch
        if self._is_repeat(batch):
            return
        kind = batch.type
        self._wait(kind, batch.rows, state=kind.name in STATE)
        if batch.forming is not None:
            # A bar that this batch closes is not forming any more.
            forming = batch.forming.join(batch.rows, on=kind.key, how="anti") if batch.rows.height else batch.forming
            self._wait(kind, forming, state=True)
        self._wait(Gap.type, batch.gaps, state=False)
        self._wait(Quarantined.type, batch.rejected, state=False)
        self._wait(Finding.type, batch.findings, state=False)

    def _is_repeat(self, batch: Batch) -> bool:
        line, stream = batch.lineage, batch.stream
        seen = self._positions.get(stream)
        if seen is not None and line.prev < line.last <= seen:
            return True
        if seen is not None and line.prev > seen:
            _HOLES.inc()
            self._tell_hole(batch.type)
        self._positions[stream] = max(seen or 0, line.last)
        return False

    def _tell_hole(self, kind: RecordType) -> None:
        self._flush()
        told = gap_frame(f"{kind.name}.>", 0, 0, "gateway_behind")
        for connection in self._connections:
            if any(concerns(pattern, kind) for pattern in connection.patterns):
                connection.put(told)

    def _wait(self, kind: RecordType, rows: pl.DataFrame | None, *, state: bool) -> None:
        """Keep rows for the next tick; consecutive ones of the same class are encoded together."""
        if rows is None or rows.is_empty() or not self._concerned(kind):
            return
        parts = self._pending.setdefault(kind, [])
        if parts and parts[-1][0] == state:
            parts[-1][1].append(rows)
        else:
            parts.append((state, [rows]))
        self._pending_rows += rows.height
        if self._pending_rows > _PENDING_ROWS:
            self._flush()
        else:
            self._dirty.set()

    def _concerned(self, kind: RecordType) -> bool:
        return any(concerns(pattern, kind) for connection in self._connections for pattern in connection.patterns)

    async def _tick(self) -> None:
        # The first rows after a pause go at once, with those of other types from the same frames; what follows within
        # a tick goes together.
        while True:
            await self._dirty.wait()
            await self.platform.clock.sleep(_TOGETHER_S)
            self._flush()
            await self.platform.clock.sleep(self.config.tick - _TOGETHER_S)

    def _flush(self) -> None:
        pending, self._pending, self._pending_rows = self._pending, {}, 0
        self._dirty.clear()
        for kind, parts in pending.items():
            try:
                for state, rows in parts:
                    self._send(kind, pl.concat(rows) if len(rows) > 1 else rows[0], state=state)
            except Exception as error:
                _LOG.error("rows could not be streamed", type=kind.name, exc_info=error)
                self._tell_hole(kind)
        now = self.platform.clock.mono_ns()
        for connection in self._connections:
            if connection.overdue(now):
                _EVICTED.labels("slow_reader").inc()
                connection.evict()

    def _send(self, kind: RecordType, rows: pl.DataFrame, *, state: bool) -> None:
        channels = channels_of(kind, rows)
        wanted = [bool(self._readers(channel)) for channel in channels]
        if not any(wanted):
            return
        if not all(wanted):
            rows = rows.filter(pl.Series(wanted))
            channels = [channel for channel, want in zip(channels, wanted, strict=True) if want]
        _ROWS.labels(kind.name).inc(rows.height)
        for frame in self._frames(kind, rows, channels, state=state):
            for connection in self._readers(frame.channel):
                connection.put(frame)

    def _frames(self, kind: RecordType, rows: pl.DataFrame, channels: list[str], *, state: bool) -> Iterator[Frame]:
        texts: dict[tuple[str, str], list[bytes]] = {}
        lines = row_texts(kind, rows)
        for key, line in zip(zip(channels, rows["source"].to_list(), strict=True), lines, strict=True):
            texts.setdefault(key, []).append(line)
        for key, found in texts.items():
            for start in range(0, len(found), _FRAME_ROWS):
                number = self._number(key[0])
                head = msgspec.json.encode({"op": "data", "ch": key[0], "seq": number})
                body = b",".join(found[start : start + _FRAME_ROWS])
                text = (head[:-1] + b',"rows":[' + body + b"]}").decode()
                yield Frame(key[0], key, number, number, text, state)

    def _number(self, channel: str) -> int:
        if channel not in self._numbers and len(self._numbers) >= _ROUTES:
            # Far more channels than a node has. Numbers may jump forward, never back.
            self._floor = max(self._numbers.values())
            self._numbers.clear()
        number = self._numbers[channel] = self._numbers.get(channel, self._floor) + 1
        return number
