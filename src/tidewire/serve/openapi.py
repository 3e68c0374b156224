"""The OpenAPI document, computed from the record types that exist when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

import tidewire
from tidewire.records.forms import json_schema
from tidewire.records.market import INTERVALS
from tidewire.records.record import RecordType, types
from tidewire.serve.answers import MEDIA
from tidewire.serve.gaps import FillAsk
from tidewire.serve.params import AUDIT, FRAMES, LATEST, MAX_ROWS, READ, RESAMPLED, SHORT, filters
from tidewire.serve.problems import CODES, PROBLEM_SCHEMA
from tidewire.serve.quarantine import Ask
from tidewire.serve.reload import ReloadAsk
from tidewire.serve.render import FORMATS

_TIME = "RFC 3339 with zone, a date (midnight UTC), or an integer in ts_unit since 1970."

_ABOUT: dict[str, tuple[str, dict[str, Any], Any]] = {
    "symbol": (
        "Instruments, repeated or separated by commas: any common spelling, or a pattern with `*`.",
        {"type": "array", "items": {"type": "string"}},
        ["BTC-USDT.BINANCE"],
    ),
    "start": (f"First event_time, inclusive. {_TIME}", {"type": "string"}, "2026-01-05T00:00:00Z"),
    "end": (f"Last event_time, exclusive. {_TIME}", {"type": "string"}, "2026-01-06T00:00:00Z"),
    "limit": ("Most rows of a page.", {"type": "integer", "minimum": 1, "maximum": MAX_ROWS, "default": 1000}, 100),
    "cursor": ("`next_cursor` of the page before; repeat the other parameters.", {"type": "string"}, None),
    "as_of": (f"Only what was public by then. {_TIME}", {"type": "string"}, None),
    "snapshot": (
        f"Only what had been received by then; default: all that is stored. {_TIME}",
        {"type": "string"},
        None,
    ),
    "fields": ("Columns, separated by commas; default: all.", {"type": "string"}, None),
    "order": ("By time.", {"type": "string", "enum": ["asc", "desc"], "default": "asc"}, None),
    "revisions": (
        "The latest revision of each row, or all of them.",
        {"type": "string", "enum": ["latest", "all"], "default": "latest"},
        None,
    ),
    "prefer": (
        "Sources, the preferred one first: of rows that say the same of several, only that of the first is given.",
        {"type": "string"},
        None,
    ),
    "ts_unit": (
        "Unit of times given as integers.",
        {"type": "string", "enum": ["s", "ms", "us", "ns"], "default": "us"},
        None,
    ),
    "format": ("Form of the answer, instead of Accept.", {"type": "string", "enum": list(FORMATS)}, None),
    "numbers": (
        "Decimals as exact text, or as floats.",
        {"type": "string", "enum": ["text", "float"], "default": "text"},
        None,
    ),
    "resample": (
        "Answer with bars of this length.",
        {"type": "string", "enum": [name for name, seconds in INTERVALS.items() if seconds]},
        None,
    ),
}

_META: dict[str, Any] = {
    "type": "object",
    "title": "Meta",
    "description": "What has to be known about the rows of an answer.",
    "properties": {
        "type": {"type": "string"},
        "version": {"type": "integer"},
        "rows": {"type": "integer"},
        "snapshot": {"type": "string", "format": "date-time"},
        "watermark": {"type": "string", "format": "date-time"},
        "as_of": {"type": ["string", "null"], "format": "date-time"},
        "next_cursor": {"type": ["string", "null"]},
        "sources": {"type": "array", "items": {"type": "string"}},
        "units": {"type": "object", "additionalProperties": {"type": "string"}},
        "gaps": {
            "type": "array",
            "description": "Holes known in the range asked for, newest first.",
            "items": {"type": "object"},
        },
        "gaps_left_out": {"type": "integer"},
    },
    "required": ["type", "version", "rows", "snapshot", "watermark", "sources", "units"],
}

_ERRORS = ("400", "404", "406", "503", "504")

_PLAIN: dict[str, tuple[str, str]] = {
    "/v1/types": ("types", "Every record type: columns, units, key, order."),
    "/v1/sources": ("sources", "Every source and what it is doing."),
    "/v1/backfill": ("backfill", "How far the loading of history is, by series."),
    "/v1/audit": ("audit", "Rows received and what became of them, added up."),
    "/v1/quarantine/rules": ("quarantine_rules", "Rows in quarantine by source, type, rule and state."),
    "/livez": ("livez", "Whether the process answers. Asks nothing else."),
    "/readyz": ("readyz", "Whether work can be done: 200 or 503, and what each part says."),
}


def document() -> dict[str, Any]:
    """OpenAPI 3.1: one component and two paths for each record type."""
    known = types()
    paths: dict[str, Any] = {}
    for kind in known.values():
        paths[f"/v1/{kind.name}"] = {"get": _read(kind)}
        paths[f"/v1/{kind.name}/latest"] = {"get": _latest(kind)}
    for path, (name, about) in _PLAIN.items():
        paths[path] = {"get": _plain(name, about)}
    paths["/v1/audit"]["get"]["parameters"] = _audit()
    paths["/v1/audit"]["get"]["responses"] |= _refusals("400", "404", "503")
    paths["/v1/quarantine/{journal}/{frame}"] = {"get": _case()}
    paths["/v1/quarantine/decide"] = {"post": _decide()}
    paths["/v1/gaps/fill"] = {"post": _refill()}
    paths["/v1/sources/reload"] = {"post": _reload()}
    paths["/metrics"] = {"get": _plain("metrics", "Metrics in the Prometheus text format.", "text/plain")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tidewire", "version": tidewire.__version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": {kind.record.__name__: json_schema(kind) for kind in known.values()}
            | {"Meta": _META, "Problem": PROBLEM_SCHEMA}
            | msgspec.json.schema_components([Ask, FillAsk, ReloadAsk], ref_template="#/components/schemas/{name}")[1],
            "responses": {"Problem": _problem()},
        },
    }


def parameters(kind: RecordType, *, latest: bool = False) -> list[dict[str, Any]]:
    """Every parameter a read of the type understands, as OpenAPI parameter objects."""
    columns = filters(kind)
    names = [name for name in (LATEST if latest else READ) if name != "symbol" or "instrument" in columns]
    if kind.name in RESAMPLED and not latest:
        names.append("resample")
    found = [_parameter(name, *_ABOUT[name]) for name in names]
    for name, field in columns.items():
        if name not in names:
            schema = {"type": "array", "items": {"type": "string"}}
            short = "".join(f" `{other}=` for short." for other, column in SHORT.items() if column == name)
            found.append(_parameter(name, f"Only rows with these values.{short} {field.about}", schema, None))
    return found


def _audit() -> list[dict[str, Any]]:
    """The parameters of an audit."""
    listed = {"type": "array", "items": {"type": "string"}}
    about: dict[str, tuple[str, dict[str, Any], Any]] = {
        "source": ("Only these sources, repeated or separated by commas.", listed, None),
        "type": ("Only these record types, repeated or separated by commas.", listed, None),
        "start": (f"From the hour of this time on. {_TIME}", {"type": "string"}, None),
        "end": (f"Up to the hour of this time. {_TIME}", {"type": "string"}, None),
        "frames": (
            "Whose rows are named by reading their frames again: of no line, of those that differ, of all.",
            {"type": "string", "enum": list(FRAMES), "default": "false"},
            None,
        ),
    }
    return [_parameter(name, *(about.get(name) or _ABOUT[name])) for name in AUDIT]


def _parameter(name: str, about: str, schema: Mapping[str, Any], example: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": name,
        "in": "query",
        "required": False,
        "description": about,
        "schema": dict(schema),
    }
    if schema["type"] == "array":
        made |= {"style": "form", "explode": True}
    return made if example is None else made | {"example": example}


def _read(kind: RecordType) -> dict[str, Any]:
    return {
        "operationId": f"read_{kind.name}",
        "summary": f"Rows of {kind.name} in a time range.",
        "description": kind.about,
        "tags": [kind.family],
        "parameters": parameters(kind),
        "responses": _responses(kind),
    }


def _latest(kind: RecordType) -> dict[str, Any]:
    return {
        "operationId": f"latest_{kind.name}",
        "summary": f"The last row of each series of {kind.name}.",
        "description": kind.about,
        "tags": [kind.family],
        "parameters": parameters(kind, latest=True),
        "responses": _responses(kind),
    }


def _responses(kind: RecordType) -> dict[str, Any]:
    row = {"$ref": f"#/components/schemas/{kind.record.__name__}"}
    envelope = {
        "type": "object",
        "properties": {"data": {"type": "array", "items": row}, "meta": {"$ref": "#/components/schemas/Meta"}},
        "required": ["data", "meta"],
    }
    content: dict[str, Any] = {
        media: {"schema": {"type": "string", "contentMediaType": media}} for media in FORMATS.values()
    }
    example = {name: field.example for name, field in kind.fields.items()}
    content[FORMATS["json"]] = {"schema": envelope, "example": {"data": [example], "meta": _example_meta(kind)}}
    link = {"description": "The next page, rel=next.", "schema": {"type": "string"}}
    found = {"200": {"description": "The rows.", "headers": {"Link": link}, "content": content}}
    return found | _refusals(*_ERRORS)


def _refusals(*statuses: str) -> dict[str, Any]:
    return {status: {"$ref": "#/components/responses/Problem"} for status in statuses}


def _example_meta(kind: RecordType) -> dict[str, Any]:
    moment = "2026-01-05T01:30:00.000000Z"
    return {
        "type": kind.name,
        "version": kind.version,
        "rows": 1,
        "snapshot": moment,
        "watermark": moment,
        "as_of": None,
        "next_cursor": None,
        "sources": ["binance"],
        "units": {name: field.unit for name, field in kind.fields.items() if field.unit},
        "gaps": [],
        "gaps_left_out": 0,
    }


def _plain(name: str, about: str, media: str = "application/json") -> dict[str, Any]:
    schema = {"type": "object"} if media == "application/json" else {"type": "string"}
    return {
        "operationId": name,
        "summary": about,
        "tags": ["ops"],
        "responses": {"200": {"description": about, "content": {media: {"schema": schema}}}},
    }


def _case() -> dict[str, Any]:
    found = _plain("quarantine_show", "A frame with rows in quarantine: its bytes, the rows, all that was decided.")
    found["parameters"] = [
        {"name": name, "in": "path", "required": True, "description": about, "schema": {"type": kind}}
        for name, about, kind in (
            ("journal", "Journal, or the beginning of its name; - is the one journal that has the frame.", "string"),
            ("frame", "Sequence of the frame.", "integer"),
        )
    ]
    return found


def _asking(body: type) -> dict[str, Any]:
    return {"required": True, "content": {MEDIA: {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}}


def _refill() -> dict[str, Any]:
    found = _plain("gaps_fill", "Have a source look at its gaps again, also at those it gave up.")
    found["responses"] = {"202": found["responses"]["200"]} | _refusals("400", "404", "413", "415")
    return {**found, "requestBody": _asking(FillAsk)}


def _reload() -> dict[str, Any]:
    found = _plain(
        "sources_reload", "Look at the plugin directory now: load what is new or changed, unload what is gone."
    )
    found["responses"] |= _refusals("400", "413", "415")
    return {**found, "requestBody": _asking(ReloadAsk)}


def _decide() -> dict[str, Any]:
    found = _plain("quarantine_decide", "Release, correct or reject rows in quarantine; answers once it is stored.")
    found["requestBody"] = _asking(Ask)
    found["responses"] |= _refusals(*_ERRORS, "409", "413", "415")
    return found


def _problem() -> dict[str, Any]:
    return {
        "description": f"Why not, as RFC 9457. Codes: {', '.join(CODES)}.",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
