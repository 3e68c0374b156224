"""The segments of a directory, in order, and reading frames from them."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tidewire.errors import JournalCorrupt, JournalTrimmed
from tidewire.journal.frame import Frame
from tidewire.journal.segment import (
    HEADER_BYTES,
    SUFFIX,
    Decoded,
    Decoder,
    Header,
    Limits,
    Stop,
)

BLOCK_BYTES = 128 * 1024
_INDEXED_SEGMENTS = 64


class Place(NamedTuple):
    """How far writing has come: the segment that begins with ``first`` is in use up to byte ``end``."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """A segment: ``last`` is ``first - 1`` while it is empty, ``bytes`` leaves out the reserved tail."""

    path: Path
    first: int
    last: int
    bytes: int
    created_ns: int


@dataclass(slots=True)
class SegmentFile:
    """A segment and what is known about places in it: ``marks`` are (sequence, offset) of frames on the way."""

    path: Path
    header: Header
    marks: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    @property
    def first(self) -> int:
        """Its first sequence."""
        return self.header.first

    def start(self, sequence: int) -> tuple[int, int]:
        """The nearest known (sequence, offset) at or before a frame."""
        place = bisect_right(self.marks, (sequence, 1 << 62)) - 1
        return self.marks[place] if place >= 0 else (self.first, HEADER_BYTES)

    def mark(self, sequence: int, offset: int) -> None:
        """Remember a place if it is a block beyond the last one known."""
        known = self.marks[-1][1] if self.marks else HEADER_BYTES
        if offset >= known + BLOCK_BYTES:
            self.marks.append((sequence, offset))


def open_segments(directory: Path) -> list[SegmentFile]:
    """The segments of a directory in order; `JournalCorrupt` for headers that do not fit together."""
    found: list[SegmentFile] = []
    for path in sorted(directory.glob("*" + SUFFIX)):
        try:
            with path.open("rb") as file:
                header = Header.decode(file.read(HEADER_BYTES), path)
        except FileNotFoundError:  # trimmed by its owner since it was listed
            continue
        if path.name != f"{header.first:020d}{SUFFIX}":
            raise JournalCorrupt(
                f"{path} begins with sequence {header.first} by its header; a segment is named by its first sequence, "
                "20 digits. Give the file its own name back."
            )
        if found and header.uuid != found[0].header.uuid:
            raise JournalCorrupt(
                f"{path} belongs to journal {header.uuid}, the segments before it to {found[0].header.uuid}. "
                "A directory holds one journal: move the file to its own."
            )
        found.append(SegmentFile(path, header))
    return found


def blocks(file: SegmentFile, decoder: Decoder, limits: Limits) -> Iterator[tuple[int, Decoded]]:
    """Decode a segment block by block from the nearest known place; yields (offset, what was there).

    The last one says why it stopped: never `Stop.MORE`, unless the file ends exactly behind a frame.
    """
    expect, offset = file.start(limits.after + 1)
    want = BLOCK_BYTES
    descriptor = os.open(file.path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        while True:
            asked = min(want, size - offset)
            buffer = os.pread(descriptor, asked, offset)
            done = decoder.decode(buffer, expect, limits)
            # Shorter than asked: its writer has cut the space it had reserved off meanwhile.
            ends = len(buffer) < asked or offset + asked >= size
            if done.stop is Stop.MORE and not done.used and not ends:
                want = max(done.needed, 2 * want)
                continue
            if done.stop is Stop.MORE and ends:
                rest = buffer[done.used :]
                if rest.strip(b"\0"):
                    done.stop = Stop.BAD
            file.mark(expect, offset)
            yield offset, done
            if done.stop is not Stop.MORE or ends:
                return
            limits = Limits(
                limits.after,
                limits.upto,
                limits.frames - len(done.frames),
                limits.bytes_ - sum(len(frame.payload) for frame in done.frames),
            )
            offset += done.used
            expect = done.last + 1
            want = BLOCK_BYTES
    finally:
        os.close(descriptor)


class Catalog:
    """Reads frames by sequence from the segments of one journal.

    ``add`` may be called from the thread that writes; everything else belongs to one thread. A read that is under way
    keeps the list of segments it began with.
    """

    def __init__(self, files: list[SegmentFile]) -> None:
        self.files = files
        self._decoder = Decoder()
        self._used: dict[int, SegmentFile] = {}

    @property
    def first(self) -> int:
        """The oldest frame there is; 1 while there is none."""
        return self.files[0].first if self.files else 1

    def add(self, file: SegmentFile) -> None:
        """The journal goes on in another segment."""
        self.files.append(file)

    def below(self, first: int) -> list[SegmentFile]:
        """The segments before the one that begins with ``first``."""
        return [file for file in self.files if file.first < first]

    def drop(self, segments: Sequence[SegmentFile]) -> None:
        """Forget the oldest segments: they are about to be removed."""
        for file in segments:
            self._used.pop(file.first, None)
        # In place: the thread that writes may be adding one.
        del self.files[: len(segments)]

    def infos(self, last: int, newest: Place) -> list[SegmentInfo]:
        """The segments up to the newest in use; ``last`` is the last sequence that counts."""
        files = [file for file in self.files if file.first <= newest.first]
        infos: list[SegmentInfo] = []
        for place, file in enumerate(files):
            ended = place < len(files) - 1
            size = file.path.stat().st_size if ended else newest.end
            upto = files[place + 1].first - 1 if ended else last
            infos.append(SegmentInfo(file.path, file.first, upto, size, file.header.created_ns))
        return infos

    def read(self, limits: Limits) -> list[Frame]:
        """Frames after ``limits.after`` in order; `JournalCorrupt` names file and offset of what is damaged.

        `JournalTrimmed` when the first of them is no longer there.
        """
        frames: list[Frame] = []
        room = limits.bytes_
        files = self._files_after(limits.after)
        place = 0
        while place < len(files) and len(frames) < limits.frames and room > 0:
            part = Limits(limits.after, limits.upto, limits.frames - len(frames), room)
            for done in self._segment(files, place, part):
                frames.extend(done)
                room -= sum(len(frame.payload) for frame in done)
            place += 1
        return frames

    def scan(self, limits: Limits, source: str | None, start_ns: int | None, end_ns: int | None) -> Iterator[Frame]:
        """Frames by sequence, source and wall time in ``[start_ns, end_ns)``, in order.

        `JournalTrimmed` when some that were asked for may no longer be there.
        """
        if start_ns is None or not self.files or start_ns <= self.files[0].header.created_ns:
            files = self._files_after(limits.after)
        else:  # walls never go back: whatever was trimmed is too early
            files = self._files_after(max(limits.after, self.first - 1))
            # A header holds its first frame's wall: all before this segment is too early as well.
            files = files[max(0, bisect_left(files, start_ns, key=_created) - 1) :]
        for place in range(len(files)):
            for done in self._segment(files, place, limits):
                for frame in done:
                    if end_ns is not None and frame.wall_ns >= end_ns:
                        return
                    if (source is None or frame.origin.source == source) and (
                        start_ns is None or frame.wall_ns >= start_ns
                    ):
                        yield frame

    def _files_after(self, after: int) -> list[SegmentFile]:
        """The segments with the frames after ``after``."""
        files = list(self.files)
        if files and after + 1 < files[0].first:
            raise JournalTrimmed(str(files[0].path.parent), after + 1, files[0].first)
        return files[max(0, bisect_right(files, after + 1, key=_first) - 1) :]

    def _segment(self, files: Sequence[SegmentFile], place: int, limits: Limits) -> Iterator[list[Frame]]:
        file = files[place]
        last = limits.upto
        if place + 1 < len(files):
            last = min(last, files[place + 1].first - 1)
        if last < file.first or last <= limits.after:
            return
        self._remember(file)
        good, where, why = file.first - 1, HEADER_BYTES, "nothing more is written"
        try:
            for offset, done in blocks(file, self._decoder, limits._replace(upto=last)):
                if done.frames:
                    yield done.frames
                if done.stop is Stop.LIMIT:
                    return
                good, where, why = done.last, offset + done.used, done.why
        except FileNotFoundError:
            asked = max(limits.after + 1, file.first)
            raise JournalTrimmed(str(file.path.parent), asked, max(self.first, last + 1)) from None
        raise JournalCorrupt(
            f"{file.path} at byte {where}: frame {good + 1} of {last} cannot be read: {why}. "
            "Restore the segment from a copy; `tidewire journal verify` lists all that is damaged."
        )

    def _remember(self, file: SegmentFile) -> None:
        """Keep the marks of the segments used last, forget the others'."""
        self._used.pop(file.first, None)
        self._used[file.first] = file
        if len(self._used) > _INDEXED_SEGMENTS:
            oldest = next(iter(self._used))
            self._used.pop(oldest).marks.clear()


def _first(file: SegmentFile) -> int:
    return file.header.first


def _created(file: SegmentFile) -> int:
    return file.header.created_ns
