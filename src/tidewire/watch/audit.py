"""The audit: double-entry bookkeeping over every row that was parsed.

Received = stored + quarantined + duplicate + folded + superseded + filtered + control, for every source, type and
hour; and what the books call stored is what the tables hold. Rows of frames that are accepted but not committed yet
are in flight.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

from tidewire import telemetry
from tidewire.records.batch import FATES
from tidewire.records.clock import utc
from tidewire.records.record import types
from tidewire.store.protocol import Store

# Gaps and quarantined rows are also written beside the rows they came from, so their tables hold more than was
# received under their own name.
BESIDE = frozenset({"gap", "quarantined"})

LOOKS = 3
"""How often books and tables are compared before a difference is believed."""

_difference = telemetry.gauge("audit_difference_rows", "Rows the last audit could not account for")


@dataclass(frozen=True)
class Line:
    """One source, type and hour (UTC, its start)."""

    source: str
    type: str
    hour: str
    received: int
    fates: dict[str, int]

    @property
    def difference(self) -> int:
        """Rows received and not accounted for."""
        return self.received - sum(self.fates.values())


@dataclass(frozen=True)
class Audit:
    """What an audit found. ``difference`` is 0 when every row is accounted for."""

    difference: int
    in_flight_frames: int
    lines: list[Line] = field(default_factory=list[Line])
    tables: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    """By ``type/source``: what the books call stored, and what the table holds, where the two differ."""

    @property
    def totals(self) -> dict[str, int]:
        """Rows by fate, over everything."""
        total = Counter({"received": sum(line.received for line in self.lines)})
        for line in self.lines:
            total.update(line.fates)
        return dict(total)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the API and the command line."""
        lines = [{**asdict(line), "difference": line.difference} for line in self.lines]
        return {
            "difference": self.difference,
            "in_flight_frames": self.in_flight_frames,
            "totals": self.totals,
            "tables": self.tables,
            "lines": lines,
        }


async def audit(store: Store, accepted: int = 0, journal: str = "") -> Audit:
    """Add up the books of a store; ``accepted`` is the journal's last accepted frame, for what is in flight."""
    lines, tables = await _compare(store)
    for _ in range(LOOKS - 1):
        if not tables:
            break
        lines, tables = await _compare(store)  # a commit may have ended between two looks; a true difference stays
    off = sum(abs(line.difference) for line in lines)
    off += sum(abs(both["books"] - both["table"]) for both in tables.values())
    _difference.set(off)
    own = [at for stream, at in store.positions().items() if stream.journal == journal and stream.type in types()]
    in_flight = accepted - min(own, default=0) if accepted else 0
    return Audit(off, max(0, in_flight), lines, tables)


async def _compare(store: Store) -> tuple[list[Line], dict[str, dict[str, int]]]:
    """The books, and where the tables differ from them.

    The store goes on writing meanwhile: a table must hold at least what the books said before it was counted, and at
    most what they say after.
    """
    lines, before = _lines(await store.fates())
    counts = await store.counts()
    _, after = _lines(await store.fates())
    known = types()
    tables: dict[str, dict[str, int]] = {}
    for name, source in sorted(set(counts) | set(before)):
        held = counts.get((name, source), 0)
        booked = min(max(held, before[name, source]), after[name, source])
        # The table of a type that is not loaded cannot be read.
        if name in known and name not in BESIDE and held != booked:
            tables[f"{name}/{source}"] = {"books": booked, "table": held}
    return lines, tables


def _lines(booked: Any) -> tuple[list[Line], Counter[tuple[str, str]]]:
    sums: defaultdict[tuple[str, str, int], Counter[str]] = defaultdict(Counter)
    stored: Counter[tuple[str, str]] = Counter()
    for (name, fate), count in booked.items():
        sums[fate.source, name, fate.hour_us][fate.fate] += count
        if fate.fate == "stored":
            stored[name, fate.source] += count
    known = set(FATES)
    lines = [
        Line(
            source,
            name,
            utc(hour_us * 1_000).isoformat(),
            counted["received"],
            {fate: counted[fate] for fate in sorted(known & set(counted))},
        )
        for (source, name, hour_us), counted in sorted(sums.items())
    ]
    return lines, stored
