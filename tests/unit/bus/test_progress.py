from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.bus_kit import data
from tidewire.bus import START, Hole
from tidewire.bus.progress import Progress
from tidewire.records.batch import Stream
from tidewire.records.event import Event

STREAM = Stream("journal", "trade", 0)

spans = st.tuples(st.integers(0, 12), st.integers(0, 4)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def test_an_event_continues_repeats_or_leaves_a_hole() -> None:
    progress = Progress({STREAM: 4})
    event = data(STREAM, 4, 6)
    assert progress.take(event) is event
    assert progress.take(data(STREAM, 4, 6)) is None
    mark = data(STREAM, 6, 6)
    assert progress.take(mark) is mark  # no frames: tells only until when the stream is complete
    progress.done(mark)
    assert progress.take(data(STREAM, 5, 5)) is None
    assert progress.take(data(STREAM, 7, 9)) == Hole(STREAM, 6, 7, 9)
    assert progress.take(data(STREAM, 5, 9)) == Hole(STREAM, 6, 5, 9)
    assert progress.position(STREAM) == 4
    assert progress.unfinished == 1


def test_a_mark_beyond_the_position_is_a_hole() -> None:
    progress = Progress({})
    hole = progress.take(data(STREAM, 3, 3))
    assert hole == Hole(STREAM, START, 3, 3)
    assert not hole.overlaps


def test_streams_do_not_touch_each_other() -> None:
    other = Stream("journal", "trade", 1)
    progress = Progress({STREAM: 2})
    event = data(other, 0, 3)
    assert progress.take(event) is event
    progress.done(event)
    assert progress.positions() == {STREAM: 2, other: 3}


def test_plain_tuples_are_streams() -> None:
    progress = Progress({("journal", "trade", 0): 5})  # type: ignore[dict-item]
    assert progress.position(STREAM) == 5


def test_done_for_what_was_not_delivered_does_nothing() -> None:
    progress = Progress({STREAM: 0})
    event = data(STREAM, 0, 3)
    progress.done(event)
    progress.take(event)
    progress.done(data(STREAM, 0, 3))
    progress.done(data(Stream("other", "trade", 0), 0, 3))
    assert (progress.position(STREAM), progress.unfinished) == (0, 1)
    progress.done(event)
    progress.done(event)
    assert (progress.position(STREAM), progress.unfinished) == (3, 0)


def test_an_event_from_before_a_seek_is_not_counted_when_it_comes_again() -> None:
    progress = Progress({STREAM: 0})
    before, again = data(STREAM, 0, 3), data(STREAM, 0, 3)
    progress.take(before)
    progress.seek(STREAM, 0)
    assert progress.unfinished == 0
    assert progress.take(again) is again
    progress.done(before)
    assert progress.position(STREAM) == 0
    progress.done(again)
    assert progress.position(STREAM) == 3


@settings(deadline=None)
@given(start=st.integers(0, 5), seen=st.lists(spans, max_size=40))
def test_what_is_delivered_is_one_unbroken_chain(start: int, seen: list[tuple[int, int]]) -> None:
    progress = Progress({STREAM: start})
    reached = start
    for prev, last in seen:
        item = progress.take(data(STREAM, prev, last))
        if prev == last == reached:
            assert isinstance(item, Event)
        elif last <= reached:
            assert item is None
        elif prev == reached:
            assert isinstance(item, Event)
            reached = last
        else:
            assert item == Hole(STREAM, reached, prev, last)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 3)),
        st.tuples(st.just("done"), st.integers(0, 20)),
        st.tuples(st.just("seek"), st.integers(0, 20)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(script=steps)
def test_the_position_is_the_end_of_the_done_prefix(script: list[tuple[str, int]]) -> None:
    progress = Progress({STREAM: 0})
    base = reached = 0
    delivered: list[Any] = []
    old: list[Any] = []
    done: set[int] = set()
    for step, value in script:
        if step == "take":
            event = data(STREAM, reached, reached + value)
            assert progress.take(event) is event
            delivered.append(event)
            reached += value
        elif step == "done" and delivered + old:
            event = (delivered + old)[value % len(delivered + old)]
            progress.done(event)
            if any(event is each for each in delivered):
                done.add(event.batch.lineage.last)
        elif step == "seek":
            progress.seek(STREAM, value)
            base = reached = value
            old, delivered, done = delivered, [], set()
        expected = base
        for event in delivered:
            if event.batch.lineage.last not in done:
                break
            expected = event.batch.lineage.last
        assert progress.position(STREAM) == expected
        assert progress.unfinished == len(delivered) - len(done)
