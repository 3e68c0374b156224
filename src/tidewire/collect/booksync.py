"""Keeping an order book in step with its venue: snapshot and updates, joined by the venue's own rule of continuity.

A book is *waiting* (for a snapshot that its updates continue), or *in step*. Updates of a waiting book are kept until
the snapshot comes. An update that does not continue a book in step is held for a moment: two connections may overtake
each other. If what is missing does not come, continuity is lost, and the book waits for another snapshot. A book that
may have missed something (its connection broke) is *unsure* until the next update shows that it did not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Any, Protocol

import msgspec

from tidewire.collect.book import Book, Level

HOLD_UPDATES = 8
HOLD_NS = 500_000_000
"""How many updates, and for how long, may overtake the one that is missing."""
WAITING_MAX = 4_096
"""Updates kept for a snapshot: over six minutes of the fastest stream of one instrument."""


class BookUpdate(msgspec.Struct, gc=False):
    """One update of one book, as it is on the wire; a source renames the fields.

    ``first`` to ``last`` are the venue's update ids it covers; ``prev`` the ``last`` of the update before it, where the
    venue says that. ``at`` is the venue's time in its own unit. Sizes are absolute; zero removes the level.
    """

    symbol: str
    at: int
    first: int
    last: int
    bids: list[Level]
    asks: list[Level]
    prev: int | None = None


class Continuity(Protocol):
    """A venue's rule. ``at`` is the ``last`` of the update before, or the id of the snapshot."""

    def joins(self, at: int, update: BookUpdate) -> bool:
        """Whether nothing lies between a snapshot and the first update after it."""
        ...

    def repeats(self, at: int, update: BookUpdate) -> bool:
        """Whether the update brings nothing that the book does not have."""
        ...

    def continues(self, at: int, update: BookUpdate) -> bool:
        """Whether nothing lies between an update and the next one."""
        ...


class ById:
    """Update ids count on without a hole: ``first`` is the id after the last one (Binance spot)."""

    def repeats(self, at: int, update: BookUpdate) -> bool:
        return update.last <= at

    def joins(self, at: int, update: BookUpdate) -> bool:
        return update.first <= at + 1

    continues = joins


class ByPrevious:
    """Ids have holes, each update names the one before it in ``prev`` (Binance futures)."""

    def repeats(self, at: int, update: BookUpdate) -> bool:
        return update.last <= at

    def joins(self, at: int, update: BookUpdate) -> bool:
        return update.prev == at or update.first <= at <= update.last

    def continues(self, at: int, update: BookUpdate) -> bool:
        return update.prev == at


class Step(Enum):
    """What an update or a snapshot came to."""

    APPLIED = "applied"
    REPEATED = "repeated"
    HELD = "held"
    WAITING = "waiting"
    LOST = "lost"
    JOINED = "joined"
    TOO_OLD = "too old"


class BookSync:
    """One book in step with its venue. A function of the updates, snapshots and their times (ns) alone."""

    __slots__ = ("_fresh", "_held_ns", "_rule", "at", "book", "last", "sure", "synced", "waiting")

    def __init__(self, rule: Continuity) -> None:
        self._rule = rule
        self.book = Book()
        self.last = 0
        """The id of the last update in the book."""
        self.at = 0
        """The venue's time of it; 0 as long as no update followed the snapshot."""
        self.synced = False
        self.sure = False
        """Whether nothing can have been missed since the last update."""
        self.waiting: deque[BookUpdate] = deque(maxlen=WAITING_MAX)
        """Updates that do not continue the book (yet)."""
        self._held_ns = 0
        self._fresh = False  # a snapshot that no update followed yet

    def update(self, update: BookUpdate, ns: int) -> Step:
        """Take an update received at ``ns``; after ``LOST`` it waits for a snapshot with the others."""
        if not self.synced:
            self.waiting.append(update)
            return Step.WAITING
        rule = self._rule
        if rule.repeats(self.last, update):
            if update.prev == update.last == self.last and not self.waiting:
                self.sure = True  # the venue says of a quiet book that it is where ours is
            return Step.REPEATED
        if self._continues(update):
            self._apply(update)
            if self.waiting:
                self._catch_up()
                self._held_ns = ns  # what still waits does so behind another hole
            self.sure = not self.waiting
            return Step.APPLIED
        if not self.waiting:
            self._held_ns = ns
        self.sure = False
        self.waiting.append(update)
        if len(self.waiting) <= HOLD_UPDATES and ns - self._held_ns <= HOLD_NS:
            return Step.HELD
        self.lose()
        return Step.LOST

    def snapshot(self, ident: int, bids: Sequence[Level], asks: Sequence[Level]) -> Step:
        """Take a snapshot; a book in step needs none and is left alone."""
        if self.synced:
            return Step.REPEATED
        rule = self._rule
        later = sorted((each for each in self.waiting if not rule.repeats(ident, each)), key=_by_ids)
        if later and not rule.joins(ident, later[0]):
            return Step.TOO_OLD
        self.book.load(bids, asks)
        self.last, self.at = ident, 0
        self.synced = self.sure = self._fresh = True
        self.waiting.clear()
        self.waiting.extend(later)
        self._catch_up()
        if self.waiting:  # a hole among those that waited: what comes after it needs another snapshot
            self.lose()
            return Step.TOO_OLD
        return Step.JOINED

    def lose(self) -> None:
        """Continuity is lost: nothing is known of the book any more."""
        self.synced = self.sure = False
        self.book.clear()

    def _apply(self, update: BookUpdate) -> None:
        self.book.apply(update.bids, update.asks)
        self.last, self.at = update.last, update.at
        self._fresh = False

    def _continues(self, update: BookUpdate) -> bool:
        return (self._rule.joins if self._fresh else self._rule.continues)(self.last, update)

    def _catch_up(self) -> None:
        """Apply what waited and continues the book, in the venue's order."""
        rule = self._rule
        left = sorted(self.waiting, key=_by_ids)
        self.waiting.clear()
        for place, update in enumerate(left):
            if rule.repeats(self.last, update):
                continue
            if not self._continues(update):
                self.waiting.extend(left[place:])
                return
            self._apply(update)

    # -- state ------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "last": self.last,
            "at": self.at,
            "synced": self.synced,
            "sure": self.sure,
            "held_ns": self._held_ns,
            "fresh": self._fresh,
            "waiting": [msgspec.structs.asdict(update) for update in self.waiting],
            "bids": self.book.bids.levels(),
            "asks": self.book.asks.levels(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Be as `state` said."""
        self.last, self.at = state["last"], state["at"]
        self.synced, self.sure = state["synced"], state["sure"]
        self._held_ns, self._fresh = state["held_ns"], state["fresh"]
        self.waiting.extend(msgspec.convert(each, BookUpdate) for each in state["waiting"])
        self.book.load(*(msgspec.convert(state[side], list[Level]) for side in ("bids", "asks")))


def _by_ids(update: BookUpdate) -> tuple[int, int]:
    return update.last, update.first
