"""Harbour's messages and replies as they are sent; numbers stay text until they become exact decimals."""

from __future__ import annotations

import msgspec

SOURCE = "harbour"
VENUE = "HARBOUR"
PING = "ping"
PONG = b"pong"


class Instrument(msgspec.Struct):
    """A row of ``/harbour/instruments``."""

    symbol: str
    type: str
    base: str
    quote: str
    tick: str = msgspec.field(name="tickSize")
    lot: str = msgspec.field(name="lotSize")
    state: str


class Trade(msgspec.Struct):
    """A row of ``/harbour/trades`` and of the channel ``trades``."""

    symbol: str
    id: str
    price: str
    size: str
    side: str
    ts: str


class Best(msgspec.Struct, rename="camel"):
    """A row of the channel ``bbo``."""

    bid: str
    bid_size: str
    ask: str
    ask_size: str
    seq: int
    ts: str


class Book(msgspec.Struct):
    """A row of ``/harbour/book`` (with ``symbol``) and of the channel ``book`` (with ``prevSeq``)."""

    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]
    seq: int
    ts: str
    symbol: str = ""
    prev: int | None = msgspec.field(name="prevSeq", default=None)


class Reply(msgspec.Struct):
    """The envelope of every REST reply."""

    code: str
    msg: str = ""
    data: msgspec.Raw = msgspec.Raw(b"[]")


class Arg(msgspec.Struct):
    """What a message is about."""

    channel: str
    symbol: str


class Message(msgspec.Struct):
    """A WebSocket message: with ``event`` an answer or a notice, without it data."""

    event: str = ""
    arg: Arg | None = None
    action: str = ""
    data: msgspec.Raw = msgspec.Raw(b"[]")
    code: str = ""
    msg: str = ""


def micros(ts: str) -> int:
    """UTC microseconds of Harbour's milliseconds; `ValueError` if it is no number."""
    return int(ts) * 1_000


def stream(symbol: str, channel: str) -> str:
    """How a channel of a symbol is called here, as in the sandbox's ledger."""
    return f"{symbol}@{channel}"
