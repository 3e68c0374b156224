"""The Apps of Binance's futures against an upstream that speaks their protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidewire.collect import Missing, SourceConfig
from tidewire.collect.config import read
from tidewire.errors import ConfigError, InputError
from tidewire.journal import Kind
from tidewire.sandbox.config import SandboxConfig
from tidewire.sandbox.server import Sandbox
from tidewire.sources.binance import BinanceApp, BinanceCoinmApp, BinanceUsdmApp
from tidewire.sources.binance.futures import FundingRateCollector
from unit.collect.kit import Place, place, until

HOUR_MS = 3_600_000


def config(
    url: str = "http://127.0.0.1:1", key: str = "", name: str = "binanceusdm", **collectors: Any
) -> SourceConfig:
    rate = {"requests_per_second": 1_000, "burst": 1_000}
    api = {"base_url": url, "key": key, "rate_limit": rate}
    return read({"source": {"type": "market", "name": name}, "api": api, "collectors": collectors}, SourceConfig, "f")


@asynccontextmanager
async def running(
    directory: Path, kind: type[BinanceApp] = BinanceUsdmApp, *, key: str = "", **collectors: Any
) -> AsyncIterator[tuple[Place, BinanceApp, Sandbox]]:
    usdm, coinm = ("BTCUSDT", "SOLUSDT", "BTCUSDT_261225"), ("BTCUSD_PERP", "ETHUSD_PERP")
    sandbox = Sandbox(
        SandboxConfig(symbols=("BTCUSDT",), usdm_symbols=usdm, coinm_symbols=coinm, history_hours=60, rate=500.0)
    )
    await sandbox.start()
    async with place(directory) as here:
        app = kind(config(sandbox.url, key, kind.name, **collectors), here.context)
        try:
            await app.initialize()
            await app.start()
            yield here, app, sandbox
        finally:
            await app.stop()
            await sandbox.stop()


def requests(here: Place) -> list[str]:
    found = [frame.origin.request for frame in here.frames() if "GET " in frame.origin.request]
    return [request.rpartition("/v1/")[2] for request in found]


def streams(here: Place) -> set[str]:
    found = [frame.payload for frame in here.frames() if frame.payload.startswith(b'{"stream":')]
    return {msgspec.json.decode(payload)["stream"] for payload in found}


async def test_each_stream_is_asked_for_where_it_is_served(tmp_path: Path) -> None:
    async with running(
        tmp_path,
        trade={"symbols": ["BTC-USDT-SWAP"]},
        quote={"symbols": ["btcusdt"]},
        kline={"symbols": ["BTCUSDT"], "intervals": ["1m"], "history": 5},
        mark_price={"symbols": ["BTCUSDT", "SOLUSDT"]},
        liquidation={},
    ) as (here, app, sandbox):
        public = {"btcusdt@trade", "btcusdt@bookTicker"}
        market = {"btcusdt@kline_1m", "btcusdt@markPrice@1s", "solusdt@markPrice@1s", "!forceOrder@arr"}
        await until(lambda: streams(here) == public | market, "every stream")
        assert app.status()["feed"]["connections"] == 2
        assert sandbox.status("usdm")["connections"] == 2
        outcome = BinanceUsdmApp.make_parser(config(), here.context.instruments).parse(
            [frame for frame in here.frames() if frame.kind is Kind.DATA]
        )
    assert outcome.unreadable == []
    assert {part.type.name for part in outcome.parsed} == {
        "instrument", "trade", "quote", "kline", "mark_price", "liquidation",
    }  # fmt: skip


async def test_inverse_contracts_have_one_path(tmp_path: Path) -> None:
    async with running(
        tmp_path,
        BinanceCoinmApp,
        trade={"symbols": ["BTC-USD-SWAP.BINANCECOINM"]},
        mark_price={"symbols": ["BTCUSD_PERP"]},
        liquidation={"symbols": ["BTCUSD_PERP"]},
        ticker={"symbols": ["BTCUSD_PERP", "ETHUSD_PERP"], "update_interval": "1s"},
        open_interest={"symbols": ["BTCUSD_PERP"], "update_interval": "1s"},
    ) as (here, app, _):
        wanted = {"btcusd_perp@trade", "btcusd_perp@markPrice@1s", "btcusd_perp@forceOrder"}
        await until(lambda: streams(here) == wanted, "every stream")
        await until(lambda: "ticker/24hr?symbol=ETHUSD_PERP" in requests(here), "both tickers")
        await until(lambda: "openInterest?symbol=BTCUSD_PERP" in requests(here), "open interest")
        assert app.status()["feed"]["connections"] == 1
        outcome = BinanceCoinmApp.make_parser(config(), here.context.instruments).parse(
            [frame for frame in here.frames() if frame.kind is Kind.DATA]
        )
    assert outcome.unreadable == []
    kinds = {part.type.name for part in outcome.parsed}
    assert kinds == {"instrument", "trade", "ticker", "mark_price", "liquidation", "open_interest"}


async def test_funding_is_asked_for_from_the_last_settlement_on(tmp_path: Path) -> None:
    symbols = ["BTCUSDT", "SOLUSDT"]
    async with running(tmp_path, funding_rate={"symbols": symbols, "history": "50h"}) as (here, app, _):
        await until(lambda: sum("fundingRate?" in request for request in requests(here)) == 2, "both histories")
        collector = app.get("funding_rate")
        assert isinstance(collector, FundingRateCollector)
        last = {symbol: int(collector.cursor(symbol) or 0) for symbol in symbols}
        now_ms = here.context.clock.wall_ns() // 1_000_000
        assert all(now_ms - at < hours * HOUR_MS for at, hours in zip(last.values(), (8, 4), strict=True))
        await collector.fetch()
        assert requests(here)[-1] == "fundingInfo", "nothing is due before the next settlement"
        outcome = BinanceUsdmApp.make_parser(config(), here.context.instruments).parse(here.frames())
    rows = [part for part in outcome.parsed if part.type.name == "funding_rate"]
    hours = {str(part.columns["instrument"][0]): set(part.columns["interval_hours"]) for part in rows}
    assert hours == {"BTC-USDT-SWAP.BINANCEUSDM": {8}, "SOL-USDT-SWAP.BINANCEUSDM": {4}}
    assert {str(part.columns["instrument"][0]): len(part.frames) for part in rows}["SOL-USDT-SWAP.BINANCEUSDM"] >= 11


@pytest.mark.parametrize(("key", "asked"), [("", "trades?"), ("k", "historicalTrades?")])
async def test_past_trades_by_id_need_a_key(tmp_path: Path, key: str, asked: str) -> None:
    async with running(tmp_path, key=key) as (here, app, sandbox):
        series = sandbox._venues["usdm"].upstream.series("BTCUSDT")
        first = series.recent(1)[0][0] - 700
        ranges = ((first, first + 599),)
        await app.fill(Missing("trade", "BTC-USDT-SWAP.BINANCEUSDM", None, ranges, 0, 0))
        await here.journal.drain()
        found = [request for request in requests(here) if asked in request]
        assert len(found) == (2 if key else 1), "500 at a time by id"
        outcome = BinanceUsdmApp.make_parser(config(), here.context.instruments).parse(here.frames())
        ids = {
            ident for part in outcome.parsed if part.type.name == "trade" for ident in list(part.columns["sequence"])
        }
    assert set(range(first, first + 600)) <= ids


@pytest.mark.parametrize(
    ("app", "collectors", "message"),
    [
        (BinanceUsdmApp, {"kline": {"symbols": ["A"], "intervals": ["1s"]}}, "no such bars of futures"),
        (BinanceUsdmApp, {"order_book": {"symbols": ["A"], "snapshot": 5_000}}, "1000 levels at most"),
        (BinanceUsdmApp, {"open_interest": {"symbols": ["A"], "update_interval": "500ms"}}, "write 1s or more"),
        (BinanceCoinmApp, {"mark_price": {"symbols": ["A"], "silence": "1s"}}, "write 10s or more"),
        (BinanceCoinmApp, {"funding_rate": {"symbols": ["A"], "refresh": "never"}}, "never"),
        (BinanceApp, {"mark_price": {"symbols": ["A"]}}, "no such collector"),
    ],
)
def test_a_configuration_that_cannot_work(app: type[BinanceApp], collectors: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        app.check(config(name=app.name, **collectors))


@pytest.mark.parametrize(
    ("app", "collectors", "message"),
    [
        (BinanceUsdmApp, {"funding_rate": {"symbols": ["BTCUSDT_261225"]}}, "no perpetual"),
        (BinanceCoinmApp, {"trade": {"symbols": ["BTCUSDT"]}}, "Write e.g. BTCUSD_PERP"),
    ],
)
async def test_symbols_that_do_not_fit(
    tmp_path: Path, app: type[BinanceApp], collectors: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        async with running(tmp_path, app, **collectors):
            pass
