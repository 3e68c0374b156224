"""Running a declared source: one App with one collector, made from its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit, urlunsplit

from tidewire.collect import (
    Allowed,
    App,
    Choice,
    Context,
    Families,
    Family,
    GapTold,
    HttpClient,
    HttpConfig,
    Identities,
    Section,
    SourceConfig,
    Ways,
    check_client,
    client_schemes,
    opener,
    proxy_of,
    read,
    seconds,
)
from tidewire.collect.control import Noted
from tidewire.errors import ConfigError
from tidewire.records.clock import Clock, Rng, UpstreamClock
from tidewire.records.instrument import InstrumentBook
from tidewire.sources.declared.auth import credentials
from tidewire.sources.declared.collector import DeclaredCollector
from tidewire.sources.declared.outages import CAUSES
from tidewire.sources.declared.parse import DeclaredParser
from tidewire.sources.declared.reading import load_declared, per_second, share
from tidewire.sources.declared.source import Source

# What is sent where nobody is to be passed for: many sites answer nothing that is no browser.
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36"

COLLECTOR = "rows"
PAUSE = "family pause"
"""The cursor that says until when the family is left alone (UTC nanoseconds), and after how many refusals."""


class Settings(Section, frozen=True):
    """What a platform file may say of a declared source, as its only collector ``rows``.

    ``for_each``: other values than those of its file; ``every``: asked as often.
    """

    enabled: bool = True
    every: str = ""
    for_each: Mapping[str, Sequence[Any]] = {}


def address_at(base: str, url: str) -> str:
    """At ``api.base_url`` in place of its own host, where that is given."""
    if not base:
        return url
    own, other = urlsplit(url), urlsplit(base)
    return urlunsplit((other.scheme, other.netloc, other.path.rstrip("/") + own.path, own.query, ""))


class DeclaredApp(App):
    """Base of the Apps that files declare."""

    source: ClassVar[Source]

    def __init__(self, config: SourceConfig, context: Context) -> None:
        super().__init__(config, context)
        self.settings = self._settings(config)
        self.family = self._family(context.families, context.clock, context.rng)
        self.ways = self._ways(config, context.families, context.clock, context.rng)
        self.http = self.client(config, context.clock, context.rng, context.families, context.upstream)
        self._remember()
        self.credentials = credentials(self.source.declared.request.auth, config.api, context.secret, self.name)

    @classmethod
    def _family(cls, families: Families, clock: Clock, rng: Rng) -> Family:
        declared = cls.source.declared
        host = urlsplit(declared.request.get or declared.request.post).hostname or ""
        limits = declared.limits
        rate, jitter = per_second(limits.rate, "limits.rate"), share(limits.jitter)
        allowed = Allowed(rate, limits.concurrency, limits.adapt, jitter)
        return families.of(declared.limits.share or host, clock, allowed, rng)

    @classmethod
    def pool(cls, config: SourceConfig) -> str:
        """That of the platform file, or of its own."""
        return config.api.pool or ("" if config.api.proxy else cls.source.declared.limits.proxy)

    @classmethod
    def _ways(cls, config: SourceConfig, families: Families, clock: Clock, rng: Rng) -> Ways:
        """By which ways it asks: what the platform file says of it wins over its own."""
        name = cls.pool(config)
        choice = Choice(
            cls._family(families, clock, rng).name,
            families.proxies.get(name) if name else None,
            client_schemes(cls._client_name(config)),
            config.api.proxy,
            families.identities if config.api.identity else Identities(()),
        )
        return Ways(choice, clock, rng)

    @classmethod
    def _client_name(cls, config: SourceConfig) -> str:
        return config.api.client or cls.source.declared.request.client

    @classmethod
    def client(
        cls, config: SourceConfig, clock: Clock, rng: Rng, families: Families, upstream: UpstreamClock | None = None
    ) -> HttpClient:
        """The client of this source, within the limits of its family."""
        http = HttpConfig(
            total_timeout_s=seconds(cls.source.declared.request.timeout, "request.timeout"),
            user_agent=BROWSER,
            proxy=None if config.api.pool else config.api.proxy or None,
            clock=upstream,
            ways=cls._ways(config, families, clock, rng),
            judged=True,
            page=cls.source.declared.decode == "html",
            transport=opener(cls._client_name(config), families.browser),
            # Trying again at once is what a site that blocks is waiting for: the family's breaker sets the pace.
            attempts=1,
        )
        return HttpClient(clock, rng, http, cls._family(families, clock, rng))

    @classmethod
    def make_parser(cls, config: SourceConfig, instruments: InstrumentBook) -> DeclaredParser:
        """A function of the file."""
        return DeclaredParser(cls.source)

    @classmethod
    def check(cls, config: SourceConfig) -> None:
        """Its one section must be readable."""
        cls._settings(config)
        url = config.api.base_url
        if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc):
            raise ConfigError(f"api.base_url: {url!r} is not a URL; write https://host, or leave it out.")
        client = cls._client_name(config)
        check_client(client)
        if client == "browser" and cls.source.declared.request.post:
            raise ConfigError("api.client: a browser opens addresses, and this source posts.")
        if config.api.proxy and not config.api.pool:
            proxy = proxy_of(config.api.proxy, "api.proxy")
            if proxy.scheme not in client_schemes(client):
                valid = ", ".join(sorted(client_schemes(client)))
                raise ConfigError(f"api.proxy: the client {client} goes over {valid}, not over {proxy.scheme}.")

    @classmethod
    def _settings(cls, config: SourceConfig) -> Settings:
        for name in config.collectors.keys() - {"rows"}:
            raise ConfigError(f"collectors.{name}: {cls.name} has one collector, rows.")
        settings = read(config.collectors.get("rows", {}), Settings, "collectors.rows")
        if settings.every:
            seconds(settings.every, "collectors.rows.every")
        declared = cls.source.declared.for_each
        for name in settings.for_each.keys() - declared.keys():
            valid = ", ".join(declared) or "none"
            raise ConfigError(f"collectors.rows.for_each.{name}: the file names {valid}.")
        return settings

    def address(self, url: str) -> str:
        """Where it is asked."""
        return address_at(self.config.api.base_url, url)

    def mends(self, told: GapTold) -> bool:
        """What was asked for and did not come is asked for again; gaps of it say themselves when they are over."""
        return told.record_type == self.source.kind.name and told.cause in CAUSES

    # -- refusals ---------------------------------------------------------------------------------------------

    def refused(self, why: str, *, plainly: bool = False, least_s: float = 0.0) -> float:
        """The family is left alone for a while, also by the next run; for how many seconds."""
        pause_s = self.family.refused(why, plainly=plainly, least_s=least_s)
        self._write_down(f"{self.family.paused_until_ns or 0} {self.family.refusals}", {"pause_s": pause_s, "why": why})
        return pause_s

    def answered(self) -> None:
        """The site answers as it should."""
        if self.family.answered():
            self._write_down("", {})

    def _write_down(self, cursor: str, facts: Mapping[str, Any]) -> None:
        said = Noted("family refuses" if cursor else "family answers", {"family": self.family.name, **facts})
        self.write_down(COLLECTOR, said, {PAUSE: cursor})

    def _remember(self) -> None:
        """Go on with a pause of the run before."""
        said = self.context.cursors.get(self.name, COLLECTOR, PAUSE)
        if said:
            until_ns, refusals = map(int, said.split())
            left_s = (until_ns - self.context.clock.wall_ns()) / 1e9
            if left_s > 0:
                self.family.remember(refusals, left_s)

    def status(self) -> dict[str, Any]:
        """Also how its family is, and over which proxies it is asked."""
        family = self.family
        reach = {
            "family": family.name,
            "refusals": family.refusals,
            "paused_until_ns": family.paused_until_ns,
            "slowed": round(family.slowed, 3),
            **self.ways.status,
        }
        return {**super().status(), "reach": reach}

    async def initialize(self) -> None:
        """One collector."""
        if self.settings.enabled:
            self.register(DeclaredCollector(self))
        await super().initialize()

    async def stop(self) -> None:
        """Stop, and close the client."""
        await super().stop()
        await self.http.close()


def app_of(path: Path) -> type[DeclaredApp]:
    """The App that a file declares; `ConfigError` says what is wrong with it."""
    source = load_declared(path)
    about = source.declared.about or f"{source.kind.name} by {path.name}"
    return type("Declared", (DeclaredApp,), {"name": source.name, "about": about, "source": source, "__doc__": about})
