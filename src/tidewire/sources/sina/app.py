"""The Sina App: quotes of the whole market over a few WebSockets, in trading hours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from tidewire import telemetry
from tidewire.collect import (
    App,
    Carried,
    Collector,
    Every,
    FeedPool,
    Health,
    PoolConfig,
    Section,
    SourceConfig,
    Window,
    WsClient,
    WsConfig,
    read,
    seconds,
)
from tidewire.errors import ConfigError, InputError
from tidewire.records.clock import utc
from tidewire.records.instrument import InstrumentBook
from tidewire.sources.declared.grammar import Ref
from tidewire.sources.declared.steps import compiled
from tidewire.sources.declared.values import stored_values
from tidewire.sources.sina.parse import SinaParser, lines

URL = "wss://hq.sinajs.cn"
ORIGIN = "https://finance.sina.com.cn"
"""Without it the site refuses."""
SHANGHAI = "Asia/Shanghai"
CODES = "codes"
"""What the file calls the symbols it asks for."""
LOOK_S = 5.0
LISTED_S = 600.0
"""So long what is listed is not looked at again."""

# By its letters and first digits a spelling says that it is an index, which has no quote and no book.
INDICES = ("sh000", "sz399", "bj899")

_log = telemetry.log("sources")
_spelt = compiled("cn_symbol", ["sh600000"], "sina")
_canonical = compiled("cn_symbol", [], "sina")


class Quotes(Section, frozen=True):
    """What ``collectors: quotes:`` may say.

    ``symbols`` in any spelling that names its exchange; without any, all stocks and indices of China that are stored,
    and until there are some the main indices. It is connected ``between`` these local times: outside them nothing is
    pushed, and what does not come would be taken for a gap. A connection that says nothing for ``silence`` is made
    anew; each carries up to ``per_connection`` symbols.
    """

    enabled: bool = True
    symbols: Sequence[str] = ()
    between: Sequence[str] = ("09:10-11:35", "12:55-15:35")
    silence: str = "60s"
    per_connection: Annotated[int, msgspec.Meta(ge=1, le=800)] = 500


class SinaApp(App):
    """Sina's quotes."""

    name = "sina"
    about = "Sina's WebSocket: last prices, best bid and ask, five levels of the book of A-shares, about each 3 s."

    @classmethod
    def make_parser(cls, config: SourceConfig, instruments: InstrumentBook) -> SinaParser:
        """Every line says what it is about."""
        return SinaParser()

    @classmethod
    def check(cls, config: SourceConfig) -> None:
        """Its one section must be readable."""
        _section(config)
        url = config.api.ws_url
        if url and (urlsplit(url).scheme not in ("ws", "wss") or not urlsplit(url).netloc):
            raise ConfigError(f"api.ws_url: {url!r} is not a URL; write wss://host, or leave it out.")

    async def initialize(self) -> None:
        """One collector."""
        section = _section(self.config)
        if section.enabled:
            self.register(QuoteCollector(self, section))
        await super().initialize()

    def health(self) -> Health:
        """A connection that should be up and is not is a problem of its own."""
        health = super().health()
        pools = [pool for each in self._mine() for pool in each.pools]
        lost = [pool for pool in pools if not pool.connected]
        if health.state == "stopped" or not lost:
            return health
        problems = [f"{len(lost)} of {len(pools)} connections: {lost[0].last_error or 'connecting'}"]
        state = "degraded" if any(pool.last_frame_ns for pool in pools) else "down"
        if state == "down" and not any(pool.last_error for pool in lost):
            state = "starting"
        return Health(state, (*health.problems, *problems))

    def status(self) -> dict[str, Any]:
        """Adds the connections, taken together."""
        pools = [pool for each in self._mine() for pool in each.pools]
        last = max((pool.last_frame_ns or 0 for pool in pools), default=0)
        feed = {
            "connected": bool(pools) and all(pool.connected for pool in pools),
            "last_frame": utc(last).isoformat() if last else None,
            "connections": sum(pool.connects for pool in pools),
            "streams": [size for pool in pools for size in pool.sizes],
        }
        return {**super().status(), "feed": feed}

    def _mine(self) -> list[QuoteCollector]:
        return [each for each in self.list() if isinstance(each, QuoteCollector)]


class QuoteCollector(Collector):
    """Connections in trading hours, each with the symbols in its address: the site is not told of others later."""

    def __init__(self, app: SinaApp, config: Quotes) -> None:
        super().__init__("quotes", app)
        self._config = config
        self._windows = [Window(each, SHANGHAI) for each in config.between]
        self._codes: dict[str, None] = {}
        self._looked_ns: int | None = None
        self._numbers = 0
        self.pools: list[FeedPool] = []

    async def initialize(self) -> None:
        """A look each few seconds whether it should be connected, and to what."""
        self.add_timer("look", Every(LOOK_S), self.look, run_at_start=True)

    async def stop(self) -> None:
        """No timer first, so that nothing connects again."""
        await super().stop()
        await self._disconnect()

    async def look(self) -> None:
        """Connect in trading hours to what is listed, and disconnect after them."""
        now_ns = self.app.context.clock.wall_ns()
        if not any(window.contains(now_ns) for window in self._windows):
            await self._disconnect()
            return
        codes = await self._wanted()
        new = [code for code in codes if code not in self._codes]
        # What is not listed any more stays until the end of the session: it says nothing, and costs nothing.
        self._codes.update(dict.fromkeys(new))
        size = min(self._config.per_connection, self.app.config.api.streams_per_connection)
        is_first = not self._numbers
        for begin in range(0, len(new), size):
            self._connect(new[begin : begin + size], is_first=is_first)
        last_ns = max((pool.last_frame_ns or 0 for pool in self.pools), default=0)
        if last_ns:
            self.heard(last_ns)

    async def _wanted(self) -> list[str]:
        if self._config.symbols:
            return [_spelt(each) for each in self._config.symbols]
        now_ns = self.app.context.clock.mono_ns()
        if self._looked_ns is not None and now_ns - self._looked_ns < LISTED_S * 1e9:
            return list(self._codes)
        declared = lines().declared
        found = (await stored_values(declared, {}, self.app.context.known))[CODES]
        said = declared.for_each[CODES]
        if not isinstance(said, Ref) or list(found) != list(said.default):  # until then it is looked again, soon
            self._looked_ns = now_ns
        return [_spelt(each) for each in found]

    def _connect(self, codes: Sequence[str], *, is_first: bool) -> None:
        self._numbers += 1
        api = self.app.config.api
        base = (api.ws_url or URL).rstrip("/")
        pool = FeedPool(
            self.app.name,
            f"{base}/wskt?list={','.join(codes)}",
            self.app.context,
            InAddress(),
            ws=WsConfig(
                name=self.app.name,
                silence_s=seconds(self._config.silence, "collectors.quotes.silence"),
                headers=lambda: {"Origin": ORIGIN},
                proxy=api.proxy or None,
            ),
            config=PoolConfig(
                streams_max=len(codes), age_s=seconds(api.connection_age, "api.connection_age"), overlap_s=10.0
            ),
            carried=_carried,
            label=f"{base}/wskt {self._numbers}",
        )
        if is_first:  # what is wanted before the start may have been missed while the platform was down
            pool.want(codes)
            pool.start()
        else:
            pool.start()
            pool.want(codes)
        self.pools.append(pool)
        _log.info("connecting", source=self.app.name, symbols=len(codes))

    async def _disconnect(self) -> None:
        pools, self.pools, self._codes, self._looked_ns = self.pools, [], {}, None
        for pool in pools:
            await pool.stop()


class InAddress:
    """Everything is asked for in the address."""

    def subscribe(self, client: WsClient, streams: Sequence[str]) -> None:
        """Nothing is to be said."""

    def unsubscribe(self, client: WsClient, streams: Sequence[str]) -> None:
        """Nothing can be said."""


def _carried(codes: Sequence[str]) -> list[Carried]:
    """Neither numbers nor a grid show what is missing of any of it."""
    return [
        Carried(kind, _canonical(code))
        for code in codes
        for kind in (("ticker",) if code.startswith(INDICES) else ("ticker", "quote", "order_book"))
    ]


def _section(config: SourceConfig) -> Quotes:
    for name in config.collectors.keys() - {"quotes"}:
        raise ConfigError(f"collectors.{name}: sina has one collector, quotes.")
    section = read(config.collectors.get("quotes", {}), Quotes, "collectors.quotes")
    seconds(section.silence, "collectors.quotes.silence")
    for place, each in enumerate(section.symbols):
        try:
            _spelt(each)
        except ValueError as error:
            raise ConfigError(f"collectors.quotes.symbols[{place}]: {error}.") from None
    for place, each in enumerate(section.between):
        try:
            Window(each, SHANGHAI)
        except InputError as error:
            raise ConfigError(f"collectors.quotes.between[{place}]: {error}") from None
    if not section.between:
        raise ConfigError("collectors.quotes.between: write at least one window, such as 09:10-15:35.")
    return section
