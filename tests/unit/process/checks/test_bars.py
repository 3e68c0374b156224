"""Checks of bars that remember, on bars in good order, on damaged ones, and on a real history."""

from __future__ import annotations

import csv
import gzip
import random
from collections import Counter
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tidewire.process.checks import read_checks
from tidewire.records.ops import Finding
from unit.process.checks.market import KLINE, TICKER, at, bar, findings, flagged, process, rejected
from unit.process.kit import cuts, joined

DATA = Path(__file__).parents[5] / "shared" / "data" / "ashare"


def weekdays(count: int, begin: date = date(2026, 1, 5)) -> list[str]:
    found = (begin + timedelta(days=n) for n in range(2 * count))
    return [day.isoformat() for day in found if day.weekday() < 5][:count]


def daily(closes: list[str], instrument: str = "600000.SH", **more: Any) -> list[dict[str, Any]]:
    """Daily bars with these closes, each traded at one price, with different volumes."""
    made: list[dict[str, Any]] = []
    for place, (day, close) in enumerate(zip(weekdays(len(closes)), closes, strict=True)):
        shares = 1_000_000 + place
        prices = dict.fromkeys(("open", "high", "low", "close"), close)
        amounts = {"volume": str(shares), "amount": str(shares * Decimal(close))}
        made.append(bar(instrument, f"{day} 00:00:00", "1d", **prices, **amounts, **more))
    return made


def session(seed: int, source: str = "a") -> list[dict[str, Any]]:
    """The 5-minute bars of a day, in good order."""
    chance = random.Random(seed)
    price, made = Decimal("10.00"), list[dict[str, Any]]()
    for half in ("09:30", "13:00"):
        for place in range(24):
            prices = [price + Decimal(chance.randint(-3, 3)).scaleb(-2) for _ in range(4)]
            shares = [chance.randint(1, 99) * 100 for _ in prices]
            begin = at(f"2026-01-06 {half}:00") + place * 300_000_000
            amount = sum(one * count for one, count in zip(prices, shares, strict=True))
            made.append(
                bar()
                | {"event_time": begin, "open_time": begin, "close_time": begin + 300_000_000, "source": source}
                | {"open": str(prices[0]), "high": str(max(prices)), "low": str(min(prices)), "close": str(prices[-1])}
                | {"volume": str(sum(shares)), "amount": str(amount), "ingested_at": begin + 300_000_000}
            )
            price = prices[-1]
    return made


@given(st.integers(0, 1_000_000))
@settings(max_examples=25, deadline=None)
def test_bars_in_good_order_give_no_finding(seed: int) -> None:
    bars = session(seed)
    assert (rejected(KLINE, bars), flagged(KLINE, bars)) == ({}, {})


CALM = ["10.00", "10.02", "10.01", "10.03", "10.02", "10.00"]


@pytest.mark.parametrize(
    ("instrument", "close", "flags"),
    [
        ("600000.SH", "11.00", 0),
        ("600000.SH", "11.02", 1),
        ("600000.SH", "5.00", 1),  # ten for ten: an ex-date
        ("300001.SZ", "11.90", 0),
        ("830001.BJ", "12.90", 0),
        ("000300.SH", "12.90", 0),
    ],
)
def test_a_close_beyond_the_limit_is_a_corporate_action_or_wrong(instrument: str, close: str, flags: int) -> None:
    assert flagged(KLINE, daily([*CALM, close], instrument))["jump"] == flags


def test_the_first_days_of_a_listing_may_jump() -> None:
    assert flagged(KLINE, daily(["10.00", "18.00", "30.00", "22.00", "31.00", "40.00"])) == {}


def test_bars_far_apart_or_backwards_are_no_neighbours() -> None:
    bars = daily([*CALM, "5.00"])
    suspended = [
        *bars[:-1],
        {
            **bars[-1],
            **{name: bars[-1][name] + 42 * 86_400_000_000 for name in ("event_time", "open_time", "close_time")},
        },
    ]
    assert flagged(KLINE, suspended) == {}
    backwards = [
        *bars[1:-1],
        {**bars[-1], **{name: bars[0][name] for name in ("event_time", "open_time", "close_time")}},
    ]
    assert flagged(KLINE, backwards) == {}


def test_a_spike_between_two_bars() -> None:
    bars = session(1)[:4]
    bars[2] |= {"close": "10.80", "high": "10.80"}
    found = findings(process(KLINE, bars))
    assert [(one["rule"], one["frame"]) for one in found] == [("spike", 4)]


def test_a_feed_of_bars_that_is_frozen_is_told_once() -> None:
    bars = session(1)
    same = {name: bars[3][name] for name in ("open", "high", "low", "close", "volume", "amount")}
    frozen = bars[:4] + [one | same for one in bars[4:12]] + bars[12:]
    found = findings(process(KLINE, frozen))
    assert [(one["rule"], one["frame"]) for one in found] == [("frozen", 8)]
    assert flagged(KLINE, frozen, read_checks({"kline.frozen": {"bars": 10}})) == {}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_is_told_of_neighbours_does_not_end_with_a_batch(size: int) -> None:
    bars = session(1)[:12]
    bars[2] |= {"close": "10.80", "high": "10.80"}
    same = {name: bars[4][name] for name in ("open", "high", "low", "close", "volume", "amount")}
    bars[5:10] = [one | same for one in bars[5:10]]
    pieces = [(begin, min(begin + size, 12)) for begin in range(0, 12, size)]
    found = findings(process(KLINE, bars, cuts=pieces))
    assert [(one["rule"], one["frame"]) for one in found] == [("spike", 4), ("frozen", 9)]


def test_a_suspended_stock_is_not_frozen() -> None:
    flat = dict.fromkeys(("open", "high", "low", "close"), "10.00") | {"volume": "0", "amount": "0"}
    assert flagged(KLINE, [one | flat for one in session(1)]) == {}


def test_two_sources_say_the_same_of_a_bar() -> None:
    ours = session(1)
    theirs = [one | {"source": "b"} for one in ours]
    assert flagged(KLINE, ours + theirs) == {}
    theirs[7] |= {"volume": str(int(theirs[7]["volume"]) + 100)}
    theirs[9] |= {
        "close": str(Decimal(theirs[9]["low"]) - Decimal("0.01")),
        "low": str(Decimal(theirs[9]["low"]) - Decimal("0.01")),
    }
    found = findings(process(KLINE, ours + theirs))
    assert [(one["rule"], one["source"], one["frame"]) for one in found] == [
        ("sources", "b", 48 + 8),
        ("sources", "b", 48 + 10),
    ]
    assert found[0]["observed"].startswith("volume ")
    assert "close" in found[1]["observed"]


def test_lots_are_found_whatever_else_is_right() -> None:
    lots = [one | {"volume": str(int(one["volume"]) // 100)} for one in session(3)]
    assert rejected(KLINE, lots)["unit"] == 48


@given(st.integers(0, 10_000), st.data())
@settings(max_examples=12, deadline=None)
def test_findings_do_not_depend_on_how_frames_were_batched(seed: int, data: st.DataObject) -> None:
    chance = random.Random(seed)
    bars = [one for pair in zip(session(seed), session(seed, "b"), strict=True) for one in pair]
    for one in bars:
        name = chance.choice(["", "", "", "close", "volume", "open", "still"])
        if name == "still":
            one |= {key: bars[0][key] for key in ("open", "high", "low", "close", "volume", "amount")}
        elif name:
            one[name] = chance.choice([None, "0", "10.005", one["high"]])
    config = read_checks({"shown": 2, "kline.frozen": {"bars": 2}})
    parts = [process(KLINE, bars, config, pieces) for pieces in ([(0, len(bars))], data.draw(cuts(len(bars))))]
    order = ["frame", "ordinal", "rule", "event_time", "instrument"]
    ours, theirs = (joined([one.findings for one in made], Finding.type).sort(order) for made in parts)
    assert_frame_equal(ours, theirs)


# -- a real history -------------------------------------------------------------------------------------------------

ACTIONS = {"1997-07-14", "2003-05-23", "2004-05-26", "2005-06-29", "2007-05-16", "2008-06-16"}
"""Rights and gifts large enough to move the close beyond the limit."""
BEYOND = {"1997-03-24", "1998-08-17"}
"""Closes +10.38 % and -10.18 % from the one before, without any action: the limits of the time were others."""


def history() -> list[dict[str, Any]]:
    with gzip.open(DATA / "daily-000002.SZ.csv.gz", "rt") as file:
        found = list(csv.DictReader(file))
    made: list[dict[str, Any]] = []
    for place, row in enumerate(found):
        day = date.fromisoformat(row["trade_date"]).isoformat()
        prices = {name: row[name] for name in ("open", "high", "low", "close")}
        amounts = {"volume": str(Decimal(row["vol"]) * 100), "amount": str(Decimal(row["amount"]) * 1000)}
        spec = bar("000002.SZ", f"{day} 00:00:00", "1d", **prices, **amounts)
        made.append({**spec, "frame": 1, "ordinal": place, "ingested_at": 0, "pre_close": row["pre_close"], "day": day})
    return made


@pytest.mark.skipif(not DATA.exists(), reason=f"the recordings {DATA} are not here")
def test_every_finding_about_a_real_history_is_explained() -> None:
    days = history()
    config = read_checks({"shown": 10_000})
    (made,) = process(KLINE, days, config)
    assert (made.rows.height, made.rejected) == (len(days), None)
    found = findings([made])
    when = {id(one): days[one["row"]]["day"] for one in found}
    jumps = {when[id(one)] for one in found if one["rule"] == "jump"}
    assert jumps == ACTIONS | BEYOND
    # The lots of the first years were of 20 shares, not 100: amount / volume is five times the price.
    lots = [one for one in found if one["rule"] == "vwap"]
    assert max(when[id(one)] for one in lots) == "1993-05-14"
    assert Counter(one["rule"] for one in found) == {"jump": 8, "vwap": 516}


@pytest.mark.skipif(not DATA.exists(), reason=f"the recordings {DATA} are not here")
def test_the_close_before_of_a_real_history_differs_on_ex_dates_only() -> None:
    with (DATA / "corporate-actions-000002.SZ.csv").open() as file:
        actions = {
            date.fromisoformat(row["ex_date"]).isoformat()
            for row in csv.DictReader(file)
            if any(float(row[name]) for name in ("gift_per_10", "rights_per_10", "cash_per_10", "transfer_per_10"))
        }
    days = [one for one in history() if "1993-06-01" <= one["day"] <= "2011-12-31"]
    tickers = [
        {**one, "last": one["close"], "event_time": at(f"{one['day']} 15:00:03"), "ordinal": place}
        for place, one in enumerate(days)
    ]
    found = findings(process(TICKER, tickers, read_checks({"shown": 10_000})))
    told = {days[one["row"]]["day"] for one in found if one["rule"] == "pre_close"}
    assert told == {day for day in actions if day >= "1993-06-01"}
    assert {one["detail"] for one in found if one["rule"] == "pre_close"} == {"as on an ex-date"}
