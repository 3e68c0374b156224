"""What a platform says of a calendar that ends: from when on, and no oftener than once a day."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, date, datetime

import pytest
from structlog.testing import capture_logs

from tidewire import telemetry
from tidewire.records.calendar import tell
from tidewire.records.clock import ManualClock
from tidewire.watch.calendars import CalendarWatch

HOUR = 3_600.0
DAY = 24 * HOUR


@pytest.fixture(autouse=True)
def _nothing_told() -> Iterator[None]:
    yield
    tell({})


def clock_at(*parts: int) -> ManualClock:
    return ManualClock(round(datetime(*parts, tzinfo=UTC).timestamp() * 1e9))  # type: ignore[arg-type, misc]


def watch(clock: ManualClock, *used: str) -> CalendarWatch:
    return CalendarWatch(clock, lambda: used)


def test_only_what_is_used_is_told_of() -> None:
    assert watch(clock_at(2027, 6, 1)).checks == {}
    assert watch(clock_at(2026, 6, 1), "XSHG").checks == {"calendar XSHG": "ok"}


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        ((2026, 11, 30, 15), "ok"),
        ((2026, 11, 30, 16), "provisional from 2027-01-01"),  # 1 December in Shanghai
        ((2027, 3, 1), "provisional from 2027-01-01"),
    ],
)
def test_thirty_days_ahead(moment: tuple[int, ...], said: str) -> None:
    assert watch(clock_at(*moment), "XSHG").checks["calendar XSHG"] == said


def test_what_is_told_ends_it() -> None:
    tell({"XSHG": ([date(2027, 1, 1)], date(2027, 12, 31))})
    assert watch(clock_at(2026, 12, 1), "XSHG").checks == {"calendar XSHG": "ok"}


def test_what_never_closes_never_ends() -> None:
    assert watch(clock_at(2090, 1, 1), "24/7").checks == {"calendar 24/7": "ok"}


async def test_one_warning_a_day() -> None:
    clock = clock_at(2026, 11, 30, 2)
    with capture_logs() as logs:
        task = asyncio.create_task(watch(clock, "XSHG", "24/7").run())
        await clock.advance(0)
        assert not logs
        assert telemetry.value("tidewire_calendar_known_days", calendar="XSHG") == 31
        await clock.advance(DAY)
        assert [entry["event"] for entry in logs] == ["calendar XSHG is provisional from 2027-01-01"]
        assert "calendars.XSHG.closed" in logs[0]["what_to_do"]
        await clock.advance(6 * HOUR)
        assert len(logs) == 1
        for _ in range(3):
            await clock.advance(DAY)
        assert len(logs) == 4
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
