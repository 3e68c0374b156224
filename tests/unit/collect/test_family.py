"""Sites of one owner share a budget and a breaker."""

from __future__ import annotations

import asyncio

from tidewire.collect import Allowed, Families
from tidewire.collect.family import LONG_PAUSE_S, PATIENCE, PAUSE_S, SLOWEST
from tidewire.records.clock import ManualClock


def test_the_lowest_limit_of_a_family_counts_for_all() -> None:
    clock, families = ManualClock(), Families()
    first = families.of("eastmoney.com", clock, Allowed(2.0, 4))
    second = families.of("eastmoney.com", clock, Allowed(1.0, 8))
    assert first is second
    assert first.allowed == Allowed(1.0, 4)
    assert first.of("push2.eastmoney.com") is first.of("data.eastmoney.com")
    assert families.of("sina.com.cn", clock, Allowed(5.0)) is not first


def test_a_family_that_adapts_is_asked_slower_after_refusals_and_faster_again_with_answers() -> None:
    clock, families = ManualClock(), Families()
    family = families.of("a.com", clock, Allowed(2.0, adapts=True))
    for _ in range(10):
        family.refused("blocked")
    assert family.slowed == SLOWEST
    for _ in range(200):
        family.answered()
    assert family.slowed == 1.0
    steady = families.of("b.com", clock, Allowed(2.0))
    steady.refused("blocked")
    assert steady.slowed == 1.0


async def test_requests_go_at_the_pace_of_the_family() -> None:
    clock, families = ManualClock(), Families()
    family = families.of("eastmoney.com", clock, Allowed(5.0))
    families.of("eastmoney.com", clock, Allowed(0.5))
    budget = family.of("a")
    await budget.spend()
    began = clock.mono_ns()
    waiting = asyncio.ensure_future(budget.spend())
    while not waiting.done():
        await clock.advance(0.1)
    assert 1.9 <= (clock.mono_ns() - began) / 1e9 <= 2.2


def test_refusals_in_a_row_make_the_pause_long_and_an_answer_ends_the_row() -> None:
    clock = ManualClock()
    family = Families().of("eastmoney.com", clock, Allowed(1.0))
    pauses = [family.refused("blocked") for _ in range(PATIENCE)]
    assert pauses == [PAUSE_S] * (PATIENCE - 1) + [LONG_PAUSE_S]
    assert family.of("x").paused_s == LONG_PAUSE_S
    family.answered()
    assert family.refused("blocked") == PAUSE_S


async def test_no_more_requests_are_in_flight_than_the_family_allows() -> None:
    families, most, now = Families(), 0, 0
    family = families.of("eastmoney.com", ManualClock(), Allowed(5.0, 3))

    async def ask(cut_off: bool) -> None:
        nonlocal most, now
        async with family.turn():
            now += 1
            most = max(most, now)
            for _ in range(3):
                await asyncio.sleep(0)
            now -= 1
            if cut_off:
                raise RuntimeError

    tasks = [asyncio.create_task(ask(cut_off=number % 3 == 0)) for number in range(20)]
    await asyncio.sleep(0)
    for task in tasks[5:8]:  # while they wait
        task.cancel()
    await asyncio.wait(tasks)
    assert most == 3
    families.of("eastmoney.com", ManualClock(), Allowed(5.0, 1))
    most = 0
    await asyncio.gather(*(ask(cut_off=False) for _ in range(5)))
    assert most == 1
