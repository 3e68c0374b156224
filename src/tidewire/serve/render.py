"""Answers as bytes: JSON, NDJSON, CSV, Arrow, Parquet, all straight from columns.

JSON carries the meta beside the rows, Arrow and Parquet as JSON under ``tidewire`` in their schema's metadata; every
format has the short facts in headers.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tidewire.errors import nearest
from tidewire.records.forms import Numbers, for_json, json_rows, ndjson_rows
from tidewire.records.record import RecordType
from tidewire.serve.problems import Refused
from tidewire.serve.service import Answer

FORMATS = {
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "csv": "text/csv",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}
COLUMNAR = frozenset({"arrow", "parquet"})
_MEDIA = {media: name for name, media in FORMATS.items()} | {
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
}
_RANGES = {"*/*": "json", "application/*": "json", "text/*": "csv"}
# A spreadsheet runs a cell that begins with one of these.
_FORMULA = r"^[=+\-@\t\r]"


@dataclass(frozen=True)
class Rendered:
    """The body of an answer, its media type and headers."""

    body: bytes
    media: str
    headers: Mapping[str, str]


def choose(accept: str | None, wanted: str | None) -> str:
    """The format to answer in: ``format=`` if given, else the best of ``Accept``; `Refused` with 406 if none fits."""
    valid = ", ".join(f"{name} ({media})" for name, media in FORMATS.items())
    if wanted:
        if wanted in FORMATS:
            return wanted
        raise Refused(
            "not_acceptable", f"format: {wanted!r} is not one.{nearest(wanted, FORMATS)} Valid: {valid}.", 406
        )
    offers = [_offer(part, place) for place, part in enumerate((accept or "*/*").split(","))]
    quality, _, _, name = max(offers)
    if not quality:
        raise Refused("not_acceptable", f"Accept: nothing of {accept!r} can be given. Valid: {valid}.", 406)
    return name


def _offer(part: str, place: int) -> tuple[float, bool, int, str]:
    """What to compare parts of ``Accept`` by: quality, named or a range, place."""
    media, _, parameters = part.strip().lower().partition(";")
    media = media.strip()
    name = _MEDIA.get(media) or _RANGES.get(media) or ""
    return _quality(parameters) if name else 0.0, media in _MEDIA, -place, name


def _quality(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def render(answer: Answer, form: str) -> Rendered:
    """The answer in a format of `FORMATS`."""
    body = _BODIES[form](answer)
    media = FORMATS[form] + ("; charset=utf-8" if form == "csv" else "")
    return Rendered(body, media, _headers(answer, form))


def _headers(answer: Answer, form: str) -> dict[str, str]:
    meta = answer.meta
    headers = {
        "x-tidewire-type": f"{meta['type']}; version={meta['version']}",
        "x-tidewire-rows": str(meta["rows"]),
        "x-tidewire-snapshot": meta["snapshot"],
        "x-tidewire-watermark": meta["watermark"],
        "x-tidewire-sources": ", ".join(quote(name) for name in meta["sources"]),
        "x-tidewire-gaps": str(len(meta.get("gaps", ())) + meta.get("gaps_left_out", 0)),
        "cache-control": "no-store",
        "vary": "accept",
    }
    if answer.next_cursor:
        headers["x-tidewire-next-cursor"] = answer.next_cursor
    if form in COLUMNAR:
        suffix = "arrows" if form == "arrow" else form
        headers["content-disposition"] = f'attachment; filename="{meta["type"]}.{suffix}"'
    return headers


def _json(answer: Answer) -> bytes:
    rows = json_rows(answer.rows, answer.numbers)
    return b'{"data":' + rows + b',"meta":' + msgspec.json.encode(answer.meta) + b"}"


def _ndjson(answer: Answer) -> bytes:
    return ndjson_rows(answer.rows, answer.numbers)


def _csv(answer: Answer) -> bytes:
    return csv_rows(answer.rows, answer.numbers)


def csv_rows(rows: pl.DataFrame, numbers: Numbers = "text") -> bytes:
    """CSV with a header line. Text a spreadsheet would run as a formula gets a leading ``'``; lists are JSON."""
    columns: list[pl.Expr] = []
    shown = for_json(rows, numbers)
    for name, dtype in rows.schema.items():
        if dtype == pl.String():
            column = pl.col(name)
            risky = column.str.contains(_FORMULA)
            columns.append(pl.when(risky).then(pl.concat_str(pl.lit("'"), column)).otherwise(column).alias(name))
        elif isinstance(dtype, pl.List):
            texts = [None if cell is None else msgspec.json.encode(cell.to_list()).decode() for cell in shown[name]]
            columns.append(pl.lit(pl.Series(name, texts, dtype=pl.String)))
    return shown.with_columns(columns).write_csv().encode()


def table(kind: RecordType, rows: pl.DataFrame, meta: Mapping[str, Any]) -> Any:
    """The rows as a `pyarrow.Table`: roles and units on its columns, the meta under ``tidewire``."""
    plain = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
    fields = [
        field.with_nullable(kind.fields[field.name].nullable).with_metadata(
            {"role": kind.fields[field.name].role, "unit": kind.fields[field.name].unit}
        )
        for field in plain.schema
    ]
    schema = pa.schema(fields, {b"tidewire": msgspec.json.encode(meta)})
    return pa.Table.from_arrays(plain.columns, schema=schema)


def _arrow(answer: Answer) -> bytes:
    whole = table(answer.type, answer.rows, answer.meta)
    sink = io.BytesIO()
    # Uncompressed: the Arrow readers of some languages know no compression.
    with pa.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole)
    return sink.getvalue()


def _parquet(answer: Answer) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table(answer.type, answer.rows, answer.meta), sink, compression="zstd")
    return sink.getvalue()


_BODIES = {"json": _json, "ndjson": _ndjson, "csv": _csv, "arrow": _arrow, "parquet": _parquet}
