from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tidewire.records.exact import build, decimals
from tidewire.records.market import FundingRate, OrderBook, Trade
from tidewire.records.reference import TradingDay

PRICE, SIZE, COIN = pl.Decimal(38, 12), pl.Decimal(38, 8), pl.Decimal(38, 18)
PLAIN = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30)
TEXTS = st.one_of(
    NUMBERS.map(str),
    NUMBERS.map("{:f}".format),
    st.decimals(places=12, min_value=-(10**25), max_value=10**25).map("{:f}".format),
    st.from_regex(PLAIN, fullmatch=True),
    st.text("0123456789.+-eE_ ,٣１NaNinf\n\x00−", max_size=12),
    st.text(max_size=6),
)


def taken(text: str | None, dtype: pl.Decimal) -> Decimal | None:
    column, wrong = decimals("x", [text], dtype)
    assert (wrong is not None) == (column[0] is None and text is not None)
    return column[0]


def fits(text: str, dtype: pl.Decimal) -> bool:
    if not PLAIN.fullmatch(text):
        return False
    _sign, digits, exponent = Decimal(text).as_tuple()
    assert isinstance(exponent, int)
    whole = int("".join(map(str, digits)) or "0")
    scaled, left = divmod(whole * 10 ** max(0, exponent + dtype.scale), 10 ** max(0, -exponent - dtype.scale))
    return left == 0 and scaled < 10**38


@given(st.lists(st.none() | TEXTS, max_size=8), st.sampled_from([PRICE, SIZE, COIN]))
@example(["1.0000000000000", "1e3", None, "9" * 26 + "." + "9" * 12], PRICE)
@example(["0.0000000000001"], PRICE)
@example(["1" + "0" * 30], SIZE)
@settings(deadline=None)
def test_text_is_taken_exactly_or_told(texts: list[str | None], dtype: pl.Decimal) -> None:
    column, wrong = decimals("x", texts, dtype)
    assert (column.name, column.dtype, column.len()) == ("x", dtype, len(texts))
    told = [False] * len(texts) if wrong is None else wrong.to_list()
    for text, number, is_wrong in zip(texts, column, told, strict=True):
        if text is None:
            assert (number, is_wrong) == (None, False)
        elif is_wrong:
            assert number is None
            assert not fits(text, dtype)
        else:
            assert fits(text, dtype)
            assert number == Decimal(text)


@given(TEXTS)
@settings(deadline=None)
def test_what_is_taken_is_what_python_reads(text: str) -> None:
    number = taken(text, PRICE)
    if number is not None:
        assert Decimal(text) == number
    try:
        Decimal(text)
    except InvalidOperation:
        assert number is None


@pytest.mark.parametrize(
    "text",
    ["", " ", " 1", "1 ", "1\n", "1_000", "1,000", "٣", "１", "−1", "NaN", "nan", "inf", "0x10", "1e", "e1", ".", "-",
     "1.2.3", "--1", "1-1", "9" * 27, "1e26", "1e-13", "0.1234567890123", "1e999", "1\x00", "true"],
)  # fmt: skip
def test_what_no_price_can_be_is_told(text: str) -> None:
    assert taken(text, PRICE) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("61837.63000000", "61837.63"),
        ("-0", "0"),
        ("+1.5", "1.5"),
        (".5", "0.5"),
        ("5.", "5"),
        ("1e3", "1000"),
        ("1E-12", "0.000000000001"),
        ("100e-14", "0.000000000001"),
        ("1.500000000000000000000000000000000000000000", "1.5"),
        ("0" * 50 + "7", "7"),
        ("9" * 26 + "." + "9" * 12, "9" * 26 + "." + "9" * 12),
        ("0e999", "0"),
    ],
)
def test_common_spellings_of_numbers_are_taken(text: str, number: str) -> None:
    assert taken(text, PRICE) == Decimal(number)


def test_one_bad_text_leaves_the_rows_around_it_alone() -> None:
    column, wrong = decimals("x", ["1.5", "abc", None, "2e1"], PRICE)
    assert column.to_list() == [Decimal("1.5"), None, None, Decimal(20)]
    assert wrong is not None
    assert wrong.to_list() == [False, True, False, False]


def test_a_frame_has_the_types_shape_whatever_is_missing() -> None:
    built = build(Trade.type, {"source": "binance", "price": ["1.5", "2"], "frame": [1, 2]}, 2)
    assert built.rows.schema == Trade.type.schema
    assert built.not_exact == {}
    assert built.rows["source"].to_list() == ["binance", "binance"]
    assert built.rows["frame"].to_list() == [1, 2]
    assert built.rows["size"].null_count() == 2


def test_every_offending_cell_is_named_with_what_was_found() -> None:
    columns = {"price": ["1", "x", "1e-13"], "size": ["0.000000001", "y", "3"]}
    built = build(Trade.type, columns, 3)
    assert built.not_exact == {0: {"size": "0.000000001"}, 1: {"price": "x", "size": "y"}, 2: {"price": "1e-13"}}
    assert built.rows["price"].to_list() == [1, None, None]


def test_one_inexact_text_for_all_rows_is_told_for_each() -> None:
    built = build(Trade.type, {"price": "1e-13", "size": "1e2"}, 2)
    assert built.not_exact == {0: {"price": "1e-13"}, 1: {"price": "1e-13"}}
    assert built.rows["size"].to_list() == [100, 100]


def test_times_are_microseconds_or_know_their_own_unit() -> None:
    at = datetime(2026, 1, 5, 1, 30, tzinfo=UTC)
    millis = pl.Series([at]).cast(pl.Datetime("ms", "UTC"))
    columns = {"event_time": [1_767_576_600_000_000], "public_at": millis, "ingested_at": pl.Series([at])}
    row = build(Trade.type, columns, 1).rows.row(0, named=True)
    assert (row["event_time"], row["public_at"], row["ingested_at"]) == (at, at, at)


def test_days_are_dates_or_iso_text_and_nothing_else() -> None:
    days: list[Any] = ["2026-10-08", None, "2026-1-5", "20261008", "2026-02-30", "", "2026-10-08 "]
    built = build(TradingDay.type, {"day": days}, len(days))
    assert built.rows["day"].to_list() == [date(2026, 10, 8), *[None] * 6]
    assert {place: found["day"] for place, found in built.not_exact.items()} == {
        place: days[place] for place in (2, 3, 4, 5, 6)
    }
    ready = build(TradingDay.type, {"day": [date(2026, 10, 8), None]}, 2)
    assert (ready.rows["day"].to_list(), ready.not_exact) == ([date(2026, 10, 8), None], {})


def test_a_ready_series_is_used_as_it_is() -> None:
    price = pl.Series("whatever", ["1.5"]).cast(PRICE)
    assert build(Trade.type, {"price": price}, 1).rows["price"].to_list() == [Decimal("1.5")]
    texts = pl.Series(["1.5", "x"])
    assert build(Trade.type, {"price": texts}, 2).not_exact == {1: {"price": "x"}}


def test_ratios_come_as_numbers_or_text() -> None:
    built = build(FundingRate.type, {"rate": ["0.0001", "-1e-5", "much", None]}, 4)
    assert built.rows["rate"].to_list() == [0.0001, -1e-5, None, None]
    assert built.not_exact == {2: {"rate": "much"}}
    assert build(FundingRate.type, {"rate": [0.5, None]}, 2).rows["rate"].to_list() == [0.5, None]


@given(st.lists(st.none() | st.lists(st.none() | TEXTS, max_size=4), max_size=5))
@settings(max_examples=40, deadline=None)
@example([["0.1234567890123"]])
@example([["1e3"], [], None, [None], ["x", "1"]])
def test_lists_are_exact_or_told_as_a_whole(lists: list[list[str | None] | None]) -> None:
    built = build(OrderBook.type, {"bid_prices": lists}, len(lists))
    assert built.rows.schema == OrderBook.type.schema
    for place, (texts, numbers) in enumerate(zip(lists, built.rows["bid_prices"].to_list(), strict=True)):
        if texts is not None and not all(text is None or fits(text, PRICE) for text in texts):
            assert numbers is None
            assert built.not_exact[place] == {"bid_prices": texts}
        else:
            assert place not in built.not_exact
            assert numbers == (None if texts is None else [text if text is None else Decimal(text) for text in texts])


def test_no_rows_are_no_problem() -> None:
    built = build(OrderBook.type, {"source": "x", "bid_prices": [], "sequence": [], "event_time": []}, 0)
    assert (built.rows.schema, built.rows.height) == (OrderBook.type.schema, 0)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"pric": ["1", "2"]}, "trade has no column 'pric'. Did you mean 'price'? Valid: source"),
        ({"price": ["1"]}, "column 'price' has 1 values for 2 rows"),
        ({"price": ["1", "2", "3"]}, "column 'price' has 3 values for 2 rows"),
        ({"price": pl.Series(["1"])}, "column 'price' has 1 values for 2 rows"),
    ],
)
def test_columns_that_do_not_fit_the_type_are_refused(columns: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        build(Trade.type, columns, 2)
