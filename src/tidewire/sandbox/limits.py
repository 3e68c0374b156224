"""The venue's request limits."""

from __future__ import annotations

import math
from collections import deque

from tidewire.records.clock import Clock
from tidewire.sandbox.config import LimitConfig

_MINUTE_NS = 60_000_000_000


class WeightMeter:
    """Request weight of the running minute; the loopback client is one IP address.

    Over the limit the answer is 429; a client that goes on all the same is banned with 418.
    """

    def __init__(self, clock: Clock, limits: LimitConfig) -> None:
        self._clock = clock
        self._limits = limits
        self._minute = -1
        self._ignored = 0
        self._banned_until_ns = 0
        self.used = 0

    def spend(self, weight: int) -> tuple[int, int] | None:
        """Count a request; None, or ``(status, retry_after_s)`` when it is refused."""
        now = self._clock.wall_ns()
        if now < self._banned_until_ns:
            return 418, math.ceil((self._banned_until_ns - now) / 1e9)
        minute = now // _MINUTE_NS
        if minute != self._minute:
            self._minute = minute
            self.used = self._ignored = 0
        self.used += weight
        if self.used <= self._limits.weight_per_minute:
            return None
        self._ignored += 1
        if self._ignored > self._limits.ban_after:
            self._banned_until_ns = now + self._limits.ban_s * 1_000_000_000
            return 418, self._limits.ban_s
        return 429, math.ceil(((minute + 1) * _MINUTE_NS - now) / 1e9)

    @property
    def banned_until_ms(self) -> int:
        """When the ban ends; 0 without one."""
        return self._banned_until_ns // 1_000_000


class Window:
    """At most ``most`` events in any ``seconds``."""

    def __init__(self, clock: Clock, most: int, seconds: float) -> None:
        self._clock = clock
        self._span_ns = round(seconds * 1e9)
        self._times: deque[int] = deque(maxlen=most)

    def allow(self) -> bool:
        """Count an event; False when it is one too many."""
        now = self._clock.mono_ns()
        full = len(self._times) == self._times.maxlen and now - self._times[0] < self._span_ns
        if not full:
            self._times.append(now)
        return not full
