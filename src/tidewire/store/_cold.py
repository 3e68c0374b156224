"""Reading sealed rows with those of the table: which files a read needs, as SQL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from tidewire.records.clock import Clock
from tidewire.records.forms import duckdb_type
from tidewire.records.ops import Finding, Gap, Quarantined
from tidewire.records.record import RecordType
from tidewire.store._files import LocalFiles
from tidewire.store._schema import columns_of, quoted
from tidewire.store._sealed import TABLES, SealedFile, files_of, store_id, versions
from tidewire.store.config import Tier
from tidewire.store.protocol import JOURNAL


def is_sealed(kind: RecordType) -> bool:
    """Whether rows of the type are ever sealed: not definitions, and none that ride on others, which stay few."""
    return not kind.reference and kind not in (Gap.type, Finding.type, Quarantined.type) and "event_time" in kind.schema


@dataclass(frozen=True)
class Bounds:
    """What a read can need, both ends included; ``None``: no bound. Times in UTC microseconds."""

    event: tuple[int | None, int | None] = (None, None)
    ingested: tuple[int | None, int | None] = (None, None)
    frames: tuple[int | None, int | None] = (None, None)
    sources: tuple[str, ...] = ()
    journal: str = ""

    def tests(self) -> tuple[list[str], dict[str, Any]]:
        """As tests of `_cold_files`."""
        tests: list[str] = []
        values: dict[str, Any] = {}
        for name, low, high in (
            ("event", "first_us", "last_us"),
            ("ingested", "ingested_first_us", "ingested_last_us"),
            ("frames", "first_frame", "last_frame"),
        ):
            start, end = getattr(self, name)
            if start is not None:
                tests.append(f"{high} >= ${name}_start")
                values[f"{name}_start"] = start
            if end is not None:
                tests.append(f"{low} <= ${name}_end")
                values[f"{name}_end"] = end
        if self.sources:
            tests.append("list_contains($sources, source)")
            values["sources"] = list(self.sources)
        if self.journal:
            tests.append("list_contains(journals, $journal)")
            values["journal"] = self.journal
        return tests, values


class Cold:
    """The sealed rows of one store. Used by readers, the writer and the sealer, each with its own connection.

    What is in the tables of the file is asked inside the caller's transaction; ``_reach`` alone is shared, and it is
    never behind: it is raised before a seal commits.
    """

    def __init__(self, tier: Tier, clock: Clock) -> None:
        self.tier = tier
        self.files = LocalFiles(tier.objects, tier.work / "cache", tier.config.cache_bytes, clock)
        self._reach: dict[str, int] = {}

    def open(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Bring the tables into being, and know how far each type is sealed."""
        connection.execute(TABLES)
        store_id(connection)  # before any manifest names it: a seal that is cut off must be known as ours
        self.files.open()
        found = connection.execute("SELECT type, max(last_us) FROM _cold_files GROUP BY type").fetchall()
        self._reach = {**dict.fromkeys(versions(connection), -(2**62)), **dict(found)}

    def reach(self, kind: RecordType) -> int | None:
        """The latest event time that may be sealed; None where nothing ever was."""
        return self._reach.get(kind.table)

    def extend(self, kind: RecordType, last_us: int) -> None:
        """Rows up to there are about to be sealed."""
        self._reach = {**self._reach, kind.table: max(last_us, self._reach.get(kind.table, last_us))}

    def parts(self, connection: duckdb.DuckDBPyConnection, kind: RecordType, bounds: Bounds) -> list[str]:
        """Statements for the sealed rows a read may need: the type's columns and ``_journal``, as in its table."""
        reach = self._reach.get(kind.table)
        if reach is None or (bounds.event[0] is not None and bounds.event[0] > reach):
            return []
        tests, values = bounds.tests()
        files = files_of(connection, kind.table, tests, values)
        if not files:
            return []
        journals = dict(connection.execute("SELECT uuid, id FROM _journals").fetchall())
        return [self.statement(kind, some, _numbered(some, journals)) for some in alike(files)]

    def whole(self, connection: duckdb.DuckDBPyConnection, kind: RecordType, bounds: Bounds) -> str:
        """The type's table with its sealed rows, to stand behind ``FROM``."""
        parts = self.parts(connection, kind, bounds)
        if not parts:
            return quoted(kind.table)
        names = columns_of([*kind.schema, JOURNAL])
        return f"({' UNION ALL '.join([f'SELECT {names} FROM {quoted(kind.table)}', *parts])})"

    def statement(self, kind: RecordType, files: Sequence[SealedFile], journal: str) -> str:
        """A statement for the rows of files with the same columns; ``journal`` is SQL for their ``_journal``."""
        there = set(files[0].columns)
        names = ", ".join(
            quoted(name) if name in there else f"NULL::{duckdb_type(dtype)} AS {quoted(name)}"
            for name, dtype in kind.schema.items()
        )
        paths = ", ".join(literal(exactly(self.files.path(file))) for file in files)
        return f"SELECT {names}, {journal} AS {JOURNAL} FROM read_parquet([{paths}], hive_partitioning=false)"


def whole(cold: Cold | None, connection: duckdb.DuckDBPyConnection, kind: RecordType, bounds: Bounds) -> str:
    """`Cold.whole`, or just the table where nothing is ever sealed."""
    return quoted(kind.table) if cold is None else cold.whole(connection, kind, bounds)


def alike(files: Iterable[SealedFile]) -> list[list[SealedFile]]:
    """The files by the columns they have: a column is in those only that were sealed after it came."""
    found: dict[tuple[str, ...], list[SealedFile]] = {}
    for file in files:
        found.setdefault(file.columns, []).append(file)
    return list(found.values())


def exactly(path: Path) -> str:
    """A path as `read_parquet` takes it, to which some characters are a pattern."""
    return "".join(f"[{each}]" if each in "*?[" else each for each in str(path))


def literal(text: str) -> str:
    """A text as SQL."""
    return "'" + text.replace("'", "''") + "'"


def _numbered(files: Sequence[SealedFile], journals: Mapping[str, int]) -> str:
    """SQL for the number this store gives the journal of a row."""
    known = sorted({uuid for file in files for uuid in file.journals})
    if len(known) == 1:
        return f"{journals[known[0]]:d}::USMALLINT"
    return (
        f"(CASE {JOURNAL} {' '.join(f'WHEN {literal(uuid)} THEN {journals[uuid]:d}' for uuid in known)} END)::USMALLINT"
    )
