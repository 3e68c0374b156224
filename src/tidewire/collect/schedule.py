"""When something is due: intervals, cron lines and daily windows, as pure functions of wall time.

All times are UTC nanoseconds since 1970. Nothing here waits; `tidewire.collect.timer` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Protocol
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from tidewire.errors import InputError, nearest
from tidewire.records.calendar import calendar
from tidewire.records.clock import utc

SECOND_NS = 1_000_000_000

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_WINDOW = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*-\s*(\d{1,2}):(\d{2})(?::(\d{2}))?")
_DAY_S = 86400

SESSION = "session"
"""Text of the window that is a calendar's own."""

# A calendar without a session for this long has ended; looking further would only hide that.
_SEARCH_DAYS = 400


class Schedule(Protocol):
    """What a timer runs on; its ``str()`` is what a person reads."""

    def next_after(self, wall_ns: int) -> int:
        """The first due time strictly after ``wall_ns``."""
        ...


def parse_duration(text: str) -> float:
    """Seconds of ``500ms``, ``5s``, ``1m``, ``2h``, ``1d`` or a chain such as ``1h30m``; always above zero.

    Raises `InputError` for anything else, a bare number included: its unit would be a guess.
    """
    found = text.strip()
    parts = list(_PART.finditer(found))
    if not parts or "".join(part.group() for part in parts) != found:
        hint = f" Write {found + 's'!r} if seconds are meant." if re.fullmatch(r"\d+(\.\d+)?", found) else ""
        raise InputError(
            f"{text!r} is not a duration: write a number and a unit (ms, s, m, h, d), as in '500ms', '5s' or "
            f"'1h30m'.{hint}"
        )
    seconds = sum(float(part.group(1)) * _UNITS[part.group(2)] for part in parts)
    if seconds * SECOND_NS < 1:
        raise InputError(f"{text!r} is no time at all: a duration must be above zero.")
    return seconds


def zone(name: str | tzinfo) -> tzinfo:
    """The time zone of that IANA name; `InputError` when there is none."""
    if isinstance(name, tzinfo):
        return name
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        hint = nearest(name, available_timezones())
        raise InputError(f"{name!r} is not a time zone: use an IANA name such as 'Asia/Shanghai'.{hint}") from error


@dataclass(frozen=True)
class Every:
    """A fixed interval on the grid that starts at 1970, so that every run of the program has the same due times."""

    seconds: float

    def __post_init__(self) -> None:
        if not 0 < self.seconds * SECOND_NS < float("inf") or self.period_ns < 1:
            raise InputError(f"{self.seconds!r} seconds is not an interval: it must be above zero.")

    @property
    def period_ns(self) -> int:
        """The interval in nanoseconds."""
        return round(self.seconds * SECOND_NS)

    def next_after(self, wall_ns: int) -> int:
        return (wall_ns // self.period_ns + 1) * self.period_ns

    def __str__(self) -> str:
        return f"every {self.seconds:g}s"


@dataclass(frozen=True)
class Cron:
    """A cron line of five fields (six with seconds first), read in a time zone.

    Daylight saving as in Debian cron: a time that does not exist runs right after the jump, one that comes twice
    runs once.
    """

    line: str
    tz: str | tzinfo = "UTC"
    _zone: tzinfo = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_zone", zone(self.tz))
        try:
            next(CronSim(self.line, datetime(2000, 1, 1, tzinfo=UTC)))
        except CronSimError as error:
            raise InputError(
                f"{self.line!r} is not a cron line ({error}): write minute hour day month weekday, as in "
                "'*/5 * * * *' or '30 9 * * MON-FRI'."
            ) from error
        except StopIteration as error:
            raise InputError(f"{self.line!r} names a day that never comes.") from error

    def next_after(self, wall_ns: int) -> int:
        for due in CronSim(self.line, utc(wall_ns).astimezone(self._zone)):
            due_ns = _ns(due)
            # In the hour that comes twice the library can answer with its first pass, which is over.
            if due_ns > wall_ns:
                return due_ns
        raise InputError(f"{self.line!r} never comes again after {utc(wall_ns)}.")

    def __str__(self) -> str:
        return f"cron {self.line} ({self.tz})"


@dataclass(frozen=True)
class Window:
    """Daily windows of local time, ``09:15-15:05`` or ``09:15-11:35,12:55-15:05``: starts belong to them, ends do not.

    A window that ends before it starts runs over midnight and belongs to the day it opens on. ``24:00`` is
    midnight at the end of the day. ``calendar`` names a trading calendar, and the windows open on its sessions only;
    ``session`` is then when it has something to tell. ``is_session`` says the same of days no calendar knows; without
    either, they open on all days.
    """

    text: str
    tz: str | tzinfo = "UTC"
    is_session: Callable[[date], bool] | None = None
    calendar: str = ""
    _zone: tzinfo = field(init=False, repr=False, compare=False)
    _spans: tuple[tuple[int, int], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        text, tz = self.text, self.tz
        if text.strip() == SESSION:
            if not self.calendar:
                raise InputError(f"{SESSION!r} is a window of a trading calendar: name one, such as XSHG.")
            known = calendar(self.calendar)
            text, tz = known.hours.window, known.tz
        elif self.calendar:
            calendar(self.calendar)  # an unknown one is told now
        object.__setattr__(self, "_zone", zone(tz))
        object.__setattr__(self, "_spans", tuple(sorted(_edges(part) for part in text.split(","))))

    def contains(self, wall_ns: int) -> bool:
        """Whether a window is open at that moment."""
        today = utc(wall_ns).astimezone(self._zone).date()
        return any(
            opens <= wall_ns < closes and self._opens_on(day)
            for day in (today - timedelta(days=1), today)
            for opens, closes in self._on(day)
        )

    def next_open(self, wall_ns: int) -> int | None:
        """The first moment at or after ``wall_ns`` when a window is open.

        ``None`` when no day within 400 days is a session.
        """
        if self.contains(wall_ns):
            return wall_ns
        today = utc(wall_ns).astimezone(self._zone).date()
        for ahead in range(_SEARCH_DAYS):
            day = today + timedelta(days=ahead)
            later = [opens for opens, closes in self._on(day) if wall_ns < opens < closes]
            if later and self._opens_on(day):
                return min(later)
        return None

    def _opens_on(self, day: date) -> bool:
        if self.calendar and not calendar(self.calendar).is_session(day):
            return False
        return self.is_session is None or self.is_session(day)

    def _on(self, day: date) -> list[tuple[int, int]]:
        """When the windows of a day open and close."""
        return [
            (self._at(day, start), self._at(day + timedelta(days=1) if end <= start else day, end))
            for start, end in self._spans
        ]

    def _at(self, day: date, seconds: int) -> int:
        if seconds == _DAY_S:
            day, seconds = day + timedelta(days=1), 0
        local = time(seconds // 3600, seconds // 60 % 60, seconds % 60)
        return _ns(datetime.combine(day, local, tzinfo=self._zone))

    def __str__(self) -> str:
        return f"{self.text} ({self.calendar}, {self._zone})" if self.calendar else f"{self.text} ({self.tz})"


def _edges(text: str) -> tuple[int, int]:
    """Seconds of the day at which a window starts and ends."""
    found = _WINDOW.fullmatch(text.strip())
    if found is None:
        raise InputError(f"{text!r} is not a daily window: write start and end, as in '09:15-15:05' or '21:00-02:30'.")
    numbers = [int(part or 0) for part in found.groups()]
    edges: list[int] = []
    for hour, minute, second in (numbers[:3], numbers[3:]):
        seconds = hour * 3600 + minute * 60 + second
        if minute > 59 or second > 59 or seconds > _DAY_S:
            raise InputError(
                f"{text!r} holds a time that no clock shows: hours go to 24:00, minutes and seconds to 59."
            )
        edges.append(seconds)
    start, end = edges
    if start in (end, _DAY_S):
        raise InputError(
            f"{text!r} is empty: a window must start and end at different times ('00:00-24:00' is all day)."
        )
    return start, end


def _ns(moment: datetime) -> int:
    return round(moment.timestamp()) * SECOND_NS
