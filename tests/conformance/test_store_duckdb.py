"""DuckDB keeps what every store promises, in a file and in memory."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import Phase, settings

from conformance.store import StoreConformance
from conformance.store_commits import Breaks, Trouble
from tidewire.errors import StoreError
from tidewire.store._write import Writer
from tidewire.store.config import StoreConfig
from tidewire.store.duckdb import DuckDBStore
from tidewire.store.protocol import Store


@contextlib.contextmanager
def broken(trouble: Trouble) -> Generator[None]:
    """The next transaction goes wrong; what DuckDB itself says then is an `IOException` too."""
    insert, append = Writer._insert, Writer._append

    def before(self: Writer, batches: Any) -> Any:
        raise duckdb.IOException(trouble)

    def midway(self: Writer, *given: Any) -> None:
        append(self, *given)
        raise duckdb.IOException(trouble)

    def commit(self: Writer) -> None:
        if trouble in (Trouble.REPLY_LOST, Trouble.KILLED_AFTER):
            self._connection.commit()
        if trouble in (Trouble.KILLED, Trouble.KILLED_AFTER):
            self._connection.close()
        raise duckdb.IOException(trouble)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "_insert", before if trouble is Trouble.BEFORE else insert)
        patch.setattr(Writer, "_append", midway if trouble is Trouble.MIDWAY else append)
        if trouble not in (Trouble.NONE, Trouble.BEFORE, Trouble.MIDWAY):
            patch.setattr(Writer, "_commit", commit)
        yield


WITHOUT_DEATH = tuple(trouble for trouble in Trouble if trouble not in (Trouble.KILLED, Trouble.KILLED_AFTER))
"""What is in memory dies with its connection."""


class DuckDBConformance(StoreConformance):
    @pytest.fixture
    def breaks(self) -> Breaks:
        return broken


class TestDuckDBFile(DuckDBConformance):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[], Store]:
        return lambda: DuckDBStore(tmp_path / "store" / "t.duckdb")

    @pytest.fixture
    def fresh(self, tmp_path: Path) -> Callable[[], Store]:
        names = itertools.count()
        return lambda: DuckDBStore(tmp_path / f"{next(names)}.duckdb")


class TestDuckDBMemory(DuckDBConformance):
    persistent = False
    troubles = WITHOUT_DEATH

    @pytest.fixture
    def make(self) -> Callable[[], Store]:
        return lambda: DuckDBStore(":memory:")

    @pytest.fixture
    def fresh(self, make: Callable[[], Store]) -> Callable[[], Store]:
        return make


class TestFewMarksInMemory(DuckDBConformance):
    """With room for one series the answers are the same."""

    persistent = False
    troubles = WITHOUT_DEATH

    @pytest.fixture
    def make(self) -> Callable[[], Store]:
        return lambda: DuckDBStore(":memory:", StoreConfig(max_series=1))

    @pytest.fixture
    def fresh(self, make: Callable[[], Store]) -> Callable[[], Store]:
        return make


def forgets_to_look(self: Any, batches: Any) -> Any:
    """A commit whose end is unknown is taken for failed."""
    writer = self._open_writer
    writer.doubt, writer.unsure = False, None
    with contextlib.suppress(duckdb.Error):
        writer._connection.rollback()
    return self._in_thread(lambda: writer.write(batches))


def compares_nothing(*_: object) -> Any:
    return None, {}


class _Halves(Writer):
    """Positions first, then rows."""

    def _insert(self, batches: Any) -> Any:
        moves = self.book.moves(batches)
        self.book._write_positions(moves)
        self._connection.commit()
        self.book.positions = {**self.book.positions, **moves}
        self._connection.begin()
        return super()._insert(batches)


MUTANTS: dict[str, tuple[Any, str, Any]] = {
    "an unknown end is taken for failed": (DuckDBStore, "_write", forgets_to_look),
    "keys are not compared": ("tidewire.store._write.Judge", "classify", compares_nothing),
    "positions go before rows": ("tidewire.store.duckdb", "Writer", _Halves),
}


QUICKLY: dict[str, Any] = {"phases": [Phase.generate], "derandomize": True, "report_multiple_bugs": False}


class TestCommitSuite:
    """Each rule broken on purpose turns the suite red."""

    @pytest.mark.parametrize("name", MUTANTS)
    def test_a_broken_store_is_found_out(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        where, what, mutant = MUTANTS[name]
        monkeypatch.setattr(*((where, what, mutant) if not isinstance(where, str) else (f"{where}.{what}", mutant)))
        names = itertools.count()
        suite = DuckDBConformance()
        suite.commit_settings = settings(suite.commit_settings, max_examples=60, database=None, **QUICKLY)
        with pytest.raises((AssertionError, StoreError)):
            suite.test_whatever_becomes_of_commits_rows_and_positions_agree(
                lambda: DuckDBStore(tmp_path / f"{next(names)}.duckdb"), broken
            )
