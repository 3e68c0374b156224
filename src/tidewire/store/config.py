"""Settings of a store."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tidewire.journal.objects import FileObjects


@dataclass(frozen=True)
class StoreConfig:
    """Limits of an embedded store.

    ``threads`` and ``memory_limit`` (``"2GB"``; empty: the engine's default) are for the whole engine. ``readers``
    statements run at once, ``read_queue`` more wait, any further is refused with `StoreBusy`. ``max_series`` is how
    many series have their high-water mark in memory; rows of others are compared with what is stored, which is
    slower and gives the same result. ``checkpoint`` is the size of the engine's write-ahead log at which it is
    folded into the file.
    """

    threads: int = 2
    memory_limit: str = ""
    readers: int = 4
    read_queue: int = 64
    statement_timeout_s: float = 30.0
    max_series: int = 200_000
    checkpoint: str = "64MB"


DAY_S = 86_400.0


@dataclass(frozen=True)
class ColdConfig:
    """What is sealed.

    A span is sealed ``after_s`` after its end, and after the last of its rows came. Spans are years, months, days or
    hours: the longest that is over and has at most ``unit_rows`` rows. ``cache_bytes`` is the room for copies of
    files that are in an object store elsewhere.
    """

    after_s: float = 2 * DAY_S
    unit_rows: int = 2_000_000
    group_rows: int = 100_000
    cache_bytes: int = 20_000_000_000


@dataclass
class Tier:
    """Where sealed files go, and how; ``work`` is a directory of this machine for copies and unfinished files."""

    objects: FileObjects
    work: Path
    config: ColdConfig = field(default_factory=ColdConfig)
