"""Journals with frames of several sources, and an archive that can be watched and broken at every step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from tidewire.journal import Archive, Journal, JournalConfig, JournalReader, Kind, Origin
from tidewire.journal.catalog import SegmentInfo
from tidewire.journal.files import Files
from tidewire.records.clock import ManualClock, SeededRng

SOURCES = ["binance", "rss", "OKX", "新浪", "", ".."]
SMALL = JournalConfig(segment_bytes=2048, commit_ms=0, max_frame=300, recent_bytes=0)
START_NS = 1_700_000_000_000_000_000


class MemoryObjects:
    """Objects in memory. ``steps`` counts what changes them; one that is `broken` raises before or behind a step."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.steps = 0
        self.log: list[tuple[str, str]] = []
        self.fails_before: int | None = None
        self.fails_after: int | None = None

    def __str__(self) -> str:
        return "memory"

    def _step(self, what: str, name: str, change: object) -> None:
        self.steps += 1
        if self.steps == self.fails_before:
            raise Killed(f"before step {self.steps}")
        change()  # type: ignore[operator]
        self.log.append((what, name))
        if self.steps == self.fails_after:
            raise Killed(f"behind step {self.steps}")

    def put(self, name: str, data: bytes) -> None:
        self._step("put", name, lambda: self.held.update({name: data}))

    def create(self, name: str, data: bytes) -> bool:
        if name in self.held:
            return False
        self._step("put", name, lambda: self.held.update({name: data}))
        return True

    def get(self, name: str) -> bytes | None:
        return self.held.get(name)

    def size(self, name: str) -> int | None:
        return len(self.held[name]) if name in self.held else None

    def delete(self, name: str) -> None:
        self._step("delete", name, lambda: self.held.pop(name, None))

    def list(self, prefix: str) -> list[str]:
        return sorted(name for name in self.held if name.startswith(prefix + "/") or not prefix)


class Killed(Exception):
    """The process was killed here."""


async def filled(
    directory: Path,
    count: int,
    *,
    seed: int = 1,
    config: JournalConfig = SMALL,
    sources: Sequence[str] = SOURCES,
    files: Files | None = None,
) -> None:
    """Append frames of random sources, kinds and lengths, a second apart, and close."""
    chance = random.Random(seed)
    journal = await Journal.open(directory, ManualClock(), config, rng=SeededRng(seed), files=files)
    for number in range(count):
        source = chance.choice(sources)
        kind = chance.choices([Kind.DATA, Kind.CONTROL, Kind.OPERATOR], [8, 1, 1])[0]
        payload = chance.randbytes(chance.choice([0, 1, 30, 120, 301, 700]))
        origin = Origin(source, chance.choice(["trade", "news"]), f"wss://x#{chance.randrange(3)}")
        cursor = b"" if chance.random() < 0.5 else b"c%d" % number
        journal.append(origin, payload, kind=kind, cursor=cursor, wall_ns=START_NS + journal.head * 1_000_000_000)
    await journal.close()


def sealed(directory: Path) -> list[SegmentInfo]:
    return JournalReader(directory).segments()[:-1]


def archived(directory: Path, objects: MemoryObjects) -> Archive:
    """The archive of all that is sealed."""
    archive = Archive(objects, JournalReader(directory).uuid)
    archive.load()
    for segment in sealed(directory):
        archive.add(segment)
    return archive
