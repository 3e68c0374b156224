"""A journal replayed into an empty store gives the same rows, whatever the batches, lanes and restarts were."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from integration.conftest import Faulty, Recorded
from integration.kit import replayed, same_rows, tables
from tidewire.runtime.replaying import replay


@pytest.fixture(params=["recorded", "faulty"])
def live(request: pytest.FixtureRequest) -> Recorded | Faulty:
    """A run of the product: a recording, or a market with faults and restarts in the middle."""
    return request.getfixturevalue(request.param)


async def test_by_the_product(live: Recorded | Faulty, tmp_path: Path) -> None:
    done = await replay(live.configuration, live.data, tmp_path / "again", None)
    assert done["difference"] == 0
    assert done["frames"] > 1_000
    same_rows(live.tables, tables(tmp_path / "again"), "live and replayed")


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_cut_at_random(live: Recorded | Faulty, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    most = (60, 400, 20_000)[seed - 1]
    found = await replayed(live.data, tmp_path / "again", live.configuration, cut=lambda: chance.randint(1, most))
    same_rows(live.tables, found, f"live and replayed in steps of 1 to {most} frames, seed {seed}")


@pytest.mark.parametrize("most", [100, 4_096])
async def test_with_lanes(live: Recorded | Faulty, tmp_path: Path, most: int) -> None:
    chance = random.Random(most)
    options = {"lanes": 4, "cut": lambda: chance.randint(1, most)}
    found = await replayed(live.data, tmp_path / "again", live.configuration, **options)
    same_rows(live.tables, found, "live with one lane and replayed with four")


def test_the_faults_left_something_to_compare(faulty: Faulty) -> None:
    """The runs above would prove little without gaps, revisions of gaps, and rows of every type."""
    for name, least in {"trade_v1": 2_000, "quote_v1": 2_000, "kline_v1": 90, "ticker_v1": 10, "gap_v1": 20}.items():
        assert faulty.tables[name].height >= least, name
    assert faulty.tables["gap_v1_revisions"].height >= 10
