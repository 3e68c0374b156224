"""The JSON of each WebSocket message and of the REST bodies made from the same facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tidewire.sandbox.config import E8
from tidewire.sandbox.series import DAY, MINUTE, Bar, Series, Trade, e8

encode = msgspec.json.encode


def kline_message(symbol: str, interval: str, span: tuple[int, int], bar: Bar, now_ms: int) -> bytes:
    """A ``kline`` message; ``x`` is true once the bar's time is over."""
    begin, end = span
    kline = {
        "t": begin,
        "T": end - 1,
        "s": symbol,
        "i": interval,
        "f": bar.first if bar.count else -1,
        "L": bar.last if bar.count else -1,
        "o": e8(bar.open),
        "c": e8(bar.close),
        "h": e8(bar.high),
        "l": e8(bar.low),
        "v": e8(bar.volume),
        "n": bar.count,
        "x": now_ms >= end,
        "q": e8(bar.quote),
        "V": e8(bar.taker),
        "Q": e8(bar.taker_quote),
        "B": "0",
    }
    return encode({"e": "kline", "E": now_ms, "s": symbol, "k": kline})


def kline_row(span: tuple[int, int], bar: Bar, unit: int) -> list[Any]:
    """One row of a klines request; ``unit`` 1 for milliseconds, 1000 for microseconds."""
    begin, end = span
    return [
        begin * unit,
        e8(bar.open),
        e8(bar.high),
        e8(bar.low),
        e8(bar.close),
        e8(bar.volume),
        end * unit - 1,
        e8(bar.quote),
        bar.count,
        e8(bar.taker),
        e8(bar.taker_quote),
        "0",
    ]


def trade_row(trade: Trade, shift_ms: int, unit: int) -> dict[str, Any]:
    """One row of a trades request."""
    ident, price, size, ms, maker = trade
    return {
        "id": ident,
        "price": e8(price),
        "qty": e8(size),
        "quoteQty": e8(price * size // E8),
        "time": (ms + shift_ms) * unit,
        "isBuyerMaker": maker,
        "isBestMatch": True,
    }


def agg_trade_row(trade: Trade, shift_ms: int, unit: int) -> dict[str, Any]:
    """One row of an aggTrades request; each trade is an aggregate of its own."""
    ident, price, size, ms, maker = trade
    return {
        "a": ident,
        "p": e8(price),
        "q": e8(size),
        "f": ident,
        "l": ident,
        "T": (ms + shift_ms) * unit,
        "m": maker,
        "M": True,
    }


_WS_NAMES = {
    "priceChange": "p",
    "priceChangePercent": "P",
    "weightedAvgPrice": "w",
    "prevClosePrice": "x",
    "lastPrice": "c",
    "lastQty": "Q",
    "bidPrice": "b",
    "bidQty": "B",
    "askPrice": "a",
    "askQty": "A",
    "openPrice": "o",
    "highPrice": "h",
    "lowPrice": "l",
    "volume": "v",
    "quoteVolume": "q",
    "openTime": "O",
    "closeTime": "C",
    "firstId": "F",
    "lastId": "L",
    "count": "n",
}
_MINI = ("c", "o", "h", "l", "v", "q")


def statistics(symbol: str, series: Series, best: Mapping[str, str], now_ms: int) -> dict[str, Any]:
    """24 hour statistics as REST gives them: of the trades from a whole minute 24 hours ago until now."""
    begin = (now_ms - DAY) // MINUTE * MINUTE + MINUTE
    bar = series.bar(begin, now_ms + 1) or Bar(0)
    before = series.price_before(begin)
    last = series.recent(1)
    return {
        "symbol": symbol,
        "priceChange": e8(bar.close - bar.open),
        "priceChangePercent": f"{(bar.close - bar.open) * 100 / (bar.open or 1):.3f}",
        "weightedAvgPrice": e8(bar.quote * E8 // bar.volume if bar.volume else 0),
        "prevClosePrice": e8(before or bar.open),
        "lastPrice": e8(bar.close),
        "lastQty": e8(last[0][2] if last else 0),
        **best,
        "openPrice": e8(bar.open),
        "highPrice": e8(bar.high),
        "lowPrice": e8(bar.low),
        "volume": e8(bar.volume),
        "quoteVolume": e8(bar.quote),
        "openTime": begin,
        "closeTime": now_ms,
        "firstId": bar.first if bar.count else -1,
        "lastId": bar.last if bar.count else -1,
        "count": bar.count,
    }


def ticker_facts(stats: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
    """A ``24hrTicker`` message before encoding."""
    facts = {short: stats[name] for name, short in _WS_NAMES.items()}
    return {"e": "24hrTicker", "E": now_ms, "s": stats["symbol"], **facts}


def mini_ticker_facts(stats: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
    """A ``24hrMiniTicker`` message before encoding."""
    facts = ticker_facts(stats, now_ms)
    return {"e": "24hrMiniTicker", "E": now_ms, "s": stats["symbol"], **{name: facts[name] for name in _MINI}}
