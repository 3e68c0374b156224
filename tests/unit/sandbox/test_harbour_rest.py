"""Harbour over REST: the envelope, its codes, its limit, and what faults do to it."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tidewire.records.clock import ManualClock
from tidewire.sandbox.config import FailRest, Faults, LimitConfig

HARBOUR = {"symbols": ("BTCUSDT",), "harbour_symbols": ("BTC-USD", "ETH-USD")}


async def ask(place, endpoint, status=200, code="0", **params):
    reply = await place.get(f"/harbour/{endpoint}", params={k: str(v) for k, v in params.items()})
    assert list(reply.body) == ["code", "msg", "data"]
    assert (reply.status, reply.body["code"]) == (status, code), reply.body
    assert bool(reply.body["msg"]) == (code != "0")
    return reply.body["data"]


async def test_instruments(local):
    place = await local(rate=1.0, **HARBOUR)
    rows = await ask(place, "instruments")
    assert rows[0] == {
        "symbol": "BTC-USD",
        "type": "spot",
        "base": "BTC",
        "quote": "USD",
        "tickSize": "0.1",
        "lotSize": "0.00001",
        "state": "live",
    }
    assert [row["symbol"] for row in rows] == ["BTC-USD", "ETH-USD"]


async def test_trades_are_pages_by_id(local):
    place = await local(rate=1_000.0, **HARBOUR)
    last = await ask(place, "trades", symbol="BTC-USD", limit=3)
    assert len(await ask(place, "trades", symbol="BTC-USD")) == 100
    assert list(last[0]) == ["symbol", "id", "price", "size", "side", "ts"]
    assert all(isinstance(value, str) for value in last[0].values())
    page = await ask(place, "trades", symbol="BTC-USD", after=int(last[0]["id"]) - 500, limit=500)
    assert [int(row["id"]) for row in page] == list(range(int(last[0]["id"]) - 499, int(last[0]["id"]) + 1))
    assert page[-1] == last[0]
    times = [int(row["ts"]) for row in page]
    assert times == sorted(times)
    oldest = await ask(place, "trades", symbol="BTC-USD", after=0, limit=1)
    assert oldest[0]["id"] == "1000000"
    assert await ask(place, "trades", symbol="BTC-USD", after=10**15) == []


async def test_prices_and_sizes_are_of_whole_ticks_and_lots(local):
    place = await local(rate=1_000.0, **HARBOUR)
    for row in await ask(place, "instruments"):
        tick, lot = Decimal(row["tickSize"]), Decimal(row["lotSize"])
        (book,) = await ask(place, "book", symbol=row["symbol"], depth=5)
        assert list(book) == ["symbol", "bids", "asks", "seq", "ts"]
        assert isinstance(book["seq"], int)
        levels = book["bids"] + book["asks"]
        assert len(levels) == 10
        trades = await ask(place, "trades", symbol=row["symbol"])
        for price, size in levels + [[trade["price"], trade["size"]] for trade in trades]:
            assert Decimal(price) % tick == 0
            assert Decimal(size) % lot == 0


@pytest.mark.parametrize(
    ("endpoint", "params", "code"),
    [
        ("trades", {}, "1001"),
        ("book", {}, "1001"),
        ("trades", {"symbol": "BTC-USD", "limit": 501}, "1002"),
        ("trades", {"symbol": "BTC-USD", "limit": 0}, "1002"),
        ("trades", {"symbol": "BTC-USD", "after": "x"}, "1002"),
        ("book", {"symbol": "BTC-USD", "depth": 51}, "1002"),
        ("book", {"symbol": "BTC-USD", "limit": 5}, "1002"),
        ("instruments", {"symbol": "BTC-USD"}, "1002"),
        ("book", {"symbol": "BTCUSDT"}, "1003"),
    ],
)
async def test_what_is_wrong_with_a_request_is_told_by_its_code(local, endpoint, params, code):
    place = await local(rate=1.0, **HARBOUR)
    assert await ask(place, endpoint, code=code, **params) == []


async def test_a_path_that_there_is_not(local):
    place = await local(rate=1.0, **HARBOUR)
    assert await ask(place, "klines", 404, "1004") == []
    assert (await place.get("/harbour/ws")).status == 400
    without = await local(rate=1.0, symbols=("BTCUSDT",))
    assert (await without.get("/harbour/instruments")).status == 404
    assert (await without.get("/sandbox/status", params={"market": "harbour"})).status == 400


async def test_requests_are_counted_over_two_seconds(local):
    clock = ManualClock()
    place = await local(clock, rate=1.0, limits=LimitConfig(harbour_requests_per_2_s=3), **HARBOUR)
    for _ in range(3):
        await ask(place, "instruments")
    refused = await place.get("/harbour/book", params={"symbol": "BTC-USD"})
    assert (refused.status, refused.body["code"], refused.headers["Retry-After"]) == (429, "1010", "2")
    assert (await place.get("/api/v3/ping")).status == 200
    await clock.advance(2)
    await ask(place, "instruments")


async def test_faults(local):
    faults = Faults(fail_rest=FailRest(status=503, times=1), skew_s=5.0, slow_body=1_000_000)
    place = await local(rate=1.0, start_ns=1_760_000_000_000_000_000, faults=faults, **HARBOUR)
    assert await ask(place, "instruments", 503, "1050") == []
    (book,) = await ask(place, "book", symbol="BTC-USD")
    assert int(book["ts"]) >= 1_760_000_005_000
    (trade,) = await ask(place, "trades", symbol="BTC-USD", after=1_000_000, limit=1)
    place.sandbox.faults = Faults()
    (same,) = await ask(place, "trades", symbol="BTC-USD", after=1_000_000, limit=1)
    assert int(trade["ts"]) - int(same["ts"]) == 5_000
