from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from tidewire.records.roles import (
    Amount,
    Coin,
    Count,
    Day,
    Flag,
    Json,
    Ordinal,
    Price,
    Prices,
    Ratio,
    Sequence,
    Size,
    Sizes,
    Symbol,
    Text,
    Time,
    one_of,
    plausible,
    role_of,
)

ROLES: list[tuple[Any, str, pl.DataType, str]] = [
    (Price("A.", unit="USDT"), "price", pl.Decimal(38, 12), "USDT"),
    (Size("A.", unit="BTC"), "size", pl.Decimal(38, 8), "BTC"),
    (Amount("A.", unit="CNY"), "amount", pl.Decimal(38, 8), "CNY"),
    (Coin("A.", unit="ETH"), "coin", pl.Decimal(38, 18), "ETH"),
    (Ratio("A."), "ratio", pl.Float64(), "1"),
    (Count("A."), "count", pl.Int64(), "1"),
    (Ordinal("A."), "ordinal", pl.Int32(), "1"),
    (Sequence("A."), "sequence", pl.Int64(), "1"),
    (Time("A."), "time", pl.Datetime("us", "UTC"), "UTC"),
    (Day("A."), "day", pl.Date(), ""),
    (Text("A."), "text", pl.String(), ""),
    (Symbol("A."), "symbol", pl.String(), ""),
    (Flag("A."), "flag", pl.Boolean(), ""),
    (Json("A."), "json", pl.String(), ""),
    (Prices("A.", unit="USDT"), "prices", pl.List(pl.Decimal(38, 12)), "USDT"),
    (Sizes("A.", unit="BTC"), "sizes", pl.List(pl.Decimal(38, 8)), "BTC"),
]


@pytest.mark.parametrize(("column", "role", "dtype", "unit"), ROLES, ids=[row[1] for row in ROLES])
def test_a_role_fixes_the_storage_type_which_must_not_change(
    column: Any, role: str, dtype: pl.DataType, unit: str
) -> None:
    assert role_of(column) == role
    assert column.dtype == dtype
    assert (column.metadata["unit"], column.description) == (unit, "A.")
    assert column.metadata["example"] is not None


@pytest.mark.parametrize(("column", "role", "dtype", "unit"), ROLES, ids=[row[1] for row in ROLES])
def test_nothing_may_be_missing_unless_it_is_said(column: Any, role: str, dtype: pl.DataType, unit: str) -> None:
    assert not column.nullable
    assert column.metadata["key"] is (role == "symbol")


def verdicts(column: Any, values: list[Any]) -> dict[str, list[bool | None]]:
    rules = column.validation_rules(pl.col("x"))
    frame = pl.DataFrame([pl.Series("x", values, dtype=column.dtype)])
    return {name: frame.select(rule).to_series().to_list() for name, rule in rules.items()}


def test_bounds_of_decimals_are_open_or_closed_as_said() -> None:
    values = [-1, 0, 1]
    assert verdicts(Price("A.", unit="x", above=0, nullable=True), values) == {"min_exclusive": [False, False, True]}
    assert verdicts(Size("A.", unit="x", min=0, nullable=True), values) == {"min": [False, True, True]}
    assert verdicts(Amount("A.", unit="x", nullable=True), values) == {}


def test_counts_may_go_below_zero_only_when_said() -> None:
    assert verdicts(Count("A.", nullable=True), [-1, 0]) == {"min": [False, True]}
    assert verdicts(Count("A.", nullable=True, min=None), [-1]) == {}


def test_a_ratio_is_a_finite_number() -> None:
    found = verdicts(Ratio("A.", nullable=True), [0.1, float("nan"), float("inf"), float("-inf")])
    assert [all(verdict) for verdict in zip(*found.values(), strict=True)] == [True, False, False, False]


def test_a_text_in_the_key_is_not_empty() -> None:
    assert verdicts(Text("A.", key=True), ["", "x"])["min_length"] == [False, True]
    assert "min_length" not in verdicts(Text("A."), [""])


def test_choices_close_the_list_and_the_first_is_the_example() -> None:
    column = Text("A.", choices=("buy", "sell"))
    assert column.metadata is not None
    assert (column.metadata["choices"], column.metadata["example"]) == (("buy", "sell"), "buy")
    assert verdicts(column, ["buy", "Buy", ""])["check__known"] == [True, False, False]


@pytest.mark.parametrize("count", [1, 2, 4, 5, 30])
def test_long_and_short_lists_of_choices_mean_the_same(count: int) -> None:
    choices = [f"c{n}" for n in range(count)]
    frame = pl.DataFrame({"x": [*choices, "c", "", "c30"]})
    found = frame.select(one_of(pl.col("x"), choices)).to_series().to_list()
    assert found == [True] * count + [False] * 3
    assert pl.DataFrame({"x": [None]}, schema={"x": pl.String}).select(one_of(pl.col("x"), choices)).item() is None


def test_plausible_times_are_from_1990_to_2099() -> None:
    step = timedelta(microseconds=1)
    first, end = datetime(1990, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
    frame = pl.DataFrame({"x": [first - step, first, end - step, end]})
    assert frame.select(plausible(pl.col("x"))).to_series().to_list() == [False, True, True, False]
