"""The audit: it adds up when all is well, and shows the difference when it is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from tidewire.records.batch import Batch, fates_of
from tidewire.records.record import RecordType, types
from tidewire.store import _write
from tidewire.store.config import StoreConfig
from tidewire.store.duckdb import DuckDBStore
from tidewire.store.protocol import Written
from tidewire.watch.audit import Accepted, audit
from unit.watch.kit import Filled, filled, named, places


@pytest.fixture
async def data(tmp_path: Path) -> Filled:
    return await filled(tmp_path)


async def test_all_is_well(data: Filled) -> None:
    found = await data.audit("none")
    assert (found.difference, found.in_flight_frames, found.frames, found.sound) == (0, 0, None, True)
    totals = found.totals
    assert totals["received"] == sum(count for fate, count in totals.items() if fate != "received")
    assert {"stored", "quarantined", "duplicate", "folded"} <= set(totals)
    # Every frame of this feed comes to one row, but those of instruments (two).
    assert totals["received"] == data.accepted + 1
    shown = found.as_dict()
    assert (shown["difference"], shown["sound"], shown["frames"]) == (0, True, None)
    assert shown["in_flight"] == dict.fromkeys(types(), 0)
    line = shown["lines"][-1]
    assert (line["type"], line["booked"], line["difference"]) == ("trade", line["table"], 0)


async def test_a_row_deleted_behind_its_back_is_named(data: Filled) -> None:
    ((frame, trade_id),) = data.ask("SELECT frame, trade_id FROM trade_v1 ORDER BY frame DESC LIMIT 1")
    data.change(f"DELETE FROM trade_v1 WHERE frame = {frame}")
    found = await data.audit("differing")
    assert (found.difference, found.sound) == (1, False)
    (line,) = (line for line in found.lines if line.difference)
    assert (line.spot.type, line.booked) == ("trade", (line.table or 0) + 1)
    (name,) = named(found)
    assert (name.what, name.journal, name.frame, name.ordinal) == ("missing", data.journal, frame, 0)
    assert name.key == {"instrument": "BTC-USDT.BINANCE", "trade_id": trade_id}


async def test_a_row_added_behind_its_back_is_named(data: Filled) -> None:
    data.change(f"INSERT INTO quote_v1 SELECT * REPLACE ({data.accepted + 7} AS frame) FROM quote_v1 LIMIT 2")
    found = await data.audit("differing")
    assert found.difference == 2
    assert [(name.what, name.frame, name.ordinal) for name in named(found)] == [("foreign", data.accepted + 7, 0)] * 2


async def test_rows_of_a_source_that_sent_nothing_are_shown(data: Filled) -> None:
    data.change("INSERT INTO quote_v1 SELECT * REPLACE ('nobody' AS source) FROM quote_v1 LIMIT 2")
    copies = data.ask("SELECT sequence::VARCHAR FROM quote_v1 WHERE source = 'nobody' ORDER BY frame")
    found = await data.audit("differing")
    (line,) = (line for line in found.lines if line.difference)
    assert (line.spot.source, line.received, line.booked, line.table) == ("nobody", 0, 0, 2)
    assert [(name.what, name.key["sequence"]) for name in named(found)] == [("foreign", row[0]) for row in copies]


async def test_sums_that_agree_do_not_hide_a_row_that_was_exchanged(data: Filled) -> None:
    """One row less and another more: no sum shows it, reading all frames does."""
    ((first,), (second,)) = data.ask("SELECT frame FROM trade_v1 ORDER BY frame LIMIT 2")
    data.change(
        f"INSERT INTO trade_v1 SELECT * FROM trade_v1 WHERE frame = {second}",
        f"DELETE FROM trade_v1 WHERE frame = {first}",
    )
    found = await data.audit("differing")
    assert (found.difference, found.frames, found.sound) == (0, [], True)
    found = await data.audit("all")
    assert (found.difference, found.sound) == (0, False)
    assert places(found) == {("missing", "trade", first, 0), ("twice", "trade", second, 0)}


async def test_frames_that_are_not_stored_are_in_flight(data: Filled) -> None:
    async def flying(journal: str, last: int) -> dict[str, int]:
        store = DuckDBStore(str(data.directory / "tidewire.duckdb"), StoreConfig())
        await store.open()
        found = await audit(store, Accepted(journal, last))
        await store.close()
        assert found.in_flight_frames == max(found.in_flight.values())
        return dict(found.in_flight)

    assert await flying(data.journal, data.accepted + 7) == dict.fromkeys(types(), 7)
    assert await flying("another journal", 7) == dict.fromkeys(types(), 7)
    assert await flying("", 0) == dict.fromkeys(types(), 0)
    data.change("UPDATE _positions SET last = last - 3 WHERE type = 'quote'")
    assert await flying(data.journal, data.accepted) == {name: 3 * (name == "quote") for name in types()}


async def test_an_empty_store() -> None:
    store = DuckDBStore(":memory:", StoreConfig())
    await store.open()
    found = await audit(store)
    await store.close()
    assert (found.difference, found.in_flight_frames, found.lines, found.sound) == (0, 0, [], True)


# -- mutants: a sink that breaks the rule of one fate for each row ----------------------------------------------------


class StoresWithoutFate(_write.Writer):
    """The first trade of each commit is stored and not booked."""

    def _account(
        self, kind: RecordType, part: _write._Part, verdict: pl.Series | None, outcome: _write._Outcome
    ) -> None:
        before = Counter(outcome.fates)
        super()._account(kind, part, verdict, outcome)
        for name, count in outcome.fates.items():
            if name[0] == "trade" and name[1].fate == "stored" and count > before[name]:
                outcome.fates[name] -= 1


class CountsWithoutStoring(_write.Writer):
    """The first trade of each commit is booked and not stored."""

    def _append(self, kind: RecordType, table: str, rows: pl.DataFrame) -> None:
        super()._append(kind, table, rows[1:] if kind.name == "trade" else rows)


class ForgetsRows(_write.Writer):
    """The first trade of each batch is neither stored nor booked."""

    def write(self, batches: Sequence[Batch]) -> list[Written]:
        return super().write([_without_first(batch) if batch.type.name == "trade" else batch for batch in batches])


def _without_first(batch: Batch) -> Batch:
    fates = Counter(batch.fates)
    fates.subtract(fates_of(batch.rows[:1], "received"))
    return batch.with_(rows=batch.rows[1:], fates=fates)


@pytest.mark.parametrize("mutant", [StoresWithoutFate, CountsWithoutStoring, ForgetsRows])
async def test_mutants_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: type[_write.Writer]) -> None:
    monkeypatch.setattr("tidewire.store.duckdb.Writer", mutant)
    data = await filled(tmp_path, each=120)
    monkeypatch.undo()
    found = await data.audit("all")
    assert not found.sound
    traced = {one.spot.type: one for one in found.frames or ()}["trade"]
    if mutant is ForgetsRows:
        # Books and tables agree with each other; the frames do not agree with them.
        assert found.difference == 0
    else:
        assert found.difference >= 1
    if mutant is StoresWithoutFate:
        assert (traced.names, set(traced.books)) == ([], {"stored"})
        lacking = traced.books["stored"]["frames"] - traced.books["stored"]["books"]
        # Received without a fate, and in the table without being booked.
        assert found.difference == 2 * lacking
    else:
        assert {name.what for name in traced.names} == {"missing"}
        have = {row[0] for row in data.ask("SELECT frame FROM trade_v1")}
        assert not have & {name.frame for name in traced.names}
