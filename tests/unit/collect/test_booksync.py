"""In step with the venue: after whatever a network does, the book is the venue's or known not to be."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.collect import BookSync, BookUpdate, ById, ByPrevious
from tidewire.collect.booksync import HOLD_NS, HOLD_UPDATES, WAITING_MAX, Step
from unit.collect.venue import RULES, Venue, venues


def update(first: int, last: int, prev: int | None = None) -> BookUpdate:
    return BookUpdate("BTCUSDT", 1, first, last, [(f"{last}", "1")], [], prev)


def joined(venue: Venue, place: int = 0) -> BookSync:
    """A book in step from a snapshot after the update at a place."""
    sync = BookSync(RULES[venue.rule])
    ident, sides = venue.snapshot(place)
    assert sync.snapshot(ident, *sides) is Step.JOINED
    return sync


@settings(max_examples=60)
@given(venues(), st.data())
def test_the_book_is_the_venues_after_every_update(venue: Venue, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(venue.updates) - 1))
    sync = joined(venue, begin)
    for place in range(begin, len(venue.updates)):
        step = sync.update(venue.updates[place], place)
        assert step is (Step.REPEATED if place == begin else Step.APPLIED)
        assert sync.sure
        assert sync.last == venue.updates[place].last
        assert sync.book.top(50) == venue.top(place, 50)


@settings(max_examples=60)
@given(venues(), st.data())
def test_updates_wait_for_a_snapshot_that_they_continue(venue: Venue, data: st.DataObject) -> None:
    count = len(venue.updates)
    first, taken = data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, count - 1))
    sync = BookSync(RULES[venue.rule])
    for place in range(first, count):
        assert sync.update(venue.updates[place], 0) is Step.WAITING
    ident, sides = venue.snapshot(taken)
    step = sync.snapshot(ident, *sides)
    if taken >= first - 1:
        assert step is Step.JOINED
        assert sync.book.top(50) == venue.top(max(taken, count - 1), 50)
    else:
        assert step is Step.TOO_OLD
        assert not sync.synced


@settings(max_examples=60)
@given(venues(), st.data())
def test_repeats_and_overtaking_change_nothing(venue: Venue, data: st.DataObject) -> None:
    sync = joined(venue)
    places = list(range(1, len(venue.updates)))
    for at in range(0, len(places) - 1, 2):  # neighbours change places
        if data.draw(st.booleans()):
            places[at], places[at + 1] = places[at + 1], places[at]
    again = [place for place in places for _ in range(1 + data.draw(st.booleans()))]
    for place in again:
        assert sync.update(venue.updates[place], 0) is not Step.LOST
    assert sync.synced
    assert sync.sure
    assert sync.book.top(50) == venue.top(len(venue.updates) - 1, 50)


@settings(max_examples=60)
@given(venues(least=3), st.data())
def test_what_never_comes_loses_the_book_and_a_snapshot_finds_it(venue: Venue, data: st.DataObject) -> None:
    sync = joined(venue)
    lost = data.draw(st.integers(1, len(venue.updates) - 2))
    steps = [sync.update(venue.updates[at], at * HOLD_NS * 2) for at in range(1, len(venue.updates)) if at != lost]
    after = steps[lost - 1 :]
    assert after[0] is Step.HELD
    assert set(after[1:]) <= {Step.LOST, Step.WAITING}
    if len(after) > 1:
        assert after[1] is Step.LOST
        assert not sync.synced
        assert sync.book.top(1) == ([], [])
        ident, sides = venue.snapshot(lost)
        assert sync.snapshot(ident, *sides) is Step.JOINED
        assert sync.book.top(50) == venue.top(len(venue.updates) - 1, 50)
    else:
        assert not sync.sure


def test_held_updates_are_bounded_in_number() -> None:
    sync = BookSync(ById())
    assert sync.snapshot(10, [], []) is Step.JOINED
    steps = [sync.update(update(12 + at, 12 + at), 0) for at in range(HOLD_UPDATES + 1)]
    assert steps == [Step.HELD] * HOLD_UPDATES + [Step.LOST]


def test_waiting_updates_are_bounded() -> None:
    sync = BookSync(ById())
    for at in range(WAITING_MAX + 100):
        sync.update(update(at + 1, at + 1), 0)
    assert len(sync.waiting) == WAITING_MAX
    assert sync.snapshot(50, [], []) is Step.TOO_OLD
    assert sync.snapshot(100, [], []) is Step.JOINED


def test_spot_joins_by_the_documented_rule() -> None:
    for first, last, step in (
        (99, 100, Step.JOINED),
        (98, 101, Step.JOINED),
        (101, 103, Step.JOINED),
        (102, 103, Step.TOO_OLD),
    ):
        sync = BookSync(ById())
        sync.update(update(first, last), 0)
        assert sync.snapshot(100, [], []) is step, (first, last)


def test_futures_join_by_the_documented_rule() -> None:
    for first, last, prev, step in (
        (90, 95, 80, Step.JOINED),  # older than the snapshot
        (95, 105, 90, Step.JOINED),  # the snapshot lies within
        (103, 105, 100, Step.JOINED),  # continues it
        (103, 105, 101, Step.TOO_OLD),
    ):
        sync = BookSync(ByPrevious())
        sync.update(update(first, last, prev), 0)
        assert sync.snapshot(100, [], []) is step, (first, last, prev)


def test_futures_ids_that_count_on_do_not_make_up_for_a_wrong_previous_one() -> None:
    sync = BookSync(ByPrevious())
    sync.snapshot(100, [], [])
    assert sync.update(update(101, 105, 100), 0) is Step.APPLIED
    assert sync.update(update(106, 109, 104), 0) is Step.HELD


def test_a_quiet_update_says_that_nothing_was_missed() -> None:
    sync = BookSync(ByPrevious())
    sync.snapshot(100, [], [])
    for last, prev, sure in ((99, 99, False), (100, 90, False), (100, 100, True)):
        sync.sure = False
        assert sync.update(update(last, last, prev), 0) is Step.REPEATED
        assert sync.sure is sure, (last, prev)
    assert sync.update(update(103, 105, 102), 0) is Step.HELD
    assert sync.update(update(100, 100, 100), 0) is Step.REPEATED
    assert not sync.sure, "one that came later is known, and does not continue the book"


@settings(max_examples=60)
@given(venues(), st.data())
def test_a_resumed_book_goes_on_as_the_other(venue: Venue, data: st.DataObject) -> None:
    one = BookSync(RULES[venue.rule])
    listed = [place for place in range(len(venue.updates)) if data.draw(st.integers(0, 9))]
    stop, snap = data.draw(st.integers(0, len(listed))), data.draw(st.integers(0, len(listed)))
    other = one
    for number, place in enumerate(listed):
        if number == stop:
            other = BookSync(RULES[venue.rule])
            other.resume(one.state())
        steps = set()
        for sync in {id(one): one, id(other): other}.values():
            if number == snap:
                ident, sides = venue.snapshot(place)
                steps.add(sync.snapshot(ident, *sides))
            steps.add(sync.update(venue.updates[place], place * HOLD_NS // 3))
        assert len(steps) <= 2
        assert one.state() == other.state() or _same(one, other)


def _same(one: BookSync, other: BookSync) -> bool:
    """Levels have no order."""
    return one.book.top(200) == other.book.top(200) and {**one.state(), "bids": 0, "asks": 0} == {
        **other.state(),
        "bids": 0,
        "asks": 0,
    }
