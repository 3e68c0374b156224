"""Windows of time, and what a file may say of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.errors import ConfigError
from tidewire.sources.declared import load_declared
from tidewire.sources.declared.grammar import Since
from tidewire.sources.declared.times import micros_of
from tidewire.sources.declared.windows import Span, moment, windows_of
from unit.sources.declared.samples import file_of
from unit.sources.declared.test_since import HISTORY

DAY = 86_400_000_000
SHANGHAI_START = micros_of(datetime(2023, 12, 31, 16, tzinfo=UTC), UTC)


def test_the_first_window_begins_at_the_start_in_its_own_zone() -> None:
    windows = windows_of(Since(start="2024-01-01", step="7d", lookback="2d"), "here")
    now = SHANGHAI_START + 30 * DAY
    assert windows.next(None, now, newest=True) == (SHANGHAI_START, SHANGHAI_START + 7 * DAY)
    assert windows.next(SHANGHAI_START + 7 * DAY, now, newest=False) == (
        SHANGHAI_START + 7 * DAY,
        SHANGHAI_START + 14 * DAY,
    )


def test_a_round_looks_back_and_ends_now() -> None:
    windows = windows_of(Since(start="2024-01-01", step="7d", lookback="2d"), "here")
    whole = SHANGHAI_START + 28 * DAY
    assert windows.next(whole, whole + DAY, newest=True) == (whole - 2 * DAY, whole + DAY)


def test_without_a_step_there_is_one_window() -> None:
    assert windows_of(Since(start="30d"), "here").next(None, 90 * DAY, newest=True) == (60 * DAY, 90 * DAY)
    assert windows_of(Since(start="30d", step="1d"), "here").newest(90 * DAY) == (89 * DAY, 90 * DAY)


@given(start=st.integers(0, 400), step=st.integers(1, 90), lookback=st.integers(0, 120), now=st.integers(0, 800))
def test_windows_leave_nothing_out_and_come_to_now(start: int, step: int, lookback: int, now: int) -> None:
    since = Since(start="1970-01-01", step=f"{step}d", lookback=f"{lookback}d" if lookback else "", tz="UTC")
    windows, whole, newest = windows_of(since, "here"), None, True
    for _ in range(now // step + 2):
        span = windows.next(whole, now * DAY, newest=newest)
        assert span.since <= (whole or 0) <= span.until <= now * DAY
        whole, newest = span.until, False
    assert whole == now * DAY


def test_a_clock_that_was_set_back_moves_no_window_back() -> None:
    windows = windows_of(Since(start="2024-01-01", step="1d"), "here")
    whole = SHANGHAI_START + 9 * DAY
    assert windows.next(whole, whole - DAY, newest=True) == Span(whole, whole)


def test_moments_as_people_write_them() -> None:
    assert moment("2024-01-01", None) == SHANGHAI_START
    assert moment("2024-01-01", Since(start="", tz="UTC")) == SHANGHAI_START + 8 * 3_600_000_000
    assert moment(5, None) == 5


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("start: 3d", "start: soon", "since.start: 'soon' is no date and no duration"),
        ("step: 1d", "step: daily", "since.step"),
        ("tz: UTC", "tz: Moon", "since.tz: 'Moon' is not a time zone"),
        ("field: event_time", "field: last", "'last' is no time among the fields; they are event_time"),
        ("since: {", "sinze: {", "Did you mean 'since'"),
        ("since: {field: event_time, start: 3d, step: 1d, lookback: 1h, tz: UTC}\n", "", "the file has no `since`"),
        ('from: "${since}", to: "${until}", ', "", "nothing in request asks for ${since}"),
    ],
)
def test_what_cannot_be_meant_is_told_when_the_file_is_read(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in HISTORY
    with pytest.raises(ConfigError) as error:
        load_declared(file_of(tmp_path, HISTORY.replace(old, new, 1)))
    assert said in str(error.value)
