"""``tidewire journal export``: frames as NDJSON, from directory and archive."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import msgspec
import zstandard

from tidewire.errors import InputError
from tidewire.journal import Frame
from tidewire.records.clock import utc

LINES = 1_000
"""Lines written at once."""


def line_of(frame: Frame) -> dict[str, Any]:
    """A frame for JSON: bytes that are UTF-8 as text, others under a name with ``_base64`` behind it."""
    origin = frame.origin
    return {
        "sequence": frame.sequence,
        "received_at": utc(frame.wall_ns).isoformat(),
        "wall_ns": frame.wall_ns,
        "mono_ns": frame.mono_ns,
        "kind": frame.kind.name.lower(),
        "source": origin.source,
        "collector": origin.collector,
        "request": origin.request,
        **_text("cursor", frame.cursor),
        **_text("payload", frame.payload),
    }


def _text(name: str, data: bytes) -> dict[str, str]:
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}


@contextlib.contextmanager
def output(out: Path) -> Generator[IO[bytes]]:
    """A file to write to, compressed if its name ends in ``.zst``; only there under its name when all is written."""
    if out.exists():
        raise InputError(f"{out} exists already. Name a file that does not, or remove it first.")
    unfinished = out.with_name(f"{out.name}.tmp")
    try:
        with unfinished.open("wb") as file:
            if out.suffix == ".zst":
                with zstandard.ZstdCompressor(write_checksum=True).stream_writer(file, closefd=False) as packed:
                    yield cast("IO[bytes]", packed)
            else:
                yield file
        unfinished.rename(out)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error}. Name another file.") from None
    finally:
        unfinished.unlink(missing_ok=True)


def write(frames: Iterable[Frame], to: IO[bytes]) -> Iterator[Frame]:
    """Write frames as NDJSON; yields the last of every thousand, and the last of all."""
    encoder = msgspec.json.Encoder()
    lines: list[bytes] = []
    last: Frame | None = None
    for frame in frames:
        lines.append(encoder.encode(line_of(frame)) + b"\n")
        last = frame
        if len(lines) >= LINES:
            to.write(b"".join(lines))
            lines.clear()
            yield frame
    if last is not None and lines:
        to.write(b"".join(lines))
        yield last
