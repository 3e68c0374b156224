"""Settings of a store."""

from __future__ import annotations

from dataclasses import dataclass


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
