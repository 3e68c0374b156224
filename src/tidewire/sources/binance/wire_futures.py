"""Messages that only Binance's futures have, or that have other fields there."""

from __future__ import annotations

from tidewire.sources.binance import wire
from tidewire.sources.binance.wire import Reply, Whole, Wire


class TradeData(wire.TradeData):
    """``<symbol>@trade``; ``X`` says where the trade came from, ``MARKET`` is the order book."""

    X: str = "MARKET"


class QuoteData(wire.QuoteData):
    """``<symbol>@bookTicker``; ``T`` is when the book changed."""

    T: Whole


class MarkPriceData(Wire):
    """``<symbol>@markPrice``: mark, index and estimated settle price, funding rate, next funding time.

    A contract that is delivered has no funding: its rate is empty and its time 0.
    """

    E: Whole
    s: str
    p: str
    P: str
    r: str
    T: Whole
    i: str = ""


class Order(Wire):
    """The order inside a liquidation: size, price, average price, status, filled so far, time."""

    s: str
    S: str
    q: str
    p: str
    ap: str
    X: str
    z: str
    T: Whole


class LiquidationData(Wire):
    """``<symbol>@forceOrder`` and ``!forceOrder@arr``."""

    o: Order


class TradeMessage(Wire):
    """A trade on a combined stream."""

    data: TradeData


class QuoteMessage(Wire):
    """A best bid and ask on a combined stream."""

    data: QuoteData


class MarkPriceMessage(Wire):
    """A mark price on a combined stream."""

    data: MarkPriceData


class LiquidationMessage(Wire):
    """A liquidation on a combined stream."""

    data: LiquidationData


class Ticker24h(Reply):
    """One entry of ``ticker/24hr``: without bid and ask; COIN-M gives the turnover in the base asset."""

    symbol: str
    last_price: str
    open_price: str
    high_price: str
    low_price: str
    volume: str
    price_change_percent: str
    close_time: Whole
    count: Whole
    last_id: Whole = -1
    quote_volume: str | None = None


class BookTicker(Reply):
    """One entry of ``ticker/bookTicker``."""

    symbol: str
    bid_price: str
    bid_qty: str
    ask_price: str
    ask_qty: str


class PremiumIndex(Reply):
    """One entry of ``premiumIndex``: what ``markPrice`` streams."""

    symbol: str
    mark_price: str
    index_price: str
    estimated_settle_price: str
    last_funding_rate: str
    next_funding_time: Whole
    time: Whole


class Funding(Reply):
    """One entry of ``fundingRate``: a settlement."""

    symbol: str
    funding_rate: str
    funding_time: Whole
    mark_price: str = ""


class FundingInfo(Reply):
    """One entry of ``fundingInfo``: lists only contracts whose terms were changed at some time."""

    symbol: str
    funding_interval_hours: Whole


class OpenInterest(Reply):
    """``openInterest``."""

    symbol: str
    open_interest: str
    time: Whole
