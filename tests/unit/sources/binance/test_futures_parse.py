"""Binance's futures to rows: the documented samples word by word, and a recording against an independent parse."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tidewire.journal import Frame
from tidewire.records.exact import build
from tidewire.records.market import FundingRate, Liquidation, MarkPrice, OpenInterest, Quote, Trade
from tidewire.records.record import RecordType
from tidewire.sources.binance import BinanceParser
from tidewire.sources.binance.markets import COINM, USDM, kind_of
from tidewire.sources.binance.parse_futures import COINM_FORMS, USDM_FORMS
from unit.sources.binance.samples import frame

RECORDING = Path(__file__).parents[5] / "shared" / "data" / "crypto" / "binance-usdm-ethusdt-20240808.gz"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WS = "wss://fstream.binance.com/market/stream#1"
REST = "GET https://fapi.binance.com/fapi/v1/"
NAMES = {name: f"{name[:3]}-USDT-SWAP.BINANCEUSDM" for name in ("BTCUSDT", "ETHUSDT")}

QUOTE = (
    b'{"stream":"btcusdt@bookTicker","data":{"e":"bookTicker","u":5123107839020,"s":"BTCUSDT","b":"61800.20",'
    b'"B":"2.507","a":"61800.30","A":"2.510","T":1723161256313,"E":1723161256313}}'
)
TRADE = (
    b'{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161256314,"T":1723161256313,"s":"BTCUSDT",'
    b'"t":7967419777,"p":"64042.10","q":"0.038","X":"MARKET","m":true,"st":1}}'
)
MARK = (
    b'{"stream":"btcusdt@markPrice@1s","data":{"e":"markPriceUpdate","E":1562305380000,"s":"BTCUSDT",'
    b'"p":"11794.15","i":"11784.62659091","P":"11784.25641265","r":"0.00038167","T":1562306400000,"st":1}}'
)
LIQUIDATION = (
    b'{"stream":"btcusdt@forceOrder","data":{"e":"forceOrder","E":1568014460893,"o":{"s":"BTCUSDT","S":"SELL",'
    b'"q":"0.014","p":"9910","ap":"9910","X":"FILLED","l":"0.014","z":"0.014","T":1568014460890}}}'
)
PREMIUM = (
    b'{"symbol":"BTCUSDT","markPrice":"11793.63104562","indexPrice":"11781.80495970",'
    b'"estimatedSettlePrice":"11781.16138815","lastFundingRate":"0.00038246","nextFundingTime":1597392000000,'
    b'"interestRate":"0.00010000","time":1597370495002}'
)


def rows(payload: bytes, request: str = WS, forms: Any = USDM_FORMS) -> list[dict[str, Any]]:
    outcome = BinanceParser(NAMES, USDM, forms).parse([frame(payload, request)])
    assert (outcome.unreadable, outcome.control) == ([], [])
    (part,) = outcome.parsed
    return built(part).to_dicts()


def built(part: Any) -> pl.DataFrame:
    frames: list[Frame] = list(part.frames)
    columns = {"ingested_at": [one.wall_ns // 1_000 for one in frames], **part.columns, "source": "binanceusdm"}
    columns |= {"frame": [one.sequence for one in frames], "ordinal": list(part.ordinals or [0] * len(frames))}
    found = build(part.type, columns, len(frames))
    assert not found.not_exact
    return found.rows


def at(millis: int) -> datetime:
    return EPOCH + timedelta(milliseconds=millis)


def shows(kind: RecordType, row: dict[str, Any], **expected: Any) -> None:
    assert {name: row[name] for name in expected} == expected
    assert kind.check(pl.DataFrame([row], schema=kind.schema)).to_list() == [0]


def test_a_quote_has_the_time_of_the_venue() -> None:
    (row,) = rows(QUOTE)
    shows(Quote.type, row, instrument=NAMES["BTCUSDT"], sequence=5123107839020, event_time=at(1723161256313))
    shows(Quote.type, row, bid_price=Decimal("61800.2"), bid_size=Decimal("2.507"), ask_size=Decimal("2.51"))


@pytest.mark.parametrize(
    ("said", "shown"), [("MARKET", None), ("INSURANCE_FUND", "insurance_fund"), ("ADL", "adl"), ("NA", "na")]
)
def test_a_trade_says_when_it_did_not_come_from_the_book(said: str, shown: str | None) -> None:
    (row,) = rows(TRADE.replace(b"MARKET", said.encode()))
    shows(Trade.type, row, sequence=7967419777, price=Decimal("64042.1"), size=Decimal("0.038"), side="sell")
    shows(Trade.type, row, off_book=shown, event_time=at(1723161256313))


def test_a_number_that_stands_for_no_trade_is_kept_without_a_price() -> None:
    nothing = TRADE.replace(b'"p":"64042.10","q":"0.038","X":"MARKET"', b'"p":"0","q":"0","X":"NA"')
    (row,) = rows(nothing)
    shows(Trade.type, row, sequence=7967419777, price=None, size=None, off_book="na")
    (row,) = rows(nothing.replace(b'"NA"', b'"SOMETHING"'))
    assert "off_book|check__known" in Trade.type.reasons(pl.DataFrame([row], schema=Trade.type.schema))[0]


def test_a_trade_of_the_book_without_a_price_is_none() -> None:
    (row,) = rows(TRADE.replace(b'"p":"64042.10"', b'"p":"0"'))
    assert Trade.type.check(pl.DataFrame([row], schema=Trade.type.schema))[0] > 0


def test_a_mark_price() -> None:
    (row,) = rows(MARK)
    shows(MarkPrice.type, row, mark_price=Decimal("11794.15"), index_price=Decimal("11784.62659091"))
    shows(MarkPrice.type, row, settle_price=Decimal("11784.25641265"), funding_rate=0.00038167)
    shows(MarkPrice.type, row, event_time=at(1562305380000), next_funding_time=at(1562306400000))
    (row,) = rows(MARK.replace(b'"0.00038167","T":1562306400000', b'"","T":0'))
    shows(MarkPrice.type, row, funding_rate=None, next_funding_time=None)
    (row,) = rows(PREMIUM, REST + "premiumIndex?symbol=BTCUSDT")
    shows(MarkPrice.type, row, mark_price=Decimal("11793.63104562"), event_time=at(1597370495002))


def test_a_liquidation() -> None:
    (row,) = rows(LIQUIDATION)
    shows(Liquidation.type, row, side="sell", price=Decimal(9910), average_price=Decimal(9910), status="filled")
    shows(Liquidation.type, row, size=Decimal("0.014"), filled=Decimal("0.014"), event_time=at(1568014460890))
    assert rows(LIQUIDATION.replace(b"btcusdt@forceOrder", b"!forceOrder@arr")) == [row]


def test_open_interest() -> None:
    (row,) = rows(b'{"openInterest":"10659.509","symbol":"BTCUSDT","time":1589437530011}', REST + "openInterest")
    shows(OpenInterest.type, row, contracts=Decimal("10659.509"), value=None, event_time=at(1589437530011))


def funding(*hours: int) -> bytes:
    return json.dumps(
        [
            {"symbol": "BTCUSDT", "fundingRate": "-0.03750000", "fundingTime": 1570608000000 + hour * 3_600_000}
            for hour in hours
        ]
    ).encode()


def test_funding_has_the_interval_that_its_neighbour_shows() -> None:
    found = rows(funding(0, 8, 12, 13), REST + "fundingRate?symbol=BTCUSDT&startTime=1570608000000")
    assert [row["interval_hours"] for row in found] == [8, 4, 1]
    shows(FundingRate.type, found[0], rate=-0.0375, settled=True, mark_price=None, ordinal=1)
    first = rows(funding(48, 56), REST + "fundingRate?symbol=BTCUSDT&startTime=1570608000000")
    assert [row["interval_hours"] for row in first] == [None, 8], "a contract's first has no neighbour"


@pytest.mark.parametrize(
    ("payload", "endpoint"),
    [
        (funding(0), "fundingRate?symbol=BTCUSDT&startTime=1570608000000"),
        (b'[{"symbol":"BLZUSDT","fundingIntervalHours":4,"disclaimer":false}]', "fundingInfo"),
    ],
)
def test_what_brings_no_rows_is_control(payload: bytes, endpoint: str) -> None:
    outcome = BinanceParser(NAMES, USDM, USDM_FORMS).parse([frame(payload, REST + endpoint)])
    assert (len(outcome.control), outcome.parsed, outcome.unreadable) == (1, [], [])


def test_contracts_have_their_kind_and_size() -> None:
    perpetual = {"symbol": "BTCUSD_PERP", "contractStatus": "TRADING", "baseAsset": "BTC", "quoteAsset": "USD"}
    future = {**perpetual, "symbol": "BTCUSD_261225", "contractStatus": "PRE_DELIVERING"}
    info = json.dumps({"symbols": [{**one, "contractSize": 100} for one in (perpetual, future)]}).encode()
    outcome = BinanceParser(None, COINM, COINM_FORMS).parse(
        [frame(info, "GET https://dapi.binance.com/dapi/v1/exchangeInfo")]
    )
    first, second = built(outcome.parsed[0]).to_dicts()
    assert (first["instrument"], first["kind"]) == ("BTC-USD-SWAP.BINANCECOINM", "perpetual")
    assert (second["instrument"], second["kind"]) == ("BTC-USD-20261225.BINANCECOINM", "future")
    assert (first["contract_size"], second["status"]) == (Decimal(100), "halted")


def test_streams_are_where_the_market_serves_them() -> None:
    assert [kind_of(name) for name in ("a@kline_1m", "a@markPrice@1s", "!forceOrder@arr", "a@depth20@100ms")] == [
        "kline", "markPrice", "forceOrder", "depth",
    ]  # fmt: skip
    assert USDM.path_of("btcusdt@bookTicker") == "/public/stream"
    assert USDM.path_of("btcusdt@trade") == "/public/stream"
    assert USDM.path_of("btcusdt@aggTrade") == "/market/stream"
    assert COINM.path_of("btcusd_perp@bookTicker") == "/stream"


def test_the_recording_is_parsed_exactly() -> None:
    if not RECORDING.is_file():
        pytest.skip(f"no recording at {RECORDING}")
    with gzip.open(RECORDING, "rb") as lines:
        payloads = [line.split(b" ", 1)[1].strip() for line in lines]
    for ending, count in (("@bookTicker", 53_992), ("@trade", 14_076)):
        mine = [payload for payload in payloads if payload.startswith(b'{"stream":"ethusdt' + ending.encode() + b'"')]
        outcome = BinanceParser(NAMES, USDM, USDM_FORMS).parse([frame(one, WS, n) for n, one in enumerate(mine, 1)])
        (part,) = outcome.parsed
        table = built(part)
        assert table.height == count == len(mine)
        assert part.type.check(table).sum() == 0
        data = [json.loads(payload)["data"] for payload in mine]
        names = {"price": "p", "size": "q"} if ending == "@trade" else {"bid_price": "b", "ask_size": "A"}
        for column, field in names.items():
            assert table[column].to_list() == [Decimal(one[field]) for one in data]
        assert table["event_time"].to_list() == [at(one["T"]) for one in data]
        assert table["sequence"].to_list() == [one["t" if ending == "@trade" else "u"] for one in data]
