"""Trades of long ago, held nowhere: each is a function of seed, symbol and its place in time.

One trade each ten seconds. Its price is a sum of waves of all lengths, so that any stretch is made by itself.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from tidewire.sandbox.config import SymbolInfo

HISTORY_GAP_MS = 10_000

Ints = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]

_OCTAVES = range(2, 21)
"""Lengths of the waves as powers of two, in trades: 40 seconds to four months."""


class Columns(NamedTuple):
    """Trades: times in ms, prices in ticks, sizes in steps, whether the buyer is the maker."""

    times: Ints
    ticks: Ints
    steps: Ints
    maker: npt.NDArray[np.bool_]

    def then(self, later: Columns) -> Columns:
        """These and those that follow."""
        return Columns(
            np.concatenate((self.times, later.times)),
            np.concatenate((self.ticks, later.ticks)),
            np.concatenate((self.steps, later.steps)),
            np.concatenate((self.maker, later.maker)),
        )


def jitter(words: _Words) -> Ints:
    """How long after the begin of its ten seconds a trade happens, in ms."""
    return ((words & np.uint64(0xFFFF)) % np.uint64(HISTORY_GAP_MS)).astype(np.int64)


def steps(words: _Words) -> Ints:
    """Sizes of trades in steps."""
    return 1 + ((words >> np.uint64(16)) & np.uint64(0xFFFF)).astype(np.int64) % 20_000


def makers(words: _Words) -> npt.NDArray[np.bool_]:
    """Whether the buyer is the maker."""
    return ((words >> np.uint64(32)) & np.uint64(1)).astype(np.bool_)


def lattice(info: SymbolInfo) -> int:
    """How many ticks lie between two price levels: about 2e-5 of the price."""
    return max(2, info.open_e8 // info.tick_e8 // 50_000)


class DeepHistory:
    """``count`` trades before ``end_ms``, the last of them at the price level ``level``. Places count from the oldest.

    Random numbers and waves depend on how long before ``end_ms`` a trade is, not on how many there are.
    """

    def __init__(self, info: SymbolInfo, seed: int, end_ms: int, count: int, level: int) -> None:
        self.count = count
        self.end_ms = end_ms
        self._begin_ms = end_ms - count * HISTORY_GAP_MS
        self._salt = np.uint64(xxhash.xxh3_64_intdigest(f"{seed}:deep:{info.symbol}".encode()))
        self._gap = lattice(info)
        self._level = level
        self._at_end = int(self._waves(np.zeros(1, dtype=np.int64))[0])

    def places(self, ms: Ints) -> Ints:
        """How many trades happened before each of these times, which are at most ``end_ms``."""
        slots = np.clip((ms - self._begin_ms) // HISTORY_GAP_MS, 0, self.count)
        return slots + ((slots < self.count) & (self._times(slots, self._words(slots)) < ms))

    def _words(self, places: Ints) -> _Words:
        return _mixed((self.count - places).astype(np.uint64) ^ self._salt)

    def _times(self, places: Ints, words: _Words) -> Ints:
        return self._begin_ms + places * HISTORY_GAP_MS + jitter(words)

    def columns(self, low: int, high: int) -> Columns:
        """The trades at places ``low`` to ``high`` (exclusive)."""
        places = np.arange(low, high, dtype=np.int64)
        back = self.count - places
        words = self._words(places)
        maker = makers(words)
        levels = np.maximum(self._level + self._waves(back) - self._at_end, 1)
        return Columns(self._times(places, words), levels * self._gap + np.where(maker, 0, 1), steps(words), maker)

    def _waves(self, back: Ints) -> Ints:
        """Each octave: random heights, straight lines between them; the longer the higher, as in a random walk."""
        total = np.zeros(len(back), dtype=np.int64)
        low, high = int(back.min()), int(back.max())
        for octave in _OCTAVES:
            knots = np.arange(low >> octave, (high >> octave) + 2, dtype=np.int64)
            name = np.uint64((octave * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
            words = _mixed(knots.astype(np.uint64) ^ self._salt ^ name)
            most = 3 * 2 ** (octave // 2)
            heights = (words >> np.uint64(33)).astype(np.int64) % (2 * most + 1) - most
            at = (back >> octave) - knots[0]
            rest = back & ((1 << octave) - 1)
            total += heights[at] + (((heights[at + 1] - heights[at]) * rest) >> octave)
        return total


def _mixed(words: _Words) -> _Words:
    """The finalizer of splitmix64: every bit of a word changes half the bits of the result."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
