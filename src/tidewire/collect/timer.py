"""Timers: run an action when it is due, without drift, and survive whatever it does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from tidewire import telemetry
from tidewire.collect.schedule import SECOND_NS, Every, Schedule, Window
from tidewire.errors import InputError
from tidewire.records.clock import Clock, Rng

_log = telemetry.log("collect")
_runs = telemetry.counter("collect_timer_runs", "Timer runs by outcome: ok, error, skipped", ("timer", "outcome"))
_seconds = telemetry.histogram("collect_timer_seconds", "How long timer actions took", ("timer",))

# The longest sleep without looking at the wall clock again: it may have been set, or the machine suspended.
_LOOK_AGAIN_S = 60.0

# A wall clock set back by more than this starts the schedule over; by less, it only waits and repeats nothing.
_SET_BACK_NS = 600 * SECOND_NS

# How many openings of a window are searched for a due time inside it.
_OPENINGS = 400


async def within(clock: Clock, seconds: float, event: asyncio.Event) -> bool:
    """Wait for the event, but at most that long on the clock; whether it came."""
    if event.is_set() or seconds <= 0:
        return event.is_set()
    sleeper = asyncio.ensure_future(clock.sleep(seconds))
    waiter = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((sleeper, waiter), return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleeper.cancel()
        waiter.cancel()
    return event.is_set()


class Overlap(Enum):
    """What happens when a timer is due while its action still runs."""

    SKIP = "skip"
    """The run is left out and counted."""
    QUEUE = "queue"
    """One run waits for the present one to end; more are left out and counted."""
    ALLOW = "allow"
    """Runs go side by side, up to ``max_running``; more are left out and counted."""


@dataclass(frozen=True)
class TimerStatus:
    """What a timer is doing; times are UTC nanoseconds, ``None`` for never or unknown.

    ``state`` is ``stopped``, ``waiting``, ``running`` or ``closed`` (outside its window).
    """

    name: str
    schedule: str
    state: str
    last_run_ns: int | None
    next_run_ns: int | None
    runs: int
    errors: int
    skipped: int
    last_error: str


class Timer:
    """Runs ``action`` when ``schedule`` says so.

    An `Every` runs on the monotonic clock: setting the wall clock neither repeats nor loses a run. Everything else
    runs on the wall clock. ``jitter`` delays each run by chance, up to that fraction of an interval, or up to that
    many seconds otherwise; due times themselves stay on the schedule. Due times that passed while the program could
    not run are made up by one run.

    An action that raises, or takes longer than ``timeout_s``, is counted and handed to ``on_error``.
    """

    def __init__(
        self,
        name: str,
        schedule: Schedule,
        action: Callable[[], Awaitable[None]],
        clock: Clock,
        rng: Rng,
        *,
        jitter: float = 0.0,
        window: Window | None = None,
        overlap: Overlap = Overlap.SKIP,
        max_running: int = 4,
        timeout_s: float | None = None,
        run_at_start: bool = False,
        on_error: Callable[[Timer, Exception], None] | None = None,
    ) -> None:
        if jitter < 0 or (jitter > 1 and isinstance(schedule, Every)):
            raise InputError(f"jitter {jitter!r} of timer {name!r}: write a fraction from 0 to 1 of the interval.")
        if max_running < 1:
            raise InputError(f"max_running {max_running!r} of timer {name!r}: it must be at least 1.")
        if timeout_s is not None and timeout_s <= 0:
            raise InputError(f"timeout_s {timeout_s!r} of timer {name!r}: it must be above zero.")
        self.name = name
        self.schedule = schedule
        self._action = action
        self._clock = clock
        self._rng = rng
        self._jitter = jitter
        self._window = window
        self._overlap = overlap
        self._max_running = max_running if overlap is Overlap.ALLOW else 1
        self._timeout_s = timeout_s
        self._run_at_start = run_at_start
        self._on_error = on_error
        self._loop: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._queued = False
        self._closed = False
        self._last_run_ns: int | None = None
        self._next_run_ns: int | None = None
        self._count = 0
        self._errors = 0
        self._skipped = 0
        self._last_error = ""

    @property
    def is_running(self) -> bool:
        """Whether the timer was started and not stopped."""
        return self._loop is not None

    @property
    def window(self) -> Window | None:
        """When it may run; None: always."""
        return self._window

    @property
    def status(self) -> TimerStatus:
        """What the timer is doing now."""
        if self._running:
            state = "running"
        elif self._loop is None:
            state = "stopped"
        else:
            state = "closed" if self._closed else "waiting"
        return TimerStatus(
            name=self.name,
            schedule=str(self.schedule),
            state=state,
            last_run_ns=self._last_run_ns,
            next_run_ns=self._next_run_ns,
            runs=self._count,
            errors=self._errors,
            skipped=self._skipped,
            last_error=self._last_error,
        )

    def start(self) -> None:
        """Begin; nothing happens when it was started already. Needs a running event loop."""
        if self._loop is None:
            self._loop = asyncio.create_task(self._main(), name=f"timer {self.name}")

    async def stop(self, grace_s: float = 5.0) -> None:
        """Start no more runs, let those under way take ``grace_s`` to end, then cancel them."""
        loop, self._loop = self._loop, None
        self._queued = False
        self._next_run_ns = None
        if loop is not None:
            loop.cancel()
            await asyncio.wait((loop,))
        running = self._running - {asyncio.current_task()}
        if running:
            await self._drain(running, grace_s)

    def trigger(self) -> bool:
        """Run now, window or not; ``False`` when the overlap policy left the run out."""
        return self._fire()

    def trigger_if_open(self) -> None:
        """Run now, if it was started and its window is open."""
        if self.is_running and (self._window is None or self._window.contains(self._clock.wall_ns())):
            self._fire()

    async def _drain(self, running: set[asyncio.Task[None]], grace_s: float) -> None:
        ended = asyncio.Event()
        everything = asyncio.gather(*running, return_exceptions=True)
        everything.add_done_callback(lambda _: ended.set())
        if not await within(self._clock, grace_s, ended):
            for task in running:
                task.cancel()
        await everything

    async def _main(self) -> None:
        try:
            if self._run_at_start and (self._window is None or self._window.contains(self._clock.wall_ns())):
                self._fire()
            if isinstance(self.schedule, Every):
                await self._by_interval(self.schedule.period_ns)
            else:
                await self._by_wall()
        except Exception as error:
            # A schedule or a calendar that raises: the timer cannot go on, and must not end unseen.
            self._failed(error)
            self._loop = None
            self._next_run_ns = None

    async def _by_interval(self, period_ns: int) -> None:
        due_ns = self._first_due()
        while True:
            if not self._open_at(due_ns):
                await self._wait_open()
                due_ns = self._first_due(now_counts=True)
                continue
            run_ns = due_ns + round(self._rng.uniform(0.0, self._jitter) * period_ns) if self._jitter else due_ns
            self._next_run_ns = self._clock.wall_ns() + run_ns - self._clock.mono_ns()
            await self._clock.sleep((run_ns - self._clock.mono_ns()) / SECOND_NS)
            if self._window is None or self._window.contains(self._clock.wall_ns()):
                self._fire()
            due_ns += period_ns
            late = (self._clock.mono_ns() - due_ns) // period_ns + 1
            if late > 1:
                self._skip(late - 1)
                due_ns += (late - 1) * period_ns

    def _first_due(self, *, now_counts: bool = False) -> int:
        """Monotonic time of the next grid point of the schedule."""
        wall_ns = self._clock.wall_ns()
        return self._clock.mono_ns() + self.schedule.next_after(wall_ns - now_counts) - wall_ns

    def _open_at(self, mono_ns: int) -> bool:
        if self._window is None:
            return True
        return self._window.contains(self._clock.wall_ns() + mono_ns - self._clock.mono_ns())

    async def _wait_open(self) -> None:
        """Wait for the window's next opening, or for its next due time inside if it is still open."""
        assert self._window is not None
        wall_ns = self._clock.wall_ns()
        if self._window.contains(wall_ns):
            # The next due time lies beyond the end of a window that is open now.
            wall_ns = self.schedule.next_after(wall_ns)
        self._closed = True
        opens_ns = self._window.next_open(wall_ns)
        while True:
            now_ns = self._clock.wall_ns()
            self._next_run_ns = opens_ns
            if opens_ns is not None and now_ns >= opens_ns:
                break
            left_s = _LOOK_AGAIN_S if opens_ns is None else (opens_ns - now_ns) / SECOND_NS
            await self._clock.sleep(min(_LOOK_AGAIN_S, left_s))
            if opens_ns is None or self._clock.wall_ns() < now_ns - _SET_BACK_NS:
                opens_ns = self._window.next_open(self._clock.wall_ns())
        self._closed = False

    async def _by_wall(self) -> None:
        while True:
            run_ns = due_ns = self._next_inside(self._clock.wall_ns())
            if due_ns is not None and self._jitter:
                run_ns = due_ns + round(self._rng.uniform(0.0, self._jitter) * SECOND_NS)
            if await self._wait_wall(run_ns):
                self._closed = False
                if self._window is None or self._window.contains(self._clock.wall_ns()):
                    self._fire()

    def _next_inside(self, after_ns: int) -> int | None:
        """The next due time inside the window; ``None`` when there is none to be seen."""
        due_ns = self.schedule.next_after(after_ns)
        if self._window is None or self._window.contains(due_ns):
            return due_ns
        # Bounded: a line that never meets the window ("0 3 * * *" in 09:00-15:00) is looked at again later.
        for _ in range(_OPENINGS):
            opens_ns = self._window.next_open(due_ns)
            if opens_ns is None:
                return None
            due_ns = self.schedule.next_after(opens_ns - 1)
            if self._window.contains(due_ns):
                return due_ns
        return None

    async def _wait_wall(self, run_ns: int | None) -> bool:
        """Wait for that wall time; ``False`` when the clock was set back far, or there is nothing to wait for."""
        self._next_run_ns = run_ns
        now_ns = self._clock.wall_ns()
        self._closed = run_ns is None or (self._window is not None and not self._window.contains(now_ns))
        if run_ns is None:
            await self._clock.sleep(_LOOK_AGAIN_S)
            return False
        while now_ns < run_ns:
            await self._clock.sleep(min(_LOOK_AGAIN_S, (run_ns - now_ns) / SECOND_NS))
            before_ns, now_ns = now_ns, self._clock.wall_ns()
            if now_ns < before_ns - _SET_BACK_NS:
                return False
            if self._closed and self._window is not None:
                self._closed = not self._window.contains(now_ns)
        return True

    def _fire(self) -> bool:
        if len(self._running) >= self._max_running:
            if self._overlap is Overlap.QUEUE and not self._queued:
                self._queued = True
                return True
            self._skip(1)
            return False
        task = asyncio.create_task(self._run(), name=f"timer {self.name} run")
        self._running.add(task)
        task.add_done_callback(self._ended)
        self._count += 1
        self._last_run_ns = self._clock.wall_ns()
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._queued:
            self._queued = False
            self._fire()

    def _skip(self, runs: int) -> None:
        self._skipped += runs
        _runs.labels(self.name, "skipped").inc(runs)

    async def _run(self) -> None:
        began_ns = self._clock.mono_ns()
        try:
            if self._timeout_s is None:
                await self._action()
            else:
                await self._limited(self._timeout_s)
        except Exception as error:
            self._failed(error)
        else:
            _runs.labels(self.name, "ok").inc()
        finally:
            _seconds.labels(self.name).observe((self._clock.mono_ns() - began_ns) / SECOND_NS)

    async def _limited(self, timeout_s: float) -> None:
        ended = asyncio.Event()
        action = asyncio.ensure_future(self._action())
        action.add_done_callback(lambda _: ended.set())
        try:
            if not await within(self._clock, timeout_s, ended):
                raise TimeoutError(f"it took longer than {timeout_s:g} s")
            await action
        finally:
            if not action.done():
                action.cancel()
                await asyncio.wait((action,))

    def _failed(self, error: Exception) -> None:
        self._errors += 1
        self._last_error = f"{type(error).__name__}: {error}"
        _runs.labels(self.name, "error").inc()
        _log.warning("timer failed", timer=self.name, error=self._last_error)
        if self._on_error is None:
            return
        try:
            self._on_error(self, error)
        except Exception:
            _log.exception("on_error of a timer raised", timer=self.name)
