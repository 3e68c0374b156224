"""Writing frames to segments: one write per group, a new segment when one is full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tidewire.journal.catalog import Catalog, Place, SegmentFile
from tidewire.journal.config import JournalConfig
from tidewire.journal.files import Files
from tidewire.journal.frame import Frame
from tidewire.journal.recovery import UNFINISHED
from tidewire.journal.segment import HEADER_BYTES, Encoder, Header, segment_name


class SegmentWriter:
    """Owns the newest segment; used by one thread. Every method raises `OSError`, after which it must not be used."""

    def __init__(self, directory: Path, uuid: str, files: Files, config: JournalConfig, catalog: Catalog) -> None:
        self._directory = directory
        self._uuid = uuid
        self._files = files
        self._most = config.segment_bytes
        self._catalog = catalog
        self._encoder = Encoder(config.max_frame)
        self._descriptor: int | None = None
        self._first = 0
        self.end = 0
        """Bytes of the newest segment in use."""

    @property
    def place(self) -> Place:
        """The newest segment and how much of it is in use."""
        return Place(self._first, self.end)

    def resume(self, descriptor: int, first: int, end: int) -> None:
        """Go on with a segment that is there."""
        self._descriptor, self._first, self.end = descriptor, first, end

    def write(self, frames: Sequence[Frame]) -> None:
        """Hand frames to the operating system; a segment that fills up on the way is synced before the next begins."""
        out: list[bytes] = []
        encode = self._encoder.encode
        # Without a segment there is no room: the first frame opens one.
        room = self._most - self.end if self._descriptor is not None else 0
        fresh = self.end <= HEADER_BYTES
        for frame in frames:
            known = len(out)
            room -= encode(frame, out)
            if room < 0 and not (fresh and self._descriptor is not None):
                own = out[known:]
                self._flush(out[:known])
                self._begin(frame)
                room = self._most - HEADER_BYTES - sum(map(len, own))
                out = own
            fresh = False
        self._flush(out)

    def _flush(self, out: list[bytes]) -> None:
        if out and self._descriptor is not None:
            data = b"".join(out)
            self._files.write(self._descriptor, data, self.end)
            self.end += len(data)

    def sync(self) -> None:
        """Return when all that was written is on disk."""
        if self._descriptor is not None:
            self._files.datasync(self._descriptor)

    def seal(self) -> None:
        """Put the newest segment on disk, without its reserved tail, and let go of it."""
        if self._descriptor is None:
            return
        # Two syncs: the tail goes only when the frames are on disk, so that a missing tail proves a clean end.
        self._files.sync(self._descriptor)
        self._files.truncate(self._descriptor, self.end)
        self._files.sync(self._descriptor)
        self.abandon()

    def abandon(self) -> None:
        """Let go of the newest segment as it is."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            self._files.close(descriptor)

    def _begin(self, frame: Frame) -> None:
        """Begin the segment of which this is the first frame."""
        self.seal()
        header = Header(self._uuid, frame.sequence, frame.wall_ns)
        path = self._directory / segment_name(frame.sequence)
        unfinished = path.with_name(f"{frame.sequence:020d}{UNFINISHED}")
        descriptor = self._files.open(unfinished, create=True)
        self._descriptor, self._first, self.end = descriptor, frame.sequence, HEADER_BYTES
        self._files.allocate(descriptor, self._most)
        self._files.write(descriptor, header.encode(), 0)
        self._files.sync(descriptor)
        self._files.rename(unfinished, path)
        self._files.sync_directory(self._directory)
        self._catalog.add(SegmentFile(path, header))
