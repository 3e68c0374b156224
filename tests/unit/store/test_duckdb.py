"""What is particular to the DuckDB store: its file, its failures, its SQL."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.store_kit import Feed, Gap, at, bar, everything, rows, trade
from tidewire import telemetry
from tidewire.derive.resample import klines_to_klines, trades_to_klines
from tidewire.errors import StoreError, StoreLocked
from tidewire.records.batch import Stream
from tidewire.records.market import Kline, Quote, Trade
from tidewire.records.record import MarketRecord, forget
from tidewire.records.roles import Count, Sequence
from tidewire.store._write import Writer
from tidewire.store.config import StoreConfig
from tidewire.store.duckdb import DuckDBStore
from tidewire.store.protocol import Query

STREAM = Stream(Feed().journal, "trade", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.duckdb"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[DuckDBStore]:
    opened = DuckDBStore(path)
    await opened.open()
    yield opened
    await opened.close()


# The file


async def test_another_store_of_this_process_is_refused(store: DuckDBStore, path: Path) -> None:
    with pytest.raises(StoreLocked, match="this process"):
        await DuckDBStore(path).open()
    await store.close()
    again = DuckDBStore(path)
    await again.open()
    await again.close()


async def test_a_file_of_another_process_is_locked(path: Path) -> None:
    code = f"import duckdb, sys; c = duckdb.connect({str(path)!r}); print('up', flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    other = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe)  # noqa: ASYNC220
    assert other.stdin is not None
    assert other.stdout is not None
    try:
        assert await asyncio.to_thread(other.stdout.readline) == b"up\n"
        with pytest.raises(StoreLocked, match="API"):
            await DuckDBStore(path).open()
    finally:
        other.stdin.close()
        other.wait()
        other.stdout.close()
    mine = DuckDBStore(path)
    await mine.open()
    await mine.close()


async def test_a_file_of_a_newer_version_is_refused(store: DuckDBStore, path: Path) -> None:
    await store.close()
    with duckdb.connect(path) as connection:
        connection.execute("UPDATE _meta SET value = '99'")
    with pytest.raises(StoreError, match=r"99.*Upgrade"):
        await store.open()


async def test_a_file_that_is_none_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database, just text that is long enough to be read as a header" * 100)
    with pytest.raises(StoreError, match=r"t\.duckdb"):
        await DuckDBStore(path).open()


async def test_a_closed_store_says_so(path: Path) -> None:
    closed = DuckDBStore(path)
    await closed.close()
    with pytest.raises(StoreError, match="not open"):
        closed.positions()
    with pytest.raises(StoreError, match="not open"):
        await closed.read(Query(Trade.type))


# A type changes


def _node(**columns: Any) -> type[MarketRecord]:
    body = {"__doc__": "A node.", "__module__": __name__, "height": Sequence("Height.", key=True), **columns}
    return type("Node", (MarketRecord,), body)


async def test_a_new_nullable_column_is_added_and_another_change_refused(path: Path) -> None:
    try:
        for columns in ({}, {"peers": Count("Peers.", nullable=True)}):
            forget("node")
            node: Any = _node(**columns)
            store = DuckDBStore(path)
            await store.open()
            await store.write(
                [Feed(journal=f"j{len(columns)}").batch(node.type, [{"height": len(columns), "frame": 1}])]
            )
            found = await everything(store, node.type)
            assert found.height == len(columns) + 1
            assert found.schema == node.type.schema
            await store.close()
        forget("node")
        _node(peers=Count("Peers."), links=Count("Links."))
        with pytest.raises(StoreError, match=r"'links'.*nothing.*BIGINT"):
            await DuckDBStore(path).open()
        forget("node")
        _node()
        with pytest.raises(StoreError, match="peers"):
            await DuckDBStore(path).open()
    finally:
        forget("node")


# Commits that fail


def _failing(really: bool, break_engine: bool = False) -> Callable[[Writer], None]:
    def commit(writer: Writer) -> None:
        if really:
            writer._connection.commit()
        if break_engine:
            writer._connection.close()
        raise duckdb.IOException("IO Error: No space left on device")

    return commit


@pytest.mark.parametrize("broken", [False, True], ids=["connection lives", "connection broken"])
async def test_a_failed_commit_leaves_the_position(
    store: DuckDBStore, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    feed = Feed()
    await store.write([feed.batch(Trade.type, [trade(1)])])
    batch = feed.batch(Trade.type, [trade(2)])
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "_commit", _failing(really=False, break_engine=broken))
        with pytest.raises(StoreError, match="No space left"):
            await store.write([batch])
    assert store.positions() == {STREAM: 10}
    assert (await everything(store, Trade.type)).height == 1
    (written,) = await store.write([batch])
    assert (written.stored, written.duplicates) == (1, 0)
    assert (await everything(store, Trade.type)).height == 2


@pytest.mark.parametrize("broken", [False, True], ids=["connection lives", "connection broken"])
async def test_a_commit_that_only_seemed_to_fail_is_found_done(
    store: DuckDBStore, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    feed = Feed()
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "_commit", _failing(really=True, break_engine=broken))
        (written,) = await store.write([feed.batch(Trade.type, [trade(1)])])
    assert written.stored == 1
    assert store.positions() == {STREAM: 10}
    (written,) = await store.write([feed.batch(Trade.type, [trade(1), trade(2)])])
    assert (written.stored, written.duplicates) == (1, 1)


async def test_a_journal_of_a_rolled_back_commit_gets_its_id_again(store: DuckDBStore) -> None:
    bad = rows(Quote.type, [{"sequence": 1, "frame": 1}]).with_columns(source=pl.lit(None, dtype=pl.String))
    with pytest.raises(StoreError):
        await store.write([Feed(journal="bad").batch(Quote.type, bad)])
    for name in ("a", "b"):
        await store.write([Feed(journal=name).batch(Trade.type, [trade(ord(name))])])
    assert sorted(stream.journal for stream in store.positions()) == ["a", "b"]


async def test_a_cancelled_write_ends_before_the_next_begins(store: DuckDBStore) -> None:
    feed = Feed()
    writing = asyncio.create_task(store.write([feed.batch(Trade.type, [trade(1)])]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert store.positions() == {STREAM: 10}
    await store.write([feed.batch(Trade.type, [trade(2)])])
    assert (await everything(store, Trade.type)).height == 2


async def test_a_rollback_is_not_counted_as_committed(store: DuckDBStore) -> None:
    def count(outcome: str) -> float:
        return telemetry.value("tidewire_store_commits_total", outcome=outcome)

    before = count("committed"), count("failed")
    bad = rows(Quote.type, [{"sequence": 1, "frame": 1}]).with_columns(source=pl.lit(None, dtype=pl.String))
    with pytest.raises(StoreError):
        await store.write([Feed().batch(Quote.type, bad)])
    await store.write([Feed().batch(Trade.type, [trade(1)])])
    assert (count("committed"), count("failed")) == (before[0] + 1, before[1] + 1)


# SQL


async def test_bars_in_sql_are_those_of_derive(tmp_path: Path) -> None:
    sides = st.sampled_from(["buy", "sell", None])
    number = st.integers(1, 10**15)
    row = st.tuples(st.integers(0, 500), number, number, sides, st.integers(0, 1), st.booleans())

    @settings(max_examples=25, deadline=None)
    @given(
        drawn=st.lists(row, min_size=1, max_size=25),
        some=st.lists(st.sampled_from(["1", None]), min_size=9, max_size=9),
    )
    def check(drawn: list[Any], some: list[str | None]) -> None:
        trades = rows(
            Trade.type,
            [
                trade(
                    place,
                    event_time=when,
                    price=f"{price // 10**12}.{price % 10**12:012d}"[:-1] + "1",
                    size=f"{size // 10**8 + 1}.{size % 10**8:08d}",
                    side=side,
                    instrument=f"I{which}.A",
                    sequence=place if known else None,
                )
                for place, (when, price, size, side, which, known) in enumerate(drawn)
            ],
        )
        bars = rows(
            Kline.type,
            [
                bar(n, open=one, high=one, low=one, close=one, volume=one, trades=None if one is None else n)
                for n, one in enumerate(some)
            ],
        )
        asyncio.run(_compare(trades, bars))

    await asyncio.to_thread(check)


async def _compare(trades: pl.DataFrame, bars: pl.DataFrame) -> None:
    store = DuckDBStore(":memory:")
    await store.open()
    feed = Feed()
    await store.write([feed.batch(Trade.type, trades, until=300), feed.batch(Kline.type, bars, until=300)])
    found = (await store.read(Query(Trade.type, interval="1m", snapshot=at(1_000)))).rows
    assert found.equals(trades_to_klines(trades, "1m", at(1_000)))
    where = {"interval": ["1m"]}
    found = (await store.read(Query(Kline.type, where=where, interval="3m", snapshot=at(1_000)))).rows
    assert found.equals(klines_to_klines(bars, "3m", at(1_000)))
    await store.close()


async def test_bars_of_trades_leave_out_what_was_off_the_book() -> None:
    off = [trade(2, price="9", size="5", off_book="adl"), trade(3, price=None, size=None, off_book="na")]
    trades = rows(Trade.type, [trade(1, price="2", size="1"), *off, trade(4, price="3", size="1")])
    await _compare(trades, rows(Kline.type, []))


async def test_a_read_without_revisions_is_one_statement(store: DuckDBStore) -> None:
    feed = Feed()
    gap = {"gap_id": "1", "event_time": 0, "until_time": 1, "frame": 1}
    await store.write([feed.batch(Trade.type, [trade(1)], gaps=rows(Gap.type, [gap]))])
    await store.write(
        [feed.batch(Trade.type, [trade(2)], gaps=rows(Gap.type, [{**gap, "state": "filled", "ingested_at": 9}]))]
    )
    writer = store._open_writer
    assert (writer.revised["gap_v1"], writer.revised["trade_v1"]) == (1, 0)
    await store.close()
    await store.open()
    assert store._open_writer.revised["gap_v1"] == 1
    assert (await store.read(Query(Gap.type))).rows["state"].to_list() == ["filled"]


async def test_marks_are_forgotten_for_the_oldest_series(path: Path) -> None:
    store = DuckDBStore(path, StoreConfig(max_series=2))
    await store.open()
    feed = Feed()
    for turn in range(2):
        for name in "ABCD":
            specs = [trade(turn, instrument=f"{name}.X"), trade(turn + 1, instrument=f"{name}.X")]
            (written,) = await store.write([feed.batch(Trade.type, specs)])
            assert (written.stored, written.duplicates) == (2 - turn, turn)
    assert len(store._open_writer._marks._marks) == 2
    await store.close()
