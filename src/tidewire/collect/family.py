"""Families of sites: what belongs to one owner is asked as if it were one host, and left alone together.

A site that drops connections or answers with a block page does so for everything its owner runs. So all sources with
the same ``share`` have one budget, the lowest of their limits, and one breaker: after a refusal nobody asks for
`PAUSE_S`; when `PATIENCE` tries after that were in vain too, or the site said no in so many words, for `LONG_PAUSE_S`
and a little more. One answer that is good closes it. Where a source says that limits may adapt, each refusal also
halves the pace, and good answers bring it back bit by bit.

A pause outlives the process: whoever was refused writes it down, and the next run goes on with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tidewire import telemetry
from tidewire.collect.browser import Browser
from tidewire.collect.budget import Budget, Budgets, Limits
from tidewire.collect.identity import Identities
from tidewire.collect.proxies import Proxies
from tidewire.records.clock import Clock, Rng

PAUSE_S = 30.0
PATIENCE = 5
"""How often a family that refused is tried again before it is left alone for long."""
LONG_PAUSE_S = 600.0
LONGER = 0.3
"""By up to this share a long pause is longer, so that many who were refused at once do not come back at once."""
JITTER = 0.3
SLOWEST = 16.0
"""An adapted pace is at least the allowed one by this."""
EASE = 0.98
"""By how much each good answer brings the pace nearer to the allowed one: half the way back takes some 35."""

_log = telemetry.log("collect")
_refusals = telemetry.counter("collect_family_refusals", "Replies that were refusals, by family of sites", ("family",))


@dataclass(frozen=True)
class Allowed:
    """How much of a family may be asked: requests per second, and how many at once; ``adapts``: slower when refused.

    ``jitter``: the time between two requests is longer by up to this share, drawn anew each time.
    """

    per_second: float
    at_once: int = 1
    adapts: bool = False
    jitter: float = JITTER


class Family(Budgets):
    """One budget for every host of an owner."""

    def __init__(self, name: str, clock: Clock, allowed: Allowed, rng: Rng | None = None) -> None:
        super().__init__(clock)
        self.name = name
        self.allowed = allowed
        self.refusals = 0
        self.slowed = 1.0
        """By how much the pace is below the allowed one."""
        self._rng = rng
        self._family_budget = Budget(clock, self._limits(), name, rng)

    def _limits(self) -> Limits:
        allowed = self.allowed
        return Limits(
            allowed.per_second / self.slowed, burst=allowed.at_once, at_once=allowed.at_once, jitter=allowed.jitter
        )

    @property
    def paused_until_ns(self) -> int | None:
        """Until when nobody asks, UTC nanoseconds; ``None``: it may be asked."""
        return self._family_budget.paused_until_ns

    def of(self, host: str) -> Budget:
        return self._family_budget

    def tighten(self, allowed: Allowed) -> None:
        """Another source of the family says what it allows: the lower counts."""
        lowest = Allowed(
            min(self.allowed.per_second, allowed.per_second),
            min(self.allowed.at_once, allowed.at_once),
            self.allowed.adapts or allowed.adapts,
            max(self.allowed.jitter, allowed.jitter),
        )
        if lowest != self.allowed:
            self.allowed = lowest
            self._family_budget.limit(self._limits())

    def refused(self, why: str, *, plainly: bool = False, least_s: float = 0.0) -> float:
        """A reply was a refusal: nobody asks for a while; for how many seconds.

        ``plainly``: the site said no (a 403), so that trying again soon would be hammering; ``least_s`` is how long
        it asked to be left alone.
        """
        self.refusals = max(self.refusals, PATIENCE) + 1 if plainly else self.refusals + 1
        _refusals.labels(self.name).inc()
        pause_s = PAUSE_S if self.refusals <= PATIENCE else LONG_PAUSE_S * self._longer()
        pause_s = max(pause_s, least_s)
        self._family_budget.pause(pause_s)
        if self.allowed.adapts:
            self._slow(min(2 * self.slowed, SLOWEST))
        _log.warning("sites refuse", family=self.name, refusals=self.refusals, pause_s=pause_s, why=why)
        return pause_s

    def answered(self) -> bool:
        """A reply was good; whether that ended a row of refusals."""
        was, self.refusals = self.refusals, 0
        if self.slowed > 1.0:
            self._slow(max(1.0, self.slowed * EASE))
        return was > 0

    def remember(self, refusals: int, left_s: float) -> None:
        """What an earlier run wrote down: so many refusals in a row, and how much of the pause is left."""
        self.refusals = max(self.refusals, refusals)
        if left_s > 0:
            self._family_budget.pause(left_s)
            _log.info("sites refused before the start", family=self.name, refusals=refusals, pause_s=left_s)

    def _longer(self) -> float:
        return 1.0 if self._rng is None else self._rng.uniform(1.0, 1.0 + LONGER)

    def _slow(self, by: float) -> None:
        self.slowed = by
        self._family_budget.limit(self._limits())


class Families:
    """The families of one platform, each made when first asked for; and by which ways they are asked."""

    def __init__(
        self, proxies: Proxies | None = None, identities: Identities | None = None, browser: Browser | None = None
    ) -> None:
        self.proxies = proxies or Proxies()
        self.identities = identities or Identities()
        self.browser = browser or Browser()
        self._families: dict[str, Family] = {}

    def of(self, name: str, clock: Clock, allowed: Allowed, rng: Rng | None = None) -> Family:
        """The family of that name, within these limits too."""
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = Family(name, clock, allowed, rng)
        else:
            family.tighten(allowed)
        return family
