"""Rows and batches for the tests of checking."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl
from hypothesis import strategies as st

from tidewire.records.batch import Batch, Fate, Lineage, fates_of
from tidewire.records.exact import build
from tidewire.records.record import RecordType

START_US = 1_767_600_000_000_000  # 2026-01-05T08:00:00Z
SECOND_US = 1_000_000
JOURNAL = "8c8f4a3e-0000-4000-8000-000000000001"
BTC, ETH = "BTC-USDT.BINANCE", "ETH-USDT.BINANCE"

DEFAULTS: dict[str, dict[str, Any]] = {
    "trade": {"price": "100", "size": "1", "side": "buy"},
    "quote": {"bid_price": "99", "bid_size": "1", "ask_price": "101", "ask_size": "2"},
    "ticker": {"last": "1", "high": "3", "low": "1"},
    "kline": {"open": "1", "high": "3", "low": "1", "close": "2", "volume": "10", "final": True},
    "instrument": {"uid": "u1", "native": "BTCUSDT", "kind": "spot", "status": "trading"},
}


def rows(kind: RecordType, specs: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows from plain values: decimals as text, times as microseconds after `START_US`.

    Without a ``frame`` each row is the next one; it is received a tenth of a second after its own time.
    """
    full: list[dict[str, Any]] = []
    for place, spec in enumerate(specs):
        row = {"source": "binance", "instrument": BTC, "frame": place + 1, "ordinal": 0, **DEFAULTS[kind.name], **spec}
        row.setdefault("event_time", row["frame"] * SECOND_US)
        row.setdefault("public_at", row["event_time"])
        row.setdefault("ingested_at", (row["event_time"] or 0) + SECOND_US // 10)
        full.append(row)
    columns: dict[str, Any] = {}
    for name, dtype in kind.schema.items():
        values = [row.get(name) for row in full]
        if isinstance(dtype, pl.Datetime):
            values = [None if value is None else START_US + value for value in values]
        columns[name] = values
    built = build(kind, columns, len(full))
    assert not built.not_exact
    return built.rows


def trade(number: int | None, **more: Any) -> dict[str, Any]:
    return {"trade_id": str(number), "sequence": number, **more}


def bar(minute: int, interval: str = "1m", minutes: int = 1, **more: Any) -> dict[str, Any]:
    begin = minute * 60 * SECOND_US
    times = {"event_time": begin, "open_time": begin, "close_time": begin + minutes * 60 * SECOND_US}
    return {"interval": interval, "ingested_at": begin + 61 * SECOND_US, **times, **more}


def batch(kind: RecordType, part: pl.DataFrame, prev: int, last: int, connection: str = "ws#1") -> Batch:
    connections = pl.Series("connection", [connection] * part.height, dtype=pl.String)
    until = int(part["ingested_at"].to_physical().max() or START_US) if part.height else START_US  # type: ignore[arg-type]
    lineage = Lineage(JOURNAL, 0, prev, last, until, "trace")
    return Batch(kind, part, lineage, fates=fates_of(part, "received"), connections=connections)


@st.composite
def cuts(draw: st.DrawFn, height: int) -> list[tuple[int, int]]:
    """A way to cut so many rows into batches."""
    inner = draw(st.lists(st.integers(1, max(1, height - 1)), max_size=8, unique=True))
    edges = sorted({0, height, *(place for place in inner if place < height)})
    return list(itertools.pairwise(edges))


def by_fate(fates: Mapping[Fate, int]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for fate, count in fates.items():
        sums[fate.fate] += count
    return sums


def joined(parts: Iterable[pl.DataFrame | None], kind: RecordType) -> pl.DataFrame:
    present = [part for part in parts if part is not None and part.height]
    return pl.concat(present) if present else kind.empty()
