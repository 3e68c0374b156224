"""A journal of Binance frames with everything that goes wrong in it, and the pipe that stores it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import polars as pl

from tidewire.bus import MemoryBus
from tidewire.collect import Parser, PumpConfig, control
from tidewire.collect.control import Carried, Resumed
from tidewire.errors import StoreError
from tidewire.journal import Journal, JournalConfig, Kind, Origin
from tidewire.records.batch import Batch
from tidewire.records.clock import SystemClock
from tidewire.records.event import Event
from tidewire.records.instrument import InstrumentBook
from tidewire.records.record import types
from tidewire.runtime.pipe import Pipe, PipeConfig
from tidewire.runtime.platform import load_instruments
from tidewire.sources.binance import BinanceParser
from tidewire.store.config import StoreConfig
from tidewire.store.duckdb import DuckDBStore
from tidewire.store.protocol import EVERYTHING, Query, Store, Written
from unit.sources.binance.samples import KLINE, QUOTE, REST, START_NS, TRADE, WS, changed

INFO = (
    b'{"symbols":[{"symbol":"BTCUSDT","status":"TRADING","baseAsset":"BTC","quoteAsset":"USDT","filters":[]},'
    b'{"symbol":"NKNUSDT","status":"TRADING","baseAsset":"NKN","quoteAsset":"USDT","filters":[]}]}'
)
QUICK = PumpConfig(parse_ms=1, step_frames=37, mark_ms=20)
DEADLINE_S = 30.0


class Hasty(SystemClock):
    """Does not wait long before it tries again."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(min(seconds, 0.01))


def messages(count: int, seed: int = 1, first: int = 1_000) -> list[tuple[bytes, str, Kind]]:
    """A feed with holes, late rows, repeats, bad rows, forming bars, unreadable frames and breaks."""
    chance = random.Random(seed)
    found: list[tuple[bytes, str, Kind]] = [(INFO, f"{REST}exchangeInfo", Kind.DATA)]
    number, late, minute = first, list[int](), START_NS // 60_000_000_000 - 600
    while len(found) < count:
        what = chance.random()
        if what < 0.6:
            number += chance.choice([1, 1, 1, 1, 1, 1, 2, 4])
            late += [n for n in range(number - 3, number) if chance.random() < 0.02]
            found.append((trade(number), WS, Kind.DATA))
        elif what < 0.66 and late:
            found.append((trade(late.pop(0)), WS, Kind.DATA))
        elif what < 0.7:
            found.append((trade(max(first, number - chance.randrange(4))), WS, Kind.DATA))
        elif what < 0.72:
            found.append((trade(number, p="0"), WS, Kind.DATA))
        elif what < 0.74:
            found.append((trade(number, p="1.0000000000000001"), WS, Kind.DATA))
        elif what < 0.76:
            found.append((b'{"stream":"btcusdt@trade","data":{', WS, Kind.DATA))
        elif what < 0.86:
            found.append((changed(QUOTE, u=number * 10 + chance.randrange(3)), WS, Kind.DATA))
        elif what < 0.98:
            minute += chance.choice([0, 0, 1, 1, 2])
            begin = minute * 60_000
            bar = changed(KLINE, t=begin, T=begin + 59_999, x=chance.random() < 0.7, E=begin + 59_999)
            found.append((bar, WS, Kind.DATA))
        else:
            act = Resumed(START_NS, "disconnect", "test", (Carried("quote", "NKN-USDT.BINANCE"),))
            found.append((control.encode(act), WS, Kind.CONTROL))
    return found


def trade(number: int, **more: Any) -> bytes:
    return changed(TRADE, t=number, T=START_NS // 1_000_000 + number, **more)


class Stepping:
    """Receive times of frames: a millisecond apart."""

    def __init__(self) -> None:
        self.now = START_NS

    def __call__(self) -> int:
        self.now += 1_000_000
        return self.now


async def fill(journal: Journal, listed: Sequence[tuple[bytes, str, Kind]], now: Stepping) -> None:
    for payload, request, kind in listed:
        origin = Origin("binance", "stream" if request == WS else "rest", request)
        journal.append(origin, payload, kind=kind, wall_ns=now())
    await journal.drain()


class Flaky:
    """A store whose commits fail when told to."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.fails: set[int] = set()
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, batches: Sequence[Batch]) -> list[Written]:
        self.writes += 1
        if self.writes in self.fails:
            raise StoreError("the disk had a bad day")
        return await self._store.write(batches)


class Leaky(MemoryBus):
    """A bus that loses events when told to."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.loses: Callable[[Event], bool] = lambda _: False

    async def publish(self, event: Event) -> None:
        if self.loses(event):
            return
        await super().publish(event)


class Run:
    """A pipe with all it needs."""

    def __init__(self, journal: Journal, store: DuckDBStore, lanes: int = 1, stepping: Stepping | None = None) -> None:
        self.journal = journal
        self.store = store
        self.flaky = Flaky(store)
        self.bus = Leaky()
        self.now = stepping or Stepping()
        self.made = 0  # twice in each life of the pipe: to warm up, and to go on
        config = PipeConfig(QUICK, lanes=lanes, store_ms=5, store_rows=200, queue=32)
        self.pipe = Pipe(journal, self.bus, self.flaky, self.parsers, Hasty(), config)  # type: ignore[arg-type]
        self.task: asyncio.Task[None] | None = None

    async def parsers(self) -> Mapping[str, Parser]:
        self.made += 1
        book = InstrumentBook()
        await load_instruments(book, self.store)
        return {"binance": BinanceParser(book.natives("BINANCE"))}

    async def start(self) -> None:
        await self.bus.start()
        self.task = asyncio.create_task(self.pipe.run())

    async def drained(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self.pipe.drained()

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.task = None
        await self.bus.close()


@asynccontextmanager
async def opened(directory: Path, **config: Any) -> AsyncIterator[tuple[Journal, DuckDBStore]]:
    directory.mkdir(exist_ok=True)
    journal = await Journal.open(directory / "journal", SystemClock(), JournalConfig(commit_ms=0, **config))
    store = DuckDBStore(str(directory / "tidewire.duckdb"), StoreConfig())
    await store.open()
    try:
        yield journal, store
    finally:
        await store.close()
        await journal.close()


async def tables(store: Store) -> dict[str, pl.DataFrame]:
    """Everything that is stored, all versions, in a fixed order."""
    found: dict[str, pl.DataFrame] = {}
    for name, kind in types().items():
        rows = (await store.read(Query(kind, snapshot=EVERYTHING, limit=1_000_000, revisions="all"))).rows
        if rows.height:
            found[name] = rows.sort("frame", "ordinal", *kind.key, "ingested_at")
    return found
