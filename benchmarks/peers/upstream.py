"""The sandbox for `run.py`: frames made beforehand, played at a given rate or as fast as the client reads.

The frames are those of the sandbox's synthetic market. They are made once for a scenario and kept in a file, so that
all contestants get the same ones and playing costs a fraction of what making them does. Only ``E`` and ``T`` are set
when a frame is sent. A process of its own:

    python benchmarks/peers/upstream.py FRAMES COUNT RATE SENT

prints its addresses, plays the first COUNT frames on ``POST /sandbox/play`` and writes when each was sent to the file
SENT; RATE is in frames a second, 0 is as fast as the client reads.
"""

from __future__ import annotations

import asyncio
import json
import sys
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from tidewire import telemetry
from tidewire.records.clock import Clock, SystemClock
from tidewire.sandbox.config import LimitConfig, SandboxConfig
from tidewire.sandbox.hub import Hub
from tidewire.sandbox.market import Market
from tidewire.sandbox.server import Sandbox

SYMBOLS = ("BTCUSDT", "ETHUSDT")
KINDS = {"trade": "trade", "aggTrade": "trade", "bookTicker": "quote", "depth@100ms": "depth"}
SCENARIOS = {"trades_quotes": ("trade", "aggTrade", "bookTicker"), "depth": ("depth@100ms",)}
# Market events a second: what is traded between two depth frames decides how many levels they have.
PACE = {"trades_quotes": 5_000.0, "depth": 1_100.0}
_CHUNK = 256
_TICK_S = 0.001
_PROLOGUE = 100
_SNAPSHOT_S = 2.0
_DIGITS = 13  # of a time in ms


class Frame(msgspec.Struct, array_like=True):
    """One message without its envelope."""

    stream: str
    ident: int
    data: bytes


class Frames(msgspec.Struct):
    """What is played, and where the market that made it began."""

    scenario: str
    start_ns: int
    frames: list[Frame]


class _Recording:
    """In place of the hub: everything is listened to, and kept."""

    def __init__(self, streams: Iterable[str]) -> None:
        self.channels = dict.fromkeys(streams)
        self.frames: list[Frame] = []
        self.count = 0

    def publish(self, stream: str, ident: int, data: bytes, now_ns: int) -> None:
        self.frames.append(Frame(stream, ident, data))
        self.count += "@agg" not in stream  # the same trade in another spelling


def _config(scenario: str, start_ns: int) -> SandboxConfig:
    return SandboxConfig(
        symbols=SYMBOLS,
        start_ns=start_ns,
        pace=PACE[scenario],
        history_hours=1,
        start_on=frozenset({"@nothing"}),  # it begins on POST /sandbox/play
        limits=LimitConfig(weight_per_minute=100_000),
    )


def make(scenario: str, count: int, path: Path) -> dict[str, Any]:
    """Make so many frames and write them; returns what they are like."""
    clock = SystemClock()
    config = _config(scenario, clock.wall_ns())
    assert config.start_ns is not None
    streams = [f"{symbol.lower()}@{kind}" for symbol in SYMBOLS for kind in SCENARIOS[scenario]]
    hub: Any = _Recording(streams)
    market = Market(config, hub, clock)
    market.subscribed(streams)
    step_ns = 1e9 / config.pace
    while hub.count < count:
        market.step(config.start_ns + int(market.events * step_ns))
    path.write_bytes(msgspec.msgpack.encode(Frames(scenario, config.start_ns, hub.frames)))
    size = sum(len(frame.data) for frame in hub.frames)
    facts = {"frames": hub.count, "bytes_per_frame": round(size / len(hub.frames))}
    if scenario == "depth":
        decoded = (json.loads(frame.data) for frame in hub.frames[:: len(hub.frames) // 200 or 1])
        levels = [len(found["b"]) + len(found["a"]) for found in decoded]
        facts["levels_per_frame"] = round(sum(levels) / len(levels), 1)
    return facts


def _pieces(data: bytes) -> tuple[bytes, ...]:
    """The message cut where its times are: between the pieces go the digits."""
    found: list[bytes] = []
    for name in (b'"E":', b'"T":'):
        head, mark, rest = data.partition(name)
        if mark:
            found.append(head + mark)
            data = rest[_DIGITS:]
    return (*found, data)


class Rehearsed(Market):
    """Plays the frames; REST shows the market as it was before the first of them."""

    def __init__(
        self, config: SandboxConfig, hub: Hub, clock: Clock, frames: list[Frame], count: int, rate: float
    ) -> None:
        super().__init__(config, hub, clock)
        self._count = count
        self._frames = [(frame.stream, frame.ident, _pieces(frame.data)) for frame in frames]
        self._rate = rate
        self._prologue = _PROLOGUE if any("@depth" in frame.stream for frame in frames) else 0
        self.sent: dict[str, tuple[array[int], array[int]]] = defaultdict(lambda: (array("q"), array("q")))
        self.behind_ns = 0
        self.began_ns = self.ended_ns = 0

    def now_ns(self) -> int:
        """The wall clock's time, which is what frames are stamped with."""
        return self._clock.wall_ns()

    def subscribed(self, streams: Iterable[str]) -> None:
        """Nothing to prepare: the frames are there."""

    async def run(self) -> None:
        """Play everything somebody listens to."""
        await self._hub.started.wait()
        self.state = "playing"
        wanted = [frame for frame in self._frames if frame[0] in self._hub.channels][: self._count]
        if self._prologue and not self._rate:
            # All frames at once would be there before any book had its snapshot, which no venue does.
            await self._send(wanted[: self._prologue])
            await self._clock.sleep(_SNAPSHOT_S)
            wanted = wanted[self._prologue :]
        self.began_ns = self._clock.mono_ns()
        if self._rate:
            await self._paced(wanted)
        else:
            for begin in range(0, len(wanted), _CHUNK):
                await self._send(wanted[begin : begin + _CHUNK])
                await self._clock.sleep(0)
        self.ended_ns = self._clock.mono_ns()
        self.state = "done"

    async def _paced(self, wanted: list[tuple[str, int, tuple[bytes, ...]]]) -> None:
        done, step_ns = 0, 1e9 / self._rate
        while done < len(wanted):
            elapsed = self._clock.mono_ns() - self.began_ns
            self.behind_ns = max(self.behind_ns, elapsed - int(done * step_ns))
            due = int(elapsed / step_ns) + 1
            for begin in range(done, min(due, len(wanted)), _CHUNK):
                await self._send(wanted[begin : min(due, begin + _CHUNK)])
            done = min(due, len(wanted))
            await self._clock.sleep(_TICK_S)

    async def _send(self, frames: list[tuple[str, int, tuple[bytes, ...]]]) -> None:
        now, mono = self._clock.wall_ns(), self._clock.mono_ns()
        digits = str(now // 1_000_000).encode()
        publish = self._hub.publish
        for stream, ident, pieces in frames:
            publish(stream, ident, digits.join(pieces), now)
            idents, times = self.sent[stream]
            idents.append(ident)
            times.append(mono)
        self.events += len(frames)
        await self._hub.flush()

    def log(self) -> Iterator[tuple[str, str, bytes, bytes]]:
        """What was sent when: kind, symbol, idents and times in ns."""
        for stream, (idents, times) in self.sent.items():
            symbol, _, name = stream.partition("@")
            yield KINDS[name], symbol.upper(), idents.tobytes(), times.tobytes()


async def serve(path: Path, count: int, rate: float, sent: Path) -> None:
    """Listen, play when told to, and leave when standard input ends."""
    loaded = msgspec.msgpack.decode(path.read_bytes(), type=Frames)
    made: list[Rehearsed] = []

    def market(config: SandboxConfig, hub: Hub, clock: Clock) -> Rehearsed:
        made.append(Rehearsed(config, hub, clock, loaded.frames, count, rate))
        return made[0]

    sandbox = Sandbox(_config(loaded.scenario, loaded.start_ns), market=market)
    await sandbox.start()
    print(json.dumps({"url": sandbox.url, "ws_url": sandbox.ws_url}), flush=True)
    await sandbox.finished()
    played = made[0]
    sent.write_bytes(msgspec.msgpack.encode(list(played.log())))
    facts = {
        "sent": played.events,
        "play_s": (played.ended_ns - played.began_ns) / 1e9,
        "behind_ms": played.behind_ns / 1e6,
        "connections": sandbox.status()["connections"],
    }
    print(json.dumps(facts), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await sandbox.stop()


if __name__ == "__main__":
    telemetry.configure("warning")
    uvloop.run(serve(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])))
