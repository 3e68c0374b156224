"""Checks of quotes and bars beside the rules of their types: what rows must be on a market whose rules are known.

A rule either rejects a row, which then goes into quarantine, or flags it: the row is stored and a `Finding` recorded.
Only rows of the mainland exchanges are looked at; batches of others cost one look at their instruments.
"""

from __future__ import annotations

from tidewire.process.checks.checker import Checker, Looked
from tidewire.process.checks.rules import RULES, CheckConfig, Rule, read_checks

__all__ = ["RULES", "CheckConfig", "Checker", "Looked", "Rule", "read_checks"]
