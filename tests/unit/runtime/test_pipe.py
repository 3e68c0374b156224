"""The pipe: whatever breaks inside, everything accepted is stored, once, and the books agree."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tidewire.collect import Assembler, Frame, Outcome, Parser
from tidewire.errors import JournalError
from tidewire.journal import Journal, Kind, Origin
from tidewire.records.instrument import InstrumentBook
from tidewire.records.market import Instrument, Trade
from tidewire.records.record import types
from tidewire.replay import Replay
from tidewire.runtime.platform import load_instruments
from tidewire.sources.binance import BinanceParser
from tidewire.store.config import StoreConfig
from tidewire.store.duckdb import DuckDBStore
from tidewire.store.protocol import EVERYTHING, Query
from tidewire.watch.audit import Accepted, audit
from unit.runtime.kit import Run, Stepping, fill, messages, opened, tables, trade
from unit.sources.binance.samples import WS

Rows = dict[str, pl.DataFrame]


async def replayed(journal: Journal) -> Rows:
    """What the same journal comes to in one go, from the first frame on."""
    store = DuckDBStore(":memory:", StoreConfig())
    await store.open()
    async for _ in Replay(journal, {"binance": BinanceParser()}).into(store):
        pass
    found = await tables(store)
    await store.close()
    return found


def same(ours: Rows, theirs: Rows) -> None:
    assert ours.keys() == theirs.keys()
    for name, part in ours.items():
        assert_frame_equal(part, theirs[name])


async def converged(run: Run) -> Rows:
    """The run is drained: it must be what a replay gives, and every row accounted for."""
    await run.drained()
    assert run.pipe.in_flight() == 0
    books = await audit(run.store, Accepted(run.journal.uuid, run.journal.accepted))
    assert (books.difference, books.in_flight_frames) == (0, 0)
    found = await tables(run.store)
    same(found, await replayed(run.journal))
    return found


async def test_everything_accepted_is_stored_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, store):
        run = Run(journal, store)
        await run.start()
        for seed in range(4):
            await fill(journal, messages(150, seed, first=1_000 * (seed + 1)), run.now)
        found = await converged(run)
        assert set(found) == {"gap", "instrument", "kline", "quarantined", "quote", "trade"}
        assert found["trade"]["trade_id"].n_unique() == found["trade"].height > 200
        assert found["kline"]["final"].all()
        assert run.made == 2
        await run.stop()


@pytest.mark.parametrize("lanes", [1, 3])
async def test_failing_commits_are_made_good(tmp_path: Path, lanes: int) -> None:
    async with opened(tmp_path) as (journal, store):
        run = Run(journal, store, lanes)
        run.flaky.fails = {1, 3, 4, 7}
        await run.start()
        for seed in range(6):
            await fill(journal, messages(80, seed, first=1_000 * (seed + 1)), run.now)
            await run.drained()
        await converged(run)
        assert run.made >= 8
        await run.stop()


@pytest.mark.parametrize("subject", ["data.trade.collected", "data.trade.processed", "data.quote.processed"])
async def test_an_event_that_got_lost_is_made_good(tmp_path: Path, subject: str) -> None:
    async with opened(tmp_path) as (journal, store):
        run = Run(journal, store)
        seen = 0

        def loses(event: object) -> bool:
            nonlocal seen
            seen += getattr(event, "subject", "") == subject
            return getattr(event, "subject", "") == subject and seen in (2, 9)

        run.bus.loses = loses  # type: ignore[assignment]
        await run.start()
        for seed in range(5):
            await fill(journal, messages(100, seed, first=1_000 * (seed + 1)), run.now)
        await converged(run)
        assert run.made >= 4
        await run.stop()


async def test_restarts_in_the_middle_change_nothing(tmp_path: Path) -> None:
    now = Stepping()
    for seed in range(6):
        async with opened(tmp_path) as (journal, store):
            run = Run(journal, store, stepping=now)
            await run.start()
            await fill(journal, messages(90, seed, first=1_000), now)
            if seed % 2:
                await run.drained()
            await run.stop()
    async with opened(tmp_path) as (journal, store):
        run = Run(journal, store, stepping=now)
        await run.start()
        await converged(run)
        await run.stop()


async def test_a_hole_half_filled_before_a_restart_is_closed_after_it(tmp_path: Path) -> None:
    parts = [
        messages(1) + [(trade(n), WS, Kind.DATA) for n in (10, 14, 12)],
        [(trade(n), WS, Kind.DATA) for n in (11, 13)],
    ]
    now = Stepping()
    for part in parts:
        async with opened(tmp_path) as (journal, store):
            run = Run(journal, store, stepping=now)
            await run.start()
            await fill(journal, part, now)
            found = await converged(run)
            await run.stop()
    assert found["gap"]["state"].to_list() == ["open", "filled"]


async def test_instruments_stored_in_the_last_moment_are_known_after_a_restart(tmp_path: Path) -> None:
    """The watermark lies before the newest frame; a parser that begins again must know that frame's instruments too."""
    async with opened(tmp_path) as (journal, store):
        await fill(journal, messages(1), Stepping())
        await store.write(Assembler(journal.uuid, {"binance": BinanceParser()}).step(journal.read(0)))
        assert (await store.read(Query(Instrument.type))).rows.is_empty()
        book = InstrumentBook()
        await load_instruments(book, store)
        assert book.natives("BINANCE") == {"BTCUSDT": "BTC-USDT.BINANCE", "NKNUSDT": "NKN-USDT.BINANCE"}
        # Accepted, but not parsed before the process ended.
        now = Stepping()
        await fill(journal, [(trade(5), WS, Kind.DATA)], now)
        run = Run(journal, store, stepping=now)
        await run.start()
        found = await converged(run)
        assert "quarantined" not in found
        assert found["trade"]["instrument"].to_list() == ["BTC-USDT.BINANCE"]
        await run.stop()


async def test_what_is_in_flight(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, store):
        run = Run(journal, store)
        await run.drained()  # nothing accepted: nothing to wait for
        await fill(journal, messages(20), run.now)
        assert run.pipe.in_flight() == 20
        assert run.pipe.in_flight(5) == 5
        waiting = asyncio.create_task(run.drained())
        await asyncio.sleep(0)
        assert not waiting.done()
        await run.start()
        await waiting
        assert run.pipe.in_flight() == 0
        assert set(store.positions().values()) == {20}
        assert len(store.positions()) == len(types())
        await run.stop()


async def test_stored_rows_are_told(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, store):
        run = Run(journal, store)
        await run.bus.start()
        told: list[str] = []
        run.bus.subscribe("data.trade.stored", lambda event: told.extend(event.batch.rows["trade_id"]))
        await run.start()
        await fill(journal, messages(150), run.now)
        await run.drained()
        await run.stop()
        stored = (await store.read(Query(Trade.type, snapshot=EVERYTHING, limit=10_000, order="asc"))).rows
        assert sorted(told) == sorted(stored["trade_id"])
        assert run.pipe.rows >= len(told)


async def test_a_journal_that_ends_ends_the_pipe_with_its_own_error(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, store):
        run = Run(journal, store)
        await run.start()
        await fill(journal, messages(10), run.now)
        await run.drained()
        await journal.close()
        assert run.task is not None
        with pytest.raises(JournalError):
            await asyncio.wait_for(run.task, 20)
        await run.stop()


class Sum:
    """Notes which frames it was shown."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def parse(self, frames: Sequence[Frame]) -> Outcome:
        self.follow(frames)
        return Outcome(control=list(frames))

    def follow(self, frames: Sequence[Frame]) -> None:
        self.seen += [frame.sequence for frame in frames]

    def state(self) -> bytes:
        return b""

    def resume(self, state: bytes) -> None:
        raise AssertionError(state)


async def test_a_parser_comes_in_while_it_runs(tmp_path: Path) -> None:
    """It knows every frame before its first, and misses none."""
    origin = Origin("late", "stream", "wss://late#1")

    async def feed(journal: Journal, count: int) -> None:
        for _ in range(count):
            journal.append(origin, b"x")
            await asyncio.sleep(0)

    async with opened(tmp_path) as (journal, store):
        run = Run(journal, store)
        await run.start()
        await feed(journal, 200)
        await journal.drain()
        await run.drained()
        feeding = asyncio.create_task(feed(journal, 2_000))
        made: list[Sum] = []

        async def make() -> Sum:
            made.append(Sum())
            return made[-1]

        await run.pipe.try_out("late", Sum())
        await run.pipe.adopt("late", make)
        await feeding
        await journal.drain()
        await run.drained()
        books = await audit(store, Accepted(journal.uuid, journal.accepted))
        await run.stop()
    assert made[-1].seen == list(range(1, 2_201))
    assert (books.difference, books.in_flight_frames) == (0, 0)
    assert books.totals["quarantined"] >= 200, "unreadable before"
    assert books.totals["quarantined"] + books.totals["control"] == 2_200


class Late(Run):
    """A source comes while its pipe begins for the first time."""

    async def parsers(self) -> Mapping[str, Parser]:
        if not self.made:
            await self.pipe.adopt("late", self.never)
        return await super().parsers()

    async def never(self) -> Parser:
        raise AssertionError("the next life makes its own")


async def test_a_parser_that_comes_while_it_begins_makes_it_begin_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, store):
        run = Late(journal, store)
        await run.start()
        await fill(journal, messages(50), run.now)
        await run.drained()
        assert run.made == 4, "two lives"
        await run.stop()
