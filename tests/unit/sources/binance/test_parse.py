"""Binance's frames to rows: every documented sample, and whatever else may come down the wire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.collect import Outcome
from tidewire.records.exact import build
from tidewire.records.instrument import uid
from tidewire.records.market import AggTrade, Instrument, Kline, Quote, Ticker, Trade
from tidewire.records.record import RecordType
from tidewire.sources.binance import BinanceParser
from tidewire.sources.binance.parse import LATE_MS
from unit.sources.binance.samples import (
    AGG_TRADE,
    AGG_TRADES,
    EXCHANGE_INFO,
    KLINE,
    KLINES,
    NAMES,
    QUOTE,
    REQUESTS,
    REST,
    START_NS,
    TICKER,
    TICKER_24H,
    TRADE,
    WS,
    changed,
    frame,
    frames,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)


def rows(outcome: Outcome) -> dict[str, list[dict[str, Any]]]:
    """What was parsed, built the way the assembler does."""
    found: dict[str, list[dict[str, Any]]] = {}
    for part in outcome.parsed:
        received = [one.wall_ns // 1_000 for one in part.frames]
        columns = {"ingested_at": received, **part.columns, "source": "binance"}
        columns["frame"] = [one.sequence for one in part.frames]
        columns["ordinal"] = list(part.ordinals or [0] * len(part.frames))
        built = build(part.type, columns, len(part.frames))
        assert not built.not_exact
        found.setdefault(part.type.name, []).extend(built.rows.to_dicts())
    return found


def parse(payload: bytes, request: str = WS) -> list[dict[str, Any]]:
    outcome = BinanceParser(NAMES).parse([frame(payload, request)])
    assert (outcome.unreadable, outcome.control) == ([], [])
    ((_, found),) = rows(outcome).items()
    return found


def at(millis: int) -> datetime:
    return EPOCH + millis * MS


def good(kind: RecordType, found: list[dict[str, Any]]) -> None:
    assert kind.check(pl.DataFrame(found, schema=kind.schema)).to_list() == [0] * len(found)


def shows(row: dict[str, Any], **expected: Any) -> None:
    assert {name: row[name] for name in expected} == expected


RECEIVED = EPOCH + timedelta(microseconds=(START_NS + 1_000_000) // 1_000)


def test_trade() -> None:
    (row,) = parse(TRADE)
    shows(
        row,
        instrument="BTC-USDT.BINANCE",
        trade_id="3735683259",
        sequence=3735683259,
        price=Decimal("61837.63"),
        size=Decimal("0.02"),
        side="sell",  # the buyer was the maker
        event_time=at(1723161255342),
        public_at=at(1723161255342),
        ingested_at=RECEIVED,
    )
    assert parse(changed(TRADE, m=False))[0]["side"] == "buy"
    good(Trade.type, [row])


def test_aggregated_trades_say_the_same_streamed_and_asked_for() -> None:
    (streamed,) = parse(AGG_TRADE)
    shows(
        streamed,
        instrument="BNB-BTC.BINANCE",
        sequence=12345,
        price=Decimal("0.001"),
        size=Decimal(100),
        side="sell",
        first_trade=100,
        last_trade=105,
        event_time=at(1672515782135),
        public_at=at(1672515782135),
    )
    asked, bare = parse(AGG_TRADES, REQUESTS[AGG_TRADES])
    places = {"ingested_at", "frame", "ordinal"}
    assert {name: asked[name] for name in asked.keys() - places} == {
        name: streamed[name] for name in streamed.keys() - places
    }
    shows(bare, sequence=12346, side="buy", first_trade=None, last_trade=None, ordinal=1)
    good(AggTrade.type, [streamed, asked, bare])
    (live,), (past,) = (
        BinanceParser(NAMES).parse([frame(payload, REQUESTS[payload])]).parsed for payload in (AGG_TRADE, AGG_TRADES)
    )
    assert past.past, "says nothing about the clock"
    assert not live.past


def test_quote() -> None:
    (row,) = parse(QUOTE)
    shows(
        row,
        instrument="NKN-USDT.BINANCE",
        sequence=499869768,
        bid_price=Decimal("0.3521"),
        bid_size=Decimal(672),
        ask_price=Decimal("0.3526"),
        ask_size=Decimal(3199),
        event_time=RECEIVED,
        public_at=RECEIVED,
    )
    good(Quote.type, [row])


def test_an_empty_side_of_the_book_is_null_not_zero() -> None:
    (row,) = parse(changed(QUOTE, b="0.00000000", B="0.00000000"))
    shows(row, bid_price=None, bid_size=Decimal(0), ask_price=Decimal("0.3526"))


@pytest.mark.parametrize("final", [False, True])
def test_kline(final: bool) -> None:
    (row,) = parse(changed(KLINE, x=final))
    shows(
        row,
        instrument="NKN-USDT.BINANCE",
        interval="1m",
        open_time=at(1633998480000),
        close_time=at(1633998540000),
        event_time=at(1633998480000),
        public_at=at(1633998540000 if final else 1633998523963),
        open=Decimal("0.3527"),
        high=Decimal("0.3528"),
        low=Decimal("0.3522"),
        close=Decimal("0.3528"),
        volume=Decimal(25877),
        amount=Decimal("9116.046"),
        trades=30,
        buy_volume=Decimal(58),
        buy_amount=Decimal("20.46"),
        final=final,
    )
    good(Kline.type, [row])


def test_ticker() -> None:
    (row,) = parse(TICKER)
    shows(
        row,
        instrument="BNB-BTC.BINANCE",
        event_time=at(1672515782136),
        last=Decimal("0.0025"),
        open=Decimal("0.001"),
        high=Decimal("0.0025"),
        low=Decimal("0.001"),
        volume=Decimal(10000),
        amount=Decimal(18),
        trades=18151,
        bid_price=Decimal("0.0024"),
        ask_price=Decimal("0.0026"),
        change_ratio=2.5,
        pre_close=None,
    )
    good(Ticker.type, [row])


def test_zero_prices_of_a_ticker_are_null() -> None:
    zeros = dict.fromkeys("cohlba", "0.00000000")
    (row,) = parse(changed(TICKER, **zeros, v="0.00000000"))
    shows(row, last=None, open=None, high=None, low=None, bid_price=None, ask_price=None, volume=Decimal(0))


def test_rest_klines() -> None:
    first, last = parse(KLINES, REQUESTS[KLINES])
    shows(
        first,
        instrument="ETH-BTC.BINANCE",
        interval="1w",
        open_time=at(1499040000000),
        close_time=at(1499644800000),
        public_at=at(1499644800000),
        open=Decimal("0.01634790"),
        high=Decimal("0.8"),
        low=Decimal("0.015758"),
        close=Decimal("0.015771"),
        volume=Decimal("148976.11427815"),
        amount=Decimal("2434.19055334"),
        trades=308,
        buy_volume=Decimal("1756.87402397"),
        buy_amount=Decimal("28.46694368"),
        final=True,
        ordinal=0,
    )
    # Nothing says whether the last one is over, so it is not.
    shows(last, final=False, public_at=RECEIVED, ordinal=1)
    good(Kline.type, [first, last])


@pytest.mark.parametrize(
    ("limit", "more", "late_ms", "final"),
    [
        (3, "", LATE_MS, True),
        (3, "", LATE_MS - 1, False),
        (2, "", LATE_MS, False),
        (3, "&endTime=1500249600000", LATE_MS, False),
    ],
)
def test_the_last_bar_of_a_reply_is_final_when_it_is_old_and_nothing_follows(
    limit: int, more: str, late_ms: int, final: bool
) -> None:
    request = f"{REST}klines?symbol=ETHBTC&interval=1w&limit={limit}{more}"
    received_ns = (1500249599999 + late_ms) * 1_000_000
    reply = msgspec.structs.replace(frame(KLINES, request), wall_ns=received_ns)
    first, last = rows(BinanceParser(NAMES).parse([reply]))["kline"]
    assert (first["final"], last["final"]) == (True, final)
    assert (last["public_at"] == last["close_time"]) == final


def test_rest_ticker_alone_and_listed() -> None:
    (alone,) = parse(TICKER_24H, REQUESTS[TICKER_24H])
    shows(
        alone,
        instrument="BNB-BTC.BINANCE",
        event_time=at(1499869899040),
        last=Decimal("4.000002"),
        open=Decimal(99),
        high=Decimal(100),
        low=Decimal("0.1"),
        volume=Decimal("8913.3"),
        amount=Decimal("15.3"),
        trades=76,
        bid_price=Decimal(4),
        ask_price=Decimal("4.000002"),
    )
    assert alone["change_ratio"] == pytest.approx(-0.9596)
    listed = parse(b"[" + TICKER_24H + b"," + TICKER_24H.replace(b"BNBBTC", b"ETHBTC") + b"]", REST + "ticker/24hr")
    assert [(row["instrument"], row["ordinal"]) for row in listed] == [("BNB-BTC.BINANCE", 0), ("ETH-BTC.BINANCE", 1)]
    assert listed[0] == alone
    good(Ticker.type, listed)


def test_exchange_info() -> None:
    first, second = parse(EXCHANGE_INFO, REQUESTS[EXCHANGE_INFO])
    shows(
        first,
        instrument="ETH-BTC.BINANCE",
        uid=uid("BINANCE", "ETHBTC"),
        native="ETHBTC",
        kind="spot",
        base="ETH",
        quote="BTC",
        status="trading",
        price_step=Decimal("0.000001"),
        size_step=Decimal("0.0001"),
        event_time=RECEIVED,
    )
    shows(second, status="cancel_only", price_step=None, size_step=None, ordinal=1)
    good(Instrument.type, [first, second])


def test_a_percentage_that_is_no_number_does_not_become_null() -> None:
    outcome = BinanceParser(NAMES).parse([frame(changed(TICKER, P="n/a"))])
    (part,) = outcome.parsed
    columns = {"ingested_at": [1], **part.columns, "source": "binance", "frame": [1], "ordinal": [0]}
    built = build(part.type, columns, 1)
    assert built.not_exact or Ticker.type.check(built.rows)[0] > 0


def test_an_instrument_list_holds_for_the_frames_after_it() -> None:
    trade = TRADE.replace(b"BTCUSDT", b"ETHBTC").replace(b"btcusdt", b"ethbtc")
    parser = BinanceParser()
    outcome = parser.parse(frames([(trade, WS), (EXCHANGE_INFO, REST + "exchangeInfo"), (trade, WS)]))
    before, after = rows(outcome)["trade"]
    assert (before["instrument"], after["instrument"]) == (None, "ETH-BTC.BINANCE")
    # The next call goes on knowing it.
    assert rows(parser.parse([frame(trade)]))["trade"][0]["instrument"] == "ETH-BTC.BINANCE"


def test_an_unknown_symbol_has_no_instrument_and_fails_its_rule() -> None:
    (row,) = parse(TRADE.replace(b"BTCUSDT", b"NEWUSDT"))
    assert row["instrument"] is None
    table = pl.DataFrame([row], schema=Trade.type.schema)
    assert Trade.type.reasons(table) == [["instrument|nullability"]]


@pytest.mark.parametrize("payload", [b'{"result":null,"id":1}', b'{"id":7,"result":["btcusdt@trade"]}'])
def test_replies_to_subscriptions_are_chatter(payload: bytes) -> None:
    outcome = BinanceParser(NAMES).parse([frame(payload)])
    assert (len(outcome.control), outcome.parsed, outcome.unreadable) == (1, [], [])


@pytest.mark.parametrize(
    ("payload", "request_"),
    [
        (b"", WS),
        (b"{", WS),
        (b"not json", WS),
        (b'{"code":2,"msg":"Invalid request"}', WS),
        (b'{"stream":"btcusdt@depth","data":{}}', WS),
        (b'{"stream":"btcusdt@trade","data":null}', WS),
        (b'{"stream":"btcusdt@trade"}', WS),
        (TRADE[:-1], WS),
        (TRADE + b"}", WS),
        (TRADE.replace(b"3735683259", b'"x"'), WS),
        (TRADE.replace(b"3735683259", b"9" * 40), WS),
        (TRADE.replace(b"3735683259", b"18446744073709551615"), WS),
        (TRADE.replace(b'"BTCUSDT"', b'"\xff\xfe"'), WS),
        (b'{"stream":"btcusdt@trade","data":{"x":' + b"[" * 100_000, WS),
        (b'{"code":-1121,"msg":"Invalid symbol."}', REST + "klines?symbol=X"),
        (b'{"symbols":[{"symbol":"A"}]}', REST + "exchangeInfo"),
        (b"[[1]]", REST + "klines?symbol=ETHBTC&interval=1m"),
        (changed(TICKER, E=10**30), WS),
        (b"<html>", REST + "ticker/24hr"),
        (b"{}", REST + "depth"),
    ],
)
def test_what_cannot_be_read_is_given_back_with_a_reason(payload: bytes, request_: str) -> None:
    around = [frame(TRADE, WS, 1), frame(payload, request_, 2), frame(changed(TRADE, t=3735683260), WS, 3)]
    outcome = BinanceParser(NAMES).parse(around)
    ((bad, why),) = outcome.unreadable
    assert bad.sequence == 2
    assert why
    assert [row["frame"] for row in rows(outcome)["trade"]] == [1, 3]


SAMPLES = list(REQUESTS)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, str]:
    """A sample with some bytes changed, cut out or put in."""
    payload = bytearray(draw(st.sampled_from(SAMPLES)))
    request = REQUESTS[bytes(payload)]
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(payload)))
        end = min(len(payload), begin + draw(st.integers(0, 12)))
        payload[begin:end] = draw(
            st.binary(max_size=6) | st.sampled_from([b'"', b"0", b"-", b"9" * 22, b"null", b"\xff"])
        )
    return bytes(payload), request


@st.composite
def other(draw: st.DrawFn) -> tuple[bytes, str]:
    """Any JSON, or a sample with one value replaced by any JSON."""
    request = draw(st.sampled_from([*REQUESTS.values(), REST + "depth", "", "GET ::"]))
    whole: Any = draw(JSON)
    if draw(st.booleans()):
        sample = draw(st.sampled_from(SAMPLES))
        whole, request = msgspec.json.decode(sample), REQUESTS[sample]
        inside = whole
        while isinstance(inside, (dict, list)) and inside:
            key = draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else list(range(len(inside)))))
            if not isinstance(inside[key], (dict, list)) or draw(st.booleans()):
                inside[key] = draw(JSON)
                break
            inside = inside[key]
    return msgspec.json.encode(whole), request


@settings(max_examples=400, deadline=None)
@given(st.lists(damaged() | other(), min_size=1, max_size=4))
def test_whatever_comes_nothing_is_raised_and_nothing_lost(listed: list[tuple[bytes, str]]) -> None:
    coming = frames(listed)
    outcome = BinanceParser(NAMES).parse(coming)
    told = {one.sequence for one in [*outcome.control, *outcome.folded]} | {
        one.sequence for one, _ in outcome.unreadable
    }
    for part in outcome.parsed:
        columns = {**part.columns, "source": "binance"}
        build(part.type, columns, len(part.frames))
        told |= {one.sequence for one in part.frames}
    empty = {
        one.sequence
        for one in coming
        if msgspec.json.encode([]) == one.payload.strip() or b'"symbols":[]' in one.payload
    }
    assert told | empty == {one.sequence for one in coming}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(SAMPLES), min_size=1, max_size=12), st.data())
def test_cutting_the_frames_differently_gives_the_same_rows(payloads: list[bytes], data: st.DataObject) -> None:
    coming = frames([(payload, REQUESTS[payload]) for payload in payloads])
    whole = rows(BinanceParser().parse(coming))
    parser, pieces = BinanceParser(), Outcome()
    begin = 0
    while begin < len(coming):
        end = data.draw(st.integers(begin + 1, len(coming)))
        pieces.add(parser.parse(coming[begin:end]))
        begin = end
    cut = rows(pieces)
    place = lambda row: (row["frame"], row["ordinal"])  # noqa: E731
    assert {name: sorted(found, key=place) for name, found in cut.items()} == {
        name: sorted(found, key=place) for name, found in whole.items()
    }


@pytest.mark.parametrize(
    ("payload", "request_"),
    [
        (b"[]", "GET https://api.binance.com/api/v3/klines?symbol=BTCUSDT&interval=1m"),
        (b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}', WS),
        (b'{"e":"serverShutdown","E":1770123456789}', WS),
        (b'{"result":null,"id":1}', WS),
    ],
)
def test_what_brings_no_rows_is_control(payload: bytes, request_: str) -> None:
    outcome = BinanceParser(NAMES).parse([frame(payload, request_)])
    assert (len(outcome.control), outcome.unreadable) == (1, [])
    assert not any(part.frames for part in outcome.parsed)


@pytest.mark.parametrize(("percent", "ratio"), [("68.52", 0.6852), ("-2.348", -0.02348), ("0.000", 0.0), ("250", 2.5)])
def test_percentages_become_the_nearest_ratio(percent: str, ratio: float) -> None:
    (row,) = parse(changed(TICKER, P=percent))
    assert row["change_ratio"] == ratio


def test_a_percentage_of_rest_becomes_the_same_ratio() -> None:
    (entry,) = msgspec.json.decode(TICKER_24H) if TICKER_24H.startswith(b"[") else [msgspec.json.decode(TICKER_24H)]
    entry["priceChangePercent"] = "68.52"
    (row,) = parse(msgspec.json.encode([entry]), REQUESTS[TICKER_24H])
    assert row["change_ratio"] == 0.6852
