"""A journal on a watched disk, and beside it a list of what it was given."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tidewire.errors import JournalFailed
from tidewire.journal import Frame, Journal, JournalConfig, Origin
from tidewire.records.clock import ManualClock, SeededRng
from unit.journal.power import SpyFiles

CONFIG = JournalConfig(segment_bytes=2048, commit_ms=1, max_frame=300, recent_bytes=3_000)
ORIGINS = [Origin("binance", "trade", "wss://x#1"), Origin("rss", "news", "GET https://x/feed")]
Row = tuple[int, Origin, bytes, bytes]


def row(frame: Frame) -> Row:
    return frame.sequence, frame.origin, frame.cursor, frame.payload


class Trial:
    """A journal, what was appended to it, and how much of that it said it had accepted."""

    def __init__(self, root: Path, files: Callable[[], SpyFiles] = SpyFiles) -> None:
        self.root = root
        self.files_of = files
        self.place = 0
        self.rows: list[Row] = []
        self.cuts = self.lost = 0
        self.first = 1
        """The oldest frame that was not trimmed."""
        self.clock = ManualClock()

    async def open(self, files: SpyFiles | None = None) -> None:
        self.files = files or self.files_of()
        self.journal = await Journal.open(
            self.root / str(self.place), self.clock, CONFIG, files=self.files, rng=SeededRng(3)
        )

    def append(self, chance: random.Random) -> None:
        origin = chance.choice(ORIGINS)
        payload = chance.randbytes(chance.choice([0, 1, 40, 200, 301, 900]))
        cursor = b"" if chance.random() < 0.5 else payload[:3]
        sequence = self.journal.append(origin, payload, cursor=cursor)
        self.rows.append((sequence, origin, cursor, payload))

    async def cut(self, chance: random.Random) -> None:
        """Append some more, cut the power while they are being synced, look at what is left."""
        self.files.gate.clear()
        self.files.reached.clear()
        for _ in range(chance.randrange(1, 6)):
            self.append(chance)
        if chance.random() < 0.7:  # else anywhere, also before the write or while a segment begins
            await asyncio.to_thread(self.files.reached.wait, 0.5)
        await asyncio.sleep(0)
        accepted = self.journal.accepted
        target = self.root / str(self.place + 1)
        self.files.image(self.root / str(self.place), target, chance)
        self.files.gate.set()
        await self.close()
        await self.move(accepted)

    async def cut_as_it_is(self, chance: random.Random) -> None:
        """Cut the power while nothing is being written, also when the journal has failed or is closed."""
        accepted = self.journal.accepted
        self.files.image(self.root / str(self.place), self.root / str(self.place + 1), chance)
        await self.close()
        await self.move(accepted)

    async def close(self) -> None:
        """Close, whether it failed or not."""
        with contextlib.suppress(JournalFailed):
            await self.journal.close()

    async def move(self, accepted: int) -> None:
        """Go on from what the disk held when the power went."""
        shutil.rmtree(self.root / str(self.place))
        self.place += 1
        self.cuts += 1
        await self.open()
        self.check(accepted)

    async def reopen(self) -> None:
        """Start again on the same page cache, after a clean end or a failure."""
        accepted = self.journal.accepted
        await self.close()
        self.files.fail_sync = self.files.fail_write = None
        await self.open(self.files)
        self.check(accepted)

    def check(self, accepted: int) -> None:
        journal = self.journal
        assert journal.accepted == journal.head
        assert journal.first == self.first
        kept = [row(frame) for frame in journal.scan(after=self.first - 1)]
        last = self.first - 1 + len(kept)
        assert last == journal.head
        assert last >= accepted, f"{accepted} were accepted, {last} are left"
        assert kept == self.rows[self.first - 1 : last]
        self.lost += len(self.rows) - last
        del self.rows[last:]
