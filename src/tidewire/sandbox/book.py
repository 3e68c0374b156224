"""A small, consistent order book: every change of a level has its own update id."""

from __future__ import annotations

from tidewire.sandbox.config import SymbolInfo
from tidewire.sandbox.messages import SPOT, Form
from tidewire.sandbox.series import lattice

LEVELS = 50


class Recorder:
    """Levels changed since the last depth update of one cadence."""

    __slots__ = ("asks", "bids", "since")

    def __init__(self, since: int) -> None:
        self.since = since
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}


class Book:
    """Fifty levels a side, ``gap`` ticks apart, one tick of spread; quantities in steps, prices in ticks.

    ``form``: how it is written. ``stride``: by how much update ids go on with each change.
    """

    def __init__(self, info: SymbolInfo, update_id: int, form: Form = SPOT, stride: int = 1) -> None:
        self.info = info
        self._price, self._size = form.price, form.size
        self._stride = stride
        self.gap = lattice(info)
        self.level = info.open_e8 // info.tick_e8 // self.gap
        self.update_id = update_id
        self.recorders: list[Recorder] = []
        self.bids = {self._bid(-place): 5_000 for place in range(LEVELS)}
        self.asks = {self._ask(place): 5_000 for place in range(LEVELS)}
        self._retop()

    def _bid(self, offset: int) -> int:
        return (self.level + offset) * self.gap

    def _ask(self, offset: int) -> int:
        return (self.level + offset) * self.gap + 1

    def _retop(self) -> None:
        self.bid_tick, self.ask_tick = self._bid(0), self._ask(0)
        self.bid_price = self._price(self.bid_tick * self.info.tick_e8)
        self.ask_price = self._price(self.ask_tick * self.info.tick_e8)

    def _set(self, is_bid: bool, tick: int, steps: int) -> None:
        side = self.bids if is_bid else self.asks
        if steps:
            side[tick] = steps
        else:
            del side[tick]
        self.update_id += self._stride
        for recorder in self.recorders:
            (recorder.bids if is_bid else recorder.asks)[tick] = steps

    def set_top(self, is_bid: bool, steps: int) -> None:
        """Another quantity at the best price of a side."""
        self._set(is_bid, self.bid_tick if is_bid else self.ask_tick, steps)

    def set_inner(self, is_bid: bool, place: int, steps: int) -> None:
        """Another quantity at a level behind the best; ``place`` from 1."""
        self._set(is_bid, self._bid(-place) if is_bid else self._ask(place), steps)

    def take(self, buyer_takes: bool, steps: int, fresh: int) -> int:
        """A taker hits the best price; return what was executed, in steps.

        A level used up moves the market by one level; ``fresh`` is the quantity of the levels that appear.
        """
        tick = self.ask_tick if buyer_takes else self.bid_tick
        there = (self.asks if buyer_takes else self.bids)[tick]
        if steps < there:
            self._set(not buyer_takes, tick, there - steps)
            return steps
        if not buyer_takes and self.level <= LEVELS + 1:
            # The price cannot fall to zero: the bottom level is filled up again instead.
            self._set(True, tick, fresh)
            return there
        self._set(not buyer_takes, tick, 0)
        if buyer_takes:
            self.level += 1
            self._set(True, self._bid(0), fresh)
            self._set(True, self._bid(-LEVELS), 0)
            self._set(False, self._ask(LEVELS - 1), fresh)
        else:
            self.level -= 1
            self._set(False, self._ask(0), fresh)
            self._set(False, self._ask(LEVELS), 0)
            self._set(True, self._bid(1 - LEVELS), fresh)
        self._retop()
        return there

    def rows(self, is_bid: bool, levels: dict[int, int], limit: int | None = None) -> list[list[str]]:
        """Levels as the venue writes them, best first."""
        tick, step = self.info.tick_e8, self.info.step_e8
        ordered = sorted(levels, reverse=is_bid)[:limit]
        return [[self._price(at * tick), self._size(levels[at] * step)] for at in ordered]

    def snapshot(self, limit: int) -> dict[str, object]:
        """The body of a depth request and of a partial depth stream."""
        return {
            "lastUpdateId": self.update_id,
            "bids": self.rows(True, self.bids, limit),
            "asks": self.rows(False, self.asks, limit),
        }

    def best(self) -> dict[str, str]:
        """Best bid and ask with their quantities."""
        step = self.info.step_e8
        return {
            "bidPrice": self.bid_price,
            "bidQty": self._size(self.bids[self.bid_tick] * step),
            "askPrice": self.ask_price,
            "askQty": self._size(self.asks[self.ask_tick] * step),
        }
