"""Making a directory whole again after its writer died: only the newest segment can be torn.

Torn or damaged? A power cut can cost any bytes that were not synced yet, page by page and in any order: a hole with
whole frames behind it may be all that is left of the group that was being written. None of it was accepted, so it is
cut. Bytes that were synced do not get lost that way: when the whole frames end before them, what was accepted is
damaged (a bad disk, a disk that lies about syncs, somebody's hand), and going on would number other frames the same.
So `repair` cuts above what is known to have been synced, and refuses below:

- ``SYNCED`` tells how far the segment was on disk at least (`tidewire.journal.synced`);
- where that says nothing (older versions wrote none): a segment that ends exactly with a whole frame was closed
  cleanly, so all of it was on disk, and what is not whole before its end is damage;
- any other may have lost anything: it is cut, what is cut is kept aside, and that is logged.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tidewire import telemetry
from tidewire.errors import JournalCorrupt
from tidewire.journal.catalog import SegmentFile, blocks
from tidewire.journal.files import UNFINISHED, Files
from tidewire.journal.segment import HEADER_BYTES, SUFFIX, Decoder, Limits, Stop, closing_frame
from tidewire.journal.synced import synced_up_to

_log = telemetry.log("journal")
_NOTHING = Limits(after=(1 << 64) - 1)


@dataclass(frozen=True, slots=True)
class Tail:
    """How a segment ends: ``last`` whole frame, ``end`` of it in bytes, its time, and what stopped the reading.

    ``synced``: up to which byte it was on disk at least, as known before it was looked at; 0 when nothing is.
    """

    last: int
    end: int
    wall_ns: int
    size: int
    stop: Stop
    why: str
    synced: int


def inspect(file: SegmentFile) -> Tail:
    """Check every frame of a segment up to the first that is not whole."""
    # Asked first: a writer may be at work, and what it synced meanwhile was not seen.
    synced = synced_up_to(file.path.parent, file.first)
    fresh = SegmentFile(file.path, file.header)
    last, end, wall = file.first - 1, HEADER_BYTES, file.header.created_ns
    stop, why = Stop.MORE, ""
    for offset, done in blocks(fresh, Decoder(), _NOTHING):
        if done.used:
            last, end, wall = done.last, offset + done.used, done.wall_ns
        stop, why = done.stop, done.why
    file.marks = fresh.marks
    return Tail(last, end, wall, file.path.stat().st_size, stop, why, synced)


def damage(file: SegmentFile, tail: Tail) -> str:
    """Why the end of a newest segment is damage of what was accepted; empty when it is whole, or torn at most."""
    if tail.stop is Stop.ODD:
        return tail.why
    if tail.end < tail.synced:
        why = tail.why if tail.stop is Stop.BAD else "nothing is written there"
        return f"{why}; it was on disk up to byte {tail.synced}"
    if tail.stop is not Stop.BAD or tail.synced:
        return ""
    found = closing_frame(file.path.read_bytes()[tail.end :], tail.last)
    return f"{tail.why}; frame {found} stands whole at the end" if found else ""


def sweep(directory: Path, files: Files) -> None:
    """Remove segments whose creation was cut off before they had their name; they never held an accepted frame."""
    for path in directory.glob("*" + SUFFIX + UNFINISHED):
        files.remove(path)


def repair(file: SegmentFile, tail: Tail, files: Files, segment_bytes: int) -> int:
    """Cut what is not whole off the newest segment and reserve space again; a descriptor to go on writing.

    What is cut, if it is anything, is kept beside the segment. `JournalCorrupt` for what is not torn but damaged, and
    for an intact frame that cannot be there: it is not cut.
    """
    why = damage(file, tail)
    if why:
        raise JournalCorrupt(
            f"{file.path} at byte {tail.end}, behind frame {tail.last:,}: {why}. Nothing was changed. Open it with the "
            "version that wrote it, or restore the segment from a copy. Without one, move the journal's directory away "
            "to begin a new journal: what is stored stays, and the old one can be read up to the damage."
        )
    descriptor = files.open(file.path)
    try:
        # A clean close leaves no tail. Anything else may have pages that a failed sync marked clean without writing
        # them: what is now believed is therefore written once more before it is synced.
        if tail.size != tail.end:
            data = file.path.read_bytes()
            cut = data[tail.end :].rstrip(b"\0")
            if cut:
                _keep(file.path, tail, cut, files)
            files.write(descriptor, data[: tail.end], 0)
            files.truncate(descriptor, tail.end)
        files.sync(descriptor)
        files.allocate(descriptor, segment_bytes)
        files.sync(descriptor)
        # The writer before may have died right after it gave the segment its name: what is accepted into it now must
        # not lose that name.
        files.sync_directory(file.path.parent)
    except BaseException:
        files.close(descriptor)
        raise
    return descriptor


def _keep(path: Path, tail: Tail, cut: bytes, files: Files) -> None:
    aside = path.with_name(f"{path.name}.cut-{tail.end}")
    descriptor = files.open(aside, create=True)
    try:
        files.write(descriptor, cut, 0)
        files.sync(descriptor)
    finally:
        files.close(descriptor)
    files.sync_directory(path.parent)
    _log.warning(
        "journal_tail_cut",
        segment=path.name,
        offset=tail.end,
        cut_bytes=len(cut),
        why=tail.why,
        kept_as=os.fspath(aside.name),
    )
