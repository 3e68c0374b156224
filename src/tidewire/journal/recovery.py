"""Making a directory whole again after its writer died: only the newest segment can be torn."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tidewire import telemetry
from tidewire.errors import JournalCorrupt
from tidewire.journal.catalog import SegmentFile, blocks
from tidewire.journal.files import Files
from tidewire.journal.segment import HEADER_BYTES, SUFFIX, Decoder, Limits, Stop

UNFINISHED = SUFFIX + ".tmp"

_log = telemetry.log("journal")
_NOTHING = Limits(after=(1 << 64) - 1)


@dataclass(frozen=True, slots=True)
class Tail:
    """How a segment ends: ``last`` whole frame, ``end`` of it in bytes, its time, and what stopped the reading."""

    last: int
    end: int
    wall_ns: int
    size: int
    stop: Stop
    why: str


def inspect(file: SegmentFile) -> Tail:
    """Check every frame of a segment up to the first that is not whole."""
    fresh = SegmentFile(file.path, file.header)
    last, end, wall = file.first - 1, HEADER_BYTES, file.header.created_ns
    stop, why = Stop.MORE, ""
    for offset, done in blocks(fresh, Decoder(), _NOTHING):
        if done.used:
            last, end, wall = done.last, offset + done.used, done.wall_ns
        stop, why = done.stop, done.why
    file.marks = fresh.marks
    return Tail(last, end, wall, file.path.stat().st_size, stop, why)


def sweep(directory: Path, files: Files) -> None:
    """Remove segments whose creation was cut off before they had their name; they never held a frame."""
    for path in directory.glob("*" + UNFINISHED):
        files.remove(path)


def repair(file: SegmentFile, tail: Tail, files: Files, segment_bytes: int) -> int:
    """Cut what is not whole off the newest segment and reserve space again; a descriptor to go on writing.

    What is cut, if it is anything, is kept beside the segment. `JournalCorrupt` for an intact frame that cannot be
    there: it is not torn, so it is not cut.
    """
    if tail.stop is Stop.ODD:
        raise JournalCorrupt(
            f"{file.path} at byte {tail.end}: {tail.why}. Nothing was changed. Open it with the version that wrote it, "
            "or restore the segment from a copy."
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
