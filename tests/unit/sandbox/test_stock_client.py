"""A client made for the real venue reads from the sandbox with only its addresses changed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

ccxt_pro = pytest.importorskip("ccxt.pro", reason="ccxt is not installed")


@asynccontextmanager
async def stock_client(place):
    # Signed currency lists are another service.
    client = ccxt_pro.binance({"options": {"fetchMarkets": {"types": ["spot"]}, "fetchCurrencies": False}})
    client.urls["api"]["public"] = place.sandbox.url + "/api/v3"
    client.urls["api"]["ws"]["spot"] = place.sandbox.ws_url + "/ws"
    try:
        yield client
    finally:
        await client.close()


async def test_rest(local):
    place = await local(rate=200.0)
    async with stock_client(place) as client:
        markets = await client.load_markets()
        assert {"BTC/USDT", "ETH/USDT", "TRX/USDT"} <= markets.keys()
        assert markets["BTC/USDT"]["precision"]["price"] == 0.01
        trades = await client.fetch_trades("BTC/USDT", limit=50)
        assert len(trades) == 50
        assert {trade["side"] for trade in trades} == {"buy", "sell"}
        bars = await client.fetch_ohlcv("BTC/USDT", "1m", limit=10)
        assert len(bars) == 10
        assert all(low <= min(opened, close) <= max(opened, close) <= high for _, opened, high, low, close, _ in bars)
        ticker = await client.fetch_ticker("BTC/USDT")
        assert ticker["bid"] < ticker["ask"]
        book = await client.fetch_order_book("BTC/USDT", limit=20)
        assert len(book["bids"]) == 20


async def test_streams(local):
    place = await local(rate=2_000.0, symbols=("BTCUSDT", "ETHUSDT"))
    async with asyncio.timeout(30), stock_client(place) as client:
        seen = {}
        while len(seen) < 100:
            for trade in await client.watch_trades("ETH/USDT"):
                seen[int(trade["id"])] = trade["price"]
        assert sorted(seen) == list(range(min(seen), max(seen) + 1))
        rows = await place.api("historicalTrades", symbol="ETHUSDT", fromId=min(seen), limit=1000)
        assert {row["id"]: float(row["price"]) for row in rows if row["id"] in seen} == seen
        book = await client.watch_order_book("BTC/USDT")
        assert book["bids"][0][0] < book["asks"][0][0]
        assert (await client.watch_ticker("BTC/USDT"))["last"] > 0


@asynccontextmanager
async def futures_client(place, kind, api, ws):
    client = getattr(ccxt_pro, kind)({"options": {"fetchCurrencies": False}})
    for name in ("fapiPublic", "dapiPublic"):
        client.urls["api"][name] = f"{place.sandbox.url}/{name[:4]}/v1"
    client.urls["api"]["ws"][api] = place.sandbox.ws_url + ws
    try:
        yield client
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("kind", "api", "ws", "symbol"),
    [
        ("binanceusdm", "future", "/ws", "BTC/USDT:USDT"),
        ("binancecoinm", "delivery", "/dstream/ws", "BTC/USD:BTC"),
    ],
)
async def test_futures(local, kind, api, ws, symbol):
    place = await local(rate=2_000.0, usdm_symbols=("BTCUSDT",), coinm_symbols=("BTCUSD_PERP",))
    async with asyncio.timeout(30), futures_client(place, kind, api, ws) as client:
        market = (await client.load_markets())[symbol]
        assert market["swap"]
        assert market["contractSize"] == (100 if kind == "binancecoinm" else 1)
        assert (await client.fetch_funding_rate(symbol))["markPrice"] > 0
        assert len(await client.fetch_ohlcv(symbol, "1m", limit=10)) == 10
        seen = {}
        while len(seen) < 100:
            for trade in await client.watch_trades(symbol):
                seen[int(trade["id"])] = trade["price"]
        assert len(seen) >= 100
        for _ in range(10):
            book = await client.watch_order_book(symbol)
        assert book["bids"][0][0] < book["asks"][0][0]
