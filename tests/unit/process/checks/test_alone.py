"""Checks that look at rows alone: for each a row that passes, one that fails, one at the edge."""

from __future__ import annotations

from typing import Any

import pytest

from tidewire.process.checks import read_checks
from unit.process.checks.market import KLINE, TICKER, bar, flagged, process, rejected, ticker

NULLS: dict[str, Any] = dict.fromkeys(("last", "open", "high", "low", "volume", "amount"))

CLEAN = [
    ticker(),
    ticker(**NULLS),  # suspended
    ticker(last=None, open=None, high=None, low=None, volume="0", amount="0"),
    ticker(last="10.00", open=None, high=None, low=None, volume="0", amount="0"),  # not traded yet
    ticker(pre_close=None),
    ticker("000300.SH", volume="1000000", amount="99000000000"),  # an index: no price follows
    ticker("510300.SH", last="4.101", open="4.099", high="4.125", low="4.099", pre_close="4.099", amount="4110000"),
    ticker("900901.SH", last="0.455", open="0.450", high="0.460", low="0.450", pre_close="0.452", amount="455000"),
    ticker("113001.SH", volume="10000", amount="10000000", last="101.234", high="102.5", low="101.0", open="101.111"),
    ticker("830001.BJ", last="12.99", high="12.99", pre_close="10.00", amount="11500000"),
    ticker("688001.SH", volume="201", amount="2030.1"),
    ticker(when="2026-01-06 09:20:00", last="10.30", open=None, high=None, low=None, volume="0", amount="0"),  # auction
]


@pytest.mark.parametrize("spec", CLEAN)
def test_what_is_in_order_gives_no_finding(spec: dict[str, Any]) -> None:
    assert (rejected(TICKER, [spec]), flagged(TICKER, [spec])) == ({}, {})


@pytest.mark.parametrize(
    ("rule", "spec"),
    [
        ("range", ticker(last="10.21")),
        ("range", ticker(open="9.89")),
        ("scale", ticker(pre_close="0.15")),
        ("scale", ticker(last="1010", open="1000", high="1020", low="990", amount="1005000000")),
        ("unit", ticker(volume="10000")),  # lots
        ("unit", ticker(amount="1005.00")),  # ten thousand yuan
        ("unit", ticker("688001.SH", volume="100000000")),  # shares taken for lots
        ("unit", ticker("510300.SH", volume="10000")),
        ("unit", ticker("830001.BJ", volume="10000")),
    ],
)
def test_what_cannot_be_is_not_stored(rule: str, spec: dict[str, Any]) -> None:
    (made,) = process(TICKER, [spec, ticker(frame=2)])
    assert rejected(TICKER, [spec]) == {rule: 1}
    assert made.rows["frame"].to_list() == [2]
    assert made.findings is not None
    assert made.findings.select("rule", "severity").rows() == [(rule, "reject")]


@pytest.mark.parametrize(
    ("rule", "spec"),
    [
        ("vwap", ticker(amount="10500000")),  # 10.5, above the high
        ("vwap", ticker(amount="9700000")),
        ("zero_volume", ticker(volume="0", amount="0")),
        ("zero_volume", ticker(volume="0", last="10.00")),
        ("tick", ticker(last="10.105")),
        ("tick", ticker("510300.SH", last="10.1005")),
        ("crossed", ticker(bid_price="10.10", ask_price="10.10")),
    ],
)
def test_what_is_odd_is_stored_and_flagged(rule: str, spec: dict[str, Any]) -> None:
    (made,) = process(TICKER, [spec])
    assert made.rows.height == 1
    assert flagged(TICKER, [spec]) == {rule: 1}


@pytest.mark.parametrize(
    "spec",
    [
        ticker(amount="10230000"),  # 0.3 % above the high: rounding
        ticker(amount="90000", volume="8500"),  # too little to tell
        ticker(last="10.20"),
        ticker(last="9.90"),
        ticker(bid_price="10.10", ask_price="10.10", when="2026-01-06 14:58:00"),  # closing auction
        ticker(bid_price="10.10", ask_price=None),  # limit up
        ticker(pre_close="0.21", last="10.10"),  # a first day
    ],
)
def test_at_the_edge(spec: dict[str, Any]) -> None:
    assert (rejected(TICKER, [spec]), flagged(TICKER, [spec])) == ({}, {})


def test_one_row_of_a_frame_off_by_a_hundred_is_flagged_and_most_are_rejected() -> None:
    frame = [ticker(f"60000{n}.SH", frame=1, ordinal=n) for n in range(9)]
    one = [*frame, ticker("600009.SH", frame=1, ordinal=9, volume="10000")]
    assert (rejected(TICKER, one), flagged(TICKER, one)) == ({}, {"vwap": 1})
    most = [{**spec, "volume": "10000"} for spec in frame[:5]] + frame[5:]
    assert (rejected(TICKER, most), flagged(TICKER, most)) == ({"unit": 5}, {})


def test_a_unit_that_is_wrong_on_one_board_only_is_found_there() -> None:
    frame = [ticker(f"60000{n}.SH", frame=1, ordinal=n) for n in range(9)]
    star = [ticker(f"68800{n}.SH", frame=1, ordinal=10 + n, volume="100000000") for n in range(2)]
    made = process(TICKER, frame + star)
    assert rejected(TICKER, frame + star) == {"unit": 2}
    assert made[0].rows.height == 9


def test_other_venues_are_not_looked_at() -> None:
    odd = ticker("BTC-USDT.BINANCE", last="99.105", volume="1", amount="7")
    assert (rejected(TICKER, [odd]), flagged(TICKER, [odd])) == ({}, {})
    both = [odd | {"frame": 1}, ticker(last="10.105", frame=2), odd | {"frame": 3}]
    assert flagged(TICKER, both) == {"tick": 1}


def test_rows_without_an_instrument_fail_their_own_rule_only() -> None:
    (made,) = process(TICKER, [ticker() | {"instrument": None}, ticker(volume="10000", frame=2)])
    assert made.rejected is not None
    assert made.rejected["reasons"].to_list()[0] == '{"instrument|nullability":null}'
    assert made.rejected["reasons"].to_list()[1].startswith('{"unit":"amount / volume 1005')


@pytest.mark.parametrize(
    ("interval", "when", "good"),
    [
        ("1m", "2026-01-06 09:30:00", True),
        ("1m", "2026-01-06 11:29:00", True),
        ("1m", "2026-01-06 14:59:00", True),
        ("1m", "2026-01-06 11:30:00", False),
        ("1m", "2026-01-06 12:10:00", False),
        ("1m", "2026-01-06 15:00:00", False),
        ("1m", "2026-01-06 09:29:00", False),
        ("1m", "2026-01-06 10:00:30", False),
        ("1m", "2026-01-10 10:00:00", False),  # a Saturday
        ("30m", "2026-01-06 13:30:00", True),
        ("30m", "2026-01-06 13:15:00", False),
        ("1h", "2026-01-06 10:30:00", True),
        ("1h", "2026-01-06 13:00:00", True),
        ("1h", "2026-01-06 10:00:00", False),
        ("2h", "2026-01-06 09:30:00", True),
        ("1d", "2026-01-06 00:00:00", True),
        ("1d", "2026-01-06 09:30:00", True),
        ("1d", "2026-01-11 00:00:00", False),
        ("1w", "2026-01-05 00:00:00", True),
    ],
)
def test_bars_are_in_the_session_and_on_the_grid(interval: str, when: str, good: bool) -> None:
    assert flagged(KLINE, [bar(when=when, interval=interval)]) == ({} if good else {"session": 1})


def test_old_days_had_other_hours() -> None:
    assert flagged(KLINE, [bar(when="1994-01-06 16:00:00")]) == {}


@pytest.mark.parametrize(
    ("rule", "spec"),
    [
        ("vwap", bar(amount="10500000")),
        ("zero_volume", bar(volume="0", amount="0")),
        ("tick", bar(close="10.1234")),
    ],
)
def test_bars_that_are_odd(rule: str, spec: dict[str, Any]) -> None:
    assert flagged(KLINE, [spec]) == {rule: 1}


def test_bars_in_lots_are_not_stored() -> None:
    bars = [bar(when=f"2026-01-06 10:{n * 5:02}:00", volume="10000", frame=1, ordinal=n) for n in range(5)]
    assert rejected(KLINE, bars) == {"unit": 5}


def test_bars_without_anything_are_left_alone() -> None:
    flat = dict.fromkeys(("open", "high", "low", "close"), "10.00")
    assert flagged(KLINE, [bar(**flat, volume="0", amount="0")]) == {}
    nothing = dict.fromkeys(("open", "high", "low", "close", "volume", "amount"))
    assert flagged(KLINE, [bar(**nothing)]) == {}


def test_what_a_configuration_changes() -> None:
    lots = [ticker(volume="10000")]
    assert rejected(TICKER, lots, read_checks({"ticker.unit": "off"})) == {}
    assert flagged(TICKER, lots, read_checks({"ticker.unit": "flag"})) == {"unit": 1, "vwap": 1}
    assert rejected(TICKER, lots, read_checks({"ticker.unit": {"factor": 200}})) == {}
    assert rejected(TICKER, lots, read_checks({"ticker.unit": {"since": "2026-01-07"}})) == {}
    assert rejected(TICKER, [ticker(amount="10500000")], read_checks({"ticker.vwap": "reject"})) == {"vwap": 1}
