"""Which spans of time are sealed together: years, months, days or hours, the longest that suits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from tidewire.records.batch import HOUR_US
from tidewire.store._book import EPOCH, MICROSECOND
from tidewire.store._sealed import SealedFile

LEVELS = ("year", "month", "day", "hour")
LENGTH_S = {"year": 366 * 86_400, "month": 31 * 86_400, "day": 86_400, "hour": 3_600}

MERGE_FILES = 8
"""So many files of one span are merged into one."""

MERGE_SHARE = 20
"""Late rows are put into a file of their own while they are less than this fraction of those sealed already."""


class Hour(NamedTuple):
    """Rows of the table of one source whose event time is in one hour, and when the last of them came."""

    source: str
    since_us: int
    rows: int
    newest_us: int


@dataclass(frozen=True)
class Span:
    """What is sealed in one step: rows of the table in ``[since_us, until_us)``, and the files merged with them."""

    source: str
    level: str
    since_us: int
    until_us: int
    rows: int
    merged: tuple[SealedFile, ...] = ()

    @property
    def day(self) -> str:
        """The first day of the span, which names its directory."""
        return f"{EPOCH + self.since_us * MICROSECOND:%Y-%m-%d}"


@dataclass(frozen=True)
class Limits:
    """``done_us``: what ended, or came, later is left alone."""

    done_us: int
    rows: int


def spans(hours: Sequence[Hour], files: Sequence[SealedFile], limits: Limits) -> Iterator[Span]:
    """The spans to seal, oldest first by source."""
    sources = sorted({hour.source for hour in hours} | {file.source for file in files})
    for source in sources:
        mine = [hour for hour in hours if hour.source == source]
        theirs = [file for file in files if file.source == source]
        yield from _level(source, mine, theirs, limits, 0)


def _level(
    source: str, hours: Sequence[Hour], files: Sequence[SealedFile], limits: Limits, level: int
) -> Iterator[Span]:
    name = LEVELS[level]
    starts = {_start(hour.since_us, name) for hour in hours}
    starts |= {_start(file.since_us, name) for file in files if LEVELS.index(file.level) >= level}
    for since in sorted(starts):
        until = _end(since, name)
        mine = [hour for hour in hours if since <= hour.since_us < until]
        theirs = [file for file in files if since <= file.since_us and file.until_us <= until]
        rows = sum(hour.rows for hour in mine)
        quiet = until <= limits.done_us and all(hour.newest_us <= limits.done_us for hour in mine)
        last = level == len(LEVELS) - 1
        if quiet and (last or rows + sum(file.rows for file in theirs) <= limits.rows):
            span = _span(Span(source, name, since, until, rows), theirs)
            if span is not None:
                yield span
        elif not last and since < limits.done_us:
            finer = [file for file in theirs if file.level != name]
            yield from _level(source, mine, finer, limits, level + 1)


def _span(span: Span, files: Sequence[SealedFile]) -> Span | None:
    """The span with the files it is worth merging; None where nothing is to be done."""
    own = [file for file in files if file.level == span.level]
    merge = len(own) < len(files) or len(own) >= MERGE_FILES
    merge |= span.rows > 0 and span.rows * MERGE_SHARE >= sum(file.rows for file in files)
    if merge:
        return Span(span.source, span.level, span.since_us, span.until_us, span.rows, tuple(files))
    return span if span.rows else None


def _start(at_us: int, level: str) -> int:
    if level == "hour":
        return at_us // HOUR_US * HOUR_US
    at = EPOCH + at_us * MICROSECOND
    first = {"year": (1, 1), "month": (at.month, 1), "day": (at.month, at.day)}[level]
    return (datetime(at.year, *first, tzinfo=UTC) - EPOCH) // MICROSECOND


def _end(since_us: int, level: str) -> int:
    if level == "hour":
        return since_us + HOUR_US
    # A little over the length of the longest is inside the next one.
    return _start(since_us + (LENGTH_S[level] + 3_600) * 1_000_000, level)
