"""Binance's messages, typed as they are on the wire: numbers that matter are text, times are milliseconds."""

from __future__ import annotations

from typing import Annotated

import msgspec

Whole = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
"""A whole number as JavaScript knows them; as microseconds it still fits a column."""


class Wire(msgspec.Struct, gc=False):
    """Base of all stream messages; unknown fields are left alone, Binance adds some every year."""


class Reply(Wire, rename="camel"):
    """Base of what REST answers."""


class TradeData(Wire):
    """``<symbol>@trade``."""

    s: str
    t: Whole
    p: str
    q: str
    T: Whole
    m: bool


class AggTradeData(Wire):
    """``<symbol>@aggTrade``."""

    s: str
    a: Whole
    p: str
    q: str
    f: Whole
    l: Whole
    T: Whole
    m: bool


class QuoteData(Wire):
    """``<symbol>@bookTicker``; carries no time."""

    u: Whole
    s: str
    b: str
    B: str
    a: str
    A: str


class Bar(Wire):
    """The bar inside a kline message."""

    t: Whole
    T: Whole
    s: str
    i: str
    o: str
    c: str
    h: str
    l: str
    v: str
    n: Whole
    x: bool
    q: str
    V: str
    Q: str


class KlineData(Wire):
    """``<symbol>@kline_<interval>``."""

    E: Whole
    k: Bar


class TickerData(
    Wire,
    rename={
        "symbol": "s",
        "close_time": "E",
        "price_change_percent": "P",
        "last_price": "c",
        "open_price": "o",
        "high_price": "h",
        "low_price": "l",
        "volume": "v",
        "quote_volume": "q",
        "count": "n",
        "bid_price": "b",
        "ask_price": "a",
    },
):
    """``<symbol>@ticker``: 24 h statistics, under the names REST has for them (`Ticker24h`)."""

    symbol: str
    close_time: Whole
    price_change_percent: str
    last_price: str
    open_price: str
    high_price: str
    low_price: str
    volume: str
    quote_volume: str
    count: Whole
    bid_price: str
    ask_price: str


class TradeMessage(Wire):
    """A trade on a combined stream."""

    data: TradeData


class AggTradeMessage(Wire):
    """An aggregate of trades on a combined stream."""

    data: AggTradeData


class QuoteMessage(Wire):
    """A best bid and ask on a combined stream."""

    data: QuoteData


class KlineMessage(Wire):
    """A bar on a combined stream."""

    data: KlineData


class TickerMessage(Wire):
    """A ticker on a combined stream."""

    data: TickerData


class Ticker24h(Reply):
    """One entry of ``/api/v3/ticker/24hr``."""

    symbol: str
    last_price: str
    open_price: str
    high_price: str
    low_price: str
    volume: str
    quote_volume: str
    price_change_percent: str
    close_time: Whole
    count: Whole
    bid_price: str
    ask_price: str


class Now(Reply):
    """What a ticker of ``/api/v3/ticker/24hr`` says of the streams: the last trade, the best bid and ask."""

    last_id: Whole
    bid_price: str
    bid_qty: str
    ask_price: str
    ask_qty: str


class PastTrade(Reply):
    """One entry of ``/api/v3/historicalTrades`` and ``/api/v3/trades``."""

    id: Whole
    price: str
    qty: str
    time: Whole
    is_buyer_maker: bool


class PastAggTrade(Wire):
    """One entry of ``/api/v3/aggTrades``."""

    a: Whole
    p: str
    q: str
    f: Whole
    l: Whole
    T: Whole
    m: bool


class Filter(Reply):
    """A trading rule of a symbol; which fields it has depends on its type."""

    filter_type: str
    tick_size: str | None = None
    step_size: str | None = None


class SymbolInfo(Reply):
    """One symbol of ``exchangeInfo``; COIN-M says ``contractStatus`` and how much one contract is for."""

    symbol: str
    base_asset: str
    quote_asset: str
    status: str = ""
    contract_status: str = ""
    contract_size: Whole | None = None
    filters: list[Filter] = []

    def rule(self, name: str) -> Filter | None:
        """A filter by type; their order means nothing."""
        return next((found for found in self.filters if found.filter_type == name), None)


class RateLimit(Reply):
    """One limit of ``/api/v3/exchangeInfo``."""

    rate_limit_type: str
    interval: str
    interval_num: int
    limit: int


class ExchangeInfo(Reply):
    """``/api/v3/exchangeInfo``."""

    symbols: list[SymbolInfo]
    rate_limits: list[RateLimit] = []

    def weight_per_minute(self) -> int | None:
        """How much request weight a minute may have, where the venue says so."""
        for found in self.rate_limits:
            if (found.rate_limit_type, found.interval, found.interval_num) == ("REQUEST_WEIGHT", "MINUTE", 1):
                return found.limit if found.limit > 0 else None
        return None


KlineRow = tuple[Whole, str, str, str, str, str, Whole, str, Whole, str, str, str]
"""``/api/v3/klines``: open time, o, h, l, c, volume, close time, amount, trades, taker base, taker quote, unused."""
