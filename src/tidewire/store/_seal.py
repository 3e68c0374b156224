"""Sealing: rows of spans that are over go from a type's table into Parquet files, none lost, none twice.

In this order: the file, read back and compared; the manifest that lists it; and, in one transaction, the list of files
in the DuckDB file, the version of the manifest, and the removal of the rows. The transaction began before the rows were
read, so it removes exactly those. What is left of a try that was cut off is not in the list and swept at the start;
files that were merged into others go when no read can know them any more.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import duckdb

from tidewire import telemetry
from tidewire.errors import StoreError
from tidewire.records.batch import HOUR_US
from tidewire.records.clock import Clock
from tidewire.records.record import RecordType
from tidewire.store._cold import Cold, alike, exactly, literal
from tidewire.store._schema import MARK, MARKED_AT, MARKS, UNMARKED, columns_of, last_table, quoted
from tidewire.store._sealed import (
    ROOT,
    Manifest,
    SealedFile,
    decoded,
    files_of,
    manifest_name,
    record,
    store_id,
    versions,
    with_hours,
)
from tidewire.store._spans import Hour, Limits, Span, spans
from tidewire.store.protocol import JOURNAL

READ_CHUNK = 1 << 20

_log = telemetry.log("store")
_rows = telemetry.counter("cold_sealed_rows", "Rows that went from the table into files", ("type",))
_files = telemetry.counter("cold_sealed_files", "Files written, those that merge others included", ("type",))
_bytes = telemetry.counter("cold_sealed_bytes", "Bytes of the files written", ("type",))
_seconds = telemetry.histogram("cold_seal_seconds", "Sealing one span, from the first read to the end of the commit")


@dataclass(frozen=True)
class Sealed:
    """What one step did: rows that left the table, the file they are in, and the objects nobody needs any more."""

    type: str
    rows: int
    file: SealedFile
    replaced: tuple[str, ...] = ()


class Sealer:
    """Seals with a connection of its own, in one thread. ``cold`` tells readers what may be sealed."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, cold: Cold, clock: Clock) -> None:
        self._connection = connection
        self._cold = cold
        self._objects = cold.tier.objects
        self._clock = clock
        connection.execute("SET TimeZone = 'UTC'")

    def plan(self, kind: RecordType, done_us: int) -> list[Span]:
        """The spans of a type that are over, and quiet, since ``done_us``."""
        rows = self._connection.execute(
            f"SELECT source, epoch_us(event_time) // {HOUR_US:d} * {HOUR_US:d} AS since, count(*),"
            f" epoch_us(max(ingested_at)) FROM {quoted(kind.table)} GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        config = self._cold.tier.config
        limits = Limits(done_us, config.unit_rows)
        return list(spans([Hour(*row) for row in rows], files_of(self._connection, kind.table), limits))

    def seal(self, kind: RecordType, span: Span) -> Sealed | None:
        """Seal one span; None when the rows are gone meanwhile.

        Raises:
            StoreError: the file does not hold what was read, or the transaction failed; nothing changed then.
            ArchiveFailed: the object store cannot be reached; nothing changed.
        """
        started = self._clock.mono_ns()
        self._connection.begin()
        try:
            sealed = self._inside(kind, span)
            if sealed is None:
                self._connection.rollback()
                return None
            self._commit()
        except duckdb.Error as error:
            self._undo()
            raise StoreError(f"Sealing {kind.name} of {span.source}, {span.day}, failed: {error}") from error
        except BaseException:
            self._undo()
            raise
        _rows.labels(kind.name).inc(sealed.rows)
        _files.labels(kind.name).inc()
        _bytes.labels(kind.name).inc(sealed.file.bytes)
        _seconds.observe((self._clock.mono_ns() - started) / 1e9)
        _log.info("sealed", type=kind.name, file=sealed.file.name, rows=sealed.rows, merged=len(sealed.replaced) - 1)
        return sealed

    def _commit(self) -> None:
        self._connection.commit()

    def _undo(self) -> None:
        with contextlib.suppress(duckdb.Error):  # the transaction may be over already
            self._connection.rollback()

    def _inside(self, kind: RecordType, span: Span) -> Sealed | None:
        table, known = kind.table, files_of(self._connection, kind.table)
        merged = {each.name for each in span.merged}
        if not merged <= {each.name for each in known}:
            return None
        hot = _hot(kind, span)
        (moved,) = self._connection.execute(f"SELECT count(*) FROM {quoted(table)} AS t WHERE {hot}").fetchall()[0]
        if not moved and len(span.merged) < 2:
            return None
        version = versions(self._connection).get(table, 0) + 1
        rows = self._rows_of(kind, span, hot)
        file = self._write_file(kind, span, rows, version)
        kept = [each for each in known if each.name not in merged]
        listed = [*with_hours(self._connection, table, kept), file]
        manifest = Manifest(table, version, store_id(self._connection), listed)
        self._objects.put(manifest.name, manifest.encoded())
        self._cold.extend(kind, file.last_us)
        record(self._connection, manifest, span.merged, [file])
        self._keep_last(kind, hot)
        self._connection.execute(f"DELETE FROM {quoted(table)} AS t WHERE {hot}")
        replaced = (manifest_name(table, version - 1), *(each.name for each in span.merged))
        return Sealed(kind.name, moved, file, replaced)

    def _rows_of(self, kind: RecordType, span: Span, hot: str) -> str:
        """A statement for all rows of the span, with the uuid of their journal."""
        names = columns_of(kind.schema)
        hot = (
            f"SELECT {columns_of(kind.schema, 't')}, j.uuid AS {JOURNAL} FROM {quoted(kind.table)} AS t"
            f" JOIN _journals AS j ON j.id = t.{JOURNAL} WHERE {hot}"
        )
        parts = [self._cold.statement(kind, some, JOURNAL) for some in alike(span.merged)]
        return f"SELECT {names}, {JOURNAL} FROM ({' UNION ALL '.join([hot, *parts])})"

    def _write_file(self, kind: RecordType, span: Span, rows: str, version: int) -> SealedFile:
        staging = self._cold.tier.work / "unfinished"
        staging.mkdir(parents=True, exist_ok=True)
        path = staging / f"{kind.table}-{version:08d}.parquet"
        # One series stays together for reads of one, in the order of time; the statistics of the groups find it.
        order = [*(name for name in kind.series if name != "source"), "event_time", "frame", "ordinal", JOURNAL]
        self._connection.execute(
            f"COPY ({rows} ORDER BY {columns_of(order)}) TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd,"
            f" PARQUET_VERSION v2, ROW_GROUP_SIZE {self._cold.tier.config.group_rows:d})"
        )
        told = self._looked_through(kind, f"({rows})")
        back = self._looked_through(kind, f"read_parquet([{literal(exactly(path))}], hive_partitioning=false)")
        if told != back:
            path.unlink()
            raise StoreError(f"The file of {kind.name}, {span.day}, does not read back as it was written: {back}.")
        name = f"{ROOT}/{kind.table}/source={quote(span.source, safe='')}/since={span.day}/part-{version:08d}.parquet"
        file = self._described(kind, span, name, path)
        self._objects.put_file(name, path)
        path.unlink(missing_ok=True)
        return file

    def _looked_through(self, kind: RecordType, rows: str) -> tuple[int, int]:
        """How many rows, and a sum over all their values."""
        names = columns_of([*kind.schema, JOURNAL])
        return self._connection.execute(f"SELECT count(*), sum(hash({names})) FROM {rows}").fetchall()[0]

    def _described(self, kind: RecordType, span: Span, name: str, path: Path) -> SealedFile:
        rows = f"read_parquet([{literal(exactly(path))}], hive_partitioning=false)"
        first, last, came_first, came_last, frame_first, frame_last = self._connection.execute(
            "SELECT epoch_us(min(event_time)), epoch_us(max(event_time)), epoch_us(min(ingested_at)),"
            f" epoch_us(max(ingested_at)), min(frame), max(frame) FROM {rows}"
        ).fetchall()[0]
        hours = dict(
            self._connection.execute(
                f"SELECT epoch_us(ingested_at) // {HOUR_US:d} * {HOUR_US:d} AS hour, count(*) FROM {rows} GROUP BY ALL"
            ).fetchall()
        )
        uuids = self._connection.execute(f"SELECT DISTINCT {JOURNAL} FROM {rows} ORDER BY 1").fetchall()
        return SealedFile(
            name,
            span.source,
            span.level,
            span.since_us,
            span.until_us,
            sum(hours.values()),
            path.stat().st_size,
            checksum(path),
            tuple(kind.schema),
            tuple(uuid for (uuid,) in uuids),
            first,
            last,
            came_first,
            came_last,
            frame_first,
            frame_last,
            hours,
        )

    def _keep_last(self, kind: RecordType, hot: str) -> None:
        """Of each series that rows are moved of: its last sealed row, and how far its order is."""
        last, series = quoted(last_table(kind)), columns_of(kind.series)
        order = quoted(kind.order or "event_time")
        names = columns_of([*kind.schema, JOURNAL])
        same = " AND ".join(f"a.{quoted(name)} IS NOT DISTINCT FROM b.{quoted(name)}" for name in kind.series)
        ordered = "event_time, frame, ordinal, " + JOURNAL
        whole = (
            f"SELECT {names}, {order} AS {MARK}, event_time AS {MARKED_AT}, {order} IS NULL AS {UNMARKED}"
            f" FROM {quoted(kind.table)} AS t WHERE {hot}"
        )
        moved = f"SELECT DISTINCT {series} FROM {quoted(kind.table)} AS t WHERE {hot}"
        before = f"SELECT a.* FROM {last} AS a SEMI JOIN ({moved}) AS b ON {same}"
        marks = f"max({MARK}) AS {MARK}, arg_max({MARKED_AT}, {MARK}) AS {MARKED_AT}, bool_or({UNMARKED}) AS {UNMARKED}"
        newest = ", ".join(
            f"arg_max_null({quoted(name)}, row({ordered})) AS {quoted(name)}"
            for name in (*kind.schema, JOURNAL)
            if name not in kind.series
        )
        self._connection.execute(
            f"CREATE OR REPLACE TEMP TABLE _sealing_last AS SELECT {series}, {newest}, {marks}"
            f" FROM ({before} UNION ALL BY NAME {whole}) GROUP BY {series}"
        )
        self._connection.execute(f"DELETE FROM {last} AS a USING _sealing_last AS b WHERE {same}")
        columns = columns_of([*kind.schema, JOURNAL, *MARKS])
        self._connection.execute(f"INSERT INTO {last} ({columns}) SELECT {columns} FROM _sealing_last")
        self._connection.execute("DROP TABLE _sealing_last")


def _hot(kind: RecordType, span: Span) -> str:
    return (
        f"t.source = {literal(span.source)} AND t.event_time >= make_timestamptz({span.since_us:d})"
        f" AND t.event_time < make_timestamptz({span.until_us:d})"
    )


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def sweep(connection: duckdb.DuckDBPyConnection, cold: Cold, keep: Collection[str] = ()) -> int:
    """Remove what is left of tries that were cut off, and of files that were merged, but ``keep``; how many went.

    Raises:
        StoreError: the files are those of another store, or of a newer state of this one; nothing is removed then.
    """
    objects = cold.tier.objects
    here = versions(connection)
    there: dict[str, list[str]] = {}
    for name in objects.list(ROOT):
        there.setdefault(name.split("/")[1], []).append(name)
    doomed: list[str] = []
    for table, names in there.items():
        version = here.get(table, 0)
        manifests = [name for name in names if "/manifest-" in name]
        for name in manifests:
            if name > manifest_name(table, version):
                _check_is_next(connection, cold, table, version, name)
        used = {file.name for file in files_of(connection, table)} | {manifest_name(table, version)}
        # Manifests first: one must not list what is gone.
        doomed += [*(name for name in manifests if name not in used), *(n for n in names if n not in used)]
    missing = [manifest_name(table, version) for table, version in here.items() if version]
    missing = [name for name in missing if name not in {n for names in there.values() for n in names}]
    if missing:
        raise StoreError(
            f"The sealed files of this store are not in {objects}: {missing[0]} is missing. Set cold.url to where they "
            "are, or bring them back."
        )
    gone = [name for name in dict.fromkeys(doomed) if name not in keep]
    for name in gone:
        objects.delete(name)
    unfinished = cold.tier.work / "unfinished"
    for path in unfinished.iterdir() if unfinished.is_dir() else ():
        path.unlink()
    return len(gone)


def _check_is_next(connection: duckdb.DuckDBPyConnection, cold: Cold, table: str, version: int, name: str) -> None:
    """A manifest ahead of the store is a try that was cut off, if it is this store's and one ahead."""
    data = cold.tier.objects.get(name)
    found = None if data is None else decoded(data, name)
    if found is None or (found.store == store_id(connection) and found.version == version + 1):
        return
    raise StoreError(
        f"{cold.tier.objects} holds sealed {table} rows up to version {found.version} of store {found.store}; this "
        f"store ({store_id(connection)}) is at {version}. Was the file replaced by an older copy, or is the place "
        "another store's? Bring back the file that belongs to it, or set cold.url to an empty place."
    )
