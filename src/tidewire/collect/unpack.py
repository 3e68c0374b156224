"""Packed bodies, unpacked in bounded steps, so that a bomb is seen before it fills the memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from tidewire.errors import TerminalError, TransientError

_INFLATE_STEP_BYTES = 1 << 18
_GZIP_MAGIC = b"\x1f\x8b"


class Plain:
    """A body that is not compressed."""

    complete = True

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The decoded pieces of one received chunk."""
        yield chunk


class Inflate:
    """gzip (of one member or several), zlib, or the bare deflate that some servers send under the same name."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
        self._begun = False
        self._held = b""
        self.complete = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The decoded pieces of one received chunk, each of bounded size."""
        data = self._held + chunk
        self._held = b""
        while True:
            if self._inflater.eof:
                if not _GZIP_MAGIC.startswith(data[:2]):
                    return
                if len(data) < 2:
                    self._held = data
                    return
                self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
                self.complete = False
            piece = self._inflate(data)
            if piece:
                yield piece
            if self._inflater.eof:
                self.complete = True
                data = self._inflater.unused_data
                continue
            data = self._inflater.unconsumed_tail
            if not data and len(piece) < _INFLATE_STEP_BYTES:
                return

    def _inflate(self, data: bytes) -> bytes:
        try:
            piece = self._inflater.decompress(data, _INFLATE_STEP_BYTES)
        except zlib.error as error:
            if self._begun:
                raise TransientError(f"{self._where}: the compressed body is damaged ({error})") from error
            self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            self._begun = True
            return self._inflate(data)
        self._begun = True
        return piece


def unpacker(encoding: str, where: str) -> Plain | Inflate:
    """What takes a body's chunks as they come, by its ``Content-Encoding``; ``where`` begins what errors say."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return Plain()
    if name in ("gzip", "x-gzip", "deflate"):
        return Inflate(where)
    raise TerminalError(f"{where}: the body is encoded as {encoding!r}; asked for were gzip and deflate")
