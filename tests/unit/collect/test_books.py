"""A source's books as rows: on the grid, told at once when they are lost, the same however frames are cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.collect import (
    Books,
    BookSettings,
    BookUpdate,
    ById,
    Frame,
    Level,
    Parsed,
    doubt_note,
    settings_note,
    time_note,
)
from tidewire.collect.books import ASK_AGAIN_NS
from tidewire.collect.booksync import HOLD_NS
from tidewire.journal import Kind, Origin
from tidewire.records.exact import build
from unit.collect.venue import RULES, Venue, venues

MS = 1_000_000
BEGIN_NS = 1_700_000_000_000 * MS
ORIGIN = Origin("venue", "stream", "wss://x#1")


def frame(sequence: int, ms: int, payload: bytes = b"") -> Frame:
    return Frame(sequence, BEGIN_NS + ms * MS, 0, Kind.DATA, ORIGIN, b"", payload)


def update(ident: int, price: str = "99", size: str = "1") -> BookUpdate:
    return BookUpdate("BTCUSDT", BEGIN_NS // MS + ident * 10, ident, ident, [(price, size)], [("101", "1")])


def rows(parsed: Sequence[Parsed], kind: str) -> list[dict[str, Any]]:
    """Rows of a type as plain values, with the frame and place of each."""
    found: list[dict[str, Any]] = []
    for part in parsed:
        if part.type.name == kind:
            own = {"source": "venue", "ingested_at": [0] * len(part.frames), "ordinal": part.ordinals}
            own["frame"] = [one.sequence for one in part.frames]
            built = build(part.type, {**part.columns, **own}, len(part.frames))
            assert not built.not_exact
            found += built.rows.to_dicts()
    return found


class Run:
    """Books that are shown frames one after the other, as a parser shows them."""

    def __init__(self, books: Books | None = None) -> None:
        self.books = books or Books(ById())
        self.parsed: list[Parsed] = []
        self.asked: list[tuple[int, str]] = []
        self.sequence = 0

    def see(self, ms: int, what: Callable[[Frame], None], payload: bytes = b"") -> None:
        self.sequence += 1
        one = frame(self.sequence, ms, payload)
        self.books.pass_time(one)
        what(one)
        self.asked += [(self.sequence, symbol) for symbol in self.books.asks()]

    def note(self, ms: int, payload: bytes) -> None:
        self.see(ms, self.books.note, payload)

    def update(self, ms: int, one: BookUpdate) -> None:
        self.see(ms, lambda at: self.books.update(at, one))

    def snapshot(self, ms: int, ident: int, sides: tuple[Sequence[Level], Sequence[Level]]) -> None:
        self.see(ms, lambda at: self.books.snapshot(at, "BTCUSDT", ident, sides, None))

    def take(self) -> list[Parsed]:
        self.parsed += self.books.take({"BTCUSDT": "BTC-USDT.VENUE"}.get)
        return self.parsed


def started(settings: BookSettings | None = None) -> Run:
    """In step at update 10, 10 ms after a point of the grid."""
    run = Run()
    run.note(0, settings_note(settings or BookSettings(depth=2, interval_ms=100)))
    run.snapshot(10, 10, ([("99", "1"), ("98", "1"), ("97", "1")], [("101", "1")]))
    return run


def test_a_snapshot_is_asked_for_once_and_again_after_a_while() -> None:
    run = Run()
    for ms in range(0, 2 * ASK_AGAIN_NS // MS, 1_000):
        run.update(ms, update(ms + 1))
    assert [symbol for _, symbol in run.asked] == ["BTCUSDT"] * 2
    assert run.asked[0][0] == 1
    assert not run.take()


def test_rows_stand_on_the_grid_and_show_what_was_before() -> None:
    run = started()
    run.update(50, update(11, "99", "2"))
    run.update(120, update(12, "99", "3"))  # the point at 100 passes before this is looked at
    run.update(130, update(13, "99", "4"))
    run.see(305, lambda _: None)  # any frame lets time go on
    run.see(450, lambda _: None)  # nothing changed
    found = rows(run.take(), "order_book")
    assert [(row["sequence"], row["frame"], row["bid_sizes"][0]) for row in found] == [(11, 4, 2), (13, 6, 4)]
    assert all(row["valid"] and row["depth"] == 2 and len(row["bid_prices"]) == 2 for row in found)
    assert [row["event_time"].microsecond for row in found] == [110_000, 130_000]


def test_the_time_of_a_book_never_goes_back() -> None:
    run = Run()
    run.note(0, settings_note(BookSettings(depth=2, interval_ms=100)))
    run.update(100, update(9))
    run.update(101, update(11))
    # Our clock is 5 s ahead of the venue's; what the venue says of the updates that waited is taken.
    run.snapshot(5_000, 10, ([("99", "1")], [("101", "1")]))
    run.update(5_200, update(12))
    run.see(5_300, lambda _: None)
    found = rows(run.take(), "order_book")
    assert [(row["sequence"], row["event_time"].microsecond) for row in found] == [(11, 110_000), (12, 120_000)]
    early = started()  # no update is known: the time is ours, until the venue's is later
    early.update(200, BookUpdate("BTCUSDT", BEGIN_NS // MS - 5_000, 11, 11, [], [("101", "1")]))
    early.see(300, lambda _: None)
    found = rows(early.take(), "order_book")
    assert [(row["sequence"], row["event_time"].microsecond) for row in found] == [(10, 10_000), (11, 10_000)]


def test_a_lost_book_is_told_at_once_with_its_gap_and_comes_back() -> None:
    run = started()
    run.update(110, update(11))
    run.update(120, update(20))  # 12 to 19 are missing
    run.update(120 + 2 * HOLD_NS // MS, update(21))
    run.snapshot(2_000, 20, ([("99", "7")], [("101", "7")]))
    run.see(2_200, lambda _: None)
    parsed = run.take()
    books = rows(parsed, "order_book")
    assert [(row["sequence"], row["valid"], len(row["bid_prices"])) for row in books] == [
        (10, True, 2),
        (11, False, 0),
        (21, True, 1),
    ]
    assert books[1]["frame"] == 4  # with the update that shows the jump
    gaps = rows(parsed, "gap")
    assert {(row["first_sequence"], row["last_sequence"], row["gap_id"], row["state"]) for row in gaps} == {
        (12, 19, "12", "unfillable")
    }
    assert [row["detail"] for row in gaps] == ["a new snapshot is asked for", "in step again from a new snapshot"]
    assert run.asked == [(5, "BTCUSDT")]


def test_a_broken_connection_makes_books_invalid_until_an_update_continues_them() -> None:
    run = started()
    run.see(110, lambda _: None)
    run.note(120, doubt_note(["ETHUSDT"]))
    run.note(150, doubt_note())
    run.see(1_000, lambda _: None)  # time alone makes nothing valid
    run.update(1_010, update(11))
    run.note(1_100, time_note())
    found = rows(run.take(), "order_book")
    assert [(row["sequence"], row["valid"], row["frame"]) for row in found] == [
        (10, True, 3),
        (10, False, 5),
        (11, True, 8),
    ]
    assert not rows(run.parsed, "gap")


def test_a_crossed_book_is_a_lost_one() -> None:
    run = started()
    run.update(110, update(11, "102"))
    assert not rows(run.take(), "order_book")[-1]["valid"]
    assert run.asked


def test_a_price_that_is_none_loses_the_book() -> None:
    run = started()
    with pytest.raises(ValueError, match="could not convert"):
        run.update(20, update(11, "cheap"))
    assert run.books.asks() == ["BTCUSDT"]
    assert len(rows(run.take(), "gap")) == 1


def test_every_change_is_a_row_on_request_and_snapshots_too() -> None:
    run = started(BookSettings(depth=1, interval_ms=100, deltas=True))
    run.update(20, update(11))
    run.update(30, update(11))  # a repeat
    run.update(40, update(12, "98", "0"))
    parsed = run.take()
    assert [
        (row["sequence"], row["side"], row["price"], row["size"], row["ordinal"]) for row in rows(parsed, "book_delta")
    ] == [
        (11, "buy", 99, 1, 0),
        (11, "sell", 101, 1, 1),
        (12, "buy", 98, 0, 0),
        (12, "sell", 101, 1, 1),
    ]
    assert [(row["depth"], row["sequence"], len(row["bid_prices"])) for row in rows(parsed, "order_book")] == [
        (3, 10, 3)
    ]


def test_notes_that_are_none_are_refused() -> None:
    with pytest.raises(msgspec.MsgspecError):
        Run().note(0, b"[]")


@st.composite
def happenings(draw: st.DrawFn) -> tuple[Venue, list[tuple[int, str, int]]]:
    """A venue, and what comes of it: (ms, what, place), with holes, repeats, notes and snapshots."""
    venue = draw(venues(most=10))
    last = len(venue.updates) - 1
    what = st.sampled_from(["update"] * 8 + ["snapshot", "doubt", "time", "settings"])
    ms, at, coming = 0, 0, list[tuple[int, str, int]]()
    for one in draw(st.lists(what, max_size=25)):
        ms += draw(st.sampled_from([0, 1, 40, 700, 11_000]))
        place = min(last, at)
        coming.append((ms, one, place))
        if one == "update":
            at += draw(st.sampled_from([0, 1, 1, 1, 1, 2]))
    return venue, coming


def shown(run: Run, venue: Venue, coming: Sequence[tuple[int, str, int]]) -> None:
    for ms, what, place in coming:
        if what == "update":
            run.update(ms, venue.updates[place])
        elif what == "snapshot":
            run.snapshot(ms, *venue.snapshot(place))
        else:
            notes = {"doubt": doubt_note(), "time": time_note()}
            run.note(ms, notes.get(what, settings_note(BookSettings(3, 100, place % 2 == 0))))


@settings(max_examples=150)
@given(happenings(), st.data())
def test_cuts_and_restarts_change_no_row(
    happened: tuple[Venue, list[tuple[int, str, int]]], data: st.DataObject
) -> None:
    venue, coming = happened
    whole, pieces = Run(Books(RULES[venue.rule])), Run(Books(RULES[venue.rule]))
    shown(whole, venue, coming)
    begin = 0
    while begin < len(coming):
        end = data.draw(st.integers(begin + 1, len(coming)))
        shown(pieces, venue, coming[begin:end])
        pieces.take()
        if data.draw(st.booleans()):  # another process goes on from the state in the journal
            state = msgspec.msgpack.decode(msgspec.msgpack.encode(pieces.books.state()))
            pieces.books = Books(RULES[venue.rule])
            if state:
                pieces.books.resume(state)
        begin = end
    whole.take()
    assert pieces.asked == whole.asked
    for kind in ("order_book", "book_delta", "gap"):
        assert rows(pieces.parsed, kind) == rows(whole.parsed, kind)
    for row in rows(whole.parsed, "order_book"):
        if row["valid"] and row["bid_prices"] and row["ask_prices"]:
            assert row["bid_prices"][0] < row["ask_prices"][0]
