from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tidewire import telemetry
from tidewire.errors import ConfigError, JournalCorrupt, JournalError, JournalFailed, JournalLocked, NotFound
from tidewire.journal import Durability, Frame, Journal, JournalConfig, JournalReader, Kind, Origin
from tidewire.journal.catalog import BLOCK_BYTES
from tidewire.journal.segment import Header
from tidewire.journal.synced import SYNCED
from tidewire.records.clock import ManualClock, SeededRng
from unit.journal.power import SpyFiles, broken_disk, full_disk

FEED = Origin("binance", "trade", "wss://x#1")
PAGE = Origin("rss", "news", "GET https://x/feed")
SMALL = JournalConfig(segment_bytes=4096, commit_ms=1, max_frame=500)


async def filled(directory: Path, count: int, config: JournalConfig = SMALL) -> None:
    journal = await Journal.open(directory, ManualClock(), config)
    for number in range(1, count + 1):
        journal.append(FEED, b"payload %d" % number)
    await journal.close()


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = await Journal.open(tmp_path / "journal", ManualClock(), SMALL, rng=SeededRng(1))
    yield journal
    await journal.close()


async def test_append_accept_read(journal: Journal) -> None:
    assert (journal.head, journal.accepted, journal.read(0)) == (0, 0, [])
    assert journal.append(FEED, b"one", cursor=b"c1") == 1
    assert journal.append(PAGE, b"two", kind=Kind.CONTROL, wall_ns=1_800_000_000_000_000_000) == 2
    await journal.accept(2)
    assert journal.accepted == journal.head == 2
    wall = ManualClock().wall_ns()
    assert journal.read(0) == [
        Frame(1, wall, 0, Kind.DATA, FEED, b"c1", b"one"),
        Frame(2, 1_800_000_000_000_000_000, 0, Kind.CONTROL, PAGE, b"", b"two"),
    ]
    assert journal.read(1)[0].payload == b"two"
    assert journal.read(2) == []


async def test_nothing_is_seen_before_it_is_synced(tmp_path: Path) -> None:
    files = SpyFiles()
    journal = await Journal.open(tmp_path / "j", ManualClock(), SMALL, files=files)
    files.gate.clear()
    journal.append(FEED, b"x")
    accepting = asyncio.ensure_future(journal.accept(1))
    assert await asyncio.to_thread(files.reached.wait, 20)
    await asyncio.sleep(0)
    assert journal.accepted == 0
    assert journal.read(0) == list(journal.scan()) == []
    assert not accepting.done()
    files.gate.set()
    await accepting
    assert [frame.payload for frame in journal.read(0)] == [b"x"]
    await journal.close()


async def test_reopening_goes_on(tmp_path: Path) -> None:
    await filled(tmp_path, 3)
    first = JournalReader(tmp_path)
    journal = await Journal.open(tmp_path, ManualClock(), SMALL)
    assert (journal.uuid, journal.head, journal.accepted) == (first.uuid, 3, 3)
    assert journal.append(FEED, b"payload 4") == 4
    await journal.drain()
    assert [frame.payload for frame in journal.read(0)] == [b"payload %d" % number for number in range(1, 5)]
    await journal.close()
    assert len(journal.segments()) == 1


@pytest.mark.parametrize("recent", [0, 600, 1 << 20], ids=["from disk", "mixed", "from memory"])
async def test_reading_over_segments(tmp_path: Path, recent: int) -> None:
    config = JournalConfig(segment_bytes=1024, commit_ms=1, recent_bytes=recent)
    journal = await Journal.open(tmp_path, ManualClock(), config)
    for number in range(1, 101):
        journal.append(FEED, b"%03d" % number)
        if number % 7 == 0:
            await journal.drain()
    await journal.drain()
    assert len(journal.segments()) > 5
    for after in range(101):
        assert [frame.sequence for frame in journal.read(after, frames=5)] == list(
            range(after + 1, min(101, after + 6))
        )
    assert [frame.sequence for frame in journal.read(20, bytes_=10)] == [21, 22, 23, 24]
    assert [frame.sequence for frame in journal.read(20, bytes_=1)] == [21]
    await journal.close()


async def test_segments_are_told_as_they_are(tmp_path: Path) -> None:
    await filled(tmp_path, 60)
    journal = await Journal.open(tmp_path, ManualClock(), SMALL)
    infos = journal.segments()
    assert [info.path for info in infos] == sorted(tmp_path.glob("*.seg"))
    assert infos == JournalReader(tmp_path).segments()
    await journal.close()
    assert [info.first for info in infos] == [1, *(info.last + 1 for info in infos[:-1])]
    assert infos[-1].last == 60
    assert [info.bytes for info in infos] == [path.stat().st_size for path in sorted(tmp_path.glob("*.seg"))]
    assert all(info.bytes <= 4096 for info in infos)


async def test_chunks(tmp_path: Path) -> None:
    payloads = [os.urandom(size) for size in (499, 500, 501, 5000, 0, 12_345)]
    journal = await Journal.open(tmp_path, ManualClock(), SMALL)
    for payload in payloads:
        journal.append(PAGE, payload, cursor=b"behind")
    await journal.drain()
    assert [frame.payload for frame in journal.scan()] == payloads
    await journal.close()
    frames = list(JournalReader(tmp_path).scan())
    assert [frame.payload for frame in frames] == payloads
    assert {frame.cursor for frame in frames} == {b"behind"}
    assert [frame.sequence for frame in frames] == [1, 2, 3, 4, 5, 6]


async def test_frames_larger_and_segments_longer_than_a_block(tmp_path: Path) -> None:
    sizes = [BLOCK_BYTES * 3, 10, *[700] * 1000, BLOCK_BYTES, BLOCK_BYTES * 2 + 1, 0]
    payloads = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    config = JournalConfig(segment_bytes=8 << 20, commit_ms=0, max_frame=BLOCK_BYTES // 2, recent_bytes=0)
    journal = await Journal.open(tmp_path, ManualClock(), config)
    for payload in payloads:
        journal.append(FEED, payload)
    await journal.drain()
    assert len(journal.segments()) == 1
    for after in [900, 3, 1004, 0, 500, 1002, *range(0, 1000, 37)]:
        assert [frame.payload for frame in journal.read(after, frames=40)] == payloads[after : after + 40]
    await journal.close()
    assert [frame.payload for frame in JournalReader(tmp_path).scan()] == payloads


async def test_a_segment_that_holds_no_frame_yet(tmp_path: Path) -> None:
    await filled(tmp_path, 60)
    newest = JournalReader(tmp_path).segments()[-1]
    header = Header(JournalReader(tmp_path).uuid, 61, newest.created_ns + 5)
    (tmp_path / f"{61:020d}.seg").write_bytes(header.encode() + bytes(1000))
    assert JournalReader(tmp_path).segments()[-1].last == 60
    journal = await Journal.open(tmp_path, ManualClock(0), SMALL)
    assert (journal.head, journal.append(FEED, b"61")) == (60, 61)
    await journal.close()
    frames = JournalReader(tmp_path).read(60)
    assert [(frame.payload, frame.wall_ns) for frame in frames] == [(b"61", header.created_ns)]
    assert JournalReader(tmp_path).verify() == []


async def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(JournalFailed, match=r"cannot be used: .*Choose one that this user may write to"):
        await Journal.open(tmp_path / "file", ManualClock(), SMALL)


async def test_scan_by_source_time_and_sequence(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path, ManualClock(0), JournalConfig(segment_bytes=1024, commit_ms=1))
    for number in range(1, 101):
        journal.append(FEED if number % 3 else PAGE, b"%d" % number, wall_ns=number // 4 * 10)
    await journal.drain()
    rows = [(number, "binance" if number % 3 else "rss", number // 4 * 10) for number in range(1, 101)]

    def found(**asked: object) -> list[int]:
        return [frame.sequence for frame in journal.scan(**asked)]  # type: ignore[arg-type]

    assert found() == list(range(1, 101))
    assert found(source="rss") == [number for number, source, _ in rows if source == "rss"]
    assert found(source="nobody") == []
    for low in range(0, 260, 7):
        assert found(start_ns=low) == [number for number, _, wall in rows if wall >= low]
        assert found(end_ns=low) == [number for number, _, wall in rows if wall < low]
        assert found(after=30, start_ns=low, end_ns=low + 50, source="binance") == [
            number for number, source, wall in rows if number > 30 and source == "binance" and low <= wall < low + 50
        ]
    await journal.close()


async def test_times_never_go_back_even_over_a_restart(tmp_path: Path) -> None:
    clock = ManualClock()
    journal = await Journal.open(tmp_path, clock, SMALL)
    journal.append(FEED, b"1")
    clock.jump(-3600)
    journal.append(FEED, b"2")
    await journal.close()
    journal = await Journal.open(tmp_path, clock, SMALL)
    journal.append(FEED, b"3")
    await journal.drain()
    walls = [frame.wall_ns for frame in journal.read(0)]
    assert walls == sorted(walls)
    await journal.close()


async def test_tail_sees_everything_once(journal: Journal) -> None:
    seen: list[list[int]] = [[], [], []]

    async def follow(place: int, after: int, most: int) -> None:
        async for frames in journal.tail(after, frames=most):
            seen[place].extend(frame.sequence for frame in frames)

    tasks = [asyncio.ensure_future(follow(*how)) for how in ((0, 0, 4096), (1, 0, 3), (2, 150, 10))]
    for number in range(400):
        journal.append(FEED, b"%d" % number)
        if number % 50 == 0:
            await journal.drain()
    await journal.close()
    await asyncio.gather(*tasks)
    assert seen == [list(range(1, 401)), list(range(1, 401)), list(range(151, 401))]


async def test_wait(journal: Journal) -> None:
    waiting = asyncio.ensure_future(journal.wait(1))
    journal.append(FEED, b"1")
    await journal.drain()
    await asyncio.sleep(0)
    assert not waiting.done()
    journal.append(FEED, b"2")
    assert await waiting == 2
    beyond = asyncio.ensure_future(journal.wait(2))
    await asyncio.sleep(0)
    await journal.close()
    with pytest.raises(JournalError, match="closed"):
        await beyond
    with pytest.raises(JournalError, match="closed"):
        journal.append(FEED, b"3")


async def test_accept_of_a_frame_that_was_not_appended(journal: Journal) -> None:
    with pytest.raises(ValueError, match="Frame 1 was not appended"):
        await journal.accept(1)


async def test_back_pressure(tmp_path: Path) -> None:
    files = SpyFiles()
    config = JournalConfig(segment_bytes=1 << 20, commit_ms=0, pending_bytes=2000)
    journal = await Journal.open(tmp_path / "j", ManualClock(), config, files=files)
    await journal.ready()
    files.gate.clear()
    while not journal.full:
        journal.append(FEED, bytes(300))
    resumed = asyncio.ensure_future(journal.ready())
    assert await asyncio.to_thread(files.reached.wait, 20)
    await asyncio.sleep(0)
    assert journal.full
    assert not resumed.done()
    files.gate.set()
    await resumed
    assert not journal.full
    await journal.close()
    assert journal.accepted == journal.head


@pytest.mark.parametrize(
    ("level", "synced"), [(Durability.DISK, True), (Durability.OS, False), (Durability.NONE, False)]
)
async def test_durability_of_a_source(tmp_path: Path, level: Durability, *, synced: bool) -> None:
    files = SpyFiles()
    config = JournalConfig(segment_bytes=4096, commit_ms=0, durability={"binance": level})
    journal = await Journal.open(tmp_path / "j", ManualClock(), config, files=files)
    if level is not Durability.NONE:
        files.gate.clear()
        journal.append(FEED, b"x")
        accepting = asyncio.ensure_future(journal.drain())
        assert await asyncio.to_thread(files.reached.wait, 20)
        await asyncio.sleep(0)
        # With `os` it is accepted although the sync behind it has not returned.
        assert journal.accepted == (0 if synced else 1)
        files.gate.set()
        await accepting
    else:
        journal.append(FEED, b"the first makes the segment")
        await journal.drain()
        before = files.syncs
        journal.append(FEED, b"x")
        await journal.drain()
        assert files.syncs == before
        journal.append(PAGE, b"a source that wants the disk takes the others with it")
        await journal.drain()
        assert files.syncs == before + 1
    await journal.close()


def _no_sync(files: SpyFiles) -> None:
    files.fail_sync = broken_disk()


def _no_write(files: SpyFiles) -> None:
    files.fail_write = broken_disk()


def _no_space_in_a_sync(files: SpyFiles) -> None:
    files.fail_sync = full_disk()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (_no_sync, "Input/output error.*Check the disk"),
        (_no_write, "Input/output error.*Check the disk"),
        (_no_space_in_a_sync, "No space left.*Check the disk"),
    ],
)
async def test_a_fault_ends_acceptance(tmp_path: Path, fault: Callable[[SpyFiles], None], says: str) -> None:
    files = SpyFiles()
    config = JournalConfig(segment_bytes=4096, commit_ms=0, pending_bytes=500)
    journal = await Journal.open(tmp_path / "j", ManualClock(), config, files=files)
    journal.append(FEED, b"good")
    await journal.drain()
    files.gate.clear()
    fault(files)
    for _ in range(5):
        journal.append(FEED, bytes(300))
    tail = journal.tail(0)
    assert [frame.payload for frame in await anext(tail)] == [b"good"]
    waiters = [journal.accept(2), journal.accept(6), journal.wait(1), journal.ready(), anext(tail)]
    tasks = [asyncio.ensure_future(waiter) for waiter in waiters]
    await asyncio.sleep(0)
    files.gate.set()
    for error in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(error, JournalFailed)
    files.fail_sync = files.fail_write = None  # the disk comes back: too late
    syncs = files.syncs
    for call in (journal.drain, journal.ready, lambda: journal.wait(1), journal.close):
        with pytest.raises(JournalFailed, match=says):
            await call()
    with pytest.raises(JournalFailed, match=says):
        journal.append(FEED, b"late")
    assert (journal.accepted, files.syncs) == (1, syncs)
    assert [frame.payload for frame in journal.read(0)] == [b"good"]
    again = await Journal.open(tmp_path / "j", ManualClock(), SMALL)
    assert again.accepted >= 1
    assert again.read(0)[0].payload == b"good"
    await again.close()


async def test_lock(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path, ManualClock(), SMALL)
    with pytest.raises(JournalLocked, match=rf"in use by process {os.getpid()}.*choose another directory"):
        await Journal.open(tmp_path, ManualClock(), SMALL)
    await journal.close()
    await journal.close()
    await (await Journal.open(tmp_path, ManualClock(), SMALL)).close()


async def test_torn_tail_at_every_byte(tmp_path: Path) -> None:
    await filled(tmp_path / "j", 3)
    name = f"{1:020d}.seg"
    data = (tmp_path / "j" / name).read_bytes()
    two = data.rindex(b"payload 2") + len(b"payload 2")
    # What stood there was never synced, or the disk would have kept it: a note of the two whole frames at most.
    for cut in range(two, len(data)):
        directory = tmp_path / str(cut)
        directory.mkdir()
        (directory / name).write_bytes(data[:cut] + bytes(cut % 3 * 50))
        assert JournalReader(directory).accepted == 2
        assert [finding.level for finding in JournalReader(directory).verify()] in ([], ["torn"])
        journal = await Journal.open(directory, ManualClock(), SMALL)
        assert journal.head == 2
        journal.append(FEED, b"new")
        await journal.close()
        assert [frame.payload for frame in JournalReader(directory).scan()] == [b"payload 1", b"payload 2", b"new"]
        assert JournalReader(directory).verify() == []
        kept = list(directory.glob("*.cut-*"))
        assert [path.read_bytes() for path in kept] == ([data[two:cut].rstrip(b"\0")] if cut > two else [])
        shutil.rmtree(directory)


async def test_stale_frames_behind_the_tear_do_not_come_back(tmp_path: Path) -> None:
    await filled(tmp_path, 3)
    path = tmp_path / f"{1:020d}.seg"
    data = bytearray(path.read_bytes())
    two = data.rindex(b"payload 2")
    data[two] ^= 1  # frame 2 is torn; frame 3 behind it is whole and of the length that will fit
    # As a power cut in the middle of the first group leaves it: a reserved tail, and nothing known to be on disk.
    path.write_bytes(data + bytes(1000))
    (tmp_path / SYNCED).unlink()
    assert [finding.level for finding in JournalReader(tmp_path).verify()] == ["torn"]
    journal = await Journal.open(tmp_path, ManualClock(), SMALL)
    assert journal.head == 1
    journal.append(FEED, b"PAYLOAD 2")
    await journal.drain()
    # As a process that dies now would leave it: a clean close would cut the rest.
    assert [frame.payload for frame in JournalReader(tmp_path).scan()] == [b"payload 1", b"PAYLOAD 2"]
    await journal.close()


def _flip(data: bytearray) -> bytes:
    data[data.rindex(b"payload 2")] ^= 1
    return bytes(data)


def _zeros(data: bytearray) -> bytes:
    two = data.rindex(b"payload 2")
    return bytes(data[:two] + bytes(len(data) - two + 500))


def _short(data: bytearray) -> bytes:
    return bytes(data[: data.rindex(b"payload 2")])


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "not noted"])
@pytest.mark.parametrize("harm", [_flip, _zeros, _short])
async def test_damage_of_what_was_on_disk_is_not_cut(
    tmp_path: Path, harm: Callable[[bytearray], bytes], *, noted: bool
) -> None:
    await filled(tmp_path, 3)
    path = tmp_path / f"{1:020d}.seg"
    path.write_bytes(harm(bytearray(path.read_bytes())))
    if not noted:
        (tmp_path / SYNCED).unlink()
    if not noted and harm is not _flip:  # nothing tells this from a torn end
        assert [finding.level for finding in JournalReader(tmp_path).verify()] in ([], ["torn"])
        return
    assert [finding.level for finding in JournalReader(tmp_path).verify()] == ["corrupt"]
    before = path.read_bytes()
    with pytest.raises(JournalCorrupt, match=r"behind frame 1: .*Nothing was changed.*to begin a new journal"):
        await Journal.open(tmp_path, ManualClock(), SMALL)
    assert path.read_bytes() == before
    reader = JournalReader(tmp_path)
    assert [frame.payload for frame in reader.read(0)] == [b"payload 1"]
    with pytest.raises(JournalCorrupt, match="nothing can be read behind frame 1"):
        reader.read(1)
    with pytest.raises(JournalCorrupt, match="nothing can be read behind frame 1"):
        list(reader.scan())


@pytest.mark.parametrize("content", [b"", b"x", bytes(24), b"\xff" * 24])
async def test_a_broken_note_of_what_is_on_disk_says_nothing(tmp_path: Path, content: bytes) -> None:
    await filled(tmp_path, 3)
    path = tmp_path / f"{1:020d}.seg"
    path.write_bytes(_short(bytearray(path.read_bytes())))
    (tmp_path / SYNCED).write_bytes(content)
    journal = await Journal.open(tmp_path, ManualClock(), SMALL)
    assert journal.head == 1
    await journal.close()


async def test_a_close_that_fails_does_not_look_clean(tmp_path: Path) -> None:
    files = SpyFiles()
    config = JournalConfig(segment_bytes=4096, commit_ms=0, durability={"binance": Durability.NONE})
    journal = await Journal.open(tmp_path / "j", ManualClock(), config, files=files)
    journal.append(FEED, b"never synced")
    await journal.drain()
    files.fail_sync = broken_disk()
    with pytest.raises(JournalFailed):
        await journal.close()
    # The reserved tail is still there, so that recovery writes again what the kernel may have dropped.
    assert (tmp_path / "j" / f"{1:020d}.seg").stat().st_size == 4096


async def test_damage_in_a_sealed_segment(tmp_path: Path) -> None:
    await filled(tmp_path, 100)
    first, second, *_ = sorted(tmp_path.glob("*.seg"))
    data = bytearray(first.read_bytes())
    place = data.index(b"payload 7")
    data[place] ^= 1
    first.write_bytes(data)
    journal = await Journal.open(tmp_path, ManualClock(), SMALL)
    begin = data.rindex(b"payload 6") + len(b"payload 6")
    with pytest.raises(JournalCorrupt, match=rf"{first.name} at byte {begin}: frame 7 .*checksum"):
        list(journal.scan())
    assert [frame.sequence for frame in journal.read(0, frames=6)] == [1, 2, 3, 4, 5, 6]
    beyond = JournalReader(tmp_path).segments()[1].first - 1
    assert journal.read(beyond)[0].sequence == beyond + 1
    await journal.close()
    assert [(finding.level, finding.path, finding.offset) for finding in JournalReader(tmp_path).verify()] == [
        ("corrupt", first, begin)
    ]
    second.write_bytes(second.read_bytes()[:64])
    assert [finding.level for finding in JournalReader(tmp_path).verify()] == ["corrupt", "missing"]


async def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    await filled(tmp_path / "a", 100)
    await filled(tmp_path / "b", 100)
    names = [path.name for path in sorted((tmp_path / "a").glob("*.seg"))]
    shutil.copy(tmp_path / "b" / names[1], tmp_path / "a" / names[1])
    with pytest.raises(JournalCorrupt, match="belongs to journal"):
        await Journal.open(tmp_path / "a", ManualClock(), SMALL)
    assert JournalReader(tmp_path / "b").verify() == []
    (tmp_path / "b" / names[1]).rename(tmp_path / "b" / f"{99:020d}.seg")
    with pytest.raises(JournalCorrupt, match="Give the file its own name back"):
        JournalReader(tmp_path / "b")


async def test_reader_without_a_journal(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NotFound, match="There is no journal in"):
            JournalReader(directory)


async def test_reader_beside_a_writer(journal: Journal) -> None:
    for number in range(10):
        journal.append(FEED, b"%d" % number)
    await journal.drain()
    before = sorted(path.stat().st_mtime_ns for path in journal.directory.iterdir())
    reader = JournalReader(journal.directory)
    assert [frame.payload for frame in reader.read(7)] == [b"7", b"8", b"9"]
    assert reader.verify() == []
    assert sorted(path.stat().st_mtime_ns for path in journal.directory.iterdir()) == before


async def test_metrics(journal: Journal) -> None:
    def counted() -> tuple[float, ...]:
        return (
            telemetry.value("tidewire_journal_frames_total", source="metered"),
            telemetry.value("tidewire_journal_payload_bytes_total", source="metered"),
        )

    before = counted()
    commits = telemetry.value("tidewire_journal_commits_total")
    for _ in range(10):
        journal.append(Origin("metered", "a", "b"), bytes(30))
    await journal.close()
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [10, 300]
    assert telemetry.value("tidewire_journal_commits_total") > commits
    assert telemetry.value("tidewire_journal_pending_bytes") == 0
    assert telemetry.value("tidewire_journal_accepted_lag_frames") == 0


def test_config_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="journal segment_bytes is 10; valid is 256 to"):
        JournalConfig(segment_bytes=10)
