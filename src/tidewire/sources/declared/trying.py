"""Asking a declared source once, to see what comes of it; nothing is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tidewire.collect import Api, Families, HttpClient, Proxies, Reply, SourceConfig, SourceInfo
from tidewire.collect.proxies import Pool, PoolConfig
from tidewire.errors import TerminalError
from tidewire.records.clock import Clock, Rng
from tidewire.sources.declared.app import DeclaredApp, address_at
from tidewire.sources.declared.asking import combinations, page_parameters, request, templates
from tidewire.sources.declared.expression import searcher
from tidewire.sources.declared.trial import Made, take


@dataclass(frozen=True)
class Tried:
    """What came of it: rows, what was not taken, and the site's own total where the file says where it stands."""

    made: Made
    pages: int
    total: Any
    last: Reply | None


async def try_source(
    app: type[DeclaredApp], clock: Clock, rng: Rng, pages: int, given: Mapping[str, str], base_url: str
) -> Tried:
    """Ask for the first pages of the first thing the file asks for; ``given`` names win over it."""
    config = SourceConfig(source=SourceInfo(type="declared", name=app.name), api=Api(base_url=base_url))
    name = app.pool(config)
    # Whoever tries a file has no platform: it is asked without a proxy, as that is.
    pools = {name: Pool(name, PoolConfig(direct=True), clock, rng)} if name else {}
    client = app.client(config, clock, rng, Families(Proxies(pools)))
    try:
        return await _asked(app, client, config, pages, given)
    finally:
        await client.close()


async def _asked(
    app: type[DeclaredApp], client: HttpClient, config: SourceConfig, pages: int, given: Mapping[str, str]
) -> Tried:
    source, made, total = app.source, Made(), None
    declared = source.declared
    texts = templates(declared, app.name)
    names = next(combinations(declared, {}), {}) | dict(given)
    reply: Reply | None = None
    done = 0
    for at in range(pages if declared.paginate is not None else 1):
        paging = page_parameters(declared.paginate, at) if declared.paginate is not None else {}
        page = {"page": declared.paginate.start + at} if declared.paginate is not None else {}
        asked = request(declared, texts, {**names, **page}, paging)
        reply = await client.request(replace(asked, url=address_at(config.api.base_url, asked.url)))
        kind = reply.headers.get("content-type", "")
        action = source.refused(reply.status, kind) or source.blocked(reply.status, kind, reply.body)
        begins = reply.body[:200].decode("utf-8", "replace")
        if action is not None:
            raise TerminalError(f"{reply.url} answered {reply.status}; the file says {action}. It begins: {begins}")
        read = source.read(reply.body, names, reply.received_ns // 1_000)
        done += 1
        if read.action is not None:
            made.wrong.append(f"a rule of the file says {read.action}")
            break
        take(source, read, reply.received_ns // 1_000, made)
        if declared.paginate is not None and declared.paginate.total:
            total = searcher(declared.paginate.total, "paginate.total")(read.document)
        if not read.raw:
            break
    return Tried(made, done, total, reply)
