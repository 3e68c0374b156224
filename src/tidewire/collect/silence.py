"""Streams that fall silent while their connection is up: noticed one by one, looked into, written down.

A connection that brings nothing at all is made anew by its client. That one stream of it stopped (a venue moved an
endpoint, a subscription was lost) shows only against what the source says elsewhere, so a stream that was silent for
longer than it may be is *probed*: only when the source has more than the stream brought is anything lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tidewire import telemetry
from tidewire.collect import control
from tidewire.journal import Kind, Origin
from tidewire.records.clock import utc
from tidewire.records.market import INTERVALS

if TYPE_CHECKING:
    from tidewire.collect.app import App

LOOK_S = 5.0
SETTLE_S = 1.0

_log = telemetry.log("collect")
_silent = telemetry.gauge("streams_silent", "Streams that are silent although the source has more", ("source",))
_probes = telemetry.counter("stream_probes", "Looks into a silent stream, by what was found", ("source", "found"))

Row = Mapping[str, Any]
"""The last row of a stream, times as UTC microseconds."""


@dataclass(frozen=True)
class Expected:
    """A stream, and for how long it may bring nothing before it is looked into."""

    type: str
    instrument: str
    series: str | None
    silence_s: float

    def __str__(self) -> str:
        return f"{self.type}{'.' + self.series if self.series else ''} {self.instrument}"


Seen = Callable[[str], Mapping[tuple[str, str | None], Row]]
"""The last row of each stream of a record type, by instrument and series."""


@dataclass
class _Silence:
    """A stream of which something is lost."""

    since_us: int
    told: control.GapTold | None = None


class StreamWatch:
    """Watches the streams an App expects, until cancelled."""

    def __init__(self, app: App, seen: Seen) -> None:
        self._app = app
        self._seen = seen
        self._began_us = 0
        self._next_us: dict[Expected, int] = {}
        self._silences: dict[Expected, _Silence] = {}

    async def run(self) -> None:
        """Look at every stream each `LOOK_S`."""
        clock = self._app.context.clock
        self._began_us = clock.wall_ns() // 1_000
        try:
            while True:
                await clock.sleep(LOOK_S)
                expected = self._app.expects()
                await self._look(expected)
                kept = set(expected)
                self._next_us = {each: at for each, at in self._next_us.items() if each in kept}
                self._silences = {each: at for each, at in self._silences.items() if each in kept}
        finally:
            _silent.labels(self._app.name).set(0)  # of a source that was unloaded nothing is expected

    async def _look(self, expected: Sequence[Expected]) -> None:
        rows = {kind: self._seen(kind) for kind in {each.type for each in expected}}
        silent: list[Expected] = []
        for each in expected:
            row = rows[each.type].get((each.instrument, each.series))
            now_us = self._app.context.clock.wall_ns() // 1_000
            last_us = max(self._began_us, 0 if row is None else row["ingested_at"])
            if each in self._silences and row is not None and row["ingested_at"] > self._silences[each].since_us:
                self._resumed(each, row)
            if now_us < max(last_us + round(each.silence_s * 1e6), self._next_us.get(each, 0)):
                continue
            self._next_us[each] = now_us + round(each.silence_s * 1e6)
            try:
                if await self._probe(each, row, last_us):
                    silent.append(each)
            except Exception as error:
                _probes.labels(self._app.name, "failed").inc()
                _log.warning("silent stream not looked into", source=self._app.name, stream=str(each), error=str(error))
        self._app.silent = tuple(map(str, self._silences))
        _silent.labels(self._app.name).set(len(self._silences))
        if silent:
            self._app.reconnect("silence: a stream stopped while its connection was up", silent)

    async def _probe(self, each: Expected, row: Row | None, last_us: int) -> bool:
        """Look into one stream, and write down what is lost; whether a new connection may help.

        It is made once a silence: where it does not help, the other streams should not suffer from it again and again.
        """
        bars = _bars_due(each, row, self._app.context.clock.wall_ns() // 1_000)
        if bars is not None:  # whoever has them: of a market where nothing was traded they are not pushed
            self._write(bars)
        more = await self._app.probe(each, row)
        # Bars that are asked for are rows too: they say nothing about the stream.
        if not (more and (bars is not None or await self._still_silent(each, last_us))):
            _probes.labels(self._app.name, "nothing").inc()
            return False
        _probes.labels(self._app.name, "lost").inc()
        known = each in self._silences
        silence = self._silences.setdefault(each, _Silence(last_us))
        facts = {"stream": str(each), "since": utc(last_us * 1_000).isoformat()}
        _log.warning("stream is silent, the source has more", source=self._app.name, **facts)
        self._app.tell(f"collector.{self._app.name}.silent", facts)
        if bars is None and not self._app.fills(each.type):
            # What can be filled shows as a hole when the next row comes; of the rest this is the only witness.
            silence.told = self._gap(each, silence.since_us, self._app.context.clock.wall_ns() // 1_000)
            self._write(silence.told)
        return not known

    async def _still_silent(self, each: Expected, last_us: int) -> bool:
        """What the source had more than the stream may have been on its way."""
        await self._app.context.clock.sleep(SETTLE_S)
        row = self._seen(each.type).get((each.instrument, each.series))
        return row is None or row["ingested_at"] <= last_us

    def _resumed(self, each: Expected, row: Row) -> None:
        """The stream is back: its gap ends with its first row."""
        silence = self._silences.pop(each)
        if silence.told is not None:
            self._write(self._gap(each, silence.since_us, row["ingested_at"]))
        _log.info("stream is back", source=self._app.name, stream=str(each))

    def _gap(self, each: Expected, since_us: int, until_us: int) -> control.GapTold:
        return control.GapTold(
            instrument=each.instrument,
            record_type=each.type,
            series=each.series,
            gap_id=f"{utc(since_us * 1_000):%Y%m%dT%H%M%S.%fZ}",
            cause="silence",
            state="unfillable",
            event_time=since_us,
            until_time=until_us,
            detail="the stream stopped while its connection was up",
        )

    def _write(self, told: control.GapTold) -> None:
        origin = Origin(self._app.name, "watch", "")
        self._app.context.journal.append(origin, control.encode(told), kind=Kind.CONTROL)


def _bars_due(each: Expected, row: Row | None, now_us: int) -> control.GapTold | None:
    """The bars that are over by the venue's clock and did not come: a grid is its own witness."""
    step = INTERVALS.get(each.series or "", 0) * 1_000_000
    if not step or row is None:
        return None
    venue_us = now_us - (row["ingested_at"] - row["public_at"])
    first = row["open_time"] + (step if row["final"] else 0)
    last = (venue_us // step - 1) * step
    if last < first:
        return None
    return control.GapTold(
        instrument=each.instrument,
        record_type=each.type,
        series=each.series,
        gap_id=f"{each.series}:{first}",
        cause="grid",
        state="open",
        event_time=first,
        until_time=last + step,
        missing=(last - first) // step + 1,
        detail="the calendar says that these bars are over",
    )
