"""The books beside the tables: hour by hour, within a scope, while the store goes on writing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tidewire.records.batch import HOUR_US, Fate
from tidewire.watch.audit import audit
from tidewire.watch.books import Line, Scope, Spot, lines
from unit.watch.kit import Filled, filled

HOUR = timedelta(hours=1)
START = datetime(2024, 8, 8, 23, tzinfo=UTC)
SPOT = Spot("trade", "s", 0)


@pytest.fixture
async def data(tmp_path: Path) -> Filled:
    return await filled(tmp_path, hours=2, each=120)


def spots(found: Any) -> set[tuple[str, int]]:
    return {(line.spot.type, line.spot.hour_us) for line in found.lines}


def test_what_makes_a_difference() -> None:
    assert Line(SPOT, 10, {"stored": 7, "duplicate": 3}, 7, 7).difference == 0
    assert Line(SPOT, 10, {"stored": 7, "duplicate": 1}, 7, 7).difference == 2
    assert Line(SPOT, 7, {"stored": 7}, 7, 6).difference == 1
    assert Line(SPOT, 6, {"stored": 7}, 7, 8).difference == 2
    assert Line(SPOT, 7, {"stored": 7}).difference == 0


async def test_hours_do_not_cancel_out(data: Filled) -> None:
    """A row less in one hour and one more in the next are two differences, though the sums agree."""
    first = "(SELECT min(frame) FROM trade_v1)"
    data.change(f"UPDATE trade_v1 SET ingested_at = ingested_at + INTERVAL 1 HOUR WHERE frame = {first}")
    found = await data.audit("none")
    assert found.difference == 2
    wrong = [line for line in found.lines if line.difference]
    assert [line.spot.type for line in wrong] == ["trade", "trade"]
    assert wrong[0].spot.hour + HOUR == wrong[1].spot.hour
    assert [(line.table or 0) - (line.booked or 0) for line in wrong] == [-1, 1]


async def test_quarantined_rows_that_are_gone_are_a_difference(data: Filled) -> None:
    data.change("DELETE FROM quarantined_v1 WHERE frame = (SELECT min(frame) FROM quarantined_v1)")
    found = await data.audit("none")
    assert found.difference == 1
    assert [line.spot.type for line in found.lines if line.difference] == ["quarantined"]


async def test_a_scope_leaves_out_what_is_not_asked_for(data: Filled) -> None:
    everything = await data.audit("none")
    hours = sorted({line.spot.hour for line in everything.lines})
    assert len(hours) == 2
    trades = await data.audit("none", Scope(types=("trade", "quote")))
    assert {name for name, _ in spots(trades)} == {"trade", "quote"}
    assert not (await data.audit("none", Scope(sources=("nobody",)))).lines
    assert spots(await data.audit("none", Scope(sources=("binance",)))) == spots(everything)
    # Hours that the range touches are shown whole.
    late = await data.audit("none", Scope(start=hours[1] + timedelta(minutes=59)))
    assert late.lines == [line for line in everything.lines if line.spot.hour == hours[1]]
    early = await data.audit("none", Scope(end=hours[0] + timedelta(microseconds=1)))
    assert early.lines == [line for line in everything.lines if line.spot.hour == hours[0]]
    assert not (await data.audit("none", Scope(end=hours[0]))).lines


@pytest.mark.parametrize("minutes", [0, 1, 59, 60])
def test_bounds_are_moved_out_to_whole_hours(minutes: int) -> None:
    moment = START + timedelta(minutes=minutes)
    start, end = Scope(start=moment, end=moment).hours
    assert start == (START if minutes < 60 else START + HOUR)
    assert end == (START if not minutes else START + HOUR)
    assert Scope().hours == (None, None)


class Busy:
    """A store that commits a row between any two looks at it; ``lost`` rows are in the books and in no table."""

    def __init__(self, lost: int = 0) -> None:
        self.rows = 100
        self.lost = lost
        self.looks = 0

    async def fates(self) -> dict[tuple[str, Fate], int]:
        self.rows += 1
        self.looks += 1
        return {("trade", Fate("s", HOUR_US, fate)): self.rows for fate in ("received", "stored")}

    async def counts(self, *_: object) -> dict[tuple[str, str, int], int]:
        self.rows += 1
        return {("trade", "s", HOUR_US): self.rows - self.lost}

    def positions(self) -> dict[Any, int]:
        return {}


async def test_a_store_that_is_being_written_to_has_no_difference() -> None:
    assert (await audit(Busy())).difference == 0  # type: ignore[arg-type]
    busy = Busy(lost=50)
    assert (await audit(busy)).difference == 49  # type: ignore[arg-type]
    assert busy.looks == 6


class Caught:
    """A store whose commit ended between the look at the tables and the books, once."""

    def __init__(self) -> None:
        self.looks = 0

    async def fates(self) -> dict[tuple[str, Fate], int]:
        return {("trade", Fate("s", HOUR_US, fate)): 5 for fate in ("received", "stored")}

    async def counts(self, *_: object) -> dict[tuple[str, str, int], int]:
        self.looks += 1
        return {("trade", "s", HOUR_US): 5 if self.looks > 1 else 4}


async def test_a_difference_is_believed_only_if_it_stays() -> None:
    caught = Caught()
    assert [line.difference for line in await lines(caught)] == [0]  # type: ignore[arg-type]
    assert caught.looks == 2
