"""Frames of a declared source to rows, live and in replay: a function of the frames and the file alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from typing import Any

import msgspec

from tidewire.collect import Frame, Outcome, Parsed
from tidewire.errors import ParseError
from tidewire.records.record import RecordType
from tidewire.sources.declared.source import Read, Source

REFUSED = "refused"
"""In what was asked: the reply is no data, and what is done about it."""

LOOK = "a rule of the file says that this reply is to be looked at"

_names = msgspec.json.Decoder(dict[str, Any])


def asked_text(method: str, url: str, names: Mapping[str, Any]) -> str:
    """How a request stands in a frame: what it was, and the names its expressions may need."""
    return f"{method} {url} {msgspec.json.encode(names).decode()}" if names else f"{method} {url}"


def names_of(request: str) -> dict[str, Any]:
    """The names of `asked_text`. Addresses hold no spaces."""
    parts = request.split(" ", 2)
    return _names.decode(parts[2]) if len(parts) > 2 else {}


_Rows = dict[tuple[RecordType, bool], list[tuple[Frame, Read]]]
"""What replies were read as, by what is made of them, and whether it is of the past."""


class DeclaredParser:
    """Parses the replies to one file's requests."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def parse(self, frames: Sequence[Frame]) -> Outcome:
        """Rows of each reply; one that is not what the file says is quarantined as a whole."""
        outcome, rows = Outcome(), _Rows()
        for frame in frames:
            names = names_of(frame.origin.request)
            said = names.get(REFUSED)
            if said == "quarantine":
                outcome.unreadable.append((frame, LOOK))
                continue
            if said is not None:
                outcome.control.append(frame)
                continue
            try:
                self._take(frame, names, outcome, rows)
            except ParseError as error:
                outcome.unreadable.append((frame, str(error)))
        outcome.parsed += [_joined(kind, reads, past=past) for (kind, past), reads in rows.items()]
        return outcome

    def _take(self, frame: Frame, names: Mapping[str, Any], outcome: Outcome, rows: _Rows) -> None:
        asked, received_us = frame.origin.request, frame.wall_ns // 1_000
        read = self._source.recent.take(asked, received_us, frame.payload)
        if read is None:
            read = self._source.read(frame.payload, names, received_us)
        if read.action == "quarantine":
            raise ParseError(LOOK)
        past = "until" in names  # a window of time is asked for after it, however long
        there = False
        for made, part in zip(self._source.all_made, (read, *read.also), strict=False):
            outcome.filtered += [frame] * part.filtered
            if part.places:
                rows.setdefault((made.kind, past), []).append((frame, part))
            there = there or bool(part.places or part.filtered)
        if not there:
            outcome.control.append(frame)


def _joined(kind: RecordType, reads: Sequence[tuple[Frame, Read]], *, past: bool) -> Parsed:
    """The rows of all replies at once: what building columns costs beside their values is most of it for few rows."""
    if len(reads) == 1:
        ((frame, read),) = reads
        return Parsed(kind, read.columns, [frame] * len(read.places), read.places, past=past, wrong=read.wrong)
    columns = {name: list(chain.from_iterable(read.columns[name] for _, read in reads)) for name in reads[0][1].columns}
    frames = list(chain.from_iterable(repeat(frame, len(read.places)) for frame, read in reads))
    ordinals = list(chain.from_iterable(read.places for _, read in reads))
    wrong: dict[int, Mapping[str, Any]] = {}
    begin = 0
    for _, read in reads:
        wrong.update({begin + place: found for place, found in read.wrong.items()})
        begin += len(read.places)
    return Parsed(kind, columns, frames, ordinals, past=past, wrong=wrong)
