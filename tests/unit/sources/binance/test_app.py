"""The Binance App against an upstream that speaks its protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidewire.collect import NOTE, Reply, SourceConfig
from tidewire.collect.config import read
from tidewire.collect.control import GapTold
from tidewire.errors import ConfigError, SourceError
from tidewire.journal import Kind
from tidewire.sandbox.config import FailRest, Faults, SandboxConfig
from tidewire.sandbox.server import Sandbox
from tidewire.sources.binance import BinanceApp
from tidewire.sources.binance.collectors import TickerCollector
from unit.collect.kit import Place, place, until

SYMBOLS = ("BTCUSDT", "ETHUSDT")


def config(url: str = "http://127.0.0.1:1", **collectors: Any) -> SourceConfig:
    source = {"type": "market", "name": "binance", "display_name": "币安"}
    rate = {"requests_per_second": 1_000, "burst": 1_000}
    return read(
        {"source": source, "api": {"base_url": url, "rate_limit": rate}, "collectors": collectors}, SourceConfig, "f"
    )


@asynccontextmanager
async def running(
    directory: Path, *, start: bool = True, faults: Faults | None = None, **collectors: Any
) -> AsyncIterator[tuple[Place, BinanceApp, Sandbox]]:
    sandbox = Sandbox(SandboxConfig(symbols=SYMBOLS, history_hours=2, rate=500.0, faults=faults or Faults()))
    await sandbox.start()
    async with place(directory) as here:
        app = BinanceApp(config(sandbox.url, **collectors), here.context)
        try:
            if start:
                await app.initialize()
                await app.start()
            yield here, app, sandbox
        finally:
            await app.stop()
            await sandbox.stop()


def requests(here: Place) -> list[str]:
    return [frame.origin.request.partition("/api/v3/")[2] for frame in here.frames() if "GET " in frame.origin.request]


def streams(here: Place) -> set[str]:
    found: set[str] = set()
    for frame in here.frames():
        if frame.kind is Kind.DATA and frame.payload.startswith(b'{"stream":'):
            found.add(msgspec.json.decode(frame.payload)["stream"])
    return found


async def test_everything_configured_is_collected(tmp_path: Path) -> None:
    async with running(
        tmp_path,
        trade={"symbols": ["BTC/USDT", "ethusdt"]},
        quote={"symbols": ["BTC-USDT.BINANCE"]},
        kline={"symbols": ["BTCUSDT"], "intervals": ["1m", "5m"], "history": 10},
        ticker={"update_interval": "1s", "symbols": ["ETHUSDT"]},
    ) as (here, app, _):
        assert [collector.name for collector in app.list()] == ["instrument", "trade", "quote", "kline", "ticker"]
        wanted = {"btcusdt@trade", "ethusdt@trade", "btcusdt@bookTicker", "btcusdt@kline_1m", "btcusdt@kline_5m"}
        await until(lambda: streams(here) == wanted, "every stream")
        await until(lambda: sum(request.startswith("klines?") for request in requests(here)) == 2, "history")
        await until(lambda: sum(request.startswith("ticker/24hr") for request in requests(here)) >= 2, "tickers")
        assert requests(here)[0] == "exchangeInfo"
        assert here.frames()[0].origin.request.endswith("/exchangeInfo")
        health = app.health()
        assert (health.state, health.problems) == ("ok", ())
        status = app.status()
        assert status["feed"]["connected"] is True
        assert status["feed"]["connections"] == 1
        assert status["display_name"] == "币安"
        assert {found["name"]: found["state"] for found in status["collectors"]}["ticker"] == "running"
        assert app.metrics()["ticker_timer_runs"] >= 2
        assert app.get("instrument").get_timer("refresh").status.schedule
    assert "app.binance.started" in here.subjects()
    assert app.health().state == "stopped"
    # What it collected can be parsed.
    outcome = BinanceApp.make_parser(config(), here.context.instruments).parse(
        [f for f in here.frames() if f.kind is Kind.DATA]
    )
    assert outcome.unreadable == []
    assert {part.type.name for part in outcome.parsed} == {"instrument", "trade", "quote", "kline", "ticker"}


async def test_the_tickers_of_all_symbols(tmp_path: Path) -> None:
    async with running(tmp_path, ticker={}) as (here, app, _):
        await until(lambda: "ticker/24hr" in requests(here))
        # Without streams there is no feed, and nothing to be connected to.
        assert app.status()["feed"] == {"connected": False, "last_frame": None, "connections": 0, "streams": []}
        await until(lambda: app.health().state == "ok")


async def test_a_collector_that_is_switched_off(tmp_path: Path) -> None:
    async with running(tmp_path, trade={"symbols": ["BTCUSDT"], "enabled": False}) as (_, app, _):
        assert [collector.name for collector in app.list()] == ["instrument"]


async def test_an_upstream_that_fails_is_an_error_of_its_collector(tmp_path: Path) -> None:
    collectors = {"trade": {"symbols": ["BTCUSDT"]}, "ticker": {"update_interval": "1s"}}
    async with running(tmp_path, **collectors) as (here, app, sandbox):
        await until(lambda: app.get("ticker").last_data_ns is not None)
        sandbox.faults = Faults(fail_rest=FailRest(400, 1_000))
        await until(lambda: bool(here.said("collector.binance.error")))
        facts = here.said("collector.binance.error")[0]
        assert (facts["collector"], facts["what"], facts["code"]) == ("ticker", "timer update", "source_refused")
        assert app.health().state == "degraded"
        assert any(problem.startswith("ticker: timer update: ") for problem in app.health().problems)
        # The rest runs on.
        head = here.journal.head
        await until(lambda: here.journal.head > head + 20)
        assert app.get("trade").is_running
        sandbox.faults = Faults()
        await until(lambda: app.health().state == "ok")


async def test_an_upstream_that_cannot_be_reached(tmp_path: Path) -> None:
    async with running(tmp_path, start=False, faults=Faults(fail_rest=FailRest(403, 1_000))) as (_, app, sandbox):
        with pytest.raises(SourceError):
            await app.initialize()
        await app.forget("initialize: refused")
        sandbox.faults = Faults()
        await app.initialize()
        assert [collector.name for collector in app.list()] == ["instrument"]


async def test_a_feed_that_is_down_is_a_problem(tmp_path: Path) -> None:
    async with running(tmp_path, quote={"symbols": ["BTCUSDT"]}) as (here, app, sandbox):
        await until(lambda: "btcusdt@bookTicker" in streams(here))
        await sandbox.stop()
        await until(lambda: app.health().state == "degraded")
        assert any(problem.startswith("stream: not connected: ") for problem in app.health().problems)


@pytest.mark.parametrize(
    ("spelling", "nearest"), [("BTCUSD", "BTCUSDT"), ("ETH-USDTT", "ETHUSDT"), ("BTC-USDT.OKXX", ""), ("600000.SH", "")]
)
async def test_a_symbol_that_is_not_there(tmp_path: Path, spelling: str, nearest: str) -> None:
    async with running(tmp_path, start=False, trade={"symbols": [spelling]}) as (_, app, _):
        with pytest.raises(ConfigError) as caught:
            await app.initialize()
        assert repr(spelling) in str(caught.value)
        assert f"Did you mean {nearest!r}" in str(caught.value) or not nearest


@pytest.mark.parametrize(
    ("collectors", "message"),
    [
        ({"trades": {}}, "collectors.trades: no such collector. Did you mean 'trade'? Valid: instrument, trade"),
        ({"trade": {}}, "collectors.trade: Object missing required field `symbols`"),
        ({"trade": {"symbols": ["A"], "symbol": 1}}, "collectors.trade.symbol: no such key. Did you mean 'symbols'?"),
        ({"trade": {"symbols": "BTCUSDT"}}, "collectors.trade.symbols: Expected `array`, got `str`"),
        ({"kline": {"symbols": ["A"], "intervals": ["1q"]}}, "collectors.kline: interval '1q'."),
        (
            {"kline": {"symbols": ["A"], "intervals": ["1m"], "history": 5000}},
            "collectors.kline: history 5000: write 0",
        ),
        ({"ticker": {"enabled": "maybe"}}, "collectors.ticker.enabled: "),
    ],
)
def test_a_configuration_that_cannot_work(collectors: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BinanceApp.check(config(**collectors))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("url", ["api.binance.com", "ftp://x", "https://"])
def test_addresses(url: str) -> None:
    with pytest.raises(ConfigError, match=r"api\.base_url: .*is not a URL"):
        BinanceApp.check(config(url))
    BinanceApp.check(config(""))


async def test_a_ticker_that_was_asked_for_and_did_not_come_is_a_gap(tmp_path: Path) -> None:
    async with running(tmp_path, start=False, ticker={"symbols": SYMBOLS}) as (here, app, _):
        await app.initialize()
        collector = app.get("ticker")
        assert isinstance(collector, TickerCollector)
        await collector.fetch()
        real = app.ask

        async def one_short(endpoint: str, params: Any = None, **more: Any) -> Reply:
            reply = await real(endpoint, params, **more)
            return replace(reply, body=msgspec.json.encode(msgspec.json.decode(reply.body)[:1]))

        app.ask = one_short  # type: ignore[method-assign]
        await collector.fetch()
        await here.journal.drain()
        told = [msgspec.json.decode(f.payload, type=GapTold) for f in here.frames() if f.kind is Kind.CONTROL]
        replies = [frame for frame in here.frames() if "ticker/24hr" in frame.origin.request]
    (gap,) = told
    assert (gap.instrument, gap.record_type, gap.cause) == ("ETH-USDT.BINANCE", "ticker", "total")
    assert gap.detail == "1 of 2 symbols came"
    whole, short = (frame.wall_ns // 1_000 for frame in replies)
    assert (gap.event_time, gap.until_time) == (whole, short)


async def test_books_ask_for_snapshots_and_are_told_how_they_are_served(tmp_path: Path) -> None:
    book = {"symbols": ["BTCUSDT", "eth-usdt"], "depth": 3, "update_interval": "200ms", "deltas": True}
    async with running(tmp_path, order_book=book) as (here, app, _):

        def notes() -> list[bytes]:
            return [frame.payload for frame in here.frames() if frame.origin.request == NOTE]

        await until(lambda: bool(notes()), "the settings")
        assert notes() == [b'{"settings":{"depth":3,"interval_ms":200,"deltas":true},"doubt":[]}']
        for symbol in ("BTCUSDT", "ETHUSDT", "BTCUSDT", "NONE"):
            app.tell("control.book.snapshot", {"source": app.name, "symbol": symbol})
        app.tell("control.book.snapshot", {"source": "another", "symbol": "BTCUSDT"})
        await until(lambda: any("symbol=ETHUSDT" in request for request in requests(here)), "both snapshots")
        asked = [request for request in requests(here) if request.startswith("depth")]
        assert {request.partition("?")[2] for request in asked} == {
            "symbol=BTCUSDT&limit=1000",
            "symbol=ETHUSDT&limit=1000",
        }
        app.reconnect("test")
        await until(lambda: b'{"doubt":["BTCUSDT","ETHUSDT"]}' in notes(), "the doubt")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"snapshot": 200}, "snapshot 200: valid are 100, 500, 1000, 5000"),
        ({"depth": 0}, "depth 0: write 1 to 1000"),
        ({"depth": 500, "snapshot": 100}, "depth 500: write 1 to 100"),
        ({"update_interval": "50ms"}, "write 100ms or more"),
        ({"silence": "1s"}, "write 10s or more"),
    ],
)
def test_what_order_books_cannot_be_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        BinanceApp.check(config(order_book={"symbols": ["BTCUSDT"], **wrong}))
