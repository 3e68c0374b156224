"""Writing frames to segments: one write per group, a new segment when one is full."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Generator, Sequence
from pathlib import Path

from tidewire.journal.catalog import Catalog, Place, SegmentFile
from tidewire.journal.config import JournalConfig
from tidewire.journal.files import UNFINISHED, Files
from tidewire.journal.frame import Frame
from tidewire.journal.segment import HEADER_BYTES, Encoder, Header, segment_name
from tidewire.journal.synced import Synced


class DiskFull(Exception):
    """There was no room for a write. Nothing is lost: the same frames may be written again once there is."""


class SegmentWriter:
    """Owns the newest segment; used by one thread.

    Every method raises `OSError`, after which it must not be used. `write` raises `DiskFull` when that is all, after
    which it may be called again with the same frames.
    """

    def __init__(self, directory: Path, uuid: str, files: Files, config: JournalConfig, catalog: Catalog) -> None:
        self._directory = directory
        self._uuid = uuid
        self._files = files
        self._most = config.segment_bytes
        self._least_free = config.min_free
        self._catalog = catalog
        self._encoder = Encoder(config.max_frame)
        self._synced = Synced(directory, files)
        self._descriptor: int | None = None
        self._first = 0
        self._last = 0
        self.end = 0
        """Bytes of the newest segment in use."""

    @property
    def place(self) -> Place:
        """The newest segment and how much of it is in use."""
        return Place(self._first, self.end)

    def resume(self, descriptor: int, first: int, end: int) -> None:
        """Go on with a segment that is there, and on disk up to ``end``."""
        self._descriptor, self._first, self.end = descriptor, first, end
        self._synced.note(first, end)

    def write(self, frames: Sequence[Frame], *, to_the_brim: bool = False) -> None:
        """Hand frames to the operating system; a segment that fills up on the way is synced before the next begins.

        After `DiskFull` the same frames are given again: those that were written are left out, and what was written
        of the others in part is written over, from the same place. ``to_the_brim``: the room that
        is kept free for others may be used too.
        """
        least = 0 if to_the_brim else self._least_free
        if least and self._files.free(self._directory) < least:
            raise DiskFull(f"less than journal.min_free ({least:,} bytes) is free")
        out: list[bytes] = []
        encode = self._encoder.encode
        # Without a segment there is no room: the first frame opens one.
        room = self._most - self.end if self._descriptor is not None else 0
        fresh = self.end <= HEADER_BYTES
        for frame in frames:
            if frame.sequence <= self._last:
                continue
            known = len(out)
            room -= encode(frame, out)
            # A byte of the reserved tail is always left: only a clean end has none.
            if room <= 0 and not (fresh and self._descriptor is not None):
                own = out[known:]
                self._flush(out[:known], frame.sequence - 1)
                self._begin(frame)
                room = self._most - HEADER_BYTES - sum(map(len, own))
                out = own
            fresh = False
        self._flush(out, frames[-1].sequence)

    def _flush(self, out: list[bytes], last: int) -> None:
        if out and self._descriptor is not None:
            data = b"".join(out)
            with _room():
                self._files.write(self._descriptor, data, self.end)
            self.end += len(data)
            self._last = last

    def sync(self) -> None:
        """Return when all that was written is on disk."""
        if self._descriptor is not None:
            self._files.datasync(self._descriptor)
            self._synced.note(self._first, self.end)

    def seal(self) -> None:
        """Put the newest segment on disk, without its reserved tail, and let go of it."""
        if self._descriptor is None:
            return
        # Two syncs: the tail goes only when the frames are on disk, so that a missing tail proves a clean end.
        self._files.sync(self._descriptor)
        self._synced.note(self._first, self.end)
        self._files.truncate(self._descriptor, self.end)
        self._files.sync(self._descriptor)
        self._let_go()

    def abandon(self) -> None:
        """Let go of everything as it is."""
        self._synced.close()
        self._let_go()

    def _let_go(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            self._files.close(descriptor)

    def _begin(self, frame: Frame) -> None:
        """Begin the segment of which this is the first frame."""
        self.seal()
        header = Header(self._uuid, frame.sequence, frame.wall_ns)
        path = self._directory / segment_name(frame.sequence)
        unfinished = path.with_name(path.name + UNFINISHED)
        with _room():
            descriptor = self._files.open(unfinished, create=True)
        try:
            with _room():
                self._files.allocate(descriptor, self._most)
                self._files.write(descriptor, header.encode(), 0)
            self._files.sync(descriptor)
            with _room():
                self._files.rename(unfinished, path)
        except BaseException:
            self._files.close(descriptor)
            # What little room it took is room for others.
            with contextlib.suppress(OSError):
                self._files.remove(unfinished)
            raise
        self._descriptor, self._first, self.end = descriptor, frame.sequence, HEADER_BYTES
        self._files.sync_directory(self._directory)
        self._catalog.add(SegmentFile(path, header))


@contextlib.contextmanager
def _room() -> Generator[None]:
    """No room is a thing that passes. Never around a sync: after one that failed nothing can be trusted."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(str(error)) from error
        raise
