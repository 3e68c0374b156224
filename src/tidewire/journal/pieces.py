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


def cut(blocks: Iterable[bytes], where: str) -> Iterator[Piece]:
    """The encoded frames in a stream of bytes, each checked; `JournalCorrupt` for anything else."""
    rest, passed = b"", 0
    for block in blocks:
        buffer = rest + block if rest else block
        at, size = 0, len(buffer)
        while at + FRAME_BYTES <= size:
            length, checksum, sequence, wall, _, kind, flags, _, _, source = _HEAD.unpack_from(buffer, at)
            end = at + length
            if length < FRAME_BYTES:
                raise _damaged(where, passed + at)
            if end > size:
                break
            data = buffer[at:end]
            if xxh3_64_intdigest(memoryview(data)[12:]) != checksum:
                raise _damaged(where, passed + at)
            named = data[FRAME_BYTES : FRAME_BYTES + source]
            yield Piece(sequence, wall, data, named, kind != Kind.DATA, bool(flags))
            at = end
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
