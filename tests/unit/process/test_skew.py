"""Clock skew: one verdict a row, whatever the batches; a clock that is off is no reason to quarantine."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.process import skew as skew_module
from tidewire.process.skew import (
    FIRST_TOLERANCE_US,
    MAX_CONNECTIONS,
    SHIFT_ROWS,
    TOLERANCE_US,
    WINDOW_FRAMES,
    SkewWatch,
)
from unit.process.kit import SECOND_US, START_US, cuts

DAY_US = 86_400 * SECOND_US
Row = tuple[int, int | None, str]
"""Frame, receive time minus event time in µs (None: no event time), connection."""


def table(listed: list[Row]) -> tuple[pl.DataFrame, pl.Series]:
    received = [START_US + frame * 1_000 for frame, _, _ in listed]
    own = [None if late is None else at - late for at, (_, late, _) in zip(received, listed, strict=True)]
    time = pl.Datetime("us", "UTC")
    rows = pl.DataFrame(
        {
            "source": ["binance"] * len(listed),
            "event_time": pl.Series(own, dtype=pl.Int64).cast(time),
            "ingested_at": pl.Series(received, dtype=pl.Int64).cast(time),
            "frame": pl.Series([frame for frame, _, _ in listed], dtype=pl.Int64),
        }
    )
    return rows, pl.Series([name for _, _, name in listed])


def verdicts(listed: list[Row], pieces: list[tuple[int, int]], watch: SkewWatch | None = None) -> list[bool]:
    watch = watch or SkewWatch()
    rows, connections = table(listed)
    found: list[bool] = []
    for begin, end in pieces:
        mask = watch.future("trade", rows[begin:end], connections[begin:end])
        found += [False] * (end - begin) if mask is None else mask.to_list()
    return found


def whole(listed: list[Row]) -> list[tuple[int, int]]:
    return [(0, len(listed))]


def steady(count: int, late_us: int, first: int = 1, name: str = "ws#1") -> list[Row]:
    """A feed with a constant skew and a little jitter on the way."""
    return [(first + place, late_us + place * 7_919 % 40_000, name) for place in range(count)]


def floors(watch: SkewWatch) -> dict[tuple[str, str], int | None]:
    return {name: window.floor for name, window in watch._windows.items()}


LATE = st.one_of(
    st.integers(-30 * SECOND_US, 30 * SECOND_US),
    st.sampled_from([0, None, -TOLERANCE_US, -TOLERANCE_US - 1, -2 * DAY_US, 3_600 * SECOND_US]),
)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Row], list[tuple[int, int]]]:
    """Rows of two connections over some windows, and how they are cut."""
    height = draw(st.integers(1, 60))
    base = draw(st.sampled_from([0, -1_270_000, 40_000, -3_600 * SECOND_US, 5 * DAY_US]))
    frame = draw(st.integers(1, WINDOW_FRAMES))
    listed: list[Row] = []
    for _ in range(height):
        frame += draw(st.sampled_from([0, 1, 1, 1, 1, 40, WINDOW_FRAMES // 3, 2 * WINDOW_FRAMES]))
        late = draw(LATE) if draw(st.integers(0, 3)) == 0 else base + draw(st.integers(0, 50_000))
        listed.append((frame, late, draw(st.sampled_from(["ws#1", "ws#1", "ws#2"]))))
        if draw(st.integers(0, 15)) == 0:  # a clock is set
            base += draw(st.sampled_from([-60, 60, -7_200])) * SECOND_US
    return listed, draw(cuts(height))


@settings(max_examples=100, deadline=None)
@given(streams())
def test_verdicts_do_not_depend_on_the_cutting(stream: Any) -> None:
    listed, pieces = stream
    singly = [(place, place + 1) for place in range(len(listed))]
    assert verdicts(listed, pieces) == verdicts(listed, whole(listed)) == verdicts(listed, singly)


@settings(max_examples=80, deadline=None)
@given(streams())
def test_the_fast_way_is_the_rule(stream: Any) -> None:
    listed, pieces = stream
    fast = SkewWatch()
    found = verdicts(listed, pieces, fast)
    slow = SkewWatch()
    with pytest.MonkeyPatch.context() as patch:

        def judge(window: Any, late: Any, frames: Any) -> Any:
            return skew_module._judge_each(window, late, frames) if late.any() else None

        patch.setattr(skew_module, "_judge", judge)
        assert verdicts(listed, [(place, place + 1) for place in range(len(listed))], slow) == found
    assert floors(slow) == floors(fast)


@settings(max_examples=60, deadline=None)
@given(st.integers(-FIRST_TOLERANCE_US, 400 * DAY_US), st.integers(1, 200), st.data())
def test_a_constant_skew_quarantines_nothing(late_us: int, count: int, data: st.DataObject) -> None:
    listed = steady(count, late_us)
    watch = SkewWatch()
    assert not any(verdicts(listed, data.draw(cuts(count)), watch))
    if late_us:
        assert watch.seconds["binance", "trade"] == pytest.approx(late_us / 1e6, abs=0.04)


def test_the_skew_is_the_smallest_difference() -> None:
    watch = SkewWatch()
    verdicts([(1, -1_200_000, "a"), (2, -1_270_000, "a"), (3, -900_000, "a")], [(0, 3)], watch)
    assert watch.seconds == {("binance", "trade"): -1.27}


@pytest.mark.parametrize("late_us", [0, 40_000, -1_270_000, 3_600 * SECOND_US])
def test_a_single_row_from_the_future_is_flagged(late_us: int) -> None:
    listed = steady(100, late_us or 1)
    listed[50] = (51, late_us - 60 * SECOND_US if late_us < 0 else -60 * SECOND_US, "ws#1")
    found = verdicts(listed, whole(listed))
    assert [place for place, flag in enumerate(found) if flag] == [50]


def test_the_past_is_never_flagged() -> None:
    listed = steady(50, 20_000)
    listed[25] = (26, 900 * DAY_US, "ws#1")
    assert not any(verdicts(listed, whole(listed)))


def test_the_tolerance_is_exact() -> None:
    assert verdicts([(1, 5, "a"), (2, -TOLERANCE_US, "a")], [(0, 2)]) == [False, False]
    assert verdicts([(1, 5, "a"), (2, -TOLERANCE_US - 1, "a")], [(0, 2)]) == [False, True]
    # What was accepted is the new floor.
    assert verdicts([(1, 5, "a"), (2, -TOLERANCE_US, "a"), (3, -2 * TOLERANCE_US, "a")], [(0, 3)]) == [False] * 3


@pytest.mark.parametrize("pieces", [[(0, 140)], [(0, 100), (100, 104), (104, 140)]])
def test_a_clock_that_is_set_is_followed_after_some_rows(pieces: list[tuple[int, int]]) -> None:
    listed = steady(100, 30_000) + steady(40, -3_600 * SECOND_US, first=101)
    found = verdicts(listed, pieces)
    assert found == [False] * 100 + [True] * SHIFT_ROWS + [False] * (40 - SHIFT_ROWS)


def test_bad_rows_among_good_ones_are_no_clock_that_is_set() -> None:
    listed = [(n, -3_600 * SECOND_US if n % 4 else 20_000, "ws#1") for n in range(1, 201)]
    found = verdicts([(0, 1, "ws#1"), *listed], [(0, 201)])
    assert found[1:] == [bool(n % 4) for n in range(1, 201)]


def test_a_window_of_bad_rows_only_forgets_nothing() -> None:
    hour = -3_600 * SECOND_US
    listed: list[Row] = [(1, 20_000, "a"), (WINDOW_FRAMES + 1, hour, "a"), (2 * WINDOW_FRAMES + 1, hour, "a")]
    assert verdicts(listed, whole(listed)) == [False, True, True]


def test_an_old_minimum_is_forgotten_after_two_windows() -> None:
    low, later = -1_000 * SECOND_US, 20_000
    listed: list[Row] = [
        (1, low, "a"),
        *((n * WINDOW_FRAMES, later, "a") for n in (1, 2, 3)),
        (3 * WINDOW_FRAMES, low, "a"),
    ]
    assert verdicts(listed, whole(listed)) == [False, False, False, False, True]


def test_connections_are_judged_apart() -> None:
    listed = [*steady(20, -3_600 * SECOND_US, name="ws#1"), *steady(20, 10_000, first=21, name="ws#2")]
    assert not any(verdicts(listed, whole(listed)))
    assert verdicts([*listed, (41, -3_600 * SECOND_US, "ws#2")], whole([*listed, listed[0]]))[-1]


def test_rows_stamped_by_us_say_nothing() -> None:
    watch = SkewWatch()
    assert not any(verdicts([(n, 0, "a") for n in range(50)], [(0, 50)], watch))
    assert watch.seconds == {}


def test_a_row_without_a_time_is_left_to_the_rules() -> None:
    watch = SkewWatch()
    assert verdicts([(1, None, "a"), (2, 40_000, "a"), (3, None, "a")], [(0, 3)], watch) == [False] * 3
    assert watch.seconds == {("binance", "trade"): 0.04}


def test_connections_are_bounded() -> None:
    watch = SkewWatch()
    verdicts([(n, 10_000, f"ws#{n}") for n in range(MAX_CONNECTIONS + 10)], [(0, MAX_CONNECTIONS + 10)], watch)
    assert len(watch._windows) == MAX_CONNECTIONS


def test_rows_of_the_past_say_nothing_about_the_clock() -> None:
    """Rows without a connection were asked for long after they happened."""
    live = steady(50, 1_000)
    rows, connections = table([(frame, DAY_US, "rest") for frame in range(1, 4)])
    watch = SkewWatch()
    assert watch.future("trade", rows, pl.Series([None] * 3, dtype=pl.String)) is None
    assert watch.seconds == {}
    mixed, names = table([*live, (60, -2 * DAY_US, "rest"), (61, 1_000, "ws#1")])
    names = pl.Series([None if name == "rest" else name for name in names], dtype=pl.String)
    assert watch.future("trade", mixed, names) is None
    assert watch.seconds == {("binance", "trade"): 0.001}
    assert len(connections) == 3
