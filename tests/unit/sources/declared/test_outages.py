"""Gaps of what was asked for and did not come: told once, closed once, also by the next run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidewire.sources.declared.outages import ROUND, TOLD_MAX, WHOLE, Outages
from unit.collect.kit import Noting, Place, place, toy


async def told(here: Place) -> list[dict[str, Any]]:
    await here.journal.drain()
    return [msgspec.json.decode(frame.payload) for frame in here.frames()]


@pytest.mark.parametrize(("recovers", "state"), [(True, "filled"), (False, "unfillable")])
async def test_a_gap_is_told_when_it_begins_and_when_it_is_over(tmp_path: Path, recovers: bool, state: str) -> None:
    async with place(tmp_path) as here:
        outages = Outages(Noting("rows", toy(here)), "ticker", recovers=recovers)
        outages.end("600000.SH,1d")
        assert outages.begin("600000.SH,1d", 5, "no answer")
        assert not outages.begin("600000.SH,1d", 9, "no answer again")
        outages.end("600000.SH,1d")
        outages.end("600000.SH,1d")
        first, last = await told(here)
    assert (first["instrument"], first["record_type"], first["cause"]) == ("600000.SH", "ticker", "total")
    assert (first["state"], first["event_time"], first["detail"]) == ("open", 5, "no answer")
    assert (last["state"], last["event_time"], last["gap_id"]) == (state, 5, first["gap_id"])
    assert last["until_time"] >= first["until_time"] > 5


async def test_the_next_run_closes_what_this_one_told(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        Outages(Noting("rows", toy(here)), "ticker", recovers=True).begin("a", 5, "no answer")
        await here.journal.drain()
    async with place(tmp_path) as here:
        here.context.cursors.load(here.journal)
        outages = Outages(Noting("rows", toy(here)), "ticker", recovers=True)
        assert not outages.begin("a", 9, "no answer again")
        outages.end("a")
        assert [each["state"] for each in await told(here)] == ["open", "filled"]


async def test_what_stays_lost_is_said_so(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        outages = Outages(Noting("rows", toy(here)), "ticker", recovers=True)
        outages.begin("a", 5, "short")
        outages.end("a", lost="three times short")
        outages.begin("fresh", 5, "old", "silence")
        outages.end("fresh")
        states = [(each["state"], each["cause"], each["instrument"]) for each in await told(here)]
    assert states[1::2] == [("unfillable", "total", WHOLE), ("unfillable", "silence", WHOLE)]


async def test_many_gaps_are_one(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        outages = Outages(Noting("rows", toy(here)), "ticker", recovers=True)
        for number in range(TOLD_MAX + 50):
            outages.begin(f"{number:06d}.SZ", 5, "no answer")
        ids = [each["gap_id"] for each in await told(here)]
    assert len(ids) == TOLD_MAX + 1
    assert ids[-1].endswith(f" {ROUND}")
