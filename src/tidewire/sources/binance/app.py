"""The Binance App: clients, limits, the feed that all collectors share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tidewire.collect import (
    App,
    Budgets,
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
from tidewire.errors import ConfigError, InstrumentError, TerminalError, nearest
from tidewire.records.clock import utc
from tidewire.records.instrument import InstrumentBook
from tidewire.sources.binance import wire
from tidewire.sources.binance.collectors import COLLECTORS, BinanceCollector
from tidewire.sources.binance.parse import VENUE, BinanceParser, names_of
from tidewire.sources.binance.past import PAST, has_more

REST_URL = "https://api.binance.com"
STREAM_URL = "wss://stream.binance.com:9443"
WEIGHT_PER_MINUTE = 6_000
WEIGHT_HEADER = "X-MBX-USED-WEIGHT-1M"
STREAMS_MAX = 1_024
SUBSCRIBE_CHUNK = 200


class BinanceApp(App):
    """Binance spot."""

    name = "binance"
    about = "Binance spot: instruments, trades, quotes, tickers, klines."

    def __init__(self, config: SourceConfig, context: Context) -> None:
        super().__init__(config, context)
        self._names: dict[str, str] = {}
        self._base = (config.api.base_url or REST_URL).rstrip("/")
        limit = config.api.rate_limit
        limits = Limits(limit.requests_per_second, limit.burst, WEIGHT_PER_MINUTE)
        headers = {"X-MBX-APIKEY": config.api.key} if config.api.key else {}
        http = HttpConfig(
            weight_header=WEIGHT_HEADER,
            proxy=config.api.proxy or None,
            headers=lambda: headers,
            clock=context.upstream,
        )
        self._http = HttpClient(context.clock, context.rng, http, Budgets(context.clock, limits))
        self._feed: Feed | None = None

    @classmethod
    def make_parser(cls, config: SourceConfig, instruments: InstrumentBook) -> BinanceParser:
        """A parser that knows the instruments of earlier runs."""
        return BinanceParser(instruments.natives(VENUE))

    @classmethod
    def check(cls, config: SourceConfig) -> None:
        """Every collector must be known and its section readable."""
        _sections(config)
        for name, url, schemes in (
            ("base_url", config.api.base_url, ("http", "https")),
            ("ws_url", config.api.ws_url, ("ws", "wss")),
        ):
            if url and (urlsplit(url).scheme not in schemes or not urlsplit(url).netloc):
                raise ConfigError(f"api.{name}: {url!r} is not a URL; write {schemes[1]}://host, or leave it out.")

    # -- life -------------------------------------------------------------------------------------------------

    async def initialize(self) -> None:
        """Load instruments, then prepare the feed with what the collectors want."""
        for name, section in _sections(self.config).items():
            self.register(COLLECTORS[name](name, self, section))
        await super().initialize()
        streams = [stream for collector in self._mine() for stream in collector.streams()]
        if len(streams) > STREAMS_MAX:
            raise ConfigError(f"collectors: {len(streams)} streams; one connection carries {STREAMS_MAX}.")
        if streams:
            carried = [stream for collector in self._mine() for stream in collector.carried()]
            url = (self.config.api.ws_url or _stream_url(self._base)).rstrip("/") + "/stream"
            config = WsConfig(name=self.name, proxy=self.config.api.proxy or None)
            self._feed = Feed(
                self.name, url, self.context, config, subscribe=lambda ws: _subscribe(ws, streams), carries=carried
            )

    async def start(self) -> None:
        """Collectors first, then the feed."""
        await super().start()
        if self._feed is not None:
            self._feed.start()

    async def stop(self) -> None:
        """Feed first: nothing may arrive for collectors that stopped."""
        if self._feed is not None:
            await self._feed.stop()
        await super().stop()
        await self._http.close()

    def health(self) -> Health:
        """A feed that should be up and is not is a problem of its own."""
        health = super().health()
        if self._feed is None or health.state == "stopped" or self._feed.connected:
            return health
        problem = f"stream: not connected: {self._feed.last_error or 'connecting'}"
        state = "degraded" if self._feed.last_frame_ns else "starting" if not self._feed.last_error else "down"
        return Health(state, (*health.problems, problem))

    def status(self) -> dict[str, Any]:
        """Adds the feed."""
        last = self._feed.last_frame_ns if self._feed else None
        feed = {
            "connected": self._feed.connected if self._feed else False,
            "last_frame": utc(last).isoformat() if last else None,
            "connections": self._feed.client.connects if self._feed else 0,
        }
        return {**super().status(), "feed": feed}

    # -- gaps -------------------------------------------------------------------------------------------------

    def fills(self, record_type: str) -> bool:
        """Trades by id, bars by time; the best price of a moment that is over is nowhere to be had."""
        return record_type in PAST

    async def fill(self, missing: Missing) -> int:
        """Ask for what is missing; the last frame kept."""
        return await PAST[missing.record_type](self, self._native_of(missing.instrument), missing)

    # -- streams ----------------------------------------------------------------------------------------------

    def expects(self) -> Sequence[Expected]:
        """Every stream of the feed."""
        return [expected for collector in self._mine() for expected in collector.expects()]

    async def probe(self, expected: Expected, last: Mapping[str, Any] | None) -> bool:
        """Whether Binance has more of a stream than it brought."""
        return await has_more(self, self._native_of(expected.instrument), expected, last)

    def reconnect(self, reason: str) -> None:
        """A new connection subscribes to everything anew."""
        if self._feed is not None:
            self._feed.reconnect(reason)

    # -- for the collectors -----------------------------------------------------------------------------------

    async def ask(
        self, endpoint: str, params: Mapping[str, str] | None = None, *, weight: int, background: bool = False
    ) -> Reply:
        """A REST call under the budget; one that can wait in the background."""
        url = f"{self._base}/api/v3/{endpoint}"
        return await self._http.get(url, params, weight=weight, background=background)

    def learn(self, body: bytes) -> None:
        """Take in an instrument list."""
        self._names = names_of(msgspec.json.decode(body, type=wire.ExchangeInfo))
        for native, instrument in self._names.items():
            self.context.instruments.add(instrument, native)

    def native(self, spelling: str) -> str:
        """Binance's spelling of a symbol written in any way; `ConfigError` with the nearest valid one."""
        try:
            wanted = self.context.instruments.resolve(spelling)
        except InstrumentError:
            wanted = ""
        by_name = {instrument: native for native, instrument in self._names.items()}
        for candidate in (wanted, f"{wanted.rpartition('.')[0]}.{VENUE}"):
            if candidate in by_name:
                return by_name[candidate]
        bare = spelling.upper().replace("/", "").replace("-", "")
        if bare in self._names:
            return bare
        raise ConfigError(f"symbols: Binance has no {spelling!r}.{nearest(bare, self._names)} Write e.g. BTCUSDT.")

    def instrument(self, native: str) -> str:
        """Canonical id of Binance's spelling."""
        return self._names[native]

    def _native_of(self, instrument: str) -> str:
        for native, known in self._names.items():
            if known == instrument:
                return native
        raise TerminalError(f"Binance does not list {instrument} any more")

    def _mine(self) -> list[BinanceCollector]:
        return [collector for collector in self.list() if isinstance(collector, BinanceCollector)]


def _sections(config: SourceConfig) -> dict[str, Section]:
    """The enabled collectors' sections; instruments are always collected, everything needs them."""
    sections: dict[str, Section] = {}
    for name, data in {"instrument": {}, **config.collectors}.items():
        if name not in COLLECTORS:
            valid = ", ".join(COLLECTORS)
            raise ConfigError(f"collectors.{name}: no such collector.{nearest(name, COLLECTORS)} Valid: {valid}.")
        where = f"collectors.{name}"
        section = read(data or {}, COLLECTORS[name].Config, where)
        if getattr(section, "enabled", True):
            sections[name] = section
    return sections


def _stream_url(base: str) -> str:
    """Binance's own stream host for its own REST host; a mirror or sandbox serves both on one."""
    if base == REST_URL:
        return STREAM_URL
    parts = urlsplit(base)
    return f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.netloc}"


def _subscribe(client: WsClient, streams: list[str]) -> None:
    """Ask for all streams, a few messages at most: five a second are allowed."""
    for begin in range(0, len(streams), SUBSCRIBE_CHUNK):
        chunk = streams[begin : begin + SUBSCRIBE_CHUNK]
        message = {"method": "SUBSCRIBE", "params": chunk, "id": begin // SUBSCRIBE_CHUNK + 1}
        client.send_text(msgspec.json.encode(message).decode())
