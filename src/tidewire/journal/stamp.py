"""Wall times that never go back within a journal."""

from __future__ import annotations

from tidewire import telemetry
from tidewire.records.clock import Clock

OFFSET = telemetry.gauge(
    "journal_clock_offset_seconds", "How far the stamps of frames run ahead of the wall clock after it went back"
)


class Stamper:
    """Stamps frames with wall and monotonic nanoseconds.

    Normally the clock's wall time. When that is behind the last stamp (NTP or an operator set it back), stamps go on
    from the last one at half the monotonic rate until the clock has caught up, so order holds and the error heals.
    ``last_ns`` is the newest stamp already in the journal.
    """

    def __init__(self, clock: Clock, last_ns: int = 0) -> None:
        self._wall = clock.wall_ns
        self._mono = clock.mono_ns
        self._last_ns = last_ns
        self._last_mono_ns = clock.mono_ns()
        self._odd = 0
        self._behind = False

    @property
    def last_ns(self) -> int:
        """The newest stamp."""
        return self._last_ns

    def horizon(self) -> int:
        """A time that no later frame will be stamped before, at least a microsecond past the last one."""
        self._last_ns = max(self.stamp()[0], self._last_ns + 1_000)
        return self._last_ns

    def stamp(self, wall_ns: int | None = None) -> tuple[int, int]:
        """Wall and monotonic time of now; a ``wall_ns`` given by the caller counts unless it is before the last."""
        mono = self._mono()
        wall = self._wall() if wall_ns is None else wall_ns
        if wall >= self._last_ns:
            self._last_ns = wall
            if self._behind:
                self._behind = False
                OFFSET.set(0.0)
        elif wall_ns is None:
            half, self._odd = divmod(max(0, mono - self._last_mono_ns) + self._odd, 2)
            self._last_ns += half
            self._behind = True
            OFFSET.set((self._last_ns - wall) / 1e9)
        self._last_mono_ns = mono
        return self._last_ns, mono
