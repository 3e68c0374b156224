"""History that is held nowhere: the same whenever asked for, whole, and one with what follows."""

from __future__ import annotations

import itertools

import pytest

from tidewire.sandbox.config import symbol_info
from tidewire.sandbox.series import DAY, INTERVALS, MINUTE, Bar, History, Series, bar_open

START = 1_760_000_000_000
BTC = symbol_info("BTCUSDT")
HOURS = 24 * 30
BORDER = START - 168 * 60 * MINUTE


def facts(bar: Bar | None) -> dict[str, int]:
    assert bar is not None
    return {name: getattr(bar, name) for name in Bar.__slots__}


def summed(bars: list[Bar | None]) -> dict[str, int]:
    total = Bar(0)
    for place, bar in enumerate(bars):
        assert bar is not None
        if place:
            total.merge(bar)
        else:
            total = bar.copy()
    return facts(total)


def test_ids_times_and_prices_go_on_over_the_border() -> None:
    history = History(BTC, 7, START, HOURS, 1_000)
    border = history.place(BORDER)
    assert border == (HOURS - 168) * 360
    around = history.trades(border - 500, border + 500)
    assert [trade[0] for trade in around] == list(range(1_000 + border - 500, 1_000 + border + 500))
    assert all(a[3] < b[3] for a, b in itertools.pairwise(around))
    steps = [abs(a[1] - b[1]) / a[1] for a, b in itertools.pairwise(around)]
    assert max(steps) < 0.005
    assert history.trades(0, 3) == [history.trade(place) for place in range(3)]
    assert len(history) == HOURS * 360


@pytest.mark.parametrize("begin", [BORDER - 90 * 60 * MINUTE, BORDER - 2 * 60 * MINUTE, START - 20 * 60 * MINUTE])
def test_short_bars_add_up_to_long_ones_and_to_their_trades(begin: int) -> None:
    series = Series(History(BTC, 7, START, HOURS, 1_000))
    begin = bar_open("1h", begin)
    minutes = series.bars([begin + n * MINUTE for n in range(61)])
    (hour,) = series.bars([begin, begin + 60 * MINUTE])
    assert summed(minutes) == facts(hour) == facts(series.bar(begin, begin + 60 * MINUTE))
    trades = series.between(begin, begin + 60 * MINUTE - 1, 1_000)
    assert (facts(hour)["count"], facts(hour)["volume"]) == (len(trades), sum(trade[2] for trade in trades))
    assert (facts(hour)["first"], facts(hour)["close"]) == (trades[0][0], trades[-1][1])


def test_it_depends_on_seed_and_time_alone_not_on_how_far_it_reaches() -> None:
    short, long = (Series(History(BTC, 7, START, hours, 0)) for hours in (HOURS, 2 * HOURS))
    at = BORDER - 3 * DAY
    mine, same = (facts(series.bar(at, at + INTERVALS["1h"])) for series in (short, long))
    assert {**mine, "first": 0, "last": 0} == {**same, "first": 0, "last": 0}
    other = Series(History(BTC, 8, START, HOURS, 0))
    assert facts(other.bar(at, at + INTERVALS["1h"])) != mine
