"""From Harbour's frames to rows: a function of the frames alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tidewire.collect import NOTE, Ask, Books, BookUpdate, ByPrevious, Frame, Outcome, Parsed, unreadable
from tidewire.errors import InputError
from tidewire.records import RecordType
from tidewire.records import market as records
from tidewire.records.instrument import canonical, uid
from tidewire_harbour import wire

SNAPSHOT = "book.snapshot"
REFUSED = "harbour.refused"

_message = msgspec.json.Decoder(wire.Message).decode
_reply = msgspec.json.Decoder(wire.Reply).decode
_instruments = msgspec.json.Decoder(list[wire.Instrument]).decode
_trades = msgspec.json.Decoder(list[wire.Trade]).decode
_bests = msgspec.json.Decoder(list[wire.Best]).decode
_books = msgspec.json.Decoder(list[wire.Book]).decode
_STATUS = {"live": "trading"}


class HarbourParser:
    """Rows of instruments, trades and quotes, and through `Books` of order books."""

    def __init__(self) -> None:
        # Ids have holes, and each update names the one before it: the rule of Harbour's book, step 3.
        self._books = Books(ByPrevious())

    def parse(self, frames: Sequence[Frame]) -> Outcome:
        """See `tidewire.collect.Parser`."""
        outcome = Outcome()
        rows: dict[tuple[str, bool], _Rows] = {}
        for frame in frames:
            # A frame that cannot be read leaves no rows: they are made first and added after.
            self._books.pass_time(frame)
            try:
                made = self._frame(frame, outcome)
            except (msgspec.MsgspecError, InputError, ValueError) as error:
                outcome.unreadable.append((frame, str(error)))
                continue
            if made is not None:
                rows.setdefault((made.type.name, made.past), _Rows(made.type, made.past)).extend(made)
        outcome.parsed.extend(each.parsed() for each in rows.values())
        outcome.parsed.extend(self._books.take(_instrument))
        outcome.asks.extend(Ask(SNAPSHOT, {"source": wire.SOURCE, "symbol": symbol}) for symbol in self._books.asks())
        return outcome

    def follow(self, frames: Sequence[Frame]) -> None:
        """Take in frames whose rows are known already."""
        self.parse(frames)

    def state(self) -> bytes:
        """What is known of the books."""
        known = self._books.state()
        return msgspec.json.encode(known) if known else b""

    def resume(self, state: bytes) -> None:
        """Go on from what `state` said."""
        try:
            self._books.resume(msgspec.json.decode(state, type=dict[str, Any]))
        except (msgspec.MsgspecError, LookupError, TypeError, ValueError) as error:
            raise unreadable("the state of Harbour's books", state) from error

    def _frame(self, frame: Frame, outcome: Outcome) -> _Rows | None:
        request = frame.origin.request
        if request == NOTE:
            self._books.note(frame)
            outcome.control.append(frame)
            return None
        if request.startswith("GET "):
            return self._answer(frame, urlsplit(request[4:]).path.rpartition("/")[2], outcome)
        return self._told(frame, outcome)

    def _answer(self, frame: Frame, path: str, outcome: Outcome) -> _Rows | None:
        reply = _reply(frame.payload)
        made: _Rows | None = None
        if reply.code != "0":
            pass
        elif path == "instruments":
            made = _instrument_rows(frame, _instruments(reply.data))
        elif path == "trades":
            made = _trade_rows(frame, _trades(reply.data), past=True)
        elif path == "book":
            for book in _books(reply.data):
                self._books.snapshot(frame, book.symbol, book.seq, (book.bids, book.asks), wire.micros(book.ts))
            outcome.folded.append(frame)
            return None
        else:
            raise ValueError(f"no reply of this parser's: {frame.origin.request}")
        if made is None or not made.frames:
            outcome.control.append(frame)
            return None
        return made

    def _told(self, frame: Frame, outcome: Outcome) -> _Rows | None:
        if frame.payload == wire.PONG:
            outcome.control.append(frame)
            return None
        message = _message(frame.payload)
        if message.event:
            outcome.control.append(frame)
            if message.event == "error":
                about = f"{message.arg.symbol}@{message.arg.channel}" if message.arg else ""
                outcome.asks.append(Ask(REFUSED, {"code": message.code, "said": message.msg, "stream": about}))
            return None
        if message.arg is None:
            raise ValueError("neither event nor arg")
        if message.arg.channel == "trades":
            return _trade_rows(frame, _trades(message.data), past=False)
        if message.arg.channel == "bbo":
            return _quote_rows(frame, message.arg.symbol, _bests(message.data))
        if message.arg.channel != "book":
            raise ValueError(f"a channel nobody asked for: {message.arg.channel}")
        self._book(frame, message, outcome)
        return None

    def _book(self, frame: Frame, message: wire.Message, outcome: Outcome) -> None:
        assert message.arg is not None
        symbol = message.arg.symbol
        for book in _books(message.data):
            if message.action == "snapshot":
                self._books.snapshot(frame, symbol, book.seq, (book.bids, book.asks), wire.micros(book.ts))
            elif message.action == "update" and book.prev is not None:
                update = BookUpdate(symbol, int(book.ts), book.prev + 1, book.seq, book.bids, book.asks, book.prev)
                self._books.update(frame, update)
            else:
                raise ValueError(f"neither snapshot nor update: {message.action!r}")
        outcome.folded.append(frame)


class _Rows:
    """Rows of one type, column by column."""

    def __init__(self, type_: RecordType, past: bool = False) -> None:
        self.type = type_
        self.past = past
        self.columns: dict[str, list[Any]] = {}
        self.frames: list[Frame] = []
        self.ordinals: list[int] = []

    def fill(self, frame: Frame, columns: Mapping[str, list[Any]]) -> _Rows:
        self.columns = dict(columns)
        count = len(self.columns["instrument"])
        self.frames = [frame] * count
        self.ordinals = list(range(count))
        return self

    def extend(self, more: _Rows) -> None:
        for name, values in more.columns.items():
            self.columns.setdefault(name, []).extend(values)
        self.frames.extend(more.frames)
        self.ordinals.extend(more.ordinals)

    def parsed(self) -> Parsed:
        return Parsed(self.type, self.columns, self.frames, self.ordinals, past=self.past)


def _instrument(symbol: str) -> str:
    return canonical(symbol, wire.VENUE)


def _instrument_rows(frame: Frame, found: Sequence[wire.Instrument]) -> _Rows:
    at_us = frame.wall_ns // 1_000
    return _Rows(records.Instrument.type).fill(
        frame,
        {
            "instrument": [_instrument(each.symbol) for each in found],
            "event_time": [at_us] * len(found),
            "public_at": [at_us] * len(found),
            "uid": [uid(wire.VENUE, each.symbol) for each in found],
            "native": [each.symbol for each in found],
            "kind": [each.type for each in found],
            "base": [each.base for each in found],
            "quote": [each.quote for each in found],
            "status": [_STATUS.get(each.state, each.state) for each in found],
            "price_step": [each.tick for each in found],
            "size_step": [each.lot for each in found],
        },
    )


def _trade_rows(frame: Frame, trades: Sequence[wire.Trade], *, past: bool) -> _Rows:
    times = [wire.micros(each.ts) for each in trades]
    return _Rows(records.Trade.type, past).fill(
        frame,
        {
            "instrument": [_instrument(each.symbol) for each in trades],
            "event_time": times,
            "public_at": list(times),
            "trade_id": [each.id for each in trades],
            "sequence": [int(each.id) for each in trades],
            "price": [each.price for each in trades],
            "size": [each.size for each in trades],
            "side": [each.side for each in trades],
        },
    )


def _quote_rows(frame: Frame, symbol: str, bests: Sequence[wire.Best]) -> _Rows:
    times = [wire.micros(each.ts) for each in bests]
    return _Rows(records.Quote.type).fill(
        frame,
        {
            "instrument": [_instrument(symbol)] * len(bests),
            "event_time": times,
            "public_at": list(times),
            "sequence": [each.seq for each in bests],
            "bid_price": [each.bid for each in bests],
            "bid_size": [each.bid_size for each in bests],
            "ask_price": [each.ask for each in bests],
            "ask_size": [each.ask_size for each in bests],
        },
    )
