"""Both futures markets over REST and sockets, beside spot on one port."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from tidewire.sandbox.config import FailRest, Faults, LimitConfig

USDM, COINM = "/fapi/v1/", "/dapi/v1/"
MARKETS = {"symbols": ("BTCUSDT",), "usdm_symbols": ("BTCUSDT", "SOLUSDT"), "coinm_symbols": ("BTCUSD_PERP",)}
BOTH = pytest.mark.parametrize(("base", "symbol"), [(USDM, "SOLUSDT"), (COINM, "BTCUSD_PERP")])


async def ask(place, base, endpoint, status=200, key=None, **params):
    headers = {"X-MBX-APIKEY": key} if key else {}
    reply = await place.get(base + endpoint, params={k: str(v) for k, v in params.items()}, headers=headers)
    assert reply.status == status, reply.body
    return reply.body


@BOTH
async def test_every_endpoint_answers(local, base, symbol):
    place = await local(rate=500.0, **MARKETS)
    info = await ask(place, base, "exchangeInfo")
    assert symbol in {entry["symbol"] for entry in info["symbols"]}
    assert {entry["contractType"] for entry in info["symbols"]} == {"PERPETUAL"}
    bars = await ask(place, base, "klines", symbol=symbol, interval="1m", limit=1_500)
    assert all(b[0] - a[0] == 60_000 for a, b in itertools.pairwise(bars))
    book = await ask(place, base, "depth", symbol=symbol, limit=50)
    assert float(book["bids"][0][0]) < float(book["asks"][0][0])
    assert book["E"] == book["T"]
    trades = await ask(place, base, "trades", symbol=symbol, limit=5)
    assert [trade["id"] for trade in trades] == sorted(trade["id"] for trade in trades)
    past = await ask(place, base, "historicalTrades", symbol=symbol, fromId=trades[0]["id"], limit=5, key="k")
    assert past[0] == trades[0]
    (agg,) = await ask(place, base, "aggTrades", symbol=symbol, fromId=trades[0]["id"], limit=1)
    assert (agg["a"], agg["p"]) == (trades[0]["id"], trades[0]["price"])
    interest = await ask(place, base, "openInterest", symbol=symbol)
    assert float(interest["openInterest"]) > 0
    funding = await ask(place, base, "fundingRate", symbol=symbol, startTime=0)
    every = 4 * 3_600_000 if symbol == "SOLUSDT" else 8 * 3_600_000
    assert all(one["fundingTime"] % every == 0 for one in funding)
    assert await ask(place, base, "ping") == {}
    assert (await ask(place, base, "time"))["serverTime"] > 0


async def test_forms_that_differ_between_the_two(local):
    place = await local(rate=500.0, **MARKETS)
    for endpoint in ("ticker/24hr", "ticker/bookTicker", "premiumIndex"):
        one = await ask(place, USDM, endpoint, symbol="BTCUSDT")
        assert one["symbol"] == "BTCUSDT"
        assert "pair" not in one
        (inverse,) = await ask(place, COINM, endpoint, symbol="BTCUSD_PERP")
        assert inverse["pair"] == "BTCUSD"
        assert len(await ask(place, USDM, endpoint)) == 2
    ticker = await ask(place, USDM, "ticker/24hr", symbol="BTCUSDT")
    assert not {"bidPrice", "askQty", "prevClosePrice"} & ticker.keys()
    (inverse,) = await ask(place, COINM, "ticker/24hr")
    assert "baseVolume" in inverse
    assert "quoteVolume" not in inverse
    assert [entry["symbol"] for entry in await ask(place, USDM, "fundingInfo")] == ["SOLUSDT"]
    assert (await ask(place, USDM, "fundingInfo"))[0]["fundingIntervalHours"] == 4
    assert await ask(place, COINM, "fundingInfo") == []
    (listed,) = (await ask(place, COINM, "exchangeInfo"))["symbols"]
    assert (listed["contractSize"], listed["contractStatus"]) == (100, "TRADING")


@BOTH
async def test_what_is_refused(local, base, symbol):
    place = await local(rate=1.0, **MARKETS)
    assert (await ask(place, base, "historicalTrades", 401, symbol=symbol))["code"] == -2014
    assert (await ask(place, base, "depth", 400, symbol=symbol, limit=7))["code"] == -4021
    assert (await ask(place, base, "klines", 400, symbol=symbol, interval="1s"))["code"] == -1120
    assert (await ask(place, base, "premiumIndex", 400, symbol="NONE"))["code"] == -1121
    assert (await ask(place, base, "openInterest", 400))["code"] == -1102
    assert (await ask(place, base, "nothing", 404))["code"] == -1000


async def test_each_market_has_a_weight_of_its_own(local):
    place = await local(rate=1.0, limits=LimitConfig(futures_weight_per_minute=45), **MARKETS)

    async def used(path):
        return int((await place.get(path)).headers["X-MBX-USED-WEIGHT-1M"])

    assert await used("/fapi/v1/depth?symbol=BTCUSDT&limit=1000") == 20
    assert await used("/fapi/v1/depth?symbol=BTCUSDT") == 30
    assert await used("/fapi/v1/klines?symbol=BTCUSDT&interval=1m&limit=99") == 31
    assert await used("/dapi/v1/premiumIndex?symbol=BTCUSD_PERP") == 10
    assert await used("/api/v3/ping") == 1
    assert (await place.get("/fapi/v1/ticker/24hr")).status == 429
    assert (await place.get("/dapi/v1/ping")).status == 200


async def test_funding_has_a_limit_beside_the_weight(local, monkeypatch):
    monkeypatch.setattr("tidewire.sandbox.futures_rest.FUNDING_REQUESTS", 2)
    place = await local(rate=1.0, **MARKETS)
    await ask(place, USDM, "fundingInfo")
    await ask(place, USDM, "fundingRate", symbol="BTCUSDT")
    assert (await ask(place, USDM, "fundingRate", 429, symbol="BTCUSDT"))["code"] == -1003
    await ask(place, COINM, "fundingInfo")


async def test_a_stream_of_the_other_path_is_taken_and_stays_silent(local):
    place = await local(rate=2_000.0, **MARKETS)
    wrong = await place.listen("/public/stream")
    assert await wrong.ask({"method": "SUBSCRIBE", "params": ["btcusdt@aggTrade"], "id": 1}) == {
        "result": None,
        "id": 1,
    }
    right = await place.listen("/market/ws/btcusdt@aggTrade")
    (first, *_) = await right.until_texts(20)
    assert first["e"] == "aggTrade"
    assert len(wrong.texts) == 1
    listed = await wrong.ask({"method": "LIST_SUBSCRIPTIONS", "id": 2})
    assert listed["result"] == ["btcusdt@aggTrade"]
    await wrong.ask({"method": "UNSUBSCRIBE", "params": ["btcusdt@aggTrade"], "id": 3})
    assert place.sandbox.status("usdm")["subscriptions"] == {"btcusdt@aggTrade": 1}


async def test_three_markets_with_one_name_for_a_stream(local):
    place = await local(rate=1_000.0, **MARKETS)
    spot = await place.listen("/stream?streams=btcusdt@trade")
    usdm = await place.listen("/public/stream?streams=btcusdt@trade")
    coinm = await place.listen("/dstream/stream?streams=btcusd_perp@trade/btcusd_perp@markPrice@1s")
    for listener in (spot, usdm, coinm):
        await listener.until_texts(5)
    assert "M" in spot.json()[0]["data"]
    assert usdm.json()[0]["data"]["X"]
    both = [[(one["data"]["t"], float(one["data"]["p"])) for one in each.json()[:5]] for each in (spot, usdm)]
    assert both[0] != both[1]
    status = (await place.get("/sandbox/status?market=coinm")).body
    assert status["symbols"] == ["BTCUSD_PERP"]
    assert (await place.get("/sandbox/ledger?market=usdm")).body["btcusdt@trade"]["sent"] >= 5
    assert (await place.get("/sandbox/status?market=options")).status == 400
    assert (await place.get("/sandbox/status")).body["symbols"] == ["BTCUSDT"]
    place.sandbox.pause()
    async with asyncio.timeout(10):
        while {place.sandbox.status(name)["state"] for name in ("spot", "usdm", "coinm")} != {"paused"}:
            await place.get("/sandbox/status")
    place.sandbox.play()
    assert place.sandbox.disconnect() == 3


async def test_faults_are_those_of_all_markets(local):
    place = await local(rate=1_000.0, **MARKETS)
    await place.post("/sandbox/faults", {"fail_rest": {"status": 503, "times": 1}, "skew_s": 100})
    for base, symbol in ((USDM, "BTCUSDT"), (COINM, "BTCUSD_PERP")):
        await ask(place, base, "ping", 503)
        marked = await ask(place, base, "openInterest", symbol=symbol)
        trade = (await ask(place, base, "trades", symbol=symbol, limit=1))[0]
        assert abs(trade["time"] - marked["time"]) < 60_000
    place.sandbox.faults = Faults(fail_rest=FailRest(status=500))
    await ask(place, USDM, "ping", 500)


async def test_without_futures_their_addresses_are_not_there(local):
    place = await local(rate=1.0)
    assert (await place.get("/fapi/v1/ping")).status == 404
    assert (await place.get("/public/ws")).status == 404
    assert (await place.get("/sandbox/status?market=usdm")).status == 400
