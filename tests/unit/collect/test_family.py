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
