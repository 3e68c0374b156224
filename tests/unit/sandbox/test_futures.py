"""The futures markets of the sandbox: their streams, and that they are three markets and not one."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from tidewire.errors import InputError
from tidewire.records.clock import ManualClock
from tidewire.sandbox.config import Faults, LimitConfig, SandboxConfig, coinm_names
from tidewire.sandbox.contracts import contract_info
from tidewire.sandbox.faults import shift_times
from tidewire.sandbox.futures import FuturesMarket, is_public
from tidewire.sandbox.hub import Connection, Hub
from tidewire.sandbox.series import Bar

START_NS = 1_760_000_000_000_000_000
START_MS = START_NS // 1_000_000
STEP_NS = 10_000_000
HOUR_MS = 3_600_000


class Catch(Hub):
    """A hub that keeps what is published."""

    def __init__(self, clock):
        super().__init__(clock, Faults(), LimitConfig(), tell_clock=False)
        self.kept = []

    def publish(self, stream, ident, data, now_ns):
        if stream in self.channels:
            self.kept.append((stream, ident, data, now_ns))

    def of(self, ending):
        return [msgspec.json.decode(data) for stream, _, data, _ in self.kept if stream.endswith(ending)]


def market(streams, *, inverse=False, seed=7):
    clock = ManualClock(START_NS)
    hub = Catch(clock)
    names = {"usdm_symbols": ("BTCUSDT", "SOLUSDT", "BTCUSDT_261225"), "coinm_symbols": ("BTCUSD_PERP",)}
    config = SandboxConfig(seed=seed, start_ns=START_NS, history_hours=30, **names)
    made = FuturesMarket(config, hub, clock, inverse=inverse)
    hub.attach(made.subscribed, set())
    hub.subscribe(Connection(1, None, combined=True, micro=False), streams)
    return made, hub


def run(made, count):
    for number in range(made.events, made.events + count):
        made.step(START_NS + number * STEP_NS)


KINDS = ("trade", "aggTrade", "bookTicker", "kline_1m", "markPrice@1s", "forceOrder", "depth@100ms")
ALL = [f"{symbol}@{kind}" for symbol in ("btcusdt", "solusdt") for kind in KINDS]


def test_the_same_seed_is_the_same_bytes_and_who_listens_changes_nothing():
    (one, a), (two, b), (three, c), (four, d) = market(ALL), market(ALL), market(ALL, seed=8), market(["btcusdt@trade"])
    for made in (one, two, three, four):
        run(made, 3_000)
    assert a.kept == b.kept
    assert a.kept != c.kept
    assert a.of("btcusdt@trade") == d.of("btcusdt@trade")


def test_trades_off_the_book_take_numbers_that_rest_does_not_show():
    made, hub = market(["btcusdt@trade"])
    run(made, 12_000)
    trades = hub.of("@trade")
    ids = [trade["t"] for trade in trades]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert {trade["X"] for trade in trades} == {"MARKET", "NA", "INSURANCE_FUND", "ADL"}
    assert {(trade["p"], trade["q"]) for trade in trades if trade["X"] == "NA"} == {("0", "0")}
    shown = {trade[0]: trade for trade in made.series("BTCUSDT").from_id(ids[0], 10**6)}
    on_book = [trade for trade in trades if trade["X"] == "MARKET"]
    assert [trade["t"] for trade in on_book] == list(shown)
    assert all(float(trade["p"]) == shown[trade["t"]][1] / 1e8 for trade in on_book)
    assert all(trade["E"] == trade["T"] == shown[trade["t"]][3] for trade in on_book)


def test_depth_updates_name_the_one_before_and_have_holes():
    made, hub = market(["btcusdt@depth@100ms", "btcusdt@bookTicker"])
    run(made, 500)
    snapshot = made.depth("BTCUSDT", 1_000)
    sides = {side: dict(snapshot[side]) for side in ("bids", "asks")}
    run(made, 5_000)
    every = hub.of("@depth@100ms")
    assert all(b["pu"] == a["u"] and b["U"] > a["u"] + 1 for a, b in itertools.pairwise(every))
    updates = [update for update in every if update["u"] > snapshot["lastUpdateId"]]
    first = updates[0]
    assert first["U"] <= snapshot["lastUpdateId"] <= first["u"] or first["pu"] == snapshot["lastUpdateId"]
    assert {"E", "T", "s", "ps"} <= first.keys()
    quotes = hub.of("@bookTicker")
    assert all(quote["e"] == "bookTicker" and quote["E"] == quote["T"] for quote in quotes)
    for update in updates:
        for side, changes in (("bids", update["b"]), ("asks", update["a"])):
            sides[side].update(changes)
            sides[side] = {price: size for price, size in sides[side].items() if float(size)}
        last = [quote for quote in quotes if quote["u"] <= update["u"]][-1]
        assert (max(sides["bids"], key=float), min(sides["asks"], key=float)) == (last["b"], last["a"])


def test_final_bars_are_the_trades_of_the_book():
    made, hub = market(["btcusdt@trade", "btcusdt@kline_1m", "btcusdt@kline_1s"])
    run(made, 40_000)
    assert hub.of("@kline_1s") == []
    trades = [trade for trade in hub.of("@trade") if trade["X"] == "MARKET"]
    final = [message["k"] for message in hub.of("@kline_1m") if message["k"]["x"]]
    assert len(final) >= 2
    assert len({k["t"] for k in final}) == len(final)
    for k in final[1:]:
        inside = [t for t in trades if k["t"] <= t["T"] <= k["T"]]
        assert (k["f"], k["L"], k["n"], k["o"]) == (inside[0]["t"], inside[-1]["t"], len(inside), inside[0]["p"])
        assert float(k["v"]) == pytest.approx(sum(float(t["q"]) for t in inside), abs=1e-9)


def test_marks_come_each_second_with_the_funding_that_rest_settles():
    made, hub = market(["btcusdt@markPrice@1s", "solusdt@markPrice@1s", "btcusdt_261225@markPrice@1s"])
    run(made, 1_000)
    for symbol, hours in (("BTCUSDT", 8), ("SOLUSDT", 4)):
        marks = hub.of(f"{symbol.lower()}@markPrice@1s")
        assert [mark["E"] for mark in marks] == [START_MS + (place + 1) * 1_000 for place in range(len(marks))]
        assert {mark["T"] for mark in marks} == {(START_MS // (hours * HOUR_MS) + 1) * hours * HOUR_MS}
        assert {mark["r"] for mark in marks} == {made.funding(symbol, START_MS)[0]}
        assert all(float(mark["p"]) > 0 and float(mark["i"]) > 0 for mark in marks)
    assert {(mark["r"], mark["T"]) for mark in hub.of("261225@markPrice@1s")} == {("", 0)}
    past = made.settlements("SOLUSDT", START_MS - 24 * HOUR_MS, START_MS, 100)
    assert [at for at, _, _ in past] == [START_MS // (4 * HOUR_MS) * 4 * HOUR_MS - n * 4 * HOUR_MS for n in range(6)][
        ::-1
    ]
    assert made.settlements("BTCUSDT_261225", 0, START_MS, 100) == []


def test_forced_orders_are_rare_and_are_trades_that_happened():
    made, hub = market(["solusdt@forceOrder", "!forceOrder@arr", "solusdt@trade"])
    run(made, 20_000)
    orders = hub.of("solusdt@forceOrder")
    assert 0 < len(orders) < len(hub.of("@trade")) / 20
    assert all(message in hub.of("!forceOrder@arr") for message in orders)
    traded = {(trade["T"], trade["p"], trade["q"]) for trade in hub.of("@trade")}
    assert all((one["o"]["T"], one["o"]["p"], one["o"]["q"]) in traded for one in orders)


def test_inverse_contracts_count_contracts_and_name_their_pair():
    made, hub = market(["btcusd_perp@trade", "btcusd_perp@bookTicker", "btcusd_perp@depth@100ms"], inverse=True)
    run(made, 1_000)
    assert all("." not in trade["q"] for trade in hub.of("@trade"))
    assert {quote["ps"] for quote in hub.of("@bookTicker")} == {"BTCUSD"}
    assert {update["ps"] for update in hub.of("@depth@100ms")} == {"BTCUSD"}
    bar = Bar(60_000 * 10**8)
    bar.volume, bar.quote = 600 * 10**8, 600 * 60_000 * 10**8
    assert contract_info("BTCUSD_PERP", inverse=True).form.turnover(bar) == (10**8, 0)


def test_the_time_of_the_next_funding_is_no_reading_of_a_clock():
    mark = b'{"e":"markPriceUpdate","E":1562305380000,"s":"BTCUSDT","p":"1","r":"0","T":1562306400000}'
    assert shift_times(mark, 5_000) == mark.replace(b"1562305380000", b"1562305385000")
    trade = b'{"e":"trade","E":1562305380000,"T":1562305380000}'
    assert shift_times(trade, 5_000) == trade.replace(b"1562305380000", b"1562305385000")


@pytest.mark.parametrize(
    ("symbol", "inverse", "found"),
    [
        ("BTCUSDT", False, ("BTC", "USDT", "USDT", 8, "PERPETUAL", 0)),
        ("DOGEUSDT", False, ("DOGE", "USDT", "USDT", 4, "PERPETUAL", 0)),
        ("ETHUSDT_261225", False, ("ETH", "USDT", "USDT", 0, "CURRENT_QUARTER", 0)),
        ("BTCUSD_PERP", True, ("BTC", "USD", "BTC", 8, "PERPETUAL", 100)),
        ("ETHUSD_261225", True, ("ETH", "USD", "ETH", 0, "CURRENT_QUARTER", 10)),
    ],
)
def test_contracts(symbol, inverse, found):
    info = contract_info(symbol, inverse=inverse)
    assert (info.base, info.quote, info.margin, info.funding_hours, info.kind, info.contract_size) == found
    assert info.tick_e8 * info.step_e8 % 10**8 == 0


@pytest.mark.parametrize(
    ("symbol", "inverse"),
    [("BTCUSD", False), ("BTC/USDT", False), ("BTCUSDT_12", False), ("BTCUSDT", True), ("BTCUSD_991332", True)],
)
def test_contracts_that_cannot_be_listed(symbol, inverse):
    with pytest.raises(InputError):
        contract_info(symbol, inverse=inverse)


def test_which_streams_are_public():
    public = ("btcusdt@depth@100ms", "btcusdt@depth5", "btcusdt@bookTicker", "btcusdt@trade")
    other = ("btcusdt@aggTrade", "btcusdt@markPrice@1s", "btcusdt@kline_1m", "!forceOrder@arr", "btcusdt@ticker")
    assert all(map(is_public, public))
    assert not any(map(is_public, other))


def test_names_of_many():
    assert coinm_names(2) == ("BTCUSD_PERP", "ETHUSD_PERP")
    for name in coinm_names(12):
        contract_info(name, inverse=True)


def test_a_recording_has_no_futures(tmp_path):
    with pytest.raises(InputError, match="spot"):
        SandboxConfig(tape=tmp_path, usdm_symbols=("BTCUSDT",))
