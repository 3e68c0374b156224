from __future__ import annotations

from pathlib import Path

from tidewire.journal import Journal, JournalConfig, JournalReader, Origin
from tidewire.journal.synced import SYNCED
from tidewire.records.clock import ManualClock

FEED = Origin("binance", "trade", "wss://x#1")
CONFIG = JournalConfig(segment_bytes=4096, commit_ms=1)


async def test_a_segment_full_to_the_last_byte_is_not_taken_for_one_that_was_closed(
    tmp_path: Path,
) -> None:
    journal = await Journal.open(tmp_path, ManualClock(), CONFIG)
    journal.append(FEED, b"")
    await journal.drain()
    begin = journal.segments()[0].bytes
    journal.append(FEED, b"")
    await journal.drain()
    frame = journal.segments()[0].bytes - begin
    fits = CONFIG.segment_bytes - begin - 2 * frame
    journal.append(FEED, bytes(fits - 100))
    journal.append(FEED, bytes(100 - frame))
    await journal.drain()
    left = [(info.path.stat().st_size - info.bytes, info.last) for info in journal.segments()]
    assert left[-1][0] > 0
    newest = journal.segments()[-1]
    # The power goes: of a group that was not synced the beginning is missing, and so is what was noted of syncs.
    data = bytearray(newest.path.read_bytes())
    await journal.close()
    (tmp_path / SYNCED).unlink()
    data[newest.bytes - frame] ^= 1
    newest.path.write_bytes(data)
    again = await Journal.open(tmp_path, ManualClock(), CONFIG)
    assert again.head < left[-1][1]
    await again.close()
    assert JournalReader(tmp_path).verify() == []
