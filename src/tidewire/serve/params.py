"""From the parameters of a request to a `Query`: every value checked, every refusal says what is valid."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Literal, cast

import polars as pl

from tidewire.errors import NotFound, QueryError, nearest
from tidewire.records.forms import Numbers
from tidewire.records.market import INTERVALS
from tidewire.records.record import Field, RecordType, types
from tidewire.serve.problems import Refused
from tidewire.store.protocol import Order, Query

Params = Mapping[str, Sequence[str]]
"""The parameters of a request, each with every value it was given."""

FORM = ("format", "numbers")
"""Parameters about the answer's form, not its rows."""
READ = (
    *(
        "symbol",
        "start",
        "end",
        "limit",
        "cursor",
        "as_of",
        "snapshot",
        "fields",
        "order",
        "revisions",
        "prefer",
        "ts_unit",
    ),
    *FORM,
)
LATEST = ("symbol", "limit", "as_of", "snapshot", "fields", "prefer", "ts_unit", *FORM)
_RESERVED = frozenset(READ) - {"symbol"}
AUDIT = ("source", "type", "start", "end", "ts_unit", "frames")
FRAMES: Mapping[str, Literal["none", "differing", "all"]] = {"false": "none", "differing": "differing", "true": "all"}
"""What ``frames=`` of an audit can be: whose rows are named."""
RESAMPLED = ("trade", "kline")
"""Types that can be read as bars of another length, with ``resample=``."""

MAX_ROWS = 100_000
MAX_ROWS_COLUMNAR = 1_000_000
DEFAULT_ROWS = 1_000
MAX_VALUES = 1_000

SHORT = {"symbol": "instrument", "type": "record_type"}
"""Parameters that are another name of a column; those of instruments are resolved."""

_ALIASES = {"quarantine": "quarantined"}
_UNITS_PER_S = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)
_INTEGER = re.compile(r"-?\d{1,20}")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d{1,9})?([Zz]|[+ -]\d\d:\d\d)")


@dataclass(frozen=True)
class AuditRequest:
    """A request for an audit: of which sources, types and hours, and whose rows are to be named."""

    sources: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    start: datetime | None = None
    end: datetime | None = None
    frames: Literal["none", "differing", "all"] = "none"


@dataclass(frozen=True)
class Request:
    """A read request, understood."""

    query: Query
    cursor: str = ""
    numbers: Numbers = "text"


def type_named(name: str) -> RecordType:
    """The record type of that name; plurals and ``quarantine`` are accepted. `NotFound` with the nearest valid."""
    known = types()
    for spelling in (name, _ALIASES.get(name, name), name.removesuffix("s")):
        if spelling in known:
            return known[spelling]
    raise NotFound(f"No record type {name!r}.{nearest(name, known)} Valid: {', '.join(known)}.")


def filters(kind: RecordType) -> dict[str, Field]:
    """The columns of a type that can be filtered by value: its key, and what is text or yes/no."""
    return {
        name: field
        for name, field in kind.fields.items()
        if field.role not in {"time", "json"} and (field.key or field.dtype in (pl.String(), pl.Boolean()))
    }


def known(kind: RecordType, *, latest: bool = False) -> list[str]:
    """Every parameter a read of the type understands."""
    columns = filters(kind)
    names = [name for name in (LATEST if latest else READ) if name not in SHORT]
    names += [*columns, *(short for short, column in SHORT.items() if column in columns)]
    return sorted({*names, "resample"} if kind.name in RESAMPLED and not latest else set(names))


def understand(
    kind: RecordType, params: Params, resolve: Callable[[str], str], *, columnar: bool = False, latest: bool = False
) -> Request:
    """The request that the parameters spell, or a `QueryError` that says what is wrong with which.

    ``columnar`` answers may have more rows. ``latest`` accepts the parameters of a read of latest values.
    """
    valid = known(kind, latest=latest)
    for name in params:
        if name not in valid:
            raise Refused("unknown_parameter", _unknown(kind, name, valid))
    unit = _one(params, "ts_unit", _UNITS_PER_S, "us")
    start, end = _range(params, unit)
    where = _where(kind, params, resolve)
    query = Query(
        type=kind,
        where=where,
        start=start,
        end=end,
        as_of=time_of(params, "as_of", unit),
        snapshot=time_of(params, "snapshot", unit),
        order=cast("Order", _one(params, "order", ("asc", "desc"), "asc")),
        limit=_limit(params, MAX_ROWS_COLUMNAR if columnar else MAX_ROWS, MAX_ROWS if latest else DEFAULT_ROWS),
        interval=_resample(kind, params, where),
        revisions=cast("Literal['latest', 'all']", _one(params, "revisions", ("latest", "all"), "latest")),
        prefer=_list(params, "prefer"),
    )
    shown = types()["kline"] if query.interval else kind
    return Request(
        query=_with_fields(query, shown, params),
        cursor=_last(params, "cursor"),
        numbers=cast("Numbers", _one(params, "numbers", ("text", "float"), "text")),
    )


def understand_audit(params: Params) -> AuditRequest:
    """The audit that the parameters ask for, or an error that says what is wrong with which."""
    for name in params:
        if name not in AUDIT:
            text = f"The audit has no parameter {name!r}.{nearest(name, AUDIT)} Valid: {', '.join(AUDIT)}."
            raise Refused("unknown_parameter", text)
    start, end = _range(params, _one(params, "ts_unit", _UNITS_PER_S, "us"))
    kinds = tuple(type_named(name).name for name in _list(params, "type"))
    frames = FRAMES[_one(params, "frames", FRAMES, "false")]
    return AuditRequest(tuple(_list(params, "source")), kinds, start, end, frames)


def _range(params: Params, unit: str) -> tuple[datetime | None, datetime | None]:
    start, end = time_of(params, "start", unit), time_of(params, "end", unit)
    if start and end and start >= end:
        raise QueryError(
            f"start ({start.isoformat()}) must be before end ({end.isoformat()}); the range is [start, end)."
        )
    return start, end


def _with_fields(query: Query, shown: RecordType, params: Params) -> Query:
    names = _list(params, "fields")
    for name in names:
        if name not in shown.fields:
            raise QueryError(
                f"fields: {shown.name} has no column {name!r}.{nearest(name, shown.fields)} "
                f"Valid: {', '.join(shown.fields)}."
            )
    if len(set(names)) < len(names):
        raise QueryError(f"fields: each column once, found {','.join(names)!r}.")
    return replace(query, fields=tuple(names))


def _unknown(kind: RecordType, name: str, valid: Iterable[str]) -> str:
    column = kind.fields.get(name)
    if column is not None:
        return (
            f"{kind.name} cannot be filtered by {name!r}, a column of role {column.role}; times go by start= and end=. "
            f"Valid: {', '.join(valid)}."
        )
    return f"{kind.name} has no parameter {name!r}.{nearest(name, valid)} Valid: {', '.join(valid)}."


def _last(params: Params, name: str) -> str:
    values = params.get(name) or ("",)
    if len(values) > 1:
        raise QueryError(f"{name}: given {len(values)} times; give it once.")
    return values[0]


def _list(params: Params, name: str) -> list[str]:
    """Values given repeatedly or separated by commas."""
    found = [part.strip() for value in params.get(name, ()) for part in value.split(",")]
    if params.get(name) and not all(found):
        raise QueryError(f"{name}: found an empty value in {','.join(params[name])!r}; leave it out or give one.")
    if len(found) > MAX_VALUES:
        raise QueryError(f"{name}: {len(found)} values; at most {MAX_VALUES} in one request.")
    return found


def _one(params: Params, name: str, valid: Iterable[str], default: str) -> str:
    value = _last(params, name) or default
    if value not in valid:
        raise QueryError(f"{name}: {value!r} is not valid.{nearest(value, valid)} Valid: {', '.join(valid)}.")
    return value


def _limit(params: Params, most: int, default: int) -> int:
    text = _last(params, "limit")
    if not text:
        return default
    if not re.fullmatch(r"\d{1,9}", text) or not 1 <= int(text) <= most:
        raise QueryError(
            f"limit: {text!r} is not valid; a whole number from 1 to {most:,}. More rows: follow next_cursor."
        )
    return int(text)


def _where(kind: RecordType, params: Params, resolve: Callable[[str], str]) -> dict[str, tuple[str, ...]]:
    where: dict[str, tuple[str, ...]] = {}
    for name, field in filters(kind).items():
        spellings = [name, *(short for short, column in SHORT.items() if column == name)]
        values = [value for spelling in spellings if spelling not in _RESERVED for value in _list(params, spelling)]
        if name == "instrument":
            values = [value if "*" in value else resolve(value) for value in values]
        for value in values:
            _check_value(name, field, value)
        if values:
            where[name] = tuple(dict.fromkeys(values))
    return where


def _check_value(name: str, field: Field, value: str) -> None:
    if field.dtype == pl.Boolean():
        choices = ("true", "false")
    elif field.dtype == pl.String():
        choices = field.choices
        if "*" in value:
            return
    elif field.dtype == pl.Date():
        _check_day(name, value)
        return
    elif re.fullmatch(r"[+-]?\d+(\.\d+)?", value):
        return
    else:
        raise QueryError(f"{name}: {value!r} is not a number.")
    if choices and value not in choices:
        raise QueryError(f"{name}: {value!r} is not valid.{nearest(value, choices)} Valid: {', '.join(choices)}.")


def _check_day(name: str, value: str) -> None:
    try:
        date.fromisoformat(value)
    except ValueError:
        raise QueryError(f"{name}: {value!r} is not a day; write it as 2026-01-05.") from None


def _resample(kind: RecordType, params: Params, where: Mapping[str, Sequence[str]]) -> str | None:
    fixed = [name for name, seconds in INTERVALS.items() if seconds]
    if not params.get("resample"):
        return None
    wanted = _one(params, "resample", fixed, "")
    if kind.name == "kline":
        given = where.get("interval", ())
        if len(given) != 1 or given[0] not in fixed:
            raise QueryError("resample: say from which bars, with one interval=, e.g. interval=1m&resample=5m.")
        if INTERVALS[wanted] % INTERVALS[given[0]] or wanted == given[0]:
            fitting = [name for name in fixed if not INTERVALS[name] % INTERVALS[given[0]] and name != given[0]]
            raise QueryError(
                f"resample: {wanted!r} bars cannot be made of {given[0]!r} bars. Valid: {', '.join(fitting)}."
            )
    return wanted


def time_of(params: Params, name: str, unit: str = "us") -> datetime | None:
    """A moment: RFC 3339 with zone, a date (its midnight, UTC), or an integer in ``unit`` since 1970."""
    text = _last(params, name).strip()
    if not text:
        return None
    try:
        moment = _moment(text, unit)
    except (ValueError, OverflowError):
        raise QueryError(
            f"{name}: {text!r} is not a time. Valid: RFC 3339 with a zone (2026-01-05T01:30:00Z), a date (2026-01-05, "
            f"midnight UTC), or an integer since 1970 in ts_unit (now {unit})."
        ) from None
    if not _EARLIEST <= moment < _LATEST:
        units = ", ".join(_UNITS_PER_S)
        raise QueryError(
            f"{name}: {text!r} is {moment.date().isoformat()}, outside 1990 to 2100. An integer is read in ts_unit, "
            f"now {unit!r}; valid: {units}."
        )
    return moment


def _moment(text: str, unit: str) -> datetime:
    if _INTEGER.fullmatch(text):
        micros = int(text) * 1_000_000 // _UNITS_PER_S[unit]
        # Far outside the range anyway; a datetime could not hold it.
        return _EPOCH + timedelta(microseconds=max(-(10**16), min(10**17, micros)))
    if _DATE.fullmatch(text):
        day = date.fromisoformat(text)
        return datetime(day.year, day.month, day.day, tzinfo=UTC)
    found = _RFC3339.fullmatch(text)
    if not found:
        raise ValueError(text)
    day, clock, fraction, zone = found.groups()
    # A '+' that was not encoded in a URL arrives as a space.
    zone = "+00:00" if zone in "Zz" else zone.replace(" ", "+")
    return datetime.fromisoformat(f"{day}T{clock}{(fraction or '.0')[:7].ljust(7, '0')}{zone}").astimezone(UTC)
