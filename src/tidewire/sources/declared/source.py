"""A declared source, checked and compiled: from the bytes of a reply to columns of its record type."""

from __future__ import annotations

import bisect
import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np

from tidewire.errors import ConfigError, NotFound, ParseError, nearest
from tidewire.records.instrument import uid
from tidewire.records.record import LINEAGE, Field, RecordType, record_type
from tidewire.sources.declared.decode import DECODERS, Decode, decoder
from tidewire.sources.declared.expression import Expression, RowError, Rows, expression, searcher
from tidewire.sources.declared.grammar import Action, Condition, Declared, Output
from tidewire.sources.declared.hook import Hook
from tidewire.sources.declared.recent import Recent
from tidewire.sources.declared.select import Select, selector
from tidewire.sources.declared.steps import Step, Value, text_of

RECEIVED = "received"
"""A name that every expression knows: when the reply came, UTC microseconds."""
ASKED = ("page", RECEIVED)

REFUSALS = frozenset({403, 418, 429})
"""Statuses by which sites refuse, where the file says nothing else."""
PLAIN = frozenset({403})
"""Statuses after which asking again soon is hammering."""

_DATA = frozenset({"json", "jsonp", "csv"})
"""What is no page: sites that block answer it with one, and with 200."""
_PAGE = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|script|title|meta|!--)\b", re.IGNORECASE)

_LEFT_OUT = {"source", *LINEAGE} - {"public_at"}
UID = "uid"
_IMPLIED = ("event_time", "public_at", UID)
_NUMBERS = {"price", "size", "amount", "coin"}
# What a column may hold and needs no converting.
_TEXT = {str, type(None)}
_WHOLE = {int, type(None)}
_NOTHING = {type(None)}


@dataclass(frozen=True)
class Read:
    """What a reply came to: columns, the place of each row in the reply, and what was not taken.

    ``wrong``: by row (as in ``columns``), the columns that could not be made, and why. ``filtered``: how many rows
    ``where`` left out. ``action``: what an error rule says is to be done with the reply; there are no rows then.
    ``also``: the same of the other types of the file, in its order.
    """

    columns: Mapping[str, Any] = field(default_factory=dict[str, Any])
    places: Sequence[int] = ()
    wrong: Mapping[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    filtered: int = 0
    raw: int = 0
    action: Action | None = None
    document: Any = None
    also: Sequence[Read] = ()


class Taken:
    """Raw rows that are made into one or several types: what these say in the same words is worked out once.

    ``received``: when each row came, UTC microseconds.
    """

    def __init__(self, raw: Sequence[Any], known: Mapping[str, Any], received: Sequence[int]) -> None:
        self.raw = raw
        self.received = received
        self._known = known
        self._columns: dict[str, tuple[list[Value], Mapping[int, str]]] = {}
        self._kept: dict[str, Sequence[int]] = {}

    def kept(self, keeps: Keeps | None) -> Sequence[int]:
        """The places of rows of which something is true."""
        if keeps is None:
            return range(len(self.raw))
        if keeps.text not in self._kept:
            self._kept[keeps.text] = [place for place, row in enumerate(self.raw) if keeps.search(row) is True]
        return self._kept[keeps.text]

    def of(self, made: Expression, places: Sequence[int]) -> Rows:
        """An expression's values at these places, as ``raw``; what it could not make is in ``wrong``."""
        if made.text not in self._columns:
            rows = Rows(self.raw, self._known)
            self._columns[made.text] = made.of(rows), {each.place: each.why for each in rows.wrong}
        values, wrong = self._columns[made.text]
        if len(places) == len(values):
            return Rows(values, wrong=[RowError(place, why) for place, why in wrong.items()])
        told = [RowError(at, wrong[place]) for at, place in enumerate(places) if place in wrong] if wrong else []
        return Rows([values[place] for place in places], wrong=told)


class Keeps(NamedTuple):
    """A ``where``, compiled."""

    text: str
    search: Callable[[Any], Any]


@dataclass(frozen=True)
class Made:
    """One record type that raw rows are made into."""

    kind: RecordType
    keeps: Keeps | None
    fields: Mapping[str, tuple[Field, Expression]]

    def of(self, rows: Taken) -> Read:
        """Columns of these raw rows."""
        kept = rows.kept(self.keeps)
        times = [rows.received[place] for place in kept]
        columns: dict[str, Any] = {"event_time": times, "public_at": times}
        wrong: dict[int, dict[str, Any]] = {}
        for name, (column, made) in self.fields.items():
            found = rows.of(made, kept)
            columns[name] = typed(column, found.raw, found)
            for each in found.wrong:
                wrong.setdefault(each.place, {})[name] = each.why
        if UID in self.kind.fields and UID not in columns:
            columns[UID] = [
                None if name is None or native is None else uid(name.rpartition(".")[2], native)
                for name, native in zip(columns["instrument"], columns["native"], strict=True)
            ]
        return Read(columns, kept, wrong, len(rows.raw) - len(kept), len(rows.raw))


@dataclass(frozen=True)
class Source:
    """What `compile_source` makes of a file."""

    declared: Declared
    name: str
    made: Made
    also: Sequence[Made]
    decode: Decode
    select: Select
    rules: Sequence[tuple[Callable[[Any], Any], Action]]
    conditions: Sequence[tuple[Condition, Action]]
    decoding: str = "json"
    unzip: bool = False
    folder: Path = Path()
    hook: Hook | None = None
    recent: Recent = field(default_factory=Recent, compare=False)

    @property
    def kind(self) -> RecordType:
        """What its rows are, first of all."""
        return self.made.kind

    @property
    def all_made(self) -> Sequence[Made]:
        """Every type it makes, in the order of the file."""
        return (self.made, *self.also)

    def read(self, payload: bytes, names: Mapping[str, Any], received_us: int) -> Read:
        """Rows of one reply; `ParseError` for bytes that are not what the file says."""
        document = self.decode(payload)
        for matches, action in self.rules:
            if matches(document) is True:
                return Read(action=action, document=document)
        read = self.rows(self.select(document), {**names, "doc": document}, received_us)
        return replace(read, document=document)

    def rows(self, raw: Sequence[Any], names: Mapping[str, Any], received: int | Sequence[int]) -> Read:
        """Columns of raw rows, which came at one time or each at its own: those of many replies may be one call."""
        times = [received] * len(raw) if isinstance(received, int) else received
        known = names if not times else {**names, RECEIVED: times[0]}
        total = len(raw)
        keeps = self.made.keeps
        places = Taken(raw, known, times).kept(keeps)
        if keeps is not None:  # what the file leaves out is no row of any type
            raw, times = [raw[place] for place in places], [times[place] for place in places]
        taken = Taken(raw, known, times)
        first = replace(self.made, keeps=None).of(taken)
        also = [each.of(taken) for each in self.also]
        if self.declared.expect.unit and also:
            doubted(first, also, float(self.declared.expect.unit))
        return replace(
            first,
            places=places,
            filtered=total - len(places),
            raw=total,
            also=[replace(each, places=[places[place] for place in each.places]) for each in also],
        )

    def refused(self, status: int, content_type: str) -> Action | None:
        """What is to be done with a reply by its status or content type alone; ``None``: look at its body."""
        for condition, action in self.conditions:
            if status in condition.status:
                return action
            if condition.content_type and content_type.startswith(condition.content_type):
                return action
        if status in REFUSALS:
            return "rotate"
        return None if 200 <= status < 300 else "retry" if status >= 500 else "fail"

    def blocked(self, status: int, content_type: str, body: bytes) -> Action | None:
        """What is to be done with a good reply whose body is no data; ``None``: it may be.

        A page or nothing where JSON or CSV should be is how sites refuse with 200. JSON that says it is HTML, as some
        sites do, is taken: it need only be JSON.
        """
        if self.decoding == "text" and not self.unzip and _PAGE.match(body):
            # Of text nobody knows what it may begin with; a page in another charset than the file says is none.
            return None if _reads(self.decode, body) else "rotate"
        if self.decoding not in _DATA or self.unzip or status == 204:
            return None
        if not body.strip() or _PAGE.match(body):
            return "rotate"
        if content_type.lower().startswith("text/html"):
            return None if self.decoding != "csv" and _reads(self.decode, body) else "rotate"
        return None


def known_names(declared: Declared) -> tuple[str, ...]:
    """What ``${name}`` may stand for in a file."""
    return (*ASKED, *(() if declared.since is None else ("since", "until")), *declared.for_each)


def compile_source(declared: Declared, where: str) -> Source:
    """Check everything that can be checked without the site; `ConfigError` names the key."""
    site, dot, rest = declared.source.partition(".")
    if not (site and dot and rest) or not declared.source.replace(".", "_").replace("-", "_").isidentifier():
        raise ConfigError(f"{where}: source: {declared.source!r}: write site.name, such as eastmoney.quotes.")
    decoding, charset, unzip = _decoding(declared.decode, f"{where}: decode")
    known = known_names(declared)
    made = _made(declared, known, where)
    _check_expected(declared, made, where)
    also = [_made(each, known, f"{where}: also[{place}]") for place, each in enumerate(declared.also)]
    twice = [name for name, count in Counter(each.kind.name for each in (made, *also)).items() if count > 1]
    if twice:
        raise ConfigError(f"{where}: also: {', '.join(twice)} is made twice; a file makes each type once.")
    by_code = declared.use == "python" and not declared.select
    rules: list[tuple[Callable[[Any], Any], Action]] = []
    conditions: list[tuple[Condition, Action]] = []
    for place, rule in enumerate(declared.errors):
        if isinstance(rule.when, Condition):
            conditions.append((rule.when, rule.do))
        else:
            rules.append((searcher(rule.when, f"{where}: errors[{place}].when"), rule.do))
    return Source(
        declared=declared,
        name=declared.source,
        made=made,
        also=also,
        decode=decoder(decoding, charset, unzip=unzip),
        select=_one_row if by_code else selector(decoding, declared.select, f"{where}: select"),
        rules=rules,
        conditions=conditions,
        folder=Path(where).parent,
        decoding=decoding,
        unzip=unzip,
    )


def _one_row(document: Any) -> list[Any]:
    """Where only code knows what a row is."""
    return [document]


def _reads(decode: Decode, body: bytes) -> bool:
    try:
        decode(body)
    except ParseError:
        return False
    return True


def _kind(said: str, where: str) -> RecordType:
    name, at, version = said.partition("@")
    try:
        kind = record_type(name)
    except NotFound as error:
        raise ConfigError(f"{where}: {error}") from None
    if not at or version != str(kind.version):
        raise ConfigError(f"{where}: {said!r}: write {name}@{kind.version}.")
    return kind


def _decoding(said: str | Mapping[str, Any], where: str) -> tuple[str, str, bool]:
    """``json``, ``{csv: gb18030}`` or ``{csv: gb18030, unzip: true}``."""
    section = {said: ""} if isinstance(said, str) else dict(said)
    unzip = section.pop("unzip", False)
    names = list(section)
    if len(names) != 1 or not isinstance(unzip, bool):
        raise ConfigError(f"{where}: write one of {', '.join(DECODERS)}, or {{csv: gb18030, unzip: true}}.")
    kind, charset = names[0], section[names[0]] or ""
    if kind not in DECODERS:
        raise ConfigError(f"{where}: no decoder {kind!r}.{nearest(kind, DECODERS)} Valid: {', '.join(DECODERS)}.")
    try:
        "".encode(charset or "utf-8")
    except LookupError:
        raise ConfigError(f"{where}.{kind}: no charset {charset!r}; write one such as utf-8, gbk or gb18030.") from None
    return kind, charset, unzip


def _made(said: Declared | Output, known: Sequence[str], where: str) -> Made:
    kind = _kind(said.emits, f"{where}: emits")
    valid = [name for name in kind.fields if name not in _LEFT_OUT]
    found: dict[str, tuple[Field, Expression]] = {}
    for name, text in said.fields.items():
        if name not in valid:
            raise ConfigError(
                f"{where}: fields.{name}: {kind.name} has no such column to fill.{nearest(name, valid)} "
                f"Valid: {', '.join(valid)}."
            )
        found[name] = (kind.fields[name], expression(text, f"{where}: fields.{name}", known))
    for name in valid:
        if name not in found and not kind.fields[name].nullable and name not in _IMPLIED:
            raise ConfigError(f"{where}: fields: {kind.name} needs {name!r}: {kind.fields[name].about}")
    own = [name for name in kind.key if name != "source"]
    if said.key and sorted(said.key) != sorted(own):
        raise ConfigError(f"{where}: key: a {kind.name} is known by {', '.join(own)}; write that, or leave it out.")
    keeps = Keeps(said.where, searcher(said.where, f"{where}: where")) if said.where else None
    return Made(kind, keeps, found)


def _float(value: Value) -> float:
    """For a comparison by a factor alone; what is stored is made of the text."""
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):  # the row says so itself
        return math.nan


def doubted(first: Read, also: Sequence[Read], factor: float) -> None:
    """Put rows of the other types into ``wrong`` where amount / volume of the first is that far off its prices.

    The unit of its volume is not what the file says, so that of their sizes need not be.
    """
    amount, volume, low, high = (
        np.array([_float(each) for each in first.columns[name]]) for name in ("amount", "volume", "low", "high")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        price = amount / volume
        off = (volume > 0) & (amount > 0) & (low > 0) & ((price >= factor * high) | (price * factor <= low))
    for at in np.flatnonzero(off).tolist():
        why = f"amount / volume {price[at]:.6g}, expected {low[at]:g} to {high[at]:g}"
        for each in also:
            places = each.places
            found = bisect.bisect_left(places, at)
            if found < len(places) and places[found] == at:
                cast("dict[int, dict[str, Any]]", each.wrong).setdefault(found, {})["unit"] = why


def _check_expected(declared: Declared, made: Made, where: str) -> None:
    if declared.since is not None and declared.since.field:
        column = declared.since.field
        if column not in made.fields or made.kind.fields[column].role != "time":
            times = ", ".join(name for name in made.fields if made.kind.fields[name].role == "time") or "none"
            raise ConfigError(f"{where}: since.field: {column!r} is no time among the fields; they are {times}.")
    if declared.expect.all_of and ("instrument" not in made.fields or declared.expect.all_of not in declared.for_each):
        valid = ", ".join(declared.for_each) or "none"
        raise ConfigError(
            f"{where}: expect.all_of: write a name of for_each whose values are instruments; found "
            f"{declared.expect.all_of!r}, valid: {valid}."
        )
    if declared.expect.unit:
        lacks = [name for name in ("amount", "volume", "low", "high") if name not in made.fields]
        if lacks or not declared.also:
            what = f"{', '.join(lacks)} among the fields" if lacks else "another type under also"
            raise ConfigError(f"{where}: expect.unit: it needs {what}.")
        if declared.expect.unit <= 1:
            raise ConfigError(f"{where}: expect.unit is {declared.expect.unit:g}; write a factor such as 30.")
    for key, names in (("unique", declared.expect.unique), ("null_share", declared.expect.null_share)):
        for name in names:
            if name not in made.fields:
                raise ConfigError(
                    f"{where}: expect.{key}: {name!r} is not among the fields.{nearest(name, made.fields)}"
                )


# -- values to what a column takes --------------------------------------------------------------------------------


def typed(column: Field, values: Sequence[Value], rows: Rows) -> Sequence[Value]:
    """Values as the column's role takes them; what it cannot take is null, and told in ``rows.wrong``."""
    convert = _converter(column.role)
    kinds = set(map(type, values))
    if kinds <= (_TEXT if convert is _plain else _WHOLE if convert is _whole else _NOTHING):
        return values
    if convert is _plain and kinds == {int}:
        return list(map(str, values))
    try:
        if len(kinds) == 1 and values.count(values[0]) == len(values):  # a constant
            return [convert(values[0])] * len(values)
    except (ValueError, TypeError):
        pass
    try:
        return [None if value is None else convert(value) for value in values]
    except (ValueError, TypeError):
        pass
    made: list[Value] = []
    for place, value in enumerate(values):
        try:
            made.append(None if value is None else convert(value))
        except (ValueError, TypeError) as error:
            made.append(None)
            rows.wrong.append(RowError(place, str(error)))
    return made


@functools.cache
def _converter(role: str) -> Step:
    if role in ("prices", "sizes"):
        return _numbers
    if role in _NUMBERS or role in ("text", "symbol"):
        return _plain
    if role in ("count", "sequence", "ordinal", "time"):
        return _whole
    return cast("Step", {"flag": _flag, "ratio": _plain, "day": _plain, "json": _document}.get(role, _same))


def _same(value: Value) -> Value:
    return value


def _plain(value: Value) -> Value:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        return text_of(value)
    raise ValueError(f"{str(value)[:40]!r} is neither text nor a number")


def _numbers(value: Value) -> Value:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    raise ValueError(f"{str(value)[:40]!r} is not a list of numbers")


def _whole(value: Value) -> Value:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.removeprefix("-").isdecimal():
        return int(value)
    raise ValueError(f"{str(value)[:40]!r} is not a whole number; a time needs a filter such as epoch_ms")


def _flag(value: Value) -> Value:
    found = {"true": True, "false": False}.get(text_of(value).lower())
    if found is None:
        raise ValueError(f"{str(value)[:40]!r} is neither true nor false")
    return found


def _document(value: Value) -> Value:
    return msgspec.json.encode(value).decode()
