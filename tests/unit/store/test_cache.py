"""The latest value of each series, however the batches come."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.store_kit import Feed, bar, quote, rows, trade
from tidewire import telemetry
from tidewire.errors import QueryError
from tidewire.records.market import Kline, Quote, Trade
from tidewire.store import cache as module
from tidewire.store.cache import LatestCache


def test_nothing_known_has_the_shape() -> None:
    assert LatestCache().get(Trade.type).equals(Trade.type.empty())


def test_the_last_row_of_each_series() -> None:
    cache, feed = LatestCache(), Feed()
    cache.update(feed.batch(Trade.type, [trade(n, instrument=f"I{n % 2}.A") for n in range(6)]))
    cache.update(feed.batch(Trade.type, [trade(9, instrument="I1.A")]))
    found = cache.get(Trade.type)
    assert found["sequence"].to_list() == [4, 9]
    assert found.schema == Trade.type.schema
    assert cache.get(Trade.type, {"instrument": ["I1.*"]})["sequence"].to_list() == [9]
    assert cache.get(Trade.type, {"instrument": ["I0.A", "I1.A"], "side": ["sell"]}).is_empty()
    assert cache.get(Quote.type).is_empty()


def test_forming_rows_are_shown_until_the_final_one() -> None:
    cache, feed = LatestCache(), Feed()
    forming = rows(Kline.type, [bar(1, final=False, close="3", frame=5)])
    cache.update(feed.batch(Kline.type, [bar(0)], forming=forming))
    assert cache.get(Kline.type).select("close", "final").cast(pl.String).row(0) == ("3.000000000000", "false")
    cache.update(feed.batch(Kline.type, [bar(1, frame=11)]))
    assert cache.get(Kline.type)["final"].to_list() == [True]


def test_a_late_row_replaces_nothing() -> None:
    cache, feed = LatestCache(), Feed()
    cache.update(feed.batch(Trade.type, [trade(5), trade(3, frame=6)]))
    cache.update(feed.batch(Trade.type, [trade(4, frame=11)]))
    assert cache.get(Trade.type)["sequence"].to_list() == [5]


def test_the_series_updated_longest_ago_is_dropped_and_counted() -> None:
    cache, feed = LatestCache(max_series=2), Feed()
    before = telemetry.value("tidewire_cache_evictions_total", type="quote")
    for n, name in enumerate("ABAC"):
        cache.update(feed.batch(Quote.type, [quote(n, instrument=f"{name}.X")]))
        cache.get(Quote.type)
    assert cache.get(Quote.type)["instrument"].to_list() == ["A.X", "C.X"]
    assert telemetry.value("tidewire_cache_evictions_total", type="quote") == before + 1
    assert telemetry.value("tidewire_cache_series", type="quote") == 2


def test_memory_is_bounded_without_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MERGE_BATCHES", 4)
    cache, feed = LatestCache(max_series=3), Feed()
    for n in range(50):
        cache.update(feed.batch(Trade.type, [trade(n, instrument=f"I{n}.A")]))
    known = cache._types[Trade.type.table]
    assert len(known.waiting) <= 4
    assert known.rows.height <= 3


def test_a_filter_that_cannot_be_is_told() -> None:
    with pytest.raises(QueryError, match="'instrument'"):
        LatestCache().get(Trade.type, {"instrumnt": ["x"]})


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_pieces_give_the_same(data: Any) -> None:
    numbers = data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), min_size=1, max_size=30))
    specs = [
        quote(n, frame=place + 1, event_time=when, instrument=f"I{which}.A")
        for place, (which, when) in enumerate(numbers)
        for n in [place]
    ]
    cache, feed = LatestCache(), Feed()
    while specs:
        size = data.draw(st.integers(1, len(specs)))
        cache.update(feed.batch(Quote.type, specs[:size]))
        specs = specs[size:]
        if data.draw(st.booleans()):
            cache.get(Quote.type)
    expected: dict[int, tuple[int, int]] = {}
    for place, (which, when) in enumerate(numbers):
        expected[which] = max(expected.get(which, (-1, -1)), (when, place))
    assert cache.get(Quote.type)["sequence"].to_list() == [expected[which][1] for which in sorted(expected)]
