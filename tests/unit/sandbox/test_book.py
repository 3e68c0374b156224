from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidewire.sandbox.book import LEVELS, Book, Recorder
from tidewire.sandbox.config import symbol_info

acts = st.lists(
    st.tuples(st.sampled_from(["top", "inner", "take"]), st.booleans(), st.integers(1, 9_000), st.integers(1, 49)),
    max_size=80,
)


def play(book, act):
    kind, side, steps, place = act
    if kind == "top":
        book.set_top(side, steps)
    elif kind == "inner":
        book.set_inner(side, place, steps)
    else:
        book.take(side, steps, 1 + place)


@given(acts, st.integers(1, 10))
def test_recorded_changes_rebuild_the_book(script, every):
    book = Book(symbol_info("ETHUSDT"), 100)
    recorder = Recorder(book.update_id)
    book.recorders.append(recorder)
    bids, asks = dict(book.bids), dict(book.asks)
    for number, act in enumerate(script, 1):
        play(book, act)
        if number % every == 0 or number == len(script):
            for mine, changes in ((bids, recorder.bids), (asks, recorder.asks)):
                mine.update(changes)
                for tick in [tick for tick, steps in mine.items() if steps == 0]:
                    del mine[tick]
            recorder.bids.clear()
            recorder.asks.clear()
            assert (bids, asks) == (book.bids, book.asks)


@given(acts)
def test_the_book_keeps_its_shape(script):
    book = Book(symbol_info("XRPUSDT"), 0)
    for act in script:
        before = book.update_id
        play(book, act)
        assert book.update_id > before
        assert len(book.bids) == len(book.asks) == LEVELS
        assert max(book.bids) == book.bid_tick < book.ask_tick == min(book.asks)
        assert min(*book.bids.values(), *book.asks.values()) > 0


def test_a_trade_never_takes_more_than_is_there():
    book = Book(symbol_info("BTCUSDT"), 0)
    book.set_top(False, 10)
    ask = book.ask_tick
    assert book.take(True, 4, 7) == 4
    assert book.asks[ask] == 6
    assert book.take(True, 100, 7) == 6
    assert ask not in book.asks
    assert book.bids[book.bid_tick] == 7


def test_the_price_cannot_reach_zero():
    book = Book(symbol_info("BTCUSDT"), 0)
    for _ in range(60_000):
        book.take(False, 10**9, 1)
    assert min(book.bids) > 0


def test_snapshot_is_best_first_and_limited():
    shot = Book(symbol_info("ETHUSDT"), 5).snapshot(3)
    bids, asks = ([float(price) for price, _ in shot[side]] for side in ("bids", "asks"))
    assert bids == sorted(bids, reverse=True)
    assert asks == sorted(asks)
    assert len(bids) == len(asks) == 3
    assert shot["lastUpdateId"] == 5
