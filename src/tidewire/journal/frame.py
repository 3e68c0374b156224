"""The frame: bytes exactly as received, with where they came from, when, and their place in the journal."""

from __future__ import annotations

from enum import IntEnum

import msgspec

MAX_NAME_BYTES = 0xFFFF
MAX_REQUEST_BYTES = 1 << 20


class Kind(IntEnum):
    """What a frame holds; the numbers are part of the segment format."""

    DATA = 1
    CONTROL = 2
    OPERATOR = 3


class Origin(msgspec.Struct, frozen=True, cache_hash=True):
    """Where a frame came from; hashable, and one shared object for equal origins when decoded.

    ``request`` names the request that was answered: ``GET https://…`` or, for the third connection to a feed,
    ``wss://…#3``. `ValueError` when a name is longer than 65,535 bytes or the request longer than 1 MiB.
    """

    source: str
    collector: str
    request: str

    def __post_init__(self) -> None:
        limits = (
            ("source", self.source, MAX_NAME_BYTES),
            ("collector", self.collector, MAX_NAME_BYTES),
            ("request", self.request, MAX_REQUEST_BYTES),
        )
        for name, text, most in limits:
            size = len(text.encode())
            if size > most:
                raise ValueError(f"The {name} of a frame is {size} bytes; at most {most} are allowed. Shorten it.")


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One frame of a journal.

    ``sequence`` counts from 1 without holes. ``wall_ns`` is UTC nanoseconds since 1970 and never goes back within a
    journal; ``mono_ns`` is the monotonic clock of the process that received it. ``cursor`` is where the collector
    continues after this frame, in its own form; empty if it has none.
    """

    sequence: int
    wall_ns: int
    mono_ns: int
    kind: Kind
    origin: Origin
    cursor: bytes
    payload: bytes
