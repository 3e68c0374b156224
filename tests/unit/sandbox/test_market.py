from __future__ import annotations

import asyncio
import itertools

import msgspec
import pytest

from tidewire.errors import InputError
from tidewire.records.clock import ManualClock
from tidewire.sandbox.config import Faults, LimitConfig, SandboxConfig
from tidewire.sandbox.hub import Connection, Hub
from tidewire.sandbox.market import Market, check_symbols
from tidewire.sandbox.series import INTERVALS, bar_open

START_NS = 1_760_000_000_000_000_000
STEP_NS = 10_000_000


class Catch(Hub):
    """A hub that keeps what is published."""

    def __init__(self, clock, streams):
        super().__init__(clock, Faults(), LimitConfig(), tell_clock=False)
        self.kept = []
        self._streams = streams

    def publish(self, stream, ident, data, now_ns):
        if stream in self.channels:
            self.kept.append((stream, ident, data, now_ns))

    def of(self, ending):
        return [msgspec.json.decode(data) for stream, _, data, _ in self.kept if stream.endswith(ending)]


def market(streams, seed=7, symbols=("BTCUSDT", "ETHUSDT"), **config):
    clock = ManualClock(START_NS)
    hub = Catch(clock, streams)
    config = SandboxConfig(seed=seed, symbols=symbols, start_ns=START_NS, history_hours=30, **config)
    made = Market(config, hub, clock)
    hub.attach(made.subscribed, set())
    hub.subscribe(Connection(1, None, combined=True, micro=False), streams)
    return made, hub


def run(made, count):
    for number in range(made.events, made.events + count):
        made.step(START_NS + number * STEP_NS)


ALL = [
    f"{symbol}@{kind}"
    for symbol in ("btcusdt", "ethusdt")
    for kind in ("trade", "aggTrade", "bookTicker", "ticker", "miniTicker", "kline_1m", "depth", "depth5@100ms")
]


def test_the_same_seed_is_the_same_bytes():
    (one, a), (two, b), (three, c) = market(ALL), market(ALL), market(ALL, seed=8)
    for made in (one, two, three):
        run(made, 3_000)
    assert a.kept == b.kept
    assert a.kept != c.kept


def test_who_listens_does_not_change_the_market():
    (one, a), (two, b) = market(ALL), market(["btcusdt@trade"])
    run(one, 3_000)
    run(two, 3_000)
    assert a.of("btcusdt@trade") == b.of("btcusdt@trade")


def test_trade_ids_are_contiguous_and_rest_agrees_with_the_stream():
    made, hub = market(["btcusdt@trade", "btcusdt@aggTrade"])
    run(made, 4_000)
    trades = hub.of("@trade")
    assert len(trades) > 500
    ids = [trade["t"] for trade in trades]
    series = made.series("BTCUSDT")
    assert ids == list(range(series.first_id + len(series.history), ids[-1] + 1))
    rest = series.from_id(ids[0], 10**6)
    assert [(t["t"], t["T"], t["m"]) for t in trades] == [(t[0], t[3], t[4]) for t in rest]
    pairs = itertools.pairwise(hub.of("@aggTrade"))
    assert all(b["a"] == a["a"] + 1 and b["f"] == a["l"] + 1 for a, b in pairs)


def test_the_last_price_before_the_start_leads_to_the_first_after():
    made, hub = market(["btcusdt@trade"])
    run(made, 20)
    before = made.series("BTCUSDT").history.trade(-1 + len(made.series("BTCUSDT").history))[1] / 1e8
    assert abs(float(hub.of("@trade")[0]["p"]) / before - 1) < 1e-3


def test_quotes_grow_and_are_the_top_of_the_book():
    made, hub = market(["btcusdt@bookTicker"])
    run(made, 2_000)
    quotes = hub.of("@bookTicker")
    assert all(a["u"] < b["u"] for a, b in itertools.pairwise(quotes))
    assert all(float(quote["b"]) < float(quote["a"]) for quote in quotes)
    assert list(quotes[0]) == ["u", "s", "b", "B", "a", "A"]


@pytest.mark.parametrize("interval", ["1s", "1m", "3m"])
def test_final_bars_are_the_aggregate_of_streamed_trades(interval):
    made, hub = market(["btcusdt@trade", f"btcusdt@kline_{interval}"])
    run(made, 40_000)
    trades = hub.of("@trade")
    pushed = [message["k"] for message in hub.of(f"@kline_{interval}")]
    final = [k for k in pushed if k["x"]]
    size = INTERVALS[interval]
    first = bar_open(interval, START_NS // 10**6)
    assert [k["t"] for k in final] == [first + n * size for n in range(len(final))]
    assert len(final) >= 2
    for k in final[1:]:
        inside = [t for t in trades if k["t"] <= t["T"] <= k["T"]]
        if not inside:
            assert (k["n"], k["f"], k["L"], k["v"]) == (0, -1, -1, "0.00000000")
            continue
        assert (k["f"], k["L"], k["n"]) == (inside[0]["t"], inside[-1]["t"], len(inside))
        assert (k["o"], k["c"]) == (inside[0]["p"], inside[-1]["p"])
        assert float(k["h"]) == max(float(t["p"]) for t in inside)
        assert float(k["l"]) == min(float(t["p"]) for t in inside)
        assert float(k["v"]) == pytest.approx(sum(float(t["q"]) for t in inside), abs=1e-9)
        assert float(k["q"]) == pytest.approx(sum(float(t["q"]) * float(t["p"]) for t in inside), rel=1e-12)
        assert float(k["V"]) == pytest.approx(sum(float(t["q"]) for t in inside if not t["m"]), abs=1e-9)


def test_forming_bars_come_every_two_seconds_and_a_final_one_once():
    made, hub = market(["btcusdt@kline_1m"])
    run(made, 15_000)
    messages = hub.of("@kline_1m")
    times = [message["E"] for message in messages]
    assert all(b - a == 2_000 for a, b in itertools.pairwise(times))
    finals = [message["k"]["t"] for message in messages if message["k"]["x"]]
    assert len(finals) == len(set(finals)) >= 2


def test_the_final_bar_comes_before_any_trade_of_the_next():
    made, hub = market(["btcusdt@trade", "btcusdt@kline_1m"])
    run(made, 15_000)
    newest = 0
    for stream, _, data, _ in hub.kept:
        message = msgspec.json.decode(data)
        if stream.endswith("@trade"):
            newest = message["T"]
        elif message["k"]["x"]:
            assert newest <= message["k"]["T"]


def test_depth_updates_follow_the_sync_rule_and_rebuild_the_book():
    made, hub = market(["btcusdt@depth@100ms", "btcusdt@bookTicker"])
    snapshot = made.depth("BTCUSDT", 5_000)
    sides = {side: dict(snapshot[side]) for side in ("bids", "asks")}
    run(made, 5_000)
    updates = hub.of("@depth@100ms")
    assert updates[0]["U"] <= snapshot["lastUpdateId"] + 1 <= updates[0]["u"]
    assert all(b["U"] == a["u"] + 1 for a, b in itertools.pairwise(updates))
    quotes = hub.of("@bookTicker")
    for update in updates:
        for side, changes in (("bids", update["b"]), ("asks", update["a"])):
            sides[side].update(changes)
            sides[side] = {price: size for price, size in sides[side].items() if float(size)}
        at_or_before = [quote for quote in quotes if quote["u"] <= update["u"]]
        if at_or_before:
            best = max(sides["bids"], key=float), min(sides["asks"], key=float)
            assert best == (at_or_before[-1]["b"], at_or_before[-1]["a"])
            assert sides["bids"][best[0]] == at_or_before[-1]["B"]


def test_a_ticker_is_the_day_of_trades():
    made, hub = market(["btcusdt@ticker", "!ticker@arr", "btcusdt@miniTicker"])
    run(made, 1_000)
    ticker = hub.of("btcusdt@ticker")[-1]
    inside = made.series("BTCUSDT").between(ticker["O"], ticker["C"], 10**6)
    assert (ticker["F"], ticker["L"], ticker["n"]) == (inside[0][0], inside[-1][0], len(inside))
    assert float(ticker["v"]) == pytest.approx(sum(trade[2] for trade in inside) / 1e8)
    assert ticker["C"] - ticker["O"] <= 86_400_000
    assert {row["s"] for row in hub.of("!ticker@arr")[-1]} == {"BTCUSDT", "ETHUSDT"}
    assert hub.of("@miniTicker")[-1]["c"] == ticker["c"]


def test_a_stream_left_is_no_longer_prepared():
    made, hub = market(["btcusdt@depth"])
    listener = hub.channels["btcusdt@depth"].listeners[0]
    hub.unsubscribe(listener, ["btcusdt@depth"])
    run(made, 500)
    assert hub.kept == []
    assert made.pairs["BTCUSDT"].book.recorders == []


def test_streams_nobody_knows_stay_silent():
    made, hub = market(["0", "btcusdt@kline_7m", "nosuch@trade", "btcusdt@depth7"])
    run(made, 500)
    assert hub.kept == []


async def test_a_paced_market_keeps_time():
    clock = ManualClock(START_NS)
    hub = Catch(clock, [])
    made = Market(SandboxConfig(rate=100.0, symbols=("BTCUSDT",), history_hours=1), hub, clock)
    hub.attach(made.subscribed, set())
    hub.subscribe(Connection(1, None, combined=True, micro=False), ["btcusdt@trade", "btcusdt@kline_1s"])
    hub.started.set()
    drive = asyncio.create_task(made.run())
    await clock.advance(3.0)
    assert 295 <= made.events <= 301
    assert len([m for m in hub.of("@kline_1s") if m["k"]["x"]]) == 3
    assert all(START_NS <= ns <= clock.wall_ns() for _, _, _, ns in hub.kept)
    drive.cancel()


@pytest.mark.parametrize("rate", [100.0, None])
async def test_a_paused_market_stands_still_and_goes_on(rate):
    clock = ManualClock(START_NS)
    hub = Catch(clock, [])
    made = Market(SandboxConfig(rate=rate, symbols=("BTCUSDT",), history_hours=1), hub, clock)
    hub.attach(made.subscribed, set())
    hub.subscribe(Connection(1, None, combined=True, micro=False), ["btcusdt@trade"])
    hub.started.set()
    drive = asyncio.create_task(made.run())
    await clock.advance(1.0)
    hub.started.clear()
    await clock.advance(1.0)
    before = made.events
    await clock.advance(60.0)
    assert (made.events, made.state) == (before, "paused")
    hub.started.set()
    await clock.advance(1.0)
    assert made.state == "playing"
    assert before < made.events
    if rate is not None:
        assert made.events <= before + 1.1 * rate
    ids = [message["t"] for message in hub.of("@trade")]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    drive.cancel()


def test_a_symbol_that_cannot_be_listed_is_refused():
    with pytest.raises(InputError, match="capital letters"):
        check_symbols(["btc/usdt"])
