"""What is archived is what was there, byte for byte, whenever the process is killed."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.errors import ArchiveFailed, ConfigError, InputError, JournalCorrupt, JournalTrimmed, NotFound
from tidewire.journal import Archive, ArchiveReader, History, JournalConfig, JournalReader, Kind, Retention
from tidewire.journal.archive import DAY_NS, split
from tidewire.journal.catalog import SegmentInfo
from tidewire.journal.files import OsFiles
from tidewire.journal.manifest import Manifest, decode_manifest, header_bytes, manifest_name, part_name
from tidewire.journal.objects import Directory, open_objects
from tidewire.journal.restore import choose, restore
from unit.journal.archive_kit import SOURCES, START_NS, Killed, MemoryObjects, archived, filled, sealed


def restored(objects: MemoryObjects, into: Path, **chosen: int) -> None:
    reader = ArchiveReader(objects)
    list(restore(reader, choose(reader.manifests, **chosen), into))


def same_segments(journal: Path, other: Path, count: int) -> None:
    segments = sealed(journal)
    assert len(segments) == count
    for segment in segments:
        assert (other / segment.path.name).read_bytes() == segment.path.read_bytes()


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1 << 20),
    count=st.integers(20, 80),
    segment_bytes=st.integers(300, 8_000),
    sources=st.lists(st.sampled_from(SOURCES), min_size=1, unique=True),
    reads=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 50), st.integers(1, 3_000)), max_size=8),
)
def test_what_comes_back_is_what_was_there(
    seed: int, count: int, segment_bytes: int, sources: list[str], reads: list[tuple[float, int, int]]
) -> None:
    config = JournalConfig(segment_bytes=segment_bytes, commit_ms=0, max_frame=300)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "journal"
        asyncio.run(filled(directory, count, seed=seed, config=config, sources=sources))
        segments = sealed(directory)
        if not segments:
            return
        objects = MemoryObjects()
        archived(directory, objects)
        restored(objects, Path(folder) / "again")
        same_segments(directory, Path(folder) / "again", len(segments))
        local, archive = JournalReader(directory), ArchiveReader(objects)
        assert (archive.uuid, archive.first, archive.accepted) == (local.uuid, 1, segments[-1].last)
        history = History(local, archive)
        for share, frames, size in [(0.0, 4096, 1 << 20), *reads]:
            after = int(share * archive.accepted)
            expected = local.read(after, frames=frames, bytes_=size)
            inside = [frame for frame in expected if frame.sequence <= archive.accepted]
            assert archive.read(after, frames=frames, bytes_=size) == inside
            assert history.read(after, frames=frames, bytes_=size) == expected
            assert archive.read(after, frames=frames, bytes_=size) == inside, "a second time, from another place"
        assert list(archive.verify()) == []


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_reading_on_from_where_it_ended(tmp_path: Path, size: int) -> None:
    await filled(tmp_path, 200)
    objects = MemoryObjects()
    archived(tmp_path, objects)
    reader = ArchiveReader(objects)
    found = []
    while frames := reader.read(found[-1].sequence if found else 0, frames=size):
        found += frames
    assert found == [frame for frame in JournalReader(tmp_path).scan() if frame.sequence <= reader.accepted]


async def test_scan_like_the_directory(tmp_path: Path) -> None:
    await filled(tmp_path, 200)
    objects = MemoryObjects()
    archived(tmp_path, objects)
    reader, local = ArchiveReader(objects), JournalReader(tmp_path)
    for source in (None, "rss", "nobody"):
        for begin in (None, *range(0, 200, 17)):
            start = None if begin is None else START_NS + begin * 1_000_000_000
            end = None if start is None else start + 60_000_000_000
            for after in (0, 90):
                asked = {"after": after, "source": source, "start_ns": start, "end_ns": end}
                expected = [frame for frame in local.scan(**asked) if frame.sequence <= reader.accepted]  # type: ignore[arg-type]
                assert list(reader.scan(**asked)) == expected  # type: ignore[arg-type]


async def test_one_source_asks_for_its_own_objects_only(tmp_path: Path) -> None:
    await filled(tmp_path, 200)
    objects = MemoryObjects()
    archived(tmp_path, objects)
    for name in [name for name in objects.held if "/sources/" in name and "/sources/rss/" not in name]:
        del objects.held[name]
    assert {frame.origin.source for frame in ArchiveReader(objects).scan(source="rss")} == {"rss"}


async def test_what_an_object_and_a_manifest_say(tmp_path: Path) -> None:
    await filled(tmp_path, 80)
    objects = MemoryObjects()
    manifest = archived(tmp_path, objects).manifests[0]
    segment = sealed(tmp_path)[0]
    assert manifest.sha256 == hashlib.sha256(segment.path.read_bytes()).hexdigest()
    assert (manifest.first, manifest.last, manifest.bytes) == (1, segment.last, segment.bytes)
    frames = [frame for frame in JournalReader(tmp_path).scan() if frame.sequence <= segment.last]
    assert sum(part.frames for part in manifest.parts) == len(frames)
    for part in manifest.parts:
        own = [
            frame
            for frame in frames
            if frame.origin.source == part.source and (frame.kind is Kind.DATA) == (part.sort == "data")
        ]
        assert (part.first, part.last, part.frames) == (own[0].sequence, own[-1].sequence, len(own))
        assert (part.first_wall_ns, part.last_wall_ns) == (own[0].wall_ns, own[-1].wall_ns)
        stored = objects.held[part.object]
        assert (len(stored), hashlib.sha256(stored).hexdigest()) == (part.stored_bytes, part.sha256)
        opened = zstandard.ZstdDecompressor().decompressobj().decompress(stored)
        raw = opened[header_bytes(opened, part.object) :]
        assert len(raw) == part.raw_bytes
        assert raw[:40] in segment.path.read_bytes()
    assert sum(part.raw_bytes for part in manifest.parts) + 64 == manifest.bytes


def test_names_are_safe_and_never_meet() -> None:
    sources = [*SOURCES, "okx", "a/b", "a=2fb", "con", ".", "x" * 300, "x" * 299 + "y", "%2e", "A", "a"]
    names = [part_name("u", source, 7, "data") for source in sources]
    assert len(set(names)) == len(names)
    for name in names:
        _, sources_, folder, file = name.split("/")
        assert sources_ == "sources"
        assert folder.strip(".")
        assert folder == folder.lower()
        assert len(folder) < 200
        assert file == f"{7:020d}.data.zst"


# -- killed -----------------------------------------------------------------------------------------------------------


async def killed_everywhere(root: Path) -> int:
    """Kill the archiving before and behind every step, then go on; how many times it was killed."""
    await filled(root / "journal", 30, sources=["binance", "rss"])
    whole = MemoryObjects()
    archived(root / "journal", whole)
    kills = 0
    for place in range(1, whole.steps + 1):
        for where in ("fails_before", "fails_after"):
            objects = MemoryObjects()
            setattr(objects, where, place)
            with pytest.raises(Killed):
                archived(root / "journal", objects)
            kills += 1
            present(objects)
            archived(root / "journal", objects)
            assert objects.held == whole.held
            written = [name for _, name in objects.log]
            assert len(written) == len(set(written)), "written twice"
    return kills


def present(objects: MemoryObjects) -> None:
    """Whatever has a manifest is whole: that is what trimming relies on."""
    for name, data in objects.held.items():
        if "/segments/" in name:
            for part in decode_manifest(data, name).parts:
                assert part.object in objects.held, f"{name} was written before {part.object}"


async def test_killed_at_every_step_it_goes_on(tmp_path: Path) -> None:
    assert await killed_everywhere(tmp_path) > 20


async def test_mutant_that_writes_the_manifest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def add(self: Archive, segment: SegmentInfo) -> Manifest:
        name = manifest_name(self.journal, segment.first)
        if (data := self.objects.get(name)) is not None:
            return decode_manifest(data, name)
        made = split(segment)
        self._store(name, made.manifest.encode())
        for part, packed in made.objects:
            self._store(part.object, packed)
        return made.manifest

    monkeypatch.setattr(Archive, "add", add)
    with pytest.raises(AssertionError):
        await killed_everywhere(tmp_path)


async def test_what_another_program_left_half_done_is_replaced(tmp_path: Path) -> None:
    await filled(tmp_path, 60)
    objects, whole = MemoryObjects(), MemoryObjects()
    archived(tmp_path, whole)
    name = next(name for name in whole.held if "/sources/" in name)
    objects.held[name] = b"packed at another level"
    archived(tmp_path, objects)
    assert objects.held == whole.held


async def test_a_store_that_does_not_give_back_what_it_took(tmp_path: Path) -> None:
    class Lossy(MemoryObjects):
        def get(self, name: str) -> bytes | None:
            data = super().get(name)
            return data[:-1] if data and "/sources/" in name else data

    await filled(tmp_path, 60)
    objects = Lossy()
    with pytest.raises(ArchiveFailed, match="does not give back"):
        archived(tmp_path, objects)
    assert not [name for name in objects.held if "/segments/" in name]


# -- damage -----------------------------------------------------------------------------------------------------------


def _flip(data: bytearray) -> None:
    data[-5] ^= 1


def _cut(data: bytearray) -> None:
    del data[-5:]


def _zeros(data: bytearray) -> None:
    data += bytes(100)


@pytest.mark.parametrize("harm", [_flip, _cut, _zeros])
async def test_a_damaged_segment_is_not_archived(tmp_path: Path, harm: Callable[[bytearray], None]) -> None:
    await filled(tmp_path, 60)
    segments = sealed(tmp_path)
    data = bytearray(segments[0].path.read_bytes())
    harm(data)
    segments[0].path.write_bytes(data)
    objects = MemoryObjects()
    with pytest.raises(JournalCorrupt, match=segments[0].path.name):
        Archive(objects, JournalReader(tmp_path).uuid).add(segments[0])
    assert objects.held == {}


async def test_verify_names_what_is_damaged(tmp_path: Path) -> None:
    await filled(tmp_path, 100)
    objects = MemoryObjects()
    first, second, third, *_ = archived(tmp_path, objects).manifests
    assert list(ArchiveReader(objects).verify()) == []
    flipped, gone = first.parts[0].object, second.parts[0].object
    objects.held[flipped] = objects.held[flipped][:-1] + b"?"
    del objects.held[gone]
    changed = msgspec.structs.replace(third, sha256="0" * 64)
    objects.held[third.name] = changed.encode()
    found = [(finding.level, str(finding.path)) for finding in ArchiveReader(objects).verify()]
    assert found == [("corrupt", flipped), ("missing", gone), ("corrupt", third.name)]
    with pytest.raises(JournalCorrupt, match="fails its checksum"):
        ArchiveReader(objects).read(0)
    with pytest.raises(JournalCorrupt, match="is missing in the archive"):
        ArchiveReader(objects).read(second.first - 1)
    with pytest.raises(JournalCorrupt, match="does not make the segment it was"):
        list(restore(ArchiveReader(objects), [changed], tmp_path / "again"))
    assert not list((tmp_path / "again").glob("*.seg"))


async def test_a_manifest_that_is_gone_is_missed(tmp_path: Path) -> None:
    await filled(tmp_path, 100)
    objects = MemoryObjects()
    first, second, third, *_ = archived(tmp_path, objects).manifests
    del objects.held[second.name]
    reader = ArchiveReader(objects)
    assert [finding.level for finding in reader.verify()] == ["missing"]
    assert [frame.sequence for frame in reader.read(0, frames=first.last)] == list(range(1, first.last + 1))
    with pytest.raises(JournalCorrupt, match=f"Frames {second.first:,} to {second.last:,} of journal"):
        reader.read(0)
    assert reader.read(third.first - 1, frames=1)[0].sequence == third.first
    with pytest.raises(JournalCorrupt, match="are missing in the archive"):
        restored(objects, tmp_path / "again")


async def test_an_archive_of_another_life_of_the_journal_is_refused(tmp_path: Path) -> None:
    await filled(tmp_path / "a", 60)
    objects = MemoryObjects()
    archive = archived(tmp_path / "a", objects)
    forked = sealed(tmp_path / "a")[0]
    other = SegmentInfo(forked.path, forked.first, forked.last, forked.bytes + 1, forked.created_ns)
    with pytest.raises(JournalCorrupt, match="copied and went on in two places"):
        archive.add(other)
    assert archive.holds(forked)
    assert not archive.holds(other)


async def test_nothing_archived_and_nothing_before(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="Nothing is in the archive memory"):
        ArchiveReader(MemoryObjects())
    await filled(tmp_path, 100)
    objects = MemoryObjects()
    first = archived(tmp_path, objects).manifests[0]
    del objects.held[first.name]
    with pytest.raises(JournalTrimmed, match=rf"frame 1 was asked for, the oldest that is there is {first.last + 1}"):
        ArchiveReader(objects).read(0)
    objects.held["another/segments/x.json"] = b""
    with pytest.raises(InputError, match=r"holds 2 journals: .*Name one with --journal"):
        ArchiveReader(objects)


# -- retention --------------------------------------------------------------------------------------------------------

NOW = START_NS + 10 * DAY_NS


def expired(objects: MemoryObjects) -> set[str]:
    return {
        part.object
        for manifest in ArchiveReader(objects).manifests
        for part in manifest.parts
        if part.expired and part.object not in objects.held
    }


async def test_retention_by_age_of_each_source(tmp_path: Path) -> None:
    await filled(tmp_path, 150, sources=["binance", "rss"])
    objects = MemoryObjects()
    archive = archived(tmp_path, objects)
    assert archive.expire({"default": Retention(days=11)}, NOW) == 0
    count = archive.expire({"rss": Retention(days=9)}, NOW)
    own = [(m, part) for m in archive.manifests for part in m.parts if part.source == "rss"]
    data = {part.object for _, part in own if part.sort == "data"}
    # Control frames of `rss` stay where data of `binance` beside them does.
    beside = {part.object for m, part in own if {p.source for p in m.parts if p.sort == "data"} <= {"rss"}}
    assert len(data | beside) == count
    assert expired(objects) == data | beside
    stay = {part.object for _, part in own} - expired(objects)
    assert len(stay) > 3
    assert stay <= objects.held.keys()
    assert archive.expire({"rss": Retention(days=9)}, NOW) == 0
    archive.expire({"default": Retention(days=9)}, NOW)
    assert not [name for name in objects.held if "/sources/" in name]
    reader = ArchiveReader(objects)
    assert reader.read(0) == []
    assert reader.expired() == reader.accepted


async def test_retention_by_bytes_keeps_the_newest(tmp_path: Path) -> None:
    await filled(tmp_path, 150, sources=["binance", "rss"])
    objects = MemoryObjects()
    archive = archived(tmp_path, objects)
    sizes = [part.stored_bytes for manifest in archive.manifests for part in manifest.parts if part.source == "rss"]
    most = sum(sizes) // 2
    archive.expire({"rss": Retention(bytes=most), "default": Retention()}, NOW)
    kept = [
        (manifest.first, part.stored_bytes)
        for manifest in archive.manifests
        for part in manifest.parts
        if part.source == "rss" and part.sort == "data" and not part.expired
    ]
    gone = [manifest.first for manifest in archive.manifests if manifest.expired]
    assert 0 < sum(size for _, size in kept) <= most
    assert max(gone) < min(first for first, _ in kept)
    assert all(part.source == "rss" for m in archive.manifests for part in m.parts if part.expired)
    # Frames that are gone are left out, and counted.
    reader, local = ArchiveReader(objects), JournalReader(tmp_path)
    left = [frame.sequence for frame in reader.scan()]
    assert len(left) + reader.expired() == reader.accepted
    assert [frame for frame in local.scan() if frame.sequence in set(left)] == list(reader.scan())
    assert History(local, reader).expired == 0, "they are all in the directory"
    assert History(None, reader).expired == reader.expired()


async def test_killed_at_every_step_of_expiring(tmp_path: Path) -> None:
    await filled(tmp_path, 60, sources=["binance", "rss"])
    whole = MemoryObjects()
    before = archived(tmp_path, whole)
    began = whole.steps
    before.expire({"rss": Retention(days=9)}, NOW)
    assert whole.steps > began + 3
    for place in range(began + 1, whole.steps + 1):
        for where in ("fails_before", "fails_after"):
            objects = MemoryObjects()
            setattr(objects, where, place)
            archive = archived(tmp_path, objects)
            with pytest.raises(Killed):
                archive.expire({"rss": Retention(days=9)}, NOW)
            # Never an object gone that its manifest still promises.
            assert [finding.level for finding in ArchiveReader(objects).verify()] == []
            archived(tmp_path, objects).expire({"rss": Retention(days=9)}, NOW)
            assert objects.held == whole.held


# -- restore ----------------------------------------------------------------------------------------------------------


async def test_restore_of_a_range_is_a_journal(tmp_path: Path) -> None:
    await filled(tmp_path / "journal", 150)
    objects = MemoryObjects()
    manifests = archived(tmp_path / "journal", objects).manifests
    second, third = manifests[1:3]
    restored(objects, tmp_path / "range", first=second.last, last=third.first)
    reader = JournalReader(tmp_path / "range")
    assert (reader.first, reader.accepted) == (second.first, third.last)
    assert reader.verify() == []
    expected = [f for f in JournalReader(tmp_path / "journal").scan() if second.first <= f.sequence <= third.last]
    assert list(reader.scan(after=second.first - 1)) == expected
    with pytest.raises(JournalTrimmed):
        reader.read(0)
    restored(objects, tmp_path / "times", start_ns=second.last_wall_ns, end_ns=second.last_wall_ns + 1)
    assert [path.name for path in (tmp_path / "times").glob("*.seg")] == [f"{second.first:020d}.seg"]
    with pytest.raises(NotFound, match=f"it holds frames 1 to {manifests[-1].last}"):
        restored(objects, tmp_path / "none", first=10_000)
    with pytest.raises(InputError, match="is not an empty directory"):
        restored(objects, tmp_path / "range")


async def test_restore_puts_a_note_in_the_place_of_what_expired(tmp_path: Path) -> None:
    await filled(tmp_path / "journal", 100, sources=["binance", "rss"])
    objects = MemoryObjects()
    archive = archived(tmp_path / "journal", objects)
    archive.expire({"rss": Retention(days=9)}, NOW)
    reader = ArchiveReader(objects)
    with pytest.raises(InputError, match=rf"{reader.expired():,} frames of .* have expired.*--partial"):
        restored(objects, tmp_path / "again")
    list(restore(reader, reader.manifests, tmp_path / "again", noted=lambda manifest: b"gone:%d" % manifest.first))
    again = JournalReader(tmp_path / "again")
    assert again.verify() == []
    notes = 0
    for frame, was in zip(again.scan(), JournalReader(tmp_path / "journal").scan(), strict=False):
        assert frame.sequence == was.sequence
        if frame.payload.startswith(b"gone:"):
            assert (frame.kind, was.kind, was.origin.source) == (Kind.CONTROL, Kind.DATA, "rss")
            assert frame.wall_ns <= was.wall_ns
            notes += 1
        else:
            assert frame == was
    assert notes == reader.expired()
    assert again.accepted == reader.accepted


# -- objects ----------------------------------------------------------------------------------------------------------


class Recording(OsFiles):
    """Writes down what is done to files."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._names: dict[int, str] = {}

    def open(self, path: Path, *, create: bool = False) -> int:
        descriptor = super().open(path, create=create)
        self._names[descriptor] = path.name
        return descriptor

    def sync(self, descriptor: int) -> None:
        super().sync(descriptor)
        if descriptor in self._names:
            self.done.append(f"sync {self._names[descriptor]}")

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        del self._names[descriptor]

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self.done.append(f"rename {new.name}")

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        self.done.append(f"sync {path.name}/")


def test_a_directory_holds_objects_on_disk(tmp_path: Path) -> None:
    files = Recording()
    objects = Directory(tmp_path / "archive", files)
    assert objects.list("u") == []
    assert objects.create("u/sources/b.data.zst", b"1")
    assert files.done == [
        f"sync {tmp_path.name}/",
        "sync archive/",
        "sync u/",
        "sync b.data.zst.tmp",
        "rename b.data.zst",
        "sync sources/",
    ]
    assert not objects.create("u/sources/b.data.zst", b"2")
    objects.put("u/sources/a.data.zst", b"longer")
    objects.put("u/sources/a.data.zst", b"22")
    (tmp_path / "archive/u/sources/c.data.zst.tmp").write_bytes(b"half")
    assert objects.list("u/sources") == ["u/sources/a.data.zst", "u/sources/b.data.zst"]
    assert (objects.get("u/sources/a.data.zst"), objects.size("u/sources/a.data.zst")) == (b"22", 2)
    objects.delete("u/sources/a.data.zst")
    objects.delete("u/sources/a.data.zst")
    assert (objects.get("u/sources/a.data.zst"), objects.size("u/sources/a.data.zst")) == (None, None)
    (tmp_path / "archive/u/file").write_bytes(b"")
    with pytest.raises(ArchiveFailed, match="cannot be written"):
        objects.put("u/file/x", b"")


@pytest.mark.parametrize("url", ["s3:/bucket", "ftp://x/y", "nonsense", "s3://"])
def test_a_url_that_is_no_archive(url: str) -> None:
    with pytest.raises(ConfigError, match=r"journal.archive.url is .*valid is s3://bucket/prefix"):
        open_objects(url, {})


def test_a_store_that_is_not_there_says_so_and_shows_no_key() -> None:
    options = {
        "endpoint": "http://127.0.0.1:9",
        "region": "x",
        "access_key_id": "AK1",
        "secret_access_key": "hush-hush",
    }
    objects = open_objects("s3://bucket/prefix", options)
    with pytest.raises(ArchiveFailed, match=r"Check journal.archive and the network") as caught:
        objects.get("x")
    assert "hush" not in f"{caught.value!r} {objects}"
    assert "AK1" not in f"{caught.value!r} {objects}"
