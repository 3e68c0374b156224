"""The other forms of a record type: DuckDB DDL, JSON rows, JSON Schema (OpenAPI), the reference page.

All of them are computed from the class; a new type needs no line here.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import msgspec
import polars as pl

from tidewire.records.record import Field, RecordType

Numbers = Literal["text", "float"]

_ENCODER = msgspec.json.Encoder()

_DUCKDB: dict[type[pl.DataType] | pl.DataType, str] = {
    pl.Int32(): "INTEGER",
    pl.Int64(): "BIGINT",
    pl.Float64(): "DOUBLE",
    pl.Boolean(): "BOOLEAN",
    pl.String(): "VARCHAR",
    pl.Date(): "DATE",
    pl.Datetime("us", "UTC"): "TIMESTAMPTZ",
}


def duckdb_type(dtype: pl.DataType) -> str:
    """The DuckDB type a column is stored in."""
    if isinstance(dtype, pl.Decimal):
        return f"DECIMAL({dtype.precision}, {dtype.scale})"
    if isinstance(dtype, pl.List):
        return duckdb_type(dtype.inner) + "[]"  # pyright: ignore[reportArgumentType] - always an instance here
    return _DUCKDB[dtype]


def ddl(kind: RecordType) -> str:
    """``CREATE TABLE`` for the type; the key is kept unique by the sink, not by an index."""
    columns = [
        f'  "{name}" {duckdb_type(field.dtype)}{"" if field.nullable else " NOT NULL"}'
        for name, field in kind.fields.items()
    ]
    return f"CREATE TABLE IF NOT EXISTS {kind.table} (\n" + ",\n".join(columns) + "\n)"


def for_json(rows: pl.DataFrame, numbers: Numbers = "text") -> pl.DataFrame:
    """The rows with every column in its JSON form.

    Decimals become text without trailing zeros (``numbers="float"``: floats), times RFC 3339 with microseconds, days
    ``2026-01-05``.
    """
    return rows.select([_json_form(name, dtype, numbers) for name, dtype in rows.schema.items()])


def _json_form(name: str, dtype: pl.DataType, numbers: Numbers) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype, pl.Decimal):
        return column.cast(pl.Float64) if numbers == "float" else plain_decimal(column)
    if isinstance(dtype, pl.Datetime):
        return column.dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    if isinstance(dtype, pl.Date):
        return column.dt.strftime("%Y-%m-%d")
    if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Decimal):
        return column.list.eval(pl.element().cast(pl.Float64) if numbers == "float" else plain_decimal(pl.element()))
    return column


def plain_decimal(column: pl.Expr) -> pl.Expr:
    """Decimals as text without trailing zeros: ``61837.63``, ``200``."""
    return column.cast(pl.String).str.strip_chars_end("0").str.strip_chars_end(".")


def json_rows(rows: pl.DataFrame, numbers: Numbers = "text") -> bytes:
    """A JSON array of row objects."""
    return for_json(rows, numbers).write_json().encode()


def ndjson_rows(rows: pl.DataFrame, numbers: Numbers = "text") -> bytes:
    """One JSON object a line."""
    return for_json(rows, numbers).write_ndjson().encode()


@functools.lru_cache(256)
def _json_forms(kind: RecordType) -> list[pl.Expr]:
    return [_json_form(name, dtype, "text") for name, dtype in kind.schema.items()]


def row_texts(kind: RecordType, rows: pl.DataFrame) -> list[bytes]:
    """Each row of a type as a JSON object, for the few rows of a moment: writing a whole frame costs 300 µs more."""
    names, encode = rows.columns, _ENCODER.encode
    return [encode(dict(zip(names, row, strict=True))) for row in rows.select_seq(_json_forms(kind)).iter_rows()]


def json_schema(kind: RecordType) -> dict[str, Any]:
    """JSON Schema of one row in its JSON form: the OpenAPI component of the type."""
    return {
        "type": "object",
        "title": kind.record.__name__,
        "description": kind.about,
        "properties": {name: _json_field(field) for name, field in kind.fields.items()},
        "required": [name for name, field in kind.fields.items() if not field.nullable],
        "x-key": list(kind.key),
        "x-version": kind.version,
    }


_JSON: dict[str, dict[str, Any]] = {
    "price": {"type": "string", "format": "decimal"},
    "size": {"type": "string", "format": "decimal"},
    "amount": {"type": "string", "format": "decimal"},
    "coin": {"type": "string", "format": "decimal"},
    "ratio": {"type": "number", "format": "double"},
    "count": {"type": "integer", "format": "int64"},
    "ordinal": {"type": "integer", "format": "int32"},
    "sequence": {"type": "integer", "format": "int64"},
    "time": {"type": "string", "format": "date-time"},
    "day": {"type": "string", "format": "date"},
    "flag": {"type": "boolean"},
    "prices": {"type": "array", "items": {"type": "string", "format": "decimal"}},
    "sizes": {"type": "array", "items": {"type": "string", "format": "decimal"}},
}


def _json_field(field: Field) -> dict[str, Any]:
    about = f"{field.about} Unit: {field.unit}." if field.unit not in {"", "1", "UTC"} else field.about
    form = {**_JSON.get(field.role, {"type": "string"}), "description": about, "examples": [field.example]}
    if field.choices:
        form["enum"] = list(field.choices) + ([None] if field.nullable else [])
    if field.nullable:
        form["type"] = [form["type"], "null"]
    return form


def reference(kind: RecordType) -> str:
    """The reference page of the type, Markdown."""
    lines = [
        f"## `{kind.name}`",
        "",
        kind.about,
        "",
        f"Table `{kind.table}`, family `{kind.family}`, key `{', '.join(kind.key)}`."
        + (f" Within a series (`{', '.join(kind.series)}`) rows are ordered by `{kind.order}`." if kind.order else "")
        + (" The order counts without holes: a jump is recorded as a gap." if kind.contiguous else ""),
        "",
        "| column | role | storage | unit | null | about |",
        "|---|---|---|---|---|---|",
    ]
    for name, field in kind.fields.items():
        about = field.about + (f" One of {', '.join(f'`{c}`' for c in field.choices)}." if field.choices else "")
        mark = "yes" if field.nullable else ""
        lines.append(f"| `{name}` | {field.role} | {duckdb_type(field.dtype)} | {field.unit} | {mark} | {about} |")
    checks = ", ".join(f"`{name}`" for name in kind.rules)
    return "\n".join([*lines, "", f"Checked: {checks}.", ""])
