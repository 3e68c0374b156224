"""Trading calendars as data: which days are sessions, what part of a session a moment is in, which bars it has.

``XSHG`` serves Shanghai, Shenzhen and Beijing, which open on the same days; ``24/7`` never closes. The days come from a
file in the package (``data/xshg.txt``, written by ``docs/calendars.py``), so they end somewhere: past that end
weekdays are sessions by rule, and `Calendar.is_provisional` says so. What the file does not know yet, the configuration
may tell (`tell`).
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from importlib.resources import files
from typing import Literal
from zoneinfo import ZoneInfo

from tidewire.errors import InputError, nearest
from tidewire.records.instrument import CHINA

Phase = Literal["closed", "pre", "auction", "morning", "lunch", "afternoon", "after_hours", "open"]
"""Part of a day: ``pre`` is between the opening auction and trading, ``open`` is for what never closes."""

Bar = tuple[int, int]
"""Open and close of a bar, UTC microseconds."""

ALWAYS = "24/7"
XSHG = "XSHG"

LENGTHS = {"1m": 60, "3m": 180, "5m": 300, "15m": 900, "30m": 1_800, "1h": 3_600, "2h": 7_200}
"""Intervals that fill each half of a session evenly, in seconds; ``1d`` is one bar a session."""

_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TRADING = frozenset({"auction", "morning", "afternoon", "open"})


@dataclass(frozen=True)
class Hours:
    """The timetable of a session in local time: ``phases`` by their start, ``halves`` that bars are cut from.

    ``window`` is when something new may be seen: with a few minutes at each side for what is early or late.

    It is today's, for every day: earlier years differed (no closing auction in Shanghai before 2018-08-20, no
    after-hours trading before 2019-07-22; other hours in the first years).
    """

    phases: tuple[tuple[time, Phase], ...]
    halves: tuple[tuple[time, time], ...]
    window: str


_XSHG_HOURS = Hours(
    phases=(
        (time(0), "closed"),
        (time(9, 15), "auction"),
        (time(9, 25), "pre"),
        (time(9, 30), "morning"),
        (time(11, 30), "lunch"),
        (time(13), "afternoon"),
        (time(14, 57), "auction"),
        (time(15), "closed"),
        (time(15, 5), "after_hours"),
        (time(15, 30), "closed"),
    ),
    halves=((time(9, 30), time(11, 30)), (time(13), time(15))),
    window="09:15-11:35,12:55-15:05",
)
_ALWAYS_HOURS = Hours(phases=((time(0), "open"),), halves=((time(0), time(0)),), window="00:00-24:00")


@dataclass(frozen=True)
class Calendar:
    """The sessions of a market. Days are local days of ``tz``; half-open ranges; moments are aware datetimes.

    ``first`` is the first session there ever was. ``closed`` holds the weekdays without one, known up to
    ``last_known``, the last day anybody told.
    """

    name: str
    tz: str
    first: date
    last_known: date
    closed: frozenset[date]
    weekends: bool = False
    hours: Hours = _XSHG_HOURS

    @functools.cached_property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.tz)

    def is_session(self, day: date) -> bool:
        """Whether the market opens on that day; past `last_known`, whether it is a weekday."""
        return day >= self.first and (self.weekends or day.weekday() < 5) and day not in self.closed

    def is_provisional(self, day: date) -> bool:
        """Whether that day is a session by rule only: nobody has told yet whether it is a holiday."""
        return day > self.last_known and self.is_session(day)

    def sessions(self, start: date, end: date) -> list[date]:
        """The sessions of ``[start, end)``, ascending."""
        days = (date.fromordinal(at) for at in range(max(start, self.first).toordinal(), end.toordinal()))
        return [day for day in days if self.is_session(day)]

    def previous(self, day: date) -> date:
        """The last session before that day; `InputError` where there was none yet."""
        while day > self.first:
            day -= _DAY
            if self.is_session(day):
                return day
        raise InputError(f"{self.name} begins on {self.first}: there is no session before {day}.")

    def next(self, day: date) -> date:
        """The first session after that day."""
        day = max(day + _DAY, self.first)
        while not self.is_session(day):
            day += _DAY
        return day

    def day(self, moment: datetime) -> date:
        """The local day of a moment: what a server in another zone must not take from its own clock."""
        if moment.tzinfo is None:
            raise InputError(f"{moment} has no time zone: a moment is an aware datetime, such as one in UTC.")
        return moment.astimezone(self._zone).date()

    def phase(self, moment: datetime) -> Phase:
        """The part of the day a moment is in, by today's timetable; ``closed`` on days without a session."""
        if not self.is_session(self.day(moment)):
            return "closed"
        local = moment.astimezone(self._zone).time()
        place = bisect_right(self.hours.phases, local, key=lambda entry: entry[0])
        return self.hours.phases[place - 1][1]

    def is_open(self, moment: datetime) -> bool:
        """Whether orders can meet: in an auction, or while trading is continuous."""
        return self.phase(moment) in _TRADING

    def grid(self, day: date, interval: str) -> list[Bar]:
        """The bars of a session, ascending; none on a day without one.

        Bars are cut from each half of the session by itself: 240 of ``1m``, 4 of ``1h`` (10:30 to 11:30 is one, 11:30
        to 13:00 none). The trades of the opening auction belong to the first bar, those of the closing auction to the
        last. ``1d`` is one bar, from the first open to the last close. `InputError` for an interval that does not
        fill the halves.
        """
        if not self.is_session(day):
            return []
        halves = [self._half(day, start, end) for start, end in self.hours.halves]
        if interval == "1d":
            return [(halves[0][0], halves[-1][1])]
        if interval not in LENGTHS:
            valid = ", ".join((*LENGTHS, "1d"))
            raise InputError(f"{interval!r} has no grid within a session of {self.name}. Valid: {valid}.")
        length = LENGTHS[interval] * 1_000_000
        return [(at, at + length) for opens, closes in halves for at in range(opens, closes, length)]

    def _half(self, day: date, start: time, end: time) -> Bar:
        return self._micros(day, start), self._micros(day if end > start else day + _DAY, end)

    def _micros(self, day: date, local: time) -> int:
        moment = datetime.combine(day, local, tzinfo=self._zone)
        return (moment - _EPOCH) // timedelta(microseconds=1)

    def told(self, closed: Iterable[date], until: date | None = None) -> Calendar:
        """This calendar with more closed days, known ``until`` that day; what is known already stays known."""
        known = max(self.last_known, until or self.last_known)
        return replace(self, closed=self.closed | frozenset(closed), last_known=known)


def parse(name: str, text: str, tz: str) -> Calendar:
    """A calendar from a data file: ``first`` and ``last`` lines, then for each year its closed weekdays (MM-DD)."""
    edges: dict[str, date] = {}
    closed: set[date] = set()
    for line in text.splitlines():
        head, *rest = line.partition("#")[0].split() or [""]
        if head in {"first", "last"}:
            edges[head] = date.fromisoformat(rest[0])
        elif head:
            closed.update(date.fromisoformat(f"{head}-{day}") for day in rest)
    return Calendar(name, tz, edges["first"], edges["last"], frozenset(closed))


@functools.cache
def _shipped() -> Mapping[str, Calendar]:
    text = files("tidewire.records").joinpath("data", "xshg.txt").read_text(encoding="ascii")
    always = Calendar(ALWAYS, "UTC", date.min, date.max - _DAY, frozenset(), weekends=True, hours=_ALWAYS_HOURS)
    return {XSHG: parse(XSHG, text, "Asia/Shanghai"), ALWAYS: always}


_told: dict[str, Calendar] = {}


def calendar(name: str) -> Calendar:
    """The calendar of that name, as it is known now: ask for it where it is used, do not keep it at import.

    Raises:
        InputError: there is none; the nearest name and all valid ones are told.
    """
    shipped = _shipped()
    if name not in shipped:
        raise InputError(
            f"No calendar {name!r}.{nearest(name, shipped)} Valid: XSHG (Shanghai, Shenzhen, Beijing), 24/7."
        )
    return _told.get(name, shipped[name])


def calendars() -> list[str]:
    """The names of all calendars."""
    return sorted(_shipped())


def of_venue(venue: str) -> Calendar | None:
    """The calendar of an exchange by any of its spellings (``SH``, ``XSHE``, ``BJ``); None where none is known."""
    return calendar(XSHG) if venue.upper() in CHINA else None


def tell(facts: Mapping[str, tuple[Iterable[date], date | None]]) -> None:
    """Add what the files do not know: name → closed days and until when they are all; replaces what was told before.

    Raises:
        InputError: for a calendar that does not exist, or days that cannot be.
    """
    found: dict[str, Calendar] = {}
    for name, (closed, until) in facts.items():
        calendar(name)
        if name == ALWAYS:
            raise InputError("24/7 never closes: there is nothing to tell about it.")
        days = sorted(closed)
        if until is not None and days and days[-1] > until:
            raise InputError(f"{name}: {days[-1]} is closed, but the days are told until {until} only.")
        found[name] = _shipped()[name].told(days, until)
    _told.clear()
    _told.update(found)
