"""Bringing segments back from the archive, byte for byte, into a directory that is a journal again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from tidewire.errors import InputError, JournalCorrupt, JournalFailed, NotFound
from tidewire.journal.archive import pieces_of
from tidewire.journal.archive_reader import ArchiveReader
from tidewire.journal.files import UNFINISHED, Files, OsFiles
from tidewire.journal.frame import MAX_NAME_BYTES, Frame, Kind, Origin
from tidewire.journal.manifest import Manifest
from tidewire.journal.pieces import BLOCK_BYTES, Piece
from tidewire.journal.segment import Encoder, segment_name
from tidewire.journal.trim import Mark, write_mark

Noted = Callable[[Manifest], bytes]
"""The payload of the control frames that stand for the frames of a segment that are gone."""

STAND_IN = Origin("tidewire", "archive", "restore")


def choose(
    manifests: Sequence[Manifest],
    *,
    first: int | None = None,
    last: int | None = None,
    start_ns: int | None = None,
    end_ns: int | None = None,
) -> list[Manifest]:
    """The segments with frames ``first`` to ``last`` and wall times in ``[start_ns, end_ns)``; whole ones only."""
    return [
        manifest
        for manifest in manifests
        if (first is None or manifest.last >= first)
        and (last is None or manifest.first <= last)
        and (start_ns is None or manifest.last_wall_ns >= start_ns)
        and (end_ns is None or manifest.created_ns < end_ns)
    ]


def restore(
    reader: ArchiveReader,
    chosen: Sequence[Manifest],
    into: Path,
    *,
    noted: Noted | None = None,
    files: Files | None = None,
) -> Iterator[Manifest]:
    """Write segments into an empty directory, oldest first; yields each when it is on disk.

    Each is proved to be the original by the checksum of the whole. Segments with expired parts are refused unless
    ``noted`` is given: then a control frame stands in the place of every frame that is gone.

    Raises:
        NotFound: nothing was chosen.
        InputError: the directory is not empty, or frames have expired.
        JournalCorrupt: what the archive holds is not what was archived; what was written so far stays.
        JournalFailed: the directory cannot be written.
    """
    files = files or OsFiles()
    _check(reader, chosen, into, allowed=noted is not None)
    try:
        into.mkdir(parents=True, exist_ok=True)
        if chosen[0].first > 1:
            # First of all: without it the directory would begin too late to be a journal.
            write_mark(into, Mark(reader.uuid, chosen[0].first), files)
        for manifest in chosen:
            _write(reader, manifest, into, files, noted)
            yield manifest
    except OSError as error:
        raise JournalFailed(f"{into} cannot be written: {error}. Choose another directory, or free space.") from error


def _check(reader: ArchiveReader, chosen: Sequence[Manifest], into: Path, *, allowed: bool) -> None:
    if not chosen:
        raise NotFound(
            f"No segment in the archive {reader.objects} has such frames; it holds frames {reader.first:,} to "
            f"{reader.accepted:,}. `tidewire journal ls` lists them."
        )
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise InputError(f"{into} is not an empty directory. Name one that is, or that does not exist yet.")
    for before, manifest in pairwise(chosen):
        if manifest.first != before.last + 1:
            raise JournalCorrupt(
                f"Frames {before.last + 1:,} to {manifest.first - 1:,} are missing in the archive {reader.objects}. "
                "Restore the segments on either side of them one after the other, into directories of their own."
            )
    expired = [manifest for manifest in chosen if manifest.expired]
    if expired and not allowed:
        count = sum(manifest.expired for manifest in expired)
        raise InputError(
            f"{count:,} frames of {len(expired)} segments, from frame {expired[0].first:,} on, have expired in the "
            "archive. Choose a range without them, or say --partial to have a note in the place of each."
        )


def _write(reader: ArchiveReader, manifest: Manifest, into: Path, files: Files, noted: Noted | None) -> None:
    path = into / segment_name(manifest.first)
    unfinished = path.with_name(path.name + UNFINISHED)
    head = manifest.header.encode()
    digest = hashlib.sha256(head)
    pieces = pieces_of(reader.objects, manifest)
    if manifest.expired and noted is not None:
        stream = _filled(pieces, manifest, noted(manifest))
    else:
        stream = (piece.data for piece in pieces)
    descriptor = files.open(unfinished, create=True)
    try:
        at = 0
        for block in _blocks(head, stream):
            if at:
                digest.update(block)
            files.write(descriptor, block, at)
            at += len(block)
        if not manifest.expired and digest.hexdigest() != manifest.sha256:
            raise JournalCorrupt(
                f"What the archive {reader.objects} holds of segment {path.name} does not make the segment it was. "
                "`tidewire journal verify` lists what is damaged; restore that from a copy."
            )
        files.sync(descriptor)
    finally:
        files.close(descriptor)
    files.rename(unfinished, path)
    files.sync_directory(into)


def _blocks(head: bytes, stream: Iterator[bytes]) -> Iterator[bytes]:
    """The header, then what follows, in blocks of about a megabyte."""
    yield head
    waiting: list[bytes] = []
    size = 0
    for data in stream:
        waiting.append(data)
        size += len(data)
        if size >= BLOCK_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _filled(pieces: Iterator[Piece], manifest: Manifest, payload: bytes) -> Iterator[bytes]:
    """The encoded frames with a control frame for each that is gone, at the time of the one before it."""
    encoder = Encoder(max(len(payload), MAX_NAME_BYTES))
    wall = manifest.created_ns
    expected = manifest.first

    def stand_ins(until: int) -> Iterator[bytes]:
        for sequence in range(expected, until):
            out: list[bytes] = []
            encoder.encode(Frame(sequence, wall, 0, Kind.CONTROL, STAND_IN, b"", payload), out)
            yield from out

    for piece in pieces:
        yield from stand_ins(piece.sequence)
        yield piece.data
        expected, wall = piece.sequence + 1, piece.wall_ns
    yield from stand_ins(manifest.last + 1)
