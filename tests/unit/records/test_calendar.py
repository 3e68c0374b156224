from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.errors import InputError
from tidewire.records import calendar as calendars
from tidewire.records.calendar import LENGTHS, calendar, of_venue, parse, tell

ROOT = Path(__file__).parents[3]
SHANGHAI = ZoneInfo("Asia/Shanghai")
XSHG = calendar("XSHG")

days = st.dates(date(1989, 1, 1), date(2031, 12, 31))


@pytest.fixture(autouse=True)
def _nothing_told() -> Iterator[None]:
    yield
    tell({})


def local(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=SHANGHAI)


def at(micros: int) -> str:
    return f"{datetime.fromtimestamp(micros / 1e6, SHANGHAI):%m-%d %H:%M}"


def test_the_file_is_what_the_library_says() -> None:
    told = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "docs" / "calendars.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert told.returncode == 0, told.stderr


def test_the_days_that_matter() -> None:
    assert XSHG.sessions(date(1990, 1, 1), date(1990, 12, 22)) == [
        date(1990, 12, 19), date(1990, 12, 20), date(1990, 12, 21),
    ]  # fmt: skip
    assert XSHG.last_known == date(2026, 12, 31)
    assert len(XSHG.sessions(XSHG.first, date(2027, 1, 1))) == 8_797
    assert not XSHG.is_session(date(2026, 10, 7))
    assert XSHG.is_session(date(2026, 10, 8))
    assert not XSHG.is_session(date(2026, 10, 10)), "a working Saturday is no session"
    assert XSHG.previous(date(2026, 10, 8)) == date(2026, 9, 30)
    assert XSHG.next(date(2026, 9, 30)) == date(2026, 10, 8)
    assert XSHG.next(date(1900, 1, 1)) == date(1990, 12, 19)


def test_before_the_first_session_there_is_none() -> None:
    with pytest.raises(InputError, match="begins on 1990-12-19"):
        XSHG.previous(date(1990, 12, 19))
    with pytest.raises(InputError, match="begins on 1990-12-19"):
        XSHG.previous(date(1980, 1, 1))


def test_past_the_end_weekdays_are_sessions_by_rule() -> None:
    assert not XSHG.is_provisional(date(2026, 12, 31))
    assert XSHG.is_session(date(2027, 1, 1))
    assert XSHG.is_provisional(date(2027, 1, 1))
    assert not XSHG.is_session(date(2027, 1, 2))
    assert not XSHG.is_provisional(date(2027, 1, 2)), "a Saturday is closed for certain"
    assert XSHG.next(date(2026, 12, 31)) == date(2027, 1, 1)


@given(days, days)
def test_sessions_are_the_days_that_are_sessions(one: date, other: date) -> None:
    start, end = sorted((one, other))
    each = [start + timedelta(days=at) for at in range((end - start).days)]
    assert XSHG.sessions(start, end) == [day for day in each if XSHG.is_session(day)]


@given(days.filter(lambda day: day > date(1990, 12, 19)))
def test_previous_and_next_are_neighbours(day: date) -> None:
    before, after = XSHG.previous(day), XSHG.next(day)
    assert XSHG.sessions(before, after + timedelta(days=1)) == [
        before, *([day] if XSHG.is_session(day) else []), after,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("clock", "phase", "opens"),
    [
        ("00:00", "closed", False),
        ("09:14:59", "closed", False),
        ("09:15", "auction", True),
        ("09:25", "pre", False),
        ("09:30", "morning", True),
        ("11:29:59", "morning", True),
        ("11:30", "lunch", False),
        ("13:00", "afternoon", True),
        ("14:57", "auction", True),
        ("15:00", "closed", False),
        ("15:05", "after_hours", False),
        ("15:30", "closed", False),
        ("23:59:59", "closed", False),
    ],
)
def test_phases_of_a_session(clock: str, phase: str, opens: bool) -> None:
    moment = local(f"2026-11-30T{clock}").astimezone(UTC)
    assert XSHG.phase(moment) == phase
    assert XSHG.is_open(moment) == opens
    assert XSHG.phase(moment.replace(year=2026, month=11, day=28)) == "closed", "a Saturday"


def test_a_moment_belongs_to_the_day_in_shanghai() -> None:
    """20:00 on Sunday in UTC is Monday there: a server must not ask its own clock for the date."""
    moment = datetime(2026, 11, 29, 20, 0, tzinfo=UTC)
    assert XSHG.day(moment) == date(2026, 11, 30)
    assert XSHG.is_session(XSHG.day(moment))
    assert not XSHG.is_session(moment.date())
    with pytest.raises(InputError, match="has no time zone"):
        XSHG.phase(datetime(2026, 11, 30, 10))  # noqa: DTZ001 - what is refused


def test_minute_bars() -> None:
    bars = XSHG.grid(date(2026, 11, 30), "1m")
    assert len(bars) == 240
    assert (at(bars[0][0]), at(bars[119][1]), at(bars[120][0]), at(bars[-1][1])) == (
        "11-30 09:30", "11-30 11:30", "11-30 13:00", "11-30 15:00",
    )  # fmt: skip


def test_an_hour_is_cut_by_the_lunch_break() -> None:
    bars = [f"{at(opens)[6:]}-{at(closes)[6:]}" for opens, closes in XSHG.grid(date(2026, 11, 30), "1h")]
    assert bars == ["09:30-10:30", "10:30-11:30", "13:00-14:00", "14:00-15:00"]
    assert [(at(a), at(b)) for a, b in XSHG.grid(date(2026, 11, 30), "1d")] == [("11-30 09:30", "11-30 15:00")]


@given(days, st.sampled_from(sorted(LENGTHS)))
def test_bars_fill_the_session_and_only_it(day: date, interval: str) -> None:
    bars = XSHG.grid(day, interval)
    if not XSHG.is_session(day):
        assert bars == []
        return
    assert len(bars) == 4 * 3_600 // LENGTHS[interval]
    assert all(opens < closes <= later for (opens, closes), (later, _) in itertools.pairwise(bars))
    inside = [datetime.fromtimestamp(opens / 1e6, UTC) for opens, _ in bars]
    assert {XSHG.phase(moment) for moment in inside} <= {"morning", "afternoon", "auction"}


def test_an_interval_without_a_grid_is_refused() -> None:
    with pytest.raises(InputError, match=r"'4h' has no grid.*Valid: 1m, .*1d"):
        XSHG.grid(date(2026, 11, 30), "4h")


def test_what_never_closes() -> None:
    always = calendar("24/7")
    saturday = date(2026, 11, 28)
    assert always.is_session(saturday)
    assert not always.is_provisional(date(2090, 1, 1))
    assert always.phase(datetime(2026, 11, 28, 3, tzinfo=UTC)) == "open"
    assert always.is_open(datetime(2026, 11, 28, 3, tzinfo=UTC))
    bars = always.grid(saturday, "1m")
    assert len(bars) == 1_440
    assert datetime.fromtimestamp(bars[0][0] / 1e6, UTC) == datetime(2026, 11, 28, tzinfo=UTC)
    assert always.previous(saturday) == date(2026, 11, 27)


def test_an_unknown_calendar_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"No calendar 'XSHE'\. Did you mean 'XSHG'\? Valid: XSHG .*24/7"):
        calendar("XSHE")
    assert calendars.calendars() == ["24/7", "XSHG"]


@pytest.mark.parametrize("venue", ["SH", "sz", "BJ", "XSHE", "BSE"])
def test_the_mainland_exchanges_open_on_the_same_days(venue: str) -> None:
    assert of_venue(venue) == XSHG


def test_other_venues_have_no_calendar() -> None:
    assert of_venue("BINANCE") is None


def test_what_is_told_is_known_from_then_on() -> None:
    new_year = date(2027, 1, 1)
    tell({"XSHG": ([new_year], date(2027, 12, 31))})
    told = calendar("XSHG")
    assert not told.is_session(new_year)
    assert told.next(date(2026, 12, 31)) == date(2027, 1, 4)
    assert told.last_known == date(2027, 12, 31)
    assert not told.is_provisional(date(2027, 12, 31))
    assert told.is_provisional(date(2028, 1, 3))
    assert of_venue("SZ") == told
    tell({})
    assert calendar("XSHG") == XSHG


def test_a_newer_release_knows_more_than_what_was_told() -> None:
    """A line that stays in a configuration for years takes nothing back."""
    tell({"XSHG": ([date(2025, 12, 31)], date(2025, 12, 31))})
    told = calendar("XSHG")
    assert told.last_known == date(2026, 12, 31)
    assert not told.is_session(date(2025, 12, 31))


def test_a_closed_day_alone_makes_nothing_else_known() -> None:
    tell({"XSHG": ([date(2027, 1, 1)], None)})
    assert not calendar("XSHG").is_session(date(2027, 1, 1))
    assert calendar("XSHG").is_provisional(date(2027, 1, 4))


@pytest.mark.parametrize(
    ("name", "closed", "until", "what"),
    [
        ("XSGH", [], None, "Did you mean 'XSHG'"),
        ("24/7", [date(2027, 1, 1)], None, "never closes"),
        (
            "XSHG",
            [date(2028, 1, 3)],
            date(2027, 12, 31),
            "2028-01-03 is closed, but the days are told until 2027-12-31",
        ),
    ],
)
def test_what_cannot_be_told(name: str, closed: list[date], until: date | None, what: str) -> None:
    with pytest.raises(InputError, match=what):
        tell({name: (closed, until)})
    assert calendar("XSHG") == XSHG


def test_a_data_file_reads_back() -> None:
    found = parse("X", "# words\nfirst 2026-01-05\nlast 2026-12-31\n\n2026 01-06 01-07 # two\n", "UTC")
    assert found.sessions(date(2026, 1, 1), date(2026, 1, 10)) == [date(2026, 1, 5), date(2026, 1, 8), date(2026, 1, 9)]
