"""By which way a source asks: over which proxy, and as which browser."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tidewire.collect.identity import Identities, Identity
from tidewire.collect.proxies import Pool, Proxy
from tidewire.records.clock import Clock, Rng


@dataclass(frozen=True)
class Way:
    """How one request goes. ``proxy``: none, or that of the client's own configuration, where it is ``None``."""

    proxy: Proxy | None = None
    identity: Identity | None = None


DIRECT = Way()
"""As the client is configured, and as nobody else."""


@dataclass(frozen=True)
class Choice:
    """What a source chooses from: a pool whose proxies it can use (``schemes``), or its one ``proxy``; identities."""

    family: str
    pool: Pool | None = None
    schemes: frozenset[str] = frozenset({"http", "https"})
    proxy: str = field(default="", repr=False)
    identities: Identities = field(default_factory=lambda: Identities(()))


class Ways:
    """The ways of one source. What is known of proxies and who wears what is shared by all of its family."""

    def __init__(self, choice: Choice, clock: Clock, rng: Rng) -> None:
        self._choice = choice
        self._clock = clock
        self._rng = rng

    async def take(self) -> Way:
        """The way of the next request; `RateLimited` while every proxy rests."""
        choice = self._choice
        proxy = await choice.pool.take(choice.family, choice.schemes) if choice.pool is not None else None
        return Way(proxy, choice.identities.worn(choice.family, self._place(proxy), self._clock, self._rng))

    def good(self, way: Way, seconds: float) -> None:
        """It brought what was asked for, in so long."""
        if self._choice.pool is not None and way.proxy is not None:
            self._choice.pool.good(way.proxy, self._choice.family, seconds)

    def failed(self, way: Way, why: str, least_s: float = 0.0) -> bool:
        """It brought nothing, or a refusal: another browser next time, and its proxy rests.

        Whether another way is left, so that the family need not be left alone.
        """
        choice = self._choice
        choice.identities.change(choice.family, self._place(way.proxy), self._clock, self._rng)
        if choice.pool is None or way.proxy is None:
            return False
        choice.pool.failed(way.proxy, choice.family, why, least_s)
        return choice.pool.others(choice.family, choice.schemes)

    @property
    def status(self) -> dict[str, Any]:
        """The pool and its proxies, for people; empty without a pool."""
        choice = self._choice
        return {} if choice.pool is None else {"pool": choice.pool.name, "proxies": choice.pool.status(choice.family)}

    def _place(self, proxy: Proxy | None) -> str:
        return self._choice.proxy if proxy is None else proxy.key
