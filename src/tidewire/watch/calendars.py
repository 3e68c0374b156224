"""Whether the trading calendars in use still know enough: past their end, holidays look like sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, timedelta

from tidewire import telemetry
from tidewire.records.calendar import Calendar, calendar
from tidewire.records.clock import Clock, utc

AHEAD = timedelta(days=30)
"""How long before its end a calendar is told of: next year's holidays are published in November or December."""
LOOK_S = 60.0

_log = telemetry.log("watch")
_known = telemetry.gauge(
    "calendar_known_days", "Days until a trading calendar ends; negative past its end", ("calendar",)
)


class CalendarWatch:
    """Says of every calendar that is in use when it ends; warns once a day, from 30 days before."""

    def __init__(self, clock: Clock, used: Callable[[], Iterable[str]]) -> None:
        self._clock = clock
        self._used = used
        self._warned: dict[str, date] = {}

    @property
    def checks(self) -> Mapping[str, str]:
        """What the platform's health says: ``calendar XSHG`` → ``ok``, or from when on it is provisional."""
        return {f"calendar {name}": self._said(calendar(name)) for name in sorted(set(self._used()))}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await self._clock.sleep(LOOK_S)

    def look(self) -> None:
        """Once: the metric, and the warning of the day."""
        for name in sorted(set(self._used())):
            known = calendar(name)
            today = self._today(known)
            _known.labels(name).set((known.last_known - today).days)
            said = self._said(known)
            if said == "ok" or self._warned.get(name) == today:
                continue
            self._warned[name] = today
            _log.warning(
                f"calendar {name} is {said}",
                what_to_do=f"take a newer release, or write calendars.{name}.closed and .until into the configuration",
            )

    def _said(self, known: Calendar) -> str:
        if self._today(known) + AHEAD < known.last_known:
            return "ok"
        return f"provisional from {known.last_known + timedelta(days=1)}"

    def _today(self, known: Calendar) -> date:
        return known.day(utc(self._clock.wall_ns()))
