"""The order book of one instrument: levels as they were sent, the best of them always at hand.

An update changes some thirty levels of several thousand, and most of them far from the top. So each side is a
dictionary with, beside it, a short sorted list of its best prices: changing a level costs a dictionary access, and only
levels that appear or vanish near the top touch the list. When it has run short it is made anew from the dictionary.

Prices and sizes stay the text that was sent; a number is only made of a price to compare it with others.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

Level = tuple[str, str]
"""Price and size."""

WINDOW = 64
"""How many of the best prices of a side are kept sorted after the list was made anew."""

ZEROS = frozenset({"0", *("0." + "0" * places for places in range(1, 19))})
"""How venues write that nothing stands at a price."""

_EXACT = 16
"""A number of up to 15 digits (and a point) is a double of its own."""

_Key = float | Decimal

_ALL = float("inf")
"""The worst price of a list that has all there are."""


class Side:
    """One side of a book. ``sign`` is 1 for asks and -1 for bids, so that the best key is the least.

    Levels are known by the text of their price, which a venue writes always the same.
    """

    __slots__ = ("_best", "_sign", "_sizes", "_worst")

    def __init__(self, sign: int) -> None:
        self._sign = sign
        self._sizes: dict[str, str] = {}
        self._best: list[tuple[_Key, str]] = []
        self._worst: _Key = _ALL  # of what is in the list

    def __len__(self) -> int:
        return len(self._sizes)

    def clear(self) -> None:
        """Forget all levels."""
        self._sizes.clear()
        self._best.clear()
        self._worst = _ALL

    def apply(self, changes: Iterable[Level]) -> None:
        """Set what stands at some prices; a size of zero removes the level, one that is not there included.

        `ValueError` for a price that is no number; what stood before it in ``changes`` is applied then.
        """
        sizes = self._sizes
        for price, size in changes:
            if size in ZEROS:
                if sizes.pop(price, None) is not None:
                    self._vanished(price)
            elif price in sizes:
                sizes[price] = size
            else:
                self._appeared(price)
                sizes[price] = size

    def _key(self, price: str) -> _Key:
        return self._sign * (float(price) if len(price) <= _EXACT else _exact(price))

    def _appeared(self, price: str) -> None:
        key = self._key(price)
        if key > self._worst:
            return
        insort(self._best, (key, price))
        if len(self._best) > 2 * WINDOW:
            del self._best[WINDOW:]
            self._worst = self._best[-1][0]

    def _vanished(self, price: str) -> None:
        key = self._key(price)
        if key > self._worst:
            return
        best = self._best
        del best[bisect_left(best, (key, price))]
        if not best:
            self._renew(WINDOW)
        elif self._worst != _ALL:
            self._worst = best[-1][0]

    def _renew(self, count: int) -> None:
        self._best = heapq.nsmallest(count, ((self._key(price), price) for price in self._sizes))
        self._worst = self._best[-1][0] if len(self._best) < len(self._sizes) else _ALL

    def best_key(self) -> _Key | None:
        """The best price as a number, for comparing only; bids are negative. ``None`` on an empty side."""
        return self._best[0][0] if self._best else None

    def top(self, count: int) -> list[Level]:
        """The best levels, best first."""
        if len(self._best) < min(count, len(self._sizes)):
            self._renew(max(count, WINDOW))
        sizes = self._sizes
        return [(price, sizes[price]) for _, price in self._best[:count]]

    def levels(self) -> list[Level]:
        """All levels, in no order."""
        return list(self._sizes.items())


class Levels(NamedTuple):
    """The best levels of both sides, best first."""

    bids: Sequence[Level]
    asks: Sequence[Level]


class Book:
    """Both sides."""

    __slots__ = ("asks", "bids")

    def __init__(self) -> None:
        self.bids = Side(-1)
        self.asks = Side(1)

    def load(self, bids: Iterable[Level], asks: Iterable[Level]) -> None:
        """Take over a snapshot."""
        self.clear()
        self.apply(bids, asks)

    def clear(self) -> None:
        """Forget everything."""
        self.bids.clear()
        self.asks.clear()

    def apply(self, bids: Iterable[Level], asks: Iterable[Level]) -> None:
        """Take over an update."""
        self.bids.apply(bids)
        self.asks.apply(asks)

    def top(self, depth: int) -> Levels:
        """The best ``depth`` levels of each side."""
        return Levels(self.bids.top(depth), self.asks.top(depth))

    @property
    def crossed(self) -> bool:
        """Whether the best bid is not below the best ask: no book of a venue is, so ours is wrong."""
        bid, ask = self.bids.best_key(), self.asks.best_key()
        return bid is not None and ask is not None and -bid >= ask


def _exact(price: str) -> _Key:
    """A long price: without its spare zeros it is mostly short; what stays long is compared exactly."""
    plain = price.rstrip("0").rstrip(".") if "." in price else price
    if len(plain) <= _EXACT:
        return float(plain)
    try:
        return Decimal(plain)
    except InvalidOperation:
        raise ValueError(f"expected a price, found {price[:40]!r}") from None
