"""Everything a venue, a network, a disk and a clock do wrong, one after the other, to one process of the product.

A minute in CI; ``SCALE=10`` makes it ten. At the end nothing is unaccounted for: every hole is a gap that says why,
what the venue still has was asked for again, nothing is in flight, and the memory has not grown with it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import polars as pl
import pytest

from crash.harness import SCALE, Life, Plan, Product, client, stage
from crash.truth import SYMBOLS, Stored
from integration.kit import until
from tidewire.sandbox.config import FailRest, Faults

SCENE_S = 7.0 * SCALE
FULL_S = (2.0, 2.0 + SCENE_S / 2)
"""When the disk is full, in seconds after the start."""
JUMPS = [(2 * SCENE_S, 3_600.0), (2.5 * SCENE_S, -7_200.0), (3 * SCENE_S, 3_600.0)]
"""When the wall clock is set, and by how much."""
MOST_MIB = 900

Scene = Callable[[Product], Awaitable[None]]


async def repeats_and_disorder(product: Product) -> None:
    """Messages twice, messages in each other's place; meanwhile the disk is full for a while."""
    product.sandbox.faults = Faults(duplicate=0.05, reorder=0.05)
    await asyncio.sleep(SCENE_S)


async def halves(product: Product) -> None:
    """Connections that end inside a message; meanwhile the clock is set."""
    product.sandbox.faults = Faults(halve_every=2_500)
    await asyncio.sleep(2 * SCENE_S)


async def silence(product: Product) -> None:
    """Connections that stay open and bring nothing."""
    product.sandbox.faults = Faults(silence_s=-1)
    await asyncio.sleep(SCENE_S)


async def absence(product: Product) -> None:
    """Nobody is there, neither feed nor REST."""
    product.sandbox.faults = Faults(away_s=-1)
    await asyncio.sleep(SCENE_S)


async def refusals(product: Product) -> None:
    """A REST side that says too many, banned, broken, while there are gaps to fill."""
    for status, times in ((429, 2), (418, 1), (503, 3), (500, 3)):
        product.sandbox.faults = Faults(
            disconnect_every=2_000, drop=0.01, only=("@trade",), fail_rest=FailRest(status, times), slow_body=200_000
        )
        await asyncio.sleep(SCENE_S / 4)


SCENES: list[Scene] = [repeats_and_disorder, halves, silence, absence, refusals]


class Watched:
    """The most memory a process ever had, in MiB."""

    def __init__(self) -> None:
        self.most = 0.0

    @asynccontextmanager
    async def during(self, life: Life) -> AsyncGenerator[None]:
        task = asyncio.create_task(self._look(life))
        try:
            yield
        finally:
            task.cancel()

    async def _look(self, life: Life) -> None:
        statm = Path(f"/proc/{life.pid}/statm")
        while statm.exists():
            words = statm.read_text().split()
            self.most = max(self.most, int(words[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
            await asyncio.sleep(0.2)


@pytest.mark.crash
async def test_faults(tmp_path: Path, did: Callable[[object], None]) -> None:
    watched = Watched()
    plan = Plan(0, rate=1_500.0, faults=("impatient",), sync_ms=5.0, patience_s=120.0 + 60 * SCALE)
    async with (
        stage(tmp_path, plan) as product,
        client() as session,
        product.life(full=list(FULL_S), skew=JUMPS) as life,
        watched.during(life),
    ):
        await product.flowing(life, 1_000)
        for scene in SCENES:
            await scene(product)
            product.runs(life)
            product.sandbox.faults = Faults()
            # The longer nobody answered, the longer a client waits for its next attempt, up to a minute.
            await product.flowing(life, 500, within_s=max(60.0, 2 * SCENE_S))
        await until(lambda: product.look(session, life), "the API shows trades and quotes", 60)
        await product.finish(session, life)
    await product.reckon()
    figures, gaps = product.figures, Stored(product.data).gaps()
    causes = (
        gaps.filter(pl.col("state") != "filled").group_by("record_type", "cause").len().sort("record_type", "cause")
    )
    did(
        f"{len(SCENES)} scenes of {SCENE_S:.0f} s in {figures.seconds:.0f} s: {figures.frames:,} frames, "
        f"{figures.rows:,} trades, quotes and bars, {figures.trades.missing:,} of {figures.trades.numbered:,} trades "
        f"missing at the end; gaps by cause {causes.rows()}; at most {watched.most:.0f} MiB"
    )
    quotes = gaps.filter(record_type="quote")
    assert set(quotes["cause"]) == {"silence", "disconnect"}
    for instrument in SYMBOLS.values():
        mine = quotes.filter(instrument=instrument)
        assert mine.filter(cause="silence").height >= 1
        assert mine.filter(cause="disconnect").height >= 4, "halves, absence and refusals cut the connection"
    trades = gaps.filter(record_type="trade")
    assert set(trades["cause"]) == {"sequence"}
    assert trades.filter(state="filled").height >= 3 * len(SYMBOLS)
    log = (tmp_path / "errors.log").read_text()
    assert "full" in log, "the disk was never full"
    assert watched.most < MOST_MIB
