"""Harbour's market and its socket: acknowledgements, batches of trades, books that go on from snapshots, faults."""

from __future__ import annotations

import asyncio
import itertools
from decimal import Decimal

import msgspec
import picows
import pytest

from tidewire.errors import InputError
from tidewire.records.clock import ManualClock
from tidewire.sandbox.config import Faults, LimitConfig, SandboxConfig, harbour_names
from tidewire.sandbox.faults import shift_times
from tidewire.sandbox.harbour import BATCH, CHANNELS, QUIET_MS, HarbourMarket, harbour_info, plain
from tidewire.sandbox.hub import Connection, Hub

START_NS = 1_760_000_000_000_000_000
STEP_NS = 10_000_000
HARBOUR = {"symbols": ("BTCUSDT",), "harbour_symbols": ("BTC-USD", "ETH-USD")}
WS = "/harbour/ws"


def request(*args, op="subscribe"):
    return {"op": op, "args": [{"channel": channel, "symbol": symbol} for channel, symbol in args]}


def data(listener, channel=None, symbol=None):
    """The market data received so far, of one channel and symbol or of all."""
    found = [msgspec.json.decode(text) for text in listener.texts if text != b"pong"]
    wanted = {"channel": channel, "symbol": symbol}
    return [
        m for m in found if "event" not in m and all(v is None or m["arg"][name] == v for name, v in wanted.items())
    ]


def events(listener):
    return [m for m in map(msgspec.json.decode, (t for t in listener.texts if t != b"pong")) if "event" in m]


def replayed(messages):
    """The book that a snapshot and the updates after it make; each update must go on from the one before."""
    seq, sides = None, {}
    for message in messages:
        (row,) = message["data"]
        if message["action"] == "snapshot":
            assert row["prevSeq"] == -1
            sides = {"bids": {}, "asks": {}}
        else:
            assert row["prevSeq"] == seq
        seq = row["seq"]
        for side, levels in sides.items():
            for price, size in row[side]:
                if size == "0":
                    levels.pop(price, None)
                else:
                    levels[price] = size
    return {
        "bids": [list(level) for level in sorted(sides["bids"].items(), key=lambda one: -Decimal(one[0]))],
        "asks": [list(level) for level in sorted(sides["asks"].items(), key=lambda one: Decimal(one[0]))],
        "seq": seq,
    }


async def book(place, symbol, **params):
    (row,) = (await place.get("/harbour/book", params={"symbol": symbol, **params})).body["data"]
    return {name: row[name] for name in ("bids", "asks", "seq")}


# --- listings


def test_names_and_steps():
    assert harbour_names(2) == ("BTC-USD", "ETH-USD")
    info = harbour_info("ETH-USD")
    assert (info.base, info.quote, plain(info.tick_e8), plain(info.step_e8)) == ("ETH", "USD", "0.05", "0.0001")
    assert [plain(value) for value in (0, 1, 10**8, 6_183_760_000_000)] == ["0", "0.00000001", "1", "61837.6"]
    with pytest.raises(InputError, match="BTC-USD"):
        harbour_info("BTCUSD")
    with pytest.raises(InputError, match="recording"):
        SandboxConfig(tape="x.gz", harbour_symbols=("BTC-USD",))


# --- the market by itself


def market(streams, faults=None):
    hub = Hub(ManualClock(START_NS), faults or Faults(), LimitConfig(), tell_clock=False)
    kept = []
    hub.publish = lambda *message: kept.append(message)
    made = HarbourMarket(SandboxConfig(start_ns=START_NS, history_hours=3, **HARBOUR), hub, ManualClock(START_NS))
    hub.attach(made.subscribed, set())
    hub.subscribe(Connection(1, None, combined=False, micro=False), streams)
    return made, hub, kept


def run(made, count):
    for number in range(made.events, made.events + count):
        made.step(START_NS + number * STEP_NS)


ALL = [f"BTC-USD@{channel}" for channel in CHANNELS]


def test_the_same_seed_is_the_same_bytes_and_who_listens_changes_nothing():
    (one, _, a), (two, _, b), (three, _, c) = market(ALL), market(ALL), market(ALL[:1])
    for made in (one, two, three):
        run(made, 3_000)
    assert a == b
    assert [message for message in a if message[0] == ALL[0]] == c


def test_many_trades_of_one_moment_are_several_messages():
    made, _, kept = market(["BTC-USD@trades"])
    for _ in range(2_000):
        made.step(START_NS)
    made.roll(START_NS + 50_000_000)
    sizes = [len(msgspec.json.decode(message[2])["data"]) for message in kept]
    assert len(sizes) > 2
    assert set(sizes[:-1]) == {BATCH}


def test_a_quiet_book_says_so():
    made, _, kept = market(["BTC-USD@book"])
    for ms in range(0, 3 * QUIET_MS + 1, 100):
        made.roll(START_NS + ms * 1_000_000)
    rows = [msgspec.json.decode(message[2])["data"][0] for message in kept]
    assert len(rows) == 3
    for row in rows:
        assert row["prevSeq"] == row["seq"] == made.book("BTC-USD", 1)["seq"]
        assert row["bids"] == row["asks"] == []


def test_a_clock_that_is_off_is_off_in_every_message():
    made, _, kept = market(ALL)
    run(made, 300)
    for _, _, message, _ in kept:
        rows, moved = (msgspec.json.decode(text)["data"] for text in (message, shift_times(message, 5_000)))
        assert [int(b["ts"]) - int(a["ts"]) for a, b in zip(rows, moved, strict=True)] == [5_000] * len(rows)


# --- the socket


async def test_each_channel_is_acknowledged_before_its_data(local):
    place = await local(rate=2_000.0, **HARBOUR)
    listener = await place.listen(WS)
    listener.send(request(*((channel, "BTC-USD") for channel in CHANNELS)))
    await listener.until(lambda: all(data(listener, channel) for channel in CHANNELS))
    said = listener.json()
    for channel in CHANNELS:
        arg = {"channel": channel, "symbol": "BTC-USD"}
        acknowledged = said.index({"event": "subscribe", "arg": arg})
        assert acknowledged < next(at for at, m in enumerate(said) if "event" not in m and m["arg"] == arg)
    quote = data(listener, "bbo")[0]["data"][0]
    assert list(quote) == ["bid", "bidSize", "ask", "askSize", "seq", "ts"]
    assert Decimal(quote["bid"]) < Decimal(quote["ask"])
    assert place.sandbox.status("harbour")["subscriptions"] == dict.fromkeys(ALL, 1)


async def test_trades_are_batches_of_consecutive_ids_and_rest_has_the_same(local):
    place = await local(rate=2_000.0, **HARBOUR)
    listener = await place.listen(WS)
    listener.send(request(("trades", "BTC-USD"), ("trades", "ETH-USD")))
    await listener.until(lambda: len(data(listener, symbol="BTC-USD")) > 5 and len(data(listener)) > 10)
    await place.post("/sandbox/pause", {})
    for symbol in HARBOUR["harbour_symbols"]:
        rows = [row for message in data(listener, symbol=symbol) for row in message["data"]]
        first, last = int(rows[0]["id"]), int(rows[-1]["id"])
        assert [row["id"] for row in rows] == [str(ident) for ident in range(first, last + 1)]
        shown = (await place.get("/harbour/trades", params={"symbol": symbol, "after": str(first - 3)})).body["data"]
        assert [row["id"] for row in shown[:3]] == [str(first - 2), str(first - 1), str(first)]
        assert shown[2:][: len(rows)] == rows[: len(shown) - 2]
        assert {row["side"] for row in rows} == {"buy", "sell"}
    assert max(len(message["data"]) for message in data(listener)) > 1


async def test_a_snapshot_and_its_updates_are_the_book_of_rest(local):
    place = await local(rate=2_000.0, **HARBOUR)
    first, second = await place.listen(WS), await place.listen(WS)
    first.send(request(("book", "BTC-USD")))
    await first.until(lambda: len(data(first)) > 5)
    second.send(request(("book", "BTC-USD")))
    await second.until(lambda: len(data(second)) > 5)
    first.send(request(("book", "BTC-USD")))  # asked for again: a snapshot anew, on which updates go on
    await first.until(lambda: [m["action"] for m in data(first)].count("snapshot") == 2 and len(data(first)) > 15)
    await place.post("/sandbox/pause", {})
    shown = await book(place, "BTC-USD")
    assert len(shown["bids"]) == len(shown["asks"]) == 50
    for listener in (first, second):
        await listener.until(lambda one=listener: data(one)[-1]["data"][0]["seq"] == shown["seq"])
        assert replayed(data(listener)) == shown
    top = await book(place, "BTC-USD", depth="3")
    assert top == {"bids": shown["bids"][:3], "asks": shown["asks"][:3], "seq": shown["seq"]}


async def test_best_prices_are_the_top_of_the_book_of_the_same_seq(local):
    place = await local(rate=2_000.0, **HARBOUR)
    listener = await place.listen(WS)
    listener.send(request(("bbo", "ETH-USD"), ("book", "ETH-USD")))
    await listener.until(lambda: len(data(listener, "book")) > 10)
    quotes = {row["seq"]: row for message in data(listener, "bbo") for row in message["data"]}
    books = data(listener, "book")
    compared = 0
    for count in range(1, len(books) + 1):
        made = replayed(books[:count])
        if made["seq"] in quotes:
            quote = quotes[made["seq"]]
            assert [made["bids"][0], made["asks"][0]] == [
                [quote["bid"], quote["bidSize"]],
                [quote["ask"], quote["askSize"]],
            ]
            compared += 1
    assert compared


async def test_a_market_that_is_over_has_told_everything(local):
    place = await local(rate=5_000.0, events=2_000, start_on=frozenset({"@none"}), **HARBOUR)
    listener = await place.listen(WS)
    listener.send(request(("book", "BTC-USD"), ("book", "ETH-USD"), ("trades", "BTC-USD")))
    await listener.until(lambda: len(events(listener)) == 3)
    place.sandbox.play()
    async with asyncio.timeout(20):
        await place.sandbox.finished()
    for symbol in HARBOUR["harbour_symbols"]:
        shown = await book(place, symbol)
        await listener.until(lambda s=symbol, b=shown: data(listener, "book", s)[-1]["data"][0]["seq"] == b["seq"])
        assert replayed(data(listener, "book", symbol)) == shown
    (last,) = (await place.get("/harbour/trades", params={"symbol": "BTC-USD", "limit": "1"})).body["data"]
    assert data(listener, "trades")[-1]["data"][-1] == last


async def test_a_market_that_stands_still_has_told_everything(local):
    place = await local(rate=2_000.0, **HARBOUR)
    listener = await place.listen(WS)
    listener.send(request(*((channel, "BTC-USD") for channel in CHANNELS)))

    def seq(channel):
        messages = data(listener, channel)
        return messages[-1]["data"][0]["seq"] if messages else 0

    # Right after an update nothing waits to be told; in the middle between two of them something does.
    await listener.until(lambda: seq("bbo") > seq("book") + 50)
    await place.post("/sandbox/pause", {})
    shown = await book(place, "BTC-USD")
    (last,) = (await place.get("/harbour/trades", params={"symbol": "BTC-USD", "limit": "1"})).body["data"]
    await listener.until(lambda: seq("book") == shown["seq"])
    assert replayed(data(listener, "book")) == shown
    assert data(listener, "trades")[-1]["data"][-1] == last


async def test_what_is_unsubscribed_is_silent(local):
    place = await local(rate=2_000.0, **HARBOUR)
    listener = await place.listen(WS)
    listener.send(request(("trades", "BTC-USD"), ("bbo", "BTC-USD")))
    await listener.until(lambda: len(data(listener, "trades")) > 2)
    listener.send(request(("trades", "BTC-USD"), ("book", "ETH-USD"), op="unsubscribe"))
    await listener.until(lambda: len(events(listener)) == 4)
    assert [event["event"] for event in events(listener)] == ["subscribe"] * 2 + ["unsubscribe"] * 2
    before = len(data(listener, "trades"))
    await listener.until(lambda: len(data(listener, "bbo")) > 100)
    assert len(data(listener, "trades")) == before
    assert place.sandbox.status("harbour")["subscriptions"] == {"BTC-USD@bbo": 1}


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"{nonsense", "2001"),
        ([], "2001"),
        ({"op": "subscribe"}, "2001"),
        ({"op": "subscribe", "args": []}, "2001"),
        ({"op": "subscribe", "args": [{"channel": "trades"}]}, "2001"),
        (request(("trades", "BTC-USD"), op="login"), "2002"),
        (request(("kline", "BTC-USD")), "2003"),
        (request(("trades", "BTCUSD")), "2004"),
    ],
)
async def test_wrong_requests_get_an_error_and_the_connection_lives(local, sent, code):
    place = await local(rate=1.0, **HARBOUR)
    listener = await place.listen(WS)
    listener.send(sent)
    await listener.until(lambda: bool(events(listener)))
    (error,) = events(listener)
    assert (error["event"], error["code"]) == ("error", code)
    assert error["msg"]
    assert ("arg" in error) == (code in ("2003", "2004"))
    listener.send(b"ping")
    await listener.until(lambda: listener.texts[-1] == b"pong")


async def test_of_several_channels_the_right_ones_are_subscribed(local):
    place = await local(rate=1.0, limits=LimitConfig(harbour_channels_per_connection=2), **HARBOUR)
    listener = await place.listen(WS)
    args = [("bbo", "BTC-USD"), ("bbo", "XXX-USD"), ("bbo", "BTC-USD"), ("bbo", "ETH-USD"), ("trades", "ETH-USD")]
    listener.send(request(*args))
    await listener.until(lambda: len(events(listener)) == 5)
    assert [event.get("code") for event in events(listener)] == [None, "2004", None, None, "2005"]
    assert place.sandbox.status("harbour")["subscriptions"] == {"BTC-USD@bbo": 1, "ETH-USD@bbo": 1}


async def test_who_says_nothing_for_thirty_seconds_is_cut(local):
    clock = ManualClock()
    place = await local(clock, rate=1.0, **HARBOUR)
    silent, talks = await place.listen(WS), await place.listen(WS)
    for count in (1, 2, 3):
        talks.send(b"ping")
        await talks.until(lambda n=count: talks.texts == [b"pong"] * n)
        if count == 1:
            silent.transport.send_ping(b"x")  # a control frame says nothing
            await silent.until(lambda: ("PONG", b"x") in silent.log)
        await clock.advance(20)
    await silent.until_gone()
    assert silent.close_code == 4004
    assert not talks.gone.is_set()


async def test_too_many_messages_and_connections(local):
    place = await local(rate=1.0, limits=LimitConfig(connections_per_5_minutes=1), **HARBOUR)
    listener = await place.listen(WS)
    with pytest.raises(picows.WSError):
        await place.listen(WS)
    for _ in range(6):
        listener.send(b"ping")
    await listener.until_gone()
    assert listener.close_code == 1008
    assert listener.texts == [b"pong"] * 5


# --- faults


async def test_dropped_updates_break_the_chain_and_a_new_snapshot_mends_it(local):
    place = await local(rate=2_000.0, **HARBOUR)
    listener = await place.listen(WS)
    listener.send(request(("book", "BTC-USD"), ("trades", "BTC-USD")))
    await listener.until(lambda: bool(data(listener, "trades")))
    place.sandbox.faults = Faults(drop=0.5, only=("@book",))
    ledger = place.sandbox.ledger
    await listener.until(lambda: ledger("harbour")["BTC-USD@book"]["dropped"] > 3)
    place.sandbox.faults = Faults()
    lost = set(ledger("harbour")["BTC-USD@book"]["dropped_ids"])
    before = len(data(listener, "book"))
    await listener.until(lambda: len(data(listener, "book")) > before)
    rows = [message["data"][0] for message in data(listener, "book")]
    broken = {b["prevSeq"] for a, b in itertools.pairwise(rows) if b["prevSeq"] != a["seq"]}
    assert broken
    assert broken <= lost
    assert ledger("harbour")["BTC-USD@trades"]["dropped"] == 0
    listener.send(request(("book", "BTC-USD")))
    await listener.until(lambda: [m["action"] for m in data(listener, "book")].count("snapshot") == 2)
    await place.post("/sandbox/pause", {})
    shown = await book(place, "BTC-USD")
    await listener.until(lambda: data(listener, "book")[-1]["data"][0]["seq"] == shown["seq"])
    books = data(listener, "book")
    anew = max(at for at, m in enumerate(books) if m["action"] == "snapshot")
    assert replayed(books[anew:]) == shown


async def test_connections_are_cut_and_the_hole_is_filled_over_rest(local):
    place = await local(rate=2_000.0, faults=Faults(disconnect_every=4), **HARBOUR)
    rows = []
    for _ in range(2):
        listener = await place.listen(WS)
        listener.send(request(("trades", "BTC-USD")))
        await listener.until_gone()
        assert len(data(listener)) == 4
        rows.append([row for message in data(listener) for row in message["data"]])
    hole = range(int(rows[0][-1]["id"]) + 1, int(rows[1][0]["id"]))
    params = {"symbol": "BTC-USD", "after": rows[0][-1]["id"], "limit": "500"}
    filled = (await place.get("/harbour/trades", params=params)).body["data"]
    assert [row["id"] for row in filled][: len(hole)] == [str(ident) for ident in hole]
    # A subscriber of another book, whose first message would be due, may be the one that is cut.
    for _ in range(2):
        listener = await place.listen(WS)
        listener.send(request(*((c, s) for c in CHANNELS for s in HARBOUR["harbour_symbols"])))
        await listener.until_gone()
    assert place.sandbox.status("harbour")["failure"] is None


async def test_silence_absence_and_shutdown(local):
    place = await local(rate=500.0, **HARBOUR)
    listener = await place.listen(WS)
    place.sandbox.faults = Faults(silence_s=-1)
    listener.send(request(("book", "BTC-USD")))
    async with asyncio.timeout(10):
        while place.sandbox.ledger("harbour").get("BTC-USD@book") is None:
            await place.get("/sandbox/status")
    listener.send(b"ping")
    assert (await place.get("/harbour/instruments")).status == 200
    assert listener.texts == []
    place.sandbox.faults = Faults()
    await listener.until(lambda: bool(data(listener)))
    assert place.sandbox.shutdown(60.0) == 1
    await listener.until(lambda: bool(events(listener)))
    assert (events(listener)[0]["event"], events(listener)[0]["code"]) == ("notice", "2010")
    place.sandbox.faults = Faults(away_s=-1)
    await listener.until_gone()
