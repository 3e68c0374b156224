"""Manifests, and sealed files looked at without the store."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from conformance.store_kit import Feed, everything, trade
from tidewire.errors import StoreError
from tidewire.journal.objects import Directory
from tidewire.records.market import Trade
from tidewire.store._sealed import FORMAT, Manifest, decoded
from tidewire.store.config import ColdConfig, Tier
from tidewire.store.duckdb import DuckDBStore
from tidewire.store.sealed import fault, manifests

EAGER = ColdConfig(after_s=-1e9)


async def sealed_at(directory: Path) -> Directory:
    objects = Directory(directory)
    store = DuckDBStore(directory / "t.duckdb", cold=Tier(objects, directory / "work", EAGER))
    await store.open()
    await store.write([Feed().batch(Trade.type, [trade(number) for number in range(9)])])
    await store.seal()
    assert (await everything(store, Trade.type)).height == 9
    await store.close()
    return objects


async def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    objects = await sealed_at(tmp_path)
    (found,) = manifests(objects)
    assert decoded(found.encoded(), "here") == found
    (file,) = found.files
    assert (file.rows, sum(file.hours.values()), file.first_frame, file.last_frame) == (9, 9, 0, 8)
    assert fault(objects, file, tmp_path / "w") == ""


async def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    objects = await sealed_at(tmp_path)
    ((file,),) = (found.files for found in manifests(objects))
    assert "rows instead of 10" in fault(objects, replace(file, rows=10), tmp_path / "w")
    assert "bytes instead of" in fault(objects, replace(file, bytes=1), tmp_path / "w")
    assert "checksum" in fault(objects, replace(file, sha256="0"), tmp_path / "w")
    assert fault(objects, replace(file, name="cold/none.parquet"), tmp_path / "w") == "is missing"


@pytest.mark.parametrize("name", ["with [brackets]", "a*b", "it's"])
async def test_a_path_is_no_pattern(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    directory.mkdir()
    await sealed_at(directory)


def test_manifests_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(StoreError, match="is no manifest"):
        decoded(b"{", "m.json")
    with pytest.raises(StoreError, match="Upgrade Tidewire"):
        decoded(Manifest("trade_v1", 1, "s", (), FORMAT + 1).encoded(), "m.json")


async def test_a_store_with_sealed_rows_does_not_open_without_them(tmp_path: Path) -> None:
    await sealed_at(tmp_path)
    with pytest.raises(StoreError, match=r"9 rows of .* are sealed.*Set cold\.enabled"):
        await DuckDBStore(tmp_path / "t.duckdb").open()


async def test_the_files_of_another_store_are_not_touched(tmp_path: Path) -> None:
    objects = await sealed_at(tmp_path)
    before = objects.list("cold")
    other = DuckDBStore(tmp_path / "other.duckdb", cold=Tier(objects, tmp_path / "work2", EAGER))
    await other.open()
    with pytest.raises(StoreError, match=re.escape("another store's")):
        await other.seal()
    await other.close()
    assert objects.list("cold") == before


async def test_missing_files_are_said_before_anything_is_sealed(tmp_path: Path) -> None:
    await sealed_at(tmp_path)
    elsewhere = Directory(tmp_path / "empty")
    store = DuckDBStore(tmp_path / "t.duckdb", cold=Tier(elsewhere, tmp_path / "work", EAGER))
    await store.open()
    with pytest.raises(StoreError, match=r"is missing\. Set cold\.url"):
        await store.seal()
    await store.close()


def test_a_store_without_sealed_rows_knows_none() -> None:
    from tidewire.store._sealed import sealed_rows

    with duckdb.connect() as connection:
        assert sealed_rows(connection) == 0
