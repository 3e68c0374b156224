"""Asking a declared source once, to see what comes of it; nothing is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tidewire.collect import Api, Families, HttpClient, Proxies, Reply, Secret, SourceConfig, SourceInfo
from tidewire.collect.app import no_secret
from tidewire.collect.proxies import Pool, PoolConfig
from tidewire.errors import InputError, TerminalError
from tidewire.records.clock import Clock, Rng
from tidewire.sources.declared.app import DeclaredApp, address_at
from tidewire.sources.declared.asking import dated, templates
from tidewire.sources.declared.auth import Credentials, credentials
from tidewire.sources.declared.expression import searcher
from tidewire.sources.declared.grammar import Declared, Ref
from tidewire.sources.declared.plan import plan
from tidewire.sources.declared.trial import Made, given_names, take
from tidewire.sources.declared.windows import windows_of


@dataclass(frozen=True)
class Wish:
    """At most so many ``pages``; ``given`` names win over the file's, ``base_url`` over its address."""

    pages: int = 1
    given: Mapping[str, str] = field(default_factory=dict[str, str])
    base_url: str = ""
    secret: Secret = field(default=no_secret, repr=False)


@dataclass
class Tried:
    """What came of it: rows, what was not taken, the site's own total where the file says where it stands.

    ``names``: what was asked for; ``replies``: without any key in them.
    """

    names: Mapping[str, Any]
    made: Made = field(default_factory=Made)
    replies: list[Reply] = field(default_factory=list[Reply])
    total: Any = None


async def try_source(app: type[DeclaredApp], clock: Clock, rng: Rng, wish: Wish) -> Tried:
    """Ask for the first pages of the first thing the file asks for."""
    declared = app.source.declared
    names = dated(given_names(declared, _in_lists(declared, wish.given)), clock.wall_ns() // 1_000)
    if declared.since is not None:
        names = windows_of(declared.since, app.name).newest(clock.wall_ns() // 1_000)._asdict() | names
    for name in declared.for_each.keys() - names.keys():
        raise InputError(f"--given {name}=…: its values are stored ones, so one must be given.")
    config = SourceConfig(source=SourceInfo(type="declared", name=app.name), api=Api(base_url=wish.base_url))
    keys = credentials(declared.request.auth, config.api, wish.secret, app.name)
    name = app.pool(config)
    # Whoever tries a file has no platform: it is asked without a proxy, as that is.
    pools = {name: Pool(name, PoolConfig(direct=True), clock, rng)} if name else {}
    client = app.client(config, clock, rng, Families(Proxies(pools)))
    tried = Tried(names)
    try:
        await _ask(app, client, keys, wish, tried)
    finally:
        await client.close()
    return tried


def _in_lists(declared: Declared, given: Mapping[str, str]) -> dict[str, Any]:
    """What is asked for in lists may be given as ``a,b``."""
    said = {name: declared.for_each.get(name) for name in given}
    return {
        name: text.split(",") if isinstance(ref := said[name], Ref) and ref.chunk else text
        for name, text in given.items()
    }


async def _ask(app: type[DeclaredApp], client: HttpClient, keys: Credentials, wish: Wish, tried: Tried) -> None:
    source = app.source
    declared, paginate = source.declared, source.declared.paginate
    steps, document = plan(source, templates(declared, app.name), tried.names), None
    for _ in range(wish.pages):
        try:
            names, asked = steps.send(document)
        except StopIteration:
            return
        asked = keys.sign(replace(asked, url=address_at(wish.base_url, asked.url)))
        reply = await client.request(asked)
        reply = replace(reply, url=keys.mask(reply.url), body=keys.without(reply.body))
        kind = reply.headers.get("content-type", "")
        action = source.refused(reply.status, kind) or source.blocked(reply.status, kind, reply.body)
        begins = reply.body[:200].decode("utf-8", "replace")
        if action is not None:
            raise TerminalError(f"{reply.url} answered {reply.status}; the file says {action}. It begins: {begins}")
        received_us = reply.received_ns // 1_000
        read = source.read(reply.body, names, received_us)
        tried.replies.append(reply)
        if read.action is not None:
            tried.made.wrong.append(f"a rule of the file says {read.action}")
            return
        take(source, read, received_us, tried.made)
        if paginate is not None and paginate.total:
            tried.total = searcher(paginate.total, "paginate.total")(read.document)
        if not read.raw:
            return
        document = read.document
