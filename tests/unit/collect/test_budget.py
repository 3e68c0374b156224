from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.collect.budget import Budget, Budgets, Limits
from tidewire.errors import InputError, RateLimited, TransientError
from tidewire.records.clock import ManualClock

SECOND = 1_000_000_000
MINUTE_START = 1_700_000_040 * SECOND


class Line:
    """Sends requests through a budget and writes down which went when."""

    def __init__(self, limits: Limits, start_ns: int = MINUTE_START) -> None:
        self.clock = ManualClock(start_ns)
        self.budget = Budget(self.clock, limits, "h")
        self.went: list[tuple[int, float]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def send(
        self, number: int, weight: int = 1, timeout_s: float = 1000.0, *, background: bool = False
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(self._send(number, weight, timeout_s, background))
        self.tasks.append(task)
        return task

    async def _send(self, number: int, weight: int, timeout_s: float, background: bool) -> None:
        await self.budget.spend(weight, timeout_s, background=background)
        self.went.append((number, self.clock.mono_ns() / SECOND))


async def test_a_burst_then_the_rate() -> None:
    line = Line(Limits(requests_per_second=10, burst=3))
    for number in range(6):
        line.send(number)
    await line.clock.advance(1)
    assert line.went == [(0, 0.0), (1, 0.0), (2, 0.0), (3, 0.1), (4, 0.2), (5, 0.3)]
    await line.clock.advance(10)
    assert line.budget.waiting == 0
    for number in range(6, 10):
        line.send(number)
    await line.clock.advance(0.05)
    assert len(line.went) == 9, "an idle budget holds one burst again, not more"
    await line.clock.advance(1)


async def test_weight_waits_for_the_next_minute_and_keeps_the_order() -> None:
    line = Line(Limits(100, 100, weight_per_minute=50), MINUTE_START + 10 * SECOND)
    for number, weight in enumerate([30, 30, 5]):
        line.send(number, weight)
    await line.clock.advance(49.9)
    assert [number for number, _ in line.went] == [0], "the light one does not overtake"
    assert (line.budget.used_weight, line.budget.waiting) == (30, 2)
    await line.clock.advance(0.2)
    assert [number for number, _ in line.went] == [0, 1, 2]
    assert line.went[1][1] == pytest.approx(50.0)
    assert line.budget.used_weight == 35


async def test_what_can_wait_waits_behind_everything_live() -> None:
    line = Line(Limits(requests_per_second=1, burst=1))
    for number, background in enumerate([False, True, True, False, False]):
        line.send(number, background=background)
    await line.clock.advance(5)
    assert [number for number, _ in line.went] == [0, 3, 4, 1, 2]


async def test_the_background_leaves_a_part_of_the_minute_alone() -> None:
    line = Line(Limits(100, 100, weight_per_minute=100, background_share=0.5))
    for number in range(4):
        line.send(number, 20, background=True)
    await line.clock.advance(1)
    assert [number for number, _ in line.went] == [0, 1], "a third would use up more than half"
    line.send(9, 60)
    await line.clock.advance(1)
    assert [number for number, _ in line.went] == [0, 1, 9], "what is live goes on"
    await line.clock.advance(58)
    assert [number for number, _ in line.went] == [0, 1, 9, 2, 3]


async def test_a_background_request_heavier_than_its_share_goes_alone() -> None:
    line = Line(Limits(100, 100, weight_per_minute=100, background_share=0.5))
    line.send(0, 1)
    line.send(1, 80, background=True)
    await line.clock.advance(59)
    assert [number for number, _ in line.went] == [0]
    await line.clock.advance(1)
    assert [number for number, _ in line.went] == [0, 1]


async def test_the_host_knows_better() -> None:
    line = Line(Limits(100, 100, weight_per_minute=1000))
    line.budget.learn(990)
    line.send(0, 20)
    await line.clock.advance(59)
    assert line.went == []
    line.budget.learn(10)
    assert line.budget.used_weight == 990, "a lower count is an older one"
    await line.clock.advance(1)
    assert line.went == [(0, 60.0)]


async def test_what_was_sent_in_an_earlier_minute_teaches_nothing() -> None:
    line = Line(Limits(weight_per_minute=1000))
    line.budget.learn(900, sent_ns=MINUTE_START - 1)
    assert line.budget.used_weight == 0
    line.budget.learn(900, sent_ns=MINUTE_START)
    assert line.budget.used_weight == 900


async def test_a_standing_wall_clock_does_not_stop_the_minute() -> None:
    line = Line(Limits(weight_per_minute=10))
    await line.budget.spend(10)
    line.send(0, 10)
    for _ in range(60):
        await line.clock.advance(1)
        line.clock.jump(-1)
    assert [number for number, _ in line.went] == [0]
    assert line.budget.used_weight == 10


async def test_a_pause_holds_everyone() -> None:
    line = Line(Limits())
    line.budget.pause(30)
    line.budget.pause(5)
    line.send(0)
    await line.clock.advance(29.9)
    assert line.went == []
    assert line.budget.paused_s == pytest.approx(0.1)
    assert line.budget.paused_until_ns == MINUTE_START + 30 * SECOND
    await line.clock.advance(0.1)
    assert line.went == [(0, 30.0)]
    assert line.budget.status.paused_until_ns is None


async def test_a_pause_is_bounded() -> None:
    line = Line(Limits())
    line.budget.pause(1e12)
    assert line.budget.paused_s == 3 * 86400
    other = Line(Limits()).budget
    other.pause(-5)
    assert other.paused_s == 0


async def test_who_cannot_outwait_a_pause_is_told_at_once() -> None:
    line = Line(Limits(1, 1))
    await line.budget.spend()
    short, long = line.send(0, timeout_s=10), line.send(1, timeout_s=1000)
    await line.clock.advance(0)
    line.budget.pause(60)
    await line.clock.advance(0)
    with pytest.raises(RateLimited) as caught:
        await short
    assert caught.value.retry_after == 60
    with pytest.raises(RateLimited):
        await line.budget.spend(timeout_s=59)
    await line.clock.advance(60)
    await long


async def test_no_turn_in_time() -> None:
    line = Line(Limits(0.1, 1))
    await line.budget.spend()
    first, second = line.send(0, timeout_s=30), line.send(1, timeout_s=15)
    await line.clock.advance(15)
    with pytest.raises(TransientError, match="no turn for h in time"):
        await second
    await first
    assert line.budget.waiting == 0


async def test_a_full_line_fails_at_once() -> None:
    line = Line(Limits(1, 1, waiting_max=2))
    await line.budget.spend()
    waiting = [line.send(0), line.send(1)]
    await line.clock.advance(0)
    with pytest.raises(TransientError, match="2 requests already wait for h"):
        await line.budget.spend()
    await line.clock.advance(2)
    await asyncio.gather(*waiting)


async def test_a_cancelled_waiter_costs_nothing() -> None:
    line = Line(Limits(1, 1))
    await line.budget.spend()
    first, _ = line.send(0), line.send(1)
    await line.clock.advance(0.5)
    first.cancel()
    await line.clock.advance(0.5)
    assert line.went == [(1, 1.0)]
    assert line.budget.waiting == 0


async def test_a_weight_no_minute_holds_is_refused() -> None:
    budget = Line(Limits(weight_per_minute=100)).budget
    for weight in (101, -1):
        with pytest.raises(InputError, match="valid are 0 to 100"):
            await budget.spend(weight)


@pytest.mark.parametrize(
    "options", [{"requests_per_second": 0}, {"burst": 0.5}, {"weight_per_minute": -1}, {"waiting_max": 0}]
)
def test_bad_limits_say_so(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        Limits(**options)


def test_one_budget_for_each_host() -> None:
    budgets = Budgets(ManualClock(), Limits(burst=7), {"a": Limits(weight_per_minute=6000)})
    assert budgets.of("a") is budgets.of("a")
    assert budgets.of("a") is not budgets.of("b")
    assert [status.host for status in budgets.statuses] == ["a", "b"]


requests = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 20)), min_size=1, max_size=40)


@settings(deadline=None, max_examples=40)
@given(requests, st.floats(0.5, 50), st.integers(1, 10))
def test_limits_and_order_hold_for_any_arrivals(arrivals: list[tuple[float, int]], rate: float, burst: int) -> None:
    weights = [weight for _, weight in arrivals]

    async def scenario() -> Line:
        line = Line(Limits(rate, burst, weight_per_minute=60), MINUTE_START + 7 * SECOND)
        for number, (gap_s, weight) in enumerate(arrivals):
            await line.clock.advance(gap_s)
            line.send(number, weight, timeout_s=1e6)
        for _ in range(60):
            await line.clock.advance(20)
        return line

    line = asyncio.run(scenario())
    assert [number for number, _ in line.went] == list(range(len(arrivals))), "first come, first served, and all"
    times = [at for _, at in line.went]
    for i, begin in enumerate(times):
        for j in range(i, len(times)):
            assert j - i + 1 <= burst + rate * (times[j] - begin) + 1e-6
    used: dict[int, int] = {}
    for (_, at), weight in zip(line.went, weights, strict=True):
        minute = int(MINUTE_START / SECOND + 7 + at + 1e-9) // 60
        used[minute] = used.get(minute, 0) + weight
    assert max(used.values()) <= 60


async def test_who_is_cancelled_at_its_turn_leaves_room_for_the_next() -> None:
    clock = ManualClock()
    budget = Budget(clock, Limits(requests_per_second=1000, burst=5, at_once=1))
    await budget.spend()
    second, third = asyncio.ensure_future(budget.spend()), asyncio.ensure_future(budget.spend())
    await clock.advance(1.0)
    budget.done()  # the second has its turn, and does not know yet
    second.cancel()
    await clock.advance(1.0)
    assert second.cancelled()
    assert third.done()


@pytest.mark.parametrize(("name", "found"), [("jitter", 1.5), ("jitter", -0.1), ("at_once", 0)])
def test_impossible_paces_are_refused(name: str, found: float) -> None:
    with pytest.raises(InputError, match=name):
        Limits(**{name: found})  # type: ignore[arg-type]
