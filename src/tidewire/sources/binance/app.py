"""The Binance App: clients, limits, the feeds that all collectors share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec

from tidewire import telemetry
from tidewire.collect import (
    App,
    Budgets,
    Carried,
    Context,
    Expected,
    FeedPool,
    Health,
    HttpClient,
    HttpConfig,
    Limits,
    Missing,
    PoolConfig,
    Reply,
    Section,
    SourceConfig,
    WsClient,
    WsConfig,
    read,
    seconds,
)
from tidewire.errors import ConfigError, TransientError, nearest
from tidewire.records.clock import utc
from tidewire.records.instrument import InstrumentBook
from tidewire.sources.binance.collectors import (
    AggTradeCollector,
    BinanceCollector,
    InstrumentCollector,
    KlineCollector,
    QuoteCollector,
    TickerCollector,
    TradeCollector,
)
from tidewire.sources.binance.listing import Listing
from tidewire.sources.binance.markets import SPOT, Market
from tidewire.sources.binance.order_book import OrderBookCollector
from tidewire.sources.binance.parse import FORMS, SHUTDOWN, BinanceParser, Form
from tidewire.sources.binance.past import PAST, has_more

SUBSCRIBE_CHUNK = 200

_log = telemetry.log("sources")

COLLECTORS: dict[str, type[BinanceCollector]] = {
    "instrument": InstrumentCollector,
    "trade": TradeCollector,
    "agg_trade": AggTradeCollector,
    "quote": QuoteCollector,
    "ticker": TickerCollector,
    "kline": KlineCollector,
    "order_book": OrderBookCollector,
}


class BinanceApp(App):
    """Binance spot."""

    name = "binance"
    about = "Binance spot: instruments, trades, aggregated trades, quotes, tickers, klines, order books."
    market: ClassVar[Market] = SPOT
    collectors: ClassVar[Mapping[str, type[BinanceCollector]]] = COLLECTORS
    forms: ClassVar[Mapping[str, Form[Any]]] = FORMS

    def __init__(self, config: SourceConfig, context: Context) -> None:
        super().__init__(config, context)
        self.listing = Listing(self.market, context.instruments, context.clock)
        self._base = (config.api.base_url or self.market.rest_url).rstrip("/")
        limit = config.api.rate_limit
        limits = Limits(limit.requests_per_second, limit.burst, self.market.weight_per_minute)
        headers = {"X-MBX-APIKEY": config.api.key} if config.api.key else {}
        http = HttpConfig(
            weight_header=self.market.weight_header,
            proxy=config.api.proxy or None,
            headers=lambda: headers,
            clock=context.upstream,
        )
        self._http = HttpClient(context.clock, context.rng, http, Budgets(context.clock, limits))
        self._pools: dict[str, FeedPool] = {}

    @classmethod
    def make_parser(cls, config: SourceConfig, instruments: InstrumentBook) -> BinanceParser:
        """A parser that knows the instruments of earlier runs."""
        return BinanceParser(instruments.natives(cls.market.venue), cls.market, cls.forms)

    @classmethod
    def check(cls, config: SourceConfig) -> None:
        """Every collector must be known and its section readable."""
        cls._sections(config)
        config.api.plain(cls.name)
        for name, url, schemes in (
            ("base_url", config.api.base_url, ("http", "https")),
            ("ws_url", config.api.ws_url, ("ws", "wss")),
        ):
            if url and (urlsplit(url).scheme not in schemes or not urlsplit(url).netloc):
                raise ConfigError(f"api.{name}: {url!r} is not a URL; write {schemes[1]}://host, or leave it out.")

    # -- life -------------------------------------------------------------------------------------------------

    async def initialize(self) -> None:
        """Load instruments, then prepare connections to each place that has streams the collectors want."""
        for name, section in self._sections(self.config).items():
            self.register(self.collectors[name](name, self, section))
        await super().initialize()
        base = (self.config.api.ws_url or self.market.stream_base(self._base)).rstrip("/")
        self._pools = {path: self._pool(base, path) for path in self._wanted()}
        self._subscribe()

    def _pool(self, base: str, path: str) -> FeedPool:
        return FeedPool(
            self.name,
            base + path,
            self.context,
            StreamRequests(),
            ws=WsConfig(name=self.name + path.removesuffix("/stream"), proxy=self.config.api.proxy or None),
            config=PoolConfig(
                streams_max=self.config.api.streams_per_connection,
                age_s=seconds(self.config.api.connection_age, "api.connection_age"),
                farewells=SHUTDOWN,
            ),
            carried=self._carried,
            lost=self._lost,
        )

    def _wanted(self) -> dict[str, list[str]]:
        """The streams that the collectors want, by the path under which they are served."""
        wanted: dict[str, list[str]] = {}
        for collector in self._mine():
            for stream in collector.streams():
                wanted.setdefault(self.market.path_of(stream), []).append(stream)
        return wanted

    def _subscribe(self) -> None:
        wanted = self._wanted()
        for path, pool in self._pools.items():
            pool.want(wanted.get(path, ()))

    async def start(self) -> None:
        """Collectors first, then the connections."""
        await super().start()
        for pool in self._pools.values():
            pool.start()

    async def stop(self) -> None:
        """Connections first: nothing may arrive for collectors that stopped."""
        for pool in self._pools.values():
            await pool.stop()
        await super().stop()
        await self._http.close()

    def health(self) -> Health:
        """A connection that should be up and is not is a problem of its own."""
        health = super().health()
        lost = {} if health.state == "stopped" else {p: pool for p, pool in self._pools.items() if not pool.connected}
        if not lost:
            return health
        problems = [
            f"stream{path.removesuffix('/stream')}: not connected: {pool.last_error or 'connecting'}"
            for path, pool in lost.items()
        ]
        state = "degraded" if any(pool.last_frame_ns for pool in self._pools.values()) else "down"
        if state == "down" and not any(pool.last_error for pool in lost.values()):
            state = "starting"
        return Health(state, (*health.problems, *problems))

    def status(self) -> dict[str, Any]:
        """Adds the connections, taken together."""
        pools = self._pools.values()
        last = self.last_frame_ns
        feed = {
            "connected": bool(pools) and all(pool.connected for pool in pools),
            "last_frame": utc(last).isoformat() if last else None,
            "connections": sum(pool.connects for pool in pools),
            "streams": [size for pool in pools for size in pool.sizes],
        }
        return {**super().status(), "feed": feed}

    def _lost(self, streams: Sequence[str]) -> None:
        for collector in self._mine():
            mine = set(streams) & set(collector.streams())
            if mine:
                collector.lost(sorted(stream.partition("@")[0].upper() for stream in mine))

    def _carried(self, streams: Sequence[str]) -> list[Carried]:
        carried = {stream: each for collector in self._mine() for stream, each in collector.carried().items()}
        return [each for stream in streams for each in carried.get(stream, ())]

    @property
    def last_frame_ns(self) -> int | None:
        """When the last message of any connection came."""
        return max((pool.last_frame_ns or 0 for pool in self._pools.values()), default=0) or None

    # -- gaps -------------------------------------------------------------------------------------------------

    def fills(self, record_type: str) -> bool:
        """Trades and aggregates by id, bars by time; the best price of a moment that is over is nowhere to be had."""
        return record_type in PAST

    async def fill(self, missing: Missing) -> int:
        """Ask for what is missing; the last frame kept. What history brings is not asked for a second time."""
        for collector in self._mine():
            if collector.kind == missing.record_type and collector.loads(missing):
                raise TransientError(f"history of {missing.instrument} is being loaded")
        return await PAST[missing.record_type](self, self.listing.native_of(missing.instrument), missing)

    # -- streams ----------------------------------------------------------------------------------------------

    def expects(self) -> Sequence[Expected]:
        """Every stream of a symbol that is traded."""
        every = (expected for collector in self._mine() for expected in collector.expects())
        return [expected for expected in every if self.listing.is_traded(expected.instrument)]

    async def probe(self, expected: Expected, last: Mapping[str, Any] | None) -> bool:
        """Whether Binance has more of a stream than it brought."""
        return await has_more(self, self.listing.native_of(expected.instrument), expected, last)

    def reconnect(self, reason: str, silent: Sequence[Expected] = ()) -> None:
        """New connections subscribe to everything anew; only those that carry a stream of what is silent."""
        symbols = {self.listing.native_of(expected.instrument).lower() for expected in silent}
        for path, streams in self._wanted().items():
            found = [stream for stream in streams if stream.partition("@")[0] in symbols]
            if found or not silent:
                self._pools[path].reconnect(reason, found)

    # -- for the collectors -----------------------------------------------------------------------------------

    async def ask(
        self,
        endpoint: str,
        params: Mapping[str, str] | None = None,
        *,
        weight: int | None = None,
        background: bool = False,
    ) -> Reply:
        """A REST call under the budget; one that can wait in the background. ``weight``: other than the market says."""
        url = f"{self._base}{self.market.prefix}/{endpoint}"
        weight = self.market.weight(endpoint, params or {}) if weight is None else weight
        return await self._http.get(url, params, weight=weight, background=background)

    async def refresh(self) -> None:
        """Ask for the instrument list again."""
        for collector in self._mine():
            if isinstance(collector, InstrumentCollector):
                await collector.fetch()

    def learn(self, body: bytes) -> None:
        """Take in an instrument list: what is new among it is collected, what is gone no more."""
        self.listing.learn(body)
        if (weight := self.listing.weight_per_minute) is not None:
            self._http.allow(self._base, weight)
        if not self._pools:
            return
        changed = [(collector, *collector.look_again()) for collector in self._mine()]
        self._subscribe()
        for collector, came, went in changed:
            if came or went:
                facts = {"collector": collector.name, "listed": came, "delisted": went}
                _log.info("listing changed", source=self.name, **facts)
                self.tell(f"collector.{self.name}.listing", facts)
            if came:
                collector.listed(came)

    def is_live(self) -> bool:
        """Whether all feeds are up."""
        return all(pool.connected for pool in self._pools.values())

    def instrument(self, native: str) -> str:
        """Canonical id of Binance's spelling."""
        return self.listing.instrument(native)

    def instruments(self) -> list[str]:
        """Canonical ids of all that is listed."""
        return self.listing.instruments()

    @classmethod
    def _sections(cls, config: SourceConfig) -> dict[str, Section]:
        """The enabled collectors' sections; instruments are always collected, everything needs them."""
        sections: dict[str, Section] = {}
        for name, data in {"instrument": {}, **config.collectors}.items():
            if name not in cls.collectors:
                valid = ", ".join(cls.collectors)
                raise ConfigError(
                    f"collectors.{name}: no such collector.{nearest(name, cls.collectors)} Valid: {valid}."
                )
            section = read(data or {}, cls.collectors[name].Config, f"collectors.{name}")
            if getattr(section, "enabled", True):
                sections[name] = section
        return sections

    def _mine(self) -> list[BinanceCollector]:
        return [collector for collector in self.list() if isinstance(collector, BinanceCollector)]


class StreamRequests:
    """How Binance is asked for streams: a few messages at most, five a second are allowed."""

    def __init__(self) -> None:
        self._ident = 0

    def subscribe(self, client: WsClient, streams: Sequence[str]) -> None:
        """Ask for all of them."""
        self._say(client, "SUBSCRIBE", streams)

    def unsubscribe(self, client: WsClient, streams: Sequence[str]) -> None:
        """Give them up."""
        self._say(client, "UNSUBSCRIBE", streams)

    def _say(self, client: WsClient, method: str, streams: Sequence[str]) -> None:
        for begin in range(0, len(streams), SUBSCRIBE_CHUNK):
            self._ident += 1
            message = {"method": method, "params": streams[begin : begin + SUBSCRIBE_CHUNK], "id": self._ident}
            client.send_text(msgspec.json.encode(message).decode())
