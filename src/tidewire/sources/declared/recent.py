"""The last replies that were read: a collector must read one to know whether there are more, its parser a moment later.

What a reply is read as depends on nothing but what is compared here, so that nobody can tell whether it was read again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidewire.sources.declared.source import Read

READS_MAX = 256
BYTES_MAX = 8 << 20
"""Of replies that are kept as they were read; the oldest are forgotten."""

Key = tuple[str, int]
"""What was asked for, as its frame says it, and when the reply came, UTC microseconds."""


class Recent:
    """Replies that were read and not taken yet."""

    def __init__(self) -> None:
        self._reads: OrderedDict[Key, tuple[bytes, Read]] = OrderedDict()
        self._bytes = 0

    def keep(self, asked: str, received_us: int, payload: bytes, read: Read) -> None:
        """Remember what a reply was read as."""
        self._drop((asked, received_us))
        self._reads[asked, received_us] = payload, replace(read, document=None)
        self._bytes += len(payload)
        while len(self._reads) > READS_MAX or self._bytes > BYTES_MAX:
            self._drop(next(iter(self._reads)))

    def take(self, asked: str, received_us: int, payload: bytes) -> Read | None:
        """What just this reply was read as, once; ``None`` where that is not known."""
        found = self._drop((asked, received_us))
        return found[1] if found is not None and found[0] == payload else None

    def _drop(self, key: Key) -> tuple[bytes, Read] | None:
        found = self._reads.pop(key, None)
        if found is not None:
            self._bytes -= len(found[0])
        return found
