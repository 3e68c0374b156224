"""The book itself: whatever changes come, the best levels are those of a plain sorted dictionary."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.collect import Book
from tidewire.collect.book import WINDOW, Side

LEVELS = st.tuples(
    st.integers(1, 400).map(lambda ticks: f"{ticks / 100:.2f}"), st.sampled_from(["0", "0.00", "1.5", "3"])
)


@settings(max_examples=60)
@given(st.sampled_from([1, -1]), st.lists(st.lists(LEVELS, max_size=40), max_size=40), st.integers(1, 2 * WINDOW))
def test_the_best_levels_are_those_of_a_sorted_dictionary(
    sign: int, updates: list[list[tuple[str, str]]], depth: int
) -> None:
    side, model = Side(sign), dict[str, str]()
    for number, update in enumerate(updates):
        side.apply(update)
        for price, size in update:
            if float(size):
                model[price] = size
            else:
                model.pop(price, None)
        ordered = sorted(model.items(), key=lambda level: sign * float(level[0]))
        assert side.best_key() == (sign * float(ordered[0][0]) if ordered else None)
        if number % 3 == 0:  # looking at it must not be what keeps it right
            assert side.top(depth) == ordered[:depth]
    assert dict(side.levels()) == model
    assert len(side) == len(model)


def test_long_prices_are_compared_exactly() -> None:
    side = Side(1)
    side.apply([("1.0000000000000000002", "2"), ("1.0000000000000000001", "1"), ("1.00000000000000000000", "0.5")])
    assert [size for _, size in side.top(3)] == ["0.5", "1", "2"]


def test_a_price_that_is_no_number_is_an_error() -> None:
    for price in ("abc", "1.2.3.4.5.6.7.8.9.0"):
        with pytest.raises(ValueError, match=r"convert|expected a price"):
            Side(1).apply([(price, "1")])


def test_crossed() -> None:
    book = Book()
    assert not book.crossed
    book.load([("10", "1"), ("9", "1")], [("11", "1")])
    assert not book.crossed
    book.apply([("11.0", "1")], [])
    assert book.crossed
    book.load([], [("11", "1")])
    assert not book.crossed
    assert book.top(1) == ([], [("11", "1")])
