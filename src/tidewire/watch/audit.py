"""The audit: double-entry bookkeeping over every row that was parsed.

Every row has exactly one fate, and what the books call stored is what the tables hold: `books` adds that up for every
source, type and hour, `trace` names the rows where it does not. Rows of frames that are accepted but not committed yet
are in flight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tidewire.records.record import types
from tidewire.store.protocol import Store
from tidewire.watch.books import EVERYTHING, Line, Scope, lines
from tidewire.watch.trace import Evidence, Traced, Tracer

Which = Literal["none", "differing", "all"]
"""Whose rows are named: of no line, of those that differ, of all. The last also finds what no sum shows."""


@dataclass(frozen=True)
class Accepted:
    """The journal frames come in through, and its last accepted frame."""

    journal: str = ""
    last: int = 0


@dataclass(frozen=True)
class Audit:
    """What an audit found. ``difference`` is 0 when every row is accounted for and where it is booked.

    ``in_flight`` is, for each type, how many accepted frames are not committed. ``frames`` names what differs.
    """

    lines: list[Line] = field(default_factory=list[Line])
    in_flight: Mapping[str, int] = field(default_factory=dict[str, int])
    frames: list[Traced] | None = None

    @property
    def difference(self) -> int:
        """Rows that are not accounted for, or not where they are booked."""
        return sum(line.difference for line in self.lines)

    @property
    def in_flight_frames(self) -> int:
        """Accepted frames that are not committed for every type."""
        return max(self.in_flight.values(), default=0)

    @property
    def totals(self) -> dict[str, int]:
        """Rows by fate, over everything."""
        total = Counter({"received": sum(line.received for line in self.lines)})
        for line in self.lines:
            total.update(line.fates)
        return dict(total)

    @property
    def sound(self) -> bool:
        """Whether nothing differs, and nothing that was looked at is other than its frame."""
        return not self.difference and not any(one.counts or one.books for one in self.frames or ())

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the API and the command line."""
        return {
            "difference": self.difference,
            "sound": self.sound,
            "in_flight_frames": self.in_flight_frames,
            "in_flight": dict(self.in_flight),
            "totals": self.totals,
            "lines": [line.as_dict() for line in self.lines],
            "frames": None if self.frames is None else [one.as_dict() for one in self.frames],
        }


async def audit(
    store: Store,
    accepted: Accepted | None = None,
    scope: Scope = EVERYTHING,
    evidence: Evidence | None = None,
    which: Which = "none",
) -> Audit:
    """Add up the books of a store within a scope, and name what differs as far as there is evidence."""
    flying = _in_flight(store, accepted or Accepted())
    found = await lines(store, scope)
    if evidence is None or which == "none":
        return Audit(found, flying)
    chosen = [line for line in found if which == "all" or line.difference]
    return Audit(found, flying, await Tracer(store, evidence).trace(chosen))


def _in_flight(store: Store, accepted: Accepted) -> dict[str, int]:
    reached: dict[str, int] = {}
    for stream, at in store.positions().items():
        if stream.journal == accepted.journal:
            reached[stream.type] = min(at, reached.get(stream.type, at))
    return {name: max(0, accepted.last - reached.get(name, 0)) for name in types()}
