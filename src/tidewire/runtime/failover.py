"""Fail-over: the ``failover`` section of a platform, and who tells its successions what became of the rows."""

from __future__ import annotations

from collections.abc import Mapping

from tidewire.bus import Bus, Full
from tidewire.collect import AppRegistry, Duty, Standing, Successions, seconds
from tidewire.collect.succession import Succession
from tidewire.errors import ConfigError, nearest
from tidewire.records.clock import Clock, Rng
from tidewire.records.event import Event, notice
from tidewire.runtime.config import Loaded
from tidewire.runtime.running import Sources

TURNS = 1_000


def successions_of(loaded: Loaded, registry: AppRegistry) -> Successions:
    """Who stands in for whom, checked; `ConfigError` names what is wrong."""
    known = [found.name for found in registry.list()]
    duties: list[Duty] = []
    for name, section in loaded.config.failover.items():
        where = f"{loaded.origin}: failover.{name}"
        for source in section.order:
            if source not in known:
                raise ConfigError(f"{where}: no source {source!r}.{nearest(source, known)}")
        retry_s = seconds(section.retry, f"{where}.retry")
        duties.append(Duty(name, tuple(section.order), section.after, retry_s))
    return Successions(duties)


class Failover:
    """The successions of a running platform."""

    def __init__(self, successions: Successions) -> None:
        self.successions = successions

    def begin(self, sources: Sources, bus: Bus, clock: Clock, rng: Rng) -> None:
        """Before the sources start."""

        def told(standing: Standing) -> None:
            facts = {"duty": standing.duty, "turn": standing.turn, "failed": dict(standing.failed)}
            bus.offer(notice(f"collector.{standing.turn}.turn", standing.turn, facts, clock, rng))

        self.successions.begin(clock, lambda name: sources.get(name) is not None, told)
        if self.successions.all:
            bus.subscribe("control.quarantine.*", self._turned, queue=TURNS, full=Full.DROP_OLDEST, name="failover")

    def waits_for(self, source: str) -> str:
        """Whose turn it is, where that is not this source's and nothing is wrong with it; empty otherwise."""
        succession = self.successions.of(source)
        if succession is None:
            return ""
        standing = succession.standing
        return "" if source == standing.turn or source in standing.failed else standing.turn

    @property
    def checks(self) -> Mapping[str, str]:
        """For health: whose turn it is, and what is wrong with those before."""
        return {f"failover {each.duty.name}": each.standing.text for each in self.successions.all}

    def _turned(self, event: Event) -> None:
        """The breaker of a stream opened or closed."""
        facts = event.facts
        succession: Succession | None = self.successions.of(facts["source"])
        if succession is None:
            return
        if event.subject.endswith(".opened"):
            why = f"{facts['quarantined']:,} of its last {facts['rows']:,} {facts['type']} rows were quarantined"
            succession.broken(facts["source"], why)
        else:
            succession.mended(facts["source"])
