"""The one door to dataframely: what the record types use of it, and nothing else.

A new release of that library is met here; no other module imports it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import polars as pl
from dataframely import Bool, Column, Date, Datetime, Decimal, Float64, Int32, Int64, List, Schema, String
from dataframely import rule as _rule

__all__ = [
    "Bool",
    "Column",
    "Date",
    "Datetime",
    "Decimal",
    "Float64",
    "Int32",
    "Int64",
    "List",
    "Schema",
    "String",
    "failures",
    "quick_tests",
    "rule",
    "rules_of",
]


def rule(check: Callable[[Any], pl.Expr]) -> Any:
    """Mark a method of a record type as a rule: an expression that is true for a good row, null counts as true."""
    return _rule()(check)


def rules_of(schema: type[Schema]) -> dict[str, pl.Expr]:
    """Every rule of a schema by name (``price|min``, ``not_crossed``), in a fixed order."""
    rules = schema._validation_rules(with_cast=False)  # pyright: ignore[reportPrivateUsage]
    return {name: found.expr for name, found in rules.items()}


def quick_tests(column: Column) -> dict[str, Callable[[pl.Series], bool]]:
    """For the rules of a column that an aggregate answers: rule name → whether a whole Series keeps it.

    They say the same as the rules' expressions and cost a microsecond instead of fifteen.
    """
    tests: dict[str, Callable[[pl.Series], bool]] = {}
    if not column.nullable:
        tests["nullability"] = _no_null
    if isinstance(column, (Decimal, Int32, Int64)):
        if column.min is not None:
            tests["min"] = functools.partial(_at_least, column.min)
        if column.min_exclusive is not None:
            tests["min_exclusive"] = functools.partial(_above, column.min_exclusive)
    if isinstance(column, String) and column.min_length == 1:
        tests["min_length"] = _no_empty
    return tests | (column.metadata or {}).get("quick", {})


def _no_null(series: pl.Series) -> bool:
    return series.null_count() == 0


def _no_empty(series: pl.Series) -> bool:
    return series.min() != ""  # no text is smaller


def _at_least(bound: Any, series: pl.Series) -> bool:
    least: Any = series.min()
    return least is None or least >= bound


def _above(bound: Any, series: pl.Series) -> bool:
    least: Any = series.min()
    return least is None or least > bound


def failures(schema: type[Schema], rows: pl.DataFrame) -> list[list[str]]:
    """For rows that all fail, the names of the rules each one fails.

    This is dataframely's own evaluation: slow, and independent of the precompiled mask it explains.
    """
    _, info = schema.filter(rows)
    verdicts = info.details().select(list(rules_of(schema)))
    if verdicts.height != rows.height:
        raise ValueError(f"{rows.height} rows were said to fail, {verdicts.height} do")
    names = verdicts.columns
    return [[name for name, verdict in zip(names, row, strict=True) if verdict == "invalid"] for row in verdicts.rows()]
