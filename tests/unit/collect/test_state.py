"""The states of parsers in the journal: whoever begins in the middle knows what was known there."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from tidewire.collect import Frame, Outcome, state
from tidewire.collect.parser import Parser
from tidewire.errors import ParseError
from tidewire.journal import Journal, JournalConfig, Kind, Origin
from tidewire.records.clock import SystemClock

ORIGIN = Origin("sum", "stream", "wss://x#1")


class Sum:
    """Its state is the sum of all numbers so far."""

    def __init__(self) -> None:
        self.total = 0

    def parse(self, frames: Sequence[Frame]) -> Outcome:
        self.follow(frames)
        return Outcome(folded=list(frames))

    def follow(self, frames: Sequence[Frame]) -> None:
        self.total += sum(int(frame.payload) for frame in frames)

    def state(self) -> bytes:
        return msgspec.msgpack.encode(self.total) if self.total else b""

    def resume(self, state: bytes) -> None:
        self.total = msgspec.msgpack.decode(state, type=int)


class Plain:
    """Has no state."""

    def parse(self, frames: Sequence[Frame]) -> Outcome:
        return Outcome(control=list(frames))


async def filled(directory: Path, count: int = 60) -> Journal:
    """Frames of two sources; those of ours hold their number."""
    journal = await Journal.open(directory / "journal", SystemClock(), JournalConfig(commit_ms=0))
    while journal.head < count:
        journal.append(ORIGIN, b"%d" % (journal.head + 1))
        journal.append(Origin("other", "stream", ""), b"1000000")
    await journal.accept(journal.head)
    return journal


def total(journal: Journal, after: int) -> int:
    return sum(
        int(frame.payload)
        for frame in journal.read(0, frames=10_000)
        if frame.sequence <= after and frame.origin.source == "sum" and frame.kind is Kind.DATA
    )


@pytest.mark.parametrize("written", [(), (1,), (9, 21, 40), (20, 20, 8)])
async def test_a_fresh_parser_comes_to_know_what_was_known(tmp_path: Path, written: tuple[int, ...]) -> None:
    journal = await filled(tmp_path)
    for after in written:
        parser = Sum()
        parser.total = total(journal, after)
        last = next(frame for frame in journal.read(0, frames=10_000) if frame.sequence == after)
        state.write(journal, {"sum": parser}, last)
    await journal.accept(journal.head)
    chance = random.Random(1)
    for after in (0, 1, 8, 9, 10, 20, journal.head, *(chance.randrange(journal.head) for _ in range(20))):
        fresh: dict[str, Parser] = {"sum": Sum(), "plain": Plain()}
        state.restore(journal, fresh, after)
        assert fresh["sum"].total == total(journal, after), after  # type: ignore[attr-defined]
    await journal.close()


async def test_only_frames_since_the_last_state_are_followed(tmp_path: Path) -> None:
    journal = await filled(tmp_path)
    parser = Sum()
    parser.total = 7  # as if that were known
    state.write(journal, {"sum": parser}, journal.read(0, frames=10_000)[29])
    await journal.accept(journal.head)
    fresh = Sum()
    state.restore(journal, {"sum": fresh}, 40)
    assert fresh.total == 7 + total(journal, 40) - total(journal, 30)
    await journal.close()


async def test_nothing_known_is_not_written(tmp_path: Path) -> None:
    journal = await filled(tmp_path)
    before = journal.head
    state.write(journal, {"sum": Sum(), "plain": Plain()}, journal.read(0)[0])
    assert journal.head == before
    await journal.close()


async def test_a_state_that_cannot_be_unpacked_is_an_error(tmp_path: Path) -> None:
    journal = await filled(tmp_path)
    known = state.control.Known(5, b"no zstd")
    journal.append(Origin("sum", state.COLLECTOR, ""), state.control.encode(known), kind=Kind.CONTROL)
    await journal.accept(journal.head)
    with pytest.raises(ParseError, match="cannot be unpacked"):
        state.restore(journal, {"sum": Sum()}, 50)
    await journal.close()
