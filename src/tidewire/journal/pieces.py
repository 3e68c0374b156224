"""Encoded frames as they stand in a segment: cut out of a stream of bytes, put back in order, made into frames."""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from tidewire.errors import JournalCorrupt
from tidewire.journal.frame import Frame, Kind
from tidewire.journal.segment import FRAME_BYTES, Decoder, Limits, Stop

BLOCK_BYTES = 1 << 20
_HEAD = struct.Struct("<IQQqqBBHIH")
_GROUP_BYTES = 128 * 1024


class Piece(NamedTuple):
    """One encoded frame, or one chunk of one: its bytes, and what its header says."""

    sequence: int
    wall_ns: int
    data: bytes
    source: bytes
    acts: bool
    """Whether it is a control or operator frame."""
    more: bool
    """Whether another chunk of this frame follows."""


class Run(NamedTuple):
    """Encoded frames of one source that stand one behind the other: their bytes, and what their headers say."""

    first: int
    first_wall_ns: int
    last: int
    last_wall_ns: int
    frames: int
    """How many end here: a frame in chunks is counted with its last one."""
    data: bytes
    source: bytes
    acts: bool


def cut(blocks: Iterable[bytes], where: str) -> Iterator[Piece]:
    """The encoded frames in a stream of bytes, each checked; `JournalCorrupt` for anything else."""
    for buffer, heads in _checked(blocks, where):
        for at, end, sequence, wall, source, acts, more in heads:
            yield Piece(sequence, wall, buffer[at:end], source, acts, more)


def runs(blocks: Iterable[bytes], where: str) -> Iterator[Run]:
    """The same frames, those of a source that follow each other together: much cheaper where sources are few.

    A run ends with the source, with a sequence that is left out, and with the block that was read.
    """
    for buffer, heads in _checked(blocks, where):
        begin, place, frames = 0, 0, 0
        first = last = first_wall = last_wall = 0
        named, acting = b"", False
        for at, end, sequence, wall, source, acts, more in heads:
            if place == begin or source != named or acts != acting or not last <= sequence <= last + 1:
                if place > begin:
                    yield Run(first, first_wall, last, last_wall, frames, buffer[begin:place], named, acting)
                begin, frames, first, first_wall, named, acting = at, 0, sequence, wall, source, acts
            frames += not more
            place, last, last_wall = end, sequence, wall
        if place > begin:
            yield Run(first, first_wall, last, last_wall, frames, buffer[begin:place], named, acting)


_Head = tuple[int, int, int, int, bytes, bool, bool]
"""Where an encoded frame begins and ends; its sequence, receive time, source, and as `Piece` has them acts and more."""


def _checked(blocks: Iterable[bytes], where: str) -> Iterator[tuple[bytes, list[_Head]]]:
    """Buffers of whole frames, and the head of each frame after its checksum was compared."""
    rest, passed = b"", 0
    for block in blocks:
        buffer = rest + block if rest else block
        heads: list[_Head] = []
        view = memoryview(buffer)
        at, size = 0, len(buffer)
        while at + FRAME_BYTES <= size:
            length, checksum, sequence, wall, _, kind, flags, _, _, source = _HEAD.unpack_from(buffer, at)
            end = at + length
            if length < FRAME_BYTES:
                raise _damaged(where, passed + at)
            if end > size:
                break
            if xxh3_64_intdigest(view[at + 12 : end]) != checksum:
                raise _damaged(where, passed + at)
            begin = at + FRAME_BYTES
            heads.append((at, end, sequence, wall, buffer[begin : begin + source], kind != Kind.DATA, bool(flags)))
            at = end
        yield buffer, heads
        rest = buffer[at:]
        passed += at
    if rest:
        raise _damaged(where, passed)


def merge(parts: Iterable[Iterable[Piece]]) -> Iterator[Piece]:
    """Pieces of several parts in the order they had in the segment; a frame's chunks are all in one part."""
    return heapq.merge(*parts, key=_sequence)


def frames_of(pieces: Iterable[Piece], decoder: Decoder, after: int) -> Iterator[Frame]:
    """Frames after ``after``. Sequences that are left out are left out here too."""
    waiting: list[bytes] = []
    size, begin, last = 0, 0, 0
    whole = True
    for piece in pieces:
        if piece.sequence <= after:
            continue
        if waiting and whole and (piece.sequence != last + 1 or size >= _GROUP_BYTES):
            yield from _decoded(waiting, decoder, begin)
            waiting, size = [], 0
        if not waiting:
            begin = piece.sequence
        waiting.append(piece.data)
        size += len(piece.data)
        last, whole = piece.sequence, not piece.more
    if waiting:
        yield from _decoded(waiting, decoder, begin)


def _decoded(waiting: list[bytes], decoder: Decoder, begin: int) -> list[Frame]:
    data = b"".join(waiting)
    done = decoder.decode(data, begin, Limits())
    if done.used != len(data):
        why = done.why if done.stop is not Stop.MORE else "a frame is not whole"
        raise JournalCorrupt(f"Frame {done.last + 1} from the archive cannot be read: {why}. Restore it from a copy.")
    return done.frames


def _sequence(piece: Piece) -> int:
    return piece.sequence


def _damaged(where: str, offset: int) -> JournalCorrupt:
    return JournalCorrupt(
        f"{where} at byte {offset} of its frames: what stands there is no whole frame. Restore it from a copy; "
        "`tidewire journal verify` lists all that is damaged."
    )
