"""What is known of sealed files: the tables that say so in the DuckDB file, and the manifest that says it to others.

The tables are the truth for whoever reads the store: they change in the very transaction that removes the rows from
the type's table, so that every snapshot of the file sees each row once. The manifest is the same list as JSON beside
the files; it is written before that transaction and names its version.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import duckdb
import msgspec

from tidewire.errors import StoreError

FORMAT = 1

ROOT = "cold"
"""Below which all objects of the cold tier are."""

TABLES = """
CREATE TABLE IF NOT EXISTS _cold (type VARCHAR NOT NULL, version BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS _cold_files (
  type VARCHAR NOT NULL, name VARCHAR NOT NULL, source VARCHAR NOT NULL, level VARCHAR NOT NULL,
  since_us BIGINT NOT NULL, until_us BIGINT NOT NULL, rows BIGINT NOT NULL, bytes BIGINT NOT NULL,
  sha256 VARCHAR NOT NULL, columns VARCHAR[] NOT NULL, journals VARCHAR[] NOT NULL,
  first_us BIGINT NOT NULL, last_us BIGINT NOT NULL, ingested_first_us BIGINT NOT NULL,
  ingested_last_us BIGINT NOT NULL, first_frame BIGINT NOT NULL, last_frame BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS _cold_hours (
  type VARCHAR NOT NULL, name VARCHAR NOT NULL, source VARCHAR NOT NULL, hour_us BIGINT NOT NULL, n BIGINT NOT NULL
);
"""


@dataclass(frozen=True)
class SealedFile:
    """One Parquet file: what span of ``event_time`` it is for, and what is in it. Times in UTC microseconds.

    ``hours`` counts rows by the hour they were ingested in.
    """

    name: str
    source: str
    level: str
    since_us: int
    until_us: int
    rows: int
    bytes: int
    sha256: str
    columns: tuple[str, ...]
    journals: tuple[str, ...]
    first_us: int
    last_us: int
    ingested_first_us: int
    ingested_last_us: int
    first_frame: int
    last_frame: int
    hours: Mapping[int, int] = field(default_factory=dict[int, int])


_COLUMNS = tuple(each.name for each in fields(SealedFile) if each.name != "hours")


@dataclass(frozen=True)
class Manifest:
    """Everything sealed of one type, at one version. ``store`` is the id of the store whose rows they are."""

    table: str
    version: int
    store: str
    files: Sequence[SealedFile] = ()
    format: int = FORMAT

    @property
    def name(self) -> str:
        """Its object."""
        return manifest_name(self.table, self.version)

    def encoded(self) -> bytes:
        """The manifest as JSON."""
        return msgspec.json.format(msgspec.json.encode(asdict(self)), indent=1)


def manifest_name(table: str, version: int) -> str:
    """The object of a version: the one with the highest number is what is sealed."""
    return f"{ROOT}/{table}/manifest-{version:08d}.json"


def decoded(data: bytes, where: str) -> Manifest:
    """A manifest from its JSON; `StoreError` if it is none, or one of a newer version."""
    try:
        found = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise StoreError(f"{where} is no manifest of sealed files: {error}.") from error
    if found.format > FORMAT:
        raise StoreError(f"{where} has format {found.format}, this version knows {FORMAT}. Upgrade Tidewire.")
    return found


def store_id(connection: duckdb.DuckDBPyConnection) -> str:
    """What tells this store's sealed files from another's; made when it is first asked for."""
    found = connection.execute("SELECT value FROM _meta WHERE name = 'store'").fetchall()
    if not found:
        connection.execute("INSERT INTO _meta SELECT 'store', uuid()::VARCHAR")
        found = connection.execute("SELECT value FROM _meta WHERE name = 'store'").fetchall()
    return str(found[0][0])


def sealed_rows(connection: duckdb.DuckDBPyConnection) -> int:
    """How many rows of a store are in files; also of one that never had any."""
    there = connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = '_cold_files'").fetchall()
    return int(connection.execute("SELECT coalesce(sum(rows), 0) FROM _cold_files").fetchall()[0][0]) if there else 0


def versions(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """By table, which version of its manifest the table is the complement of."""
    return dict(connection.execute("SELECT type, version FROM _cold").fetchall())


def files_of(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    tests: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> list[SealedFile]:
    """Sealed files of a table that pass the tests, without their hours, oldest span first."""
    wanted = " AND ".join(["type = $_table", *tests])
    rows = connection.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM _cold_files WHERE {wanted} ORDER BY since_us, source, name",
        {"_table": table, **(values or {})},
    ).fetchall()
    return [SealedFile(**_fitting(dict(zip(_COLUMNS, row, strict=True)))) for row in rows]


def with_hours(connection: duckdb.DuckDBPyConnection, table: str, files: Iterable[SealedFile]) -> list[SealedFile]:
    """The files with their hours."""
    hours: dict[str, Counter[int]] = {}
    for name, hour, n in connection.execute(
        "SELECT name, hour_us, n FROM _cold_hours WHERE type = $table", {"table": table}
    ).fetchall():
        hours.setdefault(name, Counter())[hour] += n
    return [replace(file, hours=dict(hours.get(file.name, {}))) for file in files]


def record(
    connection: duckdb.DuckDBPyConnection,
    manifest: Manifest,
    gone: Iterable[SealedFile],
    new: Iterable[SealedFile],
) -> None:
    """Put a version into the running transaction: files that go, files that come."""
    table, run = manifest.table, connection.execute
    for file in gone:
        run("DELETE FROM _cold_files WHERE type = ? AND name = ?", [table, file.name])
        run("DELETE FROM _cold_hours WHERE type = ? AND name = ?", [table, file.name])
    for file in new:
        marks = ", ".join(["?"] * (len(_COLUMNS) + 1))
        values = [list(value) if isinstance(value, tuple) else value for value in (getattr(file, n) for n in _COLUMNS)]
        run(f"INSERT INTO _cold_files (type, {', '.join(_COLUMNS)}) VALUES ({marks})", [table, *values])
        if file.hours:
            hours = ", ".join(f"({hour:d}, {n:d})" for hour, n in file.hours.items())
            run(
                f"INSERT INTO _cold_hours SELECT ?, ?, ?, h, n FROM (VALUES {hours}) AS t(h, n)",
                [table, file.name, file.source],
            )
    run("DELETE FROM _cold WHERE type = ?", [table])
    run("INSERT INTO _cold VALUES (?, ?)", [table, manifest.version])


def _fitting(row: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
