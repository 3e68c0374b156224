"""Messages of Sina's WebSocket to rows: the lines of its HTTP replies, read by the very file that reads those."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from tidewire.collect import Frame, Outcome, Parsed, unreadable
from tidewire.errors import ParseError
from tidewire.sources.declared import Source, load_declared
from tidewire.sources.declared.decode import text
from tidewire.sources.declared.reading import CATALOGUE

FILE = CATALOGUE / "sina.a_share_quotes.yaml"

CHARSET = "utf-8"
"""A text message of a WebSocket is UTF-8, unlike the site's pages."""


@functools.cache
def lines() -> Source:
    """What a line means."""
    return load_declared(FILE)


class SinaParser:
    """Lines of many messages become columns together."""

    def __init__(self) -> None:
        self._source = lines()

    def parse(self, frames: Sequence[Frame]) -> Outcome:
        """Rows of each line; one that is no line of a code is quarantined, the others of its message are not."""
        outcome = Outcome()
        raw: list[Any] = []
        owners: list[Frame] = []
        ordinals: list[int] = []
        for frame in frames:
            try:
                found = self._rows(frame)
            except ParseError as error:
                outcome.unreadable.append((frame, str(error)))
                continue
            if not found:
                outcome.control.append(frame)
            raw += found
            owners += [frame] * len(found)
            ordinals += range(len(found))
        if raw:
            self._make(raw, owners, ordinals, outcome)
        return outcome

    def _rows(self, frame: Frame) -> Sequence[Any]:
        message = text(frame.payload, CHARSET)
        found = self._source.select(message)
        wanted = [line for line in message.splitlines() if line.strip()]
        if len(found) == len(wanted):
            return found
        if not found:
            raise unreadable("lines such as sh600000=name,open,…", frame.payload)
        # Seldom: some of it is no line. What cannot be read keeps its place, and fails as a row.
        rows: list[Any] = []
        for line in wanted:
            rows += self._source.select(line) or [{"code": line[:40], "body": [line]}]
        return rows

    def _make(self, raw: list[Any], owners: list[Frame], ordinals: list[int], outcome: Outcome) -> None:
        read = self._source.rows(raw, {}, [owner.wall_ns // 1_000 for owner in owners])
        before: Sequence[int] = range(len(raw))
        for made, part in zip(self._source.all_made, (read, *read.also), strict=True):
            if part.filtered:
                there = set(part.places)
                outcome.filtered += [owners[place] for place in before if place not in there]
            if made is self._source.made:
                before = part.places  # what the file leaves out is no row of its other types
            if part.places:
                outcome.parsed.append(
                    Parsed(
                        made.kind,
                        part.columns,
                        [owners[place] for place in part.places],
                        [ordinals[place] for place in part.places],
                        wrong=part.wrong,
                    )
                )
