"""The checker: what the rules find of a batch, before repeats are taken out (rejects) and after it (flags)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from tidewire.process.checks.alone import FOUND, TYPES, Found, Test, boards, failing, prepare, tests, told
from tidewire.process.checks.bars import Bars
from tidewire.process.checks.known import Known
from tidewire.process.checks.ledger import Ledger
from tidewire.process.checks.rules import CheckConfig, Rule
from tidewire.process.checks.tickers import Tickers
from tidewire.records.record import RecordType


@dataclass(frozen=True)
class Looked:
    """Rows of a batch after the rejecting rules: what was prepared of them, and what failed."""

    rows: pl.DataFrame
    prepared: pl.DataFrame
    found: list[Found] = field(default_factory=list[pl.DataFrame])
    reasons: Mapping[int, Mapping[str, str]] = field(default_factory=dict[int, dict[str, str]])
    """By place in ``rows``: the names of the rules that reject it, and what was observed."""


class Checker:
    """Runs the rules; remembers series between batches."""

    def __init__(self, config: CheckConfig | None = None) -> None:
        self.config = config or CheckConfig()
        self._alone: dict[tuple[str, str], list[Test]] = {}
        self._rules: dict[str, dict[str, Rule]] = {}
        self._known = Known()
        self._memory: dict[str, Tickers | Bars] = {}
        self._ledger = Ledger(self.config.shown)
        for kind, memory in zip(TYPES, (Tickers, Bars), strict=True):
            alone = list(self.config.of(kind, own=True))
            for severity in ("reject", "flag"):
                self._alone[kind, severity] = tests(kind, (rule for rule in alone if rule.severity == severity))
            remembering = {rule.short: rule for rule in self.config.of(kind, own=False)}
            self._memory[kind] = memory(remembering)
            self._rules[kind] = {rule.short: rule for rule in alone} | remembering

    def learn(self, rows: pl.DataFrame) -> None:
        """Names and listing days of instruments, from `Instrument` rows."""
        self._known.learn(rows)

    def look(self, kind: RecordType, rows: pl.DataFrame) -> Looked | None:
        """What the rejecting rules say; ``None`` where there is nothing to check. Remembers nothing."""
        if kind.name not in self._memory or rows.is_empty():
            return None
        found = boards(rows.get_column("instrument").to_list())
        if found is None:
            return None
        prepared = prepare(kind.name, rows, found)
        looked: list[Found] = []
        reasons: dict[int, dict[str, str]] = {}
        for test, bad in failing(prepared, self._alone[kind.name, "reject"]):
            one = told(bad, test.rule, test.observed, test.expected)
            looked.append(one)
            for place, observed, expected in zip(bad["place"], one["observed"], one["expected"], strict=True):
                reasons.setdefault(int(place), {})[test.rule.short] = f"{observed}, expected {expected}"
        return Looked(rows, prepared, looked, reasons)

    def flags(self, journal: str, kind: RecordType, looked: Looked, good: pl.DataFrame) -> pl.DataFrame | None:
        """`Finding` rows of a batch: of what was rejected, and of the rows that are kept (``good``)."""
        found = [*looked.found, *self._flagged(kind, looked, good)]
        self._ledger.seen(kind.name, looked.prepared)
        whole = pl.concat(found) if found else pl.DataFrame(schema=FOUND)
        return self._ledger.enter(journal, kind.name, self._rules[kind.name], looked.rows, whole)

    def remember(self, kind: RecordType, looked: Looked, good: pl.DataFrame) -> None:
        """Rows that were processed before a restart: seen, and nothing told."""
        if good.height:
            for _ in self._memory[kind.name].look(_kept(looked, good), self._known):
                pass

    def _flagged(self, kind: RecordType, looked: Looked, good: pl.DataFrame) -> list[Found]:
        if good.is_empty():
            return []
        kept = _kept(looked, good)
        if kept.is_empty():
            return []
        alone = self._alone[kind.name, "flag"]
        found = [told(bad, test.rule, test.observed, test.expected) for test, bad in failing(kept, alone)]
        return found + list(self._memory[kind.name].look(kept, self._known))


def _kept(looked: Looked, good: pl.DataFrame) -> pl.DataFrame:
    """What was prepared of the rows that are kept."""
    if good.height == looked.rows.height:
        return looked.prepared
    return looked.prepared.join(
        good.select("frame", "ordinal"), on=["frame", "ordinal"], how="semi", maintain_order="left"
    )
