"""Checks of tickers that remember, on a market in good order and on what has happened to real ones."""

from __future__ import annotations

import random
from datetime import date
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tidewire.process import Processor
from tidewire.process.checks import read_checks
from tidewire.records.market import Instrument
from tidewire.records.ops import Finding
from unit.process.checks.market import (
    INDEX,
    STOCKS,
    TICKER,
    WEEKDAYS,
    Market,
    at,
    days,
    findings,
    flagged,
    process,
    rejected,
    ticker,
)
from unit.process.kit import batch, cuts, joined, rows

LAST = "2026-01-16"


def settled(**more: Any) -> Market:
    """A market that was seen for long enough."""
    return days(Market(**more), WEEKDAYS)


@given(st.integers(0, 1_000_000))
@settings(max_examples=15, deadline=None)
def test_a_market_in_good_order_gives_no_finding(seed: int) -> None:
    market = settled(seed=seed)
    assert (rejected(TICKER, market.specs), flagged(TICKER, market.specs)) == ({}, {})


def damaged(name: str, seed: int) -> list[dict[str, Any]]:
    """The last rounds of a market, with what a source once did to its rows."""
    market = settled(seed=seed, instruments=[f"{600_000 + n}.SH" for n in range(60)])
    market.open_day()
    market.round(f"{LAST} 10:00:00")
    bad = market.round(f"{LAST} 10:05:00")
    if name == "lots":
        for spec in bad:
            spec["volume"] = str(int(spec["volume"]) // 100)
    elif name == "shifted":
        for spec in bad:
            spec["last"], spec["open"], spec["high"], spec["low"] = (
                spec["volume"],
                spec["last"],
                spec["open"],
                spec["high"],
            )
    elif name == "swapped":
        for spec in bad:
            spec["high"], spec["low"] = spec["low"], spec["high"]
    elif name == "stale":
        market.same(f"{LAST} 10:05:30")
    elif name == "scaled":
        for spec in bad:
            spec["last"] = str(int(float(spec["last"]) * 100))
    elif name == "pre_close":
        for spec in bad:
            spec["pre_close"] = spec["open"] + "1"
    return market.specs


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("lots", {"unit"}),
        ("shifted", {"range", "scale"}),
        ("stale", {"frozen"}),
        ("scaled", {"range", "scale"}),
        ("pre_close", {"pre_close"}),
    ],
)
def test_what_a_source_does_to_a_round_is_found(name: str, how: set[str], seed: int) -> None:
    found = {one["rule"]: one for one in findings(process(TICKER, damaged(name, seed)))}
    assert found.keys() & how


@pytest.mark.parametrize("seed", range(3))
def test_swapped_columns_fail_a_rule_of_the_type(seed: int) -> None:
    specs = damaged("swapped", seed)
    bad = [spec for spec in specs[-60:] if spec["high"] != spec["low"]]
    (made,) = process(TICKER, specs)
    assert made.rejected is not None
    assert sorted(made.rejected["instrument"]) == sorted(spec["instrument"] for spec in bad)


def day_of(when: str, **more: Any) -> dict[str, Any]:
    return ticker(when=when, ingested_at=at(when), **more)


def test_the_close_before_is_what_the_session_before_ended_with() -> None:
    closed = day_of("2026-01-06 15:00:03")
    after = {"open": "10.05", "high": "10.20", "low": "9.90"}
    assert flagged(TICKER, [closed, day_of("2026-01-07 09:31:00", pre_close="10.10", **after)]) == {}
    (one,) = findings(process(TICKER, [closed, day_of("2026-01-07 09:31:00", pre_close="9.95", **after)]))
    assert (one["rule"], one["observed"], one["expected"], one["detail"]) == (
        "pre_close",
        "pre_close 9.95",
        "10.1",
        "as on an ex-date",
    )
    (one,) = findings(process(TICKER, [closed, day_of("2026-01-07 09:31:00", pre_close="10.15", **after)]))
    assert one["detail"] == "above the last price: no dividend explains it"


def test_a_close_before_is_not_held_against_a_session_that_was_not_seen_to_its_end() -> None:
    after = day_of("2026-01-07 09:31:00", pre_close="9.00", open="9.95", low="9.90")
    assert flagged(TICKER, [day_of("2026-01-06 14:30:00"), after]) == {}
    later = day_of("2026-01-08 09:31:00", pre_close="9.00", open="9.95", low="9.90")
    assert flagged(TICKER, [day_of("2026-01-06 15:00:03"), later]) == {}


def test_a_close_before_that_changes_during_a_session() -> None:
    (one,) = findings(process(TICKER, [day_of("2026-01-06 10:00:00"), day_of("2026-01-06 10:00:03", pre_close="9.99")]))
    assert (one["rule"], one["detail"]) == ("pre_close", "changed during the session")


def with_name(name: str) -> Processor:
    processor = Processor()
    listed = {"instrument": "600000.SH", "kind": "stock", "native": "600000", "name": name}
    processor.process(batch(Instrument.type, rows(Instrument.type, [listed]), 0, 1))
    return processor


BEYOND = {"last": "11.20", "high": "11.20", "pre_close": "10.00", "amount": "10500000"}


def limit(spec: dict[str, Any], processor: Processor | None = None, seen: int = 8) -> list[dict[str, Any]]:
    """What the rule of limits says of a row after so many sessions; its day is 2026-01-16."""
    before = [ticker(spec["instrument"], f"{day} 10:00:00", last="10.00") for day in WEEKDAYS[8 - seen :]]
    made = process(TICKER, [*before, spec], processor=processor)
    return [one for one in findings(made) if one["rule"] == "limit"]


@pytest.mark.parametrize(
    ("instrument", "pre_close", "last", "flags"),
    [
        ("600000.SH", "10.00", "11.00", 0),
        ("600000.SH", "10.00", "11.01", 0),  # a tick more: rounding
        ("600000.SH", "10.00", "11.02", 1),
        ("600000.SH", "10.05", "11.06", 0),  # half up
        ("600000.SH", "10.00", "8.98", 1),
        ("688001.SH", "10.00", "12.00", 0),
        ("688001.SH", "10.00", "12.02", 1),
        ("300001.SZ", "10.00", "12.02", 1),
        ("830001.BJ", "10.00", "13.00", 0),
        ("830001.BJ", "10.00", "13.02", 1),
        ("510300.SH", "4.000", "4.790", 0),
        ("000300.SH", "10.00", "14.00", 0),  # no limits
        ("113001.SH", "10.00", "14.00", 0),
    ],
)
def test_a_price_beyond_the_limits_of_its_board(instrument: str, pre_close: str, last: str, flags: int) -> None:
    price = {"last": last, "open": last, "high": last, "low": last, "volume": None, "amount": None}
    found = limit(ticker(instrument, f"{LAST} 10:00:00", **{**price, "pre_close": pre_close}))
    assert len(found) == flags


def test_a_stock_that_may_be_new_has_no_limit() -> None:
    spec = ticker(when=f"{LAST} 10:00:00", **BEYOND)
    assert len(limit(spec, seen=8)) == 1
    assert not limit(spec, seen=5)


@pytest.mark.parametrize(
    ("name", "last", "flags"),
    [
        ("浦发银行", "10.90", 0),
        ("*ST浦发", "10.90", 1),
        ("＊ＳＴ浦发", "10.90", 1),
        ("N浦发", "14.00", 0),
        ("浦发退", "14.00", 0),
    ],
)
def test_names_tell_limits(name: str, last: str, flags: int) -> None:
    spec = ticker(when=f"{LAST} 10:00:00", **{**BEYOND, "last": last, "high": last})
    assert len(limit(spec, with_name(name))) == flags


def test_risk_warning_stocks_have_the_limits_of_others_since_july_2026() -> None:
    dates = [f"2026-07-{day:02}" for day in (6, 7, 8, 9, 10, 13, 14, 15)]
    calm = [ticker(when=f"{day} 10:00:00", last="10.00") for day in dates]
    spec = ticker(when="2026-07-16 10:00:00", **{**BEYOND, "last": "10.90", "high": "10.90"})
    assert findings(process(TICKER, [*calm, spec], processor=with_name("*ST浦发"))) == []


def test_a_spike_is_told_when_it_is_over() -> None:
    prices = ["10.00", "10.40", "10.01", "10.02"]
    made = [
        day_of(f"2026-01-06 10:00:{n * 3:02}", last=last, high="10.40", volume=str(1_000_000 + n))
        for n, last in enumerate(prices)
    ]
    (one,) = findings(process(TICKER, made))
    assert (one["rule"], one["observed"], one["expected"]) == ("spike", "last 10.4", "near 10.0 and 10.01")
    assert (one["event_time"], one["frame"]) == (rows(TICKER, made)["event_time"][1], 3)
    assert flagged(TICKER, made[:2]) == {}
    assert findings(process(TICKER, made, cuts=[(n, n + 1) for n in range(4)])) == [one]


def test_a_market_that_stands_still_is_told_once_a_frame() -> None:
    market = Market(instruments=[f"{600_000 + n}.SH" for n in range(60)])
    market.round("2026-01-06 10:00:00")
    market.same("2026-01-06 10:00:30")
    market.same("2026-01-06 10:01:00")
    found = findings(process(TICKER, market.specs))
    assert [(one["rule"], one["frame"], one["instrument"]) for one in found] == [
        ("frozen", 2, None),
        ("frozen", 3, None),
    ]
    assert found[0]["observed"] == "60 of 60 rows with the price and volume of the ones before"
    assert flagged(TICKER, market.specs, read_checks({"ticker.frozen": {"least": 61}})) == {}


def test_a_market_at_lunch_may_stand_still() -> None:
    market = Market(instruments=[f"{600_000 + n}.SH" for n in range(60)])
    market.round("2026-01-06 11:29:59")
    market.same("2026-01-06 11:30:10")
    market.same("2026-01-06 11:40:00")
    assert flagged(TICKER, market.specs) == {}


def test_a_round_of_half_the_market_is_told() -> None:
    every = [f"{600_000 + n}.SH" for n in range(200)]
    market = Market(instruments=every)
    for minute in (31, 35, 41, 45):
        market.round(f"2026-01-06 09:{minute}:00")
    market.stocks = {name: market.stocks[name] for name in every[:100]}  # a page size that was cut down
    for minute in (51, 55):
        market.round(f"2026-01-06 09:{minute}:00")
    market.round("2026-01-06 10:01:00")
    (one,) = findings(process(TICKER, market.specs))
    assert (one["rule"], one["observed"], one["expected"]) == (
        "rows",
        "100 instruments",
        "near 200, as in the stretch before",
    )
    assert one["frame"] == 7
    assert one["event_time"] == rows(TICKER, [day_of("2026-01-06 09:50:00")])["event_time"][0]


def two(**more: Any) -> list[dict[str, Any]]:
    """The same row from two sources."""
    return [day_of("2026-01-06 15:00:03"), day_of("2026-01-06 15:00:04", source="b", **more)]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, None),
        ({"volume": "1000500"}, None),
        ({"volume": "1002000", "amount": "10070000"}, "volume 1.002e6, amount 1.007e7"),
        ({"last": "10.15"}, "last 10.15"),
        ({"pre_close": "10.02"}, "pre_close 10.02"),
        ({"volume": None, "amount": None, "last": None}, None),
    ],
)
def test_two_sources_say_the_same_after_the_close(more: dict[str, Any], said: str | None) -> None:
    found = findings(process(TICKER, two(**more)))
    assert [one["rule"] for one in found] == ([] if said is None else ["sources"])
    if said is not None:
        assert (one := found[0])["source"] == "b"
        assert one["detail"].startswith("a said so at 2026-01-06 07:00:03")


def test_during_a_session_prices_are_compared_only_when_close_in_time() -> None:
    near = [day_of("2026-01-06 10:00:00"), day_of("2026-01-06 10:00:02", source="b", last="9.95")]
    far = [near[0], {**near[1], "event_time": at("2026-01-06 10:00:09")}]
    assert (flagged(TICKER, near), flagged(TICKER, far)) == ({"sources": 1}, {})
    more = [near[0], day_of("2026-01-06 10:00:09", source="b", volume="1300000", amount="13065000")]
    assert flagged(TICKER, more) == {}


def test_a_source_whose_unit_nobody_checks_differs_from_another() -> None:
    index = [
        day_of("2026-01-06 10:00:00", instrument=INDEX),
        day_of("2026-01-06 10:00:09", instrument=INDEX, source="b", volume="10000"),
    ]
    assert flagged(TICKER, index) == {"sources": 1}


def noisy(seed: int) -> list[dict[str, Any]]:
    """Two sources of a market with whatever may happen to their rows."""
    chance = random.Random(seed)
    one, other = Market(seed), Market(seed, source="b")
    specs: list[dict[str, Any]] = []
    for day in WEEKDAYS[:7]:
        for market in (one, other):
            market.open_day()
        for when in ("10:00:00", "10:00:05", "14:00:00", "15:00:05"):
            for market in (one, other):
                specs += market.round(f"{day} {when}")
    for place, spec in enumerate(specs):
        spec["frame"] = place // len(one.stocks) + 1
        name = chance.choice(["", "", "", "", "last", "pre_close", "volume", "high", "event_time"])
        if name == "event_time":
            spec[name] = specs[max(0, place - 14)]["event_time"]
        elif name:
            spec[name] = chance.choice([None, "10.00", spec["low"], str(float(spec["last"]) * 1.3)[:8], "0"])
    return specs


@given(st.integers(0, 10_000), st.data())
@settings(max_examples=12, deadline=None)
def test_findings_do_not_depend_on_how_frames_were_batched(seed: int, data: st.DataObject) -> None:
    specs = noisy(seed)
    wide = len(STOCKS) + 1
    frames = data.draw(cuts(len(specs) // wide))
    config = read_checks({"shown": 2, "ticker.frozen": {"least": 3}})
    whole = process(TICKER, specs, config)
    cut = process(TICKER, specs, config, [(begin * wide, end * wide) for begin, end in frames])
    order = ["frame", "ordinal", "rule", "event_time", "instrument"]
    ours, theirs = (joined([one.findings for one in made], Finding.type).sort(order) for made in (whole, cut))
    assert ours.height
    assert_frame_equal(ours, theirs)


def test_the_day_of_a_listing_is_enough_to_know_the_limits() -> None:
    """`Instrument` rows may come without that column: sources that know no listings have none."""
    spec = ticker(when=f"{LAST} 10:00:00", **BEYOND)
    processor = Processor()
    for listed, flags in ((date(2025, 12, 1), ["limit"]), (date(2026, 1, 9), []), (date(2026, 1, 19), ["listing"])):
        told = {"instrument": ["600000.SH", "BTC-USDT.BINANCE"], "name": [None, "Bitcoin"], "listed_on": [listed, None]}
        processor.checks.learn(pl.DataFrame(told, schema_overrides={"name": pl.String, "listed_on": pl.Date}))
        found = findings(process(TICKER, [spec | {"source": str(listed)}], processor=processor))
        assert [one["rule"] for one in found] == flags


NOTHING = st.sampled_from([None, "0", "0.001", "10.00", "99999999999"])


@given(
    st.lists(
        st.fixed_dictionaries(dict.fromkeys(("last", "open", "high", "low", "pre_close", "volume", "amount"), NOTHING)),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([*STOCKS, INDEX, "999999.SH", None]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_whatever_is_missing_every_row_has_one_fate(
    values: list[dict[str, Any]], instrument: str | None, timeless: bool
) -> None:
    specs = [
        ticker(when=f"2026-01-06 10:00:{n:02}", frame=n + 1) | one | {"instrument": instrument}
        for n, one in enumerate(values)
    ]
    if timeless:
        specs[0] |= {"event_time": None, "public_at": 0}
    (made,) = process(TICKER, specs)
    rejected_rows = 0 if made.rejected is None else made.rejected.height
    assert made.rows.height + rejected_rows == len(specs)
