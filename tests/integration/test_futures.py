"""Both futures markets of Binance, from their streams and REST to what is served, stored and replayed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from integration.kit import (
    Api,
    Eager,
    all_gaps,
    api,
    audited,
    balanced,
    books,
    every_trade_is_accounted_for,
    idle,
    loaded,
    open_holes,
    replayed,
    running,
    same_rows,
    tables,
    until,
)
from tidewire.collect import fill, silence
from tidewire.runtime.config import GapsSection, Loaded
from tidewire.sandbox.config import Faults, SandboxConfig
from tidewire.sandbox.server import Sandbox
from tidewire.sources.binance import BinanceUsdmApp, collectors

SYMBOLS = {
    "usdm": {"BTCUSDT": "BTC-USDT-SWAP.BINANCEUSDM", "SOLUSDT": "SOL-USDT-SWAP.BINANCEUSDM"},
    "coinm": {"BTCUSD_PERP": "BTC-USD-SWAP.BINANCECOINM"},
}
SOURCES = {"usdm": "binanceusdm", "coinm": "binancecoinm"}
BOOKS = {native: instrument for market in SYMBOLS.values() for native, instrument in market.items()}
TYPES = ("instrument", "trade", "quote", "ticker", "kline", "mark_price", "funding_rate", "open_interest")
TYPES += ("liquidation", "order_book", "book_delta")
DEPTH = "@depth@100ms"
RATE = 200.0
HASTE = GapsSection(settle="50ms")


@dataclass
class Futures:
    """What came of both markets while trades and depth updates were dropped."""

    configuration: Loaded
    served: dict[str, dict[str, list[dict[str, Any]]]] = field(
        default_factory=dict[str, dict[str, list[dict[str, Any]]]]
    )
    books: dict[str, tuple[dict[str, Any], dict[str, Any]]] = field(
        default_factory=dict[str, tuple[dict[str, Any], dict[str, Any]]]
    )
    ledgers: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict[str, dict[str, dict[str, Any]]])
    on_book: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    audit: dict[str, Any] = field(default_factory=dict[str, Any])
    tables: dict[str, pl.DataFrame] = field(default_factory=dict[str, pl.DataFrame])


def source(market: str, url: str, **sections: Any) -> dict[str, Any]:
    """A source file's content: of every symbol everything, unless ``sections`` say what."""
    symbols = {"symbols": list(SYMBOLS[market])}
    every = dict.fromkeys(("trade", "quote", "mark_price", "liquidation"), symbols)
    every |= {name: {**symbols, "update_interval": "1s"} for name in ("ticker", "open_interest")}
    every["kline"] = {**symbols, "intervals": ["1m"], "history": 20}
    every["funding_rate"] = {**symbols, "history": "30h"}
    every["order_book"] = {**symbols, "depth": 5, "update_interval": "100ms", "deltas": True}
    named = {"type": "market", "name": SOURCES[market]}
    return {"source": named, "api": {"base_url": url, "key": "any"}, "collectors": sections or every}


async def started(**config: Any) -> Sandbox:
    names = {f"{market}_symbols": tuple(symbols) for market, symbols in SYMBOLS.items()}
    sandbox = Sandbox(SandboxConfig(symbols=("BTCUSDT",), rate=RATE, history_hours=40, **names, **config))
    await sandbox.start()
    return sandbox


@pytest.fixture(scope="module")
def futures(tmp_path_factory: pytest.TempPathFactory) -> Futures:
    """One run of the product, stopped and started once; what REST does not have either is soon given up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fill, "RETRY_S", 0.2)
        patch.setattr(fill, "POLL_S", 1.0)  # a gap may be looked for before it is stored
        return asyncio.run(_futures(tmp_path_factory.mktemp("futures")))


async def _futures(directory: Path) -> Futures:
    sandbox = await started()
    try:
        configuration = loaded(directory, [source(market, sandbox.url) for market in SYMBOLS], gaps=HASTE)
        run = Futures(configuration)
        async with running(configuration, Eager()) as platform, api(platform) as client:
            await until(lambda: _all_served(client, run), "rows of every type of both sources", poll_s=0.1)
            sandbox.faults = Faults(drop=0.15, only=("@trade",))
            await until(lambda: _dropped(sandbox, "@trade") >= 10, "dropped trades")
            sandbox.faults = Faults(drop=0.2, only=(DEPTH,))
            await until(lambda: _dropped(sandbox, DEPTH) >= 4, "dropped depth updates")
            sandbox.faults = Faults()
            await until(lambda: _in_step(client), "every book is in step", poll_s=0.1)
        before = _newest(sandbox)
        async with running(configuration, Eager()) as platform, api(platform) as client:
            await until(lambda: _all_beyond(client, before), "stored trades of the second run", poll_s=0.1)
            await until(lambda: _in_step(client), "every book is in step", poll_s=0.1)
            await until(lambda: _none_open(client), "no gap is open any more", poll_s=0.2)
            await _at_rest(sandbox)
            await until(lambda: _compared(client, sandbox, run), "the last change of each book is served")
            for app in platform.apps:
                await app.stop()
            await idle(platform)
            run.audit = await audited(client, frames="true")
        run.on_book = {native: _on_book(sandbox, market, native) for market in SYMBOLS for native in SYMBOLS[market]}
        run.ledgers = {market: sandbox.ledger(market) for market in SYMBOLS}
        run.tables = tables(configuration.data_dir)
        return run
    finally:
        await sandbox.stop()


async def _all_served(client: Api, run: Futures) -> bool:
    for name in TYPES:
        for one in SOURCES.values():
            found = (await client.get(f"/v1/{name}", source=one, limit=5))["data"]
            run.served.setdefault(name, {})[one] = found
            if not found:
                return False
    return True


def _dropped(sandbox: Sandbox, ending: str) -> int:
    """How many messages were dropped in the market that has the fewest."""
    return min(
        sum(int(entry["dropped"]) for name, entry in sandbox.ledger(market).items() if name.endswith(ending))
        for market in SYMBOLS
    )


async def _latest(client: Api) -> dict[str, dict[str, Any]]:
    """The served books; the snapshots they began from, which are deeper, are rows as well."""
    rows = (await client.get("/v1/order_book/latest", depth=5))["data"]
    return {row["instrument"]: row for row in rows if row["depth"] == 5}


async def _in_step(client: Api) -> bool:
    found = await _latest(client)
    return len(found) == len(BOOKS) and all(row["valid"] for row in found.values())


def _newest(sandbox: Sandbox) -> dict[str, int]:
    """The last trade of each contract that was sent."""
    return {
        instrument: int(str(sandbox.ledger(market)[f"{native.lower()}@trade"]["last_id"]))
        for market, symbols in SYMBOLS.items()
        for native, instrument in symbols.items()
    }


async def _all_beyond(client: Api, before: dict[str, int]) -> bool:
    """Whether later trades are stored, and with them the gaps that they showed."""
    for instrument, last in before.items():
        (row,) = (await client.get("/v1/trade", symbol=instrument, limit=1, order="desc"))["data"]
        if row["sequence"] <= last:
            return False
    return True


async def _none_open(client: Api) -> bool:
    rows = (await client.get("/v1/gaps", limit=10_000))["data"]
    return not any(row["state"] in ("open", "filling") for row in rows)


def _on_book(sandbox: Sandbox, market: str, native: str) -> set[int]:
    """The ids of all trades that REST has."""
    return {trade[0] for trade in sandbox._venues[market].upstream.series(native).from_id(0, 1_000_000)}


async def _at_rest(sandbox: Sandbox) -> None:
    """Both markets stand still, and the last changes of their books are sent."""
    sandbox.pause()
    await until(lambda: {sandbox.status(market)["state"] for market in SYMBOLS} == {"paused"}, "the markets paused")
    for market in SYMBOLS:
        venue = sandbox._venues[market]
        venue.upstream.roll(venue.upstream.now_ns() + 100_000_000)
        await venue.hub.flush()


async def _compared(client: Api, sandbox: Sandbox, run: Futures) -> bool:
    """Whether each book that is served is as of the last change; keeps both it and the sandbox's own."""
    found = await _latest(client)
    for market, symbols in SYMBOLS.items():
        for native, instrument in symbols.items():
            own = sandbox._venues[market].upstream.depth(native, 5)
            run.books[instrument] = found[instrument], own
    return all(row["sequence"] == own["lastUpdateId"] for row, own in run.books.values())


def test_every_type_of_both_sources_is_served(futures: Futures) -> None:
    for name in TYPES:
        for market, one in SOURCES.items():
            rows = futures.served[name][one]
            assert {row["source"] for row in rows} == {one}, name
            assert {row["instrument"] for row in rows} <= set(SYMBOLS[market].values()), name
    hours = futures.tables["funding_rate_v1"].group_by("instrument").agg(pl.col("interval_hours").unique().sort())
    assert dict(hours.iter_rows()) == {
        "BTC-USDT-SWAP.BINANCEUSDM": [8],
        "SOL-USDT-SWAP.BINANCEUSDM": [4],
        "BTC-USD-SWAP.BINANCECOINM": [8],
    }
    bars = futures.tables["kline_v1"].with_columns(inverse=pl.col("source") == "binancecoinm")
    assert bars.filter(pl.col("amount").is_null() != pl.col("inverse")).is_empty()


def test_the_books_served_are_the_sandbox_s_own(futures: Futures) -> None:
    assert set(futures.books) == set(BOOKS.values())
    for row, own in futures.books.values():
        assert row["valid"]
        for side in ("bid", "ask"):
            levels = list(zip(row[f"{side}_prices"], row[f"{side}_sizes"], strict=True))
            assert [tuple(map(float, level)) for level in levels] == [
                tuple(map(float, level)) for level in own[f"{side}s"]
            ]


def test_a_dropped_depth_update_is_a_gap_and_the_book_is_in_step_again(futures: Futures) -> None:
    gaps = all_gaps(futures.tables).filter(record_type="order_book")
    for one in SOURCES.values():
        told = gaps.filter(source=one, cause="sequence")
        assert told.filter(pl.col("detail").str.contains("a new snapshot is asked for")).height >= 1
        assert told.filter(pl.col("detail").str.contains("in step again")).height >= 1
        unsure = books(futures.configuration.data_dir)["order_book", one, "folded"]
        assert unsure >= 1, "what was served as good is taken back"


def test_every_trade_is_stored_or_known_to_be_missing(futures: Futures) -> None:
    for market, symbols in SYMBOLS.items():
        ledger = futures.ledgers[market]
        assert sum(entry["dropped"] for name, entry in ledger.items() if name.endswith("@trade")) >= 10
        every_trade_is_accounted_for(futures.tables, ledger, symbols)
        gaps = all_gaps(futures.tables).filter(source=SOURCES[market], record_type="trade")
        states = gaps.group_by("gap_id", maintain_order=True).agg(pl.col("state").sort_by("frame", "ordinal").last())
        assert states.filter(state="filled").height >= 5
        for native, instrument in symbols.items():
            left = [range(first, last + 1) for first, last in open_holes(all_gaps(futures.tables), "trade", instrument)]
            have = set(futures.tables["trade_v1"].filter(instrument=instrument)["sequence"])
            lacking = {ident for hole in left for ident in hole} - have
            assert not lacking & futures.on_book[native], "only what REST does not have either is given up"
    trades = futures.tables["trade_v1"]
    assert {"na", None} <= set(trades["off_book"])
    assert trades.filter(pl.col("price").is_null())["off_book"].unique().to_list() == ["na"]
    assert futures.tables["quarantined_v1"].is_empty()


def test_the_books_add_up(futures: Futures) -> None:
    balanced(futures.audit)


async def test_replay_comes_to_the_same(futures: Futures, tmp_path: Path) -> None:
    again = await replayed(futures.configuration.data_dir, tmp_path / "again", futures.configuration)
    same_rows(futures.tables, again, "replay")


@pytest.fixture
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams are looked at all the time, and may be silent for a second; trades are asked for elsewhere."""
    monkeypatch.setattr(silence, "LOOK_S", 0.1)
    monkeypatch.setattr(silence, "SETTLE_S", 0.1)
    monkeypatch.setattr(collectors, "SILENCE_S_MIN", 0.1)
    market = BinanceUsdmApp.market
    paths = {**market.stream_paths, "trade": market.stream_paths["aggTrade"]}
    monkeypatch.setattr(BinanceUsdmApp, "market", replace(market, stream_paths=paths))


@pytest.mark.usefixtures("attentive")
async def test_a_stream_on_the_wrong_path_is_found_silent(tmp_path: Path) -> None:
    """The venue takes it and sends nothing, as it did to everyone when it split its address."""
    sandbox = await started()
    sections = {kind: {"symbols": ["BTCUSDT"], "silence": "10s"} for kind in ("quote", "mark_price")}
    sections["trade"] = {"symbols": ["BTCUSDT"], "silence": "1s"}
    try:
        configuration = loaded(tmp_path, [source("usdm", sandbox.url, **sections)], gaps=HASTE)
        async with running(configuration, Eager()) as platform, api(platform) as client:
            await until(lambda: bool(platform.apps[0].silent), "a silent stream")
            assert platform.apps[0].silent == ("trade BTC-USDT-SWAP.BINANCEUSDM",)
            (one,) = (await client.get("/v1/sources"))["data"]
            await platform.apps[0].stop()
            await idle(platform)
            balanced(await audited(client, frames="true"))
    finally:
        await sandbox.stop()
    assert one["health"] == "degraded"
    assert "trade BTC-USDT-SWAP.BINANCEUSDM: silent, although the source has more" in one["problems"]
