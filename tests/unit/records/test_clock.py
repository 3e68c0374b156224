from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.records.clock import ManualClock, SeededRng, ShiftedClock, SystemClock, SystemRng, UpstreamClock, utc

SECOND = 1_000_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@given(st.integers(-(10**18), 4 * 10**18))
@settings(deadline=None)
def test_utc_cuts_to_microseconds_and_never_rounds(wall_ns: int) -> None:
    assert utc(wall_ns) == EPOCH + timedelta(microseconds=wall_ns // 1_000)


async def test_sleepers_wake_in_the_order_of_their_time_whoever_slept_first() -> None:
    clock, woken = ManualClock(0), list[tuple[str, int]]()

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.wall_ns()))

    tasks = [asyncio.create_task(sleeper(name, at)) for name, at in [("c", 3), ("a", 1), ("b", 2), ("b2", 2)]]
    await clock.advance(2.5)
    assert woken == [("a", SECOND), ("b", 2 * SECOND), ("b2", 2 * SECOND)]
    assert (clock.sleepers, clock.wall_ns(), clock.mono_ns()) == (1, 2.5 * SECOND, 2.5 * SECOND)
    await clock.advance(0.5)
    await asyncio.gather(*tasks)
    assert clock.sleepers == 0


async def test_what_a_sleeper_starts_can_sleep_again_within_one_advance() -> None:
    clock, ticks = ManualClock(), list[int]()

    async def ticker() -> None:
        while True:
            await clock.sleep(1)
            ticks.append(clock.mono_ns())

    task = asyncio.create_task(ticker())
    await clock.advance(3)
    assert ticks == [SECOND, 2 * SECOND, 3 * SECOND]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_jump_moves_the_wall_clock_only_and_wakes_nobody() -> None:
    clock = ManualClock(100 * SECOND)
    task = asyncio.create_task(clock.sleep(1))
    await clock.advance(0)
    clock.jump(-50)
    await clock.advance(0)
    assert (clock.wall_ns(), clock.mono_ns(), clock.sleepers) == (50 * SECOND, 0, 1)
    await clock.advance(1)
    await task
    assert clock.wall_ns() == 51 * SECOND


async def test_a_cancelled_sleeper_no_longer_counts_and_does_not_stop_the_others() -> None:
    clock = ManualClock()
    gone, stays = asyncio.create_task(clock.sleep(1)), asyncio.create_task(clock.sleep(1))
    await clock.advance(0)
    gone.cancel()
    await asyncio.wait([gone])
    assert clock.sleepers == 1
    await clock.advance(1)
    await stays


@pytest.mark.parametrize("clock", [ManualClock(), SystemClock()])
async def test_no_time_to_sleep_still_lets_others_run(clock: ManualClock | SystemClock) -> None:
    ran = asyncio.Event()
    asyncio.get_running_loop().call_soon(ran.set)
    await clock.sleep(-1)
    assert ran.is_set()


def test_the_system_clock_is_the_machines() -> None:
    clock = SystemClock()
    before, mono = time.time_ns(), time.monotonic_ns()
    assert before <= clock.wall_ns() <= time.time_ns()
    assert mono <= clock.mono_ns() <= time.monotonic_ns()


def test_the_upstreams_time_replaces_the_machines_and_never_goes_back() -> None:
    clock = UpstreamClock()
    assert abs(clock.wall_ns() - time.time_ns()) < 60 * SECOND
    clock.tell(5 * SECOND)
    clock.tell(4 * SECOND)
    assert clock.wall_ns() == 5 * SECOND
    clock.tell(6 * SECOND)
    assert clock.wall_ns() == 6 * SECOND
    assert abs(clock.mono_ns() - time.monotonic_ns()) < 60 * SECOND


def test_an_upstreams_clock_that_runs_goes_on_between_two_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, mono = UpstreamClock(), 0
    monkeypatch.setattr(clock, "mono_ns", lambda: mono)
    clock.tell(100 * SECOND, 2.0)
    mono += 3 * SECOND
    assert clock.wall_ns() == 106 * SECOND
    clock.tell(105 * SECOND, 1.0)  # an answer that was long on its way
    assert clock.wall_ns() == 106 * SECOND
    mono += SECOND
    assert clock.wall_ns() == 107 * SECOND
    clock.tell(200 * SECOND)
    mono += SECOND
    assert clock.wall_ns() == 200 * SECOND


async def test_a_shifted_clock_begins_elsewhere_and_goes_at_its_own_pace() -> None:
    base = ManualClock()
    await base.advance(5.0)
    clock = ShiftedClock(base, 1_000 * SECOND, 4.0)
    assert (clock.wall_ns(), clock.mono_ns()) == (1_000 * SECOND, 0)
    waits = asyncio.create_task(clock.sleep(8.0))
    await base.advance(1.9)
    assert not waits.done()
    await base.advance(0.1)
    assert waits.done()
    assert (clock.wall_ns(), clock.mono_ns()) == (1_008 * SECOND, 8 * SECOND)


@given(st.integers() | st.text(max_size=8))
@settings(deadline=None)
def test_the_same_seed_gives_the_same_chance(seed: int | str) -> None:
    one, other = SeededRng(seed), SeededRng(seed)
    assert [one.uniform(0, 1) for _ in range(5)] == [other.uniform(0, 1) for _ in range(5)]
    assert one.token() == other.token()


def test_a_seed_means_the_same_chance_in_every_version() -> None:
    rng = SeededRng(7)
    assert (round(rng.uniform(0, 10), 6), rng.token(4)) == (3.238328, "370d9e26")
    assert SeededRng(1).token() != SeededRng(2).token()


@pytest.mark.parametrize("rng", [SeededRng(1), SystemRng()])
def test_chance_stays_in_its_bounds(rng: SeededRng | SystemRng) -> None:
    assert all(-1 <= rng.uniform(-1, 2) <= 2 for _ in range(100))
    assert len(rng.token()) == 16
    assert len(bytes.fromhex(rng.token(3))) == 3
    assert rng.token() != rng.token()
