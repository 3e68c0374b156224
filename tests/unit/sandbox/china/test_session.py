"""What is true of the market at every moment, whoever asks, in whatever order."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.sandbox.china.paths import Days
from tidewire.sandbox.china.session import LAST_TICK, Moment, moment_at
from unit.sandbox.china.kit import at_ns, china_market

TUESDAY = date(2026, 12, 1).toordinal()
MARKET = china_market()
STOCKS = np.arange(len(MARKET.listing)) < MARKET.listing.stocks
ticks = st.integers(-1, LAST_TICK)
days = st.integers(0, 400).map(lambda back: int(MARKET.days.back(TUESDAY, back + 1)[0]))


@pytest.mark.parametrize(
    ("time", "day", "tick", "clock"),
    [
        ("2026-12-01T08:59:59", "2026-11-30", LAST_TICK, "15:00:00"),
        ("2026-12-01T09:00:00", "2026-12-01", -1, "09:00:00"),
        ("2026-12-01T09:25:00", "2026-12-01", 0, "09:25:00"),
        ("2026-12-01T09:30:02", "2026-12-01", 0, "09:25:00"),
        ("2026-12-01T09:30:03", "2026-12-01", 1, "09:30:03"),
        ("2026-12-01T11:30:00", "2026-12-01", 2_400, "11:30:00"),
        ("2026-12-01T12:59:59", "2026-12-01", 2_400, "11:30:00"),
        ("2026-12-01T13:00:03", "2026-12-01", 2_401, "13:00:03"),
        ("2026-12-01T15:00:00", "2026-12-01", LAST_TICK, "15:00:00"),
        ("2026-12-05T10:00:00", "2026-12-04", LAST_TICK, "15:00:00"),
    ],
)
def test_the_clock_of_the_market(time, day, tick, clock):
    moment = moment_at(at_ns(time), Days())
    assert (str(moment.date), moment.tick, moment.clock) == (day, tick, clock)
    assert moment.epoch_s == at_ns(f"{day}T{clock}") // 10**9


def test_a_holiday_shows_the_session_before():
    holiday = Days((date(2026, 12, 1),))
    assert str(moment_at(at_ns("2026-12-01T10:00:00"), holiday).date) == "2026-11-30"
    assert not holiday.is_session(TUESDAY)


@given(days, ticks)
@settings(deadline=None, max_examples=60)
def test_prices_amounts_and_limits(day, tick):
    quotes = MARKET.quotes(Moment(day, tick))
    on = quotes.traded
    assert on.any() == (tick >= 0)
    for price in (quotes.open, quotes.last):
        assert (quotes.low[on] <= price[on]).all()
        assert (price[on] <= quotes.high[on]).all()
    stock = on & STOCKS
    assert (quotes.low[stock] * quotes.volume[stock] <= quotes.amount[stock]).all()
    assert (quotes.amount[stock] <= quotes.high[stock] * quotes.volume[stock]).all()
    limited = on & (quotes.up > 0)
    assert (quotes.high[limited] <= quotes.up[limited]).all()
    assert (quotes.low[limited] >= quotes.down[limited]).all()
    for column in (quotes.open, quotes.high, quotes.low, quotes.volume, quotes.amount):
        assert (column[~on] == 0).all()
    assert (quotes.last[~on] == quotes.pre_close[~on]).all()


@given(days, ticks, ticks)
@settings(deadline=None, max_examples=40)
def test_a_day_only_grows(day, one, other):
    early, late = (MARKET.quotes(Moment(day, tick)) for tick in sorted((one, other)))
    on = early.traded
    assert (early.volume <= late.volume).all()
    assert (early.amount <= late.amount).all()
    assert (early.high[on] <= late.high[on]).all()
    assert (early.low[on] >= late.low[on]).all()


@given(days, st.integers(1, LAST_TICK), st.integers(0, len(MARKET.listing) - 1))
@settings(deadline=None, max_examples=60)
def test_bars_agree_with_the_quote(day, tick, row):
    moment = Moment(day, tick)
    quotes = MARKET.quotes(moment)
    minutes, apart = MARKET.minute_bars(row, 1, moment), MARKET.minute_bars(row, 1, moment, auction=True)
    daily = MARKET.day_bars(row, moment=moment)
    if not quotes.traded[row]:
        assert len(minutes) == len(apart) == 0
        assert day not in daily.day
        return
    facts = [int(getattr(quotes, name)[row]) for name in ("open", "last", "high", "low", "volume", "amount")]
    today = daily.where(daily.day == day)
    five = MARKET.resampled(row, 5, 3, moment)
    for bars in (minutes, apart, today, five.where(five.day == day)):
        whole = (bars.open[0], bars.close[-1], bars.high.max(), bars.low.min(), bars.volume.sum(), bars.amount.sum())
        assert [int(value) for value in whole] == facts
    assert len(apart) == len(minutes) + 1 == -(-tick // 20) + 1
    assert (minutes.low <= np.minimum(minutes.open, minutes.close)).all()
    assert (minutes.high >= np.maximum(minutes.open, minutes.close)).all()


@given(days)
@settings(deadline=None, max_examples=20)
def test_a_close_is_the_next_sessions_close_before(day):
    before = int(MARKET.days.before(np.array([day]))[0])
    today, earlier = MARKET.quotes(Moment(day, 0)), MARKET.quotes(Moment(before, LAST_TICK))
    both = today.traded & earlier.traded
    assert (today.pre_close[both] == earlier.last[both]).all()
    halted = earlier.halted & ~earlier.traded
    assert (today.pre_close[halted] == earlier.pre_close[halted]).all()


def test_the_order_of_questions_means_nothing():
    moments = [Moment(TUESDAY - back, tick) for back in (0, 1) for tick in (5, 1_000, LAST_TICK)]
    one, other = china_market(), china_market(at="2026-12-01T14:00:00")
    forward = {moment: one.quotes(moment) for moment in moments}
    backward = {moment: other.quotes(moment) for moment in reversed(moments)}
    for moment in moments:
        for name in ("last", "high", "low", "volume", "amount", "bid_prices", "ask_volumes"):
            assert np.array_equal(getattr(forward[moment], name), getattr(backward[moment], name))
    assert not np.array_equal(china_market(seed=8).quotes().last, one.quotes().last)


def test_a_stock_moves_the_same_in_a_larger_market():
    small, large = china_market(120), china_market(2_000)
    row, other = small.listing.rows["sh600519"], large.listing.rows["sh600519"]
    assert small.quotes().last[row] == large.quotes().last[other]
    assert small.quotes().volume[row] == large.quotes().volume[other]


def test_books_stand_around_the_last_price():
    quotes = MARKET.quotes(Moment(TUESDAY, 1_234))
    on = quotes.traded & STOCKS
    bid, ask = quotes.bid_prices[0], quotes.ask_prices[0]
    both = on & (bid > 0) & (ask > 0)
    assert both.sum() > 80
    assert (ask[both] - bid[both] == 1).all()
    assert (np.diff(quotes.bid_prices[:, both], axis=0) <= 0).all()
    assert ((quotes.bid_volumes > 0) == (quotes.bid_prices > 0)).all()
    assert (quotes.bid_prices[:, ~on] == 0).all()


def test_halted_stocks_do_not_trade():
    market = china_market(1_000)
    quotes = market.quotes()
    assert 0 < quotes.halted.sum() < 40
    assert not (quotes.halted & quotes.traded).any()


def test_history_reaches_so_far():
    bars = MARKET.day_bars(MARKET.listing.rows["sh600519"], moment=Moment(TUESDAY, LAST_TICK))
    assert 200 < len(bars) <= 250
    assert (np.diff(bars.day) > 0).all()
    assert [date.fromordinal(day).weekday() < 5 for day in bars.day.tolist()] == [True] * len(bars)
