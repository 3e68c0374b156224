"""What Binance is asked beside its streams, in the background: past trades by id, past bars by time, what is now."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from tidewire.collect import Expected, Missing, Range
from tidewire.records.market import INTERVALS
from tidewire.sources.binance import wire
from tidewire.sources.binance import wire_futures as futures
from tidewire.sources.binance.depth import DepthSnapshot
from tidewire.sources.binance.markets import MOST_ROWS, SPOT
from tidewire.sources.binance.order_book import OrderBookCollector

if TYPE_CHECKING:
    from tidewire.sources.binance.app import BinanceApp

_SNAPSHOT = msgspec.json.Decoder(DepthSnapshot)
_NOW = msgspec.json.Decoder(wire.Now)
_BARS = msgspec.json.Decoder(list[wire.KlineRow])
_MARKS = msgspec.json.Decoder(list[futures.PremiumIndex] | futures.PremiumIndex)
_TICKERS = msgspec.json.Decoder(list[futures.Ticker24h] | futures.Ticker24h)
_BESTS = msgspec.json.Decoder(list[futures.BookTicker] | futures.BookTicker)
_TRADES = msgspec.json.Decoder(list[wire.PastTrade])
_AGG_TRADES = msgspec.json.Decoder(list[wire.PastAggTrade])


def spans(ranges: Sequence[Range], step: int, most: int) -> Iterator[Range]:
    """Cover ascending ranges with as few requests as can be: each from something missing, ``most`` values long."""
    pending = deque(ranges)
    while pending:
        begin = last = pending[0][0]
        end = begin + most * step
        while pending and pending[0][0] < end:
            _, until = pending.popleft()
            last = min(until, end - step)
            if until >= end:
                pending.appendleft((end, until))
        yield begin, last


async def _trades(app: BinanceApp, symbol: str, missing: Missing) -> int:
    if app.market.trades_by_id_need_key and not app.config.api.key:
        # Without a key the latest trades are all that is to be had; older ones are given up after some answers.
        reply = await app.ask("trades", {"symbol": symbol, "limit": str(MOST_ROWS)}, background=True)
        return await app.keep("trade", reply)
    kept = there = 0
    for first, last in spans(missing.ranges, 1, app.market.trades_by_id):
        if last < there:  # the venue has nothing up to there
            continue
        params = {"symbol": symbol, "fromId": str(first), "limit": str(last - first + 1)}
        reply = await app.ask("historicalTrades", params, background=True)
        kept = await app.keep("trade", reply)
        # Nothing from here on: the venue has no later trades, so it has none of the following spans.
        trades = _TRADES.decode(reply.body)
        if not trades:
            break
        there = trades[0].id if trades[0].id > last else 0
    return kept


async def _agg_trades(app: BinanceApp, symbol: str, missing: Missing) -> int:
    kept = there = 0
    for first, last in spans(missing.ranges, 1, MOST_ROWS):
        if last < there:  # the venue has nothing up to there
            continue
        params = {"symbol": symbol, "fromId": str(first), "limit": str(last - first + 1)}
        reply = await app.ask("aggTrades", params, background=True)
        kept = await app.keep("agg_trade", reply)
        trades = _AGG_TRADES.decode(reply.body)
        if not trades:
            break
        there = trades[0].a if trades[0].a > last else 0
    return kept


async def _klines(app: BinanceApp, symbol: str, missing: Missing) -> int:
    interval = missing.series or "1m"
    step = INTERVALS[interval] * 1_000_000
    kept = 0
    # One bar more than is missing: the last of a reply may still be forming, and is taken for that.
    for first, last in spans(missing.ranges, step, MOST_ROWS - 1):
        params = {"symbol": symbol, "interval": interval, "startTime": str(first // 1_000)}
        params |= {"endTime": str((last + step) // 1_000), "limit": str(MOST_ROWS)}
        kept = await app.keep("kline", await app.ask("klines", params, background=True))
    return kept


async def has_more(app: BinanceApp, symbol: str, expected: Expected, last: Mapping[str, Any] | None) -> bool:
    """Whether Binance has more of a stream than its last row: a later trade, another best price, a bar that went on."""
    if last is None:
        return True
    if expected.type == "kline":
        params = {"symbol": symbol, "interval": expected.series or "1m", "limit": "1"}
        reply = await app.ask("klines", params, background=True)
        await app.keep("kline", reply)
        return any(goes_on(row, last, reply.received_ns) for row in _BARS.decode(reply.body))
    if expected.type == "agg_trade":
        reply = await app.ask("aggTrades", {"symbol": symbol, "limit": "1"}, background=True)
        await app.keep("agg_trade", reply)
        return any(trade.a > last["sequence"] for trade in _AGG_TRADES.decode(reply.body))
    if expected.type == "order_book":
        book = app.get("order_book")
        assert isinstance(book, OrderBookCollector)
        return _SNAPSHOT.decode(await book.snapshot(symbol)).last_update_id > last["sequence"]
    if app.market is not SPOT:
        return await _futures_have_more(app, symbol, expected, last)
    reply = await app.ask("ticker/24hr", {"symbol": symbol}, background=True)
    await app.keep("ticker", reply)
    now = _NOW.decode(reply.body)
    if expected.type == "trade":
        return last["sequence"] is not None and now.last_id > last["sequence"]
    return _another_price(now, last)


def goes_on(bar: wire.KlineRow, last: Mapping[str, Any], at_ns: int) -> bool:
    """Whether a bar shows that trading went on after the last that was pushed.

    A bar without a trade is not pushed. One that is over and still the newest is the last of a symbol that is not
    traded any more: what its last seconds brought is no reason for a new connection.
    """
    opened_us = bar[0] * 1_000
    if not bar[8] or opened_us < last["open_time"]:
        return False
    return opened_us > last["open_time"] or (bar[8] > (last["trades"] or 0) and bar[6] * 1_000_000 >= at_ns)


async def _futures_have_more(app: BinanceApp, symbol: str, expected: Expected, last: Mapping[str, Any]) -> bool:
    """The same of futures, whose tickers have neither bid nor ask, and of mark prices, which are never still."""
    if expected.type == "mark_price":
        # Looked at, not kept: its row would pass for one that the stream brought.
        reply = await app.ask("premiumIndex", {"symbol": symbol}, background=True)
        marks = _MARKS.decode(reply.body)
        latest = max(mark.time for mark in (marks if isinstance(marks, list) else [marks]))
        return latest * 1_000 > last["event_time"]
    if expected.type == "trade":
        reply = await app.ask("ticker/24hr", {"symbol": symbol}, background=True)
        await app.keep("ticker", reply)
        tickers = _TICKERS.decode(reply.body)
        newest = max(ticker.last_id for ticker in (tickers if isinstance(tickers, list) else [tickers]))
        return last["sequence"] is not None and newest > last["sequence"]
    reply = await app.ask("ticker/bookTicker", {"symbol": symbol}, background=True)
    await app.keep("quote", reply)
    found = _BESTS.decode(reply.body)
    return any(_another_price(best, last) for best in (found if isinstance(found, list) else [found]))


def _another_price(now: wire.Now | futures.BookTicker, last: Mapping[str, Any]) -> bool:
    shown = (now.bid_price, now.bid_qty, now.ask_price, now.ask_qty)
    return tuple(map(Decimal, shown)) != tuple(
        last[name] or Decimal(0) for name in ("bid_price", "bid_size", "ask_price", "ask_size")
    )


PAST: Mapping[str, Callable[[BinanceApp, str, Missing], Awaitable[int]]] = {
    "trade": _trades,
    "agg_trade": _agg_trades,
    "kline": _klines,
}
"""How each type is asked for; the last frame kept comes back."""
