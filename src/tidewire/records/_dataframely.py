"""The one door to dataframely: what the record types use of it, and nothing else.

A new release of that library is met here; no other module imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
from dataframely import Bool, Column, Datetime, Decimal, Float64, Int32, Int64, List, Schema, String
from dataframely import rule as _rule

__all__ = [
    "Bool",
    "Column",
    "Datetime",
    "Decimal",
    "Float64",
    "Int32",
    "Int64",
    "List",
    "Schema",
    "String",
    "failures",
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
