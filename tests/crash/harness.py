"""Lives of the product: started under load, looked at, killed, its disk damaged, started again; then the reckoning."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import polars as pl

from crash.disk import Disk
from crash.spied import Start
from crash.truth import SYMBOLS, Stored, Trades, Truth, every_trade_is_accounted_for, same, same_as_replayed
from integration.kit import loaded, replay_parsers, until
from tidewire.journal import JournalReader
from tidewire.replay import Replay
from tidewire.runtime.supervise import found_running
from tidewire.sandbox.config import Faults, LimitConfig, SandboxConfig
from tidewire.sandbox.server import Sandbox
from tidewire.store.duckdb import DuckDBStore

SCALE = int(os.environ.get("SCALE", "1"))
SEED = int(os.environ.get("SEED", "7"))
CONFIG = """\
data_dir: data
listen: {port: 0}
log: {level: warning, form: json}
journal: {segment_bytes: SEGMENT_BYTES}
pipe: {store_ms: 50}
gaps: {fill: FILL, settle: 200ms}
sources:
  - source: {type: market, name: binance}
    api: {base_url: "${SANDBOX}", rate_limit: {requests_per_second: 10000, burst: 10000}}
    collectors:
      trade: {symbols: [BTCUSDT, ETHUSDT, SOLUSDT]}
      quote: {symbols: [BTCUSDT, ETHUSDT, SOLUSDT]}
      kline: {symbols: [BTCUSDT, ETHUSDT, SOLUSDT], intervals: [1s, 1m], history: 60}
      ticker: {update_interval: 1s}
      order_book: {symbols: [BTCUSDT, ETHUSDT], depth: 5, update_interval: 100ms, deltas: true}
"""
UNLIMITED = LimitConfig(weight_per_minute=10_000_000, connections_per_5_minutes=100_000)


@dataclass(frozen=True)
class Plan:
    """What a run does. Shares are of the kills."""

    kills: int
    messages: tuple[int, int] = (2_000, 28_000)
    """How many messages a life is sent before it is killed."""
    early: float = 0.15
    """Killed at any moment after the start, not only once data flows."""
    cut: float = 0.35
    flip: float = 0.35
    """Power cuts that take bytes, and those that change them; the rest are kills alone."""
    broken: float = 0.05
    """Lives that end by a sync that fails; they are no kills."""
    rest: float = 0.4
    """Lives that get a pause of the market, in which the API is looked at, and are killed some time after."""
    catch_up: int = 10
    """Every so-manieth life is killed when all that was sent is stored and all gaps are filled."""
    linger_s: float = 0.5
    """How long those go on at most."""
    sync_ms: float = 40.0
    """How long a sync takes at most."""
    segment_bytes: int = 2 << 20
    rate: float | None = None
    """Market events in a second; None: as fast as they are read."""
    frames: int = 0
    """Go on until there are so many frames, whatever ``kills`` says."""
    seed: int = SEED
    fill: bool = True
    """Whether gaps are filled through REST: no trade may be missing at the end then."""
    more_config: str = ""
    """What the platform's file says beside `CONFIG`."""
    faults: tuple[str, ...] = ()
    mutants: tuple[str, ...] = ()
    look_s: float = 120.0
    """How long the API may take to show something new."""
    end_s: float = 60.0
    """How long a product whose disk is broken may take to end."""
    patience_s: float = 120.0
    """How long the last life may take to store and fill everything."""


@dataclass
class Figures:
    """What was done, for the end."""

    kills: int = 0
    broken: int = 0
    early: int = 0
    cuts: int = 0
    torn: int = 0
    flipped: int = 0
    vanished: int = 0
    taken: int = 0
    frames: int = 0
    rows: int = 0
    trades: Trades = field(default_factory=lambda: Trades(0, 0, 0))
    replayed: int = 0
    seconds: float = 0.0
    checked_s: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.kills} kills ({self.early} of them early), {self.broken} failed syncs, {self.cuts} power cuts: "
            f"{self.torn} files torn ({self.taken:,} bytes), {self.flipped} flipped, {self.vanished} names undone; "
            f"{self.frames:,} frames, {self.rows:,} trades, quotes and bars, {self.replayed:,} rows in all replayed; "
            f"of {self.trades.numbered:,} trades sent {self.trades.stored:,} stored, {self.trades.missing:,} in gaps; "
            f"{self.seconds:.0f} s, and {self.checked_s:.0f} s to check"
        )


def client() -> aiohttp.ClientSession:
    """For looking at the product's API."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5), trust_env=False)


class Nursery:
    """Starts products: a process of `crash.spied`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls) -> AsyncGenerator[Nursery]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(Path(__file__).with_name("spied.py"))),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            yield cls(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()

    async def start(self, start: Start) -> Life:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(start) + b"\n")
        return Life(await self._line(b"pid"), asyncio.create_task(self._line(b"dead")))

    async def _line(self, word: bytes) -> int:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        said, _, number = line.partition(b" ")
        assert said == word, f"the nursery said {line!r}"
        return int(number)


@dataclass
class Life:
    """One process."""

    pid: int
    ended: asyncio.Task[int]

    @property
    def over(self) -> bool:
        return self.ended.done()

    async def end(self, number: signal.Signals) -> int:
        os.kill(self.pid, number)
        return await asyncio.wait_for(asyncio.shield(self.ended), 60)


class Product:
    """``tidewire up`` on one directory, in one process after the other, and the sandbox it collects from."""

    def __init__(self, directory: Path, plan: Plan, sandbox: Sandbox, nursery: Nursery) -> None:
        self.directory = directory
        self.plan = plan
        self.sandbox = sandbox
        self.chance = random.Random(plan.seed)
        self.figures = Figures()
        self.shown: dict[tuple[str, str], int] = {}
        """The latest sequence of each instrument that the API showed, by record type."""
        self.promised: set[tuple[str, str, int]] = set()
        """Every one it ever showed."""
        self.resumes = 0
        """Lives that were sent something, and so had a connection."""
        self.disk = Disk(directory / "data" / "journal", directory / "synced", self.chance)
        self._nursery = nursery
        config = CONFIG.replace("SEGMENT_BYTES", str(plan.segment_bytes)).replace("FILL", str(plan.fill).lower())
        (directory / "config.yaml").write_text(config + plan.more_config)

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @contextlib.asynccontextmanager
    async def life(self, **more: Any) -> AsyncGenerator[Life]:
        """One process from its start to its end; killed if it still runs."""
        # The sandbox may not have noticed yet that nobody listens; what it sends to the dead does not count.
        self.sandbox.disconnect()
        life = await self._nursery.start(
            Start(
                directory=str(self.directory),
                argv=["up", "config.yaml", "--quiet"],
                environ={"SANDBOX": self.sandbox.url},
                sync_ms=self.plan.sync_ms,
                seed=self.chance.randrange(1 << 30),
                faults=list(self.plan.faults),
                mutants=list(self.plan.mutants),
                **more,
            )
        )
        try:
            yield life
        finally:
            if not life.over:
                await life.end(signal.SIGKILL)

    def sent(self) -> int:
        """Messages the sandbox has put on the wire."""
        return sum(int(str(entry["sent"])) for entry in self.sandbox.ledger().values())

    def runs(self, life: Life) -> None:
        """Fail if it ended by itself."""
        log = self.directory / "errors.log"
        assert not life.over, f"the product ended by itself: {log.read_text()[-2_000:]}"

    async def flowing(self, life: Life, messages: int, within_s: float = 60) -> None:
        """Return when so many messages were sent to this life."""
        before = self.sent()
        await until(lambda: self.sent() >= before + messages or life.over, f"{messages} messages", within_s, 0.002)
        self.runs(life)

    async def look(self, session: aiohttp.ClientSession, life: Life) -> bool:
        """Remember what the API shows now: from then on it may never be lost. Whether every instrument was seen."""
        self.runs(life)
        running = found_running(self.data)
        if running is None:
            return False
        for kind in ("trade", "quote"):
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{running.url}/v1/{kind}/latest") as reply:
                    if reply.status != 200:
                        continue
                    for row in msgspec.json.decode(await reply.read())["data"]:
                        name = kind, row["instrument"]
                        self.shown[name] = row["sequence"]
                        self.promised.add((*name, row["sequence"]))
        return len(self.shown) == 2 * len(SYMBOLS)

    # -- the lives ----------------------------------------------------------------------------------------------

    async def be_killed(self, session: aiohttp.ClientSession) -> None:
        """One life that ends by SIGKILL."""
        plan, chance = self.plan, self.chance
        async with self.life() as life:
            self.sandbox.play()
            # The first one always gets data: what was sent before anything was accepted has no place to be missed in.
            if self.shown and chance.random() < plan.early:
                self.figures.early += 1
                await self._some_time(1.2)
            else:
                await self.flowing(life, chance.randrange(*plan.messages))
                self.resumes += 1
                if self.figures.kills % plan.catch_up == plan.catch_up - 1:
                    self.sandbox.pause()
                    await until(lambda: self._has_all(session, life), "all is stored", plan.patience_s, 0.05)
                elif not self.shown or chance.random() < plan.rest:
                    await self._rest(session, life)
            self.runs(life)
            assert await life.end(signal.SIGKILL) == -signal.SIGKILL
        self.figures.kills += 1

    async def _sees_more(
        self, session: aiohttp.ClientSession, life: Life, before: Mapping[tuple[str, str], int]
    ) -> bool:
        return await self.look(session, life) and self.shown != before

    async def _rest(self, session: aiohttp.ClientSession, life: Life) -> None:
        """The market pauses, the API is looked at, some time goes by; then the market may go on for a moment."""
        self.sandbox.pause()
        before = dict(self.shown)
        await until(
            functools.partial(self._sees_more, session, life, before),
            "the API shows what came",
            self.plan.look_s,
            0.005,
        )
        await self._some_time(self.plan.linger_s)
        if self.chance.random() < 0.5:
            self.sandbox.play()
            await self._some_time(0.1)

    async def _some_time(self, most_s: float) -> None:
        moment = time.monotonic() + self.chance.uniform(0, most_s)
        await until(lambda: time.monotonic() >= moment, "a random moment", poll_s=0.005)

    async def break_down(self) -> None:
        """One life whose disk refuses a sync: it must end by itself, and say why."""
        log = self.directory / "errors.log"
        said = log.stat().st_size if log.exists() else 0
        async with self.life(fail_sync=self.chance.randrange(4, 20)) as life:
            self.sandbox.play()
            await until(lambda: life.over, "the end of a product whose sync failed", self.plan.end_s, 0.01)
            assert await life.ended == 1
        assert "Input/output error" in log.read_text()[said:]
        self.figures.broken += 1

    async def live(self) -> None:
        """All lives of the plan."""
        plan, chance = self.plan, self.chance
        async with client() as session:
            while self.figures.kills < plan.kills or self.disk.frames() < plan.frames:
                broken = self.figures.kills > 0 and chance.random() < plan.broken
                await (self.break_down() if broken else self.be_killed(session))
                self.lose_power(surely=broken)
            await self.come_to_rest(session)

    def lose_power(self, *, surely: bool = False) -> None:
        """After a death: as the plan's shares say, or ``surely``, what was not synced is damaged."""
        self.disk.died()
        fate = self.chance.random()
        if surely or fate < self.plan.cut + self.plan.flip:
            self.disk.cut(flip=fate >= self.plan.cut)

    async def come_to_rest(self, session: aiohttp.ClientSession) -> None:
        """One last life: everything that is left is stored, and it ends by itself."""
        async with self.life() as life:
            self.sandbox.play()
            await self.flowing(life, 2_000)
            await self.finish(session, life)

    async def finish(self, session: aiohttp.ClientSession, life: Life) -> None:
        """The market stops; everything sent is stored, what can be filled is filled, and the life ends by itself."""
        self.sandbox.pause()
        await until(lambda: self._has_all(session, life), "everything sent is stored", self.plan.patience_s, 0.1)
        assert await life.end(signal.SIGTERM) == 0
        self.disk.died()

    async def _has_all(self, session: aiohttp.ClientSession, life: Life) -> bool:
        ledger = self.sandbox.ledger()
        if not await self.look(session, life):
            return False
        for symbol, instrument in SYMBOLS.items():
            if self.shown["trade", instrument] < int(str(ledger[f"{symbol.lower()}@trade"]["last_id"])):
                return False
        running = found_running(self.data)
        assert running is not None
        asked = {"type": "trade", "state": "open,filling", "limit": 1}
        async with session.get(f"{running.url}/v1/gaps", params=asked) as reply:
            if reply.status != 200 or (self.plan.fill and msgspec.json.decode(await reply.read())["data"]):
                return False
        async with session.get(f"{running.url}/v1/audit") as reply:
            return reply.status == 200 and msgspec.json.decode(await reply.read())["data"]["in_flight_frames"] == 0

    # -- the reckoning ------------------------------------------------------------------------------------------

    async def reckon(self) -> None:
        """Everything that was promised, looked for without the product's help where that is possible."""
        self.disk.owes()
        journal, stored = self.data / "journal", Stored(self.data)
        assert JournalReader(journal).verify() == []
        truth = Truth.of(journal)
        self.figures.frames = truth.frames
        self.figures.rows = same(truth, stored)
        self.figures.trades = every_trade_is_accounted_for(stored, self.sandbox.ledger())
        if self.plan.fill:
            assert self.figures.trades.missing == 0, "trades are missing after gaps were filled"
        promised = pl.DataFrame(list(self.promised), ["kind", "instrument", "sequence"], orient="row")
        for kind in ("trade", "quote"):
            lost = promised.filter(kind=kind).join(stored.rows(kind), on=["instrument", "sequence"], how="anti")
            assert lost.is_empty(), f"the API showed {lost.height} {kind}s that are not stored: {lost.rows()[:3]}"
        assert truth.connections >= self.resumes // 2
        assert not truth.untold, f"{truth.untold} connections began without a word about the time before"
        quotes = stored.gaps().filter(record_type="quote")
        for instrument in SYMBOLS.values():
            told = sum({"type": "quote", "instrument": instrument} in act["streams"] for act in truth.resumed)
            shown = quotes.filter(instrument=instrument).height
            assert shown == told, f"{instrument}: {told} breaks were told, {shown} are gaps of quotes"
        await adds_up(self.directory)
        await replay(self.directory)
        self.figures.replayed = same_as_replayed(self.data, self.directory / "again")


@contextlib.asynccontextmanager
async def stage(directory: Path, plan: Plan) -> AsyncGenerator[Product]:
    """A sandbox, and a product that is not started yet; afterwards all of it is gone and the figures are known."""
    began = time.monotonic()
    config = SandboxConfig(
        symbols=tuple(SYMBOLS),
        rate=plan.rate,
        history_hours=1,
        faults=Faults(duplicate=0.01, seed=plan.seed),
        limits=UNLIMITED,
    )
    sandbox = Sandbox(config)
    await sandbox.start()
    try:
        async with Nursery.open() as nursery:
            product = Product(directory, plan, sandbox, nursery)
            yield product
    finally:
        await sandbox.stop()
    figures, damage = product.figures, product.disk.damage
    figures.seconds = time.monotonic() - began
    figures.cuts, figures.torn, figures.flipped = damage.cuts, damage.torn, damage.flipped
    figures.vanished, figures.taken = damage.vanished, damage.taken


async def run(directory: Path, plan: Plan) -> Figures:
    """A whole run: lives, and the reckoning."""
    async with stage(directory, plan) as product:
        await product.live()
    began = time.monotonic()
    await product.reckon()
    product.figures.checked_s = time.monotonic() - began
    return product.figures


async def adds_up(directory: Path) -> None:
    """``tidewire audit`` finds no difference (it exits 3 when it does) and nothing in flight."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tidewire", "audit", "--json", "--data", str(directory / "data")),
        cwd=directory,
        env=os.environ | {"SANDBOX": "http://127.0.0.1:1"},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    books: Mapping[str, Any] = json.loads(out)
    assert (process.returncode, books["difference"], books["in_flight_frames"]) == (0, 0, 0), books


async def replay(directory: Path) -> None:
    """The journal through today's code into an empty store beside it."""
    into = directory / "again"
    into.mkdir()
    store = DuckDBStore(into / "tidewire.duckdb")
    await store.open()
    try:
        source = JournalReader(directory / "data" / "journal")
        async for _ in Replay(source, replay_parsers(loaded(directory, []))).into(store):
            pass
    finally:
        await store.close()
