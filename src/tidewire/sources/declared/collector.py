"""Asking a declared source: what it is asked for, page by page, each reply judged before it counts as data."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tidewire.collect import Collector, Cron, Every, Reply, Window, retry_after_s, seconds
from tidewire.collect.family import PATIENCE
from tidewire.errors import ParseError, RateLimited, TerminalError, TransientError
from tidewire.sources.declared.asking import combinations, page_parameters, request, templates
from tidewire.sources.declared.expression import searcher
from tidewire.sources.declared.grammar import Action, Paginate
from tidewire.sources.declared.parse import REFUSED, asked_text
from tidewire.sources.declared.reading import share
from tidewire.sources.declared.source import PLAIN, Read

if TYPE_CHECKING:
    from tidewire.sources.declared.app import DeclaredApp

REFUSALS = frozenset({"retry", "back_off", "rotate", "fail"})
"""Actions after which a reply is no data."""

ATTEMPTS = 3
RETRY_S = 2.0
TURNS = 5
"""How many ways a page is asked for by, where a pool has as many."""
WHOLE = "*.*"
"""The instrument of a gap in a list of the whole market."""

_LEAST = ">= "


class _Again(TransientError):
    """Ask again, ``most`` times at most: the pause of the family, or its pace, is all the waiting there is."""

    def __init__(self, said: str, most: int) -> None:
        super().__init__(said)
        self.most = most


@dataclass
class _List:
    """What the pages of one list came to: raw rows, the site's own total, and rows by what makes them unique."""

    raw: int = 0
    total: int | None = None
    wanted: int = 0
    last: Reply | None = None
    rows: int = 0
    known: Counter[tuple[Any, ...]] = field(default_factory=Counter[tuple[Any, ...]])
    nulls: Counter[str] = field(default_factory=Counter[str])

    def add(self, read: Read, unique: Sequence[str], watched: Iterable[str]) -> None:
        """Count a page."""
        self.raw += read.raw
        self.rows += len(read.places)
        if unique:
            self.known.update(zip(*(read.columns[name] for name in unique), strict=True))
        for name in watched:
            self.nulls[name] += read.columns[name].count(None)


class DeclaredCollector(Collector):
    """The one collector of a declared source."""

    def __init__(self, app: DeclaredApp) -> None:
        super().__init__("rows", app)
        self._site = app
        self._source = app.source
        self._declared = app.source.declared
        self._texts = templates(self._declared, app.name)
        paginate = self._declared.paginate or Paginate()
        self._paths = {
            name: searcher(path, name)
            for name, path in (("total", paginate.total), ("more", paginate.more), ("next", paginate.next))
            if path
        }
        self._rows_said = searcher(str(self._declared.expect.rows), "expect.rows") if self._has_total() else None

    def _has_total(self) -> bool:
        said = self._declared.expect.rows
        return isinstance(said, str) and bool(said) and not said.startswith(_LEAST)

    async def initialize(self) -> None:
        """One timer."""
        schedule = self._declared.schedule
        every = self._site.settings.every or schedule.every
        if schedule.cron and not every:
            when: Every | Cron = Cron(schedule.cron, schedule.tz)
        else:
            when = Every(seconds(every or "1m", "every"))
        self.add_timer(
            "ask",
            when,
            self.fetch,
            window=Window(schedule.between, schedule.tz) if schedule.between else None,
            jitter=share(schedule.jitter) if isinstance(when, Every) else 0.0,
            run_at_start=True,
        )

    async def fetch(self) -> None:
        """Ask for everything once. What fails is told, and the rest is asked for."""
        for names in combinations(self._declared, self._site.settings.for_each):
            try:
                await self._ask_for(names)
            except (RateLimited, TerminalError):
                raise  # nothing of this family will be answered now
            except Exception as error:
                what = ", ".join(f"{name} {value}" for name, value in names.items())
                self.report(error, what or "ask")

    async def _ask_for(self, names: Mapping[str, Any]) -> None:
        found = _List()
        paginate = self._declared.paginate
        if paginate is None:
            await self._page(names, {}, found)
        elif paginate.cursor:
            await self._by_cursor(names, paginate, found)
        else:
            await self._by_number(names, paginate, found)
        self._whole(names, found)

    async def _by_cursor(self, names: Mapping[str, Any], paginate: Paginate, found: _List) -> None:
        cursor: Any = None
        for _ in range(paginate.max):
            paging = {**paginate.size} | ({} if cursor is None else {paginate.cursor: cursor})
            read = await self._page(names, paging, found)
            cursor = self._paths["next"](read.document)
            if read.action is not None or not read.raw or cursor in (None, ""):
                return
        raise TransientError(f"more than {paginate.max} pages; raise paginate.max if the site has them")

    async def _by_number(self, names: Mapping[str, Any], paginate: Paginate, found: _List) -> None:
        size = next(iter(paginate.size.values()), 0)
        read = await self._page({**names, "page": paginate.start}, page_parameters(paginate, 0), found)
        if not self._goes_on(read, found):
            return
        pages = range(1, paginate.max)
        per_page = read.raw or size
        if found.total is not None and per_page:
            pages = range(1, min(paginate.max, -(-found.total // per_page)))
        ends = found.total is None and "more" not in self._paths
        for begin in range(0, len(pages), paginate.parallel):
            some = pages[begin : begin + paginate.parallel]
            reads = await asyncio.gather(
                *(
                    self._page({**names, "page": paginate.start + at}, page_parameters(paginate, at), found)
                    for at in some
                )
            )
            if not all(self._goes_on(each, found) for each in reads):
                return
            if ends and any(each.raw < per_page for each in reads):  # nothing else says where the list ends
                return

    def _goes_on(self, read: Read, found: _List) -> bool:
        """Whether there is more: by the raw rows and what the site says, never by what was left after ``where``."""
        if read.action is not None or not read.raw:
            return False
        if "more" in self._paths:
            return bool(self._paths["more"](read.document))
        return found.total is None or found.raw < found.total

    async def _page(self, names: Mapping[str, Any], paging: Mapping[str, Any], found: _List) -> Read:
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._once(names, paging, found)
            except RateLimited:
                raise
            except _Again as error:
                if attempt >= error.most:
                    raise
            except TransientError:
                if attempt >= ATTEMPTS:
                    raise
                await self.app.context.clock.sleep(RETRY_S * attempt)

    async def _once(self, names: Mapping[str, Any], paging: Mapping[str, Any], found: _List) -> Read:
        asked = request(self._declared, self._texts, names, paging)
        asked = replace(asked, url=self._site.address(asked.url))
        try:
            reply = await self._site.http.request(asked)
        except RateLimited:
            raise
        except TransientError as error:  # a connection that is dropped is how some sites refuse
            if error.elsewhere:  # it was the proxy, which rests now
                raise _Again(str(error), TURNS) from error
            self._site.refused(str(error))
            raise _Again(str(error), PATIENCE + 1) from error
        kind = reply.headers.get("content-type", "")
        action = self._source.refused(reply.status, kind) or self._source.blocked(reply.status, kind, reply.body)
        if action is not None:
            await self.keep(reply, asked=asked_text(asked.method, reply.url, {**names, REFUSED: action}))
            self._obey(action, reply)
            return Read(action=action)
        try:
            read = self._source.read(reply.body, names, reply.received_ns // 1_000)
        except ParseError:
            # Kept, and quarantined as a whole by the parser; what it cannot say nobody can go on from.
            await self.keep(reply, asked=asked_text(asked.method, reply.url, names))
            raise
        said = {**names, REFUSED: read.action} if read.action in REFUSALS else names
        await self.keep(reply, asked=asked_text(asked.method, reply.url, said))
        self._obey(read.action, reply)
        self._count(read, reply, found)
        return read

    def _count(self, read: Read, reply: Reply, found: _List) -> None:
        found.last = reply
        if read.action is not None:
            return
        expect = self._declared.expect
        found.add(read, expect.unique, expect.null_share)
        if "total" in self._paths:
            said = self._paths["total"](read.document)
            found.total = said if isinstance(said, int) else found.total
        if self._rows_said is not None:
            said = self._rows_said(read.document)
            found.wanted = said if isinstance(said, int) else found.wanted

    def _obey(self, action: Action | None, reply: Reply) -> None:
        """Do what the file says about a reply; raises where nothing can be made of it."""
        if action not in REFUSALS:
            self._site.answered()
            self._site.ways.good(reply.way, reply.elapsed_s)
            return
        begins = reply.body[:80].decode("utf-8", "replace").strip()
        why = f"{reply.url.partition('?')[0]} answered {reply.status}: {begins}"
        if action == "fail":
            raise TerminalError(why)
        if action == "retry":
            raise TransientError(why)
        least_s = retry_after_s(reply.headers, self.app.context.clock) or 0.0
        other = self._site.ways.failed(reply.way, why, least_s)
        if action == "rotate" and other:
            raise _Again(why, TURNS)
        raise RateLimited(why, self._site.refused(why, plainly=reply.status in PLAIN, least_s=least_s))

    def _whole(self, names: Mapping[str, Any], found: _List) -> None:
        """Compare what came with what the site, or the file, says there is."""
        if found.last is None:
            return
        said = self._declared.expect.rows
        least = found.wanted
        if isinstance(said, str) and said.startswith(_LEAST):
            least = int(said.removeprefix(_LEAST))
        elif isinstance(said, int):
            least = said
        missing: Sequence[str] = [WHOLE] if found.raw < least else []
        self.short(self._source.kind.name, missing, found.last, f"{found.raw:,} of {least:,} rows came")
        twice = sum(count - 1 for count in found.known.values())
        if twice:
            columns = ", ".join(self._declared.expect.unique)
            error = ParseError(f"{twice:,} rows came twice by {columns}: sort the list by what does not change")
            self.report(error, "expect.unique")
        for name, most in self._declared.expect.null_share.items():
            if found.rows and found.nulls[name] > share(most) * found.rows:
                error = ParseError(f"{name} is null in {found.nulls[name]:,} of {found.rows:,} rows, {most} expected")
                self.report(error, "expect.null_share")
