"""The audit a running platform makes of itself, every few minutes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from tidewire import telemetry
from tidewire.bus import Bus
from tidewire.errors import BusClosed
from tidewire.records.clock import Clock, Rng, utc
from tidewire.records.event import notice
from tidewire.store.protocol import Store
from tidewire.watch.audit import audit
from tidewire.watch.books import Line, Scope

WHOLE = timedelta(days=1)
"""How often everything is looked at. In between only the hours since then: nothing but a hand changes older ones."""

SUBJECT = "control.audit.difference"
NAMED_LINES = 20

_log = telemetry.log("watch")
_difference = telemetry.gauge("audit_difference_rows", "Rows the platform's last audit of itself could not account for")
_last = telemetry.gauge("audit_last_run_timestamp_seconds", "When the platform last audited itself")
_failed = telemetry.counter("audit_failures", "Audits of itself that the platform could not finish")


@dataclass(frozen=True)
class _Whole:
    """The last look at everything: when the next is due, and what differed in hours before ``since``."""

    due: datetime
    since: datetime
    older: tuple[Line, ...]


class SelfAudit:
    """Adds up the books of a store again and again, and says so when they do not add up."""

    def __init__(self, store: Store, bus: Bus, clock: Clock, rng: Rng, interval_s: float) -> None:
        self._store = store
        self._bus = bus
        self._clock = clock
        self._rng = rng
        self._interval_s = interval_s
        self._whole: _Whole | None = None
        self.difference: int | None = None
        """What the last audit found; ``None`` before the first."""
        self.problem = ""
        """Why the last audit could not be made, if so."""

    @property
    def check(self) -> str:
        """What the platform's health says of it."""
        if self.problem:
            return f"failed: {self.problem}"
        return "ok" if not self.difference else f"difference {self.difference:,}"

    async def run(self) -> None:
        """Until cancelled; with an interval of 0 it ends at once."""
        while self._interval_s > 0:
            await self._clock.sleep(self._interval_s)
            try:
                await self.look()
            except Exception as error:
                # A store that is busy is looked at the next time; nothing in here may stop the platform.
                self.problem = str(error)
                _failed.inc()
                _log.warning("audit could not be made", error=str(error))

    async def look(self) -> None:
        """One audit."""
        now = utc(self._clock.wall_ns())
        whole = self._whole if self._whole is not None and now < self._whole.due else None
        found = await audit(self._store, scope=Scope(start=whole.since) if whole else Scope())
        if whole is None:
            # The hour before may still get rows: stamps may lag behind the clock.
            since = Scope(start=now - timedelta(hours=1)).hours[0] or now
            older = tuple(line for line in found.lines if line.spot.hour < since and line.difference)
            self._whole = _Whole(now + WHOLE, since, older)
            lines = [line for line in found.lines if line.difference]
        else:
            lines = [*whole.older, *(line for line in found.lines if line.difference)]
        self._say(lines)

    def _say(self, lines: list[Line]) -> None:
        before, self.difference = self.difference, sum(line.difference for line in lines)
        self.problem = ""
        _difference.set(self.difference)
        _last.set(self._clock.wall_ns() / 1e9)
        if self.difference == (before or 0):
            return
        shown = [line.as_dict() for line in lines[:NAMED_LINES]]
        facts = {"difference": self.difference, "before": before or 0, "lines": shown}
        _log.error("audit: difference", difference=self.difference, before=before or 0)
        try:
            self._bus.offer(notice(SUBJECT, "audit", facts, self._clock, self._rng))
        except BusClosed:
            _log.debug("event after the bus closed", subject=SUBJECT)
