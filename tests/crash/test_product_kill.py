"""The product is killed with SIGKILL again and again under load, and the power cut; what it accepted is stored once.

What is on disk is known from the syncs themselves (`crash.disk`), what must be stored from the journal's bytes and the
ledger of the sandbox (`crash.truth`). ``SCALE`` multiplies kills and rows, ``SEED`` chooses their moments, ``MUTANT``
names a mutant of `crash.mutants` that the run must find.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crash.harness import SCALE, SEED, Plan, run

KILLS = 100 * SCALE
ROWS = 1_000_000 * SCALE


@pytest.mark.crash
async def test_kill(tmp_path: Path, did: Callable[[object], None]) -> None:
    did(f"SEED={SEED} SCALE={SCALE}")
    figures = await run(tmp_path, Plan(KILLS, frames=ROWS * 17 // 20, patience_s=300.0 * SCALE))
    did(figures)
    assert figures.kills >= KILLS
    assert figures.rows >= ROWS
    assert figures.cuts >= KILLS // 2
    assert figures.torn >= KILLS // 10
    assert figures.flipped >= KILLS // 10
    assert figures.vanished >= SCALE
    assert figures.broken >= SCALE
    assert figures.early >= KILLS // 20
