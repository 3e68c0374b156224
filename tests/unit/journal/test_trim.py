"""Trimming: nothing goes that is needed, nothing is skipped, and the power may be cut at every step of it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tidewire import telemetry
from tidewire.errors import ArchiveFailed, JournalCorrupt, JournalFailed, JournalTrimmed
from tidewire.journal import Archive, Journal, JournalReader, Keep, Keeper, KeeperConfig, Retention
from tidewire.journal import journal as journal_module
from tidewire.journal.archive import DAY_NS
from tidewire.journal.catalog import SegmentFile
from tidewire.journal.files import Files
from tidewire.journal.trim import MARK, Mark, read_mark
from tidewire.records.clock import ManualClock
from unit.journal.archive_kit import SMALL, START_NS, MemoryObjects, filled, sealed
from unit.journal.power import SpyFiles, broken_disk


@contextlib.asynccontextmanager
async def opened(directory: Path, files: Files | None = None) -> AsyncIterator[Journal]:
    journal = await Journal.open(directory, ManualClock(), SMALL, files=files)
    try:
        yield journal
    finally:
        with contextlib.suppress(JournalFailed):
            await journal.close()


# -- the directory ----------------------------------------------------------------------------------------------------


async def test_what_was_trimmed_is_missed_and_the_rest_is_read(tmp_path: Path) -> None:
    await filled(tmp_path, 100)
    everything = list(JournalReader(tmp_path).scan())
    first = sealed(tmp_path)[3].first
    async with opened(tmp_path) as journal:
        assert journal.first == 1
        assert await journal.trim(first) == 3
        assert await journal.trim(first) == 0
        assert journal.first == first == journal.segments()[0].first
        for source in (journal, JournalReader(tmp_path)):
            assert source.first == first
            assert list(source.scan(after=first - 1)) == everything[first - 1 :]
            assert source.read(first - 1, frames=7) == everything[first - 1 : first + 6]
            for after in (0, first - 2):
                says = rf"frame {after + 1} was asked for, the oldest that is there is {first}\. .*tidewire replay"
                with pytest.raises(JournalTrimmed, match=says) as caught:
                    source.read(after)
                assert (caught.value.asked, caught.value.first) == (after + 1, first)
                with pytest.raises(JournalTrimmed):
                    list(source.scan(after=after))
            # Times after the oldest frame there is cannot have been trimmed.
            begin = everything[first].wall_ns
            assert list(source.scan(start_ns=begin)) == everything[first:]
            with pytest.raises(JournalTrimmed):
                list(source.scan(start_ns=begin - 2_000_000_000))
        with pytest.raises(JournalTrimmed):
            await anext(journal.tail(0))
        with pytest.raises(ValueError, match="begins no segment"):
            await journal.trim(first + 1)
        assert journal.append(everything[0].origin, b"next") == 101
    async with opened(tmp_path) as journal:
        assert (journal.first, journal.head) == (first, 101)
    assert JournalReader(tmp_path).verify() == []
    assert read_mark(tmp_path) == Mark(JournalReader(tmp_path).uuid, first)


async def test_a_read_that_is_under_way_is_told(tmp_path: Path) -> None:
    await filled(tmp_path, 100)
    async with opened(tmp_path) as journal:
        under_way = journal.scan()
        beside = JournalReader(tmp_path).scan()
        assert [next(under_way).sequence, next(beside).sequence] == [1, 1]
        await journal.trim(sealed(tmp_path)[3].first)
        for reading in (under_way, beside):
            found = [1]
            with pytest.raises(JournalTrimmed):
                found += [frame.sequence for frame in reading]
            # What was read before is without a hole.
            assert found == list(range(1, len(found) + 1))


async def test_the_newest_frames_stay(tmp_path: Path) -> None:
    await filled(tmp_path, 50)
    async with opened(tmp_path) as journal:
        newest = journal.segments()[-1]
        await journal.trim(newest.first)
        assert [segment.first for segment in journal.segments()] == [newest.first]
        assert journal.read(journal.accepted - 1)[0].sequence == 50


@pytest.mark.parametrize("gone", [0, 1])
async def test_segments_missing_above_the_mark_are_refused(tmp_path: Path, gone: int) -> None:
    await filled(tmp_path, 100)
    if gone:
        async with opened(tmp_path) as journal:
            await journal.trim(sealed(tmp_path)[2].first)
    segment = sealed(tmp_path)[0]
    segment.path.unlink()
    says = f"begins with frame {segment.first}, in {segment.path.name}, but the oldest is .*journal restore"
    with pytest.raises(JournalCorrupt, match=says):
        await Journal.open(tmp_path, ManualClock(), SMALL)
    with pytest.raises(JournalCorrupt, match=says):
        JournalReader(tmp_path)


async def test_a_mark_that_cannot_be_believed_is_refused(tmp_path: Path) -> None:
    await filled(tmp_path / "a", 100)
    await filled(tmp_path / "b", 100, seed=2)
    async with opened(tmp_path / "a") as journal:
        await journal.trim(sealed(tmp_path / "a")[2].first)
    mark = tmp_path / "a" / MARK
    written = msgspec.json.decode(mark.read_bytes())
    mark.write_bytes(msgspec.json.encode(written | {"first": written["first"] + 7}))
    with pytest.raises(JournalCorrupt, match=r"fails its checksum\. Nothing was removed"):
        await Journal.open(tmp_path / "a", ManualClock(), SMALL)
    mark.write_bytes(b"{")
    with pytest.raises(JournalCorrupt, match="is no trim mark"):
        await Journal.open(tmp_path / "a", ManualClock(), SMALL)
    (tmp_path / "b" / MARK).write_bytes(msgspec.json.encode(written))
    count = len(list((tmp_path / "b").glob("*.seg")))
    with pytest.raises(JournalCorrupt, match="belongs to journal"):
        await Journal.open(tmp_path / "b", ManualClock(), SMALL)
    assert len(list((tmp_path / "b").glob("*.seg"))) == count


# -- power cuts -------------------------------------------------------------------------------------------------------


class PowerCut(Exception):
    pass


class Stepwise(SpyFiles):
    """Cuts the power before a given step."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.cut_at = 0

    def _before(self) -> None:
        self.step += 1
        if self.step == self.cut_at:
            raise PowerCut

    def open(self, path: Path, *, create: bool = False) -> int:
        self._before()
        return super().open(path, create=create)

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        self._before()
        super().write(descriptor, data, offset)

    def sync(self, descriptor: int) -> None:
        self._before()
        super().sync(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        self._before()
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._before()
        super().remove(path)

    def sync_directory(self, path: Path) -> None:
        self._before()
        super().sync_directory(path)


async def cut_while_trimming(root: Path) -> int:
    """Cut the power before each step of trimming; whatever is left opens and is a journal. How many cuts."""
    cuts = 0
    chance = random.Random(4)
    for cut_at in range(1, 100):
        for again in range(4):
            directory, image = root / f"{cut_at}-{again}", root / f"{cut_at}-{again}-left"
            files = Stepwise()
            await filled(directory, 60, files=files)
            everything = list(JournalReader(directory).scan())
            first = sealed(directory)[3].first
            done = False
            async with opened(directory, files) as journal:
                files.step, files.cut_at = 0, cut_at
                try:
                    await journal.trim(first)
                    done = True
                except PowerCut:
                    cuts += 1
                files.image(directory, image, chance)
            async with opened(image) as journal:
                assert journal.first == (first if done else journal.first)
                assert journal.first in (1, first)
                assert list(journal.scan(after=journal.first - 1)) == everything[journal.first - 1 :]
            assert JournalReader(image).verify() == []
            if done:
                return cuts
    raise AssertionError("it never ended")


async def test_power_cut_before_every_step(tmp_path: Path) -> None:
    assert await cut_while_trimming(tmp_path) >= 30


async def test_mutant_that_removes_before_the_mark_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mark, remove = journal_module.write_mark, journal_module.remove

    def late(directory: Path, mark: Mark, files: Files) -> None:
        below = [file for file in journal_module.open_segments(directory) if file.first < mark.first]
        remove(below, files)
        write_mark(directory, mark, files)

    monkeypatch.setattr(journal_module, "write_mark", late)
    with pytest.raises((AssertionError, JournalCorrupt)):
        await cut_while_trimming(tmp_path)


async def test_opening_finishes_what_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(tmp_path, 100)
    first = sealed(tmp_path)[3].first

    def nothing(_segments: list[SegmentFile], _files: Files) -> None:
        pass

    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "remove", nothing)
        async with opened(tmp_path) as journal:
            await journal.trim(first)
    assert min(tmp_path.glob("*.seg")).name == f"{1:020d}.seg"
    assert JournalReader(tmp_path).first == first
    async with opened(tmp_path) as journal:
        assert journal.first == first
    assert min(tmp_path.glob("*.seg")).name == f"{first:020d}.seg"


async def test_a_mark_that_cannot_be_written_removes_nothing(tmp_path: Path) -> None:
    files = SpyFiles()
    await filled(tmp_path / "j", 60, files=files)
    before = sorted((tmp_path / "j").glob("*.seg"))
    async with opened(tmp_path / "j", files) as journal:
        files.fail_sync = broken_disk()
        with pytest.raises(JournalFailed, match=r"cannot be trimmed: .*Input/output error"):
            await journal.trim(sealed(tmp_path / "j")[2].first)
        files.fail_sync = None
        assert journal.first == 1
        assert journal.read(0)
    assert sorted((tmp_path / "j").glob("*.seg")) == before


# -- the keeper -------------------------------------------------------------------------------------------------------


class Kept:
    """A journal with a keeper."""

    def __init__(self, journal: Journal, keep: Keep, retention: dict[str, Retention] | None = None) -> None:
        self.journal = journal
        self.passed = 1 << 40
        self.clock = ManualClock(START_NS)
        self.objects = MemoryObjects()
        self.archive = Archive(self.objects, journal.uuid)
        config = KeeperConfig(keep, retention or {})
        self.keeper = Keeper(journal, self.archive, self.clock, lambda: self.passed, config)


@contextlib.asynccontextmanager
async def kept(directory: Path, keep: Keep, retention: dict[str, Retention] | None = None) -> AsyncIterator[Kept]:
    await filled(directory, 100)
    async with opened(directory) as journal:
        yield Kept(journal, keep, retention)


async def test_nothing_goes_before_it_is_archived(tmp_path: Path) -> None:
    async with kept(tmp_path, Keep(days=0, bytes=1)) as one:
        assert await one.keeper.trim() == 0
        count = len(one.journal.segments()) - 1
        assert await one.keeper.archive() == count
        assert await one.keeper.archive() == 0
        assert await one.keeper.trim() == count
        assert len(one.journal.segments()) == 1


async def test_positions_hold_segments_back(tmp_path: Path) -> None:
    await positions_hold_back(tmp_path)


async def positions_hold_back(directory: Path) -> None:
    async with kept(directory, Keep(days=0, bytes=1)) as one:
        await one.keeper.archive()
        infos = one.journal.segments()
        one.passed = 0
        assert await one.keeper.trim() == 0
        one.passed = infos[2].last - 1
        assert await one.keeper.trim() == 2
        assert one.journal.first == infos[2].first
        one.passed = infos[2].last
        assert await one.keeper.trim() == 1


async def test_mutant_that_does_not_look_at_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_from = Keeper._keep_from

    async def blind(self, infos, size):
        self._passed = lambda: 1 << 40
        return await keep_from(self, infos, size)

    monkeypatch.setattr(Keeper, "_keep_from", blind)
    with pytest.raises(AssertionError):
        await positions_hold_back(tmp_path)


async def test_what_is_kept_here_by_days_and_by_bytes(tmp_path: Path) -> None:
    async with kept(tmp_path, Keep(days=1, bytes=0)) as one:
        await one.keeper.archive()
        infos = one.journal.segments()
        assert await one.keeper.trim() == 0
        one.clock.jump(86_400 + (infos[3].created_ns - START_NS) / 1e9 + 0.5)
        assert await one.keeper.trim() == 3
    async with kept(tmp_path / "b", Keep(days=0, bytes=10_000)) as one:
        await one.keeper.archive()
        before = one.journal.segments()
        await one.keeper.trim()
        after = one.journal.segments()
        size = sum(info.bytes for info in after)
        assert size <= 10_000 < size + before[len(before) - len(after) - 1].bytes
    async with kept(tmp_path / "c", Keep(days=0, bytes=0)) as one:
        await one.keeper.archive()
        one.clock.jump(DAY_NS)
        assert await one.keeper.trim() == 0


async def test_an_archive_that_lost_something_is_not_relied_on(tmp_path: Path) -> None:
    async with kept(tmp_path, Keep(days=0, bytes=1)) as one:
        await one.keeper.archive()
        third = one.archive.manifests[2]
        del one.objects.held[third.parts[0].object]
        assert await one.keeper.trim() == 2
        assert one.journal.first == third.first


async def test_an_archive_out_of_reach_stops_nothing_and_is_told(tmp_path: Path) -> None:
    async with kept(tmp_path, Keep(days=0, bytes=1)) as one:
        errors = telemetry.value("tidewire_journal_archive_errors_total")

        def refuse(_name: str) -> bytes | None:
            raise ArchiveFailed("the network is down")

        get, one.objects.get = one.objects.get, refuse  # type: ignore[method-assign]
        task = asyncio.ensure_future(one.keeper.run())
        async with asyncio.timeout(20):
            while one.keeper.problem is None:
                await one.clock.advance(0)
        assert one.keeper.problem == "the network is down"
        assert telemetry.value("tidewire_journal_archive_errors_total") > errors
        await one.journal.accept(one.journal.append(one.journal.read(0)[0].origin, b"goes on"))
        one.objects.get = get  # type: ignore[method-assign]
        async with asyncio.timeout(20):
            while one.keeper.problem is not None or len(one.journal.segments()) > 1:
                await one.clock.advance(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len(one.archive.manifests) > 5


async def test_a_damaged_segment_is_told_and_the_others_are_archived(tmp_path: Path) -> None:
    await filled(tmp_path, 100)
    segment = sealed(tmp_path)[1]
    data = bytearray(segment.path.read_bytes())
    data[-3] ^= 1
    segment.path.write_bytes(data)
    async with opened(tmp_path) as journal:
        one = Kept(journal, Keep(days=0, bytes=1))
        count = len(journal.segments()) - 1
        assert await one.keeper.archive() == count - 1
        assert await one.keeper.archive() == 0
        assert segment.path.name in (one.keeper.problem or "")
        assert await one.keeper.trim() == 1, "it is not archived, so it and all behind it stay"


async def test_what_has_expired_goes_once_an_hour(tmp_path: Path) -> None:
    async with kept(tmp_path, Keep(), {"default": Retention(days=1)}) as one:
        await one.keeper.archive()
        one.clock.jump(3 * 86_400)
        await one.keeper.archive()
        assert not any(manifest.expired for manifest in one.archive.manifests)
        await one.clock.advance(3_600)
        await one.keeper.archive()
        assert all(manifest.expired for manifest in one.archive.manifests)
