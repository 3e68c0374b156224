"""The raw archive: sealed segments, split by source, compressed, in an object store, with proof.

A segment is split into one object for each source (see `tidewire.journal.manifest`), the objects are read back and
compared, then the manifest is written and read back: its presence means that the segment is archived. Killed anywhere
between, the same segment is archived again; what the first try left is taken if it is the same and replaced if not.

What may be forgotten is forgotten in the other order: the manifest says so first, then the object goes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import msgspec
import zstandard

from tidewire import telemetry
from tidewire.errors import ArchiveFailed, JournalCorrupt
from tidewire.journal.catalog import SegmentInfo
from tidewire.journal.manifest import (
    Manifest,
    Part,
    Sort,
    decode_manifest,
    header_bytes,
    manifest_name,
    manifests_under,
    part_header,
    part_name,
)
from tidewire.journal.objects import Objects
from tidewire.journal.pieces import BLOCK_BYTES, Piece, Run, cut, merge, runs
from tidewire.journal.segment import HEADER_BYTES, Header

LEVEL = 1
"""Of zstd. Level 6 makes messages of exchanges smaller by 4 to 10 % for five times the processor time."""
DAY_NS = 86_400_000_000_000

_log = telemetry.log("journal")
_archived = telemetry.counter("journal_archived_bytes", "Bytes of frames archived", ["source"])
_stored = telemetry.counter(
    "journal_archive_stored_bytes", "Bytes that archived frames take in the archive", ["source"]
)
_expired = telemetry.counter("journal_expired_frames", "Frames whose time in the archive was over", ["source"])


@dataclass(frozen=True)
class Retention:
    """How long the frames of a source stay in the archive: so many days, so many bytes there; 0 = no limit."""

    days: float = 0.0
    bytes: int = 0


@dataclass
class _Draft:
    """A part while it is being made."""

    source: str
    sort: Sort
    packer: zstandard.ZstdCompressionObj
    packed: list[bytes]
    first: int
    first_wall_ns: int
    last: int = 0
    last_wall_ns: int = 0
    frames: int = 0
    raw_bytes: int = 0

    def add(self, run: Run) -> None:
        """Add the next encoded frames of this source."""
        self.packed.append(self.packer.compress(run.data))
        self.frames += run.frames
        self.raw_bytes += len(run.data)
        self.last, self.last_wall_ns = run.last, run.last_wall_ns

    def finish(self, header: Header) -> tuple[Part, bytes]:
        """The part and the bytes of its object."""
        data = b"".join([*self.packed, self.packer.flush()])
        part = Part(
            source=self.source,
            sort=self.sort,
            object=part_name(header.uuid, self.source, header.first, self.sort),
            frames=self.frames,
            raw_bytes=self.raw_bytes,
            stored_bytes=len(data),
            first=self.first,
            last=self.last,
            first_wall_ns=self.first_wall_ns,
            last_wall_ns=self.last_wall_ns,
            sha256=hashlib.sha256(data).hexdigest(),
        )
        return part, data


@dataclass
class Split:
    """A segment cut into parts: the manifest it will have, and the bytes of the objects."""

    manifest: Manifest
    objects: list[tuple[Part, bytes]] = field(default_factory=list[tuple[Part, bytes]])


def split(segment: SegmentInfo) -> Split:
    """Cut a sealed segment into parts, checking every frame. Takes about the memory of the compressed segment.

    `JournalCorrupt` if a frame is damaged or missing: what is damaged is not archived as if it were whole.
    """
    digest = hashlib.sha256()
    drafts: dict[tuple[bytes, bool], _Draft] = {}
    last, last_wall = segment.first - 1, segment.created_ns
    with segment.path.open("rb") as file:
        head = file.read(HEADER_BYTES)
        digest.update(head)
        header = Header.decode(head, segment.path)
        for run in runs(_hashed(iter(lambda: file.read(BLOCK_BYTES), b""), digest.update), str(segment.path)):
            if run.first not in (last, last + 1):
                raise JournalCorrupt(f"{segment.path}: frame {last + 1} is missing. Restore the segment from a copy.")
            last, last_wall = run.last, run.last_wall_ns
            draft = drafts.get((run.source, run.acts))
            if draft is None:
                draft = drafts[run.source, run.acts] = _draft(run, header)
            draft.add(run)
        size = file.tell()
    if last != segment.last:
        raise JournalCorrupt(
            f"{segment.path}: frames {last + 1} to {segment.last} are missing. Restore it from a copy."
        )
    made = [drafts[key].finish(header) for key in sorted(drafts)]
    manifest = Manifest(
        journal=header.uuid,
        epoch=header.epoch,
        first=header.first,
        last=last,
        created_ns=header.created_ns,
        last_wall_ns=last_wall,
        bytes=size,
        sha256=digest.hexdigest(),
        parts=[part for part, _ in made],
    )
    return Split(manifest, made)


def _hashed(blocks: Iterator[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    for block in blocks:
        update(block)
        yield block


def _draft(run: Run, header: Header) -> _Draft:
    source, sort = run.source.decode(), "acts" if run.acts else "data"
    packer = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compressobj()
    packed = [packer.compress(part_header(header, source, sort))]
    return _Draft(source, sort, packer, packed, run.first, run.first_wall_ns)


def open_part(objects: Objects, part: Part) -> Iterator[Piece]:
    """The encoded frames of a part; `JournalCorrupt` if the object is missing or not what was put there."""
    data = objects.get(part.object)
    if data is None:
        raise JournalCorrupt(f"{part.object} is missing in the archive {objects}. Restore it from a copy.")
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise JournalCorrupt(f"{part.object} in the archive {objects} fails its checksum. Restore it from a copy.")
    return cut(_unpacked(data, part.object), part.object)


def _unpacked(data: bytes, name: str) -> Iterator[bytes]:
    """The frames of a part, without its header."""
    blocks = zstandard.ZstdDecompressor().read_to_iter(BytesIO(data), write_size=BLOCK_BYTES)
    head = b""
    try:
        for block in blocks:
            head += block
            if len(head) >= BLOCK_BYTES:
                break
        yield head[header_bytes(head, name) :]
        yield from blocks
    except zstandard.ZstdError as error:
        raise JournalCorrupt(f"{name} in the archive cannot be unpacked: {error}. Restore it from a copy.") from None


class Archive:
    """The archive of one journal. Blocks; used by one thread at a time. `ArchiveFailed` when it cannot be reached."""

    def __init__(self, objects: Objects, journal: str) -> None:
        self.objects = objects
        self.journal = journal
        self._manifests: dict[int, Manifest] = {}
        self._swept = False

    @property
    def manifests(self) -> Sequence[Manifest]:
        """What is archived, oldest first, as far as it was loaded or added."""
        return [self._manifests[first] for first in sorted(self._manifests)]

    def load(self) -> None:
        """Learn what is archived."""
        for name in self.objects.list(manifests_under(self.journal)):
            if int(Path(name).stem) not in self._manifests:
                data = self.objects.get(name)
                if data is not None:
                    self._remember(decode_manifest(data, name))

    def has(self, segment: SegmentInfo) -> bool:
        """Whether a segment is known to be archived."""
        return segment.first in self._manifests

    def add(self, segment: SegmentInfo) -> Manifest:
        """Archive a sealed segment, unless it is; returns when it can be read back.

        `JournalCorrupt` if the segment is damaged, or if another one of its name is archived.
        """
        name = manifest_name(self.journal, segment.first)
        known = self._manifests.get(segment.first)
        if known is None and (data := self.objects.get(name)) is not None:
            known = self._remember(decode_manifest(data, name))
        if known is not None:
            if not _is_of(known, segment):
                raise JournalCorrupt(
                    f"{name} in the archive {self.objects} is of another segment than {segment.path}: the journal was "
                    "copied and went on in two places. Set journal.archive.url to an archive of its own."
                )
            return known
        made = split(segment)
        for part, packed in made.objects:
            self._store(part.object, packed)
        self._store(name, made.manifest.encode())
        for part, _ in made.objects:
            _archived.labels(part.source).inc(part.raw_bytes)
            _stored.labels(part.source).inc(part.stored_bytes)
        return self._remember(made.manifest)

    def holds(self, segment: SegmentInfo) -> bool:
        """Whether all that was archived of a segment, and is not expired, is there now, in its full length."""
        manifest = self._manifests.get(segment.first)
        if manifest is None or not _is_of(manifest, segment) or self.objects.size(manifest.name) is None:
            return False
        kept = (part for part in manifest.parts if not part.expired)
        return all(self.objects.size(part.object) == part.stored_bytes for part in kept)

    def expire(self, retention: Mapping[str, Retention], now_ns: int) -> int:
        """Let go of the parts whose time is over, by source (``default`` for those not named); how many went.

        Control and operator frames tell what became of the data beside them: they stay as long as any of it does.
        """
        if not self._swept:
            self._sweep()
        went = 0
        used: Counter[str] = Counter()
        for manifest in reversed(self.manifests):
            over: set[str] = set()
            for part in manifest.parts:
                if not part.expired:
                    used[part.source] += part.stored_bytes
                    if _is_over(part, retention, used[part.source], now_ns):
                        over.add(part.object)
            left = [part for part in manifest.parts if part.sort == "data" and not part.expired]
            if any(part.object not in over for part in left):
                over -= {part.object for part in manifest.parts if part.sort == "acts"}
            if over:
                self._forget(manifest, over)
                went += len(over)
        return went

    def _forget(self, manifest: Manifest, over: set[str]) -> None:
        parts = [msgspec.structs.replace(part, expired=part.expired or part.object in over) for part in manifest.parts]
        changed = msgspec.structs.replace(manifest, parts=parts)
        self.objects.put(changed.name, changed.encode())
        self._remember(changed)
        for part in manifest.parts:
            if part.object in over:
                self.objects.delete(part.object)
                _expired.labels(part.source).inc(part.frames)
                _log.info("journal_part_expired", object=part.object, frames=part.frames)

    def _sweep(self) -> None:
        """Remove what a process that was killed between manifest and object left."""
        over = {part.object for manifest in self.manifests for part in manifest.parts if part.expired}
        if over:
            for name in over.intersection(self.objects.list(f"{self.journal}/sources")):
                self.objects.delete(name)
        self._swept = True

    def _remember(self, manifest: Manifest) -> Manifest:
        self._manifests[manifest.first] = manifest
        return manifest

    def _store(self, name: str, data: bytes) -> None:
        """Put an object and see that it is there. One that is there already is from a process that was killed."""
        made = self.objects.create(name, data)
        if self.objects.get(name) == data:
            return
        if not made:
            self.objects.put(name, data)
            if self.objects.get(name) == data:
                return
        raise ArchiveFailed(f"The archive {self.objects} does not give back what was put into {name}. Check the store.")


def _is_of(manifest: Manifest, segment: SegmentInfo) -> bool:
    """Whether this is the manifest of that segment, as far as can be told without reading it all."""
    own = (segment.first, segment.last, segment.bytes, segment.created_ns)
    return (manifest.first, manifest.last, manifest.bytes, manifest.created_ns) == own


def _is_over(part: Part, retention: Mapping[str, Retention], used: int, now_ns: int) -> bool:
    own = retention.get(part.source) or retention.get("default") or Retention()
    aged = own.days > 0 and now_ns - part.last_wall_ns > own.days * DAY_NS
    return aged or (own.bytes > 0 and used > own.bytes)


def pieces_of(objects: Objects, manifest: Manifest, source: str | None = None) -> Iterator[Piece]:
    """The encoded frames of a segment that are still there, of one source or of all, in order."""
    parts = [part for part in manifest.parts if not part.expired and source in (None, part.source)]
    return merge([open_part(objects, part) for part in parts])
