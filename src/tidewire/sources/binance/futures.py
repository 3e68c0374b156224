"""Binance's futures: the Apps, and the collectors of what spot does not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from tidewire.collect import Budgets, Carried, Cron, Every, Limits, Section, seconds
from tidewire.errors import ConfigError
from tidewire.sources.binance import wire_futures as wire
from tidewire.sources.binance.app import COLLECTORS, BinanceApp
from tidewire.sources.binance.collectors import (
    BinanceCollector,
    KlineCollector,
    LatestCollector,
    TickerCollector,
)
from tidewire.sources.binance.markets import COINM, USDM
from tidewire.sources.binance.order_book import OrderBookCollector
from tidewire.sources.binance.parse_futures import COINM_FORMS, HOUR_MS, USDM_FORMS

SNAPSHOT_MAX = 1_000
FUNDING_ROWS = 1_000
FUNDING_PER_SECOND, FUNDING_BURST = 1.5, 25
"""``fundingRate`` and ``fundingInfo`` share 500 requests in five minutes, beside the weights."""
ALL_TICKERS_FROM = 40
"""From so many symbols on, all tickers weigh less than one request for each."""

_FUNDING = msgspec.json.Decoder(list[wire.Funding])
_INFO = msgspec.json.Decoder(list[wire.FundingInfo])
_TICKERS = msgspec.json.Decoder(list[wire.Ticker24h] | wire.Ticker24h)


class FuturesKlineCollector(KlineCollector):
    """Bars; a minute is the shortest."""

    class Config(KlineCollector.Config, frozen=True):
        """As on spot."""

        def __post_init__(self) -> None:
            super().__post_init__()
            if "1s" in self.intervals:
                raise ConfigError("interval '1s': Binance has no such bars of futures; write 1m or more.")


class FuturesOrderBookCollector(OrderBookCollector):
    """Order books; a snapshot has a thousand levels at most."""

    class Config(OrderBookCollector.Config, frozen=True):
        """As on spot."""

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.snapshot > SNAPSHOT_MAX:
                raise ConfigError(f"snapshot {self.snapshot}: futures have {SNAPSHOT_MAX} levels at most.")


class FuturesTickerCollector(TickerCollector):
    """24-hour statistics: one request for each symbol, or one for all."""

    async def fetch(self) -> None:
        """One round."""
        native = self.native()
        if not 0 < len(native) < ALL_TICKERS_FROM:
            await self.keep(await self.binance.ask("ticker/24hr"))
            return
        for symbol in native:
            reply = await self.binance.ask("ticker/24hr", {"symbol": symbol})
            await self.keep(reply)
            found = _TICKERS.decode(reply.body)
            missing = [] if found else [self.binance.instrument(symbol)]
            self.short("ticker", missing, reply, f"no ticker of {symbol} came")


class MarkPriceCollector(LatestCollector):
    """Mark and index price and the predicted funding rate, each second."""

    kind = "mark_price"
    ending = "@markPrice@1s"


class LiquidationCollector(BinanceCollector):
    """Liquidation orders; of all symbols when none are named. Binance shows at most one a symbol and second."""

    class Config(Section, frozen=True):
        """``symbols`` in any spelling, all when empty."""

        enabled: bool = True
        symbols: tuple[str, ...] = ()

    kind = "liquidation"

    def symbols(self) -> Sequence[str]:
        assert isinstance(self.config, LiquidationCollector.Config)
        return self.config.symbols

    def streams(self) -> Sequence[str]:
        return [f"{symbol.lower()}@forceOrder" for symbol in self.native()] or ["!forceOrder@arr"]

    def carried(self) -> Mapping[str, Sequence[Carried]]:
        named = [[self.binance.instrument(symbol)] for symbol in self.native()]
        streams = zip(self.streams(), named or [self.binance.instruments()], strict=True)
        return {stream: [Carried("liquidation", instrument) for instrument in each] for stream, each in streams}


class OpenInterestCollector(BinanceCollector):
    """How many contracts are open, asked for at an interval."""

    class Config(Section, frozen=True):
        """``symbols`` in any spelling; ``update_interval`` such as ``30s``."""

        symbols: list[str]
        enabled: bool = True
        update_interval: str = "30s"

        def __post_init__(self) -> None:
            if seconds(self.update_interval, "update_interval") < 1:
                raise ConfigError(f"update_interval {self.update_interval!r}: write 1s or more.")

    kind = "open_interest"

    def symbols(self) -> Sequence[str]:
        assert isinstance(self.config, OpenInterestCollector.Config)
        return self.config.symbols

    async def initialize(self) -> None:
        """Set the timer."""
        assert isinstance(self.config, OpenInterestCollector.Config)
        self.native()  # a symbol that is not there is told now
        every = seconds(self.config.update_interval, "collectors.open_interest.update_interval")
        self.add_timer("update", Every(every), self.fetch, jitter=0.1, run_at_start=True)

    async def fetch(self) -> None:
        """One request for each symbol."""
        for symbol in self.native():
            try:
                await self.keep(await self.binance.ask("openInterest", {"symbol": symbol}))
            except Exception as error:
                self.report(error, f"open interest of {symbol}")


class FundingRateCollector(BinanceCollector):
    """Settled funding rates: the past ``history`` at first, then each after it was settled.

    The cursor of a symbol is its last settlement, so nothing is missed while the product was down. A request begins
    with the settlement before, which tells the interval of the next.
    """

    class Config(Section, frozen=True):
        """``symbols`` in any spelling, perpetuals only; ``refresh`` is a cron expression, UTC."""

        symbols: list[str]
        enabled: bool = True
        history: str = "30d"
        refresh: str = "1 * * * *"

        def __post_init__(self) -> None:
            Cron(self.refresh)  # says what is wrong with it
            seconds(self.history, "history")

    kind = "funding_rate"

    def __init__(self, name: str, app: BinanceApp, config: Section) -> None:
        super().__init__(name, app, config)
        limits = Limits(FUNDING_PER_SECOND, FUNDING_BURST)
        self._turns = Budgets(app.context.clock, limits).of(f"{app.name} funding")
        self._shown: dict[str, int] = {}

    def symbols(self) -> Sequence[str]:
        assert isinstance(self.config, FundingRateCollector.Config)
        return self.config.symbols

    async def initialize(self) -> None:
        """Set the timer."""
        assert isinstance(self.config, FundingRateCollector.Config)
        for symbol in self.native():
            if not self.binance.instrument(symbol).rpartition(".")[0].endswith("-SWAP"):
                raise ConfigError(f"symbols: {symbol} is no perpetual and has no funding. Leave it out.")
        self.add_timer("refresh", Cron(self.config.refresh), self.fetch, run_at_start=True)

    async def fetch(self) -> None:
        """What was settled since the last time, of each symbol that is due."""
        await self._turns.spend()
        reply = await self.binance.ask("fundingInfo")
        await self.keep(reply)
        listed = {entry.symbol: entry.funding_interval_hours for entry in _INFO.decode(reply.body)}
        for symbol in self.native():
            # The list has only contracts that were changed once; of others what was seen last counts.
            hours = listed.get(symbol) or self._shown.get(symbol)
            last = self.cursor(symbol)
            now_ms = self.app.context.clock.wall_ns() // 1_000_000
            if last is not None and hours is not None and now_ms < int(last) + hours * HOUR_MS:
                continue
            try:
                await self._settled(symbol, now_ms - self._history_ms() if last is None else int(last))
            except Exception as error:
                self.report(error, f"funding of {symbol}")

    def _history_ms(self) -> int:
        assert isinstance(self.config, FundingRateCollector.Config)
        return round(seconds(self.config.history, "history") * 1_000)

    async def _settled(self, symbol: str, since_ms: int) -> None:
        """All settlements from a time on, page by page."""
        while True:
            params = {"symbol": symbol, "startTime": str(since_ms), "limit": str(FUNDING_ROWS)}
            await self._turns.spend()
            reply = await self.binance.ask("fundingRate", params)
            rows = _FUNDING.decode(reply.body)
            await self.keep(reply, {symbol: str(rows[-1].funding_time)} if rows else None)
            if len(rows) > 1:
                self._shown[symbol] = round((rows[-1].funding_time - rows[-2].funding_time) / HOUR_MS)
            if len(rows) < FUNDING_ROWS:
                return
            since_ms = rows[-1].funding_time


FUTURES_COLLECTORS: Mapping[str, type[BinanceCollector]] = {
    **COLLECTORS,
    "ticker": FuturesTickerCollector,
    "kline": FuturesKlineCollector,
    "order_book": FuturesOrderBookCollector,
    "mark_price": MarkPriceCollector,
    "funding_rate": FundingRateCollector,
    "open_interest": OpenInterestCollector,
    "liquidation": LiquidationCollector,
}


class BinanceUsdmApp(BinanceApp):
    """Binance USD-M futures."""

    name = "binanceusdm"
    about = "Binance USD-M futures: as spot, and mark prices, funding rates, open interest, liquidations."
    market = USDM
    collectors = FUTURES_COLLECTORS
    forms = USDM_FORMS


class BinanceCoinmApp(BinanceApp):
    """Binance COIN-M futures."""

    name = "binancecoinm"
    about = "Binance COIN-M futures: as USD-M; contracts are for an amount of USD."
    market = COINM
    collectors = FUTURES_COLLECTORS
    forms = COINM_FORMS
