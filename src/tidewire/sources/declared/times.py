"""The filters of times, which are UTC microseconds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from email.utils import parsedate_to_datetime

from tidewire.collect.schedule import parse_duration, zone
from tidewire.sources.declared.steps import Quick, Step, Value, exact, listed, pair, remembered, text_of

SHANGHAI = "Asia/Shanghai"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def _epoch(factor: int) -> Step:
    def step(value: Value) -> Value:
        return round(exact(text_of(value)) * factor)

    def many(values: Sequence[Value]) -> list[Value] | None:
        return [value * factor for value in values] if set(map(type, values)) == {int} else None

    return Quick(step, many)


@listed
def epoch_s() -> Step:
    """Seconds since 1970 as a time."""
    return _epoch(1_000_000)


@listed
def epoch_ms() -> Step:
    """Milliseconds since 1970 as a time."""
    return _epoch(1_000)


@listed
def epoch_us() -> Step:
    """Microseconds since 1970 as a time."""
    return _epoch(1)


@listed
def time(form: str, tz: str = SHANGHAI) -> Step:
    """Local time by a form such as ``%Y-%m-%d %H:%M:%S``, read in a time zone (Shanghai unless another is named)."""
    at = zone(tz)

    def step(value: Value) -> Value:
        return micros_of(datetime.strptime(text_of(value).strip(), form), at)  # noqa: DTZ007 - the zone is put in next

    return remembered(step)


@listed
def iso(tz: str = SHANGHAI) -> Step:
    """A date or time as ISO 8601 writes it; read in a time zone where it names none."""
    at = zone(tz)
    return lambda value: micros_of(datetime.fromisoformat(text_of(value).strip()), at)


@listed
def shift(by: str) -> Step:
    """A time moved by a duration such as ``30m``, or ``-5m``: a bar that is stamped with its end began before."""
    moved = round(parse_duration(by.removeprefix("-")) * 1_000_000)
    step_us = -moved if by.startswith("-") else moved
    return Quick(lambda value: value + step_us, lambda values: [value + step_us for value in values])


@pair
def before(moment: Value, other: Value) -> Value:
    """Whether a time is not after another: ``before(received)``, whether a bar was over when the reply came."""
    return moment <= other


@listed
def rfc822() -> Step:
    """A time as mails and RSS write it."""
    return lambda value: micros_of(parsedate_to_datetime(text_of(value)), UTC)


def micros_of(moment: datetime, at: tzinfo) -> int:
    """UTC microseconds of a moment; ``at`` is its time zone where it has none."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=at)
    return (aware - _EPOCH) // _MICROSECOND


@listed
def months(later: str, tz: str = SHANGHAI) -> Step:
    """The beginning of a month, so many months later; of this one with 0."""
    ahead, at = int(later), zone(tz)

    def step(value: Value) -> Value:
        now = (_EPOCH + value * _MICROSECOND).astimezone(at)
        year, month = divmod(now.year * 12 + now.month - 1 + ahead, 12)
        return micros_of(datetime(year, month + 1, 1, tzinfo=at), at)

    return step


@listed
def date(form: str, tz: str = SHANGHAI) -> Step:
    """A time (UTC microseconds) written as local time by a form: for requests."""
    at = zone(tz)
    return lambda value: (_EPOCH + value * _MICROSECOND).astimezone(at).strftime(form)
