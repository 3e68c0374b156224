"""The price of durability: frames of 300 bytes into the journal, next to plain file writes.

- ``journal``: appended and accepted, group commit with fsync;
- ``write``: the same bytes written to a file, one fsync at the end;
- ``fsync_each``: one fsync for each frame (on a small sample).
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tidewire import telemetry
from tidewire.journal import Journal, Origin
from tidewire.records.clock import SystemClock

PAYLOAD = b"x" * 300
SAMPLE = 2_000


async def journal_rate(folder: Path, frames: int) -> float:
    """Frames a second, appended and accepted."""
    clock = SystemClock()
    journal = await Journal.open(folder / "journal", clock)
    origin = Origin("bench", "stream", "wss://example/stream#1")
    began = clock.mono_ns()
    for place in range(frames):
        journal.append(origin, PAYLOAD)
        if journal.full:
            await journal.ready()
        elif place % 500 == 0:
            await clock.sleep(0)
    await journal.accept(journal.head)
    rate = frames / ((clock.mono_ns() - began) / 1e9)
    await journal.close()
    return rate


def write_rate(folder: Path, frames: int, *, each: bool) -> float:
    """Frames a second written to a plain file."""
    clock = SystemClock()
    with (folder / f"plain-{each}").open("wb", buffering=0) as file:
        began = clock.mono_ns()
        for _ in range(frames):
            file.write(PAYLOAD)
            if each:
                os.fsync(file.fileno())
        os.fsync(file.fileno())
        return frames / ((clock.mono_ns() - began) / 1e9)


def measure(frames: int, repeat: int) -> dict[str, Any]:
    """Medians of all three, interleaved."""
    runs: dict[str, list[float]] = {"journal": [], "write": [], "fsync_each": []}
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            runs["journal"].append(asyncio.run(journal_rate(folder, frames)))
            runs["write"].append(write_rate(folder, frames, each=False))
            runs["fsync_each"].append(write_rate(folder, SAMPLE, each=True))
    medians = {name: round(statistics.median(found)) for name, found in runs.items()}
    ratios = {name: round(rate / medians["write"], 3) for name, rate in medians.items()}
    return {"benchmark": "journal", "frames_per_s": medians, "ratio_to_write": ratios}


if __name__ == "__main__":
    telemetry.configure("warning")
    print(json.dumps(measure(200_000, 3), indent=2))
