"""Which symbols are meant: any spelling, patterns, what is listed anew and what is traded no more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidewire.errors import ConfigError, InputError, TerminalError
from tidewire.records.clock import SystemClock
from tidewire.records.instrument import InstrumentBook
from tidewire.sources.binance.listing import GONE_NS, Listing
from tidewire.sources.binance.markets import SPOT
from unit.collect.kit import until
from unit.sources.binance.test_app import requests, running, streams


@dataclass
class Hands(SystemClock):
    """A clock that stands where it is put."""

    now: int = 1

    def mono_ns(self) -> int:
        return self.now


def body(**status: str) -> bytes:
    """An instrument list."""
    symbols: list[dict[str, Any]] = []
    for symbol, said in status.items():
        quote = "USDT" if symbol.endswith("USDT") else "BTC"
        base = symbol.removesuffix(quote)
        symbols.append({"symbol": symbol, "status": said, "baseAsset": base, "quoteAsset": quote, "filters": []})
    return msgspec.json.encode({"symbols": symbols})


LISTED = {"BTCUSDT": "TRADING", "ETHUSDT": "HALT", "ETHBTC": "TRADING", "LUNAUSDT": "BREAK"}


def listing(clock: Hands | None = None, **status: str) -> Listing:
    made = Listing(SPOT, InstrumentBook(), clock or Hands())
    made.learn(body(**(status or LISTED)))
    return made


@pytest.mark.parametrize(
    ("spellings", "meant"),
    [
        (["*USDT"], ["BTCUSDT", "ETHUSDT"]),
        (["*-usdt"], ["BTCUSDT", "ETHUSDT"]),
        (["ETH*"], ["ETHUSDT", "ETHBTC"]),
        (["?TCUSDT"], ["BTCUSDT"]),
        (["*"], ["BTCUSDT", "ETHUSDT", "ETHBTC"]),
        (["eth/btc", "ETH*", "ETHBTC"], ["ETHBTC", "ETHUSDT"]),
        (["LUNAUSDT"], ["LUNAUSDT"]),  # it may come back, and whoever names it wants it
        ([], []),
    ],
)
def test_names_and_patterns(spellings: list[str], meant: list[str]) -> None:
    assert listing().resolve(spellings) == meant


@pytest.mark.parametrize("spelling", ["*USTD", "BTCUSTD", "?"])
def test_what_fits_nothing_is_an_error_at_first(spelling: str) -> None:
    found = listing()
    with pytest.raises(ConfigError, match=r"Did you mean 'BTCUSDT'|no symbol that Binance lists fits"):
        found.resolve([spelling])
    assert found.resolve([spelling], have=[]) == []


def test_what_is_listed_anew_fits_and_what_ended_goes_after_a_day() -> None:
    clock = Hands()
    found = listing(clock)
    have = found.resolve(["*USDT"])
    found.learn(body(**{**LISTED, "BTCUSDT": "BREAK", "SOLUSDT": "TRADING"}))
    have = found.resolve(["*USDT"], have)
    assert have == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]  # it may be maintenance
    assert not found.is_traded("BTC-USDT.BINANCE")
    assert found.is_traded("SOL-USDT.BINANCE")
    clock.now += GONE_NS
    assert found.resolve(["*USDT"], have) == ["ETHUSDT", "SOLUSDT"]
    assert found.resolve(["BTCUSDT"], have) == []
    found.learn(body(**LISTED))  # it is back
    assert found.resolve(["BTCUSDT", "*USDT"], have) == ["BTCUSDT", "ETHUSDT"]


def test_what_is_not_in_the_list_any_more_is_given_up() -> None:
    found = listing()
    have = found.resolve(["BTCUSDT", "ETH*"])
    found.learn(body(ETHBTC="TRADING"))
    assert found.resolve(["BTCUSDT", "ETH*"], have) == ["ETHBTC"]
    assert not found.is_traded("BTC-USDT.BINANCE")
    with pytest.raises(TerminalError, match="does not list BTC-USDT"):
        found.native_of("BTC-USDT.BINANCE")
    assert found.native_of("ETH-BTC.BINANCE") == "ETHBTC"


async def test_a_new_listing_is_collected_and_what_is_delisted_expected_no_more(tmp_path: Path) -> None:
    sections: dict[str, Any] = {
        "trade": {"symbols": ["*USDT"]},
        "kline": {"symbols": ["*USDT"], "intervals": ["1m"], "history": 5},
    }
    async with running(tmp_path, **sections) as (here, app, sandbox):
        await until(lambda: len(streams(here)) == 4, "both symbols")
        sandbox.change_listing(listed=["SOLUSDT"], delisted=["ETHUSDT"])
        await app.get("instrument").fetch()  # type: ignore[attr-defined]
        await until(lambda: {"solusdt@trade", "solusdt@kline_1m"} <= streams(here), "the new one")
        await until(lambda: any("klines?symbol=SOLUSDT" in one for one in requests(here)), "its history")
        assert {"collector": "trade", "listed": ["SOLUSDT"], "delisted": []} in here.said("collector.binance.listing")
        assert {expected.instrument for expected in app.expects()} == {"BTC-USDT.BINANCE", "SOL-USDT.BINANCE"}
        assert app.status()["feed"]["streams"] == [6]
        with pytest.raises(InputError, match="listed already"):
            sandbox.change_listing(listed=["SOLUSDT"])
        with pytest.raises(InputError, match="not traded here"):
            sandbox.change_listing(delisted=["ETHUSDT"])


async def test_a_ticker_of_a_symbol_that_is_not_in_the_list_brings_the_list(tmp_path: Path) -> None:
    async with running(tmp_path, ticker={"update_interval": "1s"}, trade={"symbols": ["*USDT"]}) as (here, _, sandbox):
        await until(lambda: "ticker/24hr" in requests(here), "tickers")
        sandbox.change_listing(listed=["SOLUSDT"])
        await until(lambda: "solusdt@trade" in streams(here), "its trades")
        await until(lambda: requests(here)[-1] == "ticker/24hr", "its ticker, after the list")
        assert requests(here).count("exchangeInfo") == 2
