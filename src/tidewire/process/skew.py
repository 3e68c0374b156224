"""Clock skew of each connection, and rows from the future.

The skew is the rolling minimum of (receive time - event time) in frame order: the clocks' difference plus the
shortest way the wire ever took. A feed whose clock is off has every row off by about that much and none of its rows is
wrong; a single row far below the minimum is. The window is counted in journal frames, so that the verdicts are the
same however the frames were batched and wherever a restart fell.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from tidewire import telemetry

WINDOW_FRAMES = 8_192
TOLERANCE_US = 10_000_000
FIRST_TOLERANCE_US = 86_400_000_000
SHIFT_ROWS = 16
MAX_CONNECTIONS = 4_096

_skew = telemetry.gauge("clock_skew_seconds", "Receive time minus event time at its smallest", ("source", "type"))

Ints = npt.NDArray[np.int64]


@dataclass
class _Window:
    """The smallest difference of the window before this one, and of this one so far."""

    window: int = -1
    before: int | None = None
    now: int | None = None
    ahead: int = 0  # rows in a row that were too far in the future
    ahead_least: int = 0

    @property
    def floor(self) -> int | None:
        known = [value for value in (self.before, self.now) if value is not None]
        return min(known) if known else None

    def turn(self, window: int) -> None:
        """Begin the window that a frame belongs to."""
        if window != self.window:
            # An idle window forgets nothing: the last known value stands until there is a new one.
            self.before = self.now if self.now is not None else self.before
            self.now = None
            self.window = window


class SkewWatch:
    """Estimates the skew of every connection and says which rows cannot be explained by it."""

    def __init__(self) -> None:
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()
        self._reported: dict[tuple[str, str], float] = {}

    @property
    def seconds(self) -> dict[tuple[str, str], float]:
        """The latest estimate by (source, type), in seconds; negative: their clock is ahead of ours."""
        return dict(self._reported)

    def future(self, kind: str, rows: pl.DataFrame, connections: pl.Series) -> pl.Series | None:
        """A mask of rows that lie further in the future than the skew explains, or ``None`` when there are none.

        ``rows`` need ``source``, ``event_time``, ``ingested_at`` and ``frame``, in frame order. Rows stamped with
        the receive time itself say nothing about the skew, nor do rows without a connection: they are of the past.
        """
        received, at = rows["ingested_at"].cast(pl.Int64), rows["event_time"].cast(pl.Int64)
        if at.null_count():  # a row without a time fails a rule of its own
            at = at.zip_with(at.is_not_null(), received)
        late = received.to_numpy() - at.to_numpy()
        frames = rows["frame"].to_numpy()
        mask: npt.NDArray[np.bool_] | None = None
        for name, place in _by_connection(connections):
            mine, at = (late, frames) if place is None else (late[place], frames[place])
            window = self._window((kind, name))
            flagged = _judge(window, mine, at)
            if flagged is not None:
                mask = np.zeros(rows.height, dtype=np.bool_) if mask is None else mask
                mask[slice(None) if place is None else place] = flagged
            if window.floor is not None:
                self._report(str(rows["source"][0 if place is None else int(place[0])]), kind, window.floor)
        return None if mask is None else pl.Series(mask)

    def _window(self, key: tuple[str, str]) -> _Window:
        window = self._windows.pop(key, None) or _Window()
        self._windows[key] = window
        while len(self._windows) > MAX_CONNECTIONS:  # connections that ended long ago
            self._windows.popitem(last=False)
        return window

    def _report(self, source: str, kind: str, floor_us: int) -> None:
        self._reported[source, kind] = floor_us / 1e6
        _skew.labels(source, kind).set(floor_us / 1e6)


def _by_connection(connections: pl.Series) -> Iterator[tuple[str, npt.NDArray[np.int64] | None]]:
    """Where the rows of each connection are; ``None``: all are of one. Counted in Python: a list of pages has many."""
    if not connections.null_count() and connections.min() == connections.max() and len(connections):
        yield str(connections[0]), None
        return
    places: dict[str | None, list[int]] = {}
    for place, name in enumerate(connections.to_list()):
        places.setdefault(name, []).append(place)
    yield from ((name, np.array(mine, dtype=np.int64)) for name, mine in places.items() if name is not None)


def _judge(window: _Window, late: Ints, frames: Ints) -> npt.NDArray[np.bool_] | None:
    told = late[late != 0]  # zero to the microsecond: stamped by us
    if not told.size:
        return None
    least = int(told.min())
    floor = window.floor
    same = frames[0] // WINDOW_FRAMES == frames[-1] // WINDOW_FRAMES == window.window
    if same and floor is not None and least >= floor - TOLERANCE_US and not window.ahead:
        window.now = least if window.now is None else min(window.now, least)
        return None
    return _judge_each(window, late, frames)


def _judge_each(window: _Window, late: Ints, frames: Ints) -> npt.NDArray[np.bool_] | None:
    """The rule itself, row by row; the fast way above is this where nothing is to be seen."""
    flagged = np.zeros(late.size, dtype=np.bool_)
    for place, (value, frame) in enumerate(zip(late.tolist(), frames.tolist(), strict=True)):
        if value == 0:
            continue
        window.turn(frame // WINDOW_FRAMES)
        floor = window.floor
        least = -FIRST_TOLERANCE_US if floor is None else min(floor, 0) - TOLERANCE_US
        if value >= least:
            window.now = value if window.now is None else min(window.now, value)
            window.ahead = 0
            continue
        flagged[place] = True
        window.ahead_least = value if window.ahead == 0 else min(window.ahead_least, value)
        window.ahead += 1
        if window.ahead >= SHIFT_ROWS:  # not single bad rows: a clock was set
            window.now, window.ahead = window.ahead_least, 0
    return flagged if flagged.any() else None
