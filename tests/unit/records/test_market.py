"""What every record type promises, and one row for each rule that breaks it. Covers all built-in families."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from tidewire.records.market import INTERVALS, BookDelta, Instrument, Kline, OrderBook, Quote, Ticker, Trade
from tidewire.records.record import RecordType, types
from unit.records.kit import FAMILIES, KINDS, NOW, frame_of, good_row

EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
EVERY_RULE = [(kind, rule) for kind in KINDS for rule in kind.rules]

BREAKS: dict[str, Any] = {
    "nullability": None,
    "min_length": "",
    "min": -1,
    "min_exclusive": 0,
    "check__known": "no such choice",
    "check__plausible": datetime(1970, 1, 21, tzinfo=UTC),
    "inf": float("inf"),
    "nan": float("nan"),
    "inner_nullability": [None, None],
}
LONG_AGO = date(1899, 12, 31)
NAMED_BREAKS: dict[str, dict[str, Any]] = {
    "priced": {"price": None, "off_book": None},
    "not_crossed": {"bid_price": "2", "ask_price": "1"},
    "high_low": {"high": "1", "low": "2"},
    "high_is_highest": {"open": "1", "low": "1", "high": "2", "close": "3"},
    "low_is_lowest": {"open": "1", "low": "2", "high": "3", "close": "3"},
    "closes_after_open": {"open_time": NOW, "close_time": NOW},
    "book_not_crossed": {"bid_prices": ["2", "1"], "ask_prices": ["2", "3"]},
    "same_lengths": {"bid_prices": ["1"], "bid_sizes": ["1", "2"]},
}


def failed(kind: RecordType, /, **changes: Any) -> list[str]:
    row = frame_of(kind, [good_row(kind) | changes])
    return kind.reasons(row)[0] if kind.check(row)[0] else []


def test_the_families_hold_what_was_promised() -> None:
    market = {"instrument", "trade", "quote", "ticker", "kline", "order_book", "book_delta", "funding_rate"}
    assert market | {"gap", "quarantined"} <= {kind.name for kind in KINDS}
    assert {kind.family for kind in KINDS} == set(FAMILIES)


@pytest.mark.parametrize(
    ("kind", "rule"), EVERY_RULE, ids=lambda value: value.name if hasattr(value, "name") else value
)
def test_each_rule_is_broken_by_a_row_made_for_it(kind: RecordType, rule: str) -> None:
    column, _, what = rule.partition("|")
    broken = LONG_AGO if what and kind.fields[column].role == "day" and BREAKS[what] is not None else BREAKS.get(what)
    changes = {column: broken} if what else NAMED_BREAKS[rule]
    assert rule in failed(kind, **changes)


@EVERY_KIND
def test_every_key_contains_the_source_and_no_key_column_can_be_null(kind: RecordType) -> None:
    assert "source" in kind.key
    assert not [name for name in kind.key if kind.fields[name].nullable]


@EVERY_KIND
def test_every_column_is_documented_with_its_unit(kind: RecordType) -> None:
    for field in kind.fields.values():
        assert field.about.endswith("."), field
        assert field.example is not None, field
        needs_unit = field.role in {"price", "size", "amount", "coin", "prices", "sizes"}
        assert bool(field.unit) or not needs_unit, field
        assert "unit" not in field.unit, field
    assert kind.about.endswith(".")


@EVERY_KIND
def test_the_clocks_and_the_origin_are_on_every_row(kind: RecordType) -> None:
    for name in ("event_time", "public_at", "ingested_at"):
        assert kind.fields[name].dtype == pl.Datetime("us", "UTC")
    assert not [
        name
        for name in ("source", "event_time", "public_at", "ingested_at", "frame", "ordinal")
        if kind.fields[name].nullable
    ]


@EVERY_KIND
def test_what_a_series_is_ordered_by_is_a_column_outside_its_name(kind: RecordType) -> None:
    assert set(kind.series) <= set(kind.fields)
    assert kind.order is None or (kind.order in kind.fields and kind.order not in kind.series)
    assert "source" in kind.series
    assert not set(kind.payload) & set(kind.key)


@EVERY_KIND
def test_the_mask_has_room_for_every_rule(kind: RecordType) -> None:
    assert len(kind.rules) <= 64


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.family == "market"], ids=lambda kind: kind.name)
def test_market_rows_are_about_an_instrument(kind: RecordType) -> None:
    assert "instrument" in kind.key
    assert kind.fields["instrument"].role == "symbol"


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (Quote.type, {"bid_price": None, "bid_size": None}),
        (Quote.type, {"bid_size": "0"}),
        (Ticker.type, {"high": None, "low": "2"}),
        (Ticker.type, {"volume": "0", "amount": "0", "trades": 0}),
        (Kline.type, {"open": None, "high": None, "low": None, "close": None, "volume": "0"}),
        (Kline.type, {"open": "1", "high": "1", "low": "1", "close": "1"}),
        (Trade.type, {"side": None, "sequence": None}),
        (BookDelta.type, {"size": "0"}),
        (OrderBook.type, {"bid_prices": [], "bid_sizes": []}),
        (Instrument.type, {"price_step": None}),
        (Instrument.type, {"listed_on": date(1900, 1, 1), "delisted_on": None}),
    ],
)
def test_rows_at_the_edge_of_a_rule_are_good(kind: RecordType, changes: dict[str, Any]) -> None:
    assert failed(kind, **changes) == []


@pytest.mark.parametrize(
    ("kind", "changes", "rules"),
    [
        (Quote.type, {"bid_price": "1.5", "ask_price": "1.5"}, ["not_crossed"]),
        (Trade.type, {"price": "0"}, ["price|min_exclusive"]),
        (Trade.type, {"side": ""}, ["side|check__known"]),
        (
            Instrument.type,
            {"listed_on": date(1970, 1, 1), "delisted_on": date(2970, 1, 1)},
            ["delisted_on|check__plausible"],
        ),
        (Instrument.type, {"board": "moon"}, ["board|check__known"]),
        (OrderBook.type, {"ask_sizes": []}, ["same_lengths"]),
        (Kline.type, {"close_time": NOW - timedelta(days=1)}, ["closes_after_open"]),
        (Kline.type, {"interval": "7m"}, ["interval|check__known"]),
    ],
)
def test_a_broken_row_fails_its_own_rules_and_no_others(
    kind: RecordType, changes: dict[str, Any], rules: list[str]
) -> None:
    assert failed(kind, **changes) == rules


@pytest.mark.parametrize("interval", INTERVALS)
def test_every_interval_is_a_known_one(interval: str) -> None:
    assert failed(Kline.type, interval=interval) == []


def test_a_millisecond_taken_for_a_microsecond_is_noticed() -> None:
    wrong = datetime.fromtimestamp(NOW.timestamp() / 1000, UTC)
    assert failed(Trade.type, event_time=wrong) == ["event_time|check__plausible"]


def test_options_say_how_a_type_is_handled() -> None:
    assert (Trade.type.order, Trade.type.contiguous, Trade.type.series) == ("sequence", True, ("source", "instrument"))
    assert (Kline.type.final, Kline.type.order) == ("final", "open_time")
    assert Kline.type.series == ("source", "instrument", "interval")
    assert Instrument.type.reference
    assert {kind.name for kind in types().values() if kind.reference and kind.family == "market"} == {"instrument"}
    assert types()["trading_day"].reference
