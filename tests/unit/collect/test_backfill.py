"""Loading history: what comes first, what is known after a kill, what becomes of errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.collect import Backfill, Collector, Coverage, Cursors, Part, Reply, Shard, Wanted
from tidewire.collect.backfill import DAY_US, check_history, history_start
from tidewire.collect.coverage import SPANS_MAX
from tidewire.errors import ConfigError, RateLimited, TerminalError, TransientError
from tidewire.records.clock import ManualClock
from unit.collect.kit import Place, place, toy, until

spans = st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(spans, max_size=30), spans, st.integers(1, 10))
def test_coverage_is_a_set_of_moments(added: list[tuple[int, int]], asked: tuple[int, int], most: int) -> None:
    covered: set[int] = set()
    coverage = Coverage()
    for begin, end in added:
        coverage = Coverage.decode(coverage.add(begin, end, 1).encode())
        covered |= set(range(begin, end))
    assert {at for begin, end in coverage.spans for at in range(begin, end)} == covered
    assert coverage.rows == len(added)
    missing = sorted(set(range(*asked)) - covered)
    assert coverage.within(*asked) == asked[1] - asked[0] - len(missing)
    found = coverage.newest_missing(*asked, most)
    assert (found is None) == (not missing)
    if found is not None:
        assert found[1] == missing[-1] + 1
        assert set(range(*found)) <= set(missing)
        assert found[1] - found[0] <= most
        assert found[1] - found[0] == most or found[0] - 1 not in missing


@given(st.lists(st.tuples(st.integers(0, 1 << 30), st.booleans()), min_size=1), st.integers(1, 200))
def test_whatever_is_killed_every_moment_is_asked_for(lives: list[tuple[int, bool]], length: int) -> None:
    """Each life asks for a few shards; the last reply of a life may be kept or not. None is lost, none comes twice."""
    kept: list[tuple[int, int]] = []
    cursor: str | None = None
    heads: list[int] = []
    for seed, survives in [*lives, (1 << 30, True)]:
        coverage = Coverage.decode(cursor)
        heads.append(length + 3 * len(heads))
        for number in range(seed % 5 if seed < 1 << 30 else 10_000):
            found = coverage.newest_missing(0, heads[-1], 7)
            if found is None:
                break
            coverage = coverage.add(*found, found[1] - found[0])
            if not survives and number == seed % 5 - 1:
                break  # the reply never became durable, and neither did its cursor
            kept.append(found)
            cursor = coverage.encode()
    moments = [at for begin, end in kept for at in range(begin, end)]
    assert len(moments) == len(set(moments)), "asked for again although it was kept"
    assert set(moments) == set(range(heads[-1]))


def test_a_cursor_stays_small_and_what_it_forgets_is_loaded_again() -> None:
    coverage = Coverage()
    for at in range(0, 10 * (SPANS_MAX + 5), 10):
        coverage = coverage.add(at, at + 1 + at % 7)
    assert len(coverage.spans) == SPANS_MAX
    assert Coverage.decode("{") == Coverage() == Coverage.decode(None)


@dataclass
class Venue:
    """Answers shards whole, or fails as told; remembers what it was asked."""

    errors: dict[str, list[Exception]] = field(default_factory=dict)
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    stop_after: int | None = None

    async def load(self, shard: Shard) -> AsyncGenerator[Part]:
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            await asyncio.Event().wait()
        self.asked.append((shard.instrument, shard.start_us, shard.end_us))
        if self.errors.get(shard.instrument):
            raise self.errors[shard.instrument].pop(0)
        reply = Reply(200, {}, b"[]", "http://x/klines", 1, 0.0)
        middle = (shard.start_us + shard.end_us) // 2
        yield Part(reply, middle, shard.end_us, shard.end_us - middle)
        yield Part(reply, shard.start_us, middle, middle - shard.start_us)


def wanted(names: Iterable[str], start: int = 0) -> list[Wanted]:
    return [Wanted(name, "1m", start, 4, 1) for name in names]


def begun(
    here: Place, venue: Venue, names: str = "AB", *, start: int = 0, head: int = 12, workers: int = 1
) -> Backfill:
    made = Backfill(Collector("kline", toy(here)), "kline", venue.load, workers)
    made.want(wanted(names, start))
    made.reach(head)
    made.start()
    return made


def all_done(made: Backfill) -> bool:
    return all(row["state"] in ("done", "failed") for row in made.status())


async def test_every_series_has_its_newest_part_before_any_has_an_older_one(tmp_path: Path) -> None:
    async with place(tmp_path, ManualClock()) as here:
        venue = Venue()
        made = begun(here, venue)
        await until(lambda: all_done(made))
        assert venue.asked == [(name, end - 4, end) for end in (12, 8, 4) for name in "AB"]
        (row, _) = made.status()
        assert (row["shards_done"], row["shards_total"], row["rows"], row["rows_total"]) == (3, 3, 12, 12)
        assert (row["percent"], row["eta_seconds"], row["error"]) == (100.0, 0.0, None)
        made.reach(14)
        await until(lambda: len(venue.asked) == 8)
        assert venue.asked[6:] == [("A", 12, 14), ("B", 12, 14)]
        await made.stop()


async def test_after_a_kill_the_journal_says_where_to_go_on(tmp_path: Path) -> None:
    async with place(tmp_path, ManualClock()) as here:
        first = Venue(stop_after=3)
        made = begun(here, first)
        await until(lambda: len(first.asked) == 3 and made.status()[0]["rows"] == 8)
        assert made.status()[0]["state"] in ("loading", "waiting")
        await made.stop()
    async with place(tmp_path, ManualClock()) as here:
        cursors = Cursors()
        cursors.load(here.journal)
        here.context = replace(here.context, cursors=cursors)
        second = Venue()
        made = begun(here, second, head=20, start=-8)
        await until(lambda: all_done(made))
        await made.stop()
    loaded = [(name, at) for name, begin, end in first.asked + second.asked for at in range(begin, end)]
    assert sorted(loaded) == [(name, at) for name in "AB" for at in range(-8, 20)], "complete, and once each"


async def test_what_is_still_to_come_need_not_be_asked_for_by_others(tmp_path: Path) -> None:
    async with place(tmp_path, ManualClock()) as here:
        venue = Venue({"B": [TransientError("away")]}, stop_after=2)
        made = begun(here, venue, head=12)
        await until(lambda: made.status()[0]["rows"] == 4 and made.status()[1]["error"] is not None)
        assert made.loads("A", "1m", 0, 3)
        assert made.loads("A", "1m", 7, 9), "a part of it"
        assert not made.loads("A", "1m", 8, 12), "is there"
        assert not made.loads("A", "1m", 12, 20), "belongs to the live stream"
        assert not made.loads("B", "1m", 0, 12), "something holds it up"
        assert not made.loads("A", "1h", 0, 12)
        await made.stop()


async def test_what_can_pass_is_tried_again_and_what_cannot_is_told(tmp_path: Path) -> None:
    clock = ManualClock()
    async with place(tmp_path, clock) as here:
        refused = TerminalError("Invalid symbol.")
        venue = Venue({"A": [TransientError("away"), RateLimited("slow down", 30.0)], "B": [refused]})
        made = begun(here, venue, workers=2)
        await until(lambda: made.status()[0]["error"] == "away" and made.status()[1]["state"] == "failed")
        assert made.status()[1]["error"] == "Invalid symbol."
        assert here.said("collector.toy.error")
        await clock.advance(1.0)
        await until(lambda: made.status()[0]["error"] == "slow down")
        asked = len(venue.asked)
        await clock.advance(30.0)
        assert len(venue.asked) == asked, "not before the time it was told"
        await clock.advance(3.0)
        await until(lambda: all_done(made))
        assert [row["state"] for row in made.status()] == ["done", "failed"]
        assert made.status()[1]["shards_done"] == 0
        await made.stop()


async def test_an_answer_that_brings_nothing_is_not_asked_for_without_end(tmp_path: Path) -> None:
    asked: list[Shard] = []

    async def empty(shard: Shard) -> AsyncGenerator[Part]:
        asked.append(shard)
        yield Part(Reply(200, {}, b"[]", "http://x/klines", 1, 0.0), shard.end_us, shard.end_us)

    async with place(tmp_path, ManualClock()) as here:
        made = Backfill(Collector("kline", toy(here)), "kline", empty)
        made.want(wanted("A"))
        made.reach(4)
        made.start()
        await until(lambda: made.status()[0]["error"] is not None)
        assert len(asked) == 1
        await made.stop()


def test_what_is_wanted_is_checked() -> None:
    now_us = 1_767_600_000_000_000
    assert history_start(None, None, now_us) is None
    assert history_start(2, None, now_us) == (now_us // DAY_US - 2) * DAY_US
    assert history_start(None, date(2026, 1, 1), now_us) == 1_767_225_600_000_000
    with pytest.raises(ConfigError, match="start_date 2026-02-01 is in the future"):
        history_start(None, date(2026, 2, 1), now_us)
    for wrong, said in (
        ((1, date(2024, 1, 1), 4), "write one of them"),
        ((-1, None, 4), "history_days -1"),
        ((None, date(1970, 1, 1), 4), "from 1990 on"),
        ((None, None, 0), "history_workers 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_history(*wrong)
