"""All order books of a source: from its updates and snapshots to `OrderBook` and `BookDelta` rows.

Part of a parser, so a function of the frames alone: what is served, how deep and how often, is said by a *note*, a
frame that the collector writes at its start (`settings_note`). Rows are made on a grid of receive times,
``interval_ms`` apart: with the first frame after a point of the grid, every book that changed becomes a row, as it
stood before that frame. A book that lost continuity is told at once as a row that is not valid and has no levels; what
it lost becomes a gap, and a new snapshot is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tidewire.collect.book import Level
from tidewire.collect.booksync import BookSync, BookUpdate, Continuity, Step
from tidewire.collect.parser import Parsed
from tidewire.journal import Frame
from tidewire.records.market import BookDelta, OrderBook
from tidewire.records.ops import Gap

ASK_AGAIN_NS = 10_000_000_000
"""A snapshot that was asked for and did not come within this is asked for again."""

NEVER = 1 << 63


class BookSettings(msgspec.Struct, frozen=True):
    """How books are served: ``depth`` levels a side every ``interval_ms``; ``deltas``: every change is a row too."""

    depth: int = 20
    interval_ms: int = 1_000
    deltas: bool = False


class BookNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a collector tells its parser, in a frame.

    ``settings`` hold from here on. ``doubt`` lists symbols (the venue's spelling) that may have missed something; an
    empty list is all of them. A note without either only lets time go on.
    """

    settings: BookSettings | None = None
    doubt: list[str] | None = None


_note = msgspec.json.Decoder(BookNote)


@dataclass(slots=True)
class _Loss:
    """Continuity was lost: the last update that is known, and what the next one was."""

    after: int
    before: int
    since_us: int


@dataclass(slots=True)
class _Entry:
    """One book of a source."""

    sync: BookSync
    event_us: int = 0
    changed: bool = False
    valid: bool = False
    """What was last told of it."""
    asked_ns: int = -ASK_AGAIN_NS
    loss: _Loss | None = None


@dataclass
class _Rows:
    """Rows of one type on their way: the frame, the symbol and the values of each."""

    frames: list[Frame] = field(default_factory=list[Frame])
    symbols: list[str] = field(default_factory=list[str])
    ordinals: list[int] = field(default_factory=list[int])
    values: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])

    def add(self, frame: Frame, symbol: str, *values: Any) -> None:
        again = bool(self.frames) and self.frames[-1] is frame
        self.ordinals.append(self.ordinals[-1] + 1 if again else 0)
        self.frames.append(frame)
        self.symbols.append(symbol)
        self.values.append(values)


class Books:
    """The books of one source. ``unit_us`` is the venue's unit of time in microseconds."""

    def __init__(self, rule: Continuity, unit_us: int = 1_000) -> None:
        self._rule = rule
        self._unit_us = unit_us
        self._entries: dict[str, _Entry] = {}
        self._settings = BookSettings()
        self.due_ns = NEVER
        """The next point of the grid, as far as a book changed: `pass_time` does nothing with a frame before it."""
        self._asks: dict[str, None] = {}
        self._start()

    def _start(self) -> None:
        self._books, self._gaps = _Rows(), _Rows()
        self._deltas: list[tuple[Frame, BookUpdate]] = []

    # -- what comes in ----------------------------------------------------------------------------------------

    def note(self, frame: Frame) -> None:
        """Take a note; `msgspec.MsgspecError` if it is none."""
        note = _note.decode(frame.payload)
        if note.settings is not None:
            self._settings = note.settings
        if note.doubt is not None:
            for symbol in note.doubt or list(self._entries):
                entry = self._entries.get(symbol)
                if entry is not None:
                    entry.sync.sure = False
                    self._tell_invalid(frame, symbol, entry)

    def pass_time(self, frame: Frame) -> None:
        """Let time go on to that of the frame, of every frame before it is looked at, and make rows where they are due.

        What changed before a point of the grid becomes rows with the first frame after it.
        """
        if frame.wall_ns < self.due_ns:
            return
        self.due_ns = NEVER
        for symbol, entry in self._entries.items():
            if entry.changed and entry.sync.sure:
                entry.changed = False
                entry.valid = True
                levels = entry.sync.book.top(self._settings.depth)
                self._row(frame, symbol, entry.event_us, entry.sync.last, self._settings.depth, levels)
                continue
            if entry.changed:  # unsure: as soon as it is sure again
                self._due(frame)

    def update(self, frame: Frame, update: BookUpdate) -> None:
        """Take an update; `ValueError` if a price in it is none, and the book is lost then."""
        symbol = update.symbol
        entry = self._entries.get(symbol) or self._new(symbol)
        sync = entry.sync
        last = sync.last
        try:
            step = sync.update(update, frame.wall_ns)
        except ValueError:
            self._lose(frame, symbol, entry, _Loss(last, update.first, entry.event_us))
            raise
        if step is Step.APPLIED:
            entry.event_us = self._newest(entry)
            if not entry.changed:
                entry.changed = True
                self._due(frame)
            if sync.book.crossed:
                self._lose(frame, symbol, entry, _Loss(last, sync.last, entry.event_us))
        elif step is Step.HELD:
            self._tell_invalid(frame, symbol, entry)
        elif step is Step.LOST:
            self._lose(frame, symbol, entry, _Loss(last, self._first_waiting(sync), entry.event_us))
        elif step is Step.WAITING:
            self._ask(frame, symbol, entry)
        if self._settings.deltas and step is not Step.REPEATED:
            self._deltas.append((frame, update))

    def snapshot(
        self, frame: Frame, symbol: str, ident: int, sides: tuple[Sequence[Level], Sequence[Level]], at_us: int | None
    ) -> None:
        """Take a snapshot: its update id, bids and asks, and the venue's time of it where it says one."""
        entry = self._entries.get(symbol) or self._new(symbol)
        event_us = frame.wall_ns // 1_000 if at_us is None else at_us
        if self._settings.deltas:  # what the changes stored beside it are changes of
            self._row(frame, symbol, event_us, ident, max(map(len, sides)), sides)
        sync = entry.sync
        step = sync.snapshot(ident, *sides)
        if step is Step.TOO_OLD:
            entry.asked_ns = -ASK_AGAIN_NS
            self._ask(frame, symbol, entry)
        elif step is Step.JOINED:
            if at_us is not None or not (sync.at or entry.event_us):
                entry.event_us = max(entry.event_us, event_us)
            entry.event_us = self._newest(entry)
            entry.asked_ns = -ASK_AGAIN_NS
            entry.changed = True
            self._due(frame)
            if entry.loss is not None:
                self._gap(frame, symbol, entry.loss, entry.event_us, "in step again from a new snapshot")
                entry.loss = None
            if sync.book.crossed:
                self._lose(frame, symbol, entry, _Loss(ident, sync.last, entry.event_us))

    # -- what follows -----------------------------------------------------------------------------------------

    def _new(self, symbol: str) -> _Entry:
        return self._entries.setdefault(symbol, _Entry(BookSync(self._rule)))

    def _newest(self, entry: _Entry) -> int:
        """The time of a book, which never goes back: what is served last must be the newest word on it."""
        return max(entry.event_us, entry.sync.at * self._unit_us)

    def _due(self, frame: Frame) -> None:
        if self.due_ns == NEVER:
            interval_ns = self._settings.interval_ms * 1_000_000
            self.due_ns = (frame.wall_ns // interval_ns + 1) * interval_ns

    def _first_waiting(self, sync: BookSync) -> int:
        """Where the venue goes on behind the hole."""
        first = min(sync.waiting, key=lambda update: update.last)
        return first.first if first.prev is None else first.prev + 1

    def _ask(self, frame: Frame, symbol: str, entry: _Entry) -> None:
        if frame.wall_ns - entry.asked_ns >= ASK_AGAIN_NS:
            entry.asked_ns = frame.wall_ns
            self._asks[symbol] = None

    def _lose(self, frame: Frame, symbol: str, entry: _Entry, loss: _Loss) -> None:
        entry.sync.lose()
        entry.changed = False
        entry.loss = entry.loss or loss
        self._tell_invalid(frame, symbol, entry)
        self._gap(frame, symbol, entry.loss, frame.wall_ns // 1_000, "a new snapshot is asked for")
        self._ask(frame, symbol, entry)

    def _tell_invalid(self, frame: Frame, symbol: str, entry: _Entry) -> None:
        if entry.valid:
            entry.valid = False
            # Of the time of the last valid one, so that it is the newer word on it whatever the venue's clock says.
            self._row(frame, symbol, entry.event_us, entry.sync.last, self._settings.depth, ((), ()), valid=False)
        # In step again it is told even if nothing changed meanwhile.
        entry.changed = entry.sync.synced
        if entry.changed:
            self._due(frame)

    def _row(
        self,
        frame: Frame,
        symbol: str,
        event_us: int,
        sequence: int,
        depth: int,
        sides: tuple[Sequence[Level], Sequence[Level]],
        *,
        valid: bool = True,
    ) -> None:
        self._books.add(frame, symbol, event_us, sequence, depth, *sides, valid)

    def _gap(self, frame: Frame, symbol: str, loss: _Loss, until_us: int, detail: str) -> None:
        for kind in (OrderBook, BookDelta) if self._settings.deltas else (OrderBook,):
            until = max(until_us, loss.since_us)
            self._gaps.add(frame, symbol, kind.type.name, loss.after + 1, loss.before - 1, loss.since_us, until, detail)

    # -- what goes out ----------------------------------------------------------------------------------------

    def asks(self) -> list[str]:
        """Symbols whose books want a snapshot; told once."""
        found = list(self._asks)
        self._asks.clear()
        return found

    def take(self, name_of: Callable[[str], str | None]) -> list[Parsed]:
        """The rows since the last call; ``name_of`` gives the instrument of a symbol."""
        books, gaps, deltas = self._books, self._gaps, self._deltas
        if not (books.frames or gaps.frames or deltas):
            return []
        self._start()
        parsed: list[Parsed] = []
        if books.frames:
            parsed.append(Parsed(OrderBook.type, _book_columns(books, name_of), books.frames, books.ordinals))
        if gaps.frames:
            parsed.append(Parsed(Gap.type, _gap_columns(gaps, name_of), gaps.frames, gaps.ordinals))
        if deltas:
            parsed.append(_delta_rows(deltas, name_of, self._unit_us))
        return parsed

    # -- state ------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All of it as plain values, empty before the first book; rows that were not taken are no part of it."""
        if not self._entries and self._settings == BookSettings():
            return {}
        entries = {
            symbol: {
                "sync": entry.sync.state(),
                "event_us": entry.event_us,
                "changed": entry.changed,
                "valid": entry.valid,
                "asked_ns": entry.asked_ns,
                "loss": None if entry.loss is None else [entry.loss.after, entry.loss.before, entry.loss.since_us],
            }
            for symbol, entry in self._entries.items()
        }
        settings = msgspec.structs.asdict(self._settings)
        return {"settings": settings, "due_ns": self.due_ns, "entries": entries}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Be as `state` said."""
        self._settings = BookSettings(**state["settings"])
        self.due_ns = state["due_ns"]
        for symbol, said in state["entries"].items():
            entry = self._new(symbol)
            entry.sync.resume(said["sync"])
            entry.event_us, entry.changed, entry.valid = said["event_us"], said["changed"], said["valid"]
            entry.asked_ns = said["asked_ns"]
            entry.loss = None if said["loss"] is None else _Loss(*said["loss"])


def settings_note(settings: BookSettings) -> bytes:
    """The note of a collector that starts: how books are served, and that all of them may have missed something."""
    return msgspec.json.encode(BookNote(settings, []))


def doubt_note(symbols: Iterable[str] = ()) -> bytes:
    """The note that the connection of these symbols (of all) broke."""
    return msgspec.json.encode(BookNote(doubt=list(symbols)))


def time_note() -> bytes:
    """The note that time went on without a message."""
    return msgspec.json.encode(BookNote())


def _book_columns(rows: _Rows, name_of: Callable[[str], str | None]) -> dict[str, Any]:
    times, sequences, depths, bids, asks, valid = zip(*rows.values, strict=True)
    return {
        "instrument": list(map(name_of, rows.symbols)),
        "event_time": list(times),
        "public_at": list(times),
        "sequence": list(sequences),
        "depth": list(depths),
        "bid_prices": [[price for price, _ in side] for side in bids],
        "bid_sizes": [[size for _, size in side] for side in bids],
        "ask_prices": [[price for price, _ in side] for side in asks],
        "ask_sizes": [[size for _, size in side] for side in asks],
        "valid": list(valid),
    }


def _gap_columns(rows: _Rows, name_of: Callable[[str], str | None]) -> dict[str, Any]:
    kinds, firsts, lasts, since, until, details = zip(*rows.values, strict=True)
    return {
        "instrument": list(map(name_of, rows.symbols)),
        "record_type": list(kinds),
        "gap_id": list(map(str, firsts)),
        "event_time": list(since),
        "until_time": list(until),
        "public_at": [frame.wall_ns // 1_000 for frame in rows.frames],
        "first_sequence": list(firsts),
        "last_sequence": [max(first, last) for first, last in zip(firsts, lasts, strict=True)],
        "cause": "sequence",
        "state": "unfillable",
        "detail": list(details),
    }


def _delta_rows(
    deltas: Sequence[tuple[Frame, BookUpdate]], name_of: Callable[[str], str | None], unit_us: int
) -> Parsed:
    frames: list[Frame] = []
    counts: list[int] = []
    levels: list[Level] = []
    sides: list[str] = []
    for frame, update in deltas:
        count = len(update.bids) + len(update.asks)
        counts.append(count)
        frames += [frame] * count
        levels += update.bids
        levels += update.asks
        sides += ["buy"] * len(update.bids) + ["sell"] * len(update.asks)

    def each(values: Iterable[Any]) -> list[Any]:
        return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]

    times = each(update.at * unit_us for _, update in deltas)
    columns: dict[str, Any] = {
        "instrument": each(name_of(update.symbol) for _, update in deltas),
        "event_time": times,
        "public_at": times,
        "sequence": each(update.last for _, update in deltas),
        "first_sequence": each(update.first for _, update in deltas),
        "side": sides,
        "price": [price for price, _ in levels],
        "size": [size for _, size in levels],
    }
    ordinals = [place for count in counts for place in range(count)]
    return Parsed(BookDelta.type, columns, frames, ordinals)
