"""A declared source, checked and compiled: from the bytes of a reply to columns of its record type."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from tidewire.errors import ConfigError, NotFound, ParseError, nearest
from tidewire.records.record import LINEAGE, Field, RecordType, record_type
from tidewire.sources.declared.decode import DECODERS, Decode, decoder
from tidewire.sources.declared.expression import Expression, RowError, Rows, expression, searcher
from tidewire.sources.declared.filters import Step, Value, text_of
from tidewire.sources.declared.grammar import Action, Condition, Declared
from tidewire.sources.declared.select import Select, selector

RECEIVED = "received"
"""A name that every expression knows: when the reply came, UTC microseconds."""
ASKED = ("since", "until", "page", RECEIVED)

REFUSALS = frozenset({403, 418, 429})
"""Statuses by which sites refuse, where the file says nothing else."""
PLAIN = frozenset({403})
"""Statuses after which asking again soon is hammering."""

_DATA = frozenset({"json", "jsonp", "csv"})
"""What is no page: sites that block answer it with one, and with 200."""
_PAGE = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|script|title|meta|!--)\b", re.IGNORECASE)

_LEFT_OUT = {"source", *LINEAGE} - {"public_at"}
_NUMBERS = {"price", "size", "amount", "coin"}


@dataclass(frozen=True)
class Read:
    """What a reply came to: columns, the place of each row in the reply, and what was not taken.

    ``wrong``: by row (as in ``columns``), the columns that could not be made, and why. ``filtered``: how many rows
    ``where`` left out. ``action``: what an error rule says is to be done with the reply; there are no rows then.
    """

    columns: Mapping[str, Any] = field(default_factory=dict[str, Any])
    places: Sequence[int] = ()
    wrong: Mapping[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    filtered: int = 0
    raw: int = 0
    action: Action | None = None
    document: Any = None


@dataclass(frozen=True)
class Source:
    """What `compile_source` makes of a file."""

    declared: Declared
    name: str
    kind: RecordType
    decode: Decode
    select: Select
    keeps: Callable[[Any], bool] | None
    fields: Mapping[str, tuple[Field, Expression]]
    rules: Sequence[tuple[Callable[[Any], Any], Action]]
    conditions: Sequence[tuple[Condition, Action]]
    decoding: str = "json"
    unzip: bool = False

    def read(self, payload: bytes, names: Mapping[str, Any], received_us: int) -> Read:
        """Rows of one reply; `ParseError` for bytes that are not what the file says."""
        document = self.decode(payload)
        for matches, action in self.rules:
            if matches(document) is True:
                return Read(action=action, document=document)
        raw = self.select(document)
        places: Sequence[int] = range(len(raw))
        kept = raw
        if self.keeps is not None:
            places = [place for place, row in enumerate(raw) if self.keeps(row)]
            kept = [raw[place] for place in places]
        known = {**names, RECEIVED: received_us, "doc": document}
        columns: dict[str, Any] = {"event_time": [received_us] * len(kept), "public_at": [received_us] * len(kept)}
        wrong: dict[int, dict[str, Any]] = {}
        for name, (column, made) in self.fields.items():
            rows = Rows(kept, known)
            columns[name] = typed(column, made.of(rows), rows)
            for each in rows.wrong:
                wrong.setdefault(each.place, {})[name] = each.why
        return Read(columns, places, wrong, len(raw) - len(kept), len(raw), None, document)

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
        if self.decoding not in _DATA or self.unzip or status == 204:
            return None
        if not body.strip() or _PAGE.match(body):
            return "rotate"
        if content_type.lower().startswith("text/html"):
            return None if self.decoding != "csv" and _reads(self.decode, body) else "rotate"
        return None


def compile_source(declared: Declared, where: str) -> Source:
    """Check everything that can be checked without the site; `ConfigError` names the key."""
    kind = _kind(declared.emits, f"{where}: emits")
    site, dot, rest = declared.source.partition(".")
    if not (site and dot and rest) or not declared.source.replace(".", "_").replace("-", "_").isidentifier():
        raise ConfigError(f"{where}: source: {declared.source!r}: write site.name, such as eastmoney.quotes.")
    decoding, charset, unzip = _decoding(declared.decode, f"{where}: decode")
    known = (*ASKED, *declared.for_each)
    fields = _fields(declared, kind, known, where)
    keeps = None
    if declared.where:
        search = searcher(declared.where, f"{where}: where")
        keeps = lambda row: search(row) is True  # noqa: E731 - one line is its whole meaning
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
        kind=kind,
        decode=decoder(decoding, charset, unzip=unzip),
        select=selector(decoding, declared.select, f"{where}: select"),
        keeps=keeps,
        fields=fields,
        rules=rules,
        conditions=conditions,
        decoding=decoding,
        unzip=unzip,
    )


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


def _fields(
    declared: Declared, kind: RecordType, known: Sequence[str], where: str
) -> dict[str, tuple[Field, Expression]]:
    valid = [name for name in kind.fields if name not in _LEFT_OUT]
    found: dict[str, tuple[Field, Expression]] = {}
    for name, text in declared.fields.items():
        if name not in valid:
            raise ConfigError(
                f"{where}: fields.{name}: {kind.name} has no such column to fill.{nearest(name, valid)} "
                f"Valid: {', '.join(valid)}."
            )
        found[name] = (kind.fields[name], expression(text, f"{where}: fields.{name}", known))
    for name in valid:
        if name not in found and not kind.fields[name].nullable and name not in ("event_time", "public_at"):
            raise ConfigError(f"{where}: fields: {kind.name} needs {name!r}: {kind.fields[name].about}")
    own = [name for name in kind.key if name != "source"]
    if declared.key and sorted(declared.key) != sorted(own):
        raise ConfigError(f"{where}: key: a {kind.name} is known by {', '.join(own)}; write that, or leave it out.")
    for key, names in (("unique", declared.expect.unique), ("null_share", declared.expect.null_share)):
        for name in names:
            if name not in found:
                raise ConfigError(f"{where}: expect.{key}: {name!r} is not among the fields.{nearest(name, found)}")
    return found


# -- values to what a column takes --------------------------------------------------------------------------------


def typed(column: Field, values: list[Value], rows: Rows) -> list[Value]:
    """Values as the column's role takes them; what it cannot take is null, and told in ``rows.wrong``."""
    convert = _converter(column.role)
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
    if role in _NUMBERS or role in ("text", "symbol"):
        return _plain
    if role in ("count", "sequence", "ordinal", "time"):
        return _whole
    return cast("Step", {"flag": _flag, "ratio": _plain, "json": _document}.get(role, _same))


def _same(value: Value) -> Value:
    return value


def _plain(value: Value) -> Value:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        return text_of(value)
    raise ValueError(f"{str(value)[:40]!r} is neither text nor a number")


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
