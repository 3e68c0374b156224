"""Names of channels and what a client may write for them."""

from __future__ import annotations

import pytest

from tidewire.errors import AmbiguousInstrument, TidewireError
from tidewire.records import market, ops
from tidewire.records.subject import matches
from tidewire.serve.channels import channels_of, pattern_of
from unit.serve.harness import BTC, ETH, kline, resolve, rows_of, trades


def test_channels_of_rows() -> None:
    assert channels_of(market.Trade.type, trades(1)) == [f"trade.{BTC}"]
    bars = rows_of(market.Kline.type, [kline(0, final=True, instrument=ETH, interval="1h")])
    assert channels_of(market.Kline.type, bars) == [f"kline.1h.{ETH}"]
    bad = rows_of(
        ops.Quarantined.type, [{"journal": "j1", "record_type": "trade", "row": 0, "reasons": "{}", "state": "open"}]
    )
    assert channels_of(ops.Quarantined.type, bad) == ["quarantined.binance"]


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        (f"trade.{BTC}", f"trade.{BTC}"),
        ("trades.BTCUSDT", f"trade.{BTC}"),
        ("trade.BTCUSDT.BINANCE", f"trade.{BTC}"),
        ("quotes.600000.SH", "quote.600000.SH"),
        ("quotes.>", "quote.>"),
        ("kline.1m.*.BINANCE", "kline.1m.*.BINANCE"),
        ("klines.1m.ETHUSDT", f"kline.1m.{ETH}"),
        ("kline.>", "kline.>"),
        ("kline.*.>", "kline.*.>"),
        ("kline.*.*.BINANCE", "kline.*.*.BINANCE"),
        ("ticker.*.BINANCE", "ticker.*.BINANCE"),
        ("quarantine.*", "quarantined.*"),
        ("quarantined.binance", "quarantined.binance"),
        ("gaps.>", "gap.>"),
        (">", ">"),
        (f"*.{BTC}", f"*.{BTC}"),
    ],
)
def test_patterns(text: str, pattern: str) -> None:
    assert pattern_of(text, resolve) == pattern


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("trad.>", "Did you mean 'trade'?"),
        ("trade", "trade.<SYMBOL>.<VENUE>"),
        ("trade.*", "would match nothing"),
        ("trade.*.*.*", "would match nothing"),
        ("trade.BTC*.BINANCE", "not usable"),
        ("kline.BTC-USDT.BINANCE", "valid intervals"),
        ("kline.5x.>", "is not an interval"),
        ("kline.1m", "would match nothing"),
        ("trade.>.x", "not usable"),
        ("trade.nope", "Did you mean 'BTCUSDT'?"),
        ("", "not usable"),
        ("nope", "No record type"),
        ("*.", "not usable"),
    ],
)
def test_what_could_never_match_is_refused(text: str, says: str) -> None:
    with pytest.raises(TidewireError, match=says):
        pattern_of(text, resolve)


def test_ambiguity_is_refused() -> None:
    with pytest.raises(AmbiguousInstrument):
        pattern_of("trade.000001", resolve)


def test_what_a_reader_expects() -> None:
    assert matches(pattern_of("kline.1m.*.BINANCE", resolve), f"kline.1m.{BTC}")
    assert not matches(pattern_of("kline.1m.*.BINANCE", resolve), f"kline.5m.{BTC}")
    assert matches(pattern_of("quote.>", resolve), f"quote.{BTC}")
    assert matches(pattern_of(f"*.{BTC}", resolve), f"kline.1m.{BTC}")
