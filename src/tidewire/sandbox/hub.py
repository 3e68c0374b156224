"""Who listens to which stream, and the frames on their way to the sockets.

Frames of a moment are gathered per connection and written at once; `Hub.flush` waits until every client has room
again, so the drivers never run ahead of the slowest reader by more than one chunk.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from tidewire import telemetry
from tidewire.records.clock import Clock
from tidewire.sandbox.config import Faults, LimitConfig
from tidewire.sandbox.faults import FaultInjector, LedgerEntry, Message, in_microseconds, shift_times

_log = telemetry.log("sandbox")
_messages = telemetry.counter("sandbox_messages", "WebSocket messages sent by the sandbox")
_connections = telemetry.gauge("sandbox_connections", "WebSocket connections open at the sandbox")

_PONG_HEAD = b"\x8a\x0aTW"


def text_frame(payload: bytes) -> bytes:
    """One unmasked text frame."""
    size = len(payload)
    if size < 126:
        return b"\x81" + size.to_bytes(1, "big") + payload
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def clock_pong(now_ns: int) -> bytes:
    """An unsolicited pong frame that tells the upstream's time: ``TW`` and the ns as little-endian int64."""
    return _PONG_HEAD + now_ns.to_bytes(8, "little", signed=True)


class Socket(Protocol):
    """The wire under a connection."""

    def write(self, data: bytes) -> None:
        """Hand bytes to the socket; never blocks."""
        ...

    def full(self) -> bool:
        """Whether the client leaves data unread."""
        ...

    async def drain(self) -> None:
        """Wait until there is room."""
        ...

    def cut(self) -> None:
        """Close the TCP connection after what was written, without a closing handshake."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Close with a closing handshake."""
        ...


def shutdown_message(now_ms: int) -> bytes:
    """What Binance says before the server shuts down."""
    return b'{"e":"serverShutdown","E":%d}' % now_ms


def everything(_stream: str) -> bool:
    """An address that serves all streams."""
    return True


class Connection:
    """One WebSocket client; a stream that its address does not serve is taken and stays silent."""

    def __init__(
        self, number: int, socket: Socket, *, combined: bool, micro: bool, serves: Callable[[str], bool] = everything
    ) -> None:
        self.number = number
        self.socket = socket
        self.combined = combined
        self.micro = micro
        self.serves = serves
        self.streams: dict[str, None] = {}
        self.out: list[bytes] = []
        self.told_ns = 0
        self.sent = 0
        self.open = True


class Channel:
    """One stream with at least one listener."""

    def __init__(self, stream: str, entry: LedgerEntry) -> None:
        self.prefix = b'{"stream":"' + stream.encode() + b'","data":'
        self.entry = entry
        self.listeners: list[Connection] = []


class Hub:
    """Streams, listeners, ledger and faults.

    ``tell_clock``: send the market's time, as an unsolicited pong, before the first message of each instant.
    """

    def __init__(self, clock: Clock, faults: Faults, limits: LimitConfig, *, tell_clock: bool) -> None:
        self._limits = limits
        self._tell_clock = tell_clock
        self._expected: set[str] = set()
        self._on_change: Callable[[Iterable[str]], None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending: set[Connection] = set()
        self._numbers = itertools.count(1)
        self.faults = FaultInjector(faults, clock, self.entry)
        self.goodbye = shutdown_message
        self.channels: dict[str, Channel] = {}
        self.connections: dict[int, Connection] = {}
        self.ledger: dict[str, LedgerEntry] = {}
        self.started = asyncio.Event()
        self.wanted = asyncio.Event()

    def entry(self, stream: str) -> LedgerEntry:
        """The ledger of a stream."""
        return self.ledger.setdefault(stream, LedgerEntry())

    def attach(self, on_change: Callable[[Iterable[str]], None], expected: set[str]) -> None:
        """``on_change`` hears which streams are listened to; playing starts when all ``expected`` are."""
        self._on_change = on_change
        self._expected = expected

    # --- connections

    def next_number(self) -> int:
        """The number of the next connection."""
        return next(self._numbers)

    def add(self, connection: Connection) -> None:
        """A client has connected."""
        self.connections[connection.number] = connection
        _connections.set(len(self.connections))

    def remove(self, connection: Connection) -> None:
        """A client is gone; what was not yet written to it is forgotten."""
        if self.connections.pop(connection.number, None) is not None:
            connection.open = False
            self.unsubscribe(connection, list(connection.streams))
            self._pending.discard(connection)
            _connections.set(len(self.connections))

    def renew(self) -> None:
        """Tell again which streams are listened to: a symbol that had none may be listed now."""
        self._changed()

    def say_goodbye(self, now_ms: int) -> list[Connection]:
        """Send everyone the message that says the server will shut down; who was there."""
        data = self.goodbye(now_ms)
        connections = list(self.connections.values())
        for connection in connections:
            whole = b'{"stream":"!serverShutdown","data":%s}' % data if connection.combined else data
            connection.out.append(text_frame(whole))
            self._pending.add(connection)
        return connections

    def subscribe(self, connection: Connection, streams: Iterable[str]) -> None:
        """The client listens to these streams too."""
        for stream in streams:
            if stream not in connection.streams:
                connection.streams[stream] = None
                if not connection.serves(stream):
                    continue
                if stream not in self.channels:
                    self.channels[stream] = Channel(stream, self.entry(stream))
                self.channels[stream].listeners.append(connection)
        self._changed()

    def unsubscribe(self, connection: Connection, streams: Iterable[str]) -> None:
        """The client no longer listens to these."""
        for stream in streams:
            if stream in connection.streams:
                del connection.streams[stream]
                if not connection.serves(stream):
                    continue
                channel = self.channels[stream]
                channel.listeners.remove(connection)
                if not channel.listeners:
                    del self.channels[stream]
        self._changed()

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change(self.channels)
        if self.channels:
            self.wanted.set()
        else:
            self.wanted.clear()
        if self._expected and self._expected <= self.channels.keys():
            self.started.set()

    def cut(self, connection: Connection, reason: str, code: int | None = None) -> None:
        """End a connection; without ``code`` there is no closing handshake."""
        if not connection.open:
            return
        _log.info("connection cut", connection=connection.number, reason=reason, code=code)
        rest = b"".join(connection.out)
        self.remove(connection)
        if rest:
            connection.socket.write(rest)
        if code is None:
            connection.socket.cut()
        else:
            self.spawn(connection.socket.close(code, reason))

    def disconnect_all(self, reason: str) -> int:
        """Cut every connection; return how many there were."""
        gone = list(self.connections.values())
        for connection in gone:
            self.cut(connection, reason)
        return len(gone)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the market; it ends with the hub at the latest."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Close every connection."""
        for connection in list(self.connections.values()):
            self.cut(connection, "the sandbox stops", 1001)
        tasks = list(self._tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=2.0)
            for task in late:
                task.cancel()

    # --- messages

    def publish(self, stream: str, ident: int, data: bytes, now_ns: int) -> None:
        """Send a message to whoever listens to its stream, faults permitting."""
        if stream not in self.channels:
            return
        if self.faults.touches:
            for message in self.faults.judge((stream, ident, data, now_ns)):
                self._deliver(message)
        else:
            self._deliver((stream, ident, data, now_ns))

    def reply(self, connection: Connection, data: bytes) -> None:
        """Send something to one client at once, after what waits for it; of the faults only silence and skew apply."""
        if self.faults.silent or not connection.open:
            return
        connection.out.append(text_frame(shift_times(data, self.faults.skew_ms) if self.faults.skew_ms else data))
        _write(connection)

    def release_held(self) -> None:
        """Send what was held back for reordering; called when nothing will follow."""
        for message in self.faults.release():
            self._deliver(message)

    def _deliver(self, message: Message) -> None:
        stream, ident, data, now_ns = message
        channel = self.channels.get(stream)
        if channel is None:
            return
        if self.faults.skew_ms:
            data = shift_times(data, self.faults.skew_ms)
        entry = channel.entry
        entry.sent += 1
        entry.last_id = ident
        if entry.first_id is None:
            entry.first_id = ident
        raw = combined = b""
        halve_after = self.faults.faults.halve_every
        cut_after = self.faults.faults.disconnect_every or halve_after
        for connection in channel.listeners.copy() if cut_after else channel.listeners:
            if connection.micro:
                fine = in_microseconds(data)
                frame = text_frame(channel.prefix + fine + b"}" if connection.combined else fine)
            elif connection.combined:
                frame = combined = combined or text_frame(channel.prefix + data + b"}")
            else:
                frame = raw = raw or text_frame(data)
            out = connection.out
            if not out:
                self._pending.add(connection)
            if self._tell_clock and connection.told_ns != now_ns:
                connection.told_ns = now_ns
                out.append(clock_pong(now_ns))
            connection.sent += 1
            ends = cut_after and connection.sent >= cut_after
            out.append(frame[: len(frame) // 2] if ends and cut_after == halve_after else frame)
            if ends:
                self.cut(connection, f"fault: disconnect every {cut_after}")

    async def flush(self) -> None:
        """Write what was gathered, and wait for clients that do not keep up; one that never does is cut."""
        pending, self._pending = self._pending, set()
        for connection in pending:
            if connection.open and connection.out:
                _write(connection)
        for connection in pending:
            if connection.open and connection.socket.full():
                try:
                    async with asyncio.timeout(self._limits.slow_client_s):
                        await connection.socket.drain()
                except TimeoutError:
                    self.cut(connection, "the client does not read")
                except ConnectionError:
                    self.remove(connection)


def _write(connection: Connection) -> None:
    _messages.inc(len(connection.out))
    connection.socket.write(b"".join(connection.out))
    connection.out.clear()
