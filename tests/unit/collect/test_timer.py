from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.collect.schedule import Cron, Every, Schedule, Window
from tidewire.collect.timer import Overlap, Timer, within
from tidewire.errors import InputError
from tidewire.records.clock import ManualClock, SeededRng, utc

SECOND = 1_000_000_000
NINE = round(datetime(2026, 11, 20, 9, tzinfo=UTC).timestamp()) * SECOND


class Runs:
    """An action that writes down when it ran and how long it takes."""

    def __init__(self, clock: ManualClock, takes_s: float = 0.0, fails: Exception | None = None) -> None:
        self.clock, self.takes_s, self.fails = clock, takes_s, fails
        self.at: list[float] = []
        self.side_by_side = 0
        self.most = 0
        self.finished = 0

    async def __call__(self) -> None:
        self.at.append((self.clock.wall_ns() - NINE) / SECOND)
        self.side_by_side += 1
        self.most = max(self.most, self.side_by_side)
        try:
            if self.takes_s:
                await self.clock.sleep(self.takes_s)
            if self.fails is not None:
                raise self.fails
            self.finished += 1
        finally:
            self.side_by_side -= 1


def make(action: Callable[[], Awaitable[None]], clock: ManualClock, schedule: Schedule, **options: Any) -> Timer:
    return Timer("t", schedule, action, clock, SeededRng(1), **options)


async def test_an_interval_does_not_drift() -> None:
    clock = ManualClock(NINE + 300_000_000)
    runs = Runs(clock, takes_s=0.7)
    timer = make(runs, clock, Every(1))
    timer.start()
    await clock.advance(10)
    await timer.stop(0)
    assert runs.at == [float(second) for second in range(1, 11)]


async def test_status_tells_what_happens() -> None:
    clock = ManualClock(NINE)
    runs = Runs(clock, takes_s=2)
    timer = make(runs, clock, Every(10))
    assert (timer.is_running, timer.status.state, timer.status.next_run_ns) == (False, "stopped", None)
    timer.start()
    await clock.advance(0)
    assert (timer.is_running, timer.status.state, timer.status.next_run_ns) == (True, "waiting", NINE + 10 * SECOND)
    await clock.advance(11)
    status = timer.status
    assert (status.state, status.runs, status.last_run_ns) == ("running", 1, NINE + 10 * SECOND)
    assert status.next_run_ns == NINE + 20 * SECOND
    assert status.schedule == "every 10s"
    await clock.advance(2)
    assert timer.status.state == "waiting"
    await timer.stop()
    assert timer.status.state == "stopped"


async def test_run_at_start_and_start_twice() -> None:
    clock = ManualClock(NINE)
    runs = Runs(clock)
    timer = make(runs, clock, Every(60), run_at_start=True)
    timer.start()
    timer.start()
    await clock.advance(60)
    await timer.stop()
    await clock.advance(120)
    assert runs.at == [0.0, 60.0]


async def test_skip_leaves_out_and_counts() -> None:
    clock = ManualClock(NINE)
    runs = Runs(clock, takes_s=2.5)
    timer = make(runs, clock, Every(1))
    timer.start()
    await clock.advance(6.2)
    assert runs.at == [1.0, 4.0]
    assert (timer.status.skipped, runs.most) == (4, 1)
    await timer.stop(0)


async def test_queue_keeps_one() -> None:
    clock = ManualClock(NINE)
    runs = Runs(clock, takes_s=3.5)
    timer = make(runs, clock, Every(1), overlap=Overlap.QUEUE)
    timer.start()
    await clock.advance(4.6)
    assert runs.at == [1.0, 4.5]
    assert (timer.status.skipped, runs.most) == (2, 1)
    await timer.stop(0)
    assert runs.at == [1.0, 4.5]


async def test_allow_is_bounded() -> None:
    clock = ManualClock(NINE)
    runs = Runs(clock, takes_s=100)
    timer = make(runs, clock, Every(1), overlap=Overlap.ALLOW, max_running=3)
    timer.start()
    await clock.advance(5)
    assert (runs.most, timer.status.runs, timer.status.skipped) == (3, 3, 2)
    await timer.stop(0)
    assert runs.side_by_side == 0


async def test_an_action_that_raises_is_reported_and_the_timer_goes_on() -> None:
    clock = ManualClock(NINE)
    seen: list[str] = []

    def on_error(timer: Timer, error: Exception) -> None:
        seen.append(f"{timer.name}: {error}")
        raise RuntimeError("on_error itself is broken")

    timer = make(Runs(clock, fails=ValueError("no")), clock, Every(1), on_error=on_error)
    timer.start()
    await clock.advance(3)
    assert seen == ["t: no"] * 3
    assert (timer.status.errors, timer.status.runs, timer.status.last_error) == (3, 3, "ValueError: no")
    await timer.stop()


async def test_an_action_that_takes_too_long_is_cancelled() -> None:
    clock = ManualClock(NINE)
    runs = Runs(clock, takes_s=10)
    errors: list[Exception] = []
    timer = make(runs, clock, Every(5), timeout_s=2, on_error=lambda _, error: errors.append(error))
    timer.start()
    await clock.advance(6.9)
    assert runs.side_by_side == 1
    await clock.advance(0.2)
    assert runs.side_by_side == 0
    assert [type(error) for error in errors] == [TimeoutError]
    await clock.advance(3)
    assert runs.at == [5.0, 10.0]
    await timer.stop(0)


async def test_an_action_within_its_time_is_fine() -> None:
    clock = ManualClock(NINE)
    runs = Runs(clock, takes_s=1)
    timer = make(runs, clock, Every(5), timeout_s=2)
    timer.start()
    await clock.advance(11)
    assert (timer.status.runs, timer.status.errors, runs.finished) == (2, 0, 2)
    await timer.stop()


async def test_stop_gives_grace_then_cancels() -> None:
    clock = ManualClock(NINE)
    runs = Runs(clock, takes_s=3)
    timer = make(runs, clock, Every(60))
    timer.trigger()
    await clock.advance(1)
    stopping = asyncio.create_task(timer.stop(grace_s=5))
    await clock.advance(2)
    await stopping
    assert runs.finished == 1

    timer.trigger()
    await clock.advance(1)
    stopping = asyncio.create_task(timer.stop(grace_s=1))
    await clock.advance(1)
    await stopping
    assert (runs.finished, runs.side_by_side) == (1, 0)


async def test_an_action_may_stop_its_own_timer() -> None:
    clock = ManualClock(NINE)
    done: list[int] = []

    async def action() -> None:
        await timer.stop()
        done.append(1)

    timer = make(action, clock, Every(1))
    timer.start()
    await clock.advance(5)
    assert (done, timer.is_running) == ([1], False)


async def test_trigger_obeys_the_overlap() -> None:
    clock = ManualClock(NINE)
    runs = Runs(clock, takes_s=1)
    timer = make(runs, clock, Every(60))
    assert timer.trigger()
    assert not timer.trigger()
    await clock.advance(1)
    assert timer.trigger()
    await clock.advance(1)
    assert (runs.finished, timer.status.skipped) == (2, 1)


async def test_cron_runs_exactly_and_once() -> None:
    clock = ManualClock(NINE + 1)
    runs = Runs(clock)
    timer = make(runs, clock, Cron("*/5 * * * *"))
    timer.start()
    await clock.advance(900)
    assert runs.at == [300.0, 600.0, 900.0]
    await timer.stop()


async def test_cron_follows_a_wall_clock_that_is_set() -> None:
    clock = ManualClock(NINE)
    runs = Runs(clock)
    timer = make(runs, clock, Cron("0 * * * *"))
    timer.start()
    await clock.advance(10)
    clock.jump(3600)
    await clock.advance(60)
    assert runs.at == [3660.0], "the hour that the jump went over is made up within a minute"
    clock.jump(-5)
    await clock.advance(60)
    assert len(runs.at) == 1, "a small step back repeats nothing"
    clock.jump(-86400 * 700)
    await clock.advance(3600)
    assert len(runs.at) == 2, "a clock of another year starts the schedule over"
    await timer.stop()


async def test_an_interval_ignores_a_wall_clock_that_is_set() -> None:
    clock = ManualClock(NINE)
    runs = Runs(clock)
    timer = make(runs, clock, Every(5))
    timer.start()
    await clock.advance(5)
    clock.jump(-86400 * 700)
    await clock.advance(20)
    assert len(runs.at) == 5
    await timer.stop()


@pytest.mark.parametrize("schedule", [Every(600), Cron("*/10 * * * *")])
async def test_nothing_runs_outside_the_window(schedule: Schedule) -> None:
    clock = ManualClock(NINE - 3600 * SECOND)
    runs = Runs(clock)
    timer = make(runs, clock, schedule, window=Window("09:15-09:40"), run_at_start=True)
    timer.start()
    await clock.advance(600)
    assert (timer.status.state, timer.status.runs) == ("closed", 0)
    assert timer.status.next_run_ns in (NINE + 900 * SECOND, NINE + 1200 * SECOND)
    await clock.advance(7200)
    assert runs.at == [1200.0, 1800.0]
    await clock.advance(86400)
    assert runs.at == [1200.0, 1800.0, 87600.0, 88200.0]
    await timer.stop()


@pytest.mark.parametrize("schedule", [Every(3600), Cron("0 * * * *")])
async def test_a_timer_keeps_the_sessions_of_a_calendar(schedule: Schedule) -> None:
    """From the last session before a holiday week to the first after it, on a machine whose clock is in UTC."""
    clock = ManualClock(round(datetime(2026, 9, 30, 0, 30, tzinfo=UTC).timestamp()) * SECOND)
    runs = Runs(clock)
    timer = make(runs, clock, schedule, window=Window("session", "UTC", calendar="XSHG"), run_at_start=True)
    timer.start()
    for _ in range(9):
        await clock.advance(86400)
    await timer.stop()
    ran = [utc(NINE) + timedelta(seconds=at) for at in runs.at]
    hours = (2, 3, 5, 6, 7)
    assert ran == [datetime(2026, month, day, hour, tzinfo=UTC) for month, day in ((9, 30), (10, 8)) for hour in hours]


async def test_a_run_at_the_very_opening_counts() -> None:
    clock = ManualClock(NINE - 3600 * SECOND)
    runs = Runs(clock)
    timer = make(runs, clock, Every(60), window=Window("09:00-09:03"))
    timer.start()
    await clock.advance(7200)
    assert runs.at == [0.0, 60.0, 120.0]
    await timer.stop()


@pytest.mark.parametrize("schedule", [Every(60), Cron("* * * * *")])
async def test_a_calendar_without_sessions_waits_and_looks_again(schedule: Schedule) -> None:
    clock = ManualClock(NINE)
    runs = Runs(clock)
    sessions: list[object] = []
    timer = make(runs, clock, schedule, window=Window("00:00-24:00", is_session=lambda _: bool(sessions)))
    timer.start()
    await clock.advance(300)
    assert (runs.at, timer.status.next_run_ns, timer.status.state) == ([], None, "closed")
    sessions.append(1)
    await clock.advance(180)
    assert len(runs.at) >= 1
    await timer.stop()


async def test_a_calendar_that_raises_ends_the_timer_in_the_open() -> None:
    clock = ManualClock(NINE)

    def broken(_: object) -> bool:
        raise LookupError("no calendar")

    errors: list[Exception] = []
    window = Window("10:00-11:00", is_session=broken)
    timer = make(Runs(clock), clock, Every(60), window=window, on_error=lambda _, error: errors.append(error))
    timer.start()
    await clock.advance(3600)
    assert [str(error) for error in errors] == ["no calendar"]
    assert (timer.is_running, timer.status.state) == (False, "stopped")


@settings(deadline=None, max_examples=25)
@given(st.floats(0.0, 1.0), st.integers(0, 1000))
def test_jitter_stays_within_its_interval_and_off_the_grid(jitter: float, seed: int) -> None:
    async def scenario() -> list[float]:
        clock = ManualClock(NINE)
        runs = Runs(clock)
        timer = Timer("t", Every(10), runs, clock, SeededRng(seed), jitter=jitter)
        timer.start()
        await clock.advance(200)
        await timer.stop()
        return runs.at

    for slot, ran in enumerate(asyncio.run(scenario()), start=1):
        assert slot * 10 <= ran <= slot * 10 + jitter * 10 + 1e-6


async def test_cron_jitter_is_in_seconds() -> None:
    clock = ManualClock(NINE)
    runs = Runs(clock)
    timer = make(runs, clock, Cron("* * * * *"), jitter=7)
    timer.start()
    await clock.advance(605)
    late = [ran % 60 for ran in runs.at]
    assert all(0 <= seconds <= 7 for seconds in late)
    assert len(set(late)) > 5
    await timer.stop()


@pytest.mark.parametrize("options", [{"jitter": -1}, {"jitter": 1.5}, {"max_running": 0}, {"timeout_s": 0}])
def test_bad_options_say_so(options: dict[str, float]) -> None:
    clock = ManualClock()
    with pytest.raises(InputError, match="of timer 't'"):
        make(Runs(clock), clock, Every(1), **options)


async def test_within_tells_whether_it_came() -> None:
    clock = ManualClock()
    event = asyncio.Event()
    waiting = asyncio.create_task(within(clock, 5, event))
    await clock.advance(5)
    assert await waiting is False
    waiting = asyncio.create_task(within(clock, 5, event))
    await clock.advance(1)
    event.set()
    assert await waiting is True
    assert await within(clock, 0, asyncio.Event()) is False
    assert clock.sleepers == 0
