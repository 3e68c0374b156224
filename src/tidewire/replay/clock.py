"""A clock that reads time from frames."""

from __future__ import annotations

import asyncio

from tidewire.journal import Frame


class ReplayClock:
    """Says the time of the last frame replayed; waiting costs nothing, because nothing happens between frames."""

    def __init__(self) -> None:
        self._wall_ns = 0
        self._mono_ns = 0

    def follow(self, frame: Frame) -> None:
        """It is now the time of this frame."""
        self._mono_ns += max(0, frame.wall_ns - self._wall_ns) if self._wall_ns else 0
        self._wall_ns = frame.wall_ns

    def wall_ns(self) -> int:
        """Receive time of the last frame."""
        return self._wall_ns

    def mono_ns(self) -> int:
        """Time that passed between the frames so far."""
        return self._mono_ns

    async def sleep(self, seconds: float) -> None:
        """Let others run."""
        await asyncio.sleep(0)
