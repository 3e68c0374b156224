from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.collect.schedule import Cron, Every, Window, parse_duration, zone
from tidewire.errors import InputError
from tidewire.records.calendar import tell

SECOND = 1_000_000_000
SHANGHAI = ZoneInfo("Asia/Shanghai")
BERLIN = ZoneInfo("Europe/Berlin")

walls = st.integers(min_value=0, max_value=4_000_000_000 * SECOND)


def at(*parts: int, tz: ZoneInfo | None = None, fold: int = 0) -> int:
    return round(datetime(*parts, tzinfo=tz or UTC, fold=fold).timestamp()) * SECOND  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("5s", 5.0), ("1m", 60.0), ("2h", 7200.0), ("1d", 86400.0), ("1h30m", 5400.0), (" 1.5s ", 1.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "5 apples", "-5s", "5s-", "1e3s", "5x", "m5", "0s", "0ms"])
def test_what_is_not_a_duration_says_so(text: str) -> None:
    with pytest.raises(InputError, match="duration"):
        parse_duration(text)


def test_a_bare_number_is_not_guessed() -> None:
    with pytest.raises(InputError, match="Write '5s' if seconds are meant"):
        parse_duration("5")


@given(st.integers(1, 10_000), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_durations_read_back(number: int, unit: str) -> None:
    factor = {"ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    assert parse_duration(f"{number}{unit}") == pytest.approx(number * factor)


@given(walls, st.floats(0.001, 100_000))
def test_every_is_after_and_on_its_grid(wall_ns: int, seconds: float) -> None:
    schedule = Every(seconds)
    due = schedule.next_after(wall_ns)
    assert wall_ns < due <= wall_ns + schedule.period_ns
    assert due % schedule.period_ns == 0


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e-12])
def test_an_interval_must_be_above_zero(seconds: float) -> None:
    with pytest.raises(InputError, match="above zero"):
        Every(seconds)


@given(walls, st.sampled_from(["*/5 * * * *", "30 1 * * *", "15 2 * * *", "0 9 * * MON-FRI", "*/7 */2 * * *"]))
def test_cron_is_strictly_after(wall_ns: int, line: str) -> None:
    schedule = Cron(line, BERLIN)
    due = schedule.next_after(wall_ns)
    assert due > wall_ns
    assert due % (60 * SECOND) == 0


def test_cron_reads_its_own_time_zone() -> None:
    due = Cron("30 9 * * *", "Asia/Shanghai").next_after(at(2026, 11, 21))
    assert due == at(2026, 11, 21, 9, 30, tz=SHANGHAI) == at(2026, 11, 21, 1, 30)


def test_cron_just_before_and_at_its_time() -> None:
    noon = at(2026, 11, 21, 12)
    schedule = Cron("*/5 * * * *")
    assert schedule.next_after(noon - 1) == noon
    assert schedule.next_after(noon) == noon + 300 * SECOND


def test_a_time_that_comes_twice_runs_once() -> None:
    schedule = Cron("30 2 * * *", "Europe/Berlin")
    first = schedule.next_after(at(2026, 10, 25, 0, 0, tz=BERLIN))
    assert first == at(2026, 10, 25, 2, 30, tz=BERLIN)
    second_pass = at(2026, 10, 25, 2, 15, tz=BERLIN, fold=1)
    assert schedule.next_after(second_pass) == at(2026, 10, 26, 2, 30, tz=BERLIN)


def test_a_time_that_does_not_exist_runs_after_the_jump() -> None:
    due = Cron("30 2 * * *", "Europe/Berlin").next_after(at(2026, 3, 29, 0, 0, tz=BERLIN))
    assert due == at(2026, 3, 29, 3, 0, tz=BERLIN)


@pytest.mark.parametrize("line", ["", "* * * *", "61 * * * *", "a b c d e", "0 0 31 2 *"])
def test_a_bad_cron_line_says_so(line: str) -> None:
    with pytest.raises(InputError, match=r"cron line|never comes"):
        Cron(line)


def test_a_bad_zone_names_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'Asia/Shanghai'"):
        zone("Asia/Shanghia")
    with pytest.raises(InputError, match="not a time zone"):
        Window("09:00-10:00", "")


def test_a_window_has_its_start_but_not_its_end() -> None:
    window = Window("09:15-15:05", "Asia/Shanghai")
    opens, closes = at(2026, 11, 20, 9, 15, tz=SHANGHAI), at(2026, 11, 20, 15, 5, tz=SHANGHAI)
    assert [window.contains(t) for t in (opens - 1, opens, closes - 1, closes)] == [False, True, True, False]
    assert window.next_open(opens) == opens
    assert window.next_open(opens - 1) == opens
    assert window.next_open(closes) == opens + 86400 * SECOND


def test_a_window_over_midnight_belongs_to_the_day_it_opens() -> None:
    friday = date(2026, 11, 20)
    window = Window("21:00-02:30", "Asia/Shanghai", lambda day: day == friday)
    assert window.contains(at(2026, 11, 21, 2, 29, tz=SHANGHAI))
    assert not window.contains(at(2026, 11, 20, 2, 29, tz=SHANGHAI))
    assert not window.contains(at(2026, 11, 21, 21, 30, tz=SHANGHAI))
    assert window.next_open(at(2026, 11, 18, tz=SHANGHAI)) == at(2026, 11, 20, 21, tz=SHANGHAI)


def test_a_whole_day() -> None:
    window = Window("00:00-24:00")
    assert window.contains(at(2026, 1, 1))
    assert window.contains(at(2026, 1, 2) - 1)


def test_a_calendar_that_has_ended_gives_no_opening() -> None:
    assert Window("09:00-10:00", is_session=lambda _: False).next_open(at(2026, 1, 1, 11)) is None


def test_two_windows_a_day() -> None:
    window = Window("12:55-15:05, 09:15-11:35", "Asia/Shanghai")
    lunch = at(2026, 11, 20, 12, tz=SHANGHAI)
    assert [window.contains(at(2026, 11, 20, *clock, tz=SHANGHAI)) for clock in ((10,), (12,), (13,), (15, 5))] == [
        True, False, True, False,
    ]  # fmt: skip
    assert window.next_open(lunch) == at(2026, 11, 20, 12, 55, tz=SHANGHAI)
    assert window.next_open(at(2026, 11, 20, 16, tz=SHANGHAI)) == at(2026, 11, 21, 9, 15, tz=SHANGHAI)


def test_a_window_of_a_calendar_opens_on_its_sessions_only() -> None:
    window = Window("09:15-15:05", "Asia/Shanghai", calendar="XSHG")
    before_holidays = at(2026, 9, 30, 15, 5, tz=SHANGHAI)
    assert window.next_open(before_holidays) == at(2026, 10, 8, 9, 15, tz=SHANGHAI)
    assert not window.contains(at(2026, 10, 10, 10, tz=SHANGHAI)), "a working Saturday"
    assert str(window) == "09:15-15:05 (XSHG, Asia/Shanghai)"


def test_the_session_is_a_window_in_the_time_of_the_exchange() -> None:
    """Whatever zone the machine, or the schedule, is in."""
    window = Window("session", "UTC", calendar="XSHG")
    assert window.next_open(at(2026, 11, 27, 8)) == at(2026, 11, 30, 1, 15)  # Friday afternoon there, then Monday
    assert [window.contains(at(2026, 11, 30, *clock)) for clock in ((1, 14), (1, 15), (4,), (4, 55), (7, 5))] == [
        False, True, False, True, False,
    ]  # fmt: skip
    # New York's Sunday evening is Monday morning in Shanghai.
    assert window.contains(at(2026, 11, 29, 21, 0, tz=ZoneInfo("America/New_York")))
    assert Window("session", calendar="24/7").contains(at(2026, 11, 28))


def test_past_the_end_of_a_calendar_weekdays_open_until_it_is_told_better() -> None:
    window = Window("session", calendar="XSHG")
    new_year = at(2027, 1, 1, 2)
    assert window.contains(new_year)
    tell({"XSHG": ([date(2027, 1, 1)], date(2027, 12, 31))})
    try:
        assert not window.contains(new_year)
    finally:
        tell({})
    assert window.contains(new_year)


def test_a_window_of_no_calendar_says_so() -> None:
    with pytest.raises(InputError, match="name one, such as XSHG"):
        Window("session", "Asia/Shanghai")
    with pytest.raises(InputError, match="No calendar 'XSHE'"):
        Window("09:15-15:05", calendar="XSHE")
    with pytest.raises(InputError, match="No calendar"):
        Window("session", calendar="XSHE")


spans = st.tuples(st.integers(0, 1439), st.integers(0, 1439)).filter(lambda span: span[0] != span[1])


@given(
    walls,
    st.lists(spans, min_size=1, max_size=3),
    st.sampled_from(["UTC", "Asia/Shanghai", "Europe/Berlin", "America/New_York"]),
)
def test_the_next_opening_is_the_first_open_moment(wall_ns: int, some: list[tuple[int, int]], tz: str) -> None:
    text = ",".join("-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in span) for span in some)
    window = Window(text, tz)
    opens = window.next_open(wall_ns)
    assert opens is not None
    assert window.contains(opens)
    assert opens == wall_ns or not window.contains(opens - 1)
    assert opens - wall_ns <= 3 * 86400 * SECOND


@pytest.mark.parametrize(
    "text", ["", "9-15", "09:15", "25:00-26:00", "09:60-10:00", "10:00-10:00", "24:00-01:00", "09:15-10:00,"]
)
def test_a_bad_window_says_so(text: str) -> None:
    with pytest.raises(InputError, match=r"daily window|no clock shows|empty"):
        Window(text)


def test_schedules_read_well() -> None:
    assert [str(s) for s in (Every(5), Cron("*/5 * * * *"), Window("09:00-10:00"))] == [
        "every 5s",
        "cron */5 * * * * (UTC)",
        "09:00-10:00 (UTC)",
    ]
