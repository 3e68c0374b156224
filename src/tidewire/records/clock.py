"""Time and chance, injected: the only place that reads the wall clock, sleeps or draws random numbers.

Everything that waits, stamps or jitters takes a `Clock` or a `Rng`. This is what makes replay exact:
a run on a recorded journal gets a clock that reads time from the frames, a test gets one it moves by hand.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time (UTC), monotonic time and waiting."""

    def wall_ns(self) -> int:
        """UTC nanoseconds since 1970."""
        ...

    def mono_ns(self) -> int:
        """Nanoseconds of a clock that never goes back; only differences mean something."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; zero or less just yields to other tasks."""
        ...


class Rng(Protocol):
    """The source of chance: jitter, ids, shuffles."""

    def uniform(self, low: float, high: float) -> float:
        """A float in ``[low, high]``."""
        ...

    def token(self, size: int = 8) -> str:
        """``2 * size`` hexadecimal digits."""
        ...


def utc(wall_ns: int) -> datetime:
    """Wall nanoseconds as an aware datetime, cut to microseconds."""
    seconds, nanos = divmod(wall_ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanos // 1_000)


class SystemClock:
    """The machine's own clock."""

    def wall_ns(self) -> int:
        return time.time_ns()

    def mono_ns(self) -> int:
        return time.monotonic_ns()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class UpstreamClock(SystemClock):
    """Wall time told by an upstream with a clock of its own; waiting stays real.

    Until the upstream has said a time, it is the machine's clock. The time of a recording stands still between two
    tells; one that runs goes on from what was told. It never goes back.
    """

    def __init__(self) -> None:
        self._told_ns = 0
        self._told_mono_ns = 0
        self._speed = 0.0

    def tell(self, wall_ns: int, speed: float = 0.0) -> None:
        """The upstream says what time it is, and at how many times real speed it goes on; 0 is not at all."""
        reached_ns = self.wall_ns() if self._told_ns else 0
        self._told_mono_ns = self.mono_ns()
        self._told_ns = max(reached_ns, wall_ns)
        self._speed = speed

    def wall_ns(self) -> int:
        if self._speed:
            return self._told_ns + round((self.mono_ns() - self._told_mono_ns) * self._speed)
        return self._told_ns or time.time_ns()


class ShiftedClock:
    """Another clock, begun at a wall time of its own and gone through at ``speed`` times that clock's pace."""

    def __init__(self, clock: Clock, wall_ns: int, speed: float = 1.0) -> None:
        self._clock = clock
        self._wall_ns = wall_ns
        self._mono_ns = clock.mono_ns()
        self._speed = speed

    def wall_ns(self) -> int:
        return self._wall_ns + self.mono_ns()

    def mono_ns(self) -> int:
        return round((self._clock.mono_ns() - self._mono_ns) * self._speed)

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds / self._speed)


class ManualClock:
    """A clock moved by hand: sleepers wake, in order, when `advance` passes their time."""

    def __init__(self, wall_ns: int = 1_700_000_000_000_000_000) -> None:
        self._wall_ns = wall_ns
        self._mono_ns = 0
        self._order = itertools.count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    def wall_ns(self) -> int:
        return self._wall_ns

    def mono_ns(self) -> int:
        return self._mono_ns

    def jump(self, seconds: float) -> None:
        """Move the wall clock only, as an operator or NTP does."""
        self._wall_ns += round(seconds * 1e9)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        due = self._mono_ns + round(seconds * 1e9)
        heapq.heappush(self._sleepers, (due, next(self._order), future))
        await future

    @property
    def sleepers(self) -> int:
        """How many tasks wait on this clock."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Move both clocks forward, stopping at each sleeper so that what it starts can sleep again."""
        target = self._mono_ns + round(seconds * 1e9)
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            due, _, future = heapq.heappop(self._sleepers)
            self._wall_ns += due - self._mono_ns
            self._mono_ns = due
            if not future.done():
                future.set_result(None)
            await _settle()
        self._wall_ns += target - self._mono_ns
        self._mono_ns = target
        await _settle()


async def _settle() -> None:
    """Let every task that can run reach its next wait."""
    for _ in range(10):
        await asyncio.sleep(0)


class SystemRng:
    """Chance from the operating system."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def token(self, size: int = 8) -> str:
        return self._random.randbytes(size).hex()


class SeededRng:
    """The same chance on every run."""

    def __init__(self, seed: int | str = 0) -> None:
        self._random = random.Random(seed)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def token(self, size: int = 8) -> str:
        return self._random.randbytes(size).hex()
