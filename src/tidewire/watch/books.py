"""The books beside the tables: what became of the rows of each source, type and hour, and how many are stored.

Received = stored + quarantined + duplicate + folded + superseded + filtered + control; and what the books call stored
is what the table holds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from tidewire.records.batch import FATES, HOUR_US, Fate
from tidewire.records.clock import utc
from tidewire.records.record import types
from tidewire.store.protocol import Store

QUARANTINED = "quarantined"

BESIDE = frozenset({"gap", "finding", QUARANTINED})
"""Types whose rows are also written beside those of others: their tables hold at least what the books say."""

LOOKS = 3
"""How often books and tables are compared before a difference is believed."""


class Spot(NamedTuple):
    """What is added up together: a type, a source, an hour (UTC microseconds of its start)."""

    type: str
    source: str
    hour_us: int

    @property
    def hour(self) -> datetime:
        """The start of the hour."""
        return utc(self.hour_us * 1_000)


@dataclass(frozen=True)
class Scope:
    """What to look at: everything that is not left out. Of hours, those that touch ``[start, end)``."""

    sources: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    start: datetime | None = None
    end: datetime | None = None

    @property
    def hours(self) -> tuple[datetime | None, datetime | None]:
        """The bounds moved out to whole hours."""
        start = None if self.start is None else _floor(self.start)
        end = None if self.end is None else -(-self.end.timestamp() // 3_600) * 3_600
        return start, None if end is None else utc(int(end) * 1_000_000_000)

    def covers(self, spot: Spot) -> bool:
        """Whether a spot is to be looked at."""
        start, end = self.hours
        return (
            (not self.sources or spot.source in self.sources)
            and (not self.types or spot.type in self.types)
            and (start is None or spot.hour >= start)
            and (end is None or spot.hour < end)
        )


EVERYTHING = Scope()


@dataclass(frozen=True)
class Line:
    """One spot: rows received, what became of them, and what the table holds.

    ``booked`` is what the table has to hold by the books, ``table`` what it does; both ``None`` for a type that is not
    loaded: its table cannot be read.
    """

    spot: Spot
    received: int
    fates: Mapping[str, int] = field(default_factory=dict[str, int])
    booked: int | None = None
    table: int | None = None

    @property
    def unaccounted(self) -> int:
        """Rows received without a fate; below 0: fates of rows that were never received."""
        return self.received - sum(self.fates.values())

    @property
    def difference(self) -> int:
        """Rows that are not accounted for, or not where they are booked."""
        return abs(self.unaccounted) + abs((self.table or 0) - (self.booked or 0))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the API and the command line."""
        return {
            "source": self.spot.source,
            "type": self.spot.type,
            "hour": self.spot.hour.isoformat(),
            "received": self.received,
            "fates": dict(self.fates),
            "booked": self.booked,
            "table": self.table,
            "difference": self.difference,
        }


async def lines(store: Store, scope: Scope = EVERYTHING) -> list[Line]:
    """The lines of a scope, by source, type and hour."""
    found = await _compare(store, scope)
    for _ in range(LOOKS - 1):
        if not any(line.difference for line in found):
            break
        found = await _compare(store, scope)  # a commit may have ended between two looks; a true difference stays
    return found


async def _compare(store: Store, scope: Scope) -> list[Line]:
    """The books and the tables.

    The store goes on writing meanwhile: a table must hold at least what the books said before it was counted, and at
    most what they say after.
    """
    books = await store.fates()
    held = await store.counts(*scope.hours)
    before, after = _stored(books), _stored(await store.fates())
    fates = _by_spot(books)
    known = types()
    found: list[Line] = []
    for spot in {*fates, *before, *map(Spot._make, held)}:
        if not scope.covers(spot):
            continue
        counted = fates.get(spot, Counter())
        table = held.get(spot, 0) if spot.type in known else None
        most = after[spot] if spot.type not in BESIDE else max(table or 0, before[spot])
        booked = None if table is None else min(max(table, before[spot]), most)
        shown = {fate: counted[fate] for fate in FATES if fate in counted}
        found.append(Line(spot, counted["received"], shown, booked, table))
    return sorted(found, key=lambda line: (line.spot.source, line.spot.type, line.spot.hour_us))


def _by_spot(books: Mapping[tuple[str, Fate], int]) -> dict[Spot, Counter[str]]:
    found: defaultdict[Spot, Counter[str]] = defaultdict(Counter)
    for (name, fate), count in books.items():
        found[Spot(name, fate.source, fate.hour_us)][fate.fate] += count
    return found


def _stored(books: Mapping[tuple[str, Fate], int]) -> Counter[Spot]:
    """What each table has to hold: the rows booked as stored.

    Every quarantined row is one of that type, also when something was decided about it and it is superseded.
    """
    found: Counter[Spot] = Counter()
    for (name, fate), count in books.items():
        if fate.fate == "stored":
            found[Spot(name, fate.source, fate.hour_us)] += count
        elif fate.fate in {QUARANTINED, "superseded"}:
            found[Spot(QUARANTINED, fate.source, fate.hour_us)] += count
    return found


def _floor(moment: datetime) -> datetime:
    return moment - timedelta(microseconds=round(moment.timestamp() * 1e6) % HOUR_US)
