from __future__ import annotations

import asyncio
import itertools

import pytest

from tidewire.records.clock import ManualClock
from tidewire.sandbox.config import FailRest, Faults, LimitConfig

SYMBOLS = ("BTCUSDT", "ETHUSDT")


@pytest.fixture
async def place(local, start_ns):
    made = await local(ManualClock(start_ns), rate=100.0, symbols=SYMBOLS, history_hours=50)
    await made.sandbox._clock.advance(5)
    return made


async def test_ping_and_time(place, start_ns):
    assert await place.api("ping") == {}
    assert await place.api("time") == {"serverTime": start_ns // 10**6 + 5_000}


async def test_exchange_info(place):
    info = await place.api("exchangeInfo")
    assert info["timezone"] == "UTC"
    assert info["rateLimits"][0] == {
        "rateLimitType": "REQUEST_WEIGHT",
        "interval": "MINUTE",
        "intervalNum": 1,
        "limit": 6000,
    }
    assert [symbol["symbol"] for symbol in info["symbols"]] == list(SYMBOLS)
    btc = info["symbols"][0]
    assert (btc["status"], btc["baseAsset"], btc["quoteAsset"]) == ("TRADING", "BTC", "USDT")
    filters = {entry["filterType"]: entry for entry in btc["filters"]}
    assert filters["PRICE_FILTER"]["tickSize"] == "0.01000000"
    assert filters["LOT_SIZE"]["stepSize"] == "0.00001000"
    assert btc["permissionSets"] == [["SPOT"]]
    one = await place.api("exchangeInfo", symbol="ETHUSDT")
    assert [symbol["symbol"] for symbol in one["symbols"]] == ["ETHUSDT"]


async def test_trades(place):
    rows = await place.api("trades", symbol="BTCUSDT", limit=1000)
    assert len(rows) == 1000
    assert list(rows[0]) == ["id", "price", "qty", "quoteQty", "time", "isBuyerMaker", "isBestMatch"]
    assert all(b["id"] == a["id"] + 1 and b["time"] >= a["time"] for a, b in itertools.pairwise(rows))
    for row in rows[:20]:
        assert float(row["quoteQty"]) == pytest.approx(float(row["price"]) * float(row["qty"]))


async def test_trades_by_id_continue_each_other(place):
    newest = (await place.api("trades", symbol="BTCUSDT", limit=1))[0]
    begin = newest["id"] - 2_500
    found = []
    while begin <= newest["id"]:
        page = await place.api("historicalTrades", symbol="BTCUSDT", fromId=begin, limit=1000)
        found += page
        begin = page[-1]["id"] + 1
    assert [row["id"] for row in found] == list(range(newest["id"] - 2_500, newest["id"] + 1))
    assert found[-1] == newest


async def test_agg_trades(place, start_ns):
    rows = await place.api("aggTrades", symbol="BTCUSDT", limit=5)
    assert list(rows[0]) == ["a", "p", "q", "f", "l", "T", "m", "M"]
    again = await place.api("aggTrades", symbol="BTCUSDT", fromId=rows[0]["a"], limit=5)
    assert again == rows
    begin, end = start_ns // 10**6 - 60_000, start_ns // 10**6 + 1_000
    spread = await place.api("aggTrades", symbol="BTCUSDT", startTime=begin, endTime=end, limit=1000)
    assert all(begin <= row["T"] <= end for row in spread)
    assert spread[0]["T"] < start_ns // 10**6 <= spread[-1]["T"]


@pytest.mark.parametrize("interval", ["1s", "1m", "5m", "1h", "1d"])
async def test_klines_are_the_aggregate_of_trades(place, interval, start_ns):
    rows = await place.api("klines", symbol="BTCUSDT", interval=interval, limit=4)
    assert len(rows) == (3 if interval == "1d" else 4)
    now = start_ns // 10**6 + 5_000
    assert rows[-1][0] <= now <= rows[-1][6]
    assert all(b[0] == a[6] + 1 for a, b in itertools.pairwise(rows))
    series = place.sandbox._upstream.series("BTCUSDT")
    for row in rows:
        assert len(row) == 12
        inside = series.between(row[0], row[6], 10**6)
        assert row[8] == len(inside)
        if inside:
            assert float(row[1]) == inside[0][1] / 1e8
            assert float(row[2]) == max(trade[1] for trade in inside) / 1e8
            assert float(row[3]) == min(trade[1] for trade in inside) / 1e8
            assert float(row[4]) == inside[-1][1] / 1e8
            assert float(row[5]) == pytest.approx(sum(trade[2] for trade in inside) / 1e8)
            assert float(row[9]) == pytest.approx(sum(trade[2] for trade in inside if not trade[4]) / 1e8)


async def test_klines_by_time(place, start_ns):
    hour = 3_600_000
    begin = start_ns // 10**6 // hour * hour - 10 * hour
    rows = await place.api("klines", symbol="BTCUSDT", interval="1h", startTime=begin - 1, limit=3)
    assert [row[0] for row in rows] == [begin, begin + hour, begin + 2 * hour]
    rows = await place.api("klines", symbol="BTCUSDT", interval="1h", startTime=begin, endTime=begin + hour)
    assert [row[0] for row in rows] == [begin, begin + hour]
    rows = await place.api("klines", symbol="BTCUSDT", interval="1h", endTime=begin, limit=2)
    assert [row[0] for row in rows] == [begin - hour, begin]
    assert len(await place.api("klines", symbol="BTCUSDT", interval="1h", startTime=0, limit=5000)) == 51
    assert await place.api("klines", symbol="BTCUSDT", interval="1h", startTime=start_ns // 10**6 + 10 * hour) == []


async def test_depth(place):
    book = await place.api("depth", symbol="BTCUSDT", limit=5)
    assert list(book) == ["lastUpdateId", "bids", "asks"]
    assert len(book["bids"]) == len(book["asks"]) == 5
    best = await place.api("ticker/bookTicker", symbol="BTCUSDT")
    assert [best["bidPrice"], best["bidQty"]] == book["bids"][0]
    assert [best["askPrice"], best["askQty"]] == book["asks"][0]


async def test_tickers(place):
    one = await place.api("ticker/24hr", symbol="BTCUSDT")
    assert {
        "symbol",
        "priceChange",
        "weightedAvgPrice",
        "lastPrice",
        "bidPrice",
        "bidQty",
        "askPrice",
        "openPrice",
        "highPrice",
        "lowPrice",
        "volume",
        "quoteVolume",
        "openTime",
        "closeTime",
        "firstId",
        "lastId",
        "count",
    } <= one.keys()
    assert one["lastId"] - one["firstId"] + 1 == one["count"]
    assert float(one["lowPrice"]) <= float(one["weightedAvgPrice"]) <= float(one["highPrice"])
    assert [row["symbol"] for row in await place.api("ticker/24hr")] == list(SYMBOLS)
    assert [row["symbol"] for row in await place.api("ticker/24hr", symbols='["ETHUSDT"]')] == ["ETHUSDT"]
    assert "bidPrice" not in await place.api("ticker/24hr", symbol="BTCUSDT", type="MINI")
    assert (await place.api("ticker/price", symbol="BTCUSDT"))["price"] == one["lastPrice"]
    assert len(await place.api("ticker/bookTicker")) == 2


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("klines?symbol=NOSUCH&interval=1m", -1121),
        ("klines?symbol=btcusdt&interval=1m", -1100),
        ("klines?interval=1m", -1102),
        ("klines?symbol=BTCUSDT", -1102),
        ("klines?symbol=BTCUSDT&interval=7m", -1120),
        ("klines?symbol=BTCUSDT&interval=1m&limit=x", -1100),
        ("klines?symbol=BTCUSDT&interval=1m&limit=0", -1130),
        ("klines?symbol=BTCUSDT&interval=1m&start=5", -1104),
        ("aggTrades?symbol=BTCUSDT&fromId=1&startTime=5", -1128),
        ("ticker/24hr?symbol=BTCUSDT&symbols=[]", -1128),
        ("ticker/24hr?symbols=BTCUSDT", -1100),
        ("ticker/24hr?symbol=BTCUSDT&type=TINY", -1139),
    ],
)
async def test_wrong_parameters(place, path, code):
    reply = await place.get(f"/api/v3/{path}")
    assert (reply.status, reply.body["code"]) == (400, code)
    assert reply.body["msg"]


async def test_the_time_unit_can_be_microseconds(place):
    fine = {"X-MBX-TIME-UNIT": "MICROSECOND"}
    query = "symbol=BTCUSDT&limit=1"
    coarse = (await place.get(f"/api/v3/klines?{query}&interval=1m")).body[0]
    row = (await place.get(f"/api/v3/klines?{query}&interval=1m", headers=fine)).body[0]
    assert (row[0], row[6]) == (coarse[0] * 1_000, coarse[6] * 1_000 + 999)
    assert len(str((await place.get(f"/api/v3/trades?{query}", headers=fine)).body[0]["time"])) == 16
    assert (await place.get("/api/v3/time", headers={"X-MBX-TIME-UNIT": "HOUR"})).body["code"] == -1194


async def test_an_unknown_path_is_not_found(place):
    assert (await place.get("/api/v3/nonsense")).status == 404


@pytest.mark.parametrize(
    ("path", "weight"),
    [
        ("ping", 1),
        ("exchangeInfo", 20),
        ("klines?symbol=BTCUSDT&interval=1m", 2),
        ("trades?symbol=BTCUSDT", 25),
        ("historicalTrades?symbol=BTCUSDT", 25),
        ("aggTrades?symbol=BTCUSDT", 4),
        ("depth?symbol=BTCUSDT", 5),
        ("depth?symbol=BTCUSDT&limit=500", 25),
        ("depth?symbol=BTCUSDT&limit=1000", 50),
        ("depth?symbol=BTCUSDT&limit=5000", 250),
        ("ticker/24hr?symbol=BTCUSDT", 2),
        ("ticker/24hr", 80),
        ("ticker/bookTicker?symbol=BTCUSDT", 2),
        ("ticker/bookTicker", 4),
        ("ticker/price", 4),
    ],
)
async def test_weights(place, path, weight):
    reply = await place.get(f"/api/v3/{path}")
    assert reply.status == 200
    assert reply.headers["X-MBX-USED-WEIGHT-1M"] == str(weight)


async def test_over_the_limit_429_and_going_on_418(local):
    place = await local(ManualClock(), rate=1.0, limits=LimitConfig(weight_per_minute=50, ban_after=1, ban_s=30))
    statuses = [(await place.get("/api/v3/trades?symbol=BTCUSDT")).status for _ in range(2)]
    assert statuses == [200, 200]
    over = await place.get("/api/v3/ping")
    assert (over.status, over.body["code"]) == (429, -1003)
    assert 0 < int(over.headers["Retry-After"]) <= 60
    banned = await place.get("/api/v3/ping")
    assert (banned.status, banned.headers["Retry-After"]) == (418, "30")
    assert "banned until" in banned.body["msg"]


async def test_failures_on_demand(local):
    place = await local(rate=1.0, faults=Faults(fail_rest=FailRest(status=503, times=2)))
    assert [(await place.get("/api/v3/ping")).status for _ in range(3)] == [503, 503, 200]


async def test_a_slow_body_takes_its_time(local):
    clock = ManualClock()
    place = await local(clock, rate=0.001, faults=Faults(slow_body=100))
    began = clock.mono_ns()
    reply = asyncio.create_task(place.get("/api/v3/time"))
    while not reply.done():
        await clock.advance(0.01)
        await asyncio.sleep(0)
    body = (await reply).body
    assert list(body) == ["serverTime"]
    # 28 bytes at 100 bytes a second, in tenths.
    assert clock.mono_ns() - began >= 200_000_000


async def test_skew_moves_the_clock_of_the_venue(local, start_ns):
    place = await local(ManualClock(start_ns), rate=0.001, faults=Faults(skew_s=1.5))
    assert (await place.api("time"))["serverTime"] == start_ns // 10**6 + 1_500
