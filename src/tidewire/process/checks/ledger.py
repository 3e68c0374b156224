"""How many findings are shown: a source that breaks must not make a million rows.

Of each source, type, rule and minute of receipt the first are shown; the rest becomes one row with a count, as soon as
a row of that source from a later minute comes. Which are shown depends on frames, not on how they were batched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from tidewire import telemetry
from tidewire.process.checks.rules import Rule
from tidewire.records.batch import findings

_failed = telemetry.counter(
    "checks_failed", "Rows that a check found, flagged or rejected", ("source", "type", "rule", "severity")
)
_rows = telemetry.counter("checks_rows", "Rows that checks looked at", ("source", "type"))

MAX_STREAMS = 10_000
"""Sources, types and rules that are remembered; the oldest are forgotten."""


@dataclass
class _Minute:
    """What a rule found of a source in one minute: how much was shown, and how much was not."""

    minute: datetime
    shown: int = 0
    rest: int = 0


class Ledger:
    """Counts what checks find, and says what of it becomes a row."""

    def __init__(self, shown: int) -> None:
        self._shown = shown
        self._minutes: dict[tuple[str, str, str], _Minute] = {}

    def seen(self, kind: str, rows: pl.DataFrame) -> None:
        """Rows that were looked at."""
        for source, count in rows.group_by("source").len().iter_rows():
            _rows.labels(source, kind).inc(count)

    def enter(
        self, journal: str, kind: str, rules: Mapping[str, Rule], rows: pl.DataFrame, found: pl.DataFrame
    ) -> pl.DataFrame | None:
        """`Finding` rows of what was found of a batch (``rows``, with source, ``ingested_at``, frame and ordinal).

        ``rules`` by short name say how severe each is.
        """
        made: list[dict[str, Any]] = []
        if found.height:
            made += self._shown_of(journal, kind, rules, rows, found)
        for key, minute in self._minutes.items():
            if key[1] == kind and minute.rest:
                made += _rest_of(journal, key, rules, minute, rows)
        if not made:
            return None
        return findings(made).sort("frame", "ordinal", "rule", "event_time", maintain_order=True)

    def _shown_of(
        self, journal: str, kind: str, rules: Mapping[str, Rule], rows: pl.DataFrame, found: pl.DataFrame
    ) -> list[dict[str, Any]]:
        ordered = found.sort("frame", "ordinal", "event_time", "instrument", maintain_order=True)
        ordered = ordered.with_columns(minute=pl.col("ingested_at").dt.truncate("1m"))
        made: list[dict[str, Any]] = []
        parts = ordered.partition_by("source", "rule", "minute", as_dict=True, maintain_order=True)
        for (source, rule, minute), part in parts.items():
            severity = rules[str(rule)].severity
            _failed.labels(source, kind, rule, severity).inc(int(part["count"].sum()))
            key = (str(source), kind, str(rule))
            state = self._minutes.get(key)
            if state is None or state.minute != minute:
                made += [] if state is None else _rest_of(journal, key, rules, state, rows)
                state = self._begin(key, minute)
            free = max(0, self._shown - state.shown)
            made += [_row(journal, kind, severity, one) for one in part.head(free).iter_rows(named=True)]
            state.shown += min(free, part.height)
            state.rest += int(part[free:]["count"].sum())
        return made

    def _begin(self, key: tuple[str, str, str], minute: Any) -> _Minute:
        self._minutes.pop(key, None)
        state = self._minutes[key] = _Minute(minute)
        while len(self._minutes) > MAX_STREAMS:
            del self._minutes[next(iter(self._minutes))]
        return state


def _rest_of(
    journal: str, key: tuple[str, str, str], rules: Mapping[str, Rule], minute: _Minute, rows: pl.DataFrame
) -> list[dict[str, Any]]:
    """What was not shown of a minute, once a row shows that it is over."""
    source, kind, rule = key
    later = _first_after(rows, source, minute.minute) if minute.rest else None
    if later is None:
        return []
    row = _rest_row(journal, kind, rules[rule], minute, {**later, "source": source})
    minute.rest = 0
    return [row]


def _first_after(rows: pl.DataFrame, source: str, minute: datetime) -> dict[str, Any] | None:
    later = rows.filter((pl.col("source") == source) & (pl.col("ingested_at").dt.truncate("1m") > minute)).head(1)
    return later.select("ingested_at", "frame", "ordinal").row(0, named=True) if later.height else None


def _row(journal: str, kind: str, severity: str, one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "source": one["source"],
        "event_time": one["event_time"],
        "journal": journal,
        "frame": one["frame"],
        "ordinal": one["ordinal"],
        "row": one["ordinal"],
        "record_type": kind,
        "rule": one["rule"],
        "instrument": one["instrument"],
        "severity": severity,
        "observed": one["observed"],
        "expected": one["expected"],
        "detail": one["detail"],
        "count": one["count"],
        "public_at": one["ingested_at"],
        "ingested_at": one["ingested_at"],
    }


def _rest_row(journal: str, kind: str, rule: Rule, minute: _Minute, later: Mapping[str, Any]) -> dict[str, Any]:
    one = {
        **later,
        "event_time": minute.minute,
        "rule": rule.short,
        "instrument": None,
        "observed": None,
        "expected": None,
        "detail": f"{minute.rest} more in the minute of receipt from {minute.minute:%H:%M} UTC, not shown one by one",
        "count": minute.rest,
    }
    return _row(journal, kind, rule.severity, one)
