"""Binance's frames to columns. A function of the frames alone; the only state is the instrument list they brought."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qs, urlsplit

import msgspec
import polars as pl

from tidewire.collect import NOTE, ById, ByPrevious, Frame, Outcome, Parsed
from tidewire.records.instrument import canonical, uid
from tidewire.records.market import AggTrade, Instrument, Kline, Quote, Ticker, Trade
from tidewire.sources.binance import wire
from tidewire.sources.binance.depth import DepthParser, is_depth
from tidewire.sources.binance.markets import SPOT, Market

M = TypeVar("M")

USUAL_ROWS = 500
"""How many bars a request brings that names no limit."""
LATE_MS = 600_000

_DELIVERY = re.compile(r".+_\d{6}", re.ASCII)

# Not only msgspec's own: text that is not UTF-8, nesting without end.
_UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)

# Said before a connection is closed for an upgrade; the new connection follows when it happens.
SHUTDOWN = (b'{"stream":"!serverShutdown"', b'{"e":"serverShutdown"')

STATUS = {
    "TRADING": "trading",
    "HALT": "halted",
    "BREAK": "halted",
    "END_OF_DAY": "halted",
    "CANCEL_ONLY": "cancel_only",
    "PRE_TRADING": "pending",
    "POST_TRADING": "delisted",
    "AUCTION_MATCH": "auction",
    "PENDING_TRADING": "pending",
    "PRE_DELIVERING": "halted",
    "DELIVERING": "halted",
    "DELIVERED": "delisted",
    "PRE_SETTLE": "halted",
    "SETTLING": "halted",
    "CLOSE": "delisted",
}

Names = Mapping[str, str]
Columns = Callable[[list[Any], Sequence[Frame], Names], list[Parsed]]


class Form(Generic[M]):
    """One kind of message: how it is decoded, and how many of them become columns.

    ``sparse``: a message that is not empty may bring no rows all the same.
    """

    def __init__(self, kind: Any, columns: Columns, *, sparse: bool = False) -> None:
        self.decode = msgspec.json.Decoder(kind).decode
        self.columns = columns
        self.sparse = sparse


class BinanceParser:
    """Parses stream messages and REST replies of one market; ``forms`` are its kinds of messages."""

    def __init__(
        self, names: Names | None = None, market: Market = SPOT, forms: Mapping[str, Form[Any]] | None = None
    ) -> None:
        self._names: dict[str, str] = dict(names or {})
        self._market = market
        self._forms = FORMS if forms is None else forms
        self._prefix = f"{market.prefix}/"
        self._depth = DepthParser(ById() if market is SPOT else ByPrevious())

    def parse(self, frames: Sequence[Frame]) -> Outcome:
        """Frames in order; an instrument list holds for the frames after it."""
        outcome = Outcome()
        groups: dict[str, list[Frame]] = {}
        for frame in frames:
            if frame.wall_ns >= self._depth.due_ns:
                self._depth.pass_time(frame)
            name = _form_of(frame, self._prefix)
            if is_depth(name):
                self._depth.take(frame, name, outcome)
            elif name == "exchangeInfo":
                self._flush(groups, outcome)
                self._learn(frame, outcome)
            elif name == "":
                outcome.control.append(frame)
            else:
                groups.setdefault(name, []).append(frame)
        self._flush(groups, outcome)
        return outcome

    def follow(self, frames: Sequence[Frame]) -> None:
        """Frames whose rows are known: only what later ones depend on is looked at."""
        known = Outcome()
        for frame in frames:
            # Trades too let time go on: a row of a book that was told with one must not be told again.
            if frame.wall_ns >= self._depth.due_ns:
                self._depth.pass_time(frame)
            name = _form_of(frame, self._prefix)
            if is_depth(name):
                self._depth.take(frame, name, known)
            elif name == "exchangeInfo":
                self._learn(frame, known)
        self._depth.flush(self._names.get, known)

    def state(self) -> bytes:
        """What later rows depend on, beside the instruments, which are stored."""
        return self._depth.state()

    def resume(self, state: bytes) -> None:
        """Go on from `state`."""
        self._depth.resume(state)

    def _flush(self, groups: dict[str, list[Frame]], outcome: Outcome) -> None:
        for name, group in groups.items():
            form = self._forms.get(name)
            if form is None:
                outcome.unreadable += [(frame, f"no parser for {name!r}") for frame in group]
            else:
                _decode(form, group, self._names, outcome)
        groups.clear()
        self._depth.flush(self._names.get, outcome)

    def _learn(self, frame: Frame, outcome: Outcome) -> None:
        try:
            info = _EXCHANGE_INFO.decode(frame.payload)
            parsed = _instruments(info, frame, self._market)
        except _UNREADABLE as error:
            outcome.unreadable.append((frame, f"exchangeInfo: {error}"))
            return
        self._names.update(names_of(info, self._market))
        outcome.parsed.append(parsed)


def names_of(info: wire.ExchangeInfo, market: Market = SPOT) -> dict[str, str]:
    """Binance's spelling → canonical id."""
    return {entry.symbol: name_of(entry, market) for entry in info.symbols}


def name_of(entry: wire.SymbolInfo, market: Market) -> str:
    """Canonical id of a symbol: ``BTC-USDT`` on spot, ``BTC-USDT-SWAP`` and ``BTC-USDT-20261225`` on futures."""
    pair = f"{entry.base_asset}-{entry.quote_asset}"
    kind = kind_of(entry, market)
    delivered = f"20{entry.symbol.rpartition('_')[2]}"
    return canonical({"spot": pair, "perpetual": f"{pair}-SWAP"}.get(kind, f"{pair}-{delivered}"), market.venue)


def kind_of(entry: wire.SymbolInfo, market: Market) -> str:
    """Spot, perpetual or future; a future's symbol ends in the day of its delivery, ``_261225``."""
    if market is SPOT:
        return "spot"
    return "future" if _DELIVERY.fullmatch(entry.symbol) else "perpetual"


def _form_of(frame: Frame, prefix: str) -> str:
    """What a frame holds: the stream's kind, the endpoint's name, or "" for protocol chatter.

    Stream names are read off the first bytes: decoding the envelope by itself would double the work.
    """
    payload = frame.payload
    if payload.startswith(SHUTDOWN):
        return ""
    if payload.startswith(b'{"stream":"'):
        return _kind_of(payload[11:100].partition(b'"')[0])
    if frame.origin.request == NOTE:
        return "note"
    if frame.origin.request.startswith("GET "):
        return urlsplit(frame.origin.request[4:]).path.removeprefix(prefix)
    if payload.startswith((b'{"result"', b'{"id"')):
        return ""
    return f"message {payload[:40].decode('utf-8', 'replace')}"


@functools.lru_cache(65_536)
def _kind_of(stream: bytes) -> str:
    """What comes after the symbol in a stream's name, without its parameters: ``btcusdt@kline_1m`` → ``kline``."""
    return stream[stream.find(b"@", 0, 69) + 1 :].partition(b"_")[0].decode("ascii", "replace")


def _decode(form: Form[Any], frames: list[Frame], names: Names, outcome: Outcome) -> None:
    try:
        messages = [form.decode(frame.payload) for frame in frames]
    except _UNREADABLE:
        messages, frames = _readable(form, frames, outcome)  # find the bad ones, keep the rest
    if not frames:
        return
    parsed = form.columns(messages, frames, names)
    outcome.parsed += parsed
    if form.sparse:
        told = {frame.sequence for part in parsed for frame in part.frames}
        outcome.control += [frame for frame in frames if frame.sequence not in told]
        return
    outcome.control += [frame for frame, message in zip(frames, messages, strict=True) if message == []]


def _readable(form: Form[Any], frames: list[Frame], outcome: Outcome) -> tuple[list[Any], list[Frame]]:
    messages: list[Any] = []
    kept: list[Frame] = []
    for frame in frames:
        try:
            messages.append(form.decode(frame.payload))
            kept.append(frame)
        except _UNREADABLE as error:
            outcome.unreadable.append((frame, str(error)))
    return messages, kept


def micros(millis: list[int]) -> pl.Series:
    """Milliseconds as a column of microseconds."""
    return pl.Series([at * 1_000 for at in millis], dtype=pl.Int64)


def instrument_of(symbols: list[str], names: Names) -> list[str | None]:
    """Canonical ids; null, and so quarantined, for a symbol no instrument list had."""
    return [names.get(symbol) for symbol in symbols]


def trades(messages: list[wire.TradeMessage], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    """Trades of a stream."""
    data = [message.data for message in messages]
    at = micros([trade.T for trade in data])
    ids = pl.Series([trade.t for trade in data], dtype=pl.Int64)
    columns = {
        "instrument": instrument_of([trade.s for trade in data], names),
        "event_time": at.cast(Trade.type.schema["event_time"]),
        "public_at": at.cast(Trade.type.schema["public_at"]),
        "trade_id": ids.cast(pl.String),
        "sequence": ids,
        "price": [trade.p for trade in data],
        "size": [trade.q for trade in data],
        "side": ["sell" if trade.m else "buy" for trade in data],
    }
    return [Parsed(Trade.type, columns, frames)]


def past_trades(replies: list[list[wire.PastTrade]], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    """Trades asked for by id. What streams call ``t``, ``p``, ``q`` and ``T`` has other names here."""
    parsed: list[Parsed] = []
    for trades, frame in zip(replies, frames, strict=True):
        if not trades:
            continue
        count = len(trades)
        at = micros([trade.time for trade in trades])
        ids = pl.Series([trade.id for trade in trades], dtype=pl.Int64)
        columns: dict[str, Any] = {
            "instrument": instrument_of([asked(frame, "symbol")] * count, names),
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


def _agg_columns(data: Sequence[wire.AggTradeData | wire.PastAggTrade]) -> dict[str, Any]:
    at = micros([trade.T for trade in data])
    return {
        "event_time": at.cast(AggTrade.type.schema["event_time"]),
        "public_at": at.cast(AggTrade.type.schema["public_at"]),
        "sequence": [trade.a for trade in data],
        "price": [trade.p for trade in data],
        "size": [trade.q for trade in data],
        "side": ["sell" if trade.m else "buy" for trade in data],
        "first_trade": [_or_unknown(trade.f) for trade in data],
        "last_trade": [_or_unknown(trade.l) for trade in data],
    }


def agg_trades(messages: list[wire.AggTradeMessage], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    """Aggregated trades of a stream."""
    data = [message.data for message in messages]
    columns = {"instrument": instrument_of([trade.s for trade in data], names), **_agg_columns(data)}
    return [Parsed(AggTrade.type, columns, frames)]


def past_agg_trades(replies: list[list[wire.PastAggTrade]], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    """Aggregates asked for by id or time."""
    parsed: list[Parsed] = []
    for trades, frame in zip(replies, frames, strict=True):
        if not trades:
            continue
        count = len(trades)
        columns = {"instrument": instrument_of([asked(frame, "symbol")] * count, names), **_agg_columns(trades)}
        parsed.append(Parsed(AggTrade.type, columns, [frame] * count, list(range(count)), past=True))
    return parsed


def _or_unknown(ident: int) -> int | None:
    """Binance writes -1 where an aggregate has no trades of its own."""
    return None if ident < 0 else ident


def asked(frame: Frame, name: str) -> str:
    """A parameter of the request that a frame answers."""
    return parse_qs(urlsplit(frame.origin.request[4:]).query).get(name, [""])[0]


def _quotes(messages: list[wire.QuoteMessage], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    data = [message.data for message in messages]
    received = [frame.wall_ns // 1_000 for frame in frames]
    columns = {
        "instrument": instrument_of([quote.s for quote in data], names),
        "event_time": received,  # the message has no time of its own
        "public_at": received,
        "sequence": [quote.u for quote in data],
        "bid_price": [or_none(quote.b) for quote in data],
        "bid_size": [quote.B for quote in data],
        "ask_price": [or_none(quote.a) for quote in data],
        "ask_size": [quote.A for quote in data],
    }
    return [Parsed(Quote.type, columns, frames)]


def klines(messages: list[wire.KlineMessage], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    """Bars of a stream, forming ones among them."""
    bars = [message.data.k for message in messages]
    closes = [bar.T + 1 for bar in bars]
    public = [
        (closed if bar.x else message.data.E) * 1_000
        for bar, closed, message in zip(bars, closes, messages, strict=True)
    ]
    columns = {
        "instrument": instrument_of([bar.s for bar in bars], names),
        "interval": [bar.i for bar in bars],
        "event_time": micros([bar.t for bar in bars]),
        "public_at": public,
        "open_time": micros([bar.t for bar in bars]),
        "close_time": micros(closes),
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


def kline_history(replies: list[list[wire.KlineRow]], frames: Sequence[Frame], names: Names) -> list[Parsed]:
    """REST klines. The last row may still be forming: it is not final, unless it is old and nothing follows it."""
    parsed: list[Parsed] = []
    for rows, frame in zip(replies, frames, strict=True):
        if not rows:
            continue
        by_column = list(zip(*rows, strict=True))
        count = len(rows)
        closes = [close + 1 for close in by_column[6]]
        ends = _ends(rows, frame)
        columns: dict[str, Any] = {
            "instrument": instrument_of([asked(frame, "symbol")] * count, names),
            "interval": asked(frame, "interval"),
            "event_time": micros(list(by_column[0])),
            "public_at": [
                *(close * 1_000 for close in closes[:-1]),
                closes[-1] * 1_000 if ends else frame.wall_ns // 1_000,
            ],
            "open_time": micros(list(by_column[0])),
            "close_time": micros(closes),
            "final": [True] * (count - 1) + [ends],
        }
        named = {"open": 1, "high": 2, "low": 3, "close": 4, "volume": 5}
        named |= {"amount": 7, "trades": 8, "buy_volume": 9, "buy_amount": 10}
        columns |= {name: list(by_column[place]) for name, place in named.items()}
        parsed.append(Parsed(Kline.type, columns, [frame] * count, list(range(count))))
    return parsed


def _ends(rows: list[wire.KlineRow], frame: Frame) -> bool:
    """Whether the last bar of a reply is the last its symbol had: the venue was free to send more."""
    limit = asked(frame, "limit")
    cut = asked(frame, "endTime") or len(rows) >= int(limit or USUAL_ROWS)
    return not cut and is_over(rows[-1], frame.wall_ns)


def is_over(bar: wire.KlineRow, at_ns: int) -> bool:
    """Whether a bar ended so long ago that a next one would be there by now, clocks that differ included."""
    return (bar[6] + LATE_MS) * 1_000_000 <= at_ns


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
    at = micros([ticker.close_time for ticker in data]).cast(Ticker.type.schema["event_time"])
    return {
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
        "bid_price": [or_none(ticker.bid_price) for ticker in data],
        "ask_price": [or_none(ticker.ask_price) for ticker in data],
        "change_ratio": [percent(ticker.price_change_percent) for ticker in data],
    }


def _instruments(info: wire.ExchangeInfo, frame: Frame, market: Market) -> Parsed:
    symbols = info.symbols
    received = [frame.wall_ns // 1_000] * len(symbols)
    price = [entry.rule("PRICE_FILTER") for entry in symbols]
    lot = [entry.rule("LOT_SIZE") for entry in symbols]
    columns: dict[str, Any] = {
        "instrument": [name_of(entry, market) for entry in symbols],
        "event_time": received,
        "public_at": received,
        "uid": [uid(market.venue, entry.symbol) for entry in symbols],
        "native": [entry.symbol for entry in symbols],
        "kind": [kind_of(entry, market) for entry in symbols],
        "base": [entry.base_asset for entry in symbols],
        "quote": [entry.quote_asset for entry in symbols],
        "status": [_status(entry) for entry in symbols],
        "price_step": [or_none(found.tick_size) if found else None for found in price],
        "size_step": [or_none(found.step_size) if found else None for found in lot],
        "name": [f"{entry.base_asset} / {entry.quote_asset}" for entry in symbols],
    }
    if market is not SPOT:
        # USD-M says no size: one contract is one unit of the base asset.
        columns["contract_size"] = [str(entry.contract_size or 1) for entry in symbols]
    return Parsed(Instrument.type, columns, [frame] * len(symbols), list(range(len(symbols))))


def said_status(entry: wire.SymbolInfo) -> str:
    """The status in Binance's words."""
    return entry.status or entry.contract_status


def _status(entry: wire.SymbolInfo) -> str:
    said = said_status(entry)
    return STATUS.get(said, said)


def or_none(text: str | None) -> str | None:
    """Binance writes zero where there is no price; missing is null, never zero."""
    return None if text is None or not text.strip("0.") else text


def percent(text: str) -> str:
    """Percent as a ratio, in text: dividing the float would add an error of its own."""
    return f"{text}e-2"


_EXCHANGE_INFO = msgspec.json.Decoder(wire.ExchangeInfo)

FORMS: dict[str, Form[Any]] = {
    "trade": Form(wire.TradeMessage, trades),
    "aggTrade": Form(wire.AggTradeMessage, agg_trades),
    "bookTicker": Form(wire.QuoteMessage, _quotes),
    "kline": Form(wire.KlineMessage, klines),
    "ticker": Form(wire.TickerMessage, _tickers),
    "historicalTrades": Form(list[wire.PastTrade], past_trades),
    "trades": Form(list[wire.PastTrade], past_trades),
    "aggTrades": Form(list[wire.PastAggTrade], past_agg_trades),
    "klines": Form(list[wire.KlineRow], kline_history),
    "ticker/24hr": Form(list[wire.Ticker24h] | wire.Ticker24h, _ticker_list),
}
