from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidewire import telemetry
from tidewire.journal.stamp import Stamper
from tidewire.records.clock import ManualClock

SECOND = 1_000_000_000


async def test_a_clock_set_back_is_waited_for_at_half_speed() -> None:
    clock = ManualClock()
    stamper = Stamper(clock)
    start, _ = stamper.stamp()
    clock.jump(-10)
    await clock.advance(4)
    wall, mono = stamper.stamp()
    assert (wall - start, mono) == (2 * SECOND, 4 * SECOND)
    assert telemetry.value("tidewire_journal_clock_offset_seconds") == 8.0
    await clock.advance(16)  # 20 s after the jump the clock has caught up: half of 20 is 10
    assert stamper.stamp()[0] == start + 10 * SECOND == clock.wall_ns()
    await clock.advance(1)
    assert stamper.stamp()[0] == clock.wall_ns()
    assert telemetry.value("tidewire_journal_clock_offset_seconds") == 0.0


async def test_half_speed_holds_for_steps_of_one_nanosecond() -> None:
    class Slow(ManualClock):
        mono = 0

        def mono_ns(self) -> int:
            self.mono += 1
            return self.mono

    clock = Slow()
    stamper = Stamper(clock, clock.wall_ns() + 1000)
    for _ in range(100):
        wall, _ = stamper.stamp()
    assert wall == clock.wall_ns() + 1050


def test_a_given_time_counts_but_never_goes_back() -> None:
    stamper = Stamper(ManualClock(5))
    assert [stamper.stamp(given)[0] for given in (100, 90, 101)] == [100, 100, 101]


def test_goes_on_from_what_the_journal_holds() -> None:
    clock = ManualClock(1000)
    assert Stamper(clock, 5000).stamp()[0] == 5000


@given(st.lists(st.tuples(st.integers(-100, 100), st.integers(0, 100), st.none() | st.integers(0, 300))))
def test_never_back(steps: list[tuple[int, int, int | None]]) -> None:
    class Rough(ManualClock):
        wall, mono = 150, 0

        def wall_ns(self) -> int:
            return self.wall

        def mono_ns(self) -> int:
            return self.mono

    clock = Rough()
    stamper = Stamper(clock)
    last = 0
    for wall, mono, given_ns in steps:
        clock.wall += wall
        clock.mono += mono
        stamp, _ = stamper.stamp(given_ns)
        assert stamp >= last
        last = stamp
