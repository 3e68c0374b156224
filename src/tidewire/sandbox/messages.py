"""The JSON of each WebSocket message and of the REST bodies made from the same facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from tidewire.sandbox.config import E8
from tidewire.sandbox.series import DAY, MINUTE, Bar, Series, Trade, e8

encode = msgspec.json.encode

Text = Callable[[int], str]
"""A number of 1e-8 as the venue writes it."""


@dataclass(frozen=True)
class Form:
    """How a market writes prices and quantities, and what it gives as turnover of a bar, whole and of its takers."""

    price: Text = e8
    size: Text = e8
    turnover: Callable[[Bar], tuple[int, int]] = lambda bar: (bar.quote, bar.taker_quote)


SPOT = Form()


def kline_message(symbol: str, interval: str, span: tuple[int, int], bar: Bar, now_ms: int, form: Form = SPOT) -> bytes:
    """A ``kline`` message; ``x`` is true once the bar's time is over."""
    begin, end = span
    price, size = form.price, form.size
    turnover, taken = form.turnover(bar)
    kline = {
        "t": begin,
        "T": end - 1,
        "s": symbol,
        "i": interval,
        "f": bar.first if bar.count else -1,
        "L": bar.last if bar.count else -1,
        "o": price(bar.open),
        "c": price(bar.close),
        "h": price(bar.high),
        "l": price(bar.low),
        "v": size(bar.volume),
        "n": bar.count,
        "x": now_ms >= end,
        "q": e8(turnover),
        "V": size(bar.taker),
        "Q": e8(taken),
        "B": "0",
    }
    return encode({"e": "kline", "E": now_ms, "s": symbol, "k": kline})


def kline_row(span: tuple[int, int], bar: Bar, unit: int, form: Form = SPOT) -> list[Any]:
    """One row of a klines request; ``unit`` 1 for milliseconds, 1000 for microseconds."""
    begin, end = span
    turnover, taken = form.turnover(bar)
    return [
        begin * unit,
        form.price(bar.open),
        form.price(bar.high),
        form.price(bar.low),
        form.price(bar.close),
        form.size(bar.volume),
        end * unit - 1,
        e8(turnover),
        bar.count,
        form.size(bar.taker),
        e8(taken),
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


def statistics(symbol: str, series: Series, best: Mapping[str, str], now_ms: int, form: Form = SPOT) -> dict[str, Any]:
    """24 hour statistics as REST gives them: of the trades from a whole minute 24 hours ago until now."""
    begin = (now_ms - DAY) // MINUTE * MINUTE + MINUTE
    bar = series.bar(begin, now_ms + 1) or Bar(0)
    before = series.price_before(begin)
    last = series.recent(1)
    price, size = form.price, form.size
    return {
        "symbol": symbol,
        "priceChange": price(bar.close - bar.open),
        "priceChangePercent": f"{(bar.close - bar.open) * 100 / (bar.open or 1):.3f}",
        "weightedAvgPrice": price(bar.quote * E8 // bar.volume if bar.volume else 0),
        "prevClosePrice": price(before or bar.open),
        "lastPrice": price(bar.close),
        "lastQty": size(last[0][2] if last else 0),
        **best,
        "openPrice": price(bar.open),
        "highPrice": price(bar.high),
        "lowPrice": price(bar.low),
        "volume": size(bar.volume),
        "quoteVolume": e8(form.turnover(bar)[0]),
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
