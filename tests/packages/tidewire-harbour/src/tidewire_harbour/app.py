"""The App of Harbour and its collectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from tidewire.collect import (
    App,
    BookSettings,
    Budgets,
    Carried,
    Collector,
    Context,
    Every,
    Expected,
    FeedPool,
    Health,
    HttpClient,
    HttpConfig,
    Limits,
    Missing,
    Reply,
    SourceConfig,
    doubt_note,
    seconds,
    settings_note,
    time_note,
    unreadable,
)
from tidewire.errors import ConfigError, TerminalError
from tidewire.records.event import Event
from tidewire.records.instrument import InstrumentBook, canonical
from tidewire_harbour import wire
from tidewire_harbour.config import Instruments, OrderBooks, Streamed, collectors
from tidewire_harbour.feed import PING_S, WS, HarbourDialect, pool_config
from tidewire_harbour.parser import REFUSED, SNAPSHOT, HarbourParser

BASE_URL = "http://127.0.0.1:8701"
# 20 requests in any 2 seconds: what went at once and what came since.
REQUESTS_PER_SECOND = 5.0
REQUESTS_AT_ONCE = 8
PAGE = 500
# Record type, which is the collector's name too, and channel.
CHANNELS = {"trade": "trades", "quote": "bbo", "order_book": "book"}


T = TypeVar("T")


class Harbour(App):
    """Found by its ``name``."""

    name = wire.SOURCE
    about = "Harbour, the exchange of the sandbox: instruments, trades, quotes, order books."

    def __init__(self, config: SourceConfig, context: Context) -> None:
        super().__init__(config, context)
        self._base = (config.api.base_url or BASE_URL).rstrip("/")
        rate = config.api.rate_limit
        limits = Limits(min(rate.requests_per_second, REQUESTS_PER_SECOND), min(rate.burst, REQUESTS_AT_ONCE))
        self._http = HttpClient(
            context.clock, context.rng, HttpConfig(proxy=config.api.proxy or None), Budgets(context.clock, limits)
        )
        self._dialect = HarbourDialect()
        self._pool: FeedPool | None = None
        self._natives: dict[str, str] = {}
        self._streams: dict[str, StreamCollector] = {}

    @classmethod
    def make_parser(cls, config: SourceConfig, instruments: InstrumentBook) -> HarbourParser:
        """Frames to rows; it needs neither configuration nor instruments."""
        return HarbourParser()

    @classmethod
    def check(cls, config: SourceConfig) -> None:
        """Refuse what cannot work."""
        collectors(config)
        seconds(config.api.connection_age, "api.connection_age")

    async def initialize(self) -> None:
        """Load the instruments, then make what the file asks for."""
        wanted = collectors(self.config)
        listed = InstrumentCollector(self, wanted.instrument)
        self.register(listed)
        await listed.load()
        natives = self.context.instruments.natives(wire.VENUE)
        self._natives = {instrument: native for native, instrument in natives.items()}
        self._streams = {}
        for name, section in (("trade", wanted.trade), ("quote", wanted.quote), ("order_book", wanted.order_book)):
            if section is None or not section.enabled:
                continue
            symbols = self._symbols(section.symbols, f"collectors.{name}.symbols")
            if isinstance(section, OrderBooks):
                self._streams[name] = BookCollector(name, self, section, symbols)
            else:
                self._streams[name] = StreamCollector(name, self, section, symbols)
            self.register(self._streams[name])
        if self._streams:
            self._pool = self._make_pool()
            self.register(FeedCollector(self, self._pool, self._dialect))
        await super().initialize()

    async def stop(self) -> None:
        """Stop collecting, then close the connections."""
        await super().stop()
        await self._http.close()

    def fills(self, record_type: str) -> bool:
        """Past trades can be had, nothing else."""
        return record_type == "trade" and "trade" in self._streams

    async def fill(self, missing: Missing) -> int:
        """Page through each range by ids."""
        symbol, frame = self._natives[missing.instrument], 0
        for first, last in missing.ranges:
            after = first - 1
            while after < last:
                reply, trades = await self.ask(
                    "trades",
                    {"symbol": symbol, "after": str(after), "limit": str(min(last - after, PAGE))},
                    list[wire.Trade],
                    background=True,
                )
                frame = await self.keep("trade", reply)
                if not trades:
                    break
                after = int(trades[-1].id)
        return frame

    def expects(self) -> Sequence[Expected]:
        """Every stream that was asked for."""
        return [
            Expected(name, canonical(symbol, wire.VENUE), None, each.silence_s)
            for name, each in self._streams.items()
            for symbol in each.symbols
        ]

    async def probe(self, expected: Expected, last: Mapping[str, Any] | None) -> bool:
        """Whether Harbour has a newer trade, or another state of the book."""
        symbol = self._natives[expected.instrument]
        if expected.type == "trade":
            _, trades = await self.ask("trades", {"symbol": symbol, "limit": "1"}, list[wire.Trade], background=True)
            newest = int(trades[-1].id) if trades else 0
            return newest > (0 if last is None else last["sequence"])
        _, books = await self.ask("book", {"symbol": symbol, "depth": "1"}, list[wire.Book], background=True)
        if last is None or expected.type != "quote":
            return bool(books) and (last is None or books[0].seq > last["sequence"])
        top = [level for book in books for level in (*book.bids, *book.asks)]
        known = [(last["bid_price"], last["bid_size"]), (last["ask_price"], last["ask_size"])]
        return [(Decimal(price), Decimal(size)) for price, size in top] != known

    def reconnect(self, reason: str, silent: Sequence[Expected] = ()) -> None:
        """Make the connections of silent streams anew."""
        if self._pool is not None:
            names = [wire.stream(self._natives[each.instrument], CHANNELS[each.type]) for each in silent]
            self._pool.reconnect(reason, names)

    def health(self) -> Health:
        """As the collectors are, and whether the feed is up."""
        known = super().health()
        if self._pool is None or self._pool.connected or known.state not in ("ok", "degraded"):
            return known
        return Health("degraded", (*known.problems, f"feed: {self._pool.last_error or 'not connected'}"))

    @property
    def last_frame_ns(self) -> int | None:
        """When the feed brought something last."""
        return self._pool.last_frame_ns if self._pool is not None else None

    async def ask(
        self, path: str, params: Mapping[str, str], into: type[T], *, background: bool = False
    ) -> tuple[Reply, T]:
        """A reply that is well, and its data; `TerminalError` for one that says otherwise with status 200."""
        url = f"{self._base}/harbour/{path}"
        reply = await self._http.get(url, params, background=background)
        try:
            envelope = msgspec.json.decode(reply.body, type=wire.Reply)
            if envelope.code != "0":
                raise TerminalError(f"{reply.url}: Harbour says {envelope.code}: {envelope.msg}")
            return reply, msgspec.json.decode(envelope.data, type=into)
        except msgspec.MsgspecError as error:
            raise unreadable(f"{reply.url}: {error}", reply.body) from error

    def _symbols(self, spellings: Sequence[str], where: str) -> list[str]:
        """Harbour's own spellings, each once."""
        known = self.context.instruments
        found: dict[str, None] = {}
        for each in spellings:
            name = known.native(wire.VENUE, each.upper()) or known.resolve(each)
            if name not in self._natives:
                raise ConfigError(f"{where}: {each!r} is {name}, which is not Harbour's.")
            found[self._natives[name]] = None
        return list(found)

    def _make_pool(self) -> FeedPool:
        api = self.config.api
        url = api.ws_url
        if not url:
            base = urlsplit(self._base)
            url = f"{'wss' if base.scheme == 'https' else 'ws'}://{base.netloc}/harbour/ws"
        pool = FeedPool(
            self.name,
            url,
            self.context,
            self._dialect,
            ws=WS,
            config=pool_config(api.streams_per_connection, seconds(api.connection_age, "api.connection_age")),
            carried=_carried,
            lost=self._lost,
        )
        pool.want([wire.stream(s, CHANNELS[name]) for name, each in self._streams.items() for s in each.symbols])
        return pool

    def _lost(self, streams: Sequence[str]) -> None:
        books = [symbol for symbol, _, channel in (each.partition("@") for each in streams) if channel == "book"]
        if books:
            self.note("order_book", doubt_note(books))


class InstrumentCollector(Collector):
    """Loads the list at the start and then on a timer."""

    def __init__(self, app: Harbour, config: Instruments) -> None:
        super().__init__("instrument", app)
        self._harbour = app
        self._every = Every(seconds(config.update_interval, "collectors.instrument.update_interval"))

    async def initialize(self) -> None:
        """Have a timer."""
        self.add_timer("update", self._every, self.load, timeout_s=60.0)

    async def load(self) -> None:
        """Ask, keep, and make known."""
        reply, listed = await self._harbour.ask("instruments", {}, list[wire.Instrument])
        await self.keep(reply)
        for each in listed:
            self._harbour.context.instruments.add(canonical(each.symbol, wire.VENUE), each.symbol)


class StreamCollector(Collector):
    """Channels of the feed; what they bring is kept by the feed itself."""

    def __init__(self, name: str, app: Harbour, config: Streamed | OrderBooks, symbols: list[str]) -> None:
        super().__init__(name, app)
        self.symbols = symbols
        self.silence_s = seconds(config.silence, f"collectors.{name}.silence")


class BookCollector(StreamCollector):
    """Order books: says how they are served, and fetches snapshots the parser asks for."""

    def __init__(self, name: str, app: Harbour, config: OrderBooks, symbols: list[str]) -> None:
        super().__init__(name, app, config, symbols)
        self._harbour = app
        self._interval_s = seconds(config.update_interval, "collectors.order_book.update_interval")
        self._told_ns: int | None = None
        self._settings = BookSettings(config.depth, round(self._interval_s * 1_000), config.deltas)

    async def initialize(self) -> None:
        """Listen to the parser; tell it that time went on where nothing else does."""
        self.add_timer("time", Every(self._interval_s), self._pass_time)
        self._harbour.on_event(f"control.{SNAPSHOT}", self._snapshot)

    async def start(self) -> None:
        """Tell the parser before the first update comes."""
        self._harbour.note(self.name, settings_note(self._settings))
        await super().start()

    async def _pass_time(self) -> None:
        """Once for each silence: a book that changed last before it becomes a row too."""
        last_ns = self._harbour.last_frame_ns
        quiet = last_ns is not None and self._harbour.context.clock.wall_ns() - last_ns >= self._interval_s * 1e9
        if quiet and last_ns != self._told_ns:
            self._told_ns = last_ns
            self._harbour.note(self.name, time_note())

    async def _snapshot(self, event: Event) -> None:
        symbol = event.facts["symbol"]
        if event.facts.get("source") != self._harbour.name or symbol not in self.symbols:
            return  # parsers of other sources ask by the same name
        try:
            reply, _ = await self._harbour.ask("book", {"symbol": symbol}, list[wire.Book])
            await self.keep(reply)
        except Exception as error:
            self.report(error, f"snapshot of {symbol}")


class FeedCollector(Collector):
    """The connections: up from start to stop, with a ping of Harbour's own kind."""

    def __init__(self, app: Harbour, pool: FeedPool, dialect: HarbourDialect) -> None:
        super().__init__("feed", app)
        self._harbour, self._pool, self._dialect = app, pool, dialect

    async def initialize(self) -> None:
        """Ping, and hear of refusals."""
        self.add_timer("ping", Every(PING_S), self._ping)
        self._harbour.on_event(f"control.{REFUSED}", self._refused)

    async def start(self) -> None:
        """Connect."""
        await super().start()
        self._pool.start()

    async def stop(self) -> None:
        """Close all."""
        await self._pool.stop()
        await super().stop()

    async def _ping(self) -> None:
        self._dialect.ping()
        if self._pool.last_frame_ns is not None:
            self.heard(self._pool.last_frame_ns)

    async def _refused(self, event: Event) -> None:
        facts = event.facts
        self.report(TerminalError(f"{facts['stream']}: Harbour says {facts['code']}: {facts['said']}"), "subscribe")


def _carried(streams: Sequence[str]) -> list[Carried]:
    """Trades are numbered and updates of books name the one before; what a break cost of ``bbo`` nothing shows."""
    pairs = (each.partition("@") for each in streams)
    return [Carried("quote", canonical(symbol, wire.VENUE)) for symbol, _, channel in pairs if channel == "bbo"]
