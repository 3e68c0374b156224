"""The tables of a DuckDB file: one pair for each record type, and the bookkeeping ones."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Mapping
from typing import Any

import duckdb
import polars as pl

from tidewire.errors import StoreError
from tidewire.records.forms import ddl, duckdb_type
from tidewire.records.record import RecordType
from tidewire.store.protocol import JOURNAL

SCHEMA = 1
"""Version of the bookkeeping tables and of what they mean."""

MARK, MARKED_AT, UNMARKED = MARKS = "_mark", "_marked_at", "_unmarked"
"""Of a series' sealed rows: the highest ``order``, the event time of that, whether some have no ``order``."""

_BOOKKEEPING = """
CREATE TABLE IF NOT EXISTS _meta (name VARCHAR NOT NULL, value VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS _journals (id USMALLINT NOT NULL, uuid VARCHAR NOT NULL, live BOOLEAN NOT NULL);
CREATE TABLE IF NOT EXISTS _positions (
  journal USMALLINT NOT NULL, type VARCHAR NOT NULL, lane INTEGER NOT NULL,
  last BIGINT NOT NULL, until_us BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS _fates (
  type VARCHAR NOT NULL, source VARCHAR NOT NULL, hour_us BIGINT NOT NULL, fate VARCHAR NOT NULL, n BIGINT NOT NULL
);
"""


def quoted(name: str) -> str:
    """An identifier, safe whatever it contains."""
    return '"' + name.replace('"', '""') + '"'


def columns_of(names: Iterable[str], table: str = "") -> str:
    """Identifiers separated by commas, each after ``table.`` if one is given."""
    return ", ".join(f"{table}.{quoted(name)}" if table else quoted(name) for name in names)


def revisions_table(kind: RecordType) -> str:
    """Where rows go whose key is stored already with another payload."""
    return f"{kind.table}_revisions"


def last_table(kind: RecordType) -> str:
    """Where the last sealed row of each series is, with the marks of the series."""
    return f"{kind.table}_sealed"


def prepare(connection: duckdb.DuckDBPyConnection, where: str) -> None:
    """Create the bookkeeping tables, or check that this version can use the ones there are.

    Raises:
        StoreError: a newer version wrote the file.
    """
    connection.begin()
    connection.execute(_BOOKKEEPING)
    found = connection.execute("SELECT value FROM _meta WHERE name = 'schema'").fetchall()
    if not found:
        connection.execute("INSERT INTO _meta VALUES ('schema', ?)", [str(SCHEMA)])
        connection.commit()
        return
    connection.rollback()
    if int(found[0][0]) > SCHEMA:
        raise StoreError(
            f"{where} was written by a newer Tidewire (store schema {found[0][0]}; this one knows {SCHEMA}). Upgrade "
            "Tidewire, or name another file."
        )


@contextlib.contextmanager
def registered(connection: duckdb.DuckDBPyConnection, name: str, frame: pl.DataFrame) -> Generator[None]:
    """A frame as a table of that name, for the statements inside."""
    connection.register(name, frame)
    try:
        yield
    except BaseException:
        with contextlib.suppress(duckdb.Error):  # an aborted transaction allows nothing but its end
            connection.unregister(name)
        raise
    connection.unregister(name)


class Tables:
    """Which record types have their tables in the file."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._ready: dict[str, RecordType] = {}

    def ready(self, kind: RecordType) -> bool:
        """Whether the tables of the type are known to fit it."""
        return self._ready.get(kind.table) is kind

    def forget(self, kinds: Iterable[RecordType]) -> None:
        """Their tables were not made after all."""
        for kind in kinds:
            self._ready.pop(kind.table, None)

    def ensure(self, kind: RecordType, *, sealed: bool) -> None:
        """Bring the tables of a type into being; ``sealed``: also the one for the last sealed row of each series.

        Raises:
            StoreError: a table of that name has other columns.
        """
        for table in (kind.table, revisions_table(kind)):
            columns = dict(self._columns(table))
            if columns:
                self._adapt(kind, table, columns)
            else:
                text = ddl(kind).replace(kind.table, table, 1).removesuffix("\n)")
                self._connection.execute(f"{text},\n  {JOURNAL} USMALLINT NOT NULL\n)")
        last = {name: type_ for name, type_ in self._columns(last_table(kind)) if name not in MARKS}
        if last:
            self._adapt(kind, last_table(kind), last)
        elif sealed:
            self._connection.execute(_last_ddl(kind))
        self._ready[kind.table] = kind

    def _columns(self, table: str) -> list[tuple[str, str]]:
        rows = self._connection.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ?", [table]
        ).fetchall()
        return [(name, _same_spelling(type_)) for name, type_ in rows]

    def _adapt(self, kind: RecordType, table: str, found: dict[str, str]) -> None:
        """A column that is new in the type and may be null is added; any other difference is refused."""
        for name, field in kind.fields.items():
            wanted = _same_spelling(duckdb_type(field.dtype))
            if name not in found and field.nullable:
                self._connection.execute(f"ALTER TABLE {quoted(table)} ADD COLUMN {quoted(name)} {wanted}")
            elif found.get(name) != wanted:
                raise StoreError(
                    f"Table {table} has column {name!r} as {found.get(name, 'nothing')}, the record type {kind.name} "
                    f"as {wanted}. A change that is not a new nullable column needs a new version of the type."
                )
        unknown = found.keys() - kind.fields.keys() - {JOURNAL}
        if unknown:
            raise StoreError(
                f"Table {table} has columns the record type {kind.name} does not: {', '.join(sorted(unknown))}. "
                "Was it written by a newer version? A removed column needs a new version of the type."
            )


def _last_ddl(kind: RecordType) -> str:
    columns = [f"{quoted(name)} {duckdb_type(dtype)}" for name, dtype in kind.schema.items()]
    order = duckdb_type(kind.schema[kind.order or "event_time"])
    columns += [f"{JOURNAL} USMALLINT", f"{MARK} {order}", f"{MARKED_AT} TIMESTAMPTZ", f"{UNMARKED} BOOLEAN"]
    return f"CREATE TABLE {quoted(last_table(kind))} ({', '.join(columns)})"


def _same_spelling(type_: str) -> str:
    return type_.replace("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE").replace(", ", ",")


def fetch(connection: duckdb.DuckDBPyConnection, statement: str, values: Mapping[str, Any]) -> pl.DataFrame:
    """What a statement gives, times in UTC under that name."""
    found = pl.from_arrow(connection.sql(statement, params=dict(values)).to_arrow_table())
    assert isinstance(found, pl.DataFrame)
    return found.with_columns(pl.col(pl.Datetime).dt.convert_time_zone("UTC"))


def shaped(kind: RecordType, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows as the engine gives them, in exactly the columns and types of the record type."""
    return rows.select(pl.col(name).cast(dtype) for name, dtype in kind.schema.items() if name in rows.columns)
