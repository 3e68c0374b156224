"""Power cuts at every moment, judged by the syncs; and mutants of the journal that must not pass."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tidewire.errors import JournalError, JournalFailed
from tidewire.journal import Frame, Journal, JournalConfig, JournalReader, Origin
from tidewire.journal import journal as journal_module
from tidewire.journal.commit import Committer, Group
from tidewire.journal.config import Durability
from tidewire.journal.segment import HEADER_BYTES
from tidewire.journal.writer import SegmentWriter
from tidewire.records.clock import ManualClock, SeededRng
from unit.journal.power import SpyFiles, broken_disk

CONFIG = JournalConfig(segment_bytes=2048, commit_ms=1, max_frame=300, recent_bytes=500)
ORIGINS = [Origin("binance", "trade", "wss://x#1"), Origin("rss", "news", "GET https://x/feed")]
Row = tuple[int, Origin, bytes, bytes]


def row(frame: Frame) -> Row:
    return frame.sequence, frame.origin, frame.cursor, frame.payload


class Trial:
    """A journal, what was appended to it, and how much of that it said it had accepted."""

    def __init__(self, root: Path, files: Callable[[], SpyFiles] = SpyFiles) -> None:
        self.root = root
        self.files_of = files
        self.place = 0
        self.rows: list[Row] = []
        self.cuts = self.lost = 0
        self.clock = ManualClock()

    async def open(self) -> None:
        self.files = self.files_of()
        self.journal = await Journal.open(
            self.root / str(self.place), self.clock, CONFIG, files=self.files, rng=SeededRng(3)
        )

    def append(self, chance: random.Random) -> None:
        origin = chance.choice(ORIGINS)
        payload = chance.randbytes(chance.choice([0, 1, 40, 200, 301, 900]))
        cursor = b"" if chance.random() < 0.5 else payload[:3]
        sequence = self.journal.append(origin, payload, cursor=cursor)
        self.rows.append((sequence, origin, cursor, payload))

    async def cut(self, chance: random.Random) -> None:
        """Append some more, cut the power while they are being synced, look at what is left."""
        self.files.gate.clear()
        self.files.reached.clear()
        for _ in range(chance.randrange(1, 6)):
            self.append(chance)
        if chance.random() < 0.7:  # else anywhere, also before the write or while a segment begins
            await asyncio.to_thread(self.files.reached.wait, 0.5)
        await asyncio.sleep(0)
        accepted = self.journal.accepted
        target = self.root / str(self.place + 1)
        self.files.image(self.root / str(self.place), target, chance)
        self.files.gate.set()
        await self.journal.close()
        shutil.rmtree(self.root / str(self.place))
        self.place += 1
        self.cuts += 1
        await self.open()
        self.check(accepted)

    def check(self, accepted: int) -> None:
        journal = self.journal
        assert journal.accepted == journal.head
        found = [row(frame) for frame in journal.scan()]
        assert len(found) == journal.head
        assert len(found) >= accepted, f"{accepted} were accepted, {len(found)} are left"
        assert found == self.rows[: len(found)]
        self.lost += len(self.rows) - len(found)
        del self.rows[len(found) :]


async def power_cuts(root: Path, files: Callable[[], SpyFiles] = SpyFiles, rounds: int = 40) -> Trial:
    trial = Trial(root, files)
    await trial.open()
    chance = random.Random(11)
    for _ in range(rounds):
        for _ in range(chance.randrange(8)):
            trial.append(chance)
        if chance.random() < 0.7:
            await trial.journal.drain()
        await trial.cut(chance)
    await trial.journal.close()
    assert JournalReader(root / str(trial.place)).verify() == []
    return trial


async def test_power_cuts(tmp_path: Path) -> None:
    trial = await power_cuts(tmp_path)
    assert trial.cuts == 40
    assert len(trial.rows) > 50
    assert trial.lost > 20, "the cuts took nothing: the test proves nothing"


class AcceptsBeforeSync(Committer):
    def _commit(self, group: Group) -> None:
        self._writer.write(group.frames)
        self._announce(group, self._writer.place)
        self._writer.sync()


class NeverSyncs(Committer):
    def _tally(self, frames: list[Frame]) -> Durability:
        return Durability.NONE


class AcceptsBeforeWrite(Committer):
    def _commit(self, group: Group) -> None:
        self._announce(group, self._writer.place)
        super()._commit(group)


@pytest.mark.parametrize("mutant", [AcceptsBeforeSync, NeverSyncs, AcceptsBeforeWrite])
async def test_mutant_that_accepts_too_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: type[Committer]
) -> None:
    monkeypatch.setattr(Journal, "committer", mutant)
    with pytest.raises((AssertionError, JournalError)):
        await power_cuts(tmp_path)


async def test_mutant_that_keeps_the_torn_tail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def repair(file, tail, files, segment_bytes):
        return files.open(file.path)

    resume = SegmentWriter.resume

    def at_the_end(self, descriptor, first, end):
        content = os.pread(descriptor, 1 << 20, 0)
        resume(self, descriptor, first, max(HEADER_BYTES, len(content.rstrip(b"\0")), end))

    monkeypatch.setattr(journal_module, "repair", repair)
    monkeypatch.setattr(SegmentWriter, "resume", at_the_end)
    with pytest.raises((AssertionError, JournalError)):
        await power_cuts(tmp_path)


async def test_mutant_that_does_not_sync_the_directory(tmp_path: Path) -> None:
    class Forgetful(SpyFiles):
        def sync_directory(self, path: Path) -> None:
            pass

    with pytest.raises((AssertionError, JournalError)):
        await power_cuts(tmp_path, Forgetful)


async def test_mutant_that_does_not_sync_a_full_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegmentWriter, "seal", SegmentWriter.abandon)
    with pytest.raises((AssertionError, JournalError)):
        await power_cuts(tmp_path)


async def test_mutant_that_notes_as_synced_what_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = SegmentWriter.write

    def early(self, frames, **more):
        write(self, frames, **more)
        self._synced.note(self._first, self.end)

    monkeypatch.setattr(SegmentWriter, "write", early)
    with pytest.raises((AssertionError, JournalError)):
        await power_cuts(tmp_path)


async def _after_a_failed_sync(root: Path) -> None:
    """A sync fails, the process starts again on the same page cache, goes on, and the power is cut."""
    trial = Trial(root)
    await trial.open()
    chance = random.Random(5)
    for _ in range(3):
        trial.append(chance)
    await trial.journal.drain()
    trial.files.fail_sync = broken_disk()
    trial.rows.append((4, ORIGINS[0], b"", b"written, but its sync failed"))
    with pytest.raises(JournalFailed):
        await trial.journal.accept(trial.journal.append(ORIGINS[0], trial.rows[-1][3]))
    with pytest.raises(JournalFailed):
        await trial.journal.close()
    trial.files.fail_sync = None
    trial.files_of = lambda files=trial.files: files
    await trial.open()
    assert trial.journal.head == 4
    for _ in range(5):
        trial.append(chance)
    await trial.journal.drain()
    trial.files_of = SpyFiles
    await trial.cut(chance)
    await trial.journal.close()


async def test_what_a_failed_sync_left_in_memory_is_written_again(tmp_path: Path) -> None:
    await _after_a_failed_sync(tmp_path)


async def test_mutant_that_believes_the_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def repair(file, tail, files, segment_bytes):
        descriptor = files.open(file.path)
        files.truncate(descriptor, tail.end)
        files.allocate(descriptor, segment_bytes)
        files.sync(descriptor)
        return descriptor

    monkeypatch.setattr(journal_module, "repair", repair)
    with pytest.raises((AssertionError, JournalError)):
        await _after_a_failed_sync(tmp_path)


class Machine(RuleBasedStateMachine):
    """Append, commit, cut the power, reopen and read, against a list."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.trial = Trial(Path(self.directory.name))
        self.runner.run(self.trial.open())

    def teardown(self) -> None:
        self.runner.run(self.trial.journal.close())
        self.runner.close()
        self.directory.cleanup()

    @rule(seed=st.integers(0, 1000), count=st.integers(1, 12))
    def append(self, seed: int, count: int) -> None:
        chance = random.Random(seed)

        async def go() -> None:
            for _ in range(count):
                self.trial.append(chance)

        self.runner.run(go())

    @rule()
    def commit(self) -> None:
        self.runner.run(self.trial.journal.drain())
        assert self.trial.journal.accepted == len(self.trial.rows)

    @rule(seed=st.integers(0, 1000))
    def cut(self, seed: int) -> None:
        self.runner.run(self.trial.cut(random.Random(seed)))

    @rule()
    def reopen(self) -> None:
        async def go() -> None:
            await self.trial.journal.close()
            await self.trial.open()
            self.trial.check(len(self.trial.rows))

        self.runner.run(go())

    @rule(seconds=st.integers(-100, 100))
    def jump(self, seconds: int) -> None:
        self.trial.clock.jump(seconds)

    @precondition(lambda self: self.trial.rows)
    @rule(data=st.data(), most=st.integers(1, 20))
    def read(self, data: st.DataObject, most: int) -> None:
        journal = self.trial.journal
        after = data.draw(st.integers(0, len(self.trial.rows)))
        upto = min(journal.accepted, after + most)
        assert [row(frame) for frame in journal.read(after, frames=most)] == self.trial.rows[after:upto]
        walls = [frame.wall_ns for frame in journal.scan()]
        assert walls == sorted(walls)


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
