"""Writing a reply of the live site down as a test of its file: its rows are for a person to check."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tidewire.errors import InputError
from tidewire.records.clock import utc
from tidewire.sources.declared.expression import NEED_SINCE
from tidewire.sources.declared.reading import load_declared
from tidewire.sources.declared.source import Source
from tidewire.sources.declared.trying import Tried

SUFFIX = ".reply"
"""Of files that hold the body of a reply; the plugin directory does not look at them."""

_TESTS = re.compile(r"^tests:[ \t]*(?:#.*)?\n(?P<indent>[ \t]*)(?=-)", re.MULTILINE)


def record(source: Source, tried: Tried, path: Path, out: Path | None = None) -> list[Path]:
    """Write replies beside a file and the case into it (or beside ``out`` and into that); what was written."""
    if not tried.replies:
        raise InputError("the site gave nothing that could be written down.")
    target = out or path
    moment = utc(tried.replies[-1].received_ns)
    bodies: list[Path] = []
    for number, reply in enumerate(tried.replies, 1):
        body = target.parent / f"{source.name}.{moment:%Y%m%dT%H%M%S}.{number}{SUFFIX}"
        body.write_bytes(reply.body)
        bodies.append(body)
    case = case_text(source, tried, [body.name for body in bodies])
    if out is not None:
        out.write_text("tests:\n" + _indented(case, "  "), encoding="utf-8")
        return [out, *bodies]
    before = path.read_text(encoding="utf-8")
    path.write_text(_with_case(before, case), encoding="utf-8")
    try:
        load_declared(path)
    except InputError as error:
        path.write_text(before, encoding="utf-8")
        raise InputError(
            f"the case does not fit into {path} ({error}): give --out FILE, and put it in by hand."
        ) from None
    return [path, *bodies]


def case_text(source: Source, tried: Tried, files: list[str]) -> str:
    """The case as YAML, an item of a list."""
    moment = utc(tried.replies[-1].received_ns)
    given = {
        name: utc(value * 1_000).isoformat() if name in NEED_SINCE else value for name, value in tried.names.items()
    }
    made = tried.made
    rows = [{name: row[name] for name in source.made.fields} for row in made.rows]
    lines = [f"- name: {_plain(f'as recorded on {moment:%Y-%m-%d %H:%M:%S} UTC; to be checked')}"]
    lines += [f"  given: {_plain(given)}"] if given else []
    lines += [f"  received: {_plain(moment.isoformat())}", f"  file: {_plain(files)}"]
    lines += ["  rows:", *(f"    - {_plain(row)}" for row in rows)] if rows else ["  rows: []"]
    for place, each in enumerate(source.also):
        lines += [] if place else ["  also:"]
        found = made.also.get(each.kind.name, [])
        lines += [f"    {each.kind.name}:" + ("" if found else " []")]
        lines += [f"      - {_plain({name: row[name] for name in each.fields})}" for row in found]
    lines += [f"  skipped: {made.skipped}"] if made.skipped else []
    lines += ["  wrong:", *(f"    - {_plain(why)}" for why in made.wrong)] if made.wrong else []
    return "\n".join(lines) + "\n"


def _plain(value: object) -> str:
    """As JSON, which is YAML."""
    return json.dumps(value, ensure_ascii=False)


def _with_case(text: str, case: str) -> str:
    """The case before those that are there, or the first one at the end."""
    match = _TESTS.search(text)
    if match is None:
        return text.rstrip("\n") + "\n\ntests:\n" + _indented(case, "  ")
    at = match.start("indent")
    return text[:at] + _indented(case, match["indent"]) + text[at:]


def _indented(text: str, by: str) -> str:
    return "".join(by + line for line in text.splitlines(keepends=True))
