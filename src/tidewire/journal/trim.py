"""Removing old segments: the mark first, on disk, then the files.

The mark is a small file that says with which frame the journal begins now. A power cut between the mark and the last
removal leaves files below the mark: opening removes them. Files missing *above* it were not removed by us: refused.
Without a mark a journal begins with frame 1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from xxhash import xxh3_64_hexdigest

from tidewire import telemetry
from tidewire.errors import JournalCorrupt
from tidewire.journal.catalog import SegmentFile
from tidewire.journal.files import UNFINISHED, Files, write_whole
from tidewire.journal.segment import segment_name

MARK = "TRIMMED"
_SPARE_BYTES = 4096

_log = telemetry.log("journal")


class _Written(msgspec.Struct, frozen=True):
    journal: str
    first: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a journal begins: ``first`` is the first frame of its oldest segment."""

    journal: str
    first: int

    @property
    def checksum(self) -> str:
        """Proves that both values are as they were written."""
        return xxh3_64_hexdigest(f"{self.journal} {self.first}".encode())


def read_mark(directory: Path) -> Mark | None:
    """The mark of a directory, if it has one; `JournalCorrupt` if it cannot be believed."""
    path = directory / MARK
    try:
        written = msgspec.json.decode(path.read_bytes(), type=_Written)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise JournalCorrupt(f"{path} is no trim mark: {error}. Restore the file from a copy.") from None
    mark = Mark(written.journal, written.first)
    if mark.checksum != written.checksum:
        raise JournalCorrupt(f"{path} fails its checksum. Nothing was removed. Restore the file from a copy.")
    return mark


def write_mark(directory: Path, mark: Mark, files: Files) -> None:
    """Put the mark on disk, in the place of the one before."""
    written = _Written(mark.journal, mark.first, mark.checksum)
    write_whole(files, directory / MARK, msgspec.json.encode(written))
    keep_spare(directory, files)


def keep_spare(directory: Path, files: Files) -> None:
    """Keep the room of the next mark reserved, so that a full disk can still be trimmed; as far as there is room."""
    path = directory / (MARK + UNFINISHED)
    if path.exists():
        return
    with contextlib.suppress(OSError):
        descriptor = files.open(path, create=True)
        try:
            files.write(descriptor, bytes(_SPARE_BYTES), 0)
        finally:
            files.close(descriptor)


def begin_of(directory: Path, segments: Sequence[SegmentFile], mark: Mark | None) -> int:
    """How many of the segments are below the mark; `JournalCorrupt` when the one it names is missing."""
    if mark is None and not segments:
        return 0
    first = mark.first if mark is not None else 1
    if mark is not None and segments and segments[0].header.uuid != mark.journal:
        raise JournalCorrupt(
            f"{directory / MARK} belongs to journal {mark.journal}, the segments to {segments[0].header.uuid}. "
            "A directory holds one journal: move the file to its own."
        )
    below = sum(file.first < first for file in segments)
    if below < len(segments) and segments[below].first == first:
        return below
    found = f"the oldest is {segments[below].path.name}" if below < len(segments) else "there is none"
    raise JournalCorrupt(
        f"{directory}: the journal begins with frame {first:,}, in {segment_name(first)}, but {found}. Nothing was "
        "changed. Restore what is missing from a copy, or with `tidewire journal restore` from the archive."
    )


def remove(segments: Sequence[SegmentFile], files: Files) -> None:
    """Remove segments below the mark, oldest first. One that cannot be removed is left to the next opening."""
    for file in segments:
        try:
            files.remove(file.path)
        except FileNotFoundError:
            continue
        except OSError as error:
            _log.warning("journal_trim_unfinished", segment=file.path.name, error=str(error))
            return
    if segments:
        files.sync_directory(segments[0].path.parent)
        _log.info("journal_trimmed", segments=len(segments), last=segments[-1].path.name)
