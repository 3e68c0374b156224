"""The newest accepted frames in memory, for readers that are near the head."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import islice

from tidewire.journal.frame import Frame


class Recent:
    """Groups of frames as they were accepted, without holes; the oldest groups go when ``most`` bytes are passed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._groups: deque[tuple[Sequence[Frame], int]] = deque()
        self._firsts: deque[int] = deque()
        self._bytes = 0

    def add(self, frames: Sequence[Frame], size: int) -> None:
        """Add the next group; ``size`` in bytes."""
        self._groups.append((frames, size))
        self._firsts.append(frames[0].sequence)
        self._bytes += size
        while self._bytes > self._most:
            self._firsts.popleft()
            self._bytes -= self._groups.popleft()[1]

    def read(self, after: int, most: int, room: int) -> list[Frame] | None:
        """At most ``most`` frames and about ``room`` bytes after ``after``; None when that is no longer in memory."""
        firsts = self._firsts
        if not firsts or after + 1 < firsts[0]:
            return None
        place = bisect_right(firsts, after + 1) - 1
        skip = after + 1 - firsts[place]
        found: list[Frame] = []
        for frames, size in islice(self._groups, place, None):
            part = frames[skip : skip + most - len(found)]
            if size > room:
                for frame in part:
                    found.append(frame)
                    room -= len(frame.payload)
                    if room <= 0:
                        break
            else:
                found.extend(part)
                room -= sum(len(frame.payload) for frame in part)
            if len(found) >= most or room <= 0:
                break
            skip = 0
        return found
