"""The audit: it adds up when all is well, and names the difference when it is not."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from tidewire import telemetry
from tidewire.records.batch import Fate, Stream
from tidewire.store.config import StoreConfig
from tidewire.store.duckdb import DuckDBStore
from tidewire.watch.audit import Audit, Line, audit
from unit.runtime.kit import Run, fill, messages, opened


@pytest.fixture
async def filled(tmp_path: Path) -> tuple[Path, str, int]:
    """A store at rest: its directory, its journal and the last frame accepted."""
    async with opened(tmp_path) as (journal, store):
        run = Run(journal, store)
        await run.start()
        await fill(journal, messages(300), run.now)
        await run.drained()
        await run.stop()
        return tmp_path, journal.uuid, journal.accepted


async def books(directory: Path, journal: str = "", accepted: int = 0) -> Audit:
    store = DuckDBStore(str(directory / "tidewire.duckdb"), StoreConfig())
    await store.open()
    try:
        return await audit(store, accepted, journal)
    finally:
        await store.close()


def change(directory: Path, statement: str) -> None:
    with duckdb.connect(str(directory / "tidewire.duckdb")) as connection:
        connection.execute(statement)


async def test_all_is_well(filled: tuple[Path, str, int]) -> None:
    directory, journal, accepted = filled
    found = await books(directory, journal, accepted)
    assert (found.difference, found.in_flight_frames, found.tables) == (0, 0, {})
    totals = found.totals
    assert totals["received"] == sum(count for fate, count in totals.items() if fate != "received")
    assert {"stored", "quarantined", "duplicate", "folded"} <= set(totals)
    # Every frame of this feed comes to one row, but those of instruments (two) and breaks.
    assert totals["received"] == accepted + 1
    assert all(line.difference == 0 for line in found.lines)
    shown = found.as_dict()
    assert shown["difference"] == 0
    assert shown["lines"][0]["difference"] == 0
    assert telemetry.value("tidewire_audit_difference_rows") == 0


async def test_a_row_deleted_behind_its_back_is_named(filled: tuple[Path, str, int]) -> None:
    directory, journal, accepted = filled
    before = await books(directory, journal, accepted)
    stored = sum(line.fates.get("stored", 0) for line in before.lines if line.type == "trade")
    change(directory, "DELETE FROM trade_v1 WHERE frame = (SELECT max(frame) FROM trade_v1)")
    found = await books(directory, journal, accepted)
    assert found.difference == 1
    assert found.tables == {"trade/binance": {"books": stored, "table": stored - 1}}
    assert telemetry.value("tidewire_audit_difference_rows") == 1


async def test_a_row_added_behind_its_back_is_named(filled: tuple[Path, str, int]) -> None:
    directory, journal, accepted = filled
    change(directory, "INSERT INTO quote_v1 SELECT * REPLACE ('nobody' AS source) FROM quote_v1 LIMIT 2")
    found = await books(directory, journal, accepted)
    assert found.difference == 2
    assert found.tables == {"quote/nobody": {"books": 0, "table": 2}}


async def test_frames_that_are_not_stored_are_in_flight(filled: tuple[Path, str, int]) -> None:
    directory, journal, accepted = filled
    assert (await books(directory, journal, accepted + 7)).in_flight_frames == 7
    assert (await books(directory, "another journal", 7)).in_flight_frames == 7
    assert (await books(directory)).in_flight_frames == 0


async def test_an_empty_store() -> None:
    store = DuckDBStore(":memory:", StoreConfig())
    await store.open()
    found = await audit(store)
    await store.close()
    assert (found.difference, found.in_flight_frames, found.lines, found.tables) == (0, 0, [], {})


def test_a_line_that_does_not_add_up() -> None:
    assert Line("s", "trade", "2026-01-05T08:00:00+00:00", 10, {"stored": 7, "duplicate": 1}).difference == 2


class Busy:
    """A store that commits a row between any two looks at it; ``lost`` rows are in the books and in no table."""

    def __init__(self, lost: int = 0) -> None:
        self.rows = 100
        self.lost = lost

    async def fates(self) -> dict[tuple[str, Fate], int]:
        self.rows += 1
        return {("trade", Fate("s", 0, fate)): self.rows for fate in ("received", "stored")}

    async def counts(self) -> dict[tuple[str, str], int]:
        self.rows += 1
        return {("trade", "s"): self.rows - self.lost}

    def positions(self) -> dict[Stream, int]:
        return {}


async def test_a_store_that_is_being_written_to_has_no_difference() -> None:
    assert (await audit(Busy())).difference == 0  # type: ignore[arg-type]
    assert (await audit(Busy(lost=50))).difference == 49  # type: ignore[arg-type]
