"""Sources that stand in for each other: the first that is well asks, those behind it wait for its failure.

Several sites give the same data. Asking all of them all the time wastes what each allows, and is how one gets banned by
all of them; asking one is how data is missed. So sources with one duty are put in an order: whose turn it is asks; when
it failed ``after`` times in a row, or most of its rows are quarantined, or it says nothing, the next one that is well
takes over at once. What failed is tried again every ``retry_s``, beside the one that stands in for it, and has its turn
back after as many good rounds. Where all fail, the turn stays where it is, and the others are tried at that pace.

Every row still says its source; what failed and when is a log line, an event and a metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tidewire import telemetry
from tidewire.errors import ConfigError
from tidewire.records.clock import Clock

_log = telemetry.log("collect")
_turn = telemetry.gauge("collect_source_turn", "Whether it is this source's turn to ask", ("duty", "source"))
_changes = telemetry.counter("collect_turn_changes", "How often a duty went to another source", ("duty",))

SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Duty:
    """What sources stand in for each other for: their order, and when the next one takes over."""

    name: str
    order: tuple[str, ...]
    after: int = 2
    retry_s: float = 60.0

    def __post_init__(self) -> None:
        where = f"failover.{self.name}"
        if len(self.order) < 2 or len(set(self.order)) != len(self.order):
            raise ConfigError(f"{where}: {', '.join(self.order) or 'nothing'}; name two different sources or more.")
        if self.after < 1:
            raise ConfigError(f"{where}.after is {self.after}; valid is 1 and up.")
        if not 1.0 <= self.retry_s <= 86_400.0:
            raise ConfigError(f"{where}.retry is {self.retry_s:g} s; valid is 1s to 24h.")


@dataclass
class _Member:
    """How a source does its duty."""

    failures: int = 0
    good: int = 0
    """Good rounds since it failed."""
    down: bool = False
    broken: bool = False
    """Most of its rows are quarantined."""
    why: str = ""
    tried_ns: int = 0
    """Monotonic time of its last round while it is down."""
    waiting: Callable[[], None] | None = None
    """Called when its turn comes."""


@dataclass
class _Silence:
    """Since when others ask in vain for a sign of whose turn it is; monotonic."""

    since_ns: int = 0
    last_ns: int = 0


@dataclass(frozen=True)
class Standing:
    """How a duty stands: whose turn it is, and why those before it do not have it."""

    duty: str
    turn: str
    failed: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def text(self) -> str:
        """For people."""
        failed = "; ".join(f"{source}: {why}" for source, why in self.failed.items())
        return f"{self.turn} ({failed})" if failed else self.turn


class Succession:
    """One duty and its sources. ``runs`` says whether a source is there at all."""

    def __init__(self, duty: Duty, clock: Clock, runs: Callable[[str], bool], told: Callable[[Standing], None]) -> None:
        self.duty = duty
        self._clock = clock
        self._runs = runs
        self._told = told
        self._members = {source: _Member() for source in duty.order}
        self._silence = _Silence()
        self._active = duty.order[0]
        self._show()

    @property
    def standing(self) -> Standing:
        """Whose turn it is, and why those before it do not have it."""
        failed = {source: member.why for source, member in self._members.items() if member.down}
        return Standing(self.duty.name, self._active, failed)

    def wait(self, source: str, called: Callable[[], None]) -> None:
        """Call ``called`` when the turn comes to that source."""
        self._members[source].waiting = called

    def asks(self, source: str) -> bool:
        """Whether this source should ask now: it is its turn, or it failed and is due to be tried again."""
        if not self._runs(self._active):
            self._down(self._active, "it does not run here")
        if source == self._active:
            return True
        member = self._members[source]
        if member.down:
            now_ns = self._clock.mono_ns()
            # Once it answered well it is tried at its own pace, until that was often enough.
            if member.good or now_ns - member.tried_ns >= self.duty.retry_s * SECOND_NS:
                member.tried_ns = now_ns
                return True
            return False
        self._listen()
        return source == self._active

    def well(self, source: str) -> None:
        """A round of the source was whole."""
        self._heard(source)
        member = self._members[source]
        member.failures = 0
        if member.down and not member.broken:
            member.good += 1
            if member.good >= self.duty.after:
                self._up(source)

    def failed(self, source: str, why: str, *, refused: bool = False) -> None:
        """A round of the source failed, or was not whole; ``refused``: it is known not to answer for a while."""
        self._heard(source)
        member = self._members[source]
        member.failures, member.good = member.failures + 1, 0
        if refused or member.failures >= self.duty.after or member.down:
            self._down(source, why)

    def broken(self, source: str, why: str) -> None:
        """What the source brings is wrong, whatever it answers."""
        self._members[source].broken = True
        self._down(source, why)

    def mended(self, source: str) -> None:
        """What it brings is sound again; its rounds count from now on."""
        self._members[source].broken = False

    def _heard(self, source: str) -> None:
        if source == self._active:
            self._silence = _Silence()

    def _listen(self) -> None:
        """Others ask; whose turn it is has said nothing. Time in which nobody asks (a closed window) does not count."""
        now_ns, silence, patience_ns = self._clock.mono_ns(), self._silence, self.duty.retry_s * SECOND_NS
        if not silence.since_ns or now_ns - silence.last_ns > patience_ns:
            silence.since_ns = now_ns
        silence.last_ns = now_ns
        if now_ns - silence.since_ns >= patience_ns:
            self._down(self._active, f"nothing was heard of it for {self.duty.retry_s:g} s")

    def _down(self, source: str, why: str) -> None:
        member = self._members[source]
        if not member.down:
            member.tried_ns = self._clock.mono_ns()
        member.down, member.why, member.good = True, why, 0
        self._choose()

    def _up(self, source: str) -> None:
        self._members[source] = _Member(waiting=self._members[source].waiting)
        self._choose()

    def _choose(self) -> None:
        """The first that is well has the turn; where none is, it stays where it is."""
        well = [name for name, member in self._members.items() if not member.down and self._runs(name)]
        if not well or well[0] == self._active:
            return
        before, self._active = self._active, well[0]
        self._silence = _Silence()
        _changes.labels(self.duty.name).inc()
        why = self._members[before].why or "the source before it is well again"
        _log.warning("turn changed", duty=self.duty.name, source=self._active, before=before, why=why)
        self._show()
        self._told(self.standing)
        if (called := self._members[self._active].waiting) is not None:
            called()

    def _show(self) -> None:
        for source in self.duty.order:
            _turn.labels(self.duty.name, source).set(source == self._active)


class Successions:
    """The duties of a platform, by the sources that have them."""

    def __init__(self, duties: Sequence[Duty] = ()) -> None:
        self._duties = duties
        self._by_source: dict[str, Succession] = {}
        self.all: list[Succession] = []
        for duty in duties:
            for source in duty.order:
                if other := next((each for each in duties if each is not duty and source in each.order), None):
                    raise ConfigError(
                        f"failover: {source} is in {duty.name} and in {other.name}; a source has one duty at most."
                    )

    def begin(self, clock: Clock, runs: Callable[[str], bool], told: Callable[[Standing], None]) -> None:
        """Before the sources start: who is there, and who hears of changes."""
        self.all = [Succession(duty, clock, runs, told) for duty in self._duties]
        self._by_source = {source: each for each in self.all for source in each.duty.order}

    def of(self, source: str) -> Succession | None:
        """The succession a source is in."""
        return self._by_source.get(source)
