"""A source that breaks does not fill the table of findings, and nothing of what was found is lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire import telemetry
from tidewire.process.checks import read_checks
from unit.process.checks.market import TICKER, at, findings, process, ticker

BEGIN = at("2026-01-06 10:00:00")


def odd(count: int, second: int, frame: int = 1, **more: Any) -> list[dict[str, Any]]:
    """Rows between two ticks, received so many seconds after ten."""
    received = BEGIN + second * 1_000_000
    return [
        ticker(f"{600_000 + n}.SH", last="10.105", frame=frame, ordinal=n, ingested_at=received, **more)
        for n in range(count)
    ]


def counted(
    specs: list[dict[str, Any]], shown: int = 3, cuts: tuple[tuple[int, int], ...] = ()
) -> list[tuple[str, int, int]]:
    found = findings(process(TICKER, specs, read_checks({"shown": shown}), cuts))
    return [(one["rule"], one["count"], one["frame"]) for one in found]


def test_the_first_of_a_minute_are_shown_and_the_rest_is_counted_when_it_is_over() -> None:
    now = odd(10, 1)
    assert counted(now) == [("tick", 1, 1)] * 3
    later = [ticker("601000.SH", frame=2, ingested_at=BEGIN + 61_000_000)]
    assert counted(now + later) == [("tick", 1, 1)] * 3 + [("tick", 7, 2)]
    assert counted(now + later, cuts=((0, 10), (10, 11))) == [("tick", 1, 1)] * 3 + [("tick", 7, 2)]


def test_the_row_of_the_rest_says_what_it_stands_for() -> None:
    later = [ticker("601000.SH", frame=2, ingested_at=BEGIN + 61_000_000)]
    *_, rest = findings(process(TICKER, odd(10, 1) + later, read_checks({"shown": 3})))
    assert rest["detail"] == "7 more in the minute of receipt from 02:00 UTC, not shown one by one"
    assert (rest["instrument"], rest["source"], rest["severity"]) == (None, "a", "flag")
    assert rest["event_time"].minute == 0


def test_sources_are_counted_apart() -> None:
    both = odd(5, 1) + [one | {"source": "b", "ordinal": one["ordinal"] + 5} for one in odd(5, 1)]
    assert len(counted(both)) == 6


def test_what_is_found_and_what_was_looked_at_is_counted() -> None:
    labels = {"source": "counted", "type": "ticker"}

    def values() -> tuple[float, float]:
        failed = telemetry.value("tidewire_checks_failed_total", rule="tick", severity="flag", **labels)
        return failed, telemetry.value("tidewire_checks_rows_total", **labels)

    before = values()
    specs = [one | {"source": "counted"} for one in odd(10, 1)]
    process(TICKER, [*specs, ticker("601000.SH", frame=2, source="counted")], read_checks({"shown": 3}))
    assert [now - then for now, then in zip(values(), before, strict=True)] == [10, 11]


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 40)), min_size=1, max_size=12),
    st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_all_that_was_found_is_shown_or_counted(parts: list[tuple[int, int]], shown: int) -> None:
    specs: list[dict[str, Any]] = []
    second = 0
    for frame, (count, wait) in enumerate(parts, 1):
        second += wait
        moved = BEGIN + second * 1_000_000
        specs += [one | {"event_time": moved + frame * 100 + one["ordinal"]} for one in odd(count, second, frame)]
    total = len(specs)
    end = ticker("601000.SH", frame=len(parts) + 1, ingested_at=BEGIN + (second + 60) * 1_000_000)
    found = counted([*specs, end], shown)
    assert sum(count for rule, count, _ in found if rule == "tick") == total
    ends = [place for place, one in enumerate(specs, 1) if place == total or specs[place]["frame"] != one["frame"]]
    begins = [0, *ends]
    pieces = (*zip(begins, [*ends, total + 1], strict=True),)
    assert counted([*specs, end], shown, pieces) == found


@pytest.mark.parametrize("rows", [0, 1])
def test_nothing_found_makes_no_row(rows: int) -> None:
    assert findings(process(TICKER, [ticker()] * rows + [ticker(frame=9)])) == []
