"""Collecting a declared source: rounds over everything it asks for, in windows of time where its file has them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tidewire import telemetry
from tidewire.collect import Collector, Cron, Every, Noted, Window, seconds
from tidewire.errors import ParseError, RateLimited, TerminalError, TransientError
from tidewire.records.clock import utc
from tidewire.sources.declared.asking import dated
from tidewire.sources.declared.grammar import Ref
from tidewire.sources.declared.outages import FRESH, ROUND, TOLD_MAX, Outages
from tidewire.sources.declared.pages import AT_LEAST, Listed, Pages
from tidewire.sources.declared.reading import share, window_of
from tidewire.sources.declared.values import combinations, name_of, said_of, stored_values
from tidewire.sources.declared.windows import Span, windows_of

if TYPE_CHECKING:
    from tidewire.sources.declared.app import DeclaredApp

SINCE = "since:"
"""How the names of the cursors of windows begin."""
REFUSED_MAX = 5
"""So many combinations in a row that the site refuses end a round: nothing will be answered now."""
ANSWERS = 3
"""A window that came back short so often is as whole as it will be."""
ABSENT_MAX = 20
"""Of one answer, so many instruments that are not in it have a gap of their own; more are a matter of the site."""
ABSENT_SHARE = 0.1
"""When more of them, and more than this share of what was asked for, are absent, the round was not whole."""
STORED_S = 60.0
"""So long what is stored is not looked at again."""
GROWING_S = 5.0
"""The same while there was more at the last look: whoever lists it is at it."""

_outside = telemetry.counter("declared_rows_outside", "Rows far outside the window of time asked for", ("source",))
_behind = telemetry.gauge("declared_behind_series", "Combinations whose windows of time are not up to now", ("source",))


@dataclass(frozen=True)
class Wanted:
    """One combination: its names, and what it is known by in every run."""

    names: Mapping[str, Any]
    name: str


class DeclaredCollector(Collector):
    """The one collector of a declared source."""

    def __init__(self, app: DeclaredApp) -> None:
        super().__init__("rows", app)
        self.site = app
        self._source = app.source
        self._declared = app.source.declared
        self._pages = Pages(self)
        since = self._declared.since
        self._windows = None if since is None else windows_of(since, app.name)
        schedule = self._declared.schedule
        window = window_of(schedule)
        said = [Window(text, schedule.tz, calendar=schedule.calendar) for text in self._declared.expect.session]
        self._sessions = said or ([] if window is None else [window])
        self._outages = Outages(self, self._source.kind.name, recovers=since is not None)
        self._values: Mapping[str, Sequence[Any]] = {}
        self._looked_ns: int | None = None
        self._rests_s = GROWING_S
        self._waits_for = ""
        self._goes_on_at = ""
        self._refused = 0
        self._failed = 0
        self._newest_us = 0
        self._why = ""
        self._round_us = 0
        self._whole_us: dict[str, int] = {}
        self._short: dict[str, int] = {}
        self._told_outside = False
        self._absent: set[str] = set()

    async def initialize(self) -> None:
        """One timer; another one while what is asked for is not stored yet."""
        schedule = self._declared.schedule
        every = self.site.settings.every or schedule.every
        if schedule.cron and not every:
            when: Every | Cron = Cron(schedule.cron, schedule.tz)
        else:
            when = Every(seconds(every or "1m", "every"))
        window = window_of(schedule)
        jitter = share(schedule.jitter) if isinstance(when, Every) else 0.0
        timer = self.add_timer("ask", when, self.in_turn(self.fetch), window=window, jitter=jitter, run_at_start=True)
        succession = self.app.context.successions.of(self.app.name)
        if succession is not None:
            succession.wait(self.app.name, timer.trigger_if_open)
        if isinstance(when, Cron) and any(isinstance(each, Ref) for each in self._declared.for_each.values()):
            # The next time of a line may be tomorrow, and what it waits for is there in a minute.
            self.add_timer("again", Every(STORED_S), self._again, window=window)

    async def _again(self) -> None:
        """Ask now, if the last time nothing to ask for was stored."""
        if self._waits_for:
            await self.fetch()

    async def fetch(self) -> None:
        """Ask for everything once, window after window up to now. What fails is told, and the rest is asked for."""
        todo = await self._wanted()
        if not todo:
            return
        now_us = self._now_us()
        newest, self._failed, self._newest_us = True, 0, 0
        try:
            while todo:
                todo = await self._pass(todo, now_us, newest=newest)
                if self._windows is not None:
                    _behind.labels(self.app.name).set(len(todo))
                newest = False
        except (RateLimited, TerminalError) as error:  # nothing of this family will be answered now
            self._outages.begin(ROUND, min(now_us, self._round_us or now_us), str(error))
            raise
        self._goes_on_at = ""
        if self._failed:  # what came since does not make it well
            self._last_error = f"{self._failed:,} of what is asked for did not come; the last: {self._why}"
            self._trouble(self._last_error)
        if self._failed < TOLD_MAX:  # each of them has its own gap
            self._outages.end(ROUND)
            self._round_us = now_us
        self._check_fresh()

    async def _pass(self, todo: Sequence[Wanted], now_us: int, *, newest: bool) -> list[Wanted]:
        """One window of each, as many at once as the family allows; those that are behind still."""
        behind: list[Wanted] = []
        at_once = self.site.family.allowed.at_once
        for begin in range(0, len(todo), at_once):
            some = todo[begin : begin + at_once]
            self._goes_on_at = some[0].name
            spans = [self._span(each, now_us, newest=newest) for each in some]
            asking = (
                self._ask_for(each, span, alone=newest and len(todo) == 1)
                for each, span in zip(some, spans, strict=True)
            )
            ended: BaseException | None = None
            for each, span, came in zip(
                some, spans, await asyncio.gather(*asking, return_exceptions=True), strict=True
            ):
                if isinstance(came, BaseException):
                    ended = ended or came
                elif not came:
                    self._failed += 1
                elif span is not None and span.until < now_us:
                    behind.append(each)
            if ended is not None:
                raise ended
        return behind

    def _span(self, each: Wanted, now_us: int, *, newest: bool) -> Span | None:
        if self._windows is None:
            return None
        return self._windows.next(self._whole_until(each), now_us, newest=newest)

    # -- what is asked for --------------------------------------------------------------------------------------

    async def _wanted(self) -> list[Wanted]:
        """Every combination; first those where the round before ended early, or that are furthest behind."""
        try:
            values = await self._stored()
        except TransientError as error:
            if str(error) != self._waits_for:  # told once, not at each schedule
                self.report(error, "for_each")
            self._waits_for = str(error)
            return []
        self._waits_for, now_us = "", self._now_us()
        found = [
            Wanted(dated(names, now_us), name_of(names, place))
            for place, names in enumerate(combinations(self._declared, values))
        ]
        first = next((place for place, each in enumerate(found) if each.name == self._goes_on_at), 0)
        found = found[first:] + found[:first]
        return found if self._windows is None else sorted(found, key=lambda each: self._whole_until(each) or 0)

    async def _stored(self) -> Mapping[str, Sequence[Any]]:
        """The values of ``for_each`` that are not in the file."""
        own = self.site.settings.for_each
        if not any(isinstance(said, Ref) for said in self._declared.for_each.values()):
            return own
        now_ns = self.app.context.clock.mono_ns()
        if self._looked_ns is None or now_ns - self._looked_ns >= self._rests_s * 1e9:
            values = await stored_values(self._declared, own, self.app.context.known)
            self._rests_s = STORED_S if values == self._values else GROWING_S
            self._values, self._looked_ns = values, now_ns
        return self._values

    # -- windows ------------------------------------------------------------------------------------------------

    def _whole_until(self, each: Wanted) -> int | None:
        """Up to when everything of a combination came, UTC microseconds."""
        said = self.cursor(SINCE + each.name)
        return int(said) if said else None

    async def _ask_for(self, each: Wanted, span: Span | None, *, alone: bool) -> bool:
        """Ask for one window (or list); whether it is whole."""
        names = {**each.names} if span is None else {**each.names, **span._asdict()}
        begin_us = self._whole_us.get(each.name, self._now_us()) if span is None else span.since
        is_past = span is not None and span.until < self._now_us() - round(STORED_S * 1e6)
        try:
            found = await self._pages.ask(names, background=is_past)
        except RateLimited:
            raise
        except Exception as error:
            self._refused = self._refused + 1 if isinstance(error, TerminalError) else 0
            if isinstance(error, TerminalError) and (alone or self._refused >= REFUSED_MAX):
                raise
            self.report(error, said_of(each.names) or "ask")
            self._outages.begin(each.name, begin_us, str(error))
            self._why = f"{said_of(each.names) or 'ask'}: {error}"
            return False
        self._refused = 0
        why = self._judge(found)
        if why and not self._given_up(each, why, begin_us, lasts=span is None):
            return False
        if span is not None:
            self._move(each, span, found)
        if not why:
            self._outages.end(each.name)
            self._tell_absent(names, found)
        self._whole_us[each.name] = self._now_us()
        return True

    def _given_up(self, each: Wanted, why: str, begin_us: int, *, lasts: bool) -> bool:
        """It came back short: a gap. Whether it has been asked for often enough; ``lasts``: it never has."""
        self._outages.begin(each.name, begin_us, why)
        self._why = f"{said_of(each.names) or 'ask'}: {why}"
        if lasts:
            return False
        self._short[each.name] = self._short.get(each.name, 0) + 1
        if self._short[each.name] < ANSWERS:
            return False
        self._outages.end(each.name, lost=f"the site answered {ANSWERS} times so: {why}")
        return True

    def _move(self, each: Wanted, span: Span, found: Listed) -> None:
        """A window is whole: the next begins at its end, in whichever run."""
        self._short.pop(each.name, None)
        facts = {"of": each.name, "since": span.since, "until": span.until, "rows": found.raw}
        self.write(Noted("window whole", facts), {SINCE + each.name: str(span.until)})
        if found.outside:
            _outside.labels(self.app.name).inc(found.outside)
            if not self._told_outside:
                self._told_outside = True
                assert self._declared.since is not None
                said = f"{found.outside:,} rows have a {self._declared.since.field} far outside the window asked for"
                self.report(ParseError(f"{said}: the site may not keep to it"), "since.field")

    # -- what came ----------------------------------------------------------------------------------------------

    def _judge(self, found: Listed) -> str:
        """Compare what came with what the site, or the file, says there is; what is short, for people."""
        if found.last is None or found.unchanged:
            return ""
        self._newest_us = max(self._newest_us, found.newest)
        said = self._declared.expect.rows
        least = found.wanted
        if isinstance(said, str) and said.startswith(AT_LEAST):
            least = int(said.removeprefix(AT_LEAST))
        elif isinstance(said, int):
            least = said
        twice = sum(count - 1 for count in found.known.values())
        if twice:
            columns = ", ".join(self._declared.expect.unique)
            error = ParseError(f"{twice:,} rows came twice by {columns}: sort the list by what does not change")
            self.report(error, "expect.unique")
        for name, most in self._declared.expect.null_share.items():
            if found.rows and found.nulls[name] > share(most) * found.rows:
                error = ParseError(f"{name} is null in {found.nulls[name]:,} of {found.rows:,} rows, {most} expected")
                self.report(error, "expect.null_share")
        return f"{found.raw:,} of {least:,} rows came" if found.raw < least else ""

    def _tell_absent(self, names: Mapping[str, Any], found: Listed) -> None:
        """Instruments that were asked for and have no row have a gap until they do: the site may not know them."""
        name = self._declared.expect.all_of
        if not name or found.last is None:
            return
        asked = names[name] if isinstance(names[name], list) else [names[name]]
        absent = [each for each in asked if each not in found.instruments]
        new = [each for each in absent if each not in self._absent]
        for each in asked:
            if each in found.instruments:
                self._outages.end(each)
        for each in absent[:ABSENT_MAX]:
            self._outages.begin(each, self._now_us(), "asked for, and not in the answer: the site may not know it")
        if len(absent) > max(ABSENT_MAX, ABSENT_SHARE * len(asked)):
            self._trouble(f"{len(absent):,} of {len(asked):,} instruments are not in the answer")
        self._absent.difference_update(asked)
        self._absent.update(absent)
        if new:
            more = f" and {len(new) - 5:,} more" if len(new) > 5 else ""
            self.report(ParseError(f"not in the answer: {', '.join(new[:5])}{more}"), "expect.all_of")

    def _check_fresh(self) -> None:
        """Whether the newest row of a round is as new as the file says; only when the site should have news."""
        expect, now_us = self._declared.expect, self._now_us()
        if not expect.fresh or not self._newest_us:
            return
        longest_us = round(seconds(expect.fresh, "expect.fresh") * 1e6)
        # A session that has just begun may have nothing yet.
        moments = (now_us * 1_000, (now_us - longest_us) * 1_000)
        if self._sessions and not any(all(map(each.contains, moments)) for each in self._sessions):
            return
        if self._newest_us >= now_us - longest_us:
            self._outages.end(FRESH)
            return
        at = f"{utc(self._newest_us * 1_000):%Y-%m-%d %H:%M:%S} UTC"
        why = f"the newest row is of {at}, {(now_us - self._newest_us) // 1_000_000:,} s old; {expect.fresh} expected"
        if self._outages.begin(FRESH, self._newest_us, why, "silence"):
            self.report(ParseError(why), "expect.fresh")
        self._last_error = f"expect.fresh: {why}"
        self._trouble(self._last_error)

    def _now_us(self) -> int:
        return self.app.context.clock.wall_ns() // 1_000
