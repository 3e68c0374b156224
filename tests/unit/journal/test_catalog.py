from __future__ import annotations

import os
from pathlib import Path

import pytest

from tidewire.journal import Journal, JournalConfig, JournalReader, Origin
from tidewire.records.clock import ManualClock

FEED = Origin("binance", "trade", "wss://x#1")


async def test_a_writer_cuts_its_reserved_space_off_while_one_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await Journal.open(tmp_path, ManualClock(), JournalConfig(segment_bytes=4096, commit_ms=1))
    for number in range(5):
        journal.append(FEED, b"payload %d" % number)
    await journal.drain()
    (segment,) = journal.segments()
    pread = os.pread

    def cut_first(descriptor: int, count: int, offset: int) -> bytes:
        os.truncate(segment.path, segment.bytes)
        return pread(descriptor, count, offset)

    monkeypatch.setattr(os, "pread", cut_first)
    assert segment.path.stat().st_size > segment.bytes
    assert [frame.sequence for frame in JournalReader(tmp_path).scan()] == [1, 2, 3, 4, 5]
    await journal.close()
