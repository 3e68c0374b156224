"""Power cuts at every moment, judged by the syncs; and mutants of the journal that must not pass."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tidewire.errors import JournalError, JournalFailed
from tidewire.journal import Frame, Journal, JournalReader
from tidewire.journal import journal as journal_module
from tidewire.journal.commit import Committer, Group
from tidewire.journal.config import Durability
from tidewire.journal.segment import HEADER_BYTES
from tidewire.journal.writer import SegmentWriter
from unit.journal.power import SpyFiles, broken_disk
from unit.journal.trial import ORIGINS, Trial


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


class DiesWithoutItsName(SpyFiles):
    """Once, the process ends between giving a new segment its name and having the directory on disk."""

    dies = False

    def sync_directory(self, path: Path) -> None:
        if self.dies:
            self.dies = False
            raise broken_disk()
        super().sync_directory(path)


async def _accept_until_it_fails(trial: Trial, chance: random.Random) -> None:
    for _ in range(100):  # a segment holds far fewer
        trial.append(chance)
        await trial.journal.accept(trial.journal.head)


@pytest.mark.parametrize("seed", range(8))
async def test_a_name_that_the_process_before_did_not_bring_to_disk_is_brought_there(tmp_path: Path, seed: int) -> None:
    """The next process accepts frames into that segment: their name must not go with the next power cut."""
    trial, chance = Trial(tmp_path, DiesWithoutItsName), random.Random(seed)
    await trial.open()
    trial.append(chance)
    await trial.journal.drain()
    files = trial.files
    assert isinstance(files, DiesWithoutItsName)
    files.dies = True
    with pytest.raises(JournalFailed):
        await _accept_until_it_fails(trial, chance)
    await trial.reopen()
    trial.append(chance)
    await trial.journal.drain()
    await trial.cut_as_it_is(chance)
    await trial.journal.close()
