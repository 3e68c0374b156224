"""The price of durability: frames of 300 bytes into the journal, next to plain file writes.

- ``journal``: appended and accepted, group commit with fsync;
- ``write``: the same bytes written to a file, one fsync at the end;
- ``fsync_each``: one fsync for each frame (on a small sample).

And the levels of ``durability`` side by side: processor time of the process for each frame as fast as it goes, and
the time from append to accepted at 1,000 frames a second.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tidewire import telemetry
from tidewire.journal import Durability, Journal, JournalConfig, Origin
from tidewire.records.clock import SystemClock

PAYLOAD = b"x" * 300
SAMPLE = 2_000
PACE_S = 0.001
ORIGIN = Origin("bench", "stream", "wss://example/stream#1")


async def journal_rate(folder: Path, frames: int, level: Durability = Durability.DISK) -> float:
    """Frames a second, appended and accepted."""
    clock = SystemClock()
    journal = await Journal.open(folder / f"journal-{level}", clock, at_level(level))
    began = clock.mono_ns()
    for place in range(frames):
        journal.append(ORIGIN, PAYLOAD)
        if journal.full:
            await journal.ready()
        elif place % 500 == 0:
            await clock.sleep(0)
    await journal.accept(journal.head)
    rate = frames / ((clock.mono_ns() - began) / 1e9)
    await journal.close()
    return rate


def at_level(level: Durability) -> JournalConfig:
    """A journal for frames of this durability."""
    return JournalConfig(durability={ORIGIN.source: level})


async def accepted_after(folder: Path, frames: int, level: Durability) -> list[float]:
    """Milliseconds from append to accepted of each frame, at a pace."""
    clock = SystemClock()
    journal = await Journal.open(folder / f"paced-{level}", clock, at_level(level))
    took: list[float] = []

    async def watch(sequence: int, began: int) -> None:
        await journal.accept(sequence)
        took.append((clock.mono_ns() - began) / 1e6)

    async with asyncio.TaskGroup() as group:
        for _ in range(frames):
            began = clock.mono_ns()
            group.create_task(watch(journal.append(ORIGIN, PAYLOAD), began))
            await clock.sleep(PACE_S)
    await journal.close()
    return took


def price(folder: Path, frames: int, level: Durability) -> dict[str, float]:
    """What one level costs."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    rate = asyncio.run(journal_rate(folder, frames, level))
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    cuts = statistics.quantiles(asyncio.run(accepted_after(folder, SAMPLE, level)), n=100)
    return {
        "frames_per_s": rate,
        "cpu_us_per_frame": cpu / frames * 1e6,
        "accepted_p50_ms": cuts[49],
        "accepted_p99_ms": cuts[98],
    }


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
    """Medians of all, interleaved."""
    runs: dict[str, list[float]] = {"journal": [], "write": [], "fsync_each": []}
    prices: dict[str, list[dict[str, float]]] = {level.value: [] for level in Durability}
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            runs["journal"].append(asyncio.run(journal_rate(folder, frames)))
            runs["write"].append(write_rate(folder, frames, each=False))
            runs["fsync_each"].append(write_rate(folder, SAMPLE, each=True))
            for level in Durability:
                prices[level.value].append(price(folder, frames, level))
    medians = {name: round(statistics.median(found)) for name, found in runs.items()}
    ratios = {name: round(rate / medians["write"], 3) for name, rate in medians.items()}
    durability = {
        level: {key: round(statistics.median(run[key] for run in found), 3) for key in found[0]}
        for level, found in prices.items()
    }
    return {
        "benchmark": "journal",
        "frames_per_s": medians,
        "ratio_to_write": ratios,
        "durability": durability,
    }


if __name__ == "__main__":
    telemetry.configure("warning")
    print(json.dumps(measure(200_000, 3), indent=2))
