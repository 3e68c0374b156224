"""Naming what differs: exactly what was tampered with is named, and nothing on sound data."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidewire.journal import Frame, JournalReader
from tidewire.records.market import Quote, Trade
from tidewire.runtime.auditing import assembling
from tidewire.sources.binance import BinanceParser
from tidewire.watch import frames as reading
from tidewire.watch import trace
from tidewire.watch.audit import Accepted, audit
from tidewire.watch.books import EVERYTHING, Scope
from tidewire.watch.trace import Evidence
from unit.runtime.kit import Run, fill, messages, opened
from unit.watch.kit import Filled, filled, named, places

Place = tuple[str, str, int, int | None]
HOURS = 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """Three hours with repeats, revisions, forming bars, quarantined rows, unreadable frames and breaks."""
    return asyncio.run(filled(tmp_path_factory.mktemp("whole"), HOURS, 160))


@pytest.fixture
def sound(whole: Filled, tmp_path: Path) -> Filled:
    """A copy that may be changed."""
    return copied(whole, tmp_path / "data")


def copied(whole: Filled, to: Path) -> Filled:
    shutil.copytree(whole.directory, to)
    return Filled(to, whole.journal, whole.accepted)


@pytest.fixture(params=[8_192, 40], ids=lambda step: f"steps of {step}")
def step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many frames are looked at together: what is named must not depend on it."""
    monkeypatch.setattr(reading, "STEP_FRAMES", request.param)
    return request.param


async def test_nothing_is_named_on_sound_data(sound: Filled, step: int) -> None:
    found = await sound.audit()
    assert (found.difference, found.frames, found.sound) == (0, [], True)
    assert len({line.spot.hour_us for line in found.lines}) == HOURS
    totals = found.totals
    assert {"stored", "quarantined", "duplicate", "folded"} <= set(totals)
    ((revisions,),) = sound.ask("SELECT count(*) FROM kline_v1_revisions")
    assert isinstance(revisions, int)
    assert revisions >= 10


# -- tampering ------------------------------------------------------------------------------------------------------

VALUES = {"trade": ("price", "size", "trade_id"), "quote": ("bid_size", "ask_price"), "kline": ("close", "volume")}
NOWHERE = 60_000
"""The id of no journal."""


@dataclass
class Tampering:
    """Statements that change a store, and what the audit has to name because of them."""

    statements: list[str] = field(default_factory=list)
    expected: set[Place] = field(default_factory=set)

    def do(self, deed: str, kind: str, table: str, row: tuple[int, int, int], chance: random.Random) -> None:
        rowid, frame, ordinal = row
        where = f"FROM {table} WHERE rowid = {rowid}"
        elsewhere = 1_000_000 + rowid
        if deed == "delete":
            self.statements.append(f"DELETE {where}")
            self.expected.add(("missing", kind, frame, ordinal))
        elif deed == "change":
            column = chance.choice(VALUES[kind])
            value = f"'x{rowid}'" if column == "trade_id" else "7.125"
            self.statements.append(f"UPDATE {table} SET {column} = {value} WHERE rowid = {rowid}")
            self.expected.add(("changed", kind, frame, ordinal))
        elif deed == "copy":
            self.statements.append(f"INSERT INTO {table} SELECT * {where}")
            self.expected.add(("twice", kind, frame, ordinal))
        elif deed == "add":
            self.statements.append(f"INSERT INTO {table} SELECT * REPLACE ({elsewhere} AS frame) {where}")
            self.expected.add(("foreign", kind, elsewhere, ordinal))
        elif deed == "move":
            self.statements.append(f"UPDATE {table} SET frame = {elsewhere} WHERE rowid = {rowid}")
            self.expected |= {("foreign", kind, elsewhere, ordinal), ("missing", kind, frame, ordinal)}
        elif deed == "shift":
            self.statements.append(f"UPDATE {table} SET ordinal = 9 WHERE rowid = {rowid}")
            self.expected |= {("foreign", kind, frame, 9), ("missing", kind, frame, ordinal)}
        elif deed == "journal":
            self.statements.append(f"INSERT INTO {table} SELECT * REPLACE ({NOWHERE} AS _journal) {where}")
            self.expected.add(("foreign", kind, frame, ordinal))
        elif deed == "late":
            self.statements.append(
                f"UPDATE {table} SET ingested_at = ingested_at + INTERVAL 1 HOUR WHERE rowid = {rowid}"
            )
            self.expected.add(("changed", kind, frame, ordinal))


DEEDS = ("delete", "change", "copy", "add", "move", "shift", "journal", "late")


def tampered(data: Filled, seed: int) -> Tampering:
    """Random deeds on random rows, each row at most once."""
    chance = random.Random(seed)
    done = Tampering()
    for kind in VALUES:
        for table in (f"{kind}_v1", f"{kind}_v1_revisions"):
            rows = data.ask(f"SELECT rowid, frame, ordinal FROM {table} ORDER BY rowid")
            for row in chance.sample(rows, min(len(rows), chance.randrange(4))):
                done.do(chance.choice(DEEDS), kind, table, row, chance)  # type: ignore[arg-type]
    return done


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), step=st.sampled_from([8_192, 150]))
async def test_exactly_what_was_tampered_with_is_named(
    whole: Filled, tmp_path_factory: pytest.TempPathFactory, seed: int, step: int
) -> None:
    data = copied(whole, tmp_path_factory.mktemp("tampered") / "data")
    done = tampered(data, seed)
    data.change(*done.statements)
    before, reading.STEP_FRAMES = reading.STEP_FRAMES, step
    try:
        found = await data.audit()
    finally:
        reading.STEP_FRAMES = before
        shutil.rmtree(data.directory)
    assert places(found) == done.expected
    assert found.sound == (not done.expected)


async def test_repeats_of_rows_that_were_changed_are_not_missing(sound: Filled, step: int) -> None:
    """A repeat says again what its first said, not what the table says now."""
    sound.change("UPDATE kline_v1 SET close = 7.125")
    rows = sound.ask("SELECT frame, ordinal FROM kline_v1")
    assert places(await sound.audit()) == {("changed", "kline", *row) for row in rows}  # type: ignore[misc]


async def test_a_row_that_was_moved_is_no_first_for_its_repeats(sound: Filled, step: int) -> None:
    """What stands under a frame it is not from is no proof that anything was said."""
    ((frame,),) = sound.ask("SELECT max(frame) FROM kline_v1")
    sound.change(f"UPDATE kline_v1 SET frame = 3, ordinal = 5 WHERE frame = {frame}")
    assert places(await sound.audit()) == {("foreign", "kline", 3, 5), ("missing", "kline", frame, 0)}


# -- what belongs to no row of a table of its own --------------------------------------------------------------------


async def test_quarantined_rows_are_looked_at_too(sound: Filled, step: int) -> None:
    rows = sound.ask("SELECT frame, record_type FROM quarantined_v1 ORDER BY frame")
    whole_frame = next(frame for frame, kind in rows if kind == "frame")
    row = next(frame for frame, kind in rows if kind == "trade")
    copy = rows[-1][0]
    sound.change(
        f"DELETE FROM quarantined_v1 WHERE frame IN ({whole_frame}, {row})",
        f"INSERT INTO quarantined_v1 SELECT * FROM quarantined_v1 WHERE frame = {copy}",
        f"INSERT INTO quarantined_v1 SELECT * REPLACE (3 AS row) FROM quarantined_v1 WHERE frame = {copy} LIMIT 1",
    )
    assert places(await sound.audit()) == {
        ("missing", "quarantined", whole_frame, 0),
        ("missing", "quarantined", row, 0),
        ("twice", "quarantined", copy, 0),
        ("foreign", "quarantined", copy, 0),
    }


async def test_a_quarantined_row_has_no_business_in_the_table(sound: Filled) -> None:
    ((frame,),) = sound.ask("SELECT min(frame) FROM quarantined_v1 WHERE record_type = 'trade'")
    same = f"SELECT * REPLACE ({frame} AS frame) FROM trade_v1 LIMIT 1"
    sound.change(f"INSERT INTO trade_v1 {same}")
    (name,) = named(await sound.audit())
    assert (name.what, name.frame) == ("changed", frame)


async def test_gaps_that_a_break_left_are_looked_at_too(sound: Filled, step: int) -> None:
    ((frame, ordinal),) = sound.ask("SELECT frame, ordinal FROM gap_v1 WHERE cause = 'disconnect' LIMIT 1")
    sound.change(f"DELETE FROM gap_v1 WHERE frame = {frame} AND ordinal = {ordinal}")
    assert places(await sound.audit()) == {("missing", "gap", frame, ordinal)}


async def test_books_that_count_otherwise_than_the_frames(sound: Filled) -> None:
    sound.change(
        "UPDATE _fates SET n = n - 1 WHERE type = 'trade' AND fate IN ('duplicate', 'received')",
        "UPDATE _fates SET n = n + 1 WHERE type = 'kline' AND fate = 'folded'",
    )
    found = await sound.audit()
    assert not named(found)
    assert [one.spot.type for one in found.frames or ()] == ["kline", "trade"] * HOURS
    kline, trade = (found.frames or ())[:2]
    assert {fate: both["books"] - both["frames"] for fate, both in kline.books.items()} == {"folded": 1}
    assert {fate: both["books"] - both["frames"] for fate, both in trade.books.items()} == {
        "duplicate": -1,
        "received": -1,
    }


async def test_frames_without_fate_are_named(sound: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser that passes over frames without a word: nothing is booked, so no sum can show it."""
    ((first,), (second,)) = sound.ask("SELECT frame FROM quote_v1 ORDER BY frame LIMIT 2")
    parse = BinanceParser.parse
    monkeypatch.setattr(
        BinanceParser,
        "parse",
        lambda self, frames: parse(self, [frame for frame in frames if frame.sequence not in {first, second}]),
    )
    found = places(await sound.audit())
    # By this parser the rows that are stored come from no frame.
    assert found == {
        (what, kind, frame, place)
        for frame in (first, second)
        for what, kind, place in (("no_fate", "quarantined", None), ("foreign", "quote", 0))
    }


async def test_a_bounded_number_of_names_and_how_many_more(sound: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "NAMES", 20)
    sound.change("DELETE FROM trade_v1")
    found = await sound.audit("differing")
    assert found.difference == sum(line.booked or 0 for line in found.lines if line.spot.type == "trade")
    for traced in found.frames or ():
        assert traced.spot.type == "trade"
        assert len(traced.names) == 20
        shown = traced.as_dict()
        assert shown["more"] == shown["counts"]["missing"] - 20


async def test_rules_that_became_stricter_name_nothing(sound: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was stored under the rules of its time is where it belongs; so is what was quarantined."""
    check = Quote.type.check
    monkeypatch.setattr(Quote.type, "check", lambda rows: check(rows) + rows["frame"].cast(pl.UInt64) % 2)
    assert (await sound.audit()).sound
    monkeypatch.setattr(Trade.type, "check", lambda rows: rows["frame"].cast(pl.UInt64) * 0)
    assert (await sound.audit()).sound


# -- frames that are not there ---------------------------------------------------------------------------------------


class Trimmed:
    """A journal whose frames before ``first`` are gone."""

    def __init__(self, directory: Path, first: int) -> None:
        self._reader = JournalReader(directory / "journal")
        self._first = first
        self.uuid = self._reader.uuid

    def scan(self, *, after: int = 0, **bounds: Any) -> Iterator[Frame]:
        return self._reader.scan(after=max(after, self._first - 1), **bounds)


async def test_frames_that_are_gone_are_not_guessed_about(sound: Filled) -> None:
    ((hour,),) = sound.ask("SELECT max(hour_us) FROM _fates")
    ((last,),) = sound.ask(f"SELECT min(frame) - 1 FROM trade_v1 WHERE epoch_us(ingested_at) >= {hour}")
    assert isinstance(last, int)
    gone = last // 2
    frames = [row[0] for row in sound.ask("SELECT frame FROM trade_v1 ORDER BY frame")]
    before, after = frames[3], next(frame for frame in frames if frame > gone + 20)  # type: ignore[operator]
    sound.change(f"DELETE FROM trade_v1 WHERE frame IN ({before}, {after})")
    found = await sound.audit(journals=[Trimmed(sound.directory, gone)])
    assert places(found) == {("missing", "trade", after, 0)}, "what is there is looked at"
    assert {one.spot.hour_us for one in found.frames or ()} == {hour - 3_600_000_000}  # type: ignore[operator]
    for traced in found.frames or ():
        assert traced.unread == [f"frames of this hour before {gone:,} are not at hand"]
        assert not traced.books
    found = await sound.audit("differing", journals=[])
    (traced,) = found.frames or ()
    assert (traced.spot.type, traced.names, traced.unread) == ("trade", [], ["no frame of this hour is at hand"])
    assert found.difference == 2


async def test_a_segment_that_is_damaged_is_told(sound: Filled) -> None:
    (segment,) = (sound.directory / "journal").glob("*.seg")
    reader = JournalReader(sound.directory / "journal")
    damaged = bytearray(segment.read_bytes())
    damaged[5_000] ^= 0xFF
    segment.write_bytes(damaged)
    found = await sound.audit(journals=[reader])
    assert not named(found)
    assert all("cannot be read" in traced.unread[0] for traced in found.frames or ())
    assert found.frames


async def test_rows_of_another_journal_are_told(sound: Filled) -> None:
    sound.change(
        "INSERT INTO _journals VALUES (7, 'an-old-one', FALSE)",
        "INSERT INTO trade_v1 SELECT * REPLACE (7::USMALLINT AS _journal, 'x' AS trade_id) FROM trade_v1 LIMIT 2",
    )
    found = await sound.audit("differing")
    (traced,) = found.frames or ()
    assert not traced.names
    assert traced.unread == ["2 rows are of journal an-old-one, which is not at hand"]


async def test_frames_in_flight_are_none_of_its_business(sound: Filled) -> None:
    """The journal has frames the store has not, as it is while a platform runs."""
    sound.change(
        "DELETE FROM trade_v1 WHERE frame > 250",
        "DELETE FROM trade_v1_revisions WHERE frame > 250",
        "UPDATE _positions SET last = 250 WHERE type = 'trade'",
    )
    assert not named(await sound.audit(scope=Scope(types=("trade",))))


@pytest.mark.parametrize("step", [8_192, 40], indirect=True)
async def test_lanes_change_nothing(tmp_path: Path, step: int) -> None:
    data = await filled(tmp_path, each=160, lanes=3)
    found = await data.audit()
    assert (found.difference, found.frames, found.sound) == (0, [], True)
    data.change("DELETE FROM kline_v1 WHERE frame = (SELECT min(frame) FROM kline_v1)")
    assert [name.what for name in named(await data.audit())] == ["missing"]


async def test_it_tells_how_far_it_is(sound: Filled) -> None:
    heard: list[tuple[int, int]] = []
    await sound.audit(tell=lambda done, of: heard.append((done, of)))
    assert heard == [(done, HOURS) for done in range(HOURS + 1)]


async def test_a_store_that_is_being_written_to_has_nothing_to_name(tmp_path: Path) -> None:
    """Frames, rows, books and positions move on while they are compared."""
    async with opened(tmp_path) as (journal, store):
        run = Run(journal, store)
        await run.start()
        audits = 0
        await fill(journal, messages(25, seed=0, first=1_000), run.now)  # there is a file to read

        async def feed() -> None:
            for part in range(1, 40):
                await fill(journal, messages(25, seed=part, first=1_000 + 80 * part), run.now)
                await asyncio.sleep(0)

        feeding = asyncio.create_task(feed())
        while not feeding.done() or audits < 3:
            evidence = Evidence(
                lambda: [JournalReader(tmp_path / "journal")], assembling(await run.parsers()), {"binance"}
            )
            found = await audit(store, Accepted(journal.uuid, journal.accepted), EVERYTHING, evidence, "all")
            assert (found.difference, found.frames) == (0, [])
            audits += 1
        await feeding
        await run.stop()
