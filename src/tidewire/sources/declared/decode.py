"""From the bytes of a reply to a document: JSON and its relatives, CSV, HTML, XML, feeds, sheets, text.

Numbers with a point stay text, so that nothing is rounded on the way to an exact column. `ParseError` for bytes that
are not what the file says.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import msgspec

from tidewire.collect import unreadable
from tidewire.errors import ParseError

Decode = Callable[[bytes], Any]

UNPACKED_BYTES_MAX = 256 << 20
"""A packed reply that would become larger is refused."""

_JSONP = re.compile(rb"^[^({\[\"<]*\(\s*(.*?)\s*\)\s*;?\s*$", re.DOTALL)
_ASSIGNED = re.compile(r"^\s*(?:var|let|const)?\s*[\w$.]+\s*=\s*(.*?)\s*;?\s*(?:/\*.*\*/\s*)?$", re.DOTALL)
_COMMENTS = re.compile(rb"^\s*/\*.*?\*/", re.DOTALL)
_json = msgspec.json.Decoder(float_hook=str).decode


def text(data: bytes, charset: str) -> str:
    """Bytes as text, a byte order mark left out."""
    try:
        found = data.decode(charset)
    except UnicodeDecodeError as error:
        raise ParseError(
            f"expected text in {charset}, found {data[error.start : error.start + 8]!r} at byte {error.start}"
        ) from None
    return found.removeprefix("\ufeff")


def json(data: bytes, charset: str = "utf-8") -> Any:
    """JSON."""
    if charset != "utf-8" or data.startswith(b"\xef\xbb\xbf"):
        data = text(data, charset).encode()
    try:
        return _json(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise unreadable("JSON", data) from None


def jsonp(data: bytes, charset: str = "utf-8") -> Any:
    """JSON inside a call, ``callback({...});``; JSON alone is taken too: sites leave the call out at times."""
    found = _COMMENTS.sub(b"", data).strip()
    match = _JSONP.match(found)
    return json(found if match is None else match[1], charset)


def js(data: bytes, charset: str = "utf-8") -> Any:
    """A JavaScript literal, alone or assigned: ``var name = {key: 'value'};``."""
    import chompjs

    source = text(data, charset)
    match = _ASSIGNED.match(source)
    literal = source if match is None else match[1]
    try:
        return _json(literal.encode())
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    try:
        return chompjs.parse_js_object(literal, loader_kwargs={"parse_float": str})
    except ValueError:
        raise unreadable("a JavaScript literal", data) from None


def csv_(data: bytes, charset: str = "utf-8") -> list[dict[str, str]]:
    """CSV with a header: one mapping a row."""
    try:
        rows = list(csv.DictReader(io.StringIO(text(data, charset), newline=""), strict=True))
    except csv.Error as error:
        raise ParseError(f"expected CSV: {error}") from None
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ParseError(f"expected CSV with {len(rows[0])} columns, row {number} has another number")
    return rows


def bytes_(data: bytes, charset: str = "") -> bytes:
    """As it came."""
    return data


def markup(kind: str) -> Callable[[bytes, str], Any]:
    """HTML or XML as a tree."""

    def decode(data: bytes, charset: str = "") -> Any:
        from lxml import etree, html  # pyright: ignore[reportAttributeAccessIssue] - compiled, without types

        if not data.strip():
            raise unreadable(kind.upper(), data)
        try:
            if kind == "html":
                return html.document_fromstring(data, parser=html.HTMLParser(encoding=charset or None))
            # No entities, no network: a feed must not be able to read files.
            parser = etree.XMLParser(encoding=charset or None, resolve_entities=False, no_network=True, huge_tree=False)
            return etree.fromstring(data, parser=parser)
        except (etree.LxmlError, ValueError, LookupError):
            raise unreadable(kind.upper(), data) from None

    return decode


def rss(data: bytes, charset: str = "") -> list[dict[str, str]]:
    """An RSS or Atom feed: one mapping an item, by the names of its tags (an Atom link is its address)."""
    root = markup("xml")(data, charset)
    items = [node for node in root.iter() if _tag(node) in ("item", "entry")]
    if not items and _tag(root) not in ("rss", "feed", "RDF"):
        raise unreadable("an RSS or Atom feed", data)
    found: list[dict[str, str]] = []
    for item in items:
        fields: dict[str, str] = {}
        for node in item:
            name = _tag(node)
            if name and name not in fields:
                fields[name] = "".join(node.itertext()).strip() or node.get("href", "")
        found.append(fields)
    return found


def _tag(node: Any) -> str:
    """The name without its name space; empty for comments."""
    return node.tag.rpartition("}")[2] if isinstance(node.tag, str) else ""


def xlsx(data: bytes, charset: str = "") -> list[dict[str, Any]]:
    """The first sheet of a workbook: one mapping a row, by its first row; everything as text."""
    import python_calamine

    try:
        rows = python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(data)).get_sheet_by_index(0).to_python()
    except (python_calamine.CalamineError, OSError, ValueError):
        raise unreadable("a workbook", data) from None
    if not rows:
        return []
    names = [str(name).strip() for name in rows[0]]
    return [dict(zip(names, map(_cell, row), strict=True)) for row in rows[1:]]


def _cell(value: Any) -> Any:
    """Sheets know only floats: a whole one is a whole number."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else repr(value)
    return value if isinstance(value, (int, str)) else str(value)


def unpacked(data: bytes) -> bytes:
    """What is inside a zip (its only file) or gzip."""
    try:
        if data.startswith(b"\x1f\x8b"):
            with gzip.open(io.BytesIO(data)) as file:
                found = file.read(UNPACKED_BYTES_MAX + 1)
        else:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/")]
                if len(names) != 1:
                    raise ParseError(f"expected a zip with one file in it, found {len(names)}")
                with archive.open(names[0]) as file:
                    found = file.read(UNPACKED_BYTES_MAX + 1)
    except (
        OSError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        NotImplementedError,  # what zipfile says of a compression it does not know
        RuntimeError,
        ValueError,
    ):
        raise unreadable("a zip or gzip", data) from None
    if len(found) > UNPACKED_BYTES_MAX:
        raise ParseError(f"the packed reply becomes larger than {UNPACKED_BYTES_MAX:,} bytes")
    return found


DECODERS: dict[str, Callable[[bytes, str], Any]] = {
    "json": json,
    "jsonp": jsonp,
    "js": js,
    "csv": csv_,
    "html": markup("html"),
    "xml": markup("xml"),
    "rss": rss,
    "xlsx": xlsx,
    "text": text,
    "bytes": bytes_,
}
CHARSETS = {"html": "", "xml": "", "rss": "", "xlsx": "", "bytes": ""}
"""Where nothing is said the document itself may; everything else is UTF-8."""


def decoder(kind: str, charset: str, *, unzip: bool) -> Decode:
    """The function for a file's ``decode``."""
    decode, chosen = DECODERS[kind], charset or CHARSETS.get(kind, "utf-8")
    if unzip:
        return lambda data: decode(unpacked(data), chosen)
    return lambda data: decode(data, chosen)
