"""The audit of whole runs: nothing is named that is sound, and what a hand changed is named by its frame."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest

from integration.conftest import Faulty, Recorded
from integration.kit import Eager, api, running
from tidewire.runtime.config import Loaded
from tidewire.runtime.reading import Reading


@pytest.fixture(params=["recorded", "faulty"])
def live(request: pytest.FixtureRequest) -> Recorded | Faulty:
    """A run of the product: a recording, or a market with faults and restarts in the middle."""
    return request.getfixturevalue(request.param)


async def test_nothing_is_named_on_sound_data(live: Recorded | Faulty) -> None:
    books = await Reading(live.data, live.configuration).audit({"frames": ["true"]})
    assert (books["difference"], books["in_flight_frames"], books["sound"]) == (0, 0, True)
    assert books["frames"] == []
    assert books["totals"]["stored"] > 5_000


async def test_what_a_hand_changed_is_named_by_its_frame(live: Recorded | Faulty, tmp_path: Path) -> None:
    shutil.copytree(live.data, tmp_path / "data")
    with duckdb.connect(str(tmp_path / "data" / "tidewire.duckdb")) as connection:
        frames = [frame for (frame,) in connection.execute("SELECT frame FROM trade_v1 ORDER BY frame").fetchall()]
        gone, twice, other = frames[100], frames[len(frames) // 2], frames[-1]
        connection.execute(f"DELETE FROM trade_v1 WHERE frame = {gone}")
        connection.execute(f"INSERT INTO trade_v1 SELECT * FROM trade_v1 WHERE frame = {twice}")
        connection.execute(f"UPDATE trade_v1 SET size = 1234 WHERE frame = {other}")
    books = await Reading(tmp_path / "data", live.configuration).audit({"frames": ["true"]})
    named = {(name["what"], name["frame"], name["ordinal"]) for one in books["frames"] for name in one["names"]}
    assert named == {("missing", gone, 0), ("twice", twice, 0), ("changed", other, 0)}
    assert not books["sound"]


async def test_a_running_platform_names_its_own(faulty: Faulty, tmp_path: Path) -> None:
    """While it runs and collects, its journal and store are read beside the writers."""
    shutil.copytree(faulty.data, tmp_path / "data")
    with duckdb.connect(str(tmp_path / "data" / "tidewire.duckdb")) as connection:
        ((frame,),) = connection.execute("SELECT max(frame) FROM trade_v1").fetchall()
        connection.execute(f"DELETE FROM trade_v1 WHERE frame = {frame}")
    still = faulty.configuration
    configuration = Loaded(still.config, [], tmp_path, "test")
    async with running(configuration, Eager()) as platform, api(platform) as client:
        books = (await client.get("/v1/audit", type="trade", frames="differing"))["data"]
    (traced,) = books["frames"]
    assert [(name["what"], name["frame"]) for name in traced["names"]] == [("missing", frame)]
