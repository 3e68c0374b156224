from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from random import Random
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tidewire.records import MarketRecord, types
from tidewire.records.forms import ddl, duckdb_type, for_json, json_rows, json_schema, ndjson_rows, reference, row_texts
from tidewire.records.market import FundingRate, OrderBook, Trade
from tidewire.records.record import RecordType, forget
from tidewire.records.roles import Text
from unit.records.kit import KINDS, NOW, frame_of, good_row, moment, random_rows

EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)

PYTHON = {"string": str, "number": float, "integer": int, "boolean": bool, "array": list, "null": type(None)}


def complaints(schema: dict[str, Any], value: Any) -> list[str]:
    """What a validator says; only the words the schemas use, any other is an error here."""
    known = {"type", "format", "items", "description", "examples", "enum"}
    assert set(schema) <= known, schema
    allowed = [PYTHON[name] for name in ([schema["type"]] if isinstance(schema["type"], str) else schema["type"])]
    if type(value) not in allowed:
        return [f"{value!r} is not {schema['type']}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{value!r} is none of {schema['enum']}"]
    if isinstance(value, list):
        return [found for item in value for found in complaints(schema["items"], item)]
    if schema.get("format") == "decimal" and value is not None and f"{Decimal(value):f}" != value:
        return [f"{value!r} is no plain decimal"]
    if schema.get("format") == "date-time" and value is not None and moment(value).tzinfo != UTC:
        return [f"{value!r} is no time"]
    if schema.get("format") == "date" and value is not None and date.fromisoformat(value).isoformat() != value:
        return [f"{value!r} is no day"]
    return []


def database() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone = 'UTC'")
    return connection


@EVERY_KIND
def test_a_table_takes_the_rows_and_gives_them_back(kind: RecordType) -> None:
    rows = pl.concat([random_rows(kind, Random(seed), broken=False) for seed in range(3)])
    rows = rows.filter(kind.check(rows) & null_bits(kind) == 0)
    assert rows.height
    with database() as connection:
        connection.execute(ddl(kind))
        connection.execute(ddl(kind))  # a table that is there already stays
        table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
        connection.register("rows", table)
        connection.execute(f"INSERT INTO {kind.table} SELECT * FROM rows")
        found = pl.from_arrow(connection.sql(f"SELECT * FROM {kind.table}").to_arrow_table())
    assert isinstance(found, pl.DataFrame)
    assert_frame_equal(found.cast(dict(kind.schema)), rows, check_exact=True)
    assert {name: str(dtype) for name, dtype in found.schema.items() if isinstance(dtype, pl.Decimal)} == {
        name: str(dtype) for name, dtype in kind.schema.items() if isinstance(dtype, pl.Decimal)
    }


def null_bits(kind: RecordType) -> int:
    return sum(1 << place for place, name in enumerate(kind.rules) if name.endswith("|nullability"))


@EVERY_KIND
def test_the_columns_of_a_table_have_the_stated_types(kind: RecordType) -> None:
    with database() as connection:
        connection.execute(ddl(kind))
        described = connection.execute(
            "SELECT column_name, data_type, is_nullable FROM duckdb_columns() WHERE table_name = ?", [kind.table]
        ).fetchall()
    assert [name for name, _, _ in described] == list(kind.fields)
    for name, storage, nullable in described:
        field = kind.fields[name]
        stated = duckdb_type(field.dtype).replace("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE").replace(", ", ",")
        assert (storage, nullable) == (stated, field.nullable)


def test_a_column_may_be_called_like_a_word_of_sql() -> None:
    class HailStorm(MarketRecord):
        """Hail."""

        order = Text("An order.")
        group = Text("A group.", nullable=True)

    forget("hail_storm")
    with database() as connection:
        connection.execute(ddl(HailStorm.type))


@EVERY_KIND
@given(seed=st.integers(0, 2**32))
@settings(deadline=None)
def test_json_rows_are_what_the_schema_says(kind: RecordType, seed: int) -> None:
    schema = json_schema(kind)
    rows = random_rows(kind, Random(seed), broken=False)
    decoded = json.loads(json_rows(rows))
    assert len(decoded) == rows.height
    for row in decoded:
        assert list(row) == list(schema["properties"])
        assert [found for name in row for found in complaints(schema["properties"][name], row[name])] == []


@EVERY_KIND
def test_a_schema_names_every_column_key_and_version(kind: RecordType) -> None:
    schema = json_schema(kind)
    json.dumps(schema)
    assert (schema["type"], schema["title"]) == ("object", kind.record.__name__)
    assert list(schema["properties"]) == list(kind.fields)
    assert schema["required"] == [name for name, field in kind.fields.items() if not field.nullable]
    assert (schema["x-key"], schema["x-version"]) == (list(kind.key), kind.version)
    for name, form in schema["properties"].items():
        field = kind.fields[name]
        assert form["description"].startswith(field.about)
        assert complaints(form, form["examples"][0]) == []
        assert complaints(form, None) == [] if field.nullable else complaints(form, None)
        for choice in field.choices:
            assert complaints(form, choice) == []


@EVERY_KIND
def test_each_line_is_one_row(kind: RecordType) -> None:
    rows = random_rows(kind, Random(11), broken=False)
    lines = ndjson_rows(rows).splitlines()
    assert [json.loads(line) for line in lines] == json.loads(json_rows(rows))
    assert [json.loads(text) for text in row_texts(kind, rows)] == json.loads(json_rows(rows))


@EVERY_KIND
def test_no_rows_are_an_empty_array_and_no_lines(kind: RecordType) -> None:
    assert json.loads(json_rows(kind.empty())) == []
    assert ndjson_rows(kind.empty()) == b""


def shown(price: str | None) -> Any:
    return json.loads(json_rows(frame_of(Trade.type, [good_row(Trade.type) | {"price": price}])))[0]["price"]


@pytest.mark.parametrize(
    ("price", "text"),
    [
        ("61837.630000", "61837.63"),
        ("200", "200"),
        ("0", "0"),
        ("-0.50", "-0.5"),
        ("0.000000000001", "0.000000000001"),
        ("100.001", "100.001"),
        ("9" * 26 + "." + "9" * 12, "9" * 26 + "." + "9" * 12),
        (None, None),
    ],
)
def test_decimals_are_text_without_trailing_zeros(price: str | None, text: str | None) -> None:
    assert shown(price) == text


@given(st.decimals(places=12, min_value=-(10**24), max_value=10**24))
@settings(deadline=None)
def test_no_digit_of_a_decimal_is_lost(price: Decimal) -> None:
    text = shown(str(price))
    assert Decimal(text) == price
    assert "E" not in text
    assert "." not in text or not text.endswith(("0", "."))


def test_decimals_are_numbers_when_asked_for_also_in_lists() -> None:
    rows = frame_of(OrderBook.type, [good_row(OrderBook.type) | {"bid_prices": ["1.5", "1.40"], "bid_sizes": []}])
    row = json.loads(json_rows(rows, "float"))[0]
    assert (row["bid_prices"], row["bid_sizes"]) == ([1.5, 1.4], [])
    assert json.loads(json_rows(rows))[0]["bid_prices"] == ["1.5", "1.4"]
    trade = frame_of(Trade.type, [good_row(Trade.type) | {"price": "61837.63"}])
    assert json.loads(ndjson_rows(trade, "float"))["price"] == 61837.63


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (NOW, "2026-01-05T01:30:00.000000Z"),
        (datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "1999-12-31T23:59:59.999999Z"),
        (datetime(2026, 1, 5, 1, 30, 0, 1, tzinfo=UTC), "2026-01-05T01:30:00.000001Z"),
    ],
)
def test_times_are_rfc_3339_with_microseconds(at: datetime, text: str) -> None:
    assert for_json(frame_of(Trade.type, [good_row(Trade.type) | {"event_time": at}]))["event_time"][0] == text


def test_missing_is_null_never_zero() -> None:
    row = good_row(FundingRate.type) | {"mark_price": None, "interval_hours": None, "detail": None}
    found = json.loads(json_rows(frame_of(FundingRate.type, [row])))[0]
    assert (found["mark_price"], found["interval_hours"], found["detail"]) == (None, None, None)


@EVERY_KIND
def test_the_reference_page_names_every_column_choice_and_check(kind: RecordType) -> None:
    page = reference(kind)
    lines = page.splitlines()
    assert lines[0] == f"## `{kind.name}`"
    assert kind.about in page
    assert kind.table in page
    for name, field in kind.fields.items():
        (line,) = [line for line in lines if line.startswith(f"| `{name}` |")]
        assert line.count("|") == 7, line  # a bar in a text would break the table
        assert field.about in line
        assert field.unit in line
        assert duckdb_type(field.dtype) in line
        assert all(f"`{choice}`" in line for choice in field.choices)
    assert all(f"`{name}`" in page for name in kind.rules)


def test_every_type_there_is_has_every_form() -> None:
    for kind in types().values():
        assert ddl(kind)
        assert json_schema(kind)
        assert reference(kind)
