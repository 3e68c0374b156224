"""A full disk: nothing is accepted meanwhile, nothing is lost, and it goes on by itself."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from tidewire import telemetry
from tidewire.errors import JournalFailed
from tidewire.journal import Archive, Journal, JournalConfig, JournalReader, Keep, Keeper, KeeperConfig, Origin
from tidewire.journal import commit as commit_module
from tidewire.journal.commit import Committer
from tidewire.journal.frame import Frame
from tidewire.journal.writer import DiskFull
from tidewire.records.clock import ManualClock, SystemClock
from unit.journal.archive_kit import MemoryObjects
from unit.journal.power import SpyFiles, broken_disk, full_disk

FEED = Origin("binance", "trade", "wss://x#1")
CONFIG = JournalConfig(segment_bytes=4096, commit_ms=0, pending_bytes=3_000, recent_bytes=0)
DEADLINE_S = 30.0


class FullFiles(SpyFiles):
    """A disk that can be full: of a write a part still fits."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.tries = 0
        self.left = 1 << 40
        self.share = 0.5

    def _room(self) -> None:
        if self.full:
            self.tries += 1
            raise full_disk()

    def open(self, path: Path, *, create: bool = False) -> int:
        if create and path.suffix == ".tmp" and self.share == 0:
            self._room()
        return super().open(path, create=create)

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        if self.full:
            super().write(descriptor, data[: int(len(data) * self.share)], offset)
        self._room()
        super().write(descriptor, data, offset)

    def allocate(self, descriptor: int, size: int) -> None:
        self._room()
        super().allocate(descriptor, size)

    def free(self, path: Path) -> int:
        return self.left


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full disks are tried again at once."""
    monkeypatch.setattr(commit_module, "RETRY_S", 0.005)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what a thread does sets no event
            await asyncio.sleep(0.002)


async def full_and_free_again(directory: Path, seed: int = 1) -> None:
    """The disk is full again and again while frames come; everything is accepted in the end, once, in order."""
    chance = random.Random(seed)
    files = FullFiles()
    journal = await Journal.open(directory, ManualClock(), CONFIG, files=files)
    sent: list[bytes] = []

    def send(count: int) -> None:
        for _ in range(count):
            sent.append(chance.randbytes(chance.choice([3, 200, 900])))
            journal.append(FEED, sent[-1])

    for _ in range(12):
        send(chance.randrange(1, 6))
        await journal.drain()
        before = journal.accepted
        files.share = chance.choice([0, 0.5, 0.99])
        files.full = True
        send(chance.randrange(1, 12))
        tries = files.tries
        await until(lambda tries=tries: files.tries > tries)
        assert journal.accepted == before
        assert journal.blocked is not None
        assert journal.failed is None
        assert [frame.payload for frame in journal.read(0)] == sent[:before]
        files.full = False
        await journal.drain()
        assert journal.blocked is None
        # Read by somebody else: from the disk alone.
        assert [frame.payload for frame in JournalReader(directory).read(0)] == sent
    await journal.close()
    assert JournalReader(directory).verify() == []
    assert [frame.payload for frame in JournalReader(directory).scan()] == sent
    assert len(JournalReader(directory).segments()) > 5
    assert not list(directory.glob("*.seg.tmp"))


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_full_and_free_again(tmp_path: Path, seed: int) -> None:
    await full_and_free_again(tmp_path, seed)


async def test_mutant_that_accepts_without_writing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def once(self: Committer, frames: list[Frame]) -> None:
        try:
            self._writer.write(frames)
        except DiskFull as full:
            self._block(str(full))

    monkeypatch.setattr(Committer, "_write", once)
    with pytest.raises(BaseException):  # noqa: B017 - however it shows
        async with asyncio.timeout(10):
            await full_and_free_again(tmp_path)


async def test_mutant_that_writes_on_behind_what_was_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on(self: Committer, frames: list[Frame]) -> None:
        while True:
            try:
                self._writer.write(frames)
            except DiskFull as full:
                self._block(str(full))
                self._writer.end += 17
                continue
            self._unblock()
            return

    monkeypatch.setattr(Committer, "_write", on)
    with pytest.raises(Exception):  # noqa: B017 - however it shows
        await full_and_free_again(tmp_path)


async def test_feeds_are_paused_and_go_on(tmp_path: Path) -> None:
    files = FullFiles()
    journal = await Journal.open(tmp_path, ManualClock(), CONFIG, files=files)
    files.full = True
    while not journal.full:
        journal.append(FEED, bytes(300))
    ready = asyncio.ensure_future(journal.ready())
    await until(lambda: files.tries > 2)
    assert not ready.done()
    files.full = False
    await ready
    await journal.close()
    assert journal.accepted == journal.head


async def test_it_is_told(tmp_path: Path) -> None:
    files = FullFiles()
    clock = ManualClock()
    journal = await Journal.open(tmp_path, clock, CONFIG, files=files)
    blocked = telemetry.value("tidewire_journal_blocked_seconds_total")
    with structlog.testing.capture_logs() as lines:
        files.full = True
        journal.append(FEED, b"x")
        await until(lambda: files.tries > 2)
        assert journal.blocked is not None
        assert journal.blocked.startswith("disk full: [Errno 28] No space left on device")
        await clock.advance(30)
        tries = files.tries
        await until(lambda: files.tries > tries + 2)
        assert telemetry.value("tidewire_journal_blocked_seconds_total") == blocked + 30
        files.full = False
        await journal.drain()
    assert [line["event"] for line in lines] == ["journal_disk_full", "journal_disk_has_room"]
    await journal.close()


async def test_room_is_kept_for_others(tmp_path: Path) -> None:
    files = FullFiles()
    config = JournalConfig(segment_bytes=4096, commit_ms=0, min_free=1_000)
    journal = await Journal.open(tmp_path, ManualClock(), config, files=files)
    await journal.accept(journal.append(FEED, b"1"))
    files.left = 999
    journal.append(FEED, b"2")
    await until(lambda: journal.blocked is not None)
    assert journal.blocked == (
        "disk full: less than journal.min_free (1,000 bytes) is free. Nothing is accepted until there is room"
    )
    assert journal.accepted == 1
    files.left = 1_000
    await journal.drain()
    assert journal.accepted == 2
    files.left = 0
    journal.append(FEED, b"3")
    await until(lambda: journal.blocked is not None)
    await journal.close()
    assert journal.accepted == 3, "what was received is worth the room that is kept free"


async def test_closing_a_full_journal_ends_and_says_what_was_not_accepted(tmp_path: Path) -> None:
    files = FullFiles()
    journal = await Journal.open(tmp_path, ManualClock(), CONFIG, files=files)
    for number in range(3):
        journal.append(FEED, b"%d" % number)
    await journal.drain()
    files.full = True
    for number in range(40):
        journal.append(FEED, bytes(200))
        if number == 20:
            await until(lambda: files.tries > 1)
    waiting = asyncio.ensure_future(journal.accept(20))
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(JournalFailed, match=r"still full when it was closed: 40 frames .* were not accepted"):
            await journal.close()
    with pytest.raises(JournalFailed):
        await waiting
    assert [frame.payload for frame in JournalReader(tmp_path).read(0)][:3] == [b"0", b"1", b"2"]
    assert JournalReader(tmp_path).verify() == []
    files.full = False
    again = await Journal.open(tmp_path, ManualClock(), CONFIG, files=files)
    assert again.head >= 3
    await again.close()


async def test_a_sync_that_finds_no_room_ends_it_for_good(tmp_path: Path) -> None:
    files = FullFiles()
    journal = await Journal.open(tmp_path, ManualClock(), CONFIG, files=files)
    await journal.accept(journal.append(FEED, b"1"))
    files.fail_sync = full_disk()
    with pytest.raises(JournalFailed, match="all that was accepted is safe"):
        await journal.accept(journal.append(FEED, b"2"))
    files.fail_sync = None
    syncs = files.syncs
    with pytest.raises(JournalFailed):
        await journal.close()
    assert files.syncs == syncs


async def test_another_fault_while_it_is_full_ends_it(tmp_path: Path) -> None:
    files = FullFiles()
    journal = await Journal.open(tmp_path, ManualClock(), CONFIG, files=files)
    files.full = True
    journal.append(FEED, b"1")
    await until(lambda: files.tries > 1)
    files.fail_write = broken_disk()
    files.full = False
    with pytest.raises(JournalFailed, match="Input/output error"):
        await journal.drain()
    with pytest.raises(JournalFailed):
        await journal.close()


# -- a real one -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no tmpfs here: {made.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


REAL = JournalConfig(segment_bytes=256 * 1024, commit_ms=0, pending_bytes=50_000, recent_bytes=0)


async def flood(journal: Journal, sent: int) -> int:
    """Append as fast as the journal takes it until its disk is full; how many were sent then."""
    async with asyncio.timeout(DEADLINE_S):
        while journal.blocked is None:
            if not journal.full:
                journal.append(FEED, b"%d." % sent * 2_000)
                sent += 1
            await asyncio.sleep(0)
    return sent


async def test_a_real_disk_that_is_full(tmpfs: Path) -> None:
    journal = await Journal.open(tmpfs / "journal", SystemClock(), REAL)
    (tmpfs / "others").write_bytes(bytes(1_200_000))
    sent = await flood(journal, 0)
    accepted = journal.accepted
    assert 0 < accepted < sent
    (tmpfs / "others").unlink()
    async with asyncio.timeout(DEADLINE_S):
        await journal.drain()
    assert (journal.accepted, journal.blocked) == (sent, None)
    await journal.close()
    found = [frame.payload for frame in JournalReader(tmpfs / "journal").scan()]
    assert found == [b"%d." % number * 2_000 for number in range(sent)]


async def test_what_is_archived_makes_room(tmpfs: Path) -> None:
    """The disk is full; what is archived and stored is dropped early, though a week of it should stay."""
    clock = SystemClock()
    journal = await Journal.open(tmpfs / "journal", clock, REAL)
    archive = Archive(MemoryObjects(), journal.uuid)
    keeper = Keeper(journal, archive, clock, lambda: journal.accepted - 10, KeeperConfig(Keep(days=7, bytes=0)))
    sent = 0
    for _ in range(3):
        sent = await flood(journal, sent)
        assert await keeper.archive() > 0
        assert await keeper.trim() > 0
        async with asyncio.timeout(DEADLINE_S):
            await journal.drain()
        assert journal.accepted == sent
    await journal.close()
    reader = JournalReader(tmpfs / "journal")
    assert reader.first > 1
    assert reader.verify() == []
    assert [frame.sequence for frame in reader.scan(after=reader.first - 1)] == list(range(reader.first, sent + 1))
