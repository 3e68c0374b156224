"""A collector fetches one kind of data for one App, on its own timers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tidewire import telemetry
from tidewire.collect import control
from tidewire.collect.http import Reply
from tidewire.collect.schedule import Schedule
from tidewire.collect.timer import Timer, TimerStatus
from tidewire.errors import InputError, NotFound, RateLimited, TidewireError, nearest
from tidewire.records.clock import utc

if TYPE_CHECKING:
    from tidewire.collect.app import App

_log = telemetry.log("collect")
_errors = telemetry.counter("collect_errors", "Errors of collectors", ("source", "collector", "code"))
_frames = telemetry.counter("collect_replies", "Replies kept", ("source", "collector"))


@dataclass(frozen=True)
class CollectorStatus:
    """What a collector is doing; times are UTC nanoseconds, ``None`` for never."""

    name: str
    state: str
    last_data_ns: int | None
    errors: int
    last_error: str
    timers: tuple[TimerStatus, ...]


class Collector:
    """Base of all collectors: life cycle, timers, status, and the way of bytes into the journal.

    A subclass adds timers (or subscriptions of its App's feed) in `initialize` and overrides `start` and `stop` when it
    has more to do than to run timers.
    """

    def __init__(self, name: str, app: App) -> None:
        self.name = name
        self.app = app
        self._timers: dict[str, Timer] = {}
        self._running = False
        self._errors = 0
        self._last_error = ""
        # Errors and short answers: what makes a round one that failed.
        self._troubles = 0
        self._last_trouble = ""
        self._whole_ns = 0
        self.last_data_ns: int | None = None

    async def initialize(self) -> None:
        """Prepare; called once, before `start`."""

    async def start(self) -> None:
        """Begin to collect."""
        self._running = True
        for timer in self._timers.values():
            timer.start()

    async def stop(self) -> None:
        """Stop timers; actions under way may finish within their grace time."""
        self._running = False
        for timer in self._timers.values():
            await timer.stop()

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._running

    @property
    def status(self) -> CollectorStatus:
        """What it is doing now."""
        timers = tuple(timer.status for timer in self._timers.values())
        state = "stopped" if not self._running else "failing" if self._last_error else "running"
        return CollectorStatus(self.name, state, self.last_data_ns, self._errors, self._last_error, timers)

    def history(self) -> Sequence[Mapping[str, Any]]:
        """How far the backfill of each of its series is; empty where history is not loaded."""
        return ()

    @property
    def metrics(self) -> Mapping[str, float]:
        """Counts for people; Prometheus has them by name."""
        statuses = [timer.status for timer in self._timers.values()]
        return {
            "errors": self._errors,
            "timer_runs": sum(status.runs for status in statuses),
            "timer_errors": sum(status.errors for status in statuses),
        }

    # -- timers -----------------------------------------------------------------------------------------------

    def add_timer(self, name: str, schedule: Schedule, action: Callable[[], Awaitable[None]], **options: Any) -> Timer:
        """Run ``action`` on a schedule; ``options`` are those of `Timer`. Runs at once if the collector does."""
        if name in self._timers:
            raise InputError(f"collector {self.name!r} has a timer {name!r} already; remove it first.")
        context = self.app.context

        async def run() -> None:
            with telemetry.bound(source=self.app.name, collector=self.name, trace_id=context.rng.token()):
                await action()

        timer = Timer(name, schedule, run, context.clock, context.rng, on_error=self._timer_failed, **options)
        self._timers[name] = timer
        if self._running:
            timer.start()
        return timer

    def in_turn(self, action: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """The action of a timer, run only while it is this source's turn where others stand in for it.

        It failed when it raised, reported an error or came back short; the next source then takes over.
        """
        name = self.app.name
        succession = self.app.context.successions.of(name)
        if succession is None:
            return action

        async def run() -> None:
            if not succession.asks(name):
                return
            troubles = self._troubles
            try:
                await action()
            except Exception as error:
                succession.failed(name, str(error), refused=isinstance(error, RateLimited))
                raise
            if self._troubles == troubles:
                succession.well(name)
            else:
                succession.failed(name, self._last_trouble)

        return run

    async def remove_timer(self, name: str) -> None:
        """Stop a timer and forget it."""
        timer = self.get_timer(name)
        del self._timers[name]
        await timer.stop()

    def get_timer(self, name: str) -> Timer:
        """A timer by name; `NotFound` with the nearest valid one."""
        try:
            return self._timers[name]
        except KeyError:
            valid = ", ".join(self._timers) or "none"
            raise NotFound(f"No timer {name!r}.{nearest(name, self._timers)} Valid: {valid}.") from None

    @property
    def timers(self) -> Mapping[str, Timer]:
        """All timers by name."""
        return dict(self._timers)

    def _timer_failed(self, timer: Timer, error: Exception) -> None:
        self.report(error, f"timer {timer.name}")

    # -- the way of bytes -------------------------------------------------------------------------------------

    async def keep(self, reply: Reply, cursor: Mapping[str, str] | None = None, asked: str = "") -> int:
        """Put a reply into the journal; returns its sequence once it is accepted.

        ``cursor`` says where to go on after this reply, by names of the collector's own (a symbol, a list); `cursor`
        gives it back after a restart, if the reply was accepted. ``asked`` as in `App.keep`.
        """
        sequence = await self.app.keep(self.name, reply, cursor, asked)
        self.heard(reply.received_ns)
        _frames.labels(self.app.name, self.name).inc()
        return sequence

    def cursor(self, name: str) -> str | None:
        """Where the last accepted reply said to go on; ``None`` when none did."""
        return self.app.context.cursors.get(self.app.name, self.name, name)

    def short(self, kind: str, instruments: Sequence[str], reply: Reply, said: str) -> None:
        """Write down that a reply has less than the source's own total, or than was asked for.

        Each of ``instruments`` has a gap of record type ``kind`` from the last reply that was whole until this one;
        ``said`` is for people: ``"4,999 of 5,500 rows came"``.
        """
        since_ns = self._whole_ns or reply.received_ns
        for instrument in instruments:
            told = control.GapTold(
                instrument=instrument,
                record_type=kind,
                gap_id=f"{utc(since_ns):%Y%m%dT%H%M%S.%fZ}",
                cause="total",
                state="unfillable",
                event_time=since_ns // 1_000,
                until_time=max(since_ns, reply.received_ns) // 1_000,
                detail=said,
            )
            self.write(told)
        if instruments:
            self._trouble(said)
        else:
            self._whole_ns = reply.received_ns

    def _trouble(self, why: str) -> None:
        self._troubles += 1
        self._last_trouble = why

    def write(self, act: control.Act, cursor: Mapping[str, str] | None = None) -> None:
        """Write down something about this collector; ``cursor`` as in `keep`, for what no single reply says."""
        self.app.write(self.name, act, cursor)

    def heard(self, wall_ns: int) -> None:
        """Note that data came; what was wrong before is over."""
        self.last_data_ns = wall_ns
        self._last_error = ""

    def report(self, error: Exception, what: str) -> None:
        """Count an error, log it and publish ``collector.<app>.error``."""
        self._errors += 1
        self._last_error = f"{what}: {error}"
        self._trouble(self._last_error)
        code = error.code if isinstance(error, TidewireError) else type(error).__name__
        _errors.labels(self.app.name, self.name, code).inc()
        _log.warning("collector error", source=self.app.name, collector=self.name, what=what, error=str(error))
        facts = {"collector": self.name, "what": what, "code": code, "error": str(error)}
        self.app.tell(f"collector.{self.app.name}.error", facts)
