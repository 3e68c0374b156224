"""Which spans are sealed together."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from tidewire.records.batch import HOUR_US
from tidewire.store._sealed import SealedFile
from tidewire.store._spans import LEVELS, MERGE_FILES, Hour, Limits, Span, spans

FOREVER = 2**60


def us(year: int, month: int = 1, day: int = 1, hour: int = 0) -> int:
    return int(datetime(year, month, day, hour, tzinfo=UTC).timestamp()) * 1_000_000


def hour(at_us: int, rows: int = 10, newest_us: int = 0, source: str = "a") -> Hour:
    return Hour(source, at_us, rows, newest_us)


def file_of(span: Span, name: str = "f") -> SealedFile:
    ends = (span.since_us, span.until_us - 1)
    return SealedFile(
        name, span.source, span.level, span.since_us, span.until_us, span.rows, 1, "", (), (), *ends, *ends, 1, 2
    )


def test_a_year_that_is_over_is_one_span() -> None:
    (span,) = spans([hour(us(2020, 2, 29)), hour(us(2020, 12, 31, 23))], [], Limits(FOREVER, 100))
    assert (span.level, span.since_us, span.until_us, span.rows) == ("year", us(2020), us(2021), 20)
    assert span.day == "2020-01-01"


def test_too_many_rows_go_by_shorter_spans() -> None:
    hours = [hour(us(2020, month)) for month in (1, 2)]
    assert [span.level for span in spans(hours, [], Limits(FOREVER, 15))] == ["month", "month"]


def test_what_is_not_over_or_not_quiet_is_left_alone() -> None:
    now = us(2020, 5, 20, 13)
    done = Limits(now, 1_000)
    assert list(spans([hour(now)], [], done)) == []
    assert list(spans([hour(us(2020, 5, 19), newest_us=now + 1)], [], done)) == []
    assert [span.level for span in spans([hour(us(2020, 5, 19))], [], done)] == ["day"]


def test_shorter_spans_are_merged_when_the_longer_one_is_over() -> None:
    months = list(spans([hour(us(2020, month)) for month in (1, 2)], [], Limits(us(2020, 3), 1_000)))
    files = [file_of(span, str(place)) for place, span in enumerate(months)]
    assert [span.level for span in months] == ["month", "month"]
    (year,) = spans([], files, Limits(us(2022), 1_000))
    assert (year.level, year.merged) == ("year", tuple(files))


def test_few_late_rows_are_a_file_of_their_own_until_there_are_many_files() -> None:
    whole = file_of(Span("a", "year", us(2020), us(2021), 10_000))
    late = [hour(us(2020, 6), rows=3)]
    (span,) = spans(late, [whole], Limits(FOREVER, 100_000))
    assert (span.rows, span.merged) == (3, ())
    files = [whole] * MERGE_FILES
    (span,) = spans(late, files, Limits(FOREVER, 1_000_000))
    assert len(span.merged) == MERGE_FILES


@given(
    places=st.sets(st.integers(0, 3 * 366 * 24), min_size=1, max_size=60),
    rows=st.integers(1, 40),
    limit=st.integers(1, 200),
    done=st.integers(0, 3 * 366 * 24),
)
def test_no_hour_is_in_two_spans_and_none_that_is_over_in_none(
    places: set[int], rows: int, limit: int, done: int
) -> None:
    start = us(2019)
    hours = [hour(start + place * HOUR_US, rows) for place in sorted(places)]
    done_us = start + done * HOUR_US
    found = list(spans(hours, [], Limits(done_us, limit)))
    for each in hours:
        inside = [span for span in found if span.since_us <= each.since_us < span.until_us]
        assert len(inside) == (each.since_us + HOUR_US <= done_us)
    for span in found:
        assert span.until_us <= done_us
        assert span.rows <= max(limit, rows)
    assert sum(span.rows for span in found) == rows * sum(each.since_us + HOUR_US <= done_us for each in hours)
    assert {span.level for span in found} <= set(LEVELS)
