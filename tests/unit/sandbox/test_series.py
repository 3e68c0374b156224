from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.sandbox.config import E8, symbol_info
from tidewire.sandbox.series import INTERVALS, Bar, History, Series, bar_end, bar_open, e8

START = 1_760_000_000_000
BTC = symbol_info("BTCUSDT")


def facts(bar):
    return {name: getattr(bar, name) for name in Bar.__slots__}


def aggregate(trades):
    """Bars the slow way, straight from the definition."""
    prices = [price for _, price, _, _, _ in trades]
    taken = [(price, size) for _, price, size, _, maker in trades if not maker]
    return {
        "open": prices[0],
        "high": max(prices),
        "low": min(prices),
        "close": prices[-1],
        "volume": sum(trade[2] for trade in trades),
        "quote": sum(trade[1] * trade[2] // E8 for trade in trades),
        "taker": sum(size for _, size in taken),
        "taker_quote": sum(price * size // E8 for price, size in taken),
        "count": len(trades),
        "first": trades[0][0],
        "last": trades[-1][0],
    }


trade_steps = st.lists(
    st.tuples(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 40_000), st.booleans()),
    min_size=1,
    max_size=60,
)


@given(trade_steps, st.sampled_from(sorted(INTERVALS)))
def test_a_bar_is_the_aggregate_of_its_trades(steps, interval):
    series, now = Series(None), START
    trades = []
    for ident, (ticks, size, wait, maker) in enumerate(steps, 1):
        now += wait
        trades.append((ident, ticks * BTC.tick_e8, size * BTC.step_e8, now, maker))
        series.add(*trades[-1])
    opened = bar_open(interval, START)
    seen = 0
    while opened <= now:
        end = bar_end(interval, opened)
        inside = [trade for trade in trades if opened <= trade[3] < end]
        bar = series.bar(opened, end)
        if inside:
            assert facts(bar) == aggregate(inside)
        elif seen:
            assert facts(bar) == facts(Bar(trades[seen - 1][1]))
        else:
            assert bar is None
        seen += len(inside)
        skip = interval == "1s" and not inside and seen < len(trades)
        opened = bar_open(interval, trades[seen][3]) if skip else end
    assert seen == len(trades)


def test_history_bars_agree_with_history_trades_and_with_the_live_part():
    history = History(BTC, 7, START, 2, 1_000)
    series = Series(history)
    old = [history.trade(place) for place in range(len(history))]
    assert [trade[0] for trade in old] == list(range(1_000, 1_000 + len(history)))
    assert old[-1][3] < START
    assert all(a[3] < b[3] for a, b in itertools.pairwise(old))
    live = [
        (1_000 + len(history) + n, BTC.open_e8 + n * BTC.tick_e8, E8, START + 700 * n, n % 2 == 0) for n in range(300)
    ]
    for trade in live:
        series.add(*trade)
    for interval in ("1m", "5m", "1h", "1d"):
        opened = bar_open(interval, START)
        end = bar_end(interval, opened)
        inside = [trade for trade in old + live if opened <= trade[3] < end]
        assert facts(series.bar(opened, end)) == aggregate(inside)
    assert series.from_id(1_000, 10**6) == old + live
    assert series.recent(301) == [old[-1], *live]
    assert series.between(old[-2][3], live[1][3], 100) == old[-2:] + live[:2]


def test_history_depends_on_the_seed_only():
    first, again, other = (History(BTC, seed, START, 1, 0) for seed in (1, 1, 2))
    assert [first.trade(n) for n in range(360)] == [again.trade(n) for n in range(360)]
    assert [first.trade(n) for n in range(360)] != [other.trade(n) for n in range(360)]


def test_old_trades_are_forgotten_but_their_bars_are_not():
    series = Series(None, keep=10)
    for ident in range(100):
        series.add(ident, E8 + ident, E8, START + ident * 1_000, False)
    assert 10 <= len(series.from_id(0, 1_000)) <= 20
    assert series.recent(1)[0][0] == 99
    bar = series.bar(bar_open("1d", START), bar_end("1d", bar_open("1d", START)))
    assert (bar.count, bar.first) == (100, 0)


def test_no_trades_no_bar():
    series = Series(None)
    assert series.bar(START, START + 60_000) is None
    assert series.first_ms is None


@given(st.sampled_from(sorted(INTERVALS)), st.integers(0, 4_000_000_000_000))
def test_a_time_lies_in_its_bar(interval, ms):
    opened = bar_open(interval, ms)
    assert opened <= ms < bar_end(interval, opened)
    assert bar_open(interval, opened) == opened
    assert bar_open(interval, bar_end(interval, opened)) == bar_end(interval, opened)


@pytest.mark.parametrize(("interval", "weekday", "day"), [("1w", 0, None), ("1M", None, 1)])
def test_weeks_begin_on_monday_and_months_on_the_first(interval, weekday, day):
    at = datetime.fromtimestamp(bar_open(interval, START) / 1000, UTC)
    assert (at.hour, at.minute) == (0, 0)
    assert weekday is None or at.weekday() == weekday
    assert day is None or at.day == day


@given(st.integers(-(10**18), 10**18))
def test_e8_is_exact(value):
    text = e8(value)
    whole, part = text.lstrip("-").split(".")
    assert len(part) == 8
    assert int(whole + part) * (-1 if value < 0 else 1) == value
