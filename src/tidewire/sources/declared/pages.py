"""Asking for one list: page by page, each reply judged before it counts as data."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tidewire.collect import Reply, Request, retry_after_s
from tidewire.collect.family import PATIENCE
from tidewire.errors import ParseError, RateLimited, SourceError, TerminalError, TransientError
from tidewire.sources.declared.asking import page_parameters, request, templates
from tidewire.sources.declared.expression import searcher
from tidewire.sources.declared.grammar import Action, Paginate
from tidewire.sources.declared.parse import REFUSED, asked_text
from tidewire.sources.declared.plan import plan
from tidewire.sources.declared.source import PLAIN, Read
from tidewire.sources.declared.windows import SLACK_US, Span

if TYPE_CHECKING:
    from tidewire.sources.declared.collector import DeclaredCollector

REFUSALS = frozenset({"retry", "back_off", "rotate", "fail"})
"""Actions after which a reply is no data."""

NOT_MODIFIED = 304
VALIDATORS_MAX = 1_000
"""So many addresses are asked for only if they changed, those that were last."""
ATTEMPTS = 3
RETRY_S = 2.0
TURNS = 5
"""How many ways a page is asked for by, where a pool has as many."""
AT_LEAST = ">= "


class _Again(TransientError):
    """Ask again, ``most`` times at most: the pause of the family, or its pace, is all the waiting there is."""

    def __init__(self, said: str, most: int) -> None:
        super().__init__(said)
        self.most = most


@dataclass
class Listed:
    """What the pages of one list came to: raw rows, the site's own total, and rows by what makes them unique.

    ``newest``: the newest event time, UTC microseconds. ``outside``: rows far outside the window asked for.
    ``unchanged``: the site says that a page is as it was.
    ``background``: it is asked for behind everything that is live. ``instruments``: those that came, if the file wants
    to know.
    """

    background: bool = False
    raw: int = 0
    total: int | None = None
    wanted: int = 0
    last: Reply | None = None
    rows: int = 0
    newest: int = 0
    outside: int = 0
    unchanged: bool = False
    known: Counter[tuple[Any, ...]] = field(default_factory=Counter[tuple[Any, ...]])
    nulls: Counter[str] = field(default_factory=Counter[str])
    instruments: set[str] = field(default_factory=set[str])


class Pages:
    """Asks for the lists of one collector."""

    def __init__(self, collector: DeclaredCollector) -> None:
        self._collector = collector
        self._site = collector.site
        self._source = collector.site.source
        self._declared = self._source.declared
        self._texts = templates(self._declared, self._source.name)
        paginate = self._declared.paginate or Paginate()
        self._paths = {
            name: searcher(path, name)
            for name, path in (("total", paginate.total), ("more", paginate.more), ("next", paginate.next))
            if path
        }
        said = self._declared.expect.rows
        has_total = isinstance(said, str) and said and not said.startswith(AT_LEAST)
        self._needed = frozenset[str]().union(
            *(made.names for each in self._source.all_made for _, made in each.fields.values())
        )
        # Another source asks for the same: this one need not insist.
        self._stood_in_for = collector.app.context.successions.of(self._source.name) is not None
        self._validators: dict[str, Mapping[str, str]] = {}
        self._rows_said = searcher(str(said), "expect.rows") if has_total else None

    async def ask(self, names: Mapping[str, Any], *, background: bool = False) -> Listed:
        """Everything there is of one combination; ``background``: behind everything that is live."""
        found = Listed(background)
        paginate = self._declared.paginate
        if self._source.hook is not None and self._source.hook.asks:
            await self._by_code(names, found)
        elif paginate is None:
            await self._page(names, {}, found)
        elif paginate.cursor:
            await self._by_cursor(names, paginate, found)
        else:
            await self._by_number(names, paginate, found)
        return found

    async def _by_code(self, names: Mapping[str, Any], found: Listed) -> None:
        most = (self._declared.paginate or Paginate()).max
        steps, document = plan(self._source, self._texts, names), None
        for number in itertools.count():
            try:
                _, asked = steps.send(document)
            except StopIteration:
                return
            if number == most:
                raise _too_many(Paginate(max=most))
            read = await self._asked(names, asked, found)
            if read.action is not None:
                return
            document = read.document

    async def _by_cursor(self, names: Mapping[str, Any], paginate: Paginate, found: Listed) -> None:
        cursor: Any = None
        for _ in range(paginate.max):
            paging = {**paginate.size} | ({} if cursor is None else {paginate.cursor: cursor})
            read = await self._page(names, paging, found)
            cursor = self._paths["next"](read.document)
            if read.action is not None or not read.raw or cursor in (None, ""):
                return
        raise _too_many(paginate)

    async def _by_number(self, names: Mapping[str, Any], paginate: Paginate, found: Listed) -> None:
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
        if self._declared.since is not None and len(pages) + 1 == paginate.max:
            raise _too_many(paginate)  # a window that is cut off is not whole

    def _goes_on(self, read: Read, found: Listed) -> bool:
        """Whether there is more: by the raw rows and what the site says, never by what was left after ``where``."""
        if read.action is not None or not read.raw:
            return False
        if "more" in self._paths:
            return bool(self._paths["more"](read.document))
        return found.total is None or found.raw < found.total

    async def _page(self, names: Mapping[str, Any], paging: Mapping[str, Any], found: Listed) -> Read:
        return await self._asked(names, request(self._declared, self._texts, names, paging), found)

    async def _asked(self, names: Mapping[str, Any], asked: Request, found: Listed) -> Read:
        for attempt in itertools.count(1):
            try:
                return await self._once(names, asked, found)
            except RateLimited:
                raise
            except _Again as error:
                if attempt >= error.most:
                    raise
            except TransientError:
                # Where another source stands in, that is asked now, not this one again.
                if attempt >= ATTEMPTS or self._stood_in_for:
                    raise
                await self._site.context.clock.sleep(RETRY_S * attempt)
        raise AssertionError("every attempt returns or raises")

    async def _once(self, names: Mapping[str, Any], asked: Request, found: Listed) -> Read:
        asked = replace(asked, url=self._site.address(asked.url), background=found.background)
        try:
            reply = await self._reply(asked)
        except RateLimited:
            raise
        except TransientError as error:  # a connection that is dropped is how some sites refuse
            if error.elsewhere:  # it was the proxy, which rests now
                raise _Again(str(error), TURNS) from error
            pause_s = self._site.refused(str(error))
            if self._stood_in_for:
                raise RateLimited(str(error), pause_s) from error
            raise _Again(str(error), PATIENCE + 1) from error
        told = self._told(names)
        if reply.status == NOT_MODIFIED and self._declared.request.cache:
            self._site.answered()
            self._collector.heard(reply.received_ns)
            found.unchanged = True
            return Read(action="skip")
        kind = reply.headers.get("content-type", "")
        action = self._source.refused(reply.status, kind) or self._source.blocked(reply.status, kind, reply.body)
        if action is not None:
            await self._collector.keep(reply, asked=asked_text(asked.method, reply.url, {**told, REFUSED: action}))
            self._obey(action, reply)
            return Read(action=action)
        try:
            read = self._source.read(reply.body, names, reply.received_ns // 1_000)
        except ParseError:
            # Kept, and quarantined as a whole by the parser; what it cannot say nobody can go on from.
            await self._collector.keep(reply, asked=asked_text(asked.method, reply.url, told))
            raise
        is_data = read.action not in REFUSALS
        text = asked_text(asked.method, reply.url, told if is_data else {**told, REFUSED: read.action})
        if is_data:
            self._source.recent.keep(text, reply.received_ns // 1_000, reply.body, read)
        await self._collector.keep(reply, asked=text)
        self._obey(read.action, reply)
        self._remember(asked, reply)
        self._count(read, names, reply, found)
        return read

    async def _reply(self, asked: Request) -> Reply:
        """Ask the site; what comes back, errors too, names no key."""
        keys = self._site.credentials
        validators = self._validators.get(_place(asked), {})
        signed = keys.sign(replace(asked, headers={**asked.headers, **validators}))
        try:
            reply = await self._site.http.request(signed)
        except SourceError as error:
            error.args = tuple(keys.mask(each) if isinstance(each, str) else each for each in error.args)
            raise
        return replace(reply, url=keys.mask(reply.url))

    def _remember(self, asked: Request, reply: Reply) -> None:
        """By what the site can tell that nothing changed since this reply."""
        if not self._declared.request.cache:
            return
        pairs = (("etag", "If-None-Match"), ("last-modified", "If-Modified-Since"))
        place = _place(asked)
        self._validators.pop(place, None)
        self._validators[place] = {to: reply.headers[name] for name, to in pairs if name in reply.headers}
        if len(self._validators) > VALIDATORS_MAX:
            del self._validators[next(iter(self._validators))]

    def _told(self, names: Mapping[str, Any]) -> dict[str, Any]:
        """What a frame says of what was asked for: long lists, which are in the address already, only where needed."""
        return {name: value for name, value in names.items() if name in self._needed or not isinstance(value, list)}

    def _count(self, read: Read, names: Mapping[str, Any], reply: Reply, found: Listed) -> None:
        found.last = reply
        if read.action is not None:
            return
        self._add(read, names, found)
        if "total" in self._paths:
            said = self._paths["total"](read.document)
            found.total = said if isinstance(said, int) else found.total
        if self._rows_said is not None:
            said = self._rows_said(read.document)
            found.wanted = said if isinstance(said, int) else found.wanted

    def _add(self, read: Read, names: Mapping[str, Any], found: Listed) -> None:
        """Count the rows of a page."""
        expect, since = self._declared.expect, self._declared.since
        found.raw += read.raw
        found.rows += len(read.places)
        if expect.unique:
            found.known.update(zip(*(read.columns[name] for name in expect.unique), strict=True))
        if expect.all_of:
            found.instruments.update(read.columns["instrument"])
        for name in expect.null_share:
            found.nulls[name] += read.columns[name].count(None)
        times = [at for at in read.columns["event_time"] if at is not None]
        found.newest = max(found.newest, max(times, default=0))
        if since is not None and since.field:
            span = Span(names["since"] - SLACK_US, names["until"] + SLACK_US)
            values = read.columns[since.field]
            found.outside += sum(at is not None and not span.since <= at < span.until for at in values)

    def _obey(self, action: Action | None, reply: Reply) -> None:
        """Do what the file says about a reply; raises where nothing can be made of it."""
        if action not in REFUSALS:
            self._site.answered()
            self._site.ways.good(reply.way, reply.elapsed_s)
            return
        begins = self._site.credentials.mask(reply.body[:80].decode("utf-8", "replace").strip())
        why = f"{reply.url.partition('?')[0]} answered {reply.status}: {begins}"
        if action == "fail":
            raise TerminalError(why)
        if action == "retry":
            raise TransientError(why)
        least_s = retry_after_s(reply.headers, self._site.context.clock) or 0.0
        other = self._site.ways.failed(reply.way, why, least_s)
        if action == "rotate" and other:
            raise _Again(why, TURNS)
        raise RateLimited(why, self._site.refused(why, plainly=reply.status in PLAIN, least_s=least_s))


def _place(asked: Request) -> str:
    """What was asked for, in one line."""
    return f"{asked.url}?{urlencode(asked.params)}"


def _too_many(paginate: Paginate) -> TransientError:
    return TransientError(f"more than {paginate.max} pages; raise paginate.max if the site has them")
