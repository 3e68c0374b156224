"""Frames of Binance's futures to columns: what differs from spot, and what only futures have."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tidewire.collect import Frame, Parsed
from tidewire.records.market import FundingRate, Liquidation, MarkPrice, OpenInterest, Quote, Ticker
from tidewire.sources.binance import wire
from tidewire.sources.binance import wire_futures as futures
from tidewire.sources.binance.parse import (
    FORMS,
    Form,
    Names,
    asked,
    instrument_of,
    kline_history,
    klines,
    micros,
    or_none,
    past_trades,
    percent,
    trades,
)

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

STATUS = {
    "NEW": "new",
    "PARTIALLY_FILLED": "partial",
    "FILLED": "filled",
    "CANCELED": "canceled",
    "EXPIRED": "expired",
    "EXPIRED_IN_MATCH": "expired",
}


def _trades(messages: list[futures.TradeMessage], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    """As on spot, and where the trade came from: a word that is new to us is kept and fails the rule of the column.

    Among them are numbers that stand for no trade at all, of price and size 0: kept, so that none is missing.
    """
    (part,) = trades(cast("list[wire.TradeMessage]", messages), frames, names)
    kinds = [message.data.X for message in messages]
    if any(kind != "MARKET" for kind in kinds):
        off_book = [None if kind == "MARKET" else kind.lower() for kind in kinds]
        data = [message.data for message in messages]
        named = {"price": [or_none(trade.p) for trade in data], "size": [or_none(trade.q) for trade in data]}
        part.columns = {**part.columns, **named, "off_book": off_book}
    return [part]


def _quotes(messages: list[futures.QuoteMessage], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    data = [message.data for message in messages]
    at = micros([quote.T for quote in data]).cast(Quote.type.schema["event_time"])
    columns = {
        "instrument": instrument_of([quote.s for quote in data], names),
        "event_time": at,
        "public_at": at,
        "sequence": [quote.u for quote in data],
        "bid_price": [or_none(quote.b) for quote in data],
        "bid_size": [quote.B for quote in data],
        "ask_price": [or_none(quote.a) for quote in data],
        "ask_size": [quote.A for quote in data],
    }
    return [Parsed(Quote.type, columns, frames)]


def _mark_prices(messages: list[futures.MarkPriceMessage], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    data = [message.data for message in messages]
    at = micros([mark.E for mark in data]).cast(MarkPrice.type.schema["event_time"])
    columns = {
        "instrument": instrument_of([mark.s for mark in data], names),
        "event_time": at,
        "public_at": at,
        "mark_price": [mark.p for mark in data],
        "index_price": [or_none(mark.i) for mark in data],
        "settle_price": [or_none(mark.P) for mark in data],
        "funding_rate": [mark.r or None for mark in data],
        "next_funding_time": [mark.T * 1_000 or None for mark in data],
    }
    return [Parsed(MarkPrice.type, columns, frames)]


def _premium(
    replies: list[list[futures.PremiumIndex] | futures.PremiumIndex], frames: Sequence[Frame], names: Names
) -> list[Parsed]:
    data, rows, ordinals = _listed(replies, frames)
    at = micros([mark.time for mark in data]).cast(MarkPrice.type.schema["event_time"])
    columns = {
        "instrument": instrument_of([mark.symbol for mark in data], names),
        "event_time": at,
        "public_at": at,
        "mark_price": [mark.mark_price for mark in data],
        "index_price": [or_none(mark.index_price) for mark in data],
        "settle_price": [or_none(mark.estimated_settle_price) for mark in data],
        "funding_rate": [mark.last_funding_rate or None for mark in data],
        "next_funding_time": [mark.next_funding_time * 1_000 or None for mark in data],
    }
    return [Parsed(MarkPrice.type, columns, rows, ordinals)]


def _liquidations(messages: list[futures.LiquidationMessage], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    orders = [message.data.o for message in messages]
    at = micros([order.T for order in orders]).cast(Liquidation.type.schema["event_time"])
    columns = {
        "instrument": instrument_of([order.s for order in orders], names),
        "event_time": at,
        "public_at": at,
        "side": [order.S.lower() for order in orders],
        "price": [order.p for order in orders],
        "average_price": [or_none(order.ap) for order in orders],
        "size": [order.q for order in orders],
        "filled": [order.z for order in orders],
        "status": [STATUS.get(order.X, order.X) for order in orders],
    }
    return [Parsed(Liquidation.type, columns, frames)]


def _open_interest(replies: list[futures.OpenInterest], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    at = micros([reply.time for reply in replies]).cast(OpenInterest.type.schema["event_time"])
    columns = {
        "instrument": instrument_of([reply.symbol for reply in replies], names),
        "event_time": at,
        "public_at": at,
        "contracts": [reply.open_interest for reply in replies],
    }
    return [Parsed(OpenInterest.type, columns, frames)]


def _funding(replies: list[list[futures.Funding]], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    """Settlements of one contract, ascending.

    The interval of each is the time since the one before it: what is in force today says nothing about last year. The
    first row of a reply has none before it. It was asked for as the neighbour of the next and is known already, unless
    it comes a day or more after the time asked from: then it is the contract's first, whose interval nobody knows.
    """
    parsed: list[Parsed] = []
    for rows, frame in zip(replies, frames, strict=True):
        begin = asked(frame, "startTime")
        whole = bool(rows) and begin.isdecimal() and rows[0].funding_time - int(begin) >= DAY_MS
        kept = rows if whole else rows[1:]
        if not kept:
            continue
        times = [row.funding_time for row in rows]
        hours = [None, *(round((at - before) / HOUR_MS) for before, at in itertools.pairwise(times))]
        at = micros([row.funding_time for row in kept]).cast(FundingRate.type.schema["event_time"])
        columns: dict[str, Any] = {
            "instrument": instrument_of([row.symbol for row in kept], names),
            "event_time": at,
            "public_at": at,
            "rate": [row.funding_rate for row in kept],
            "interval_hours": hours[len(rows) - len(kept) :],
            "mark_price": [or_none(row.mark_price) for row in kept],
            "settled": True,
        }
        ordinals = list(range(len(rows) - len(kept), len(rows)))
        parsed.append(Parsed(FundingRate.type, columns, [frame] * len(kept), ordinals, past=True))
    return parsed


def _nothing(_messages: list[Any], _frames: Sequence[Frame], _names: Names) -> list[Parsed]:
    """Kept for what was decided by it; rows come of other frames."""
    return []


def _tickers(
    replies: list[list[futures.Ticker24h] | futures.Ticker24h], frames: Sequence[Frame], names: Names
) -> list[Parsed]:
    data, rows, ordinals = _listed(replies, frames)
    at = micros([ticker.close_time for ticker in data]).cast(Ticker.type.schema["event_time"])
    columns = {
        "instrument": instrument_of([ticker.symbol for ticker in data], names),
        "event_time": at,
        "public_at": at,
        "last": [or_none(ticker.last_price) for ticker in data],
        "open": [or_none(ticker.open_price) for ticker in data],
        "high": [or_none(ticker.high_price) for ticker in data],
        "low": [or_none(ticker.low_price) for ticker in data],
        "volume": [ticker.volume for ticker in data],
        "amount": [ticker.quote_volume for ticker in data],
        "trades": [ticker.count for ticker in data],
        "change_ratio": [percent(ticker.price_change_percent) for ticker in data],
    }
    return [Parsed(Ticker.type, columns, rows, ordinals)]


def _listed(replies: list[Any], frames: Sequence[Frame]) -> tuple[list[Any], list[Frame], list[int]]:
    """The entries of replies that are a list or a single one, with the frame and the place of each."""
    entries = [reply if isinstance(reply, list) else [reply] for reply in replies]
    data = [entry for some in entries for entry in some]
    rows = [frame for some, frame in zip(entries, frames, strict=True) for _ in some]
    return data, rows, [place for some in entries for place in range(len(some))]


def _inverse(parts: list[Parsed]) -> list[Parsed]:
    """Bars of inverse contracts count volume in contracts; their turnover is in the base asset, not in the quote."""
    for part in parts:
        part.columns = {**part.columns, "amount": None, "buy_amount": None}
    return parts


def _inverse_klines(messages: list[wire.KlineMessage], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    return _inverse(klines(messages, frames, names))


def _inverse_history(replies: list[list[wire.KlineRow]], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    return _inverse(kline_history(replies, frames, names))


USDM_FORMS: Mapping[str, Form[Any]] = {
    **{name: FORMS[name] for name in ("kline", "klines")},
    "trade": Form(futures.TradeMessage, _trades),
    "bookTicker": Form(futures.QuoteMessage, _quotes),
    "markPrice": Form(futures.MarkPriceMessage, _mark_prices),
    "markPrice@1s": Form(futures.MarkPriceMessage, _mark_prices),
    "forceOrder": Form(futures.LiquidationMessage, _liquidations),
    "arr": Form(futures.LiquidationMessage, _liquidations),
    "historicalTrades": Form(list[wire.PastTrade], past_trades),
    "trades": Form(list[wire.PastTrade], past_trades),
    "ticker/24hr": Form(list[futures.Ticker24h] | futures.Ticker24h, _tickers),
    "ticker/bookTicker": Form(list[futures.BookTicker] | futures.BookTicker, _nothing, sparse=True),
    "premiumIndex": Form(list[futures.PremiumIndex] | futures.PremiumIndex, _premium),
    "fundingRate": Form(list[futures.Funding], _funding, sparse=True),
    "fundingInfo": Form(list[futures.FundingInfo], _nothing, sparse=True),
    "openInterest": Form(futures.OpenInterest, _open_interest),
}

COINM_FORMS: Mapping[str, Form[Any]] = {
    **USDM_FORMS,
    "kline": Form(wire.KlineMessage, _inverse_klines),
    "klines": Form(list[wire.KlineRow], _inverse_history),
}
