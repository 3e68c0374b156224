"""Sites of one owner share a budget and a breaker."""

from __future__ import annotations

import asyncio
import itertools

from hypothesis import given
from hypothesis import strategies as st

from tidewire.collect import Allowed, Families
from tidewire.collect.family import LONG_PAUSE_S, LONGER, PATIENCE, PAUSE_S, SLOWEST
from tidewire.records.clock import ManualClock, SeededRng


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
    budget.done()
    began = clock.mono_ns()
    waiting = asyncio.ensure_future(budget.spend())
    while not waiting.done():
        await clock.advance(0.1)
    assert 1.9 <= (clock.mono_ns() - began) / 1e9 <= 2.2


def test_refusals_in_a_row_make_the_pause_long_and_an_answer_ends_the_row() -> None:
    clock = ManualClock()
    family = Families().of("eastmoney.com", clock, Allowed(1.0))
    pauses = [family.refused("dropped") for _ in range(PATIENCE + 1)]
    assert pauses == [PAUSE_S] * PATIENCE + [LONG_PAUSE_S]
    assert family.of("x").paused_s == LONG_PAUSE_S
    assert family.answered()
    assert not family.answered()
    assert family.refused("dropped") == PAUSE_S


def test_a_plain_no_is_not_tried_again_soon() -> None:
    family = Families().of("eastmoney.com", ManualClock(), Allowed(1.0))
    assert family.refused("403", plainly=True) == LONG_PAUSE_S
    assert family.refused("dropped") == LONG_PAUSE_S


def test_a_pause_is_as_long_as_the_site_asks_for() -> None:
    family = Families().of("a.com", ManualClock(), Allowed(1.0))
    assert family.refused("429", least_s=90.0) == 90.0


@given(st.integers())
def test_long_pauses_differ_and_are_never_shorter(seed: int) -> None:
    family = Families().of("a.com", ManualClock(), Allowed(1.0), SeededRng(seed))
    assert LONG_PAUSE_S <= family.refused("403", plainly=True) <= LONG_PAUSE_S * (1 + LONGER)


def test_what_an_earlier_run_wrote_down_holds() -> None:
    family = Families().of("a.com", ManualClock(), Allowed(1.0))
    family.remember(3, 500.0)
    assert (family.refusals, family.of("x").paused_s) == (3, 500.0)


async def test_a_second_request_waits_until_the_first_is_over() -> None:
    clock = ManualClock()
    budget = Families().of("a.com", clock, Allowed(10.0)).of("x")
    await budget.spend()
    second = asyncio.ensure_future(budget.spend())
    await clock.advance(5.0)
    assert not second.done()
    budget.done()
    await clock.advance(0.0)
    assert second.done()


async def test_the_pace_is_drawn_anew_for_each_request_and_never_faster_than_allowed() -> None:
    clock = ManualClock()
    budget = Families().of("a.com", clock, Allowed(1.0, jitter=0.3), SeededRng(1)).of("x")
    went: list[int] = []
    for _ in range(50):
        asking = asyncio.ensure_future(budget.spend())
        while not asking.done():
            await clock.advance(0.01)
        budget.done()
        went.append(clock.mono_ns())
    between = [(after - before) / 1e9 for before, after in itertools.pairwise(went)]
    assert min(between) >= 0.99
    assert 1.1 <= sum(between) / len(between) <= 1.2
    assert 1.25 <= max(between) <= 1.32
