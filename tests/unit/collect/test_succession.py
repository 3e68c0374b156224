"""Who asks, who waits, and when that changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.collect import Duty, Every, Standing, Successions, Window
from tidewire.collect.succession import Succession
from tidewire.errors import ConfigError, InputError, RateLimited
from tidewire.records.clock import ManualClock
from unit.collect.kit import Noting, place, toy, until

ORDER = ("sina", "tencent", "eastmoney")


class Bench:
    """A succession, a clock moved by hand, and who is there."""

    def __init__(self, after: int = 2, order: tuple[str, ...] = ORDER) -> None:
        self.clock = ManualClock()
        self.there = set(order)
        self.told: list[Standing] = []
        self.it = Succession(
            Duty("quotes", order, after, 60.0), self.clock, lambda name: name in self.there, self.told.append
        )

    @property
    def turn(self) -> str:
        return self.it.standing.turn

    def fail(self, source: str, times: int = 2) -> None:
        for _ in range(times):
            self.it.failed(source, "no answer")


def test_the_first_asks_and_the_others_wait() -> None:
    bench = Bench()
    assert [bench.it.asks(name) for name in ORDER] == [True, False, False]
    assert bench.it.standing.text == "sina"


def test_one_failure_changes_nothing_and_two_in_a_row_do() -> None:
    bench = Bench()
    bench.fail("sina", 1)
    bench.it.well("sina")
    bench.fail("sina", 1)
    assert bench.turn == "sina"
    bench.fail("sina", 1)
    assert bench.turn == "tencent"
    assert bench.it.standing.text == "tencent (sina: no answer)"
    assert [standing.turn for standing in bench.told] == ["tencent"]


def test_a_refusal_needs_no_second_one() -> None:
    bench = Bench()
    bench.it.failed("sina", "403", refused=True)
    assert bench.turn == "tencent"


def test_whoever_gets_the_turn_is_called() -> None:
    bench = Bench()
    called: list[str] = []
    bench.it.wait("tencent", lambda: called.append("tencent"))
    bench.fail("sina")
    assert called == ["tencent"]


async def test_what_failed_is_tried_again_and_has_its_turn_back() -> None:
    bench = Bench()
    bench.fail("sina")
    assert not bench.it.asks("sina")
    await bench.clock.advance(60)
    assert bench.it.asks("sina")
    assert not bench.it.asks("sina"), "tried once a minute"
    bench.it.well("sina")
    assert bench.turn == "tencent", "one good answer may be luck"
    assert bench.it.asks("sina"), "and the next trial follows at once"
    bench.it.well("sina")
    assert bench.turn == "sina"
    assert bench.it.standing.failed == {}


async def test_a_trial_that_fails_begins_the_wait_anew() -> None:
    bench = Bench()
    bench.fail("sina")
    await bench.clock.advance(60)
    assert bench.it.asks("sina")
    bench.fail("sina", 1)
    await bench.clock.advance(59)
    assert not bench.it.asks("sina")
    await bench.clock.advance(1)
    assert bench.it.asks("sina")


def test_when_all_fail_the_last_goes_on() -> None:
    bench = Bench()
    for name in ORDER:
        bench.fail(name)
    assert bench.turn == "eastmoney"
    assert bench.it.asks("eastmoney")
    assert set(bench.it.standing.failed) == set(ORDER)


def test_rows_in_quarantine_take_the_turn_whatever_is_answered() -> None:
    bench = Bench(after=1)
    bench.it.broken("sina", "most of its rows")
    assert bench.turn == "tencent"
    bench.it.well("sina")
    bench.it.well("sina")
    assert bench.turn == "tencent", "good answers with wrong rows"
    bench.it.mended("sina")
    bench.it.well("sina")
    assert bench.turn == "sina"


def test_a_source_that_does_not_run_here_has_no_turn() -> None:
    bench = Bench()
    bench.there.discard("sina")
    assert bench.it.asks("tencent")
    assert bench.turn == "tencent"


async def test_one_that_says_nothing_loses_its_turn() -> None:
    bench = Bench()
    for _ in range(30):
        bench.it.asks("tencent")
        await bench.clock.advance(3)
    assert bench.turn == "tencent"
    assert bench.it.standing.failed["sina"].startswith("nothing was heard")


async def test_a_closed_window_is_no_silence() -> None:
    bench = Bench()
    for _ in range(10):
        bench.it.well("sina")
        bench.it.asks("tencent")
        await bench.clock.advance(3)
    await bench.clock.advance(5_400)
    assert not bench.it.asks("tencent"), "after the break the first one has its time"
    bench.it.well("sina")
    assert bench.turn == "sina"


@given(st.lists(st.tuples(st.sampled_from(ORDER), st.sampled_from(["well", "failed", "broken", "mended", "asks"]))))
def test_the_turn_is_always_the_first_that_is_well(steps: list[tuple[str, str]]) -> None:
    bench = Bench()
    for source, step in steps:
        if step in ("failed", "broken"):
            getattr(bench.it, step)(source, "why")
        else:
            getattr(bench.it, step)(source)
        failed = bench.it.standing.failed
        well = [name for name in ORDER if name not in failed]
        assert bench.turn == (well[0] if well else bench.turn)
        assert bench.it.asks(bench.turn)


@pytest.mark.parametrize(
    ("order", "after", "retry_s"),
    [((), 2, 60.0), (("a",), 2, 60.0), (("a", "a"), 2, 60.0), (("a", "b"), 0, 60.0), (("a", "b"), 2, 0.5)],
)
def test_a_duty_that_cannot_be_is_refused(order: tuple[str, ...], after: int, retry_s: float) -> None:
    with pytest.raises(ConfigError, match=r"failover\.quotes"):
        Duty("quotes", order, after, retry_s)


def test_a_source_has_one_duty() -> None:
    with pytest.raises(ConfigError, match="sina is in quotes and in bars"):
        Successions([Duty("quotes", ("sina", "tencent")), Duty("bars", ("eastmoney", "sina"))])


async def test_a_timer_runs_only_in_its_turn(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        app = toy(here)
        told: list[Standing] = []
        successions = Successions([Duty("quotes", (app.name, "other"), after=2)])
        successions.begin(here.context.clock, lambda _: True, told.append)
        object.__setattr__(app.context, "successions", successions)
        collector = Noting("rows", app)
        runs: list[str] = []

        async def round_() -> None:
            runs.append("round")
            if len(runs) == 1:
                raise InputError("no")
            if len(runs) == 2:
                collector.report(InputError("a part of it"), "page 2")
            if len(runs) == 4:
                raise RateLimited("403", 30.0)

        action = collector.in_turn(round_)
        with pytest.raises(InputError):
            await action()
        await action()
        assert [standing.turn for standing in told] == ["other"]
        assert told[0].failed == {app.name: "page 2: a part of it"}
        await action()
        assert len(runs) == 2, "it waits"


async def test_a_timer_is_run_at_once_only_while_its_window_is_open(tmp_path: Path) -> None:
    clock = ManualClock()
    async with place(tmp_path, clock) as here:
        collector = Noting("rows", toy(here))
        runs: list[str] = []

        async def run() -> None:
            runs.append("run")

        # The clock of tests begins at 22:13 UTC.
        shut = collector.add_timer("shut", Every(3_600.0), run, window=Window("09:00-10:00"))
        opened = collector.add_timer("open", Every(3_600.0), run, window=Window("22:00-23:00"))
        opened.trigger_if_open()
        assert not runs
        await collector.start()
        shut.trigger_if_open()
        opened.trigger_if_open()
        await until(lambda: bool(runs))
        assert runs == ["run"]
        await collector.stop()
