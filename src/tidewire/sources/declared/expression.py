"""Expressions of declared sources: ``path | filter | filter('argument')``, ``= constant`` and ``${...}`` templates.

An expression is compiled once, when the file is read, and works on whole columns. There are no loops and no
conditions: what cannot be said with a path and filters is written in Python beside the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, overload

import jmespath
from jmespath.exceptions import JMESPathError

from tidewire.errors import ConfigError, nearest
from tidewire.sources.declared import filters, times
from tidewire.sources.declared.quick import quick
from tidewire.sources.declared.steps import PAIRS, Step, Value, applied, compiled, text_of

LISTED = (filters, times)
"""The modules whose filters stand in the list: it is full once they are imported."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLACE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\[(\d+)\]")
_PART = re.compile(r"\[(\d+)\]")
_PLACES = re.compile(r"\[\s*([A-Za-z_]\w*)\[\d+\]\s*(?:,\s*\1\[\d+\]\s*)*\]", re.ASCII)
_CALL = re.compile(r"([a-z_][a-z0-9_]*)(?:\((.*)\))?", re.DOTALL)
_SLOT = re.compile(r"\$\{([^{}]*)\}")

NEEDED = "needed"
"""The filter that lets no null through: a key that is not there any more must not look like a missing value."""
NEED_SINCE = frozenset({"since", "until"})
"""Names that only a file with windows of time has."""


class RowError(NamedTuple):
    """A row whose value an expression could not make, and why."""

    place: int
    why: str


class Lines(Sequence[list[str]]):
    """Rows of text that were cut into parts, as many of each: one long list, so that a column is one slice of it."""

    def __init__(self, parts: list[str], width: int) -> None:
        self._parts = parts
        self._width = width

    @classmethod
    def of(cls, rows: Sequence[str], separator: str) -> Sequence[list[str]]:
        """Cut rows; where they have different numbers of parts, each stays a list of its own."""
        counts = {row.count(separator) for row in rows}
        if len(counts) != 1:
            return [row.split(separator) for row in rows]
        return cls(separator.join(rows).split(separator), counts.pop() + 1)

    def __len__(self) -> int:
        return len(self._parts) // self._width

    @overload
    def __getitem__(self, place: int) -> list[str]: ...
    @overload
    def __getitem__(self, place: slice) -> list[list[str]]: ...
    def __getitem__(self, place: int | slice) -> list[str] | list[list[str]]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        begin = place % len(self) * self._width
        return self._parts[begin : begin + self._width]

    def column(self, place: int) -> list[str | None]:
        """One part of each row; nulls where rows have fewer."""
        return [*self._parts[place :: self._width]] if place < self._width else [None] * len(self)


@dataclass
class Rows:
    """What expressions look at: raw rows, and what is the same for all of them."""

    raw: Sequence[Any]
    names: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """By name: the whole reply as ``doc``, and what was asked for (``${symbol}`` of for_each, ``${since}``)."""
    wrong: list[RowError] = field(default_factory=list[RowError])


Column = Callable[[Rows], list[Value]]


@dataclass(frozen=True)
class Expression:
    """A compiled expression. ``names``: what it needs beside the rows. ``alike``: it does not look at them at all."""

    text: str
    column: Column
    names: frozenset[str]
    alike: bool = False

    def of(self, rows: Rows) -> list[Value]:
        """One value for each row; null where it could not be made, which `Rows.wrong` tells."""
        if not self.alike or len(rows.raw) < 2:
            return self.column(rows)
        one = Rows(rows.raw[:1], rows.names)
        value = self.column(one)[0]
        rows.wrong += [RowError(place, each.why) for each in one.wrong for place in range(len(rows.raw))]
        return [value] * len(rows.raw)

    def once(self, names: Mapping[str, Any]) -> Value:
        """Its value where there are no rows; `ValueError` when it cannot be made."""
        rows = Rows([None], names)
        value = self.column(rows)[0]
        if rows.wrong:
            raise ValueError(rows.wrong[0].why)
        return value


def expression(text: Any, where: str, known: Sequence[str] = ()) -> Expression:
    """Compile an expression of ``fields``; ``known`` are names that stand for what was asked.

    `ConfigError` says what is wrong with it.
    """
    if not isinstance(text, str):
        return Expression(f"= {text!r}", lambda rows: [text] * len(rows.raw), frozenset())
    if text.startswith("="):
        constant = text[1:].strip()
        return Expression(text, lambda rows: [constant] * len(rows.raw), frozenset())
    if "${" in text:
        return template(text, where, known)
    head, *steps = _pipe(text, where)
    return _filtered(text, _path(head, where), steps, where, known)


def template(text: Any, where: str, known: Sequence[str] = (), *, rows: bool = True, tz: str = "") -> Expression:
    """Compile text with ``${name | filter}`` in it; without any it stands for itself.

    ``rows``: may look at them. ``tz``: the time zone of filters of time that name none.
    """
    if not isinstance(text, str) or "${" not in text:
        return Expression(str(text), lambda found: [text] * len(found.raw), frozenset())
    places = list(_SLOT.finditer(text))
    if len(places) != text.count("${"):
        raise ConfigError(f"{where}: {text!r}: a '${{' without its '}}', or braces inside one.")
    slots = [_slot(match[1], f"{where}: {match[0]}", known, rows=rows, tz=tz) for match in places]
    names = frozenset[str]().union(*(slot.names for slot in slots))
    if len(places) == 1 and places[0][0] == text:
        return Expression(text, slots[0].column, names, slots[0].alike)
    pieces = _SLOT.split(text)[::2]

    whole = "{}".join(piece.replace("{", "{{").replace("}", "}}") for piece in pieces)

    def column(found: Rows) -> list[Value]:
        columns = [slot.of(found) for slot in slots]
        if all(set(map(type, each)) == {str} for each in columns):
            return list(map(whole.format, *columns))
        made: list[Value] = []
        for values in zip(*columns, strict=True):
            if None in values:  # a part that is missing makes no whole
                made.append(None)
                continue
            words = map(text_of, values)
            made.append(pieces[0] + "".join(word + piece for word, piece in zip(words, pieces[1:], strict=True)))
        return made

    return Expression(text, column, names, all(slot.alike for slot in slots))


def _slot(text: str, where: str, known: Sequence[str], *, rows: bool, tz: str) -> Expression:
    head, *steps = _pipe(text, where)
    name, dot, path = head.partition(".")
    if rows and name == "row" and dot:
        return _filtered(text, _path(path, where), steps, where, known)
    valid = [*known, "row.…", "doc.…"] if rows else list(known)
    if name == "doc" and dot and rows:
        made = _filtered(text, _whole(path, where), steps, where, known)
        return replace(made, alike=_only_itself(steps))
    if head in NEED_SINCE and head not in known:
        raise ConfigError(
            f"{where}: the file has no `since`; write one, such as since: {{start: 2020-01-01, step: 7d}}."
        )
    if head not in known:
        raise ConfigError(f"{where}: no such name.{nearest(head, known)} Valid: {', '.join(valid) or 'none here'}.")

    def column(found: Rows) -> list[Value]:
        return [found.names.get(head)] * len(found.raw)

    found = _filtered(text, column, steps, where, known, named=True, tz=tz)
    return replace(found, names=frozenset({head}), alike=_only_itself(steps))


def _only_itself(steps: Sequence[str]) -> bool:
    """Whether no filter looks at another field of the row."""
    return not any(step.partition("(")[0] in ("default", *PAIRS) for step in steps)


def _filtered(
    text: str,
    first: Column,
    steps: Sequence[str],
    where: str,
    known: Sequence[str],
    *,
    named: bool = False,
    tz: str = "",
) -> Expression:
    """``named``: the value is what a name stands for, which may be a list; filters then work on its items."""
    column = first
    for step in steps:
        match = _CALL.fullmatch(step)
        if match is None:
            raise ConfigError(f"{where}: {step!r} is no filter; write name, or name('argument').")
        arguments = _arguments(match[2] or "", where)
        if match[1] == "default":
            if len(arguments) != 1:
                raise ConfigError(f"{where}: default takes one argument: 'text', or the path of another field.")
            column = _defaulted(column, _other(arguments[0], where, ()))
            continue
        if match[1] == NEEDED:
            if arguments:
                raise ConfigError(f"{where}: {NEEDED} takes no argument.")
            column = _needed(column, text)
            continue
        if match[1] in PAIRS:
            if len(arguments) != 1:
                raise ConfigError(f"{where}: {match[1]} takes one argument: the path of another field, or a name.")
            column = _paired(column, _other(arguments[0], where, known), PAIRS[match[1]], text)
            continue
        step = compiled(match[1], [plain for plain, _ in arguments], where, tz)
        column = _stepped(column, _each(step) if named and match[1] != "join" else step, text)
    return Expression(text, column, frozenset())


def _each(step: Step) -> Step:
    """A step on every item of a list."""
    return lambda value: applied(step, value) if isinstance(value, list) else step(value)


def _stepped(before: Column, step: Callable[[Value], Value], text: str) -> Column:
    def column(rows: Rows) -> list[Value]:
        values = before(rows)
        try:
            return applied(step, values)
        except (ValueError, TypeError, OverflowError):
            return _one_by_one(step, values, rows, text)

    return column


def _one_by_one(step: Callable[[Value], Value], values: Sequence[Value], rows: Rows, text: str) -> list[Value]:
    """Find the rows that cannot be read; the others go on."""
    made: list[Value] = []
    for place, value in enumerate(values):
        try:
            made.append(None if value is None else step(value))
        except (ValueError, TypeError, OverflowError) as error:
            made.append(None)
            rows.wrong.append(RowError(place, f"{text}: {error}"))
    return made


def _defaulted(before: Column, other: Column) -> Column:
    def column(rows: Rows) -> list[Value]:
        values = before(rows)
        if None not in values and "" not in values:
            return values
        return [
            spare if value is None or value == "" else value for value, spare in zip(values, other(rows), strict=True)
        ]

    return column


def _needed(before: Column, text: str) -> Column:
    def column(rows: Rows) -> list[Value]:
        values = before(rows)
        if None in values:
            rows.wrong += [
                RowError(place, f"{text}: not in the row") for place, one in enumerate(values) if one is None
            ]
        return values

    return column


def _paired(before: Column, other: Column, of_both: Callable[[Value, Value], Value], text: str) -> Column:
    def column(rows: Rows) -> list[Value]:
        firsts, seconds = before(rows), other(rows)
        if None not in firsts and None not in seconds:
            try:
                return list(map(of_both, firsts, seconds))
            except (ValueError, TypeError, OverflowError):
                pass  # which rows cannot be read is found below

        def step(pair: Value) -> Value:
            return of_both(*pair)

        whole = [None if None in pair else pair for pair in zip(firsts, seconds, strict=True)]
        return _stepped(lambda _: whole, step, text)(rows)

    return column


def _other(argument: tuple[str, bool], where: str, known: Sequence[str]) -> Column:
    text, is_quoted = argument
    if not is_quoted and text in known:
        return lambda rows: [rows.names.get(text)] * len(rows.raw)
    if not is_quoted and text.startswith("doc."):
        return _whole(text.removeprefix("doc."), where)
    if is_quoted or not _NAME.match(text):
        return lambda rows: [text] * len(rows.raw)
    return _path(text, where)


def _path(text: str, where: str) -> Column:
    """A path into each row. The most common forms need no interpreter."""
    if _NAME.fullmatch(text):
        return lambda rows: _named(rows.raw, text)
    match = _PLACE.fullmatch(text)
    if match is not None:
        name, place = match[1], int(match[2])

        def column(rows: Rows) -> list[Value]:
            lists = [row.get(name) if isinstance(row, dict) else None for row in rows.raw]
            return [found[place] if isinstance(found, list) and place < len(found) else None for found in lists]

        return column
    match = _PART.fullmatch(text)
    if match is not None:
        return _parts(int(match[1]))
    match = _PLACES.fullmatch(text)
    if match is not None:
        name = match[1]
        several = [int(place) for place in re.findall(r"\[(\d+)\]", text)]
        return lambda rows: [_some(row.get(name), several) if isinstance(row, dict) else None for row in rows.raw]
    search = searcher(text, where)
    return lambda rows: [search(row) for row in rows.raw]


def _named(raw: Sequence[Any], name: str) -> list[Value]:
    if set(map(type, raw)) == {dict}:
        return [row.get(name) for row in raw]
    return [row.get(name) if isinstance(row, dict) else None for row in raw]


def _parts(place: int) -> Column:
    """``[3]``: a part of rows that are lists; null of any other row, and where it is too short."""

    def column(rows: Rows) -> list[Value]:
        if isinstance(rows.raw, Lines):
            return rows.raw.column(place)
        return [row[place] if isinstance(row, list) and place < len(row) else None for row in rows.raw]

    return column


def _some(found: Value, places: Sequence[int]) -> list[Value]:
    if not isinstance(found, list):
        return [None] * len(places)
    return [found[place] if place < len(found) else None for place in places]


def _whole(text: str, where: str) -> Column:
    search = searcher(text, where)
    return lambda rows: [search(rows.names.get("doc"))] * len(rows.raw)


def searcher(text: str, where: str) -> Callable[[Any], Any]:
    """A JMESPath as a function; what it cannot be used on gives null. `ConfigError` when it is none."""
    try:
        found = quick(jmespath.compile(text))
    except JMESPathError as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{where}: {text!r} is not a JMESPath: {reason}.") from None

    def search(value: Any) -> Any:
        try:
            return found(value)
        except (JMESPathError, TypeError):  # the library lets words be compared with numbers, and fails at it
            return None

    return search


def _pipe(text: str, where: str) -> list[str]:
    """Cut at ``|``, but not inside quotes or brackets, and not at ``||``, which is JMESPath's."""
    parts, depth, quote, begin = list[str](), 0, "", 0
    at = 0
    while at < len(text):
        sign = text[at]
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"`":
            quote = sign
        elif sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth -= 1
        elif sign == "|" and not depth:
            if text[at : at + 2] == "||":
                at += 1
            else:
                parts.append(text[begin:at].strip())
                begin = at + 1
        at += 1
    if quote or depth:
        raise ConfigError(f"{where}: {text!r}: a quote or bracket that does not end.")
    parts.append(text[begin:].strip())
    if not all(parts):
        raise ConfigError(f"{where}: {text!r}: nothing stands on one side of a '|'.")
    return parts


def _arguments(text: str, where: str) -> list[tuple[str, bool]]:
    """Arguments of a filter, and whether each was in quotes."""
    found: list[tuple[str, bool]] = []
    rest = text.strip()
    while rest:
        if rest[0] in "'\"":
            end = rest.find(rest[0], 1)
            if end < 0:
                raise ConfigError(f"{where}: ({text}): a quote that does not end.")
            found.append((rest[1:end], True))
            rest = rest[end + 1 :].strip()
            if rest and not rest.startswith(","):
                raise ConfigError(f"{where}: ({text}): write a comma between arguments.")
            rest = rest[1:].strip()
            continue
        word, _, rest = rest.partition(",")
        found.append((word.strip(), False))
        rest = rest.strip()
    return found
