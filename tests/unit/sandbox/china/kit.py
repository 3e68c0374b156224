"""A small market in which every kind of stock is."""

from __future__ import annotations

from datetime import date, datetime

from tidewire.records.clock import ManualClock
from tidewire.sandbox.china.listing import make_listing
from tidewire.sandbox.china.paths import Days
from tidewire.sandbox.china.session import ChinaMarket

SESSION = "2026-12-01T11:45:00+08:00"
SITES = {"symbols": ("BTCUSDT",), "rate": 1.0, "history_hours": 1, "china_stocks": 120, "session_at": SESSION}


def at_ns(text: str) -> int:
    """Shanghai's time as UTC ns."""
    return int(datetime.fromisoformat(f"{text}+08:00").timestamp()) * 1_000_000_000


def china_market(count: int = 120, seed: int = 7, at: str = "2026-12-01T11:45:00") -> ChinaMarket:
    return ChinaMarket(make_listing(seed, count, date(2026, 12, 1)), ManualClock(at_ns(at)), Days())
