"""Rows of any record type: good ones, and ones that are broken in every way its rules know."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any

import polars as pl

from tidewire.records.record import Field, RecordType, types

NOW = datetime(2026, 1, 5, 1, 30, tzinfo=UTC)
FAMILIES = ("market", "reference", "ops")
KINDS = [kind for kind in types().values() if kind.family in FAMILIES]

GOOD: dict[str, list[Any]] = {
    "price": ["1.5", "2", "0.000000000001", "99999999999999.999999999999"],
    "size": ["1", "0.00000001", "250"],
    "amount": ["1", "1234567.12345678"],
    "coin": ["1", "0.000000000000000001"],
    "ratio": [0.0, -0.5, 1e-9],
    "count": [0, 1, 2**62],
    "sequence": [0, 17, 2**62],
    "ordinal": [0, 3],
    "time": [NOW, NOW + timedelta(microseconds=1), NOW + timedelta(days=1)],
    "day": [date(2026, 1, 5), date(1990, 12, 19)],
    "text": ["x", "名称", 'a "quoted"\n\tline', " "],
    "symbol": ["BTC-USDT.BINANCE", "600000.SH"],
    "flag": [True, False],
    "json": ["{}", '{"a":1}'],
    "prices": [["2", "1"], ["1.5"], []],
    "sizes": [["2", "1"], ["1.5"], []],
}
BROKEN: dict[str, list[Any]] = {
    "price": ["0", "-1"],
    "size": ["0", "-0.00000001"],
    "amount": ["-1"],
    "coin": ["-1"],
    "ratio": [float("nan"), float("inf"), float("-inf")],
    "count": [-1],
    "sequence": [-1],
    "ordinal": [-1],
    "time": [
        datetime(1970, 1, 21, tzinfo=UTC),
        datetime(1989, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2100, 1, 1, tzinfo=UTC),
    ],
    "day": [date(1899, 12, 31), date(2100, 1, 1)],
    "text": ["", "no such choice"],
    "symbol": ["", "ab"],
    "flag": [],
    "json": [""],
    "prices": [[None], ["1", None], ["1", "2", "3", "4"]],
    "sizes": [[None], ["1", None], ["1", "2", "3", "4"]],
}


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _same(value: Any) -> Any:
    return value


def good_row(kind: RecordType) -> dict[str, Any]:
    """The documented examples, made consistent with each other where the type asks for it."""
    read = {"time": moment, "day": date.fromisoformat}
    row = {name: read.get(field.role, _same)(field.example) for name, field in kind.fields.items()}
    if kind.name == "kline":
        row["close_time"] = row["open_time"] + timedelta(minutes=1)
    if kind.name == "order_book":
        row |= {"bid_prices": ["1.5", "1.4"], "ask_prices": ["1.6", "1.7"]}
    return row


def frame_of(kind: RecordType, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """A frame in the shape of the type; decimals may be text."""
    columns: list[pl.Series] = []
    for name, dtype in kind.schema.items():
        values = [row.get(name) for row in rows]
        if isinstance(dtype, pl.Decimal):
            texts = [value if value is None else str(value) for value in values]
            columns.append(pl.Series(name, texts, dtype=pl.String).cast(dtype))
        elif isinstance(dtype, pl.List):
            columns.append(pl.Series(name, values, dtype=pl.List(pl.String)).cast(dtype))
        else:
            columns.append(pl.Series(name, values, dtype=dtype))
    return pl.DataFrame(columns)


def random_cell(field: Field, rng: Random) -> Any:
    """Anything the column can hold: good, broken or missing."""
    good = list(field.choices) or GOOD[field.role]
    return rng.choice([None, rng.choice(good), *(BROKEN[field.role] or [None])])


def random_rows(kind: RecordType, rng: Random, *, broken: bool) -> pl.DataFrame:
    """Up to a dozen rows; ``broken`` ones have from none to all of their cells replaced."""
    rows: list[dict[str, Any]] = []
    for _ in range(rng.randrange(13)):
        row = good_row(kind)
        for name, field in kind.fields.items():
            row[name] = rng.choice([row[name], rng.choice(list(field.choices) or GOOD[field.role])])
            if field.nullable and rng.random() < 0.2:
                row[name] = None
        if broken:
            share = rng.choice([0.0, 0.05, 0.3, 1.0])
            row |= {name: random_cell(field, rng) for name, field in kind.fields.items() if rng.random() < share}
        rows.append(row)
    return frame_of(kind, rows)
