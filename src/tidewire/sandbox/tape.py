"""Playback of a recording: ``<receive ns> <combined-stream JSON>`` a line, gzip; a REST snapshot line is the bare body.

Every message goes, in the order of the recording, to each connection that listens to its stream.
"""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from tidewire.errors import InputError
from tidewire.records.clock import Clock
from tidewire.sandbox.config import E8, SandboxConfig, SymbolInfo, split_symbol
from tidewire.sandbox.hub import Hub
from tidewire.sandbox.series import Series

_CHUNK = 256
_SNAPSHOT = b'{"lastUpdateId"'
_NO_QUOTE: dict[str, str] = dict.fromkeys(("bidPrice", "bidQty", "askPrice", "askQty"), "0.00000000")


class _TradeLine(msgspec.Struct):
    t: int
    p: str
    q: str
    T: int
    m: bool


class _QuoteLine(msgspec.Struct):
    u: int
    b: str
    B: str
    a: str
    A: str


class _DepthLine(msgspec.Struct):
    u: int


class _Snapshot(msgspec.Struct):
    lastUpdateId: int  # noqa: N815 -- the venue's name
    bids: list[list[str]]
    asks: list[list[str]]


_trade = msgspec.json.Decoder(_TradeLine)
_quote = msgspec.json.Decoder(_QuoteLine)
_depth = msgspec.json.Decoder(_DepthLine)
_snapshot = msgspec.json.Decoder(_Snapshot)


def to_e8(text: str) -> int:
    """``"2683.80000000"`` as an integer of 1e-8; more than eight decimals are refused."""
    whole, _, part = text.partition(".")
    if len(part) > 8:
        raise InputError(f"{text!r} has more than eight decimals.")
    return int(whole) * E8 + int(part.ljust(8, "0"))


class Line:
    """One line: receive time in ns, stream (empty for a snapshot), JSON of the message without envelope."""

    __slots__ = ("data", "ns", "stream")

    def __init__(self, ns: int, stream: str, data: bytes) -> None:
        self.ns = ns
        self.stream = stream
        self.data = data


def parse_line(line: bytes, number: int) -> Line:
    """Take a line apart; `InputError` says which line is wrong and what a line looks like."""
    head, _, body = line.rstrip().partition(b" ")
    if head.isdigit():
        if body.startswith(_SNAPSHOT):
            return Line(int(head), "", body)
        if body.startswith(b'{"stream":"') and body.endswith(b"}"):
            stream, _, data = body[11:-1].partition(b'","data":')
            if data:
                return Line(int(head), stream.decode(), data)
    raise InputError(
        f"Line {number} of the recording begins {line[:60]!r}; valid is "
        '<receive ns> {"stream":"...","data":{...}} or <receive ns> {"lastUpdateId":...}.'
    )


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a recording."""
    try:
        with gzip.open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield parse_line(line, number)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"The recording {path} cannot be read: {error}. It must be a gzip file.") from error


class _Asset:
    """What is known of one symbol so far, and the first snapshot that is still to come."""

    def __init__(self, symbol: str) -> None:
        base, quote = split_symbol(symbol)
        self.info = SymbolInfo(symbol, base, quote, E8, E8, 0)
        self.series = Series(None)
        self.snapshot: _Snapshot | None = None
        self.quote: bytes | None = None
        self.update_id = 0

    def refine(self, price: str, size: str) -> None:
        """The finest decimals seen are the tick and the step."""
        tick, step = (10 ** (8 - len(text.partition(".")[2].rstrip("0"))) for text in (price, size))
        if tick < self.info.tick_e8 or step < self.info.step_e8:
            self.info = replace(self.info, tick_e8=min(tick, self.info.tick_e8), step_e8=min(step, self.info.step_e8))


class Tape:
    """Plays a recording; REST answers are made from what was played so far."""

    mode = "tape"

    def __init__(self, path: Path, config: SandboxConfig, hub: Hub, clock: Clock) -> None:
        self._path = path
        self._config = config
        self._hub = hub
        self._clock = clock
        self._now_ns = 0
        self._assets: dict[str, _Asset] = {}
        self.streams: Counter[str] = Counter()
        self.events = 0
        self.total = 0
        self.state = "waiting"

    async def load(self) -> None:
        """Read the recording once: its streams, symbols, ticks and first snapshots."""
        await asyncio.to_thread(self._scan)
        missing = [ending for ending in self._config.start_on if not self._ending(ending)]
        if missing:
            raise InputError(
                f"No stream of the recording ends in {', '.join(sorted(missing))}; it has "
                f"{', '.join(sorted(self.streams)) or 'none'}."
            )

    def _scan(self) -> None:
        for line in read_lines(self._path):
            self.total += 1
            if self._now_ns == 0:
                self._now_ns = line.ns
            if not line.stream:
                snapshot = _snapshot.decode(line.data)
                asset = self._nearest_asset(snapshot)
                if asset is not None and asset.snapshot is None:
                    asset.snapshot = snapshot
                continue
            self.streams[line.stream] += 1
            if line.stream.startswith("!"):
                continue
            asset = self._asset(line.stream)
            if line.stream.endswith("@trade"):
                trade = _trade.decode(line.data)
                asset.refine(trade.p, trade.q)
            elif line.stream.endswith("@bookTicker"):
                quote = _quote.decode(line.data)
                asset.refine(quote.b, quote.B)
            elif "@depth" in line.stream and b'"u":' in line.data:
                asset.update_id = _depth.decode(line.data).u
        for asset in self._assets.values():
            asset.update_id = 0

    def _asset(self, stream: str) -> _Asset:
        symbol = stream.partition("@")[0].upper()
        if symbol not in self._assets:
            self._assets[symbol] = _Asset(symbol)
        return self._assets[symbol]

    def _nearest_asset(self, snapshot: _Snapshot) -> _Asset | None:
        # A snapshot line does not name its symbol; update ids of two symbols are far apart.
        by_distance = sorted(self._assets.values(), key=lambda a: abs(a.update_id - snapshot.lastUpdateId))
        return by_distance[0] if by_distance else None

    def _ending(self, ending: str) -> set[str]:
        return {stream for stream in self.streams if stream.endswith(ending)}

    # --- what REST reads

    @property
    def symbols(self) -> dict[str, SymbolInfo]:
        """The symbols the recording's streams name."""
        return {name: asset.info for name, asset in self._assets.items()}

    def now_ns(self) -> int:
        """The recording's clock."""
        return self._now_ns

    def series(self, symbol: str) -> Series:
        """Trades and bars played so far."""
        return self._assets[symbol].series

    def depth(self, symbol: str, limit: int) -> Any:
        """The last snapshot played, or the first one to come."""
        snapshot = self._assets[symbol].snapshot or _Snapshot(0, [], [])
        return {
            "lastUpdateId": snapshot.lastUpdateId,
            "bids": snapshot.bids[:limit],
            "asks": snapshot.asks[:limit],
        }

    def best(self, symbol: str) -> Mapping[str, str]:
        """The last best bid and ask played; zeros before any."""
        raw = self._assets[symbol].quote
        if raw is None:
            return _NO_QUOTE
        quote = _quote.decode(raw)
        return {"bidPrice": quote.b, "bidQty": quote.B, "askPrice": quote.a, "askQty": quote.A}

    def expected(self, endings: frozenset[str]) -> set[str]:
        """The streams that must be subscribed before playing begins."""
        return {stream for ending in endings for stream in self._ending(ending)}

    def subscribed(self, streams: Iterable[str]) -> None:
        """Nothing to prepare: what is not subscribed is not sent."""

    # --- the drive

    async def run(self) -> None:
        """Wait for the start, play to the end."""
        await self._hub.started.wait()
        self.state = "playing"
        began, first_ns = self._clock.mono_ns(), self._now_ns
        speed = self._config.speed
        for line in read_lines(self._path):
            if speed is not None:
                ahead_s = (line.ns - first_ns) / speed / 1e9 - (self._clock.mono_ns() - began) / 1e9
                if ahead_s > 0:
                    await self._hub.flush()
                    await self._clock.sleep(ahead_s)
            self._play(line)
            if self.events % _CHUNK == 0:
                await self._hub.flush()
                await self._clock.sleep(0)
        self._hub.release_held()
        await self._hub.flush()
        self.state = "done"

    def _play(self, line: Line) -> None:
        self.events += 1
        self._now_ns = max(self._now_ns, line.ns)
        stream, data, ident = line.stream, line.data, self.events
        if not stream:
            snapshot = _snapshot.decode(data)
            asset = self._nearest_asset(snapshot)
            if asset is not None:
                asset.snapshot = snapshot
            return
        if not stream.startswith("!"):
            ident = self._learn(stream, data, ident)
        self._hub.publish(stream, ident, data, line.ns)

    def _learn(self, stream: str, data: bytes, ident: int) -> int:
        """Keep what REST answers need; return the message's own id, or ``ident`` when it has none."""
        asset = self._asset(stream)
        if stream.endswith("@trade"):
            trade = _trade.decode(data)
            asset.series.add(trade.t, to_e8(trade.p), to_e8(trade.q), trade.T, trade.m)
            ident = trade.t
        elif stream.endswith("@bookTicker"):
            asset.quote = data
            ident = _quote.decode(data).u
        elif "@depth" in stream and b'"u":' in data:
            ident = asset.update_id = _depth.decode(data).u
        return ident
