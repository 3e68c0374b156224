"""Rows, batches and a naive store in memory, for the store suite."""

from __future__ import annotations

import decimal
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from tidewire.records.batch import Batch, Fate, Lineage, fates_of
from tidewire.records.exact import build
from tidewire.records.market import Kline, Quote, Trade
from tidewire.records.ops import Gap, Quarantined
from tidewire.records.record import RecordType
from tidewire.store.protocol import Query, Result, Store

START_US = 1_767_600_000_000_000  # 2026-01-05T08:00:00Z, a Monday
START = datetime(2026, 1, 5, 8, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def micros(seconds: float) -> int:
    return START_US + round(seconds * 1e6)


DEFAULTS: dict[str, dict[str, Any]] = {
    "trade": {"price": "100", "size": "1", "side": "buy"},
    "quote": {"bid_price": "99", "bid_size": "1", "ask_price": "101", "ask_size": "2"},
    "kline": {"open": "1", "high": "3", "low": "1", "close": "2", "volume": "10", "amount": "20", "final": True},
    "gap": {"record_type": "trade", "cause": "sequence", "state": "open"},
    "finding": {"journal": "j1", "record_type": "trade", "row": 0, "severity": "flag"},
    "quarantined": {"journal": "j1", "record_type": "trade", "row": 0, "reasons": "{}", "state": "open"},
}


def rows(kind: RecordType, specs: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows from plain values: decimals as text, times as seconds after `START`; lineage and defaults filled in."""
    full: list[dict[str, Any]] = []
    for place, spec in enumerate(specs):
        row: dict[str, Any] = {
            "source": "test",
            "instrument": "BTC-USDT.TEST",
            "event_time": spec.get("frame", place),
            "ordinal": place,
            **DEFAULTS.get(kind.name, {}),
            **spec,
        }
        row.setdefault("public_at", row["event_time"])
        row.setdefault("ingested_at", row["event_time"] + 0.5)
        row.setdefault("until_time", row["event_time"] + 1)
        full.append(row)
    columns: dict[str, Any] = {}
    for name, dtype in kind.schema.items():
        values = [row.get(name) for row in full]
        if isinstance(dtype, pl.Datetime):
            values = [None if value is None else micros(value) for value in values]
        columns[name] = values
    built = build(kind, columns, len(full))
    assert not built.not_exact
    return built.rows


def trade(number: int, **more: Any) -> dict[str, Any]:
    return {"trade_id": str(number), "sequence": number, "event_time": number, "frame": number, **more}


def quote(number: int, **more: Any) -> dict[str, Any]:
    return {"sequence": number, "event_time": number, "frame": number, **more}


def bar(minute: int, **more: Any) -> dict[str, Any]:
    """A one-minute bar."""
    return {
        "interval": "1m",
        "event_time": minute * 60,
        "open_time": minute * 60,
        "close_time": (minute + 1) * 60,
        "public_at": (minute + 1) * 60,
        "ingested_at": (minute + 1) * 60 + 0.5,
        "frame": minute + 1,
        **more,
    }


@dataclass
class Feed:
    """Makes the batches of one journal, each continuing the last of its stream."""

    journal: str = "8c8f4a3e-0000-4000-8000-000000000001"
    lane: int = 0
    reached: dict[str, int] = field(default_factory=dict)

    def batch(
        self,
        kind: RecordType,
        specs: Sequence[Mapping[str, Any]] | pl.DataFrame = (),
        *,
        frames: int = 10,
        until: float | None = None,
        **more: Any,
    ) -> Batch:
        """The next batch of a type, covering the next ``frames`` frames; ``until`` in seconds after `START`."""
        frame = specs if isinstance(specs, pl.DataFrame) else rows(kind, specs)
        prev = self.reached.get(kind.name, 0)
        self.reached[kind.name] = prev + frames
        newest = frame["ingested_at"].max()
        last_us = micros(until) if until is not None else micros(0)
        if until is None and isinstance(newest, datetime):
            last_us = (newest - EPOCH) // timedelta(microseconds=1)
        fates = Counter(more.pop("fates", {}))
        fates.update(fates_of(frame, "received"))
        lineage = Lineage(self.journal, self.lane, prev, prev + frames, last_us, "trace")
        return Batch(kind, frame, lineage, fates=fates, **more)

    def mark(self, kind: RecordType, until: float) -> Batch:
        return self.batch(kind, (), until=until)


async def everything(store: Store, kind: RecordType, **more: Any) -> pl.DataFrame:
    """All rows of a type that were ever ingested."""
    more.setdefault("snapshot", at(10_000_000))
    return (await store.read(Query(kind, limit=1_000_000, **more))).rows


async def pages(store: Store, query: Query) -> list[Result]:
    """Every page of a query, at the snapshot of the first."""
    found = [await store.read(query)]
    while found[-1].next is not None:
        again = Query(**{**vars(query), "after": found[-1].next, "snapshot": found[0].snapshot})
        found.append(await store.read(again))
        assert len(found) < 1_000
    return found


def fate_sums(fates: Mapping[tuple[str, Fate], int]) -> Counter[tuple[str, str]]:
    sums: Counter[tuple[str, str]] = Counter()
    for (kind, fate), count in fates.items():
        sums[kind, fate.fate] += count
    return sums


class Naive:
    """What a store promises about rows, written down as plainly as possible: one journal, one type."""

    def __init__(self, kind: RecordType) -> None:
        self.kind = kind
        self.versions: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        self.outcomes: Counter[str] = Counter()

    def take(self, frame: pl.DataFrame) -> None:
        for row in frame.iter_rows(named=True):
            known = self.versions.setdefault(tuple(row[name] for name in self.kind.key), [])
            if known and self._payload(known[-1]) == self._payload(row):
                self.outcomes["duplicate"] += 1
            else:
                self.outcomes["revision" if known else "new"] += 1
                known.append(row)

    def visible(self, snapshot: datetime, as_of: datetime | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for versions in self.versions.values():
            seen = [
                row
                for row in versions
                if row["ingested_at"] <= snapshot and (as_of is None or row["public_at"] <= as_of)
            ]
            found += seen[-1:]
        return sorted(found, key=lambda row: (row["event_time"], row["frame"], row["ordinal"]))

    def _payload(self, row: Mapping[str, Any]) -> list[Any]:
        received = row["event_time"] == row["ingested_at"]
        return [None if name == "event_time" and received else row[name] for name in self.kind.payload]


def bars_by_hand(trades: Iterable[Mapping[str, Any]], seconds: int) -> dict[tuple[str, datetime], dict[str, Any]]:
    """Bars of trades with Python's decimals; trades are given in their true order."""
    with decimal.localcontext(prec=76):
        return _bars_by_hand(trades, seconds)


def _bars_by_hand(trades: Iterable[Mapping[str, Any]], seconds: int) -> dict[tuple[str, datetime], dict[str, Any]]:
    found: dict[tuple[str, datetime], dict[str, Any]] = {}
    for row in trades:
        since = (row["event_time"] - EPOCH) // timedelta(seconds=seconds)
        cell = found.setdefault(
            (row["instrument"], EPOCH + since * timedelta(seconds=seconds)),
            {"open": row["price"], "high": row["price"], "low": row["price"], "volume": 0, "amount": 0, "trades": 0}
            | {"buy_volume": 0, "buy_amount": 0},
        )
        cell["high"], cell["low"] = max(cell["high"], row["price"]), min(cell["low"], row["price"])
        cell["close"] = row["price"]
        cell["volume"] += row["size"]
        cell["amount"] += row["price"] * row["size"]
        cell["trades"] += 1
        if row["side"] == "buy":
            cell["buy_volume"] += row["size"]
            cell["buy_amount"] += row["price"] * row["size"]
    return found


__all__ = [
    "EPOCH",
    "START",
    "Feed",
    "Gap",
    "Kline",
    "Naive",
    "Quarantined",
    "Quote",
    "Trade",
    "at",
    "bar",
    "bars_by_hand",
]
