"""A venue's order book in a test: its updates by either rule, and what its book is after each."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from hypothesis import strategies as st

from tidewire.collect import BookUpdate, ById, ByPrevious, Continuity, Level

RULES: dict[str, Continuity] = {"by id": ById(), "by previous": ByPrevious()}


@dataclass
class Venue:
    """What was sent, and the levels (price → size, each side) after each update."""

    rule: str
    updates: list[BookUpdate] = field(default_factory=list)
    books: list[tuple[dict[str, str], dict[str, str]]] = field(default_factory=list)

    def snapshot(self, place: int) -> tuple[int, tuple[list[Level], list[Level]]]:
        """The id and sides of a snapshot taken right after the update at a place."""
        bids, asks = self.books[place]
        return self.updates[place].last, (list(bids.items()), list(asks.items()))

    def top(self, place: int, count: int) -> tuple[list[Level], list[Level]]:
        """The best levels after the update at a place."""
        bids, asks = self.books[place]
        return (
            sorted(bids.items(), key=lambda level: -Decimal(level[0]))[:count],
            sorted(asks.items(), key=lambda level: Decimal(level[0]))[:count],
        )


@st.composite
def venues(draw: st.DrawFn, least: int = 1, most: int = 12) -> Venue:
    """Bids below 100, asks above; prices of any number of digits, sizes of which some are zero."""
    venue = Venue(draw(st.sampled_from(sorted(RULES))))
    by_id = venue.rule == "by id"
    last = draw(st.integers(1, 1_000))
    size = st.sampled_from(["0", "0.000", "1", "2.5", "10.25"])
    bids: dict[str, str] = {}
    asks: dict[str, str] = {}
    for _ in range(draw(st.integers(least, most))):
        changes = [
            [
                (f"{base + number!s}", amount)
                for number, amount in draw(st.lists(st.tuples(st.integers(1, 40), size), max_size=6))
            ]
            for base in (0, 100)
        ]
        if draw(st.booleans()):
            changes[1].append((f"{10_001 + draw(st.integers(0, 9))}.{draw(st.integers(1, 10**12 - 1)):012d}", "1"))
        for side, listed in zip((bids, asks), changes, strict=True):
            for at, amount in listed:
                if float(amount):
                    side[at] = amount
                else:
                    side.pop(at, None)
        first = last + 1 + (0 if by_id else draw(st.integers(0, 3)))
        prev, last = (None if by_id else last), first + draw(st.integers(0, 5))
        venue.updates.append(BookUpdate("BTCUSDT", 1_000 + len(venue.updates), first, last, *changes, prev))
        venue.books.append((dict(bids), dict(asks)))
    return venue
