"""The audit a platform makes of itself: when it looks, at what, and whom it tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest

from tidewire import telemetry
from tidewire.bus import MemoryBus
from tidewire.errors import StoreBusy
from tidewire.records.batch import HOUR_US, Fate
from tidewire.records.clock import ManualClock, SeededRng, utc
from tidewire.records.event import Event
from tidewire.watch.selfaudit import SUBJECT, SelfAudit

MINUTE = 60.0
DAY = 86_400.0


class Books:
    """A store of two hours: one of long ago, and that of now; rows may be ``missing`` from either."""

    def __init__(self, clock: ManualClock) -> None:
        self._hours = {"old": 0, "now": clock.wall_ns() // 1_000 // HOUR_US * HOUR_US}
        self.missing = {"old": 0, "now": 0}
        self.starts: list[datetime | None] = []
        self.error: Exception | None = None

    async def fates(self) -> dict[tuple[str, Fate], int]:
        if self.error is not None:
            raise self.error
        hours = self._hours.values()
        return {("trade", Fate("s", hour, fate)): 10 for fate in ("received", "stored") for hour in hours}

    async def counts(self, start: datetime | None = None, end: datetime | None = None) -> Any:
        self.starts.append(start)
        return {
            ("trade", "s", hour): 10 - self.missing[name]
            for name, hour in self._hours.items()
            if start is None or utc(hour * 1_000) >= start
        }

    def positions(self) -> dict[Any, int]:
        return {}


@asynccontextmanager
async def running(interval_s: float = 5 * MINUTE) -> AsyncIterator[tuple[SelfAudit, Books, ManualClock, list[Event]]]:
    clock = ManualClock()
    bus = MemoryBus(clock)
    await bus.start()
    heard: list[Event] = []
    bus.subscribe("control.>", heard.append)
    books = Books(clock)
    own = SelfAudit(books, bus, clock, SeededRng(), interval_s)  # type: ignore[arg-type]
    task = asyncio.create_task(own.run())
    await clock.advance(0)
    yield own, books, clock, heard
    assert not task.done() or not interval_s
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await bus.close()


async def test_it_looks_every_interval_and_says_when() -> None:
    async with running() as (own, books, clock, heard):
        await clock.advance(4 * MINUTE)
        assert (books.starts, own.difference, own.check) == ([], None, "ok")
        await clock.advance(MINUTE)
        assert (len(books.starts), own.difference, own.check) == (1, 0, "ok")
        assert telemetry.value("tidewire_audit_last_run_timestamp_seconds") == clock.wall_ns() / 1e9
        assert telemetry.value("tidewire_audit_difference_rows") == 0
        await clock.advance(10 * MINUTE)
        assert len(books.starts) == 3
        assert not heard


async def test_each_change_is_told_once() -> None:
    async with running() as (own, books, clock, heard):
        await clock.advance(5 * MINUTE)
        books.missing["now"] = 2
        await clock.advance(15 * MINUTE)
        assert (own.difference, own.check) == (2, "difference 2")
        assert telemetry.value("tidewire_audit_difference_rows") == 2
        (event,) = heard
        assert (event.subject, event.facts["difference"], event.facts["before"]) == (SUBJECT, 2, 0)
        (line,) = event.facts["lines"]
        assert (line["source"], line["type"], line["booked"], line["table"]) == ("s", "trade", 10, 8)
        books.missing["now"] = 3
        await clock.advance(10 * MINUTE)
        books.missing["now"] = 0
        await clock.advance(10 * MINUTE)
        assert [event.facts["difference"] for event in heard] == [2, 3, 0]
        assert (own.difference, own.check) == (0, "ok")


async def test_old_hours_are_looked_at_once_a_day_and_not_forgotten_meanwhile() -> None:
    async with running(interval_s=60 * MINUTE) as (own, books, clock, heard):
        books.missing["old"] = 1
        await clock.advance(3 * 60 * MINUTE)
        assert books.starts[0] is None
        assert None not in books.starts[3:]
        assert (own.difference, len(heard)) == (1, 1)
        books.missing["now"] = 4
        await clock.advance(60 * MINUTE)
        assert own.difference == 5
        books.missing["old"] = 0
        await clock.advance(DAY)
        assert own.difference == 4
        assert books.starts.count(None) > 3


async def test_a_store_that_is_busy_is_looked_at_the_next_time() -> None:
    async with running() as (own, books, clock, heard):
        failures = telemetry.value("tidewire_audit_failures_total")
        books.error = StoreBusy("all readers are in use")
        await clock.advance(5 * MINUTE)
        assert own.check == "failed: all readers are in use"
        assert telemetry.value("tidewire_audit_failures_total") == failures + 1
        books.error = None
        await clock.advance(5 * MINUTE)
        assert (own.check, own.difference) == ("ok", 0)
        assert not heard


@pytest.mark.parametrize("interval_s", [0.0])
async def test_it_can_be_off(interval_s: float) -> None:
    async with running(interval_s) as (own, books, clock, _):
        await clock.advance(DAY)
        assert (books.starts, own.difference) == ([], None)
