"""How far the newest segment is known to be on disk: the difference between a torn end and a damaged one.

After each sync of the segment its end is written into the file ``SYNCED``, and that file is never synced itself: it
costs one small write to memory. After a power cut it may be gone, broken (then it says nothing) or some seconds old.
It is never wrong: whatever it says was true before it was written. So bytes below it that are not whole frames are
damage of what was accepted and are never cut; bytes above it may be what a power cut left of a group that was being
written, in any order of pages, also with whole frames behind the hole, and are cut.
"""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

from xxhash import xxh3_64_intdigest

from tidewire.journal.files import Files

SYNCED = "SYNCED"
_PLACE = struct.Struct("<QQ")
_CHECKSUM = struct.Struct("<Q")


class Synced:
    """Keeps the file up to date. That it cannot be written costs knowledge, not safety, so errors are let pass."""

    def __init__(self, directory: Path, files: Files) -> None:
        self._path = directory / SYNCED
        self._files = files
        self._descriptor: int | None = None

    def note(self, first: int, end: int) -> None:
        """The segment that begins with ``first`` is on disk up to byte ``end``."""
        place = _PLACE.pack(first, end)
        with contextlib.suppress(OSError):
            if self._descriptor is None:
                self._descriptor = self._files.open(self._path, create=not self._path.exists())
            self._files.write(self._descriptor, place + _CHECKSUM.pack(xxh3_64_intdigest(place)), 0)

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):
                self._files.close(descriptor)


def synced_up_to(directory: Path, first: int) -> int:
    """Up to which byte the segment that begins with ``first`` was on disk at least; 0 when nothing is known."""
    try:
        data = (directory / SYNCED).read_bytes()
    except OSError:
        return 0
    if len(data) != _PLACE.size + _CHECKSUM.size:
        return 0
    place = data[: _PLACE.size]
    if _CHECKSUM.unpack_from(data, _PLACE.size)[0] != xxh3_64_intdigest(place):
        return 0
    noted, end = _PLACE.unpack(place)
    return end if noted == first else 0
