"""Market data: instruments, trades, quotes, tickers, klines, order books, and what only derivatives have."""

from __future__ import annotations

from typing import Any

import polars as pl

from tidewire.records.record import MarketRecord, rule
from tidewire.records.roles import (
    Amount,
    Count,
    Day,
    Flag,
    Json,
    Price,
    Prices,
    Ratio,
    Sequence,
    Size,
    Sizes,
    Text,
    Time,
)

SIDES = ("buy", "sell")
QUOTE = "quote asset or yuan"
BASE = "base asset, shares or contracts"

INTERVALS = {
    "1s": 1,
    "1m": 60,
    "3m": 180,
    "5m": 300,
    "15m": 900,
    "30m": 1_800,
    "1h": 3_600,
    "2h": 7_200,
    "4h": 14_400,
    "6h": 21_600,
    "8h": 28_800,
    "12h": 43_200,
    "1d": 86_400,
    "3d": 259_200,
    "1w": 604_800,
    "1M": 0,
}
"""Kline intervals and their length in seconds; a month has no fixed length (0)."""


class Instrument(MarketRecord, reference=True):
    """What can be traded: one row for each instrument, a revision each time its definition changed."""

    uid = Text("Stable id that survives renames and recodes.", example="ux2f1c0a9be4d7f3")
    native = Text("The venue's own spelling.", example="BTCUSDT")
    kind = Text(
        "What sort of instrument.", choices=("spot", "perpetual", "future", "option", "stock", "index", "fund", "bond")
    )
    base = Text("What is bought and sold.", nullable=True, example="BTC")
    quote = Text("What it is priced in.", nullable=True, example="USDT")
    status = Text("Whether it trades.", choices=("trading", "halted", "auction", "cancel_only", "delisted", "pending"))
    price_step = Price("Smallest price difference.", unit=QUOTE, nullable=True, above=0)
    size_step = Size("Smallest size difference.", unit=BASE, nullable=True, above=0)
    contract_size = Size(
        "What one contract is for; an amount of the quote asset where contracts are settled in the base asset.",
        unit="base asset or quote asset",
        nullable=True,
    )
    name = Text("Name for people.", nullable=True, example="Bitcoin / TetherUS")
    board = Text(
        "Part of the exchange it is listed on.", choices=("main", "star", "chinext", "bse", "b_share"), nullable=True
    )
    listed_on = Day("First day of trading.", nullable=True)
    delisted_on = Day("Day from which it is not listed any more.", nullable=True)


class Trade(MarketRecord, order="sequence", series=("source", "instrument"), contiguous=True, instant=True):
    """One executed trade, as the venue reported it."""

    trade_id = Text("The venue's id of the trade.", key=True, example="3735683259")
    sequence = Sequence("The id as a number, where the venue counts without holes.", nullable=True)
    price = Price(
        "Price of the trade; null only where it did not come from the book and the venue names none.",
        unit=QUOTE,
        nullable=True,
        above=0,
        example="61837.63",
    )
    size = Size("How much changed hands; null as the price.", unit=BASE, nullable=True, above=0, example="0.02")
    side = Text("Side of the taker.", choices=SIDES, nullable=True)
    off_book = Text(
        "Why the trade did not come from the order book; null for one that did. Bars leave it out.",
        choices=("insurance_fund", "adl", "na"),
        nullable=True,
    )

    @rule
    def priced(cls: Any) -> pl.Expr:  # noqa: N805 - dataframely calls rules with the class
        """A trade from the book has a price and a size."""
        there = pl.col("price").is_not_null() & pl.col("size").is_not_null()
        return there | pl.col("off_book").is_not_null()


class AggTrade(MarketRecord, order="sequence", series=("source", "instrument"), contiguous=True, instant=True):
    """Trades of one taker at one price and moment, added up by the venue."""

    sequence = Sequence("The venue's id of the aggregate; it counts without holes.", key=True)
    price = Price("Price of the trades.", unit=QUOTE, above=0, example="61837.63")
    size = Size("How much changed hands in all of them.", unit=BASE, above=0, example="0.02")
    side = Text("Side of the taker.", choices=SIDES, nullable=True)
    first_trade = Sequence("The venue's id of the first trade in it.", nullable=True)
    last_trade = Sequence("The venue's id of the last trade in it.", nullable=True)


class Quote(MarketRecord, instant=True, order="sequence"):
    """Best bid and ask."""

    sequence = Sequence("The venue's update id; event time in microseconds where it gives none.", key=True)
    bid_price = Price("Best price to sell at.", unit=QUOTE, nullable=True, above=0, example="61837.62")
    bid_size = Size("How much is bid there.", unit=BASE, nullable=True, min=0, example="1.5")
    ask_price = Price("Best price to buy at.", unit=QUOTE, nullable=True, above=0, example="61837.63")
    ask_size = Size("How much is asked there.", unit=BASE, nullable=True, min=0, example="0.7")

    @rule
    def not_crossed(cls: Any) -> pl.Expr:  # noqa: N805 - dataframely calls rules with the class
        """Within one venue the best bid is below the best ask."""
        return pl.col("bid_price") < pl.col("ask_price")


class Ticker(MarketRecord, instant=True, order="event_time"):
    """Last price and the statistics of the session (stocks) or of the last 24 hours (crypto)."""

    event_time = Time("When the venue computed it.", key=True)
    last = Price("Last traded price.", unit=QUOTE, nullable=True, above=0)
    open = Price("First price of the session or window.", unit=QUOTE, nullable=True, above=0)
    high = Price("Highest price.", unit=QUOTE, nullable=True, above=0)
    low = Price("Lowest price.", unit=QUOTE, nullable=True, above=0)
    pre_close = Price("Close of the previous session; null for rolling windows.", unit=QUOTE, nullable=True, above=0)
    volume = Size("How much changed hands.", unit=BASE, nullable=True, min=0)
    amount = Amount("Turnover.", unit=QUOTE, nullable=True, min=0)
    trades = Count("Number of trades.", nullable=True)
    bid_price = Price("Best bid.", unit=QUOTE, nullable=True, above=0)
    ask_price = Price("Best ask.", unit=QUOTE, nullable=True, above=0)
    change_ratio = Ratio("Change over the session or window, 0.01 = 1 %.", nullable=True)
    status = Text("Trading or suspended.", choices=("trading", "suspended"), nullable=True)

    @rule
    def high_low(cls: Any) -> pl.Expr:  # noqa: N805 - dataframely calls rules with the class
        """The high is not below the low."""
        return pl.col("high") >= pl.col("low")


class Kline(MarketRecord, order="open_time", final="final"):
    """A bar (candlestick): open, high, low, close and volume of one interval. Prices are raw, never adjusted."""

    interval = Text("Length of the bar.", choices=tuple(INTERVALS), key=True, example="1m")
    open_time = Time("Start of the bar; it covers [open_time, close_time).", key=True)
    close_time = Time("End of the bar, exclusive.")
    open = Price("First price.", unit=QUOTE, nullable=True, above=0)
    high = Price("Highest price.", unit=QUOTE, nullable=True, above=0)
    low = Price("Lowest price.", unit=QUOTE, nullable=True, above=0)
    close = Price("Last price.", unit=QUOTE, nullable=True, above=0)
    volume = Size("How much changed hands.", unit=BASE, nullable=True, min=0)
    amount = Amount("Turnover.", unit=QUOTE, nullable=True, min=0)
    trades = Count("Number of trades.", nullable=True)
    buy_volume = Size("How much of the volume takers bought.", unit=BASE, nullable=True, min=0)
    buy_amount = Amount("How much of the turnover takers bought.", unit=QUOTE, nullable=True, min=0)
    final = Flag("Whether the bar is over; only final bars are stored.")

    @rule
    def high_is_highest(cls: Any) -> pl.Expr:  # noqa: N805 - dataframely calls rules with the class
        """No price of the bar is above its high."""
        return pl.col("high") >= pl.max_horizontal("open", "low", "close")

    @rule
    def low_is_lowest(cls: Any) -> pl.Expr:  # noqa: N805 - dataframely calls rules with the class
        """No price of the bar is below its low."""
        return pl.col("low") <= pl.min_horizontal("open", "high", "close")

    @rule
    def closes_after_open(cls: Any) -> pl.Expr:  # noqa: N805 - dataframely calls rules with the class
        """A bar has a length."""
        return pl.col("close_time") > pl.col("open_time")


class OrderBook(MarketRecord, instant=True, order="sequence", final="valid", folded=True):
    """A snapshot of the best N levels of each side, best first."""

    sequence = Sequence("The venue's update id of the snapshot.", key=True)
    depth = Count("How many levels a side were asked for.", key=True)
    bid_prices = Prices("Bid prices, highest first.", unit=QUOTE)
    bid_sizes = Sizes("Sizes at the bid prices.", unit=BASE)
    ask_prices = Prices("Ask prices, lowest first.", unit=QUOTE)
    ask_sizes = Sizes("Sizes at the ask prices.", unit=BASE)
    # Nullable only because tables without the column exist.
    valid = Flag(
        "Whether the book is in step with its venue; one that is not has no levels, and is not stored.", nullable=True
    )

    @rule
    def book_not_crossed(cls: Any) -> pl.Expr:  # noqa: N805 - dataframely calls rules with the class
        """The best bid is below the best ask."""
        return pl.col("bid_prices").list.first() < pl.col("ask_prices").list.first()

    @rule
    def same_lengths(cls: Any) -> pl.Expr:  # noqa: N805 - dataframely calls rules with the class
        """Each price has its size."""
        bids = pl.col("bid_prices").list.len() == pl.col("bid_sizes").list.len()
        return bids & (pl.col("ask_prices").list.len() == pl.col("ask_sizes").list.len())


class BookDelta(MarketRecord, instant=True, order="sequence", series=("source", "instrument"), folded=True):
    """One changed level of an order book; size 0 removes the level."""

    sequence = Sequence("The venue's update id the change belongs to.", key=True)
    side = Text("Side of the book: buy = bids.", choices=SIDES, key=True)
    price = Price("Price of the level.", unit=QUOTE, above=0, key=True)
    size = Size("What now stands there; 0 = nothing.", unit=BASE, min=0)
    first_sequence = Sequence("First update id of the message, for continuity.", nullable=True)


class FundingRate(MarketRecord, order="event_time"):
    """The funding rate of a perpetual contract, settled at ``event_time``."""

    event_time = Time("When it was or will be settled.", key=True)
    rate = Ratio("Rate for the interval; positive: longs pay shorts.")
    interval_hours = Count("Hours of the interval; not always 8.", unit="h", nullable=True)
    mark_price = Price("Mark price it was computed with.", unit=QUOTE, nullable=True, above=0)
    settled = Flag("Whether it is settled, not predicted.")
    detail = Json("What else the venue said.", nullable=True)


class MarkPrice(MarketRecord, instant=True, order="event_time"):
    """The price at which a contract is valued, and the funding rate that would be settled if nothing changed."""

    event_time = Time("When the venue computed it.", key=True)
    mark_price = Price("Price that profits, losses and liquidations are reckoned with.", unit=QUOTE, above=0)
    index_price = Price("Price of the underlying on spot markets.", unit=QUOTE, nullable=True, above=0)
    settle_price = Price(
        "Estimate of the price of settlement; means something in the hour before it.",
        unit=QUOTE,
        nullable=True,
        above=0,
    )
    funding_rate = Ratio("Predicted rate of the running interval; null without funding.", nullable=True)
    next_funding_time = Time("When the running interval is settled; null without funding.", nullable=True)


class OpenInterest(MarketRecord, instant=True, order="event_time"):
    """How many contracts are open."""

    event_time = Time("When the venue counted.", key=True)
    contracts = Size("Open contracts, one side; the instrument says what one is for.", unit="contracts", min=0)
    value = Amount("What they are worth.", unit=QUOTE, nullable=True, min=0)


class Liquidation(MarketRecord, instant=True, order="event_time", series=("source", "instrument")):
    """An order by which the venue closed a position that ran out of margin."""

    event_time = Time("When the order was last traded.", key=True)
    side = Text("Side of the order: sell closes a long position.", choices=SIDES, key=True)
    price = Price("Limit of the order.", unit=QUOTE, above=0, key=True)
    average_price = Price("Average price of what was filled.", unit=QUOTE, nullable=True, above=0)
    size = Size("How much it was for.", unit=BASE, above=0)
    filled = Size("How much of it was filled so far.", unit=BASE, nullable=True, min=0)
    status = Text("State of the order.", choices=("new", "partial", "filled", "canceled", "expired"))
