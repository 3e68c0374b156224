"""Binance's frames to columns. A function of the frames alone; the only state is the instrument list they brought."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qs, urlsplit

import msgspec
import polars as pl

from tidewire.collect import Frame, Outcome, Parsed
from tidewire.records.instrument import canonical, uid
from tidewire.records.market import Instrument, Kline, Quote, Ticker, Trade
from tidewire.sources.binance import wire

VENUE = "BINANCE"
M = TypeVar("M")

# Not only msgspec's own: text that is not UTF-8, nesting without end.
_UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)

# Said before a connection is closed for an upgrade; the new connection follows when it happens.
_SHUTDOWN = (b'{"stream":"!serverShutdown"', b'{"e":"serverShutdown"')

STATUS = {
    "TRADING": "trading",
    "HALT": "halted",
    "BREAK": "halted",
    "END_OF_DAY": "halted",
    "CANCEL_ONLY": "cancel_only",
    "PRE_TRADING": "pending",
    "POST_TRADING": "delisted",
    "AUCTION_MATCH": "auction",
}

Names = Mapping[str, str]
Columns = Callable[[list[Any], Sequence[Frame], Names], list[Parsed]]


class _Form(Generic[M]):
    """One kind of message: how it is decoded, and how many of them become columns."""

    def __init__(self, kind: Any, columns: Columns) -> None:
        self.decode = msgspec.json.Decoder(kind).decode
        self.columns = columns


class BinanceParser:
    """Parses stream messages and REST replies of Binance spot."""

    def __init__(self, names: Names | None = None) -> None:
        self._names: dict[str, str] = dict(names or {})

    def parse(self, frames: Sequence[Frame]) -> Outcome:
        """Frames in order; an instrument list holds for the frames after it."""
        outcome = Outcome()
        groups: dict[str, list[Frame]] = {}
        for frame in frames:
            name = _form_of(frame)
            if name == "exchangeInfo":
                self._flush(groups, outcome)
                self._learn(frame, outcome)
            elif name == "":
                outcome.control.append(frame)
            else:
                groups.setdefault(name, []).append(frame)
        self._flush(groups, outcome)
        return outcome

    def _flush(self, groups: dict[str, list[Frame]], outcome: Outcome) -> None:
        for name, group in groups.items():
            form = _FORMS.get(name)
            if form is None:
                outcome.unreadable += [(frame, f"no parser for {name!r}") for frame in group]
            else:
                _decode(form, group, self._names, outcome)
        groups.clear()

    def _learn(self, frame: Frame, outcome: Outcome) -> None:
        try:
            info = _EXCHANGE_INFO.decode(frame.payload)
            parsed = _instruments(info, frame)
        except _UNREADABLE as error:
            outcome.unreadable.append((frame, f"exchangeInfo: {error}"))
            return
        self._names.update(names_of(info))
        outcome.parsed.append(parsed)


def names_of(info: wire.ExchangeInfo) -> dict[str, str]:
    """Binance's spelling → canonical id."""
    return {entry.symbol: canonical(f"{entry.base_asset}-{entry.quote_asset}", VENUE) for entry in info.symbols}


def _form_of(frame: Frame) -> str:
    """What a frame holds: the stream's kind, the endpoint's name, or "" for protocol chatter.

    Stream names are read off the first bytes: decoding the envelope by itself would double the work.
    """
    payload = frame.payload
    if payload.startswith(_SHUTDOWN):
        return ""
    if payload.startswith(b'{"stream":"'):
        begin = payload.find(b"@", 11, 80) + 1
        return payload[begin : payload.find(b'"', begin)].partition(b"_")[0].decode("ascii", "replace")
    if frame.origin.request.startswith("GET "):
        return urlsplit(frame.origin.request[4:]).path.removeprefix("/api/v3/")
    if payload.startswith((b'{"result"', b'{"id"')):
        return ""
    return f"message {payload[:40].decode('utf-8', 'replace')}"


def _decode(form: _Form[Any], frames: list[Frame], names: Names, outcome: Outcome) -> None:
    try:
        messages = [form.decode(frame.payload) for frame in frames]
    except _UNREADABLE:
        messages, frames = _readable(form, frames, outcome)  # find the bad ones, keep the rest
    if frames:
        outcome.parsed += form.columns(messages, frames, names)
    outcome.control += [frame for frame, message in zip(frames, messages, strict=True) if message == []]


def _readable(form: _Form[Any], frames: list[Frame], outcome: Outcome) -> tuple[list[Any], list[Frame]]:
    messages: list[Any] = []
    kept: list[Frame] = []
    for frame in frames:
        try:
            messages.append(form.decode(frame.payload))
            kept.append(frame)
        except _UNREADABLE as error:
            outcome.unreadable.append((frame, str(error)))
    return messages, kept


def _micros(millis: list[int]) -> pl.Series:
    return pl.Series(millis, dtype=pl.Int64) * 1_000


def _instrument(symbols: list[str], names: Names) -> list[str | None]:
    """Canonical ids; null, and so quarantined, for a symbol no instrument list had."""
    return [names.get(symbol) for symbol in symbols]


def _trades(messages: list[wire.TradeMessage], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    data = [message.data for message in messages]
    at = _micros([trade.T for trade in data])
    ids = pl.Series([trade.t for trade in data], dtype=pl.Int64)
    columns = {
        "instrument": _instrument([trade.s for trade in data], names),
        "event_time": at.cast(Trade.type.schema["event_time"]),
        "public_at": at.cast(Trade.type.schema["public_at"]),
        "trade_id": ids.cast(pl.String),
        "sequence": ids,
        "price": [trade.p for trade in data],
        "size": [trade.q for trade in data],
        "side": ["sell" if trade.m else "buy" for trade in data],
    }
    return [Parsed(Trade.type, columns, frames)]


def _past_trades(replies: list[list[wire.PastTrade]], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    """Trades asked for by id. What streams call ``t``, ``p``, ``q`` and ``T`` has other names here."""
    parsed: list[Parsed] = []
    for trades, frame in zip(replies, frames, strict=True):
        if not trades:
            continue
        count = len(trades)
        at = _micros([trade.time for trade in trades])
        ids = pl.Series([trade.id for trade in trades], dtype=pl.Int64)
        columns: dict[str, Any] = {
            "instrument": _instrument([_asked(frame, "symbol")] * count, names),
            "event_time": at.cast(Trade.type.schema["event_time"]),
            "public_at": at.cast(Trade.type.schema["public_at"]),
            "trade_id": ids.cast(pl.String),
            "sequence": ids,
            "price": [trade.price for trade in trades],
            "size": [trade.qty for trade in trades],
            "side": ["sell" if trade.is_buyer_maker else "buy" for trade in trades],
        }
        parsed.append(Parsed(Trade.type, columns, [frame] * count, list(range(count)), past=True))
    return parsed


def _asked(frame: Frame, name: str) -> str:
    """A parameter of the request that a frame answers."""
    return parse_qs(urlsplit(frame.origin.request[4:]).query).get(name, [""])[0]


def _quotes(messages: list[wire.QuoteMessage], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    data = [message.data for message in messages]
    received = [frame.wall_ns // 1_000 for frame in frames]
    columns = {
        "instrument": _instrument([quote.s for quote in data], names),
        "event_time": received,  # the message has no time of its own
        "public_at": received,
        "sequence": [quote.u for quote in data],
        "bid_price": [_or_none(quote.b) for quote in data],
        "bid_size": [quote.B for quote in data],
        "ask_price": [_or_none(quote.a) for quote in data],
        "ask_size": [quote.A for quote in data],
    }
    return [Parsed(Quote.type, columns, frames)]


def _klines(messages: list[wire.KlineMessage], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    bars = [message.data.k for message in messages]
    closes = [bar.T + 1 for bar in bars]
    public = [
        (closed if bar.x else message.data.E) * 1_000
        for bar, closed, message in zip(bars, closes, messages, strict=True)
    ]
    columns = {
        "instrument": _instrument([bar.s for bar in bars], names),
        "interval": [bar.i for bar in bars],
        "event_time": _micros([bar.t for bar in bars]),
        "public_at": public,
        "open_time": _micros([bar.t for bar in bars]),
        "close_time": _micros(closes),
        "open": [bar.o for bar in bars],
        "high": [bar.h for bar in bars],
        "low": [bar.l for bar in bars],
        "close": [bar.c for bar in bars],
        "volume": [bar.v for bar in bars],
        "amount": [bar.q for bar in bars],
        "trades": [bar.n for bar in bars],
        "buy_volume": [bar.V for bar in bars],
        "buy_amount": [bar.Q for bar in bars],
        "final": [bar.x for bar in bars],
    }
    return [Parsed(Kline.type, columns, frames)]


def _kline_history(replies: list[list[wire.KlineRow]], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    """REST klines. The last row may still be forming and nothing in the reply says so: it is taken as not final."""
    parsed: list[Parsed] = []
    for rows, frame in zip(replies, frames, strict=True):
        if not rows:
            continue
        by_column = list(zip(*rows, strict=True))
        count = len(rows)
        closes = [close + 1 for close in by_column[6]]
        columns: dict[str, Any] = {
            "instrument": _instrument([_asked(frame, "symbol")] * count, names),
            "interval": _asked(frame, "interval"),
            "event_time": _micros(list(by_column[0])),
            "public_at": [*(close * 1_000 for close in closes[:-1]), frame.wall_ns // 1_000],
            "open_time": _micros(list(by_column[0])),
            "close_time": _micros(closes),
            "final": [True] * (count - 1) + [False],
        }
        named = {"open": 1, "high": 2, "low": 3, "close": 4, "volume": 5}
        named |= {"amount": 7, "trades": 8, "buy_volume": 9, "buy_amount": 10}
        columns |= {name: list(by_column[place]) for name, place in named.items()}
        parsed.append(Parsed(Kline.type, columns, [frame] * count, list(range(count))))
    return parsed


def _tickers(messages: list[wire.TickerMessage], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    return [Parsed(Ticker.type, _ticker_columns([message.data for message in messages], names), frames)]


def _ticker_list(
    replies: list[list[wire.Ticker24h] | wire.Ticker24h], frames: Sequence[Frame], names: Names
) -> list[Parsed]:
    data: list[wire.Ticker24h] = []
    rows: list[Frame] = []
    ordinals: list[int] = []
    for reply, frame in zip(replies, frames, strict=True):
        entries = reply if isinstance(reply, list) else [reply]
        data += entries
        rows += [frame] * len(entries)
        ordinals += range(len(entries))
    return [Parsed(Ticker.type, _ticker_columns(data, names), rows, ordinals)]


def _ticker_columns(data: Sequence[wire.TickerData | wire.Ticker24h], names: Names) -> dict[str, Any]:
    at = _micros([ticker.close_time for ticker in data]).cast(Ticker.type.schema["event_time"])
    return {
        "instrument": _instrument([ticker.symbol for ticker in data], names),
        "event_time": at,
        "public_at": at,
        "last": [_or_none(ticker.last_price) for ticker in data],
        "open": [_or_none(ticker.open_price) for ticker in data],
        "high": [_or_none(ticker.high_price) for ticker in data],
        "low": [_or_none(ticker.low_price) for ticker in data],
        "volume": [ticker.volume for ticker in data],
        "amount": [ticker.quote_volume for ticker in data],
        "trades": [ticker.count for ticker in data],
        "bid_price": [_or_none(ticker.bid_price) for ticker in data],
        "ask_price": [_or_none(ticker.ask_price) for ticker in data],
        "change_ratio": [_percent(ticker.price_change_percent) for ticker in data],
    }


def _instruments(info: wire.ExchangeInfo, frame: Frame) -> Parsed:
    symbols = info.symbols
    received = [frame.wall_ns // 1_000] * len(symbols)
    price = [entry.rule("PRICE_FILTER") for entry in symbols]
    lot = [entry.rule("LOT_SIZE") for entry in symbols]
    columns: dict[str, Any] = {
        "instrument": [canonical(f"{entry.base_asset}-{entry.quote_asset}", VENUE) for entry in symbols],
        "event_time": received,
        "public_at": received,
        "uid": [uid(VENUE, entry.symbol) for entry in symbols],
        "native": [entry.symbol for entry in symbols],
        "kind": "spot",
        "base": [entry.base_asset for entry in symbols],
        "quote": [entry.quote_asset for entry in symbols],
        "status": [STATUS.get(entry.status, entry.status) for entry in symbols],
        "price_step": [_or_none(found.tick_size) if found else None for found in price],
        "size_step": [_or_none(found.step_size) if found else None for found in lot],
        "name": [f"{entry.base_asset} / {entry.quote_asset}" for entry in symbols],
    }
    return Parsed(Instrument.type, columns, [frame] * len(symbols), list(range(len(symbols))))


def _or_none(text: str | None) -> str | None:
    """Binance writes zero where there is no price; missing is null, never zero."""
    return None if text is None or not text.strip("0.") else text


def _percent(text: str) -> str:
    """Percent as a ratio, in text: dividing the float would add an error of its own."""
    return f"{text}e-2"


_EXCHANGE_INFO = msgspec.json.Decoder(wire.ExchangeInfo)

_FORMS: dict[str, _Form[Any]] = {
    "trade": _Form(wire.TradeMessage, _trades),
    "bookTicker": _Form(wire.QuoteMessage, _quotes),
    "kline": _Form(wire.KlineMessage, _klines),
    "ticker": _Form(wire.TickerMessage, _tickers),
    "historicalTrades": _Form(list[wire.PastTrade], _past_trades),
    "trades": _Form(list[wire.PastTrade], _past_trades),
    "klines": _Form(list[wire.KlineRow], _kline_history),
    "ticker/24hr": _Form(list[wire.Ticker24h] | wire.Ticker24h, _ticker_list),
}
