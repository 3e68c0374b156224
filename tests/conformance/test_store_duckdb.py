"""DuckDB keeps what every store promises, in a file and in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.store import StoreConformance
from tidewire.store.config import StoreConfig
from tidewire.store.duckdb import DuckDBStore
from tidewire.store.protocol import Store


class TestDuckDBFile(StoreConformance):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[], Store]:
        return lambda: DuckDBStore(tmp_path / "store" / "t.duckdb")

    @pytest.fixture
    def fresh(self, tmp_path: Path) -> Callable[[], Store]:
        names = itertools.count()
        return lambda: DuckDBStore(tmp_path / f"{next(names)}.duckdb")


class TestDuckDBMemory(StoreConformance):
    persistent = False

    @pytest.fixture
    def make(self) -> Callable[[], Store]:
        return lambda: DuckDBStore(":memory:")

    @pytest.fixture
    def fresh(self, make: Callable[[], Store]) -> Callable[[], Store]:
        return make


class TestFewMarksInMemory(StoreConformance):
    """With room for one series the answers are the same."""

    persistent = False

    @pytest.fixture
    def make(self) -> Callable[[], Store]:
        return lambda: DuckDBStore(":memory:", StoreConfig(max_series=1))

    @pytest.fixture
    def fresh(self, make: Callable[[], Store]) -> Callable[[], Store]:
        return make
