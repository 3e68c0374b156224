"""DuckDB keeps what every store promises also when its rows are sealed before each read and each write."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest

from conformance.test_store_duckdb import DuckDBConformance
from tidewire.journal.objects import Directory
from tidewire.records.batch import Batch
from tidewire.records.record import RecordType
from tidewire.store.config import ColdConfig, StoreConfig, Tier
from tidewire.store.duckdb import DuckDBStore
from tidewire.store.protocol import Store, Written

EAGER = ColdConfig(after_s=-1e9, unit_rows=50, group_rows=2_048)
"""Everything is over: whatever is in the table is sealed by the next run."""


class Eager(DuckDBStore):
    """Seals all it has whenever it is asked anything."""

    async def write(self, batches: Sequence[Batch]) -> list[Written]:
        written = await super().write(batches)
        await self.seal()
        return written

    async def marks(self, kind: RecordType) -> pl.DataFrame:
        await self.seal()
        return await super().marks(kind)


def eager(path: Path) -> Store:
    return Eager(path, StoreConfig(), cold=Tier(Directory(path.parent / f"{path.stem}-objects"), path.parent, EAGER))


class TestAllSealed(DuckDBConformance):
    """After every write all rows are in files."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[], Store]:
        return lambda: eager(tmp_path / "store" / "t.duckdb")

    @pytest.fixture
    def fresh(self, tmp_path: Path) -> Callable[[], Store]:
        names = itertools.count()
        return lambda: eager(tmp_path / f"{next(names)}.duckdb")
