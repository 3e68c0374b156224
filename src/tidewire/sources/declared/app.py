"""Running a declared source: one App with one collector, made from its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit, urlunsplit

from tidewire.collect import (
    Allowed,
    App,
    Context,
    Families,
    Family,
    GapTold,
    HttpClient,
    HttpConfig,
    Section,
    SourceConfig,
    read,
    seconds,
)
from tidewire.errors import ConfigError
from tidewire.records.clock import Clock, Rng, UpstreamClock
from tidewire.records.instrument import InstrumentBook
from tidewire.sources.declared.auth import credentials
from tidewire.sources.declared.collector import DeclaredCollector
from tidewire.sources.declared.outages import CAUSES
from tidewire.sources.declared.parse import DeclaredParser
from tidewire.sources.declared.reading import load_declared, per_second
from tidewire.sources.declared.source import Source

# What people's browsers send: many sites answer nobody else.
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36"


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
        self.http = self.client(config, context.clock, context.rng, context.families, context.upstream)
        self.family = self._family(context.families, context.clock)
        self.credentials = credentials(self.source.declared.request.auth, config.api, context.secret, self.name)

    @classmethod
    def _family(cls, families: Families, clock: Clock) -> Family:
        declared = cls.source.declared
        host = urlsplit(declared.request.get or declared.request.post).hostname or ""
        limits = declared.limits
        allowed = Allowed(per_second(limits.rate, "limits.rate"), limits.concurrency, limits.adapt)
        return families.of(declared.limits.share or host, clock, allowed)

    @classmethod
    def client(
        cls, config: SourceConfig, clock: Clock, rng: Rng, families: Families, upstream: UpstreamClock | None = None
    ) -> HttpClient:
        """The client of this source, within the limits of its family."""
        http = HttpConfig(
            total_timeout_s=seconds(cls.source.declared.request.timeout, "request.timeout"),
            user_agent=BROWSER,
            proxy=config.api.proxy or None,
            clock=upstream,
            # Trying again at once is what a site that blocks is waiting for: the family's breaker sets the pace.
            attempts=1,
        )
        return HttpClient(clock, rng, http, cls._family(families, clock))

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
