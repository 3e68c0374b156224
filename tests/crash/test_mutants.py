"""The product broken on purpose is found out, by the run that the sound product stands: whole processes, killed.

Each rule of the pattern has a mutant in `crash.mutants`; the run is the one of `test_product_kill`, short and aimed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crash.harness import SEED, Plan, run
from crash.mutants import MUTANTS

RUNS = 4

SHORT: dict[str, Any] = {
    "kills": 5,
    "messages": (500, 4_000),
    "sync_ms": 10.0,
    "broken": 0.0,
    "fill": False,
    "look_s": 20.0,
}


@pytest.mark.crash
@pytest.mark.parametrize("name", MUTANTS)
async def test_mutant(tmp_path: Path, name: str, did: Callable[[object], None]) -> None:
    """Where a kill falls is chance, and some mutants show only at some places: each has a few runs to be found in."""
    mutant = MUTANTS[name]
    for seed in range(SEED, SEED + RUNS):
        plan = Plan(**{**SHORT, **mutant.plan, "faults": mutant.faults, "mutants": (name,), "seed": seed})
        (tmp_path / str(seed)).mkdir()
        try:
            await run(tmp_path / str(seed), plan)
        except AssertionError as caught:
            if re.search(mutant.caught_by, str(caught)):
                did(f"{mutant.rule}; caught with seed {seed}: {str(caught)[:120]!r}")
                return
            did(f"{mutant.rule}; seed {seed} ended otherwise: {str(caught)[:120]!r}")
    pytest.fail(f"{name} was not found out in {RUNS} runs: {mutant.rule}")


@pytest.mark.crash
@pytest.mark.parametrize("sound", ["as the mutants of the disk", "as the mutants of bus and store"])
async def test_the_sound_product_stands_the_same(tmp_path: Path, sound: str, did: Callable[[object], None]) -> None:
    if sound == "as the mutants of the disk":
        aimed: dict[str, Any] = {"sync_ms": 200.0, "cut": 0.5, "flip": 0.5, "segment_bytes": 1 << 18, "broken": 0.3}
    else:
        aimed = {"faults": ("replies_lost", "bus_loses", "bus_repeats", "queues_short"), "fill": True}
    did(await run(tmp_path, Plan(**{**SHORT, **aimed})))
