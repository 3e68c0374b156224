"""Order books from streams and snapshots: right at every row, told to be wrong at once when they may be."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from integration.conftest import SYMBOLS
from integration.kit import (
    Api,
    Eager,
    all_gaps,
    api,
    audited,
    balanced,
    binance,
    idle,
    loaded,
    replayed,
    running,
    same_rows,
    tables,
    until,
)
from tidewire.runtime.config import Loaded
from tidewire.sandbox.config import Faults, SandboxConfig
from tidewire.sandbox.server import Sandbox

EVENTS, RATE = 12_000, 1_500.0
DEPTH = "@depth@100ms"
BOOK = {"symbols": list(SYMBOLS), "depth": 5, "update_interval": "100ms", "deltas": True}
FAULTY = Faults(drop=0.03, duplicate=0.05, reorder=0.05, only=(DEPTH,))


@dataclass
class Kept:
    """What came of a market whose depth updates were dropped, repeated and reordered."""

    configuration: Loaded
    ledger: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    audit: dict[str, Any] = field(default_factory=dict[str, Any])
    tables: dict[str, pl.DataFrame] = field(default_factory=dict[str, pl.DataFrame])


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Faults in the depth streams alone, and a restart: the quotes beside them are whole while it runs."""
    return asyncio.run(_kept(tmp_path_factory.mktemp("books")))


async def _kept(directory: Path) -> Kept:
    market = SandboxConfig(
        symbols=tuple(SYMBOLS), rate=RATE, events=EVENTS, start_on=frozenset({DEPTH}), history_hours=1, faults=FAULTY
    )
    sandbox = Sandbox(market)
    await sandbox.start()
    try:
        configuration = loaded(directory, [binance(sandbox.url, list(SYMBOLS), order_book=BOOK)])
        run = Kept(configuration)
        async with running(configuration, Eager()):
            await until(lambda: sandbox.status()["events"] >= EVENTS // 2, "half of the market")
        async with running(configuration, Eager()) as platform, api(platform) as client:
            await sandbox.finished()
            await idle(platform)
            run.audit = await audited(client, frames="true")
        run.ledger = sandbox.ledger()
        run.tables = tables(configuration.data_dir)
        return run
    finally:
        await sandbox.stop()


def test_the_top_of_every_row_is_the_best_bid_and_ask_of_that_moment(kept: Kept) -> None:
    books = kept.tables["order_book_v1"].filter(depth=5).sort("sequence")
    quotes = kept.tables["quote_v1"].sort("sequence")
    assert books.height >= 50
    assert books["valid"].all()
    beside = books.join_asof(quotes, on="sequence", by="instrument", suffix="_quote", check_sortedness=False)
    beside = beside.filter(pl.col("bid_price").is_not_null())
    # While the product was down nobody told the best prices.
    beside = beside.filter((pl.col("ingested_at") - pl.col("ingested_at_quote")).dt.total_milliseconds() < 500)
    assert beside.height >= 50
    for side in ("bid", "ask"):
        assert beside.filter(pl.col(f"{side}_prices").list.first() != pl.col(f"{side}_price")).is_empty()
        assert beside.filter(pl.col(f"{side}_sizes").list.first() != pl.col(f"{side}_size")).is_empty()


def test_what_was_dropped_is_a_gap(kept: Kept) -> None:
    gaps = all_gaps(kept.tables).filter(record_type="order_book")
    dropped = sum(entry["dropped"] for name, entry in kept.ledger.items() if name.endswith(DEPTH))
    assert dropped >= 3
    assert gaps["gap_id"].n_unique() >= 3
    assert set(gaps["state"]) == {"unfillable"}
    assert gaps.filter(pl.col("detail").str.contains("in step again")).height >= 2
    for (instrument,), told in gaps.unique("gap_id").partition_by("instrument", as_dict=True).items():
        stored = kept.tables["book_delta_v1"].filter(instrument=instrument)["sequence"].unique()
        for first, last in told.select("first_sequence", "last_sequence").iter_rows():
            assert not stored.is_between(first, last).any(), "no update of a gap came"


def test_changes_and_the_snapshots_they_begin_from_are_stored(kept: Kept) -> None:
    deltas = kept.tables["book_delta_v1"]
    whole = kept.tables["order_book_v1"].filter(pl.col("depth") > 5)
    assert deltas.height > 1_000
    assert whole.height >= 2 * len(SYMBOLS)
    assert kept.tables["book_delta_v1_revisions"].is_empty()
    assert kept.tables["quarantined_v1"].is_empty()


def test_the_books_add_up(kept: Kept) -> None:
    balanced(kept.audit)


async def test_replay_comes_to_the_same_books(kept: Kept, tmp_path: Path) -> None:
    data = kept.configuration.data_dir
    same_rows(kept.tables, await replayed(data, tmp_path / "again", kept.configuration), "replay")


async def latest(client: Api) -> dict[str, dict[str, Any]]:
    rows = (await client.get("/v1/order_book/latest"))["data"]
    return {row["instrument"]: row for row in rows}


async def test_a_book_whose_connection_broke_is_not_served_as_good(tmp_path: Path) -> None:
    sandbox = Sandbox(SandboxConfig(symbols=tuple(SYMBOLS), rate=500.0, history_hours=1))
    await sandbox.start()
    book = {**BOOK, "deltas": False}
    configuration = loaded(tmp_path, [binance(sandbox.url, list(SYMBOLS), ("trade",), order_book=book)])

    async def all_are(client: Api, *, valid: bool) -> bool:
        found = await latest(client)
        return len(found) == len(SYMBOLS) and all(row["valid"] is valid for row in found.values())

    try:
        async with running(configuration, Eager()) as platform, api(platform) as client:
            await until(lambda: all_are(client, valid=True), "books are served")
            before = await latest(client)
            sandbox.faults = Faults(away_s=-1)
            await until(lambda: all_are(client, valid=False), "books are told to be unsure")
            assert all(row["bid_prices"] == [] and row["ask_prices"] == [] for row in (await latest(client)).values())
            sandbox.faults = Faults()
            await until(lambda: all_are(client, valid=True), "books are good again")
            after = await latest(client)
            sandbox.pause()
            await until(lambda: _served_is_the_last(client, sandbox), "the last change is served, though all is quiet")
        for instrument, row in after.items():
            assert len(row["bid_prices"]) == 5
            assert row["sequence"] > before[instrument]["sequence"]
    finally:
        await sandbox.stop()


async def _served_is_the_last(client: Api, sandbox: Sandbox) -> bool:
    """Whether each book is as of the last update that was sent."""
    found, ledger = await latest(client), sandbox.ledger()
    return all(
        found[instrument]["sequence"] == ledger[native.lower() + DEPTH]["last_id"]
        for native, instrument in SYMBOLS.items()
    )
