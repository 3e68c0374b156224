"""What an earlier landing left is opened by today's code, which goes on where that stopped.

`tests/golden/make_data.py` says how ``data-1.tar.xz`` was made and what is in it. Later landings add their own beside.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from crash.truth import STORE, same_as_replayed
from integration.kit import Eager, api, balanced, binance, idle, loaded, replayed, running, until
from tidewire.errors import StoreError
from tidewire.journal import JournalReader
from tidewire.sandbox.config import SandboxConfig
from tidewire.sandbox.server import Sandbox
from tidewire.store.duckdb import DuckDBStore

GOLDEN = Path(__file__).parents[1] / "golden"
LANDINGS = sorted(GOLDEN.glob("data-*.tar.xz"))
WAITING = 10
"""Trades at the end of the journal that were accepted and not stored yet."""


def unpacked(archive: Path, into: Path) -> dict[str, Any]:
    """The data directory as it was left; the facts about it."""
    with tarfile.open(archive) as packed:
        packed.extractall(into, filter="data")
    found: dict[str, Any] = json.loads((into / "data" / "facts.json").read_text())
    return found


def everything(data: Path) -> dict[str, pl.DataFrame]:
    """Every table of record types, whatever columns it has."""
    with duckdb.connect(str(data / STORE), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        names = [name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        kept = [name for name in names if not name.startswith("_")]
        return {name: pl.DataFrame(connection.sql(f'SELECT * FROM "{name}"').to_arrow_table()) for name in kept}


@pytest.mark.crash
@pytest.mark.parametrize("archive", LANDINGS, ids=lambda path: path.name)
async def test_what_an_earlier_landing_left_is_continued(archive: Path, tmp_path: Path) -> None:
    facts = unpacked(archive, tmp_path)
    before = everything(tmp_path / "data")
    assert {name: rows.height for name, rows in before.items() if rows.height} == facts["rows"]
    head = JournalReader(tmp_path / "data" / "journal").accepted
    sandbox = Sandbox(SandboxConfig(symbols=("BTCUSDT",), rate=400.0, history_hours=1))
    await sandbox.start()
    try:
        more = {"kline": {"symbols": ["BTCUSDT"], "intervals": ["1m"], "history": 5}}
        configuration = loaded(tmp_path, [binance(sandbox.url, ["BTCUSDT"], **more)])
        async with running(configuration, Eager()) as platform, api(platform) as client:
            await until(lambda: platform.journal.head > head + 300, "frames of today")
            await platform.apps[0].stop()
            await idle(platform)
            balanced((await client.get("/v1/audit"))["data"])
    finally:
        await sandbox.stop()
    after = everything(tmp_path / "data")
    for name, rows in before.items():
        # A later version may add columns, and says null in them of what was there before.
        lost = rows.join(after[name].select(rows.columns), on=rows.columns, how="anti", nulls_equal=True)
        assert lost.is_empty(), f"{name}: {lost.height} rows are gone or changed: {lost.head(3).to_dicts()}"
    assert after["trade_v1"].filter(pl.col("frame") <= head).height == facts["rows"]["trade_v1"] + WAITING
    assert after["trade_v1"].filter(pl.col("frame") > head).height > 50
    await replayed(tmp_path / "data", tmp_path / "again", configuration)
    assert same_as_replayed(tmp_path / "data", tmp_path / "again") > sum(facts["rows"].values()) + 100
    assert len(JournalReader(tmp_path / "data" / "journal").segments()) >= 2


@pytest.mark.crash
async def test_a_store_of_a_later_version_is_refused(tmp_path: Path) -> None:
    """The other way round nothing is guessed."""
    unpacked(LANDINGS[0], tmp_path)
    file = tmp_path / "data" / STORE
    with duckdb.connect(str(file)) as connection:
        connection.execute("UPDATE _meta SET value = '999' WHERE name = 'schema'")
    with pytest.raises(StoreError, match="999"):
        await DuckDBStore(file).open()
