"""Segment format v1: what is in a ``.seg`` file. Little endian; it does not change.

A segment is named by its first sequence, 20 digits: ``00000000000000000001.seg``. It is a header, frames without
space between them, and while it is the newest a tail of zeros (space reserved ahead).

Header, 64 bytes:

====== ====== =========== =====================================================
offset type   field       meaning
====== ====== =========== =====================================================
0      8 byte magic       ``TIDEWIRE``
8      u16    version     1
10     u16    header      64, the offset of the first frame
12     u32    reserved    0
16     16 b   uuid        of the journal, the same in all its segments
32     u64    epoch       of the lease under which it was written; 0 outside a cluster
40     u64    first       sequence of the first frame
48     i64    created     wall time of the first frame, UTC nanoseconds
56     u64    checksum    xxh3-64 of bytes 0 to 55
====== ====== =========== =====================================================

Frame, 52 bytes and what follows:

====== ====== =========== =====================================================
offset type   field       meaning
====== ====== =========== =====================================================
0      u32    length      of the whole frame, this field included; 0 = nothing more is written
4      u64    checksum    xxh3-64 of bytes 12 to the end of the frame
12     u64    sequence    one more than the frame before
20     i64    wall        receive time, UTC nanoseconds; never less than the frame before
28     i64    mono        receive time, monotonic nanoseconds of the process
36     u8     kind        1 data, 2 control, 3 operator
37     u8     flags       bit 0: another chunk of this frame follows; the rest 0
38     u16    chunk       index of this chunk, from 0
40     u32    cursor      length in bytes
44     u16    source      length in bytes
46     u16    collector   length in bytes
48     u32    request     length in bytes
52            source, collector, request (UTF-8), cursor, payload (to the end of the frame)
====== ====== =========== =====================================================

A payload above the frame limit is cut into chunks: frames in the same segment, one behind the other, with the same
sequence, times, kind and origin. The last chunk carries the cursor. A frame whose last chunk is missing does not exist.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from tidewire.errors import JournalCorrupt
from tidewire.journal.frame import Frame, Kind, Origin

MAGIC = b"TIDEWIRE"
VERSION = 1
SUFFIX = ".seg"
HEADER_BYTES = 64
FRAME_BYTES = 52
MAX_CHUNKS = 0x10000
MORE = 1

_HEADER = struct.Struct("<8sHHI16sQQq")
_CHECKSUM = struct.Struct("<Q")
_FRAME = struct.Struct("<IQQqqBBHIHHI")
_LEAD = struct.Struct("<IQ")
_STAMP = struct.Struct("<QqqBBHI")
_LENGTHS = struct.Struct("<HHI")
_KINDS = {int(kind): kind for kind in Kind}
_CACHED_ORIGINS = 4096


@dataclass(frozen=True, slots=True)
class Header:
    """The first 64 bytes of a segment."""

    uuid: str
    first: int
    created_ns: int
    epoch: int = 0

    def encode(self) -> bytes:
        """The bytes."""
        raw = uuid.UUID(self.uuid).bytes
        head = _HEADER.pack(MAGIC, VERSION, HEADER_BYTES, 0, raw, self.epoch, self.first, self.created_ns)
        return head + _CHECKSUM.pack(xxh3_64_intdigest(head))

    @classmethod
    def decode(cls, data: bytes, path: Path) -> Header:
        """Read a header; `JournalCorrupt` if it is none, damaged, or of a later version."""
        if len(data) < HEADER_BYTES or data[: len(MAGIC)] != MAGIC:
            raise JournalCorrupt(
                f"{path} is not a journal segment: it begins with {data[:8]!r}, a segment with {MAGIC!r}. "
                "Move the file out of the journal's directory, or restore the segment from a copy."
            )
        _, version, _, _, raw, epoch, first, created = _HEADER.unpack_from(data)
        if version != VERSION:
            raise JournalCorrupt(
                f"{path} is of format version {version}; this program reads {VERSION}. Use a later one."
            )
        (checksum,) = _CHECKSUM.unpack_from(data, _HEADER.size)
        if checksum != xxh3_64_intdigest(data[: _HEADER.size]):
            raise JournalCorrupt(f"{path}: the header fails its checksum. Restore the segment from a copy.")
        return cls(uuid=str(uuid.UUID(bytes=raw)), first=first, created_ns=created, epoch=epoch)


def segment_name(first: int) -> str:
    """The file name of the segment that begins with this sequence."""
    return f"{first:020d}{SUFFIX}"


class Encoder:
    """Turns frames into the bytes of a segment."""

    def __init__(self, max_frame: int) -> None:
        self._max_frame = max_frame
        self._prefixes: dict[Origin, bytes] = {}

    def _prefix(self, origin: Origin) -> bytes:
        if len(self._prefixes) >= _CACHED_ORIGINS:
            self._prefixes.clear()
        names = [origin.source.encode(), origin.collector.encode(), origin.request.encode()]
        prefix = _LENGTHS.pack(*map(len, names)) + b"".join(names)
        self._prefixes[origin] = prefix
        return prefix

    def encode(self, frame: Frame, out: list[bytes]) -> int:
        """Append the bytes of a frame to ``out``; how many they are."""
        origin = frame.origin
        prefix = self._prefixes.get(origin) or self._prefix(origin)
        payload = frame.payload
        if len(payload) > self._max_frame:
            return self._encode_chunks(frame, prefix, out)
        cursor = frame.cursor
        head = _STAMP.pack(frame.sequence, frame.wall_ns, frame.mono_ns, frame.kind, 0, 0, len(cursor))
        body = b"".join((head, prefix, cursor, payload))
        length = len(body) + 12
        out.append(_LEAD.pack(length, xxh3_64_intdigest(body)))
        out.append(body)
        return length

    def _encode_chunks(self, frame: Frame, prefix: bytes, out: list[bytes]) -> int:
        total = 0
        step = self._max_frame
        chunks = range(0, len(frame.payload), step)
        for index, start in enumerate(chunks):
            last = index == len(chunks) - 1
            cursor = frame.cursor if last else b""
            flags = 0 if last else MORE
            head = _STAMP.pack(frame.sequence, frame.wall_ns, frame.mono_ns, frame.kind, flags, index, len(cursor))
            body = b"".join((head, prefix, cursor, frame.payload[start : start + step]))
            out.append(_LEAD.pack(len(body) + 12, xxh3_64_intdigest(body)))
            out.append(body)
            total += len(body) + 12
        return total


class Stop(Enum):
    """Why decoding stopped."""

    MORE = auto()
    """The bytes end inside a frame, or between two."""
    END = auto()
    """A zero where a frame would begin: nothing more was written."""
    BAD = auto()
    """A frame that fails its checksum: torn or damaged."""
    ODD = auto()
    """A frame that is intact but cannot be here: wrong sequence, unknown kind."""
    LIMIT = auto()
    """All that was asked for."""


class Limits(NamedTuple):
    """What to decode: frames after ``after`` up to ``upto``, at most so many frames and payload bytes."""

    after: int = 0
    upto: int = 1 << 63
    frames: int = 1 << 62
    bytes_: int = 1 << 62


@dataclass(slots=True)
class Decoded:
    """What was in a block of bytes.

    ``used`` is the length of the whole frames at its beginning, ``last`` the sequence of the last of them and
    ``wall_ns`` its time; ``needed`` how many bytes the block must have to get further (for `Stop.MORE`).
    """

    frames: list[Frame]
    used: int
    last: int
    wall_ns: int
    stop: Stop = Stop.MORE
    needed: int = 0
    why: str = ""

    def halt(self, stop: Stop, why: str = "", needed: int = 0) -> Decoded:
        """Set the reason and return it all."""
        self.stop, self.why, self.needed = stop, why, needed
        return self


class Decoder:
    """Turns bytes of a segment into frames; equal origins become one object."""

    def __init__(self) -> None:
        self._origins: dict[bytes, Origin] = {}

    def _origin(self, key: bytes) -> Origin:
        if len(self._origins) >= _CACHED_ORIGINS:
            self._origins.clear()
        source, collector, request = _LENGTHS.unpack_from(key)
        names = key[_LENGTHS.size :]
        origin = Origin(
            source=names[:source].decode(),
            collector=names[source : source + collector].decode(),
            request=names[source + collector : source + collector + request].decode(),
        )
        self._origins[key] = origin
        return origin

    def decode(self, buffer: bytes, expect: int, limits: Limits) -> Decoded:
        """Decode the frames at the beginning of ``buffer``; the first must have the sequence ``expect``.

        Every frame is checked; those not after ``limits.after`` are not built.
        """
        done = Decoded([], 0, expect - 1, 0)
        frames = done.frames
        view = memoryview(buffer)
        size = len(buffer)
        at = room = 0
        parts: list[bytes] = []
        while True:
            if done.last >= limits.upto or len(frames) >= limits.frames or room >= limits.bytes_:
                return done.halt(Stop.LIMIT)
            if at + FRAME_BYTES > size:
                return done.halt(Stop.MORE, "the file ends inside a frame", at + FRAME_BYTES)
            head = _FRAME.unpack_from(buffer, at)
            length, checksum, sequence, wall, mono, number, flags, chunk, cursor, source, collector, request = head
            end = at + length
            if length < FRAME_BYTES:
                return done.halt(*_too_short(length, parts))
            if end > size:
                return done.halt(Stop.MORE, "the file ends inside a frame", end)
            if xxh3_64_intdigest(view[at + 12 : end]) != checksum:
                return done.halt(Stop.BAD, "the frame fails its checksum")
            named = at + FRAME_BYTES + source + collector + request
            kind = _KINDS.get(number)
            if sequence != done.last + 1 or chunk != len(parts) or kind is None or flags > MORE or named + cursor > end:
                return done.halt(Stop.ODD, _why_odd(head, done.last + 1, len(parts)))
            payload = buffer[named + cursor : end] if sequence > limits.after else b""
            at = end
            if flags or parts:
                parts.append(payload)
                if flags:
                    continue
                payload = b"".join(parts)
                parts = []
            done.used, done.last, done.wall_ns = end, sequence, wall
            if sequence > limits.after:
                key = buffer[end - length + 44 : named]
                origin = self._origins.get(key) or self._origin(key)
                frames.append(Frame(sequence, wall, mono, kind, origin, buffer[named : named + cursor], payload))
                room += len(payload)


def closing_frame(data: bytes, last: int) -> int:
    """The sequence of the whole frame after frame ``last`` that ends these bytes; 0 if they do not end with one."""
    size = len(data)
    for at in range(size - FRAME_BYTES + 1):
        length, checksum, sequence = _FRAME.unpack_from(data, at)[:3]
        if length == size - at and sequence > last and xxh3_64_intdigest(memoryview(data)[at + 12 :]) == checksum:
            return sequence
    return 0


def _too_short(length: int, parts: list[bytes]) -> tuple[Stop, str]:
    if length:
        return Stop.BAD, f"the frame says it is {length} bytes long; the least is {FRAME_BYTES}"
    if parts:
        return Stop.BAD, "the last chunk of the frame is missing"
    return Stop.END, "nothing more is written"


def _why_odd(head: tuple[int, ...], expect: int, chunk: int) -> str:
    return (
        f"an intact frame that cannot be here: sequence {head[2]} (expected {expect}), chunk {head[7]} (expected "
        f"{chunk}), kind {head[5]} (known {', '.join(map(str, _KINDS))}), flags {head[6]}"
    )
