from __future__ import annotations

from tidewire.records.clock import ManualClock
from tidewire.sandbox.config import LimitConfig
from tidewire.sandbox.limits import WeightMeter, Window

ON_THE_MINUTE = 1_700_000_040_000_000_000


async def test_weight_is_counted_and_resets_at_the_minute():
    clock = ManualClock(ON_THE_MINUTE)
    meter = WeightMeter(clock, LimitConfig(weight_per_minute=50))
    await clock.advance(10)
    assert meter.spend(25) is None
    assert meter.spend(25) is None
    assert meter.used == 50
    assert meter.spend(1) == (429, 50)
    await clock.advance(50)
    assert meter.spend(25) is None
    assert meter.used == 25


async def test_going_on_over_the_limit_is_a_ban():
    clock = ManualClock(ON_THE_MINUTE)
    meter = WeightMeter(clock, LimitConfig(weight_per_minute=1, ban_after=2, ban_s=90))
    answers = [meter.spend(1) for _ in range(5)]
    assert answers == [None, (429, 60), (429, 60), (418, 90), (418, 90)]
    await clock.advance(89)
    assert meter.spend(1) == (418, 1)
    await clock.advance(1)
    assert meter.spend(1) is None


async def test_a_window_slides():
    clock = ManualClock()
    window = Window(clock, 2, 1.0)
    assert [window.allow() for _ in range(3)] == [True, True, False]
    await clock.advance(0.6)
    assert not window.allow()
    await clock.advance(0.4)
    assert [window.allow() for _ in range(3)] == [True, True, False]
