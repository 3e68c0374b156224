"""The tests that stand in a file: replies it must be able to read, and the rows they must give. No network."""

from __future__ import annotations

import base64
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import msgspec

from tidewire.collect import Request
from tidewire.errors import ConfigError, ParseError
from tidewire.records.exact import build
from tidewire.records.forms import row_texts
from tidewire.records.record import RecordType
from tidewire.sources.declared.asking import templates
from tidewire.sources.declared.expression import NEED_SINCE
from tidewire.sources.declared.grammar import Case, Declared
from tidewire.sources.declared.plan import plan
from tidewire.sources.declared.source import Read, Source
from tidewire.sources.declared.steps import text_of
from tidewire.sources.declared.times import micros_of
from tidewire.sources.declared.values import combinations
from tidewire.sources.declared.windows import moment

SHOWN = 3
"""How many differences are told."""


@dataclass
class Made:
    """What replies came to: good rows in their JSON form, why others were not taken, and how many were left out.

    ``also``: the rows of the other types of the file, by type.
    """

    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    also: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, list[dict[str, Any]]])
    wrong: list[str] = field(default_factory=list[str])
    skipped: int = 0


@dataclass(frozen=True)
class Verdict:
    """How a test of a file went; ``problems`` is empty where it passed."""

    name: str
    problems: Sequence[str]
    rows: int


def run_tests(source: Source) -> Iterator[Verdict]:
    """Run every test of a file."""
    for case in source.declared.tests:
        made, problems = Made(), list[str]()
        names = given_names(source.declared, case.given)
        received_us = micros_of(datetime.fromisoformat(case.received), UTC)
        for place, response in enumerate(_responses(source, case)):
            try:
                read = source.read(payload_of(response, case.encode), names, received_us)
            except ParseError as error:
                made.wrong.append(str(error))
                continue
            except (UnicodeEncodeError, LookupError) as error:
                problems.append(f"responses[{place}]: cannot be written in {case.encode}: {error}")
                continue
            take(source, read, received_us, made)
        problems += _differences(case, made)
        if case.requests is not None:
            problems += _unasked(source, names, case)
        yield Verdict(case.name, problems, len(made.rows))


def given_names(declared: Declared, given: Mapping[str, Any]) -> dict[str, Any]:
    """The first combination a file asks for, and what is given instead; `ConfigError` for a moment that is none."""
    names = next(combinations(declared, {}), {}) | dict(given)
    try:
        return names | {name: moment(names[name], declared.since) for name in NEED_SINCE & names.keys()}
    except ValueError as error:
        raise ConfigError(
            f"{declared.source}: given: {error}; write 2024-01-05, or 2024-01-05T09:30:00+08:00."
        ) from None


def _responses(source: Source, case: Case) -> list[Any]:
    """What a test has in the file, then what it has beside it."""
    found = list(case.responses)
    for name in (case.file,) if isinstance(case.file, str) else case.file:
        try:
            found.append((source.folder / name).read_bytes())
        except OSError as error:
            raise ConfigError(f"{source.folder / name}: cannot be read: {error.strerror}.") from None
    return found


def payload_of(response: Any, charset: str) -> bytes:
    """The bytes of a reply as a test has it: as they came, text, what becomes JSON; in ``base64`` what is no text."""
    if isinstance(response, bytes):
        return response
    if charset == "base64":
        return base64.b64decode(response)
    if isinstance(response, str):
        return response.encode(charset)
    return msgspec.json.encode(response).decode().encode(charset)


def take(source: Source, read: Read, received_us: int, made: Made) -> None:
    """Add the rows of a reply as they would be stored, checked by the rules of their types."""
    made.rows += _taken(source.name, source.kind, read, received_us, made)
    for each, part in zip(source.also, read.also, strict=False):
        made.also.setdefault(each.kind.name, []).extend(_taken(source.name, each.kind, part, received_us, made))


def _taken(name: str, kind: RecordType, read: Read, received_us: int, made: Made) -> list[dict[str, Any]]:
    made.skipped += read.filtered
    count = len(read.places)
    if not count:
        return []
    own = {"source": name, "frame": [1] * count, "ordinal": list(read.places)}
    built = build(kind, {"ingested_at": [received_us] * count, **read.columns, **own}, count)
    failed = kind.check(built.rows)
    bad = {**built.not_exact, **read.wrong}
    good: list[dict[str, Any]] = []
    for place, row in enumerate(row_texts(kind, built.rows)):
        if place in bad:
            made.wrong += [f"{column}: not exact" for column in bad[place]]
        elif failed[place]:
            made.wrong += kind.reasons(built.rows[place])[0]
        else:
            good.append(msgspec.json.decode(row))
    return good


def _differences(case: Case, made: Made) -> list[str]:
    problems: list[str] = []
    if case.rows is not None:
        problems += _unlike("rows", case.rows, made.rows)
    for name, rows in case.also.items():
        problems += _unlike(f"also.{name}", rows, made.also.get(name, []))
    left = Counter(made.wrong)
    left.subtract(Counter(case.wrong))
    problems += [f"not taken: {why}" for why, count in left.items() if count > 0]
    problems += [f"should not have been taken: {why}" for why, count in left.items() if count < 0]
    if case.rows is not None and case.skipped != made.skipped:
        problems.append(f"{case.skipped} rows to be left out by `where`, {made.skipped} were")
    return problems[:SHOWN] + ([f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else [])


def _unlike(where: str, wanted: Sequence[Mapping[str, Any]], came: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if len(wanted) != len(came):
        yield f"{len(wanted)} {where} expected, {len(came)} came"
    for place, (row, found) in enumerate(zip(wanted, came, strict=False)):
        for name, value in row.items():
            if name not in found:
                yield f"{where}[{place}].{name}: there is no such column"
            elif not _same(value, found[name]):
                yield f"{where}[{place}].{name}: {value!r} expected, {found[name]!r} came"


def _same(wanted: Any, found: Any) -> bool:
    """Numbers may be written as numbers, times without their microseconds."""
    if wanted is None or found is None or isinstance(wanted, bool):
        return wanted == found
    if isinstance(found, str) and found.endswith(".000000Z") and wanted == found.replace(".000000Z", "Z"):
        return True
    if isinstance(wanted, list) and isinstance(found, list):
        return len(wanted) == len(found) and all(map(_same, wanted, found))
    return wanted == found or text_of(wanted) == text_of(found)


def _unasked(source: Source, names: Mapping[str, Any], case: Case) -> list[str]:
    wanted = case.requests or ()
    steps = plan(source, templates(source.declared, source.name), names)
    documents = [None, *(_document(source, each, case) for each in _responses(source, case))]
    found: list[str] = []
    for _, document in zip(wanted, itertools.chain(documents, itertools.repeat(None)), strict=False):
        try:
            found.append(address(steps.send(document).asked))
        except StopIteration:
            return [f"{len(wanted)} requests expected, {len(found)} asked for"]
    return [
        f"requests[{place}]: {expected!r} expected, {came!r} asked for"
        for place, (expected, came) in enumerate(zip(wanted, found, strict=True))
        if expected != came
    ]


def _document(source: Source, response: Any, case: Case) -> Any:
    try:
        return source.decode(payload_of(response, case.encode))
    except (ParseError, UnicodeEncodeError, LookupError):  # told already
        return None


def address(asked: Request) -> str:
    """A request in one line: method where it is not GET, address, parameters, body."""
    query = f"?{urlencode(asked.params)}" if asked.params else ""
    body = f" {asked.body.decode()}" if asked.body else ""
    return f"{'' if asked.method == 'GET' else asked.method + ' '}{asked.url}{query}{body}"
