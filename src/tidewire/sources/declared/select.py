"""From a document to its raw rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tidewire.errors import ConfigError, ParseError
from tidewire.sources.declared.expression import Lines, searcher

Select = Callable[[Any], Sequence[Any]]

TREES = frozenset({"html", "xml"})
TEXTS = frozenset({"text"})


def selector(kind: str, said: Any, where: str) -> Select:
    """The function for a file's ``select`` on documents of a decoder; `ConfigError` where it does not fit it."""
    if kind in TREES:
        if isinstance(said, Mapping) and set(said) == {"table"} and isinstance(said["table"], int):
            return _table(said["table"])
        if isinstance(said, str) and said:
            return _nodes(said, where)
        raise ConfigError(f"{where}: of {kind}, write a CSS selector, an XPath ('//…'), or {{table: 0}}.")
    if kind in TEXTS:
        if not isinstance(said, Mapping) or not isinstance(said.get("regex"), str) or set(said) - {"regex", "split"}:
            raise ConfigError(f"{where}: of text, write {{regex: '(?P<name>…)', split: {{name: ','}}}}.")
        return _matches(said["regex"], said.get("split") or {}, where)
    if said in (None, ""):
        return _as_rows
    if isinstance(said, Mapping) and isinstance(said.get("path"), str) and set(said) <= {"path", "split"}:
        search, separator = searcher(said["path"], where), said.get("split", "")
        if not isinstance(separator, str) or not separator:
            raise ConfigError(f"{where}.split: write what stands between the parts of a row, such as ','.")
        return lambda document: _parts(_as_rows(search(document)), separator)
    if not isinstance(said, str):
        raise ConfigError(
            f"{where}: of {kind}, write a JMESPath such as data.items, or {{path: data.lines, split: ','}}."
        )
    search = searcher(said, where)
    return lambda document: _as_rows(search(document))


def _parts(rows: list[Any], separator: str) -> Sequence[Any]:
    """Rows that are text, cut: each is the list of its parts."""
    try:
        return Lines.of(rows, separator)
    except (AttributeError, TypeError):
        raise ParseError(f"expected rows of text with {separator!r} between their parts, found others") from None


def _as_rows(found: Any) -> list[Any]:
    """A list is rows, a mapping numbered 0, 1, 2… is a list in disguise, any other mapping is one row, null is none."""
    if found is None:
        return []
    if isinstance(found, dict):
        return list(found.values()) if found and all(key.isdecimal() for key in found) else [found]
    if isinstance(found, list):
        return found
    raise ParseError(f"expected rows, found {str(found)[:60]!r}")


def _matches(pattern: str, split: Mapping[str, str], where: str) -> Select:
    try:
        found = re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise ConfigError(f"{where}.regex: {pattern!r}: {error}.") from None
    if not found.groupindex:
        raise ConfigError(f"{where}.regex: {pattern!r} names nothing: write (?P<name>…) around what is wanted.")
    for name in split:
        if name not in found.groupindex:
            raise ConfigError(f"{where}.split: the regex has no group {name!r}; it has {', '.join(found.groupindex)}.")

    def select(document: str) -> list[Any]:
        rows: list[Any] = []
        for match in found.finditer(document):
            row: dict[str, Any] = match.groupdict()
            for name, separator in split.items():
                row[name] = row[name].split(separator) if row[name] else []
            rows.append(row)
        return rows

    return select


def _nodes(said: str, where: str) -> Select:
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue] - compiled, without types
    from lxml.cssselect import CSSSelector

    try:
        find: Any = etree.XPath(said) if said.startswith(("/", "(", ".")) and "/" in said else CSSSelector(said)
    except (etree.XPathError, ValueError, SyntaxError) as error:
        raise ConfigError(f"{where}: {said!r} is neither a CSS selector nor an XPath: {error}.") from None
    return lambda document: [_node(node) for node in find(document)]


def _node(node: Any) -> dict[str, Any]:
    """A node as a row: its attributes as ``@name``, its whole ``text``, and the text of each child by its tag."""
    if isinstance(node, str):
        return {"text": node}
    row: dict[str, Any] = {f"@{name}": value for name, value in node.attrib.items()}
    row["text"] = "".join(node.itertext()).strip()
    for child in node:
        if isinstance(child.tag, str):
            name = child.tag.rpartition("}")[2]
            row.setdefault(name, "".join(child.itertext()).strip())
            if child.get("href"):
                row.setdefault(f"{name}@href", child.get("href"))
    return row


def _table(place: int) -> Select:
    def select(document: Any) -> list[Any]:
        tables = document.findall(".//table")
        if place >= len(tables):
            raise ParseError(f"expected a table number {place}, found {len(tables)} tables")
        lines = [[_cell(cell) for cell in row.iter("td", "th")] for row in tables[place].iter("tr")]
        lines = [line for line in lines if line]
        if not lines:
            return []
        names = lines[0]
        for line in lines[1:]:
            if len(line) != len(names):
                raise ParseError(f"expected a table of {len(names)} columns, found a row of {len(line)}")
        return [dict(zip(names, line, strict=True)) for line in lines[1:]]

    return select


def _cell(node: Any) -> str:
    return " ".join("".join(node.itertext()).split())
