"""What of the past a warm-up has to look at again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from tidewire.collect import is_history
from tidewire.journal import Frame

HISTORY_BYTES = 32 << 20
"""How much of the history that a collector loaded is looked at: more rows than any memory of the processor holds."""


class Frames(Protocol):
    """What is needed of a journal to read them."""

    def scan(self, *, after: int = 0) -> Iterator[Frame]: ...


class Needed:
    """Which frames of ``(after, last]`` say something about later ones; `of` is asked for each of them, in order.

    A frame of history may hold a thousand rows, and ten thousand such frames took minutes. Its rows are of the past:
    they tell no clock skew, and of repeats and failures only the last ones are remembered.
    """

    def __init__(self, journal: Frames, after: int, last: int) -> None:
        self._left = Counter[tuple[str, str]]()
        for frame in journal.scan(after=after):
            if frame.sequence > last:
                break
            if is_history(frame):
                self._left[frame.origin.source, frame.origin.collector] += len(frame.payload)

    def of(self, frame: Frame) -> bool:
        """Whether the processor is shown this frame."""
        if not is_history(frame):
            return True
        name = frame.origin.source, frame.origin.collector
        self._left[name] -= len(frame.payload)
        return self._left[name] < HISTORY_BYTES
