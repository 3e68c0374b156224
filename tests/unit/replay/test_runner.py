"""Replay: a journal through today's code, in steps of any size."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from tidewire.journal import Journal, JournalReader
from tidewire.records.record import types
from tidewire.replay import Replay
from tidewire.replay import runner as runner_module
from tidewire.sources.binance import BinanceParser
from tidewire.store.config import StoreConfig
from tidewire.store.duckdb import DuckDBStore
from tidewire.watch.audit import Accepted, audit
from unit.runtime.kit import Stepping, fill, messages, opened, tables


async def result(source: Journal | JournalReader, lanes: int = 1, cut: Callable[[], int] | None = None):
    store = DuckDBStore(":memory:", StoreConfig())
    await store.open()
    run = Replay(source, {"binance": BinanceParser()}, lanes=lanes, cut=cut)
    done = [frames async for frames in run.into(store)]
    books = await audit(store, Accepted(source.uuid, source.accepted))
    assert (books.difference, books.in_flight_frames) == (0, 0)
    positions = store.positions()
    assert len(positions) == len(types()) * lanes
    assert set(positions.values()) == {source.accepted}
    found = await tables(store)
    await store.close()
    return found, done, run


@pytest.mark.parametrize(("lanes", "seed", "most"), [(1, 1, 1), (1, 2, 40), (4, 3, 60)])
async def test_any_cut_gives_the_same_rows(tmp_path: Path, lanes: int, seed: int, most: int) -> None:
    async with opened(tmp_path) as (journal, _):
        await fill(journal, messages(250, seed), Stepping())
        whole, done, run = await result(journal)
        assert done == [250]
        assert run.frames == 250
        assert run.clock.wall_ns() == journal.read(249)[0].wall_ns
        chance = random.Random(seed)
        cut, _, _ = await result(journal, lanes, lambda: chance.randint(1, most))
    assert whole.keys() == cut.keys()
    for name, part in whole.items():
        assert_frame_equal(part, cut[name])


async def test_a_journal_at_rest_is_only_read(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, _):
        await fill(journal, messages(80), Stepping())
        live, _, _ = await result(journal)
    before = {path.name: path.read_bytes() for path in (tmp_path / "journal").iterdir()}
    rest, _, _ = await result(JournalReader(tmp_path / "journal"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "journal").iterdir()} == before
    for name, part in live.items():
        assert_frame_equal(part, rest[name])


async def test_progress_is_told_with_each_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "COMMIT_ROWS", 40)
    async with opened(tmp_path) as (journal, _):
        await fill(journal, messages(200), Stepping())
        _, done, _ = await result(journal, cut=lambda: 10)
    assert done == sorted(done)
    assert len(done) > 3
    assert done[-1] == 200


async def test_an_empty_journal(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, store):
        run = Replay(journal, {})
        assert [frames async for frames in run.into(store)] == [0]
        assert store.positions() == {}
