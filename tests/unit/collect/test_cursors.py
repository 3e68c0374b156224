"""Cursors: what a collector said last is what it gets back, however the journal was cut and wherever it died."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidewire.collect import Cursors
from tidewire.collect.collector import Collector
from tidewire.collect.cursors import CHECKPOINT
from tidewire.collect.http import Reply
from tidewire.journal import Journal, JournalConfig, Kind, Origin
from tidewire.records.clock import SystemClock
from unit.collect.kit import place, toy

CONFIG = JournalConfig(segment_bytes=2_000, commit_ms=0)
ORIGIN = Origin("toy", "one", "GET https://x/y")


async def opened(directory: Path) -> tuple[Journal, Cursors]:
    journal = await Journal.open(directory, SystemClock(), CONFIG)
    cursors = Cursors()
    cursors.load(journal)
    return journal, cursors


async def test_a_collector_goes_on_where_its_last_accepted_reply_said(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        collector = Collector("one", toy(here))
        assert collector.cursor("BTC") is None
        for at in ("5", "6"):
            await collector.keep(Reply(200, {}, b"[]", "https://x/y", 1, 0.0), {"BTC": at})
        await collector.keep(Reply(200, {}, b"[]", "https://x/y", 1, 0.0), {"ETH": "3"})
        assert (collector.cursor("BTC"), collector.cursor("ETH")) == ("6", "3")
    async with place(tmp_path) as again:
        again.context.cursors.load(again.journal)
        collector, other = Collector("one", toy(again)), Collector("two", toy(again))
        assert (collector.cursor("BTC"), collector.cursor("ETH"), other.cursor("BTC")) == ("6", "3", None)


Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["move", "move", "fill", "checkpoint", "restart"]), st.integers(0, 4)), max_size=40
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
async def test_what_is_read_is_what_was_said(tmp_path_factory, steps: list[Step]) -> None:
    directory = tmp_path_factory.mktemp("journal")
    journal, cursors = await opened(directory)
    said: dict[str, str] = {}
    for number, (what, name) in enumerate(steps):
        if what == "move":
            said[f"n{name}"] = str(number)
            cursor = cursors.move(ORIGIN, {f"n{name}": str(number)})
            await journal.accept(journal.append(ORIGIN, b"x", cursor=cursor))
        elif what == "fill":
            for _ in range(20):
                journal.append(Origin("feed", "stream", "ws"), b"y" * 100)
            await journal.drain()
        elif what == "checkpoint":
            cursors.checkpoint(journal)
            await journal.drain()
        else:
            await journal.close()
            journal, cursors = await opened(directory)
            assert {name: cursors.get("toy", "one", name) for name in said} == said
    await journal.close()
    journal, cursors = await opened(directory)
    assert {name: cursors.get("toy", "one", name) for name in said} == said
    await journal.close()


async def test_a_checkpoint_is_written_once_a_segment_and_ends_the_reading(tmp_path: Path) -> None:
    journal, cursors = await opened(tmp_path)
    cursors.checkpoint(journal)
    assert journal.head == 0, "nothing to say yet"
    await journal.accept(journal.append(ORIGIN, b"x", cursor=cursors.move(ORIGIN, {"a": "1"})))
    for _ in range(3):
        cursors.checkpoint(journal)
    await journal.drain()
    assert journal.head == 2
    while len(journal.segments()) < 4:
        journal.append(ORIGIN, b"y" * 500)
        await journal.drain()
    cursors.checkpoint(journal)
    await journal.drain()
    written = [frame.sequence for frame in journal.scan() if frame.kind is Kind.CONTROL]
    assert [CHECKPOINT.encode() in frame.payload for frame in journal.scan() if frame.kind is Kind.CONTROL] == [
        True
    ] * 2
    read: list[int] = []

    class Watched:
        segments = journal.segments

        def scan(self, *, after: int = 0):
            for frame in journal.scan(after=after):
                read.append(frame.sequence)
                yield frame

    again = Cursors()
    again.load(Watched())  # type: ignore[arg-type]
    assert again.get("toy", "one", "a") == "1"
    assert min(read) > written[0], "it did not go back beyond the checkpoint's segment"
    await journal.close()


async def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    journal, cursors = await opened(tmp_path)
    journal.append(ORIGIN, b"x", cursor=cursors.move(ORIGIN, {"a": "1"}))
    journal.append(ORIGIN, b"x", cursor=b"\xff not json")
    journal.append(Origin("tidewire", "cursors", ""), b'{"event":"noted","what":"cursors"}', kind=Kind.CONTROL)
    await journal.close()
    journal, cursors = await opened(tmp_path)
    assert cursors.get("toy", "one", "a") == "1"
    await journal.close()
