"""Reading a journal directory without owning it: for listing, verifying and replay. Never writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tidewire.errors import JournalCorrupt, NotFound
from tidewire.journal.catalog import Catalog, Place, SegmentFile, SegmentInfo, open_segments
from tidewire.journal.config import MIB
from tidewire.journal.frame import Frame
from tidewire.journal.recovery import damage, inspect
from tidewire.journal.segment import SUFFIX, Limits, Stop
from tidewire.journal.trim import begin_of, read_mark


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with a journal.

    ``level``: ``torn`` (an unfinished end, cut when it is next opened), ``corrupt`` or ``missing``. ``path`` is a
    segment, or the name of an object of the archive.
    """

    level: str
    path: Path
    offset: int
    what: str


class JournalReader:
    """The frames of a directory as they are now; a torn tail is left out.

    `NotFound` if there is no journal, `JournalCorrupt` if its files do not fit together. Reading before the oldest
    frame raises `JournalTrimmed`, reading to the end of a newest segment that is damaged `JournalCorrupt`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        files = open_segments(directory) if directory.is_dir() else []
        if not files:
            raise NotFound(
                f"There is no journal in {directory}: a journal is a directory with files named like "
                f"{1:020d}{SUFFIX}. Name the directory that the process writes to."
            )
        del files[: begin_of(directory, files, read_mark(directory))]
        self.uuid = files[0].header.uuid
        tail = inspect(files[-1])
        self._damage = damage(files[-1], tail)
        self.accepted = tail.last
        """The last sequence that is there."""
        self._place = Place(files[-1].first, tail.end)
        self._catalog = Catalog(files)

    @property
    def first(self) -> int:
        """The oldest sequence that is there."""
        return self._catalog.first

    def read(self, after: int, *, frames: int = 4096, bytes_: int = 8 * MIB) -> list[Frame]:
        """Frames after ``after``, in order: at most ``frames``, stopping behind the one that reaches ``bytes_``."""
        found = self._catalog.read(Limits(after, self.accepted, frames, bytes_))
        if not found:
            self._ends()
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
        yield from self._catalog.scan(Limits(after, self.accepted), source, start_ns, end_ns)
        self._ends()

    def _ends(self) -> None:
        """All that can be read was read; `JournalCorrupt` if that is not all there was."""
        if self._damage:
            raise JournalCorrupt(
                f"{self.directory}: nothing can be read behind frame {self.accepted:,}: {self._damage}. Restore the "
                "newest segment from a copy; `tidewire journal verify` shows the place."
            )

    def segments(self) -> list[SegmentInfo]:
        """The segments, oldest first."""
        return self._catalog.infos(self.accepted, self._place)

    def verify(self) -> list[Finding]:
        """Check every byte of every frame; an empty list means that all is whole."""
        findings: list[Finding] = []
        try:
            files = open_segments(self.directory)
            del files[: begin_of(self.directory, files, read_mark(self.directory))]
        except JournalCorrupt as error:
            return [Finding("corrupt", self.directory, 0, str(error))]
        for place, file in enumerate(files):
            follower = files[place + 1] if place + 1 < len(files) else None
            findings.extend(_check(file, follower))
        return findings


def _check(file: SegmentFile, follower: SegmentFile | None) -> Iterator[Finding]:
    tail = inspect(file)
    if follower is None:
        why = damage(file, tail)
        if why or tail.stop is Stop.BAD:
            yield Finding("corrupt" if why else "torn", file.path, tail.end, why or tail.why)
    elif tail.stop in (Stop.ODD, Stop.BAD):
        yield Finding("corrupt", file.path, tail.end, tail.why)
    elif tail.last != follower.first - 1:
        what = f"frames {tail.last + 1} to {follower.first - 1} are missing"
        yield Finding("missing", file.path, tail.end, what)
