"""The Binance App: clients, limits, the feeds that all collectors share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec

from tidewire.collect import (
    App,
    Budgets,
    Carried,
    Context,
    Expected,
    Feed,
    Health,
    HttpClient,
    HttpConfig,
    Limits,
    Missing,
    Reply,
    Section,
    SourceConfig,
    WsClient,
    WsConfig,
    read,
)
from tidewire.errors import ConfigError, InstrumentError, TerminalError, TransientError, nearest
from tidewire.records.clock import utc
from tidewire.records.instrument import InstrumentBook
from tidewire.sources.binance import wire
from tidewire.sources.binance.collectors import (
    AggTradeCollector,
    BinanceCollector,
    InstrumentCollector,
    KlineCollector,
    QuoteCollector,
    TickerCollector,
    TradeCollector,
)
from tidewire.sources.binance.markets import SPOT, Market
from tidewire.sources.binance.order_book import OrderBookCollector
from tidewire.sources.binance.parse import FORMS, BinanceParser, Form, names_of
from tidewire.sources.binance.past import PAST, has_more

STREAMS_MAX = 1_024
SUBSCRIBE_CHUNK = 200

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
        self._names: dict[str, str] = {}
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
        self._feeds: dict[str, Feed] = {}

    @classmethod
    def make_parser(cls, config: SourceConfig, instruments: InstrumentBook) -> BinanceParser:
        """A parser that knows the instruments of earlier runs."""
        return BinanceParser(instruments.natives(cls.market.venue), cls.market, cls.forms)

    @classmethod
    def check(cls, config: SourceConfig) -> None:
        """Every collector must be known and its section readable."""
        cls._sections(config)
        for name, url, schemes in (
            ("base_url", config.api.base_url, ("http", "https")),
            ("ws_url", config.api.ws_url, ("ws", "wss")),
        ):
            if url and (urlsplit(url).scheme not in schemes or not urlsplit(url).netloc):
                raise ConfigError(f"api.{name}: {url!r} is not a URL; write {schemes[1]}://host, or leave it out.")

    # -- life -------------------------------------------------------------------------------------------------

    async def initialize(self) -> None:
        """Load instruments, then prepare a feed for each place that has streams the collectors want."""
        for name, section in self._sections(self.config).items():
            self.register(self.collectors[name](name, self, section))
        await super().initialize()
        wanted: dict[str, list[str]] = {}
        carried: dict[str, list[Carried]] = {}
        for collector in self._mine():
            streams = collector.streams()
            for stream in streams:
                wanted.setdefault(self.market.path_of(stream), []).append(stream)
            if streams:
                carried.setdefault(self.market.path_of(streams[0]), []).extend(collector.carried())
        base = (self.config.api.ws_url or self.market.stream_base(self._base)).rstrip("/")
        self._feeds = {path: self._feed(base, path, streams, carried[path]) for path, streams in wanted.items()}

    def _feed(self, base: str, path: str, streams: list[str], carried: list[Carried]) -> Feed:
        if len(streams) > STREAMS_MAX:
            raise ConfigError(f"collectors: {len(streams)} streams; one connection carries {STREAMS_MAX}.")
        name = self.name + path.removesuffix("/stream")
        config = WsConfig(name=name, proxy=self.config.api.proxy or None)
        return Feed(
            self.name,
            base + path,
            self.context,
            config,
            subscribe=lambda ws: _subscribe(ws, streams),
            carries=carried,
            lost=lambda: self._lost(streams),
        )

    async def start(self) -> None:
        """Collectors first, then the feeds."""
        await super().start()
        for feed in self._feeds.values():
            feed.start()

    async def stop(self) -> None:
        """Feeds first: nothing may arrive for collectors that stopped."""
        for feed in self._feeds.values():
            await feed.stop()
        await super().stop()
        await self._http.close()

    def health(self) -> Health:
        """A feed that should be up and is not is a problem of its own."""
        health = super().health()
        lost = {} if health.state == "stopped" else {p: feed for p, feed in self._feeds.items() if not feed.connected}
        if not lost:
            return health
        problems = [
            f"stream{path.removesuffix('/stream')}: not connected: {feed.last_error or 'connecting'}"
            for path, feed in lost.items()
        ]
        state = "degraded" if any(feed.last_frame_ns for feed in self._feeds.values()) else "down"
        if state == "down" and not any(feed.last_error for feed in lost.values()):
            state = "starting"
        return Health(state, (*health.problems, *problems))

    def status(self) -> dict[str, Any]:
        """Adds the feeds, taken together."""
        feeds = self._feeds.values()
        last = max((feed.last_frame_ns or 0 for feed in feeds), default=0)
        feed = {
            "connected": bool(feeds) and all(feed.connected for feed in feeds),
            "last_frame": utc(last).isoformat() if last else None,
            "connections": sum(feed.client.connects for feed in feeds),
        }
        return {**super().status(), "feed": feed}

    def _lost(self, streams: Sequence[str]) -> None:
        for collector in self._mine():
            mine = set(streams) & set(collector.streams())
            if mine:
                collector.lost(sorted(stream.partition("@")[0].upper() for stream in mine))

    @property
    def last_frame_ns(self) -> int | None:
        """When the last message of any feed came."""
        return max((feed.last_frame_ns or 0 for feed in self._feeds.values()), default=0) or None

    # -- gaps -------------------------------------------------------------------------------------------------

    def fills(self, record_type: str) -> bool:
        """Trades and aggregates by id, bars by time; the best price of a moment that is over is nowhere to be had."""
        return record_type in PAST

    async def fill(self, missing: Missing) -> int:
        """Ask for what is missing; the last frame kept. What history brings is not asked for a second time."""
        for collector in self._mine():
            if collector.kind == missing.record_type and collector.loads(missing):
                raise TransientError(f"history of {missing.instrument} is being loaded")
        return await PAST[missing.record_type](self, self.native_of(missing.instrument), missing)

    # -- streams ----------------------------------------------------------------------------------------------

    def expects(self) -> Sequence[Expected]:
        """Every stream of the feed."""
        return [expected for collector in self._mine() for expected in collector.expects()]

    async def probe(self, expected: Expected, last: Mapping[str, Any] | None) -> bool:
        """Whether Binance has more of a stream than it brought."""
        return await has_more(self, self.native_of(expected.instrument), expected, last)

    def reconnect(self, reason: str) -> None:
        """New connections subscribe to everything anew."""
        for feed in self._feeds.values():
            feed.reconnect(reason)

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

    def learn(self, body: bytes) -> None:
        """Take in an instrument list."""
        info = msgspec.json.decode(body, type=wire.ExchangeInfo)
        self._names = names_of(info, self.market)
        if (weight := info.weight_per_minute()) is not None:
            self._http.allow(self._base, weight)
        for native, instrument in self._names.items():
            self.context.instruments.add(instrument, native)

    def native(self, spelling: str) -> str:
        """Binance's spelling of a symbol written in any way; `ConfigError` with the nearest valid one."""
        try:
            wanted = self.context.instruments.resolve(spelling)
        except InstrumentError:
            wanted = ""
        by_name = {instrument: native for native, instrument in self._names.items()}
        for candidate in (wanted, f"{wanted.rpartition('.')[0]}.{self.market.venue}"):
            if candidate in by_name:
                return by_name[candidate]
        bare = spelling.upper().replace("/", "").replace("-", "")
        if bare in self._names:
            return bare
        example = "BTCUSD_PERP" if self.market.inverse else "BTCUSDT"
        raise ConfigError(f"symbols: Binance has no {spelling!r}.{nearest(bare, self._names)} Write e.g. {example}.")

    def is_live(self) -> bool:
        """Whether all feeds are up."""
        return all(feed.connected for feed in self._feeds.values())

    def instrument(self, native: str) -> str:
        """Canonical id of Binance's spelling."""
        return self._names[native]

    def instruments(self) -> list[str]:
        """Canonical ids of all that is listed."""
        return list(self._names.values())

    def native_of(self, instrument: str) -> str:
        """Binance's spelling of an instrument; `TerminalError` for one it does not list."""
        for native, known in self._names.items():
            if known == instrument:
                return native
        raise TerminalError(f"Binance does not list {instrument} any more")

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


def _subscribe(client: WsClient, streams: list[str]) -> None:
    """Ask for all streams, a few messages at most: five a second are allowed."""
    for begin in range(0, len(streams), SUBSCRIBE_CHUNK):
        chunk = streams[begin : begin + SUBSCRIBE_CHUNK]
        message = {"method": "SUBSCRIBE", "params": chunk, "id": begin // SUBSCRIBE_CHUNK + 1}
        client.send_text(msgspec.json.encode(message).decode())
