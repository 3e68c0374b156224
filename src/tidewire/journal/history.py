"""Archive and directory as one journal: all frames there are, from the first to the last accepted."""

from __future__ import annotations

from collections.abc import Iterator

from tidewire.errors import JournalCorrupt
from tidewire.journal.archive_reader import ArchiveReader
from tidewire.journal.config import MIB
from tidewire.journal.frame import Frame
from tidewire.journal.reader import JournalReader


class History:
    """Reads from the directory what is there, and from the archive what was trimmed. At least one of them is given.

    The same shape as `JournalReader`. `JournalCorrupt` when frames between the two are in neither.
    """

    def __init__(self, local: JournalReader | None, archive: ArchiveReader | None) -> None:
        known = archive or local
        assert known is not None, "a history is of something"
        self.local = local
        self.archive = archive
        self.uuid = known.uuid
        self.accepted = local.accepted if local is not None else known.accepted
        """The last sequence that is there."""
        self.first = min(part.first for part in (local, archive) if part is not None)
        """The oldest sequence that is there, or was."""
        self._begin = local.first if local is not None else known.accepted + 1
        if local is not None and archive is not None and archive.accepted + 1 < self._begin:
            raise JournalCorrupt(
                f"Frames {archive.accepted + 1:,} to {self._begin - 1:,} are neither in {local.directory} nor in the "
                f"archive {archive.objects}. Restore the segments from a copy."
            )

    @property
    def expired(self) -> int:
        """How many frames are in neither, because their time in the archive was over."""
        return self.archive.expired(self._begin - 1) if self.archive is not None else 0

    def read(self, after: int, *, frames: int = 4096, bytes_: int = 8 * MIB) -> list[Frame]:
        """Frames after ``after``, in order: at most ``frames``, stopping behind the one that reaches ``bytes_``."""
        found: list[Frame] = []
        if self.archive is not None and after + 1 < self._begin:
            read = self.archive.read(after, frames=frames, bytes_=bytes_)
            # A segment may be in both: it is read here up to where the directory begins.
            found = [frame for frame in read if frame.sequence < self._begin]
            frames -= len(found)
            bytes_ -= sum(len(frame.payload) for frame in found)
            if frames <= 0 or bytes_ <= 0:
                return found
            after = self._begin - 1
        if self.local is not None:
            found += self.local.read(after, frames=frames, bytes_=bytes_)
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
        if self.archive is not None and after + 1 < self._begin:
            for frame in self.archive.scan(after=after, source=source, start_ns=start_ns, end_ns=end_ns):
                if frame.sequence >= self._begin:
                    break
                yield frame
            after = self._begin - 1
        if self.local is not None:
            yield from self.local.scan(after=after, source=source, start_ns=start_ns, end_ns=end_ns)
