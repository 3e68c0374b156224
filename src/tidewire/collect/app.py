"""An App is one data source: it owns its clients, limits and collectors.

This is the plugin interface. A source is a subclass of `App` found through the entry point group ``tidewire.apps`` or
the plugin directory; it needs nothing else of Tidewire than `tidewire.collect` and `tidewire.records`.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from tidewire import telemetry
from tidewire.bus import Bus, Full, Handler, Subscription
from tidewire.collect import control
from tidewire.collect.collector import Collector
from tidewire.collect.config import SourceConfig
from tidewire.collect.cursors import Cursors
from tidewire.collect.family import Families
from tidewire.collect.fill import Missing
from tidewire.collect.http import Reply
from tidewire.collect.parser import Parser
from tidewire.collect.silence import Expected
from tidewire.collect.succession import Successions
from tidewire.errors import BusClosed, InputError, JournalError, NotFound, TerminalError, nearest
from tidewire.journal import Journal, Kind, Origin
from tidewire.records.clock import Clock, Rng, UpstreamClock
from tidewire.records.event import notice
from tidewire.records.instrument import InstrumentBook

NOTE = "NOTE"
"""The request of a frame that was not received: a collector's note to its parser."""

if TYPE_CHECKING:
    from tidewire.collect.control import GapTold

_log = telemetry.log("collect")
_up = telemetry.gauge("source_up", "Whether a source was started and not stopped", ("source",))


class Known(Protocol):
    """Reads what is stored."""

    async def __call__(self, kind: str, column: str, where: Mapping[str, Sequence[str]]) -> Sequence[str]:
        """The values of a column in the latest rows of a record type, each once, sorted; ``where``: only such rows."""
        ...


Secret = Callable[[str], str | None]
"""A key by the name of its variable; ``None`` where it is not set."""


def no_secret(name: str) -> str | None:
    """Where no environment is at hand."""
    return None


async def nothing_known(kind: str, column: str, where: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Where no store is at hand."""
    return ()


@dataclass(frozen=True)
class Context:
    """What the platform gives an App."""

    clock: Clock
    rng: Rng
    bus: Bus
    journal: Journal
    instruments: InstrumentBook
    down_since_ns: int | None = None
    """When the last frame of the previous run came; streams that nothing else can check begin with a gap from there."""
    cursors: Cursors = field(default_factory=Cursors)
    """Where each collector goes on, as its last frame says."""
    families: Families = field(default_factory=Families)
    """What sources that ask sites of one owner share."""
    successions: Successions = field(default_factory=Successions)
    """Which sources stand in for each other."""
    known: Known = nothing_known
    """What is stored, for sources that ask for what others brought."""
    secret: Secret = field(default=no_secret, repr=False)
    """Keys that a declared source names."""

    @property
    def upstream(self) -> UpstreamClock | None:
        """The clock an upstream that plays a recording may set, where the platform runs on one."""
        return self.clock if isinstance(self.clock, UpstreamClock) else None


def unlisted(source: str) -> None:
    """A source is gone for good: a metric that says it is not up would be an alarm."""
    with contextlib.suppress(KeyError):
        _up.remove(source)


@dataclass(frozen=True)
class Health:
    """How a source is. ``degraded``: part of it fails; ``down``: nothing comes; ``standby``: another asks for it."""

    state: Literal["starting", "standby", "ok", "degraded", "down", "stopped"]
    problems: tuple[str, ...] = ()


@dataclass
class _State:
    collectors: dict[str, Collector] = field(default_factory=dict[str, Collector])
    subscriptions: list[Subscription] = field(default_factory=list[Subscription])
    running: bool = False
    problem: str = ""


class App(ABC):
    """Base of all sources.

    Life cycle: construct with configuration and context, `initialize` (clients, collectors, instruments), `start`,
    `stop`. ``about`` is one sentence for ``tidewire sources``.
    """

    name: ClassVar[str] = ""
    about: ClassVar[str] = ""

    def __init__(self, config: SourceConfig, context: Context) -> None:
        self.config = config
        self.context = context
        self._state = _State()

    @classmethod
    @abstractmethod
    def make_parser(cls, config: SourceConfig, instruments: InstrumentBook) -> Parser:
        """What turns this source's frames into rows, live and in replay; it must not need the App to run.

        It must not depend on ``config`` either: a replay may have no source file, and the rows must be the same.
        ``instruments`` holds what earlier runs stored; everything newer comes as frames.
        """

    @classmethod
    @abstractmethod
    def check(cls, config: SourceConfig) -> None:
        """Raise `ConfigError` for a configuration that cannot work; must not touch the network."""

    @classmethod
    def pool(cls, config: SourceConfig) -> str:
        """The name of the pool of proxies it is asked over; empty where there is none."""
        return config.api.pool

    async def initialize(self) -> None:
        """Prepare collectors; an App registers its own before calling this."""
        for collector in self.list():
            await collector.initialize()

    async def forget(self, problem: str) -> None:
        """Drop all collectors, so that `initialize` can be tried again after it failed; ``problem`` says why."""
        self._state.problem = problem
        await self._stop_collectors()
        self._state.collectors.clear()

    async def start(self) -> None:
        """Start every collector; one that fails to start is reported and the rest run."""
        for collector in self.list():
            try:
                await collector.start()
            except Exception as error:
                collector.report(error, "start")
        self._state.running, self._state.problem = True, ""
        _up.labels(self.name).set(1)
        self.tell(f"app.{self.name}.started", {"collectors": [collector.name for collector in self.list()]})

    async def stop(self) -> None:
        """Stop every collector; nothing is collected after this returns."""
        await self._stop_collectors()
        was, self._state.running = self._state.running, False
        _up.labels(self.name).set(0)
        if was:
            self.tell(f"app.{self.name}.stopped", {})
        for subscription in self._state.subscriptions:
            self.context.bus.unsubscribe(subscription)

    async def _stop_collectors(self) -> None:
        """One that fails to stop is reported and the rest stop."""
        for collector in self.list():
            try:
                await collector.stop()
            except Exception as error:
                collector.report(error, "stop")

    # -- collectors -------------------------------------------------------------------------------------------

    def register(self, collector: Collector) -> Collector:
        """Add a collector under its name."""
        if collector.name in self._state.collectors:
            raise InputError(f"source {self.name!r} has a collector {collector.name!r} already.")
        self._state.collectors[collector.name] = collector
        return collector

    def get(self, name: str) -> Collector:
        """A collector by name; `NotFound` with the nearest valid one."""
        try:
            return self._state.collectors[name]
        except KeyError:
            known = self._state.collectors
            raise NotFound(f"No collector {name!r}.{nearest(name, known)} Valid: {', '.join(known)}.") from None

    def list(self) -> list[Collector]:
        """All collectors."""
        return list(self._state.collectors.values())

    def calendars(self) -> set[str]:
        """The trading calendars its timers go by."""
        windows = (timer.window for collector in self.list() for timer in collector.timers.values())
        return {window.calendar for window in windows if window is not None and window.calendar}

    # -- gaps -------------------------------------------------------------------------------------------------

    def fills(self, record_type: str) -> bool:
        """Whether rows of the past can be asked for; a gap of any other type is unfillable."""
        return False

    async def fill(self, missing: Missing) -> int:
        """Ask for what is missing, in the background of the budget, and `keep` every reply; the last frame kept.

        Raises `TerminalError` when the source cannot have it, any other error when another attempt may help.
        """
        raise TerminalError(f"{self.name} has no past to ask for")

    def mends(self, told: GapTold) -> bool:
        """Whether a collector asks again for what is missing and says itself when the gap is over."""
        return False

    # -- streams ----------------------------------------------------------------------------------------------

    silent: tuple[str, ...] = ()
    """Streams that stopped although the source has more; set by whoever watches them."""

    def expects(self) -> Sequence[Expected]:
        """The streams that should bring something all the time, and how long each may be silent."""
        return ()

    async def probe(self, expected: Expected, last: Mapping[str, Any] | None) -> bool:
        """Whether the source has more of a stream than ``last``, the row it brought last; asked in the background."""
        return False

    def reconnect(self, reason: str, silent: Sequence[Expected] = ()) -> None:
        """Make the connections of the streams anew: those of the ``silent`` ones, all when none are named."""
        _log.info("this source has no connections to make anew", source=self.name, reason=reason)

    # -- the way of bytes -------------------------------------------------------------------------------------

    async def keep(self, collector: str, reply: Reply, cursor: Mapping[str, str] | None = None, asked: str = "") -> int:
        """Put a reply into the journal; returns its sequence once it is accepted.

        ``asked`` is the request as its parser wants to see it; ``GET`` and the address where it is not given. Waits
        first while the journal is full: that is the back-pressure of everything that polls.
        """
        context = self.context
        await context.journal.ready()
        origin = Origin(self.name, collector, asked or f"GET {reply.url}")
        encoded = context.cursors.move(origin, cursor) if cursor else b""
        sequence = context.journal.append(origin, reply.body, cursor=encoded, wall_ns=reply.received_ns)
        await context.journal.accept(sequence)
        return sequence

    def note(self, collector: str, payload: bytes) -> None:
        """Tell the parser something through the journal, where its place among the frames is part of what it says."""
        self.context.journal.append(Origin(self.name, collector, NOTE), payload)

    def write(self, collector: str, act: control.Act, cursor: Mapping[str, str] | None = None) -> None:
        """Write down something that is no reply; ``cursor`` as in `keep`, for what no single reply says."""
        origin = Origin(self.name, collector, "")
        encoded = self.context.cursors.move(origin, cursor) if cursor else b""
        self.context.journal.append(origin, control.encode(act), kind=Kind.CONTROL, cursor=encoded)

    def write_down(self, collector: str, said: control.Noted, cursor: Mapping[str, str]) -> None:
        """`write`, where a journal that fails is only logged."""
        try:
            self.write(collector, said, cursor)
        except JournalError as error:
            _log.warning("not written down", source=self.name, what=said.what, error=str(error))

    # -- events -----------------------------------------------------------------------------------------------

    def on_event(self, pattern: str, handler: Handler) -> Subscription:
        """Call the handler for matching events until the App stops; slow handlers lose the oldest events."""
        name = f"{self.name}:{pattern}"
        subscription = self.context.bus.subscribe(pattern, handler, full=Full.DROP_OLDEST, name=name)
        self._state.subscriptions.append(subscription)
        return subscription

    def tell(self, subject: str, facts: Mapping[str, Any]) -> None:
        """Publish a small event; one that nobody can hear any more is only logged."""
        event = notice(subject, self.name, facts, self.context.clock, self.context.rng)
        try:
            self.context.bus.offer(event)
        except BusClosed:
            _log.debug("event after the bus closed", subject=subject)

    # -- how it is --------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """How the source is, from its collectors; an App adds what only it knows."""
        if not self._state.running:
            return Health("down", (self._state.problem,)) if self._state.problem else Health("stopped")
        statuses = [collector.status for collector in self.list()]
        problems = tuple(f"{status.name}: {status.last_error}" for status in statuses if status.last_error)
        if problems and len(problems) == len(statuses):
            return Health("down", problems)
        problems += tuple(f"{stream}: silent, although the source has more" for stream in self.silent)
        if problems:
            return Health("degraded", problems)
        waiting = all(status.last_data_ns is None for status in statuses)
        return Health("starting" if waiting and statuses else "ok")

    def metrics(self) -> Mapping[str, float]:
        """Counts over all collectors."""
        return {
            f"{collector.name}_{name}": value for collector in self.list() for name, value in collector.metrics.items()
        }

    def backfill(self) -> Sequence[Mapping[str, Any]]:
        """How far the loading of history is, by series."""
        return [{"source": self.name, **each} for collector in self.list() for each in collector.history()]

    def status(self) -> dict[str, Any]:
        """Everything above as plain data, for the API and the command line."""
        health = self.health()
        return {
            "name": self.name,
            "type": self.config.source.type,
            "display_name": self.config.source.display_name or self.name,
            "health": health.state,
            "problems": list(health.problems),
            "collectors": [asdict(collector.status) for collector in self.list()],
            "backfill": self.backfill(),
        }
