"""Families of sites: what belongs to one owner is asked as if it were one host, and left alone together.

A site that drops connections or answers with a block page does so for everything its owner runs. So all sources with
the same ``share`` have one budget, the lowest of their limits, and one breaker: after a refusal nobody asks for
`PAUSE_S`, after `PATIENCE` refusals in a row for `LONG_PAUSE_S`. One answer that is good closes it. Where a source says
that limits may adapt, each refusal also halves the pace, and good answers bring it back bit by bit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tidewire import telemetry
from tidewire.collect.budget import Budget, Budgets, Limits
from tidewire.records.clock import Clock

PAUSE_S = 30.0
PATIENCE = 5
LONG_PAUSE_S = 600.0
SLOWEST = 16.0
"""An adapted pace is at least the allowed one by this."""
EASE = 0.98
"""By how much each good answer brings the pace nearer to the allowed one: half the way back takes some 35."""

_log = telemetry.log("collect")
_refusals = telemetry.counter("collect_family_refusals", "Replies that were refusals, by family of sites", ("family",))


@dataclass(frozen=True)
class Allowed:
    """How much of a family may be asked: requests per second, and how many at once; ``adapts``: slower when refused."""

    per_second: float
    at_once: int = 1
    adapts: bool = False


class Family(Budgets):
    """One budget for every host of an owner."""

    def __init__(self, name: str, clock: Clock, allowed: Allowed) -> None:
        super().__init__(clock)
        self.name = name
        self.allowed = allowed
        self.refusals = 0
        self.slowed = 1.0
        """By how much the pace is below the allowed one."""
        self._in_flight = 0
        self._waiting: deque[asyncio.Event] = deque()
        self._family_budget = Budget(clock, self._limits(), name)

    def _limits(self) -> Limits:
        return Limits(self.allowed.per_second / self.slowed, burst=self.allowed.at_once)

    def of(self, host: str) -> Budget:
        return self._family_budget

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Be one of the requests in flight: no more than ``at_once`` are, of all sources of the family."""
        while self._in_flight >= self.allowed.at_once:
            room = asyncio.Event()
            self._waiting.append(room)
            try:
                await room.wait()
            except asyncio.CancelledError:
                if room.is_set():  # the room it was given is for another
                    self._make_room()
                else:
                    self._waiting.remove(room)
                raise
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            self._make_room()

    def _make_room(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()

    def tighten(self, allowed: Allowed) -> None:
        """Another source of the family says what it allows: the lower counts."""
        lowest = Allowed(
            min(self.allowed.per_second, allowed.per_second),
            min(self.allowed.at_once, allowed.at_once),
            self.allowed.adapts or allowed.adapts,
        )
        if lowest != self.allowed:
            self.allowed = lowest
            self._family_budget.limit(self._limits())

    def refused(self, why: str) -> float:
        """A reply was a refusal: nobody asks for a while; for how many seconds."""
        self.refusals += 1
        _refusals.labels(self.name).inc()
        pause_s = PAUSE_S if self.refusals < PATIENCE else LONG_PAUSE_S
        self._family_budget.pause(pause_s)
        if self.allowed.adapts:
            self._slow(min(2 * self.slowed, SLOWEST))
        _log.warning("sites refuse", family=self.name, refusals=self.refusals, pause_s=pause_s, why=why)
        return pause_s

    def answered(self) -> None:
        """A reply was good."""
        self.refusals = 0
        if self.slowed > 1.0:
            self._slow(max(1.0, self.slowed * EASE))

    def _slow(self, by: float) -> None:
        self.slowed = by
        self._family_budget.limit(self._limits())


class Families:
    """The families of one platform, each made when first asked for."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}

    def of(self, name: str, clock: Clock, allowed: Allowed) -> Family:
        """The family of that name, within these limits too."""
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = Family(name, clock, allowed)
        else:
            family.tighten(allowed)
        return family
