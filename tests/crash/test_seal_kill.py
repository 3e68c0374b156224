"""`kill -9` at every step of sealing: afterwards each row is there once, whatever was done and whatever was left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conformance.store_kit import Feed, everything, trade
from tidewire.journal.objects import Directory
from tidewire.records.market import Trade
from tidewire.store._seal import Sealer
from tidewire.store.config import ColdConfig, Tier
from tidewire.store.duckdb import DuckDBStore

ROWS = 60
EAGER = ColdConfig(after_s=-1e9, unit_rows=1_000)

STEPS = [f"{what} {when}" for what in ("put_file", "put", "_commit") for when in ("before", "after")]
MERGING = [*STEPS, "delete before", "delete after"]


class Dying:
    """Kills this process before or after the first call of a method."""

    def __init__(self, step: str) -> None:
        self.what, _, self.when = step.partition(" ")

    def wrap(self, method: Any) -> Any:
        def call(*given: Any) -> Any:
            if self.when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            method(*given)
            os.kill(os.getpid(), signal.SIGKILL)

        return call


def store_at(directory: Path) -> DuckDBStore:
    return DuckDBStore(directory / "t.duckdb", cold=Tier(Directory(directory / "objects"), directory / "work", EAGER))


async def fill(directory: Path, *, merging: bool) -> None:
    """Rows to seal; when merging, half of them are sealed already."""
    store, feed = store_at(directory), Feed()
    await store.open()
    half = ROWS // 2
    await store.write([feed.batch(Trade.type, [trade(n) for n in range(half)])])
    if merging:
        await store.seal()
    await store.write([feed.batch(Trade.type, [trade(n) for n in range(half, ROWS)])])
    await store.close()


async def seal(directory: Path, step: str) -> None:
    """In a process of its own, which does not survive the step."""
    dying = Dying(step)
    where = Sealer if dying.what == "_commit" else Directory
    setattr(where, dying.what, dying.wrap(getattr(where, dying.what)))
    store = store_at(directory)
    await store.open()
    await store.seal()
    if dying.what == "delete":
        await store.close()
        store = store_at(directory)
        await store.open()
        await store.seal()


async def check(directory: Path) -> None:
    """Every row once; then sealing goes on, and nothing is left but what is listed."""
    store = store_at(directory)
    await store.open()
    for _ in range(2):
        found = await everything(store, Trade.type)
        assert found["trade_id"].cast(int).to_list() == list(range(ROWS))
        assert sum((await store.counts()).values()) == ROWS
        assert (await store.marks(Trade.type))["order"].to_list() == [ROWS - 1]
        await store.seal()
    (again,) = await store.write([Feed(reached={"trade": 20}).batch(Trade.type, [trade(n) for n in range(ROWS)])])
    assert (again.stored, again.duplicates) == (0, ROWS)
    await store.close()
    store = store_at(directory)
    await store.open()
    await store.seal()
    assert len(Directory(directory / "objects").list("cold")) == 2  # the file and its manifest
    await store.close()


@pytest.mark.parametrize(("merging", "step"), [*((False, step) for step in STEPS), *((True, step) for step in MERGING)])
def test_a_kill_loses_and_repeats_nothing(merging: bool, step: str, tmp_path: Path) -> None:
    asyncio.run(fill(tmp_path, merging=merging))
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path), step],
        check=False,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == -signal.SIGKILL
    asyncio.run(check(tmp_path))


if __name__ == "__main__":
    asyncio.run(seal(Path(sys.argv[1]), sys.argv[2]))
