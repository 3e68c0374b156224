"""From what a source sent to exact columns: text to decimals, milliseconds to times, nothing rounded.

The built-in cast cuts digits beyond the scale without a word and turns garbage into null. Here both are found and
told, row by row, so that the row can be quarantined as ``not_exact``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate
from typing import Any, cast

import polars as pl
import pyarrow as pa

from tidewire.errors import nearest
from tidewire.records.record import RecordType

Values = Sequence[Any] | pl.Series
"""One column as a parser hands it over: a list of values, or a ready Series."""

Seq = Sequence[str | None]

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_DIGITS = 38


def decimals(name: str, texts: Sequence[str | None], dtype: pl.Decimal) -> tuple[pl.Series, pl.Series | None]:
    """Cast text to a decimal type.

    Returns the column and a mask of the rows that do not fit exactly (null in the column), or ``None`` when all do.
    Null stays null and is exact.
    """
    column = pl.Series(name, texts, dtype=pl.String)
    quick = column.cast(dtype, strict=False)
    if quick.null_count() == column.null_count() and _surely_fit(texts, dtype.scale):
        return quick, None
    plain = [text if text is None else _plain(text, dtype.scale) for text in texts]
    wrong = pl.Series([new is None and old is not None for new, old in zip(plain, texts, strict=True)])
    exact = pl.Series(name, plain, dtype=pl.String).cast(dtype, strict=True)
    return exact, wrong if wrong.any() else None


def _decimal_lists(name: str, rows: Sequence[Seq | None], dtype: pl.List) -> tuple[pl.Series, pl.Series | None]:
    """`decimals` for lists: a list with one text that does not fit is null as a whole."""
    inner = cast("pl.Decimal", dtype.inner)
    texts = [text for row in rows if row is not None for text in row]
    quick = pl.Series(texts, dtype=pl.String).cast(inner, strict=False)
    if quick.null_count() == texts.count(None) and _surely_fit(texts, inner.scale):
        return _listed(name, quick, rows), None
    bad: list[bool] = []
    plain: list[Seq | None] = []
    for row in rows:
        new = None if row is None else [text if text is None else _plain(text, inner.scale) for text in row]
        bad.append(row is not None and new is not None and new.count(None) != row.count(None))
        plain.append(None if bad[-1] else new)
    column, wrong = pl.Series(name, plain, dtype=pl.List(pl.String)), pl.Series(bad)
    return column.cast(dtype), wrong if wrong.any() else None


def _listed(name: str, flat: pl.Series, rows: Sequence[Sized | None]) -> pl.Series:
    """Values one behind the other as the lists they were: a Series made of lists takes 20 µs for each of them."""
    lengths = [0 if row is None else len(row) for row in rows]
    missing = pa.array([row is None for row in rows], pa.bool_()) if None in rows else None
    offsets = pa.array(list(accumulate(lengths, initial=0)), pa.int64())
    made = pa.LargeListArray.from_arrays(offsets, flat.to_arrow(), mask=missing)
    return cast("pl.Series", pl.from_arrow(made)).alias(name)


def _surely_fit(texts: Sequence[str | None], scale: int) -> bool:
    """Whether no text has an exponent, or more than ``scale`` digits after its point.

    One search in all of them at once: an expression has a fixed cost of 100 µs, several times this.
    """
    present = cast("Sequence[str]", [text for text in texts if text is not None] if None in texts else texts)
    joined = "\n".join(present)
    return "e" not in joined and "E" not in joined and _too_long(scale).search(joined) is None


@functools.cache
def _too_long(scale: int) -> re.Pattern[str]:
    return re.compile(rf"\.\d{{{scale + 1}}}", re.ASCII)


def _plain(text: str, scale: int) -> str | None:
    """The number without exponent and spare zeros, or ``None`` where it is no number or does not fit."""
    if not _NUMBER.fullmatch(text):
        return None
    number = Decimal(text)
    if not number:
        return "0"
    _, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int):
        return None
    spare = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    fraction = max(0, -(exponent + spare))
    whole = max(0, len(digits) + exponent)
    if fraction > scale or whole > _DIGITS - scale:
        return None
    plain = f"{number:f}"
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


@dataclass(frozen=True)
class Built:
    """Rows of one type, and the cells that could not be taken exactly."""

    rows: pl.DataFrame
    not_exact: Mapping[int, dict[str, Any]]
    """Row index → the offending columns and what was found in them."""


def build(kind: RecordType, columns: Mapping[str, Values | str | bool | None], height: int) -> Built:
    """Build a frame of a record type from columns of plain values.

    Args:
        kind: the record type.
        columns: per column a list or Series of ``height`` values, or one value for all rows; missing columns are null.
            Decimals are text, times are UTC microseconds (Int64) or ready Series, days are dates or ISO text.
        height: number of rows.

    Raises:
        ValueError: a column the type does not have, or one that is not of ``height``.
    """
    for name in columns.keys() - kind.schema.keys():
        raise ValueError(
            f"{kind.name} has no column {name!r}.{nearest(name, kind.schema)} Valid: {', '.join(kind.schema)}."
        )
    bad: dict[int, dict[str, Any]] = {}
    series: list[pl.Series] = []
    for name, dtype in kind.schema.items():
        values = columns.get(name)
        if values is None or isinstance(values, bool) or (isinstance(values, str) and dtype == pl.String):
            series.append(pl.Series(name, [values], dtype=dtype).new_from_index(0, height))
            continue
        if isinstance(values, str):
            values = [values] * height
        if len(values) != height:
            raise ValueError(f"{kind.name}: column {name!r} has {len(values)} values for {height} rows.")
        column, wrong = _typed(name, values, dtype)
        series.append(column)
        if wrong is not None:
            found = values.to_list() if isinstance(values, pl.Series) else values
            for place in wrong.arg_true():
                bad.setdefault(place, {})[name] = found[place]
    return Built(pl.DataFrame(series), bad)


def _typed(name: str, values: Values, dtype: pl.DataType) -> tuple[pl.Series, pl.Series | None]:
    if isinstance(values, pl.Series) and values.dtype == dtype:
        return values.alias(name), None
    if isinstance(dtype, pl.Decimal):
        return decimals(name, values.to_list() if isinstance(values, pl.Series) else values, dtype)
    if isinstance(dtype, pl.Float64) and len(values) and any(isinstance(value, str) for value in values):
        text = pl.Series(name, values, dtype=pl.String)
        numbers = text.cast(pl.Float64, strict=False)
        wrong = numbers.is_null() & text.is_not_null()
        return numbers, wrong if wrong.any() else None
    if isinstance(dtype, pl.Datetime):
        if isinstance(values, pl.Series) and values.dtype.is_temporal():
            return values.alias(name).cast(dtype), None  # it knows its own unit
        return pl.Series(name, values, dtype=pl.Int64).cast(dtype), None
    if isinstance(dtype, pl.Date) and any(isinstance(value, str) for value in values):
        return _days(name, values)
    if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Decimal):
        return _decimal_lists(name, values.to_list() if isinstance(values, pl.Series) else values, dtype)
    if isinstance(dtype, pl.List):
        return pl.Series(name, values).cast(dtype), None
    return pl.Series(name, values, dtype=dtype), None


def _days(name: str, values: Values) -> tuple[pl.Series, pl.Series | None]:
    """ISO text to days; only ``2026-01-05``, so that nothing is a day by luck."""
    text = pl.Series(name, values, dtype=pl.String)
    shaped = text.str.contains(r"^\d{4}-\d\d-\d\d$")
    days = text.zip_with(shaped.fill_null(value=False), pl.Series([None], dtype=pl.String)).str.to_date(
        "%Y-%m-%d", strict=False
    )
    wrong = days.is_null() & text.is_not_null()
    return days, wrong if wrong.any() else None
