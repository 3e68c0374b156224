"""The manifest: what became of one segment in the archive. One small JSON object, written last.

A segment is archived when its manifest is there. Names below the journal's uuid::

    segments/00000000000000000001.json                      the manifest, by the segment's first frame
    sources/binance/00000000000000000001.data.zst           its data frames of one source
    sources/binance/00000000000000000001.acts.zst           its control and operator frames of that source

A part is one zstd stream: a header (see `part_header`), then the encoded frames of the segment, byte for byte and in
order. ``sha256sum`` and ``zstd -d`` are enough to check and open one.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Literal

import msgspec
from xxhash import xxh3_64_hexdigest

from tidewire.errors import JournalCorrupt
from tidewire.journal.segment import Header

FORMAT = 1
MAGIC = b"TIDEPART"
_LEAD = struct.Struct("<8sHHI")
_PLAIN = re.compile(r"[^a-z0-9_.-]")
_MAX_NAME = 100

Sort = Literal["data", "acts"]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The frames of one source and sort in one segment. ``acts`` are control and operator frames.

    ``raw_bytes`` are those of its frames, ``stored_bytes`` and ``sha256`` of the object.
    """

    source: str
    sort: Sort
    object: str
    frames: int
    raw_bytes: int
    stored_bytes: int
    first: int
    last: int
    first_wall_ns: int
    last_wall_ns: int
    sha256: str
    expired: bool = False
    """Its time in the archive is over: the object is gone, or about to go."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One archived segment. ``bytes`` and ``sha256`` are those of the whole original segment."""

    format: int = FORMAT
    journal: str
    epoch: int
    first: int
    last: int
    created_ns: int
    last_wall_ns: int
    bytes: int
    sha256: str
    parts: Sequence[Part]

    @property
    def header(self) -> Header:
        """The header of the segment."""
        return Header(self.journal, self.first, self.created_ns, self.epoch)

    @property
    def name(self) -> str:
        """The object it is kept in."""
        return manifest_name(self.journal, self.first)

    @property
    def expired(self) -> int:
        """How many of its frames are gone."""
        return sum(part.frames for part in self.parts if part.expired)

    def encode(self) -> bytes:
        """The bytes of the object."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


def decode_manifest(data: bytes, name: str) -> Manifest:
    """Read a manifest; `JournalCorrupt` if it is none, or of a later format."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise JournalCorrupt(f"{name} in the archive is no manifest: {error}. Restore it from a copy.") from None
    if manifest.format != FORMAT:
        raise JournalCorrupt(f"{name} is of format {manifest.format}; this program reads {FORMAT}. Use a later one.")
    if manifest.name != name:
        raise JournalCorrupt(f"{name} in the archive says it is {manifest.name}. Give it its own name back.")
    return manifest


def manifests_under(journal: str) -> str:
    """Where the manifests of a journal are."""
    return f"{journal}/segments"


def manifest_name(journal: str, first: int) -> str:
    """The name of a manifest."""
    return f"{manifests_under(journal)}/{first:020d}.json"


def part_name(journal: str, source: str, first: int, sort: Sort) -> str:
    """The name of a part's object. Sources may be called anything; names in it are safe on every store."""
    plain = _PLAIN.sub(lambda match: "".join(f"={byte:02x}" for byte in match[0].encode()), source)
    if not plain.strip("."):
        plain = "=" + plain.replace(".", "=2e")
    if len(plain) > _MAX_NAME:
        plain = f"=={xxh3_64_hexdigest(source.encode())}"
    return f"{journal}/sources/{plain}/{first:020d}.{sort}.zst"


class _About(msgspec.Struct, frozen=True, kw_only=True):
    journal: str
    epoch: int
    first: int
    created_ns: int
    source: str
    sort: Sort


def part_header(header: Header, source: str, sort: Sort) -> bytes:
    """What a part begins with: ``TIDEPART``, u16 format, u16 zero, u32 length, and so many bytes of JSON."""
    about = _About(
        journal=header.uuid,
        epoch=header.epoch,
        first=header.first,
        created_ns=header.created_ns,
        source=source,
        sort=sort,
    )
    body = msgspec.json.encode(about)
    return _LEAD.pack(MAGIC, FORMAT, 0, len(body)) + body


def header_bytes(data: bytes, name: str) -> int:
    """How many bytes the header of a part takes, from its beginning; `JournalCorrupt` if it is none."""
    if len(data) < _LEAD.size or data[: len(MAGIC)] != MAGIC:
        raise JournalCorrupt(f"{name} in the archive is no part of a segment. Restore it from a copy.")
    _, version, _, size = _LEAD.unpack_from(data)
    if version != FORMAT:
        raise JournalCorrupt(f"{name} is of format {version}; this program reads {FORMAT}. Use a later one.")
    return _LEAD.size + size
