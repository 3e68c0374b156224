"""Bars: exact, complete, and the same however the rows come."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.store_kit import EPOCH, at, bar, bars_by_hand, rows, trade
from tidewire.derive.resample import coarser, grid, half_even, klines_to_klines, trades_to_klines
from tidewire.errors import QueryError
from tidewire.records.market import Kline, Trade

SUMS = ("open", "high", "low", "close", "volume", "amount", "trades", "buy_volume", "buy_amount")


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    # The price of a trade, its size and its time are drawn alone; several share a microsecond.
    number = st.integers(1, 10**17).map(lambda units: f"{Decimal(units).scaleb(-12):f}")
    size = st.integers(1, 10**12).map(lambda units: f"{Decimal(units).scaleb(-8):f}")
    seconds = st.integers(0, 400).map(lambda n: n / 2)
    drawn = draw(
        st.lists(st.tuples(seconds, number, size, st.sampled_from(["buy", "sell"]), st.integers(0, 1)), max_size=30)
    )
    return [
        trade(place + 1, event_time=when, price=price, size=much, side=side, instrument=f"I{which}.A")
        for place, (when, price, much, side, which) in enumerate(drawn)
    ]


@settings(max_examples=60, deadline=None)
@given(specs=histories(), order=st.randoms(use_true_random=False))
def test_bars_of_trades_are_what_python_computes(specs: list[dict[str, Any]], order: Any) -> None:
    trades = rows(Trade.type, specs)
    in_order = trades.sort("event_time", "sequence")
    expected = bars_by_hand(in_order.to_dicts(), 60)
    shuffled = list(range(trades.height))
    order.shuffle(shuffled)
    found = trades_to_klines(trades[shuffled], "1m")
    assert found.schema == Kline.type.schema
    assert found.equals(trades_to_klines(trades, "1m"))
    assert found.height == len(expected)
    assert found["event_time"].is_sorted()
    for row in found.to_dicts():
        by_hand = expected[row["instrument"], row["open_time"]]
        assert {name: row[name] for name in SUMS} == {
            name: round(value, 8) if "amount" in name else value for name, value in by_hand.items()
        }
        last = in_order.filter(
            (pl.col("instrument") == row["instrument"])
            & (pl.col("event_time") >= row["open_time"])
            & (pl.col("event_time") < row["close_time"])
        )
        assert (row["frame"], row["ordinal"]) == (last["frame"][-1], last["ordinal"][-1])
    assert Kline.type.check(found).sum() == 0


@settings(max_examples=40, deadline=None)
@given(specs=histories())
def test_bars_of_bars_are_bars_of_trades(specs: list[dict[str, Any]]) -> None:
    trades = rows(Trade.type, specs)
    direct = trades_to_klines(trades, "3m")
    through = klines_to_klines(trades_to_klines(trades, "1m"), "3m")
    exact = [name for name in direct.columns if "amount" not in name]
    assert through.select(exact).equals(direct.select(exact))
    for one, other in zip(through["amount"], direct["amount"], strict=True):
        assert abs(one - other) <= 3 * Decimal("0.000000005")


def test_trades_off_the_book_are_left_out() -> None:
    kept = [trade(1, price="2", size="1"), trade(4, price="3", size="1")]
    off = [trade(2, price="9", size="5", off_book="adl"), trade(3, price=None, size=None, off_book="na")]
    assert trades_to_klines(rows(Trade.type, kept + off), "1m").equals(trades_to_klines(rows(Trade.type, kept), "1m"))
    assert trades_to_klines(rows(Trade.type, off), "1m").is_empty()


def test_turnover_is_rounded_once_and_half_to_even() -> None:
    # Twice 0.000000005 is a whole unit of the eighth decimal; rounding each would lose it.
    tiny = {"price": "0.5", "size": "0.00000001"}
    one, two = rows(Trade.type, [trade(1, **tiny)]), rows(Trade.type, [trade(1, **tiny), trade(2, **tiny)])
    assert trades_to_klines(one, "1m")["amount"].to_list() == [Decimal(0)]
    assert trades_to_klines(two, "1m")["amount"].to_list() == [Decimal("0.00000001")]
    values = pl.Series("x", ["0.000000015", "0.000000025", "0.0000000250000001"]).cast(pl.Decimal(38, 20)).to_frame()
    rounded = values.select(half_even("x", pl.Decimal(38, 8)))["x"]
    assert rounded.to_list() == [Decimal("2e-8"), Decimal("2e-8"), Decimal("3e-8")]
    assert rounded.dtype == pl.Decimal(38, 8)


def test_a_sum_too_large_is_an_error() -> None:
    huge = rows(Trade.type, [trade(1, price="1000000000000", size="1000000000")])
    with pytest.raises(pl.exceptions.ComputeError, match="overflow"):
        trades_to_klines(huge, "1m")


def test_missing_is_null_not_zero() -> None:
    found = trades_to_klines(rows(Trade.type, [trade(1), trade(2, side=None), trade(61, side="sell")]), "1m")
    assert found["buy_volume"].to_list() == [None, Decimal(0)]
    assert found["buy_amount"].to_list() == [None, Decimal(0)]
    assert found["volume"].to_list() == [Decimal(2), Decimal(1)]
    bars = klines_to_klines(rows(Kline.type, [bar(0), bar(1, high=None, low=None, volume=None, open=None)]), "5m")
    assert bars.select("open", "high", "low", "close", "volume", "trades").row(0) == (
        Decimal(1),
        None,
        None,
        Decimal(2),
        None,
        None,
    )


def test_an_open_bar_is_not_final() -> None:
    trades = rows(Trade.type, [trade(1), trade(61)])
    assert trades_to_klines(trades, "1m", until=at(119))["final"].to_list() == [True, False]
    assert trades_to_klines(trades, "1m", until=at(120))["final"].to_list() == [True, True]


def test_a_bar_is_public_when_its_last_part_is() -> None:
    found = trades_to_klines(rows(Trade.type, [trade(1), trade(2, public_at=300), trade(61)]), "1m")
    assert found["public_at"].to_list() == [at(300), at(120)]


def test_weeks_begin_on_monday_and_days_at_midnight() -> None:
    week, day = grid("1w"), grid("1d")
    assert week.floor(at(0)) == at(-8 * 3_600)  # START is a Monday, 08:00
    assert week.floor(at(6 * 86_400)) == week.floor(at(0))
    assert week.ceil(at(0)) - week.floor(at(0)) == timedelta(days=7)
    assert day.floor(at(0)) == day.ceil(at(-8 * 3_600)) == at(-8 * 3_600)
    assert grid("1m").floor(EPOCH - timedelta(seconds=1)) == EPOCH - timedelta(minutes=1)
    found = trades_to_klines(rows(Trade.type, [trade(1), trade(2, event_time=6 * 86_400)]), "1w")
    assert found["open_time"].to_list() == [at(-8 * 3_600)]


@pytest.mark.parametrize("interval", ["1M", "7m", "5min", ""])
def test_other_intervals_are_refused(interval: str) -> None:
    with pytest.raises(QueryError, match="Valid: 1s, 1m"):
        trades_to_klines(Trade.type.empty(), interval)


@pytest.mark.parametrize(("parts", "whole"), [("5m", "1m"), ("5m", "5m"), ("3m", "5m"), ("3d", "1w")])
def test_bars_that_do_not_add_up_are_refused(parts: str, whole: str) -> None:
    with pytest.raises(QueryError, match="do not add up"):
        coarser(parts, whole)
    assert coarser("1s", whole).name == whole


def test_bars_of_two_lengths_cannot_be_mixed() -> None:
    with pytest.raises(QueryError, match="1m, 5m"):
        klines_to_klines(rows(Kline.type, [bar(0), bar(0, interval="5m")]), "1h")


def test_nothing_makes_no_bars() -> None:
    assert trades_to_klines(Trade.type.empty(), "1m").equals(Kline.type.empty())
    assert klines_to_klines(Kline.type.empty(), "5m").equals(Kline.type.empty())
