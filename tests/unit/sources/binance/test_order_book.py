"""The line of books that wait for a snapshot."""

from __future__ import annotations

from tidewire.sources.binance.order_book import AT_ONCE_NS, FIRST_WAIT_NS, LONGEST_WAIT_NS, SnapshotLine


def refused(line: SnapshotLine, symbol: str, now_ns: int, reply_ns: int = 50_000_000) -> tuple[int, int]:
    """The next snapshot of a symbol comes and is too old; how long it had to wait, and when it asks again."""
    line.want(symbol, now_ns)
    found, due_ns = line.next()
    assert found == symbol
    line.done(symbol, due_ns + reply_ns)
    return due_ns - now_ns, due_ns + reply_ns + 10_000_000


def test_a_snapshot_is_fetched_at_once() -> None:
    line = SnapshotLine()
    line.want("A", 5)
    assert line.next() == ("A", 5)


def test_a_book_that_gets_too_old_snapshots_asks_ever_less_often() -> None:
    line, now_ns, waits = SnapshotLine(), 0, list[int]()
    for _ in range(12):
        wait_ns, now_ns = refused(line, "A", now_ns)
        waits.append(wait_ns)
    doubling = [min(FIRST_WAIT_NS << place, LONGEST_WAIT_NS) for place in range(11)]
    assert waits == [0, *doubling]


def test_a_book_that_was_in_step_for_a_while_is_served_at_once_again() -> None:
    line, now_ns = SnapshotLine(), 0
    for _ in range(5):
        _, now_ns = refused(line, "A", now_ns)
    wait_ns, now_ns = refused(line, "A", now_ns + AT_ONCE_NS)
    assert wait_ns == 0
    wait_ns, _ = refused(line, "A", now_ns)
    assert wait_ns == FIRST_WAIT_NS


def test_books_do_not_wait_for_each_other() -> None:
    line = SnapshotLine()
    _, now_ns = refused(line, "A", 0)
    line.want("A", now_ns)
    line.want("B", now_ns + 1)
    assert line.next() == ("B", now_ns + 1)
    line.done("B", now_ns + 2)
    assert line.next() == ("A", now_ns + FIRST_WAIT_NS)
    assert len(line) == 1


def test_asking_twice_changes_nothing() -> None:
    line = SnapshotLine()
    line.want("A", 0)
    line.want("A", 10)
    assert line.next() == ("A", 0)
    assert len(line) == 1
