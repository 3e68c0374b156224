"""The circuit breaker of quarantine: when most of a stream fails, its source is broken, not its data.

It watches the last rows of each source and record type, in the order and the time of their frames, so that it says
the same in a replay, however the frames were cut. Nothing is dropped while it is open: rows go on being stored or
quarantined as the rules say; what ends is the notice for every batch of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tidewire import telemetry
from tidewire.errors import ConfigError

MAX_TURNS = 1_000
"""Turns that are kept until somebody takes them; the oldest are dropped."""

_open = telemetry.gauge("quarantine_breaker_open", "Whether most of a stream is being quarantined", ("source", "type"))

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class BreakerConfig:
    """Open when more than ``share`` of the last rows failed: at most ``rows`` of them, of ``window_s`` seconds.

    With fewer than ``least`` rows in the window nothing is said. Closed again below half of ``share``. A ``share`` of
    1 is never exceeded.
    """

    share: float = 0.5
    rows: int = 1_000
    window_s: float = 300.0
    least: int = 50

    def __post_init__(self) -> None:
        for name, found, low, high in (
            ("share", self.share, 0.01, 1.0),
            ("rows", self.rows, 10, 100_000),
            ("window", self.window_s, 1.0, 86_400.0),
            ("least", self.least, 1, self.rows),
        ):
            if not low <= found <= high:
                raise ConfigError(f"breaker.{name} is {found:g}; valid is {low:g} to {high:g}.")


@dataclass(frozen=True)
class Turn:
    """The breaker of a stream opened or closed: when (receive time, µs), and what was in the window."""

    source: str
    type: str
    opened: bool
    at_us: int
    rows: int
    failed: int

    @property
    def why(self) -> str:
        """For people."""
        return f"source broken, not data: {self.failed:,} of the last {self.rows:,} {self.type} rows were quarantined"


def _no_times() -> Ints:
    return np.empty(0, dtype=np.int64)


def _no_flags() -> Flags:
    return np.empty(0, dtype=np.bool_)


@dataclass
class _Window:
    """The last rows of one stream: when each was received and whether it failed."""

    times: Ints = field(default_factory=_no_times)
    failed: Flags = field(default_factory=_no_flags)
    open: Turn | None = None


class Breaker:
    """One breaker for each source and record type."""

    def __init__(self, config: BreakerConfig | None = None) -> None:
        self.config = config or BreakerConfig()
        self._windows: dict[tuple[str, str], _Window] = {}
        self._turns: deque[Turn] = deque(maxlen=MAX_TURNS)

    @property
    def open(self) -> Mapping[tuple[str, str], Turn]:
        """The streams, by source and type, whose breaker is open, and since when."""
        return {stream: window.open for stream, window in self._windows.items() if window.open is not None}

    def watches(self, source: str, kind: str) -> bool:
        """Whether anything of this stream was seen."""
        return (source, kind) in self._windows

    def is_open(self, source: str, kind: str) -> bool:
        """Whether the breaker of this stream is open."""
        window = self._windows.get((source, kind))
        return window is not None and window.open is not None

    def take(self) -> Iterator[Turn]:
        """What happened since the last call."""
        while self._turns:
            yield self._turns.popleft()

    def see(self, source: str, kind: str, times_us: Ints, failed: Flags | None) -> None:
        """Rows of one stream in the order they came, and which failed (``None``: none did)."""
        window = self._windows.setdefault((source, kind), _Window())
        new = len(times_us)
        if not new:
            return
        flags = np.zeros(new, dtype=np.bool_) if failed is None else failed
        # Receive times never go back within a journal; whole frames are compared with rows of several types.
        since = window.times[-1] if len(window.times) else times_us[0]
        times = np.concatenate((window.times, np.maximum.accumulate(np.maximum(times_us, since))))
        flags = np.concatenate((window.failed, flags))
        if window.open is not None or flags.any():
            self._judge((source, kind), window, times, flags, new)
        window.times, window.failed = times[-self.config.rows :], flags[-self.config.rows :]

    def _judge(self, stream: tuple[str, str], window: _Window, times: Ints, flags: Flags, new: int) -> None:
        """Each new row, with the window that ends at it."""
        config = self.config
        at = np.arange(len(times) - new, len(times))
        begin = np.searchsorted(times, times[at] - round(config.window_s * 1e6), side="right")
        begin = np.maximum(begin, at + 1 - config.rows)
        sums = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(flags)))
        rows, failed = at + 1 - begin, sums[at + 1] - sums[begin]
        opens = (rows >= config.least) & (failed > config.share * rows)
        closes = failed < config.share / 2 * rows
        place = 0
        while True:
            found = np.flatnonzero((opens if window.open is None else closes)[place:])
            if not found.size:
                return
            place += int(found[0])
            opened = window.open is None
            turn = Turn(*stream, opened, int(times[at[place]]), int(rows[place]), int(failed[place]))
            window.open = turn if opened else None
            _open.labels(*stream).set(opened)
            self._turns.append(turn)
