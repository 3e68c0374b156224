"""A filter means the same on a frame as in a table."""

from __future__ import annotations

import fnmatch

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.errors import QueryError
from tidewire.records.market import Kline, OrderBook, Trade
from tidewire.store.where import conditions

TEXT = st.text(alphabet="aB.*%_\\[]()^$-+|?\n 交", max_size=6)


@settings(max_examples=300, deadline=None)
@given(pattern=TEXT.filter(lambda text: "*" in text), text=TEXT)
def test_a_pattern_means_the_same_everywhere(pattern: str, text: str) -> None:
    (condition,) = conditions(Trade.type, {"instrument": [pattern]})
    frame = pl.DataFrame({"instrument": [text]})
    expected = fnmatch.fnmatchcase(text, pattern.replace("[", "[[]").replace("?", "[?]"))
    assert frame.select(condition.expression(pl.String())).item() is expected
    (like,) = condition.likes()
    assert duckdb.execute("SELECT ? LIKE ? ESCAPE '\\'", [text, like]).fetchall() == [(expected,)]


def test_values_take_the_type_of_their_column() -> None:
    where = {"final": ["true", "FALSE"], "trades": ["7"], "open": ["1.50"], "open_time": ["2026-01-05", "1000000"]}
    found = {condition.column: condition.values for condition in conditions(Kline.type, where)}
    assert found["final"] == (True, False)
    assert found["trades"] == (7,)
    assert str(found["open"][0]) == "1.50"
    assert [moment.isoformat() for moment in found["open_time"]] == [
        "2026-01-05T00:00:00+00:00",
        "1970-01-01T00:00:01+00:00",
    ]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("final", "yes", "true or false"),
        ("trades", "9223372036854775808", "whole"),
        ("open", "NaN", "decimal"),
        ("open", "1e40", "decimal"),
        ("open_time", "yesterday", "RFC 3339"),
    ],
)
def test_values_that_cannot_be_are_told(column: str, value: str, words: str) -> None:
    with pytest.raises(QueryError, match=words):
        conditions(Kline.type, {column: [value]})


def test_lists_cannot_be_filtered_by() -> None:
    with pytest.raises(QueryError, match="lists"):
        conditions(OrderBook.type, {"bid_prices": ["1"]})
