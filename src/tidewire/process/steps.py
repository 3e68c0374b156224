"""By how much the order of a series grows where nothing is missing, and what is missing between two of its rows."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from tidewire.records.calendar import LENGTHS, Calendar, calendar, of_venue
from tidewire.records.market import INTERVALS
from tidewire.records.record import RecordType

Series = tuple[Any, ...]
"""The values of the columns that name a series."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def step_of(kind: RecordType, series: Series) -> int:
    """By how much the order grows from row to row where nothing is missing; 0 where that is not known.

    Bars of the mainland exchanges stop at lunch, at night and on holidays: no step leads from one to the next.
    """
    if kind.contiguous:
        return 1
    if "interval" not in kind.series:
        return 0
    interval = series[kind.series.index("interval")]
    if interval not in LENGTHS and _calendar(kind, series) is not None:
        return 0  # bars of whole sessions: a stock that is suspended has none
    return INTERVALS[interval] * 1_000_000


def _calendar(kind: RecordType, series: Series) -> Calendar | None:
    """The calendar by which a series has bars; ``None`` where it has them all the time."""
    return of_venue(str(series[kind.series.index("instrument")]).rpartition(".")[2])


def missing(kind: RecordType, series: Series, after: int, before: int) -> list[tuple[int, int]]:
    """The order values that should stand between two, as ranges (first, last) without a step missing.

    Of bars within a session those that the session has, for each half of it by itself; on a day between the two without
    any bar the stock was suspended, or a whole reply is missing, which whoever asked has told.
    """
    step = step_of(kind, series)
    sessions = _calendar(kind, series) if "interval" in kind.series else None
    if sessions is None:
        return [(after + step, before - step)]
    interval = series[kind.series.index("interval")]
    return _missing_in_sessions(sessions.name, sessions.last_known, interval, (after, before))


@functools.lru_cache(maxsize=1_024)
def _missing_in_sessions(name: str, _known: date, interval: str, between: tuple[int, int]) -> list[tuple[int, int]]:
    """`missing` by a calendar as it is known up to a day: the same for all stocks at the same moment."""
    sessions = calendar(name)
    days = dict.fromkeys(sessions.day(_EPOCH + timedelta(microseconds=at)) for at in between)
    opens = [at for day in days for at, _ in sessions.grid(day, interval) if between[0] < at < between[1]]
    return list(stretches(opens, LENGTHS[interval] * 1_000_000))


def stretches(orders: npt.ArrayLike, step: int) -> Iterator[tuple[int, int]]:
    """Order values in any order as ranges (first, last) without a step missing."""
    ordered = np.unique(np.asarray(orders, dtype=np.int64))
    for part in np.split(ordered, np.flatnonzero(np.diff(ordered) != step) + 1):
        if part.size:
            yield int(part[0]), int(part[-1])
