"""Reading the archive back: the frames of a journal from its objects, in order."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from tidewire.errors import InputError, JournalCorrupt, JournalTrimmed, NotFound
from tidewire.journal.archive import Archive, open_part, pieces_of
from tidewire.journal.config import MIB
from tidewire.journal.frame import Frame
from tidewire.journal.manifest import Manifest
from tidewire.journal.objects import Objects
from tidewire.journal.pieces import frames_of
from tidewire.journal.reader import Finding
from tidewire.journal.segment import Decoder


def archived_journals(objects: Objects) -> list[str]:
    """The journals that have something in an archive."""
    return sorted({name.partition("/")[0] for name in objects.list("") if name.partition("/")[2][:9] == "segments/"})


class ArchiveReader:
    """The frames of a journal that are archived now: what `JournalReader` is for a directory.

    Frames whose time in the archive was over are left out; `expired` counts them. Holds one segment's compressed
    objects at a time. Reading on where the last read ended is cheap, going elsewhere opens a segment anew.
    `NotFound` if nothing of this journal is archived; `JournalCorrupt` if a segment between others is missing, or an
    object is not what was put there; `ArchiveFailed` if the archive cannot be reached.
    """

    def __init__(self, objects: Objects, journal: str | None = None) -> None:
        self.objects = objects
        self.uuid = journal or _only(objects)
        archive = Archive(objects, self.uuid)
        archive.load()
        self.manifests = archive.manifests
        if not self.manifests:
            raise NotFound(f"Nothing of journal {self.uuid} is in the archive {objects}.")
        self.first = self.manifests[0].first
        """The oldest sequence that was archived."""
        self.accepted = self.manifests[-1].last
        """The last sequence that was archived."""
        self._missing = {
            manifest.first: before.last + 1
            for before, manifest in pairwise(self.manifests)
            if manifest.first != before.last + 1
        }
        self._decoder = Decoder()
        self._frames: Iterator[Frame] = iter(())
        self._after = -1

    def expired(self, upto: int | None = None) -> int:
        """How many frames, of the segments up to frame ``upto``, are gone because their time was over."""
        return sum(manifest.expired for manifest in self.manifests if upto is None or manifest.last <= upto)

    def read(self, after: int, *, frames: int = 4096, bytes_: int = 8 * MIB) -> list[Frame]:
        """Frames after ``after``, in order: at most ``frames``, stopping behind the one that reaches ``bytes_``."""
        found: list[Frame] = []
        if frames <= 0 or bytes_ <= 0:
            return found
        if after != self._after:
            self._frames = self._from(after, None)
        room = bytes_
        self._after = -1  # a read that fails is not continued
        for frame in self._frames:
            found.append(frame)
            room -= len(frame.payload)
            if len(found) >= frames or room <= 0:
                break
        self._after = found[-1].sequence if found else after
        return found

    def scan(
        self,
        *,
        after: int = 0,
        source: str | None = None,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> Iterator[Frame]:
        """Frames in order: after a sequence, of a source, with wall time in ``[start_ns, end_ns)``."""
        if start_ns is not None:  # walls never go back: whatever was archived before is too early
            after = max([after, *(found.last for found in self.manifests if found.last_wall_ns < start_ns)])
            if start_ns > self.manifests[0].created_ns:
                after = max(after, self.first - 1)
        for frame in self._from(after, source):
            if end_ns is not None and frame.wall_ns >= end_ns:
                return
            if start_ns is None or frame.wall_ns >= start_ns:
                yield frame

    def _from(self, after: int, source: str | None) -> Iterator[Frame]:
        if after + 1 < self.first:
            raise JournalTrimmed(f"the archive {self.objects}", after + 1, self.first)
        place = bisect_right(self.manifests, after + 1, key=_first) - 1
        for manifest in self.manifests[place:]:
            self._follows(manifest, after)
            if manifest.last > after:
                yield from frames_of(pieces_of(self.objects, manifest, source), self._decoder, after)

    def _follows(self, manifest: Manifest, after: int) -> None:
        """`JournalCorrupt` if segments between ``after`` and this one are missing."""
        if manifest.first in self._missing and after + 1 < manifest.first:
            begin = self._missing[manifest.first]
            raise JournalCorrupt(
                f"Frames {begin:,} to {manifest.first - 1:,} of journal {self.uuid} are missing "
                f"in the archive {self.objects}: the manifests between are gone. Restore them from a copy."
            )

    def verify(self) -> Iterator[Finding]:
        """Read every object and check it, one segment after the other; nothing comes when all is whole."""
        for manifest in self.manifests:
            try:
                self._follows(manifest, 0)
            except JournalCorrupt as error:
                yield Finding("missing", Path(manifest.name), 0, str(error))
            damaged = list(self._damaged_parts(manifest))
            yield from damaged
            if not damaged and not manifest.expired and self._digest(manifest) != manifest.sha256:
                yield Finding("corrupt", Path(manifest.name), 0, "its parts do not make the segment it was")

    def _damaged_parts(self, manifest: Manifest) -> Iterator[Finding]:
        for part in manifest.parts:
            if part.expired:
                continue
            path = Path(part.object)
            if self.objects.size(part.object) is None:
                yield Finding("missing", path, 0, f"{part.frames:,} frames of {part.source}")
                continue
            try:
                found = sum(not piece.more for piece in open_part(self.objects, part))
            except JournalCorrupt as error:
                yield Finding("corrupt", path, 0, str(error))
            else:
                if found != part.frames:
                    yield Finding("corrupt", path, 0, f"it holds {found:,} frames, {part.frames:,} were put there")

    def _digest(self, manifest: Manifest) -> str:
        digest = hashlib.sha256(manifest.header.encode())
        for piece in pieces_of(self.objects, manifest):
            digest.update(piece.data)
        return digest.hexdigest()


def _only(objects: Objects) -> str:
    found = archived_journals(objects)
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound(f"Nothing is in the archive {objects}. Name the one that the process writes to.")
    raise InputError(f"The archive {objects} holds {len(found)} journals: {', '.join(found)}. Name one with --journal.")


def _first(manifest: Manifest) -> int:
    return manifest.first
