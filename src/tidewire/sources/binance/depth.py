"""Binance's order books: from depth streams and REST snapshots to the books of `tidewire.collect.Books`."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import msgspec

from tidewire.collect import Ask, Books, BookUpdate, Continuity, Frame, Level, Outcome
from tidewire.sources.binance import wire

SNAPSHOT = "book.snapshot"
"""What is asked for when a book needs one; the fact ``symbol`` is Binance's spelling."""

_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


class DepthUpdate(
    BookUpdate,
    rename={"symbol": "s", "at": "E", "first": "U", "last": "u", "bids": "b", "asks": "a", "prev": "pu"},
):
    """``<symbol>@depth``; ``pu`` on futures only. The fields are named again because only those are renamed."""

    symbol: str
    at: wire.Whole
    first: int
    last: int
    bids: list[Level]
    asks: list[Level]
    prev: int | None = None


class DepthMessage(wire.Wire):
    """An update on a combined stream."""

    data: DepthUpdate


class DepthSnapshot(wire.Reply):
    """``/api/v3/depth``; futures say the event time too."""

    last_update_id: wire.Whole
    bids: list[Level]
    asks: list[Level]
    E: wire.Whole | None = None


_message = msgspec.json.Decoder(DepthMessage)
_snapshot = msgspec.json.Decoder(DepthSnapshot)


def is_depth(name: str) -> bool:
    """Whether frames of this form (``depth@100ms``, a REST ``depth``, a collector's note) are for the books."""
    return name.startswith("depth") or name == "note"


class DepthParser:
    """The books of one Binance market. Frames are taken one by one, in their order."""

    def __init__(self, rule: Continuity) -> None:
        self._books = Books(rule)

    @property
    def due_ns(self) -> int:
        """Any frame received at or after this goes to `pass_time` first."""
        return self._books.due_ns

    def pass_time(self, frame: Frame) -> None:
        """Let time go on to that of the frame."""
        self._books.pass_time(frame)

    def take(self, frame: Frame, name: str, outcome: Outcome) -> None:
        """One frame of a form that `is_depth`."""
        try:
            if name == "note":
                self._books.note(frame)
                outcome.control.append(frame)
                return
            if name == "depth" and frame.origin.request.startswith("GET "):
                reply = _snapshot.decode(frame.payload)
                symbol = parse_qs(urlsplit(frame.origin.request[4:]).query).get("symbol", [""])[0]
                at_us = None if reply.E is None else reply.E * 1_000
                self._books.snapshot(frame, symbol, reply.last_update_id, (reply.bids, reply.asks), at_us)
            else:
                self._books.update(frame, _message.decode(frame.payload).data)
            outcome.folded.append(frame)
        except _UNREADABLE as error:
            outcome.unreadable.append((frame, str(error)))

    def flush(self, name_of: Callable[[str], str | None], outcome: Outcome) -> None:
        """Add the rows since the last call, and the snapshots that are wanted."""
        outcome.parsed += self._books.take(name_of)
        outcome.asks += [Ask(SNAPSHOT, {"symbol": symbol}) for symbol in self._books.asks()]

    def state(self) -> bytes:
        """What the books are."""
        state = self._books.state()
        return msgspec.msgpack.encode(state) if state else b""

    def resume(self, state: bytes) -> None:
        """Be as `state` said."""
        self._books.resume(msgspec.msgpack.decode(state))
