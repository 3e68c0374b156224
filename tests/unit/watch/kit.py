"""A filled data directory, ways to change it behind the platform's back, and the audit of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from tidewire.journal import JournalReader, Kind
from tidewire.records.instrument import InstrumentBook
from tidewire.runtime.auditing import assembling
from tidewire.runtime.platform import load_instruments
from tidewire.sources.binance import BinanceParser
from tidewire.store.config import StoreConfig
from tidewire.store.duckdb import DuckDBStore
from tidewire.watch.audit import Accepted, Audit, Which, audit
from tidewire.watch.books import EVERYTHING, Scope
from tidewire.watch.frames import Frames
from tidewire.watch.trace import Evidence, Name
from unit.runtime.kit import Run, Stepping, fill, messages, opened
from unit.sources.binance.samples import WS, changed

HOUR_NS = 3_600_000_000_000


@dataclass(frozen=True)
class Filled:
    """A store at rest, its journal and the last frame accepted."""

    directory: Path
    journal: str
    accepted: int

    def change(self, *statements: str) -> None:
        """Behind the platform's back."""
        with duckdb.connect(str(self.directory / "tidewire.duckdb")) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            for statement in statements:
                connection.execute(statement)

    def ask(self, statement: str) -> list[tuple[object, ...]]:
        with duckdb.connect(str(self.directory / "tidewire.duckdb"), read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            return connection.execute(statement).fetchall()

    async def audit(
        self,
        which: Which = "all",
        scope: Scope = EVERYTHING,
        journals: Sequence[Frames] | None = None,
        tell: Callable[[int, int], None] | None = None,
    ) -> Audit:
        store = DuckDBStore(str(self.directory / "tidewire.duckdb"), StoreConfig())
        await store.open()
        try:
            book = InstrumentBook()
            await load_instruments(book, store)
            parsers = {"binance": BinanceParser(book.natives("BINANCE"))}
            found = [JournalReader(self.directory / "journal")] if journals is None else journals
            evidence = Evidence(lambda: found, assembling(parsers), frozenset(parsers), tell)
            return await audit(store, Accepted(self.journal, self.accepted), scope, evidence, which)
        finally:
            await store.close()


async def filled(directory: Path, hours: int = 1, each: int = 300, lanes: int = 1) -> Filled:
    """Store a feed with everything in it that goes wrong, some messages in each of some hours."""
    async with opened(directory) as (journal, store):
        run = Run(journal, store, lanes, Stepping())
        await run.start()
        for hour in range(hours):
            listed = messages(each, seed=hour + 1, first=1_000 + 900 * hour)
            await fill(journal, revised(listed, hour), run.now)
            run.now.now += HOUR_NS
        await run.drained()
        await run.stop()
        return Filled(directory, journal.uuid, journal.accepted)


def revised(listed: Sequence[tuple[bytes, str, Kind]], hour: int) -> list[tuple[bytes, str, Kind]]:
    """The same with bars that are corrected, once more said as corrected, and corrected again."""
    chance = random.Random(f"revised {hour}")
    found: list[tuple[bytes, str, Kind]] = []
    said: list[bytes] = []
    for payload, request, kind in listed:
        found.append((payload, request, kind))
        if b"kline_1m" in payload and b'"x":true' in payload:
            said.append(payload)
        if said and chance.random() < 0.08:
            bar = chance.choice(said)
            said.append(changed(bar, v=chance.choice(["25877.5", "25878.0"])))
            found.append((said[-1], request if "stream" in request else WS, Kind.DATA))
    return found


def named(found: Audit) -> list[Name]:
    """Every name of an audit."""
    return [name for traced in found.frames or () for name in traced.names]


def places(found: Audit) -> set[tuple[str, str, int, int | None]]:
    """(what, type, frame, ordinal) of every name of an audit."""
    return {
        (name.what, traced.spot.type, name.frame, name.ordinal)
        for traced in found.frames or ()
        for name in traced.names
    }
