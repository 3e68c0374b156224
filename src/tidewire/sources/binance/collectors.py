"""What is collected from Binance: one collector for each kind of data."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from tidewire.collect import Carried, Collector, Cron, Every, Expected, Missing, Section, check_history, seconds
from tidewire.errors import ConfigError, nearest
from tidewire.records.market import INTERVALS
from tidewire.sources.binance.history import BinanceHistory, bars_wanted, trades_wanted

if TYPE_CHECKING:
    from tidewire.sources.binance.app import BinanceApp

ALL_TICKERS_WEIGHT = 80
SILENCE = "5m"
SILENCE_S_MIN = 10.0
BAR_SILENCE_S = 60.0


class BinanceCollector(Collector):
    """Base: knows its configuration, its symbols, and what it wants of the feed."""

    Config: ClassVar[type[Section]]
    kind: ClassVar[str] = ""

    def __init__(self, name: str, app: BinanceApp, config: Section) -> None:
        super().__init__(name, app)
        self.binance = app
        self.config = config
        self._native: list[str] | None = None

    def streams(self) -> Sequence[str]:
        """Stream names this collector wants on the App's feed."""
        return ()

    def carried(self) -> Mapping[str, Sequence[Carried]]:
        """Those of its streams whose breaks only the connection can show, and what they carry."""
        return {}

    def expects(self) -> Sequence[Expected]:
        """Streams that should bring something all the time."""
        return ()

    def loads(self, missing: Missing) -> bool:
        """Whether what is missing comes with history anyway."""
        return False

    def lost(self, symbols: Sequence[str]) -> None:
        """The connection that carried its streams of these symbols broke."""

    def listed(self, symbols: Sequence[str]) -> None:
        """These symbols (Binance's spelling) were listed while it runs; their streams are asked for already."""

    def symbols(self) -> Sequence[str]:
        """Configured symbols in any spelling, and patterns."""
        return ()

    def native(self) -> list[str]:
        """What is meant by them now, as Binance spells it."""
        if self._native is None:
            self._native = self.binance.listing.resolve(self.symbols())
        return self._native

    def look_again(self) -> tuple[list[str], list[str]]:
        """Find out anew what its symbols mean; what came and what went."""
        before = self.native()
        now = self._native = self.binance.listing.resolve(self.symbols(), before)
        return [each for each in now if each not in before], [each for each in before if each not in now]


class InstrumentCollector(BinanceCollector):
    """The list of instruments: at start, and every hour, so that new listings and delisted ones are noticed."""

    class Config(Section, frozen=True):
        """``refresh`` is a cron expression, UTC."""

        enabled: bool = True
        refresh: str = "5 * * * *"

        def __post_init__(self) -> None:
            Cron(self.refresh)  # says what is wrong with it

    kind = "instrument"

    async def initialize(self) -> None:
        """Load the list: everything else needs it."""
        await self.fetch()
        assert isinstance(self.config, InstrumentCollector.Config)
        self.add_timer("refresh", Cron(self.config.refresh), self.fetch)

    async def fetch(self) -> None:
        """One exchangeInfo."""
        reply = await self.binance.ask("exchangeInfo")
        await self.keep(reply)
        self.binance.learn(reply.body)


class TradeCollector(BinanceCollector):
    """Trades, as they happen."""

    class Config(Section, frozen=True):
        """``symbols`` in any spelling; a stream silent for longer than ``silence`` is looked into."""

        symbols: list[str]
        enabled: bool = True
        silence: str = SILENCE

        def __post_init__(self) -> None:
            checked_silence(self.silence)

    kind = "trade"

    def symbols(self) -> Sequence[str]:
        assert isinstance(self.config, TradeCollector.Config)
        return self.config.symbols

    def streams(self) -> Sequence[str]:
        return [f"{symbol.lower()}@trade" for symbol in self.native()]

    def expects(self) -> Sequence[Expected]:
        assert isinstance(self.config, TradeCollector.Config)
        silence_s = checked_silence(self.config.silence)
        return [Expected("trade", self.binance.instrument(symbol), None, silence_s) for symbol in self.native()]


class AggTradeCollector(BinanceCollector):
    """Aggregated trades, as they happen, and their history."""

    class Config(Section, frozen=True):
        """``symbols`` in any spelling; history is loaded of ``history_days``, or from ``start_date`` on."""

        symbols: list[str]
        enabled: bool = True
        silence: str = SILENCE
        history_days: int | None = None
        start_date: date | None = None
        history_workers: int = 4

        def __post_init__(self) -> None:
            checked_silence(self.silence)
            check_history(self.history_days, self.start_date, self.history_workers)

    kind = "agg_trade"

    def __init__(self, name: str, app: BinanceApp, config: Section) -> None:
        super().__init__(name, app, config)
        assert isinstance(config, AggTradeCollector.Config)
        self._past = BinanceHistory(
            self,
            (config.history_days, config.start_date),
            config.history_workers,
            lambda instrument, start_us: [trades_wanted(instrument, start_us)],
        )

    def symbols(self) -> Sequence[str]:
        assert isinstance(self.config, AggTradeCollector.Config)
        return self.config.symbols

    def streams(self) -> Sequence[str]:
        return [f"{symbol.lower()}@aggTrade" for symbol in self.native()]

    def expects(self) -> Sequence[Expected]:
        assert isinstance(self.config, AggTradeCollector.Config)
        silence_s = checked_silence(self.config.silence)
        return [Expected("agg_trade", self.binance.instrument(symbol), None, silence_s) for symbol in self.native()]

    def loads(self, missing: Missing) -> bool:
        return self._past.loads(missing)

    def history(self) -> Sequence[Mapping[str, Any]]:
        return self._past.backfill.status()

    async def start(self) -> None:
        """Load history beside the live feed; the overlap is deduplicated."""
        await super().start()
        self._past.start(self.native())

    def listed(self, symbols: Sequence[str]) -> None:
        """Load their history too."""
        self._past.want(symbols)

    async def stop(self) -> None:
        """Stop loading."""
        await self._past.stop()
        await super().stop()


class LatestCollector(BinanceCollector):
    """One stream a symbol, its messages without numbers to count: only a break of the connection shows what is lost."""

    ending: ClassVar[str]

    class Config(Section, frozen=True):
        """``symbols`` in any spelling; a stream silent for longer than ``silence`` is looked into."""

        symbols: list[str]
        enabled: bool = True
        silence: str = SILENCE

        def __post_init__(self) -> None:
            checked_silence(self.silence)

    def symbols(self) -> Sequence[str]:
        assert isinstance(self.config, LatestCollector.Config)
        return self.config.symbols

    def streams(self) -> Sequence[str]:
        return [symbol.lower() + self.ending for symbol in self.native()]

    def carried(self) -> Mapping[str, Sequence[Carried]]:
        instrument = self.binance.instrument
        streams = zip(self.streams(), self.native(), strict=True)
        return {stream: [Carried(self.kind, instrument(symbol))] for stream, symbol in streams}

    def expects(self) -> Sequence[Expected]:
        assert isinstance(self.config, LatestCollector.Config)
        silence_s = checked_silence(self.config.silence)
        return [Expected(self.kind, self.binance.instrument(symbol), None, silence_s) for symbol in self.native()]


class QuoteCollector(LatestCollector):
    """Best bid and ask, at every change."""

    kind = "quote"
    ending = "@bookTicker"


class KlineCollector(BinanceCollector):
    """Bars: the latest ``history`` of each at start, then as they form and close."""

    class Config(Section, frozen=True):
        """``symbols`` in any spelling; ``history`` is a number of bars, 0 to 1000, ``history_days`` one of days."""

        symbols: list[str]
        intervals: list[str]
        enabled: bool = True
        history: int = 200
        history_days: int | None = None
        start_date: date | None = None
        history_workers: int = 4

        def __post_init__(self) -> None:
            for interval in self.intervals:
                if interval not in INTERVALS:
                    raise ConfigError(
                        f"interval {interval!r}.{nearest(interval, INTERVALS)} Valid: {', '.join(INTERVALS)}."
                    )
            if not 0 <= self.history <= 1_000:
                raise ConfigError(f"history {self.history}: write 0 to 1000 bars.")
            check_history(self.history_days, self.start_date, self.history_workers)

    kind = "kline"
    _loading: asyncio.Task[None] | None = None
    _unloaded: dict[str, None]

    def __init__(self, name: str, app: BinanceApp, config: Section) -> None:
        super().__init__(name, app, config)
        assert isinstance(config, KlineCollector.Config)
        self._past = BinanceHistory(
            self,
            (config.history_days, config.start_date),
            config.history_workers,
            lambda instrument, start_us: [bars_wanted(instrument, each, start_us) for each in config.intervals],
        )

    def symbols(self) -> Sequence[str]:
        assert isinstance(self.config, KlineCollector.Config)
        return self.config.symbols

    def streams(self) -> Sequence[str]:
        assert isinstance(self.config, KlineCollector.Config)
        return [f"{symbol.lower()}@kline_{each}" for symbol in self.native() for each in self.config.intervals]

    def expects(self) -> Sequence[Expected]:
        assert isinstance(self.config, KlineCollector.Config)
        # A bar is pushed every two seconds while it forms, whatever its length.
        return [
            Expected("kline", self.binance.instrument(symbol), each, BAR_SILENCE_S)
            for symbol in self.native()
            for each in self.config.intervals
        ]

    async def start(self) -> None:
        """Load history beside the live feed; the overlap is deduplicated."""
        await super().start()
        self._unloaded = dict.fromkeys(self.native())
        self._loading = asyncio.create_task(self._latest(), name="binance kline history")
        self._past.start(self.native())

    def listed(self, symbols: Sequence[str]) -> None:
        """Load their history too."""
        self._unloaded |= dict.fromkeys(symbols)
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._latest(), name="binance kline history")
        self._past.want(symbols)

    async def stop(self) -> None:
        """Give up what is still loading."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait((self._loading,))
        await self._past.stop()
        await super().stop()

    def loads(self, missing: Missing) -> bool:
        return self._past.loads(missing)

    def history(self) -> Sequence[Mapping[str, Any]]:
        return self._past.backfill.status()

    async def _latest(self) -> None:
        assert isinstance(self.config, KlineCollector.Config)
        if not self.config.history:
            return
        while self._unloaded:
            symbol = next(iter(self._unloaded))
            del self._unloaded[symbol]
            for interval in self.config.intervals:
                try:
                    params = {"symbol": symbol, "interval": interval, "limit": str(self.config.history)}
                    await self.keep(await self.binance.ask("klines", params))
                except Exception as error:
                    self.report(error, f"history of {symbol} {interval}")


class TickerCollector(BinanceCollector):
    """24-hour statistics, asked for at an interval; of all symbols when none are named."""

    class Config(Section, frozen=True):
        """``symbols`` in any spelling, all when empty; ``update_interval`` such as ``5s``."""

        enabled: bool = True
        symbols: tuple[str, ...] = ()
        update_interval: str = "5s"

        def __post_init__(self) -> None:
            if seconds(self.update_interval, "update_interval") < 1:
                raise ConfigError(f"update_interval {self.update_interval!r}: write 1s or more; all tickers weigh 80.")

    kind = "ticker"
    _asked_about: frozenset[str] = frozenset()

    def symbols(self) -> Sequence[str]:
        assert isinstance(self.config, TickerCollector.Config)
        return self.config.symbols

    async def initialize(self) -> None:
        """Set the timer."""
        assert isinstance(self.config, TickerCollector.Config)
        every = seconds(self.config.update_interval, "collectors.ticker.update_interval")
        self.add_timer("update", Every(every), self.fetch, jitter=0.1, run_at_start=True)

    async def fetch(self) -> None:
        """One ticker/24hr."""
        native = self.native()
        params = {"symbols": msgspec.json.encode(native).decode()} if native else {}
        count = len(native)
        weight = 2 if 0 < count <= 20 else 40 if 0 < count <= 100 else ALL_TICKERS_WEIGHT
        reply = await self.binance.ask("ticker/24hr", params, weight=weight)
        came = {row.symbol for row in _NAMED.decode(reply.body)}
        unknown = self.binance.listing.unknown(came)
        if unknown - self._asked_about:  # listed since the last list; it must be in the journal before its first row
            self._asked_about = unknown
            await self.binance.refresh()
        await self.keep(reply)
        missing = [self.binance.instrument(symbol) for symbol in native if symbol not in came]
        self.short("ticker", missing, reply, f"{len(came):,} of {count:,} symbols came")


class _Named(msgspec.Struct):
    """Any reply that lists symbols."""

    symbol: str


_NAMED = msgspec.json.Decoder(list[_Named])


def checked_silence(text: str) -> float:
    """How long a stream may be silent, in seconds; a shorter time would only ask the venue all the time."""
    found = seconds(text, "silence")
    if found < SILENCE_S_MIN:
        raise ConfigError(f"silence {text!r}: write {SILENCE_S_MIN:g}s or more.")
    return found
