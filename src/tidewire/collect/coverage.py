"""Which stretches of time of one series are loaded: what a cursor of a backfill says."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from tidewire import telemetry

SPANS_MAX = 64
"""A cursor rides on every reply and must stay small; the shortest stretch is forgotten, and loaded again."""

_log = telemetry.log("collect")

Span = tuple[int, int]
"""Begin and end of a stretch, UTC microseconds, the end exclusive."""


class _Written(msgspec.Struct):
    spans: list[Span]
    rows: int = 0


_decoder = msgspec.json.Decoder(_Written)


@dataclass(frozen=True)
class Coverage:
    """Stretches, ascending, none touching another, and how many rows they brought."""

    spans: tuple[Span, ...] = ()
    rows: int = field(default=0, compare=False)

    def add(self, begin: int, end: int, rows: int = 0) -> Coverage:
        """This and [begin, end) as well."""
        if begin >= end:
            return Coverage(self.spans, self.rows + rows)
        kept: list[Span] = []
        for first, last in self.spans:
            if last < begin or first > end:
                kept.append((first, last))
            else:
                begin, end = min(begin, first), max(end, last)
        kept.append((begin, end))
        if len(kept) > SPANS_MAX:
            kept.remove(min(kept, key=lambda span: span[1] - span[0]))
        return Coverage(tuple(sorted(kept)), self.rows + rows)

    def newest_missing(self, begin: int, end: int, most: int) -> Span | None:
        """The newest part of [begin, end) that is not loaded, at most ``most`` long; ``None`` when all is."""
        for first, last in reversed(self.spans):
            if first >= end:
                continue
            if last < end:
                begin = max(begin, last)
                break
            end = first
        return (max(begin, end - most), end) if begin < end else None

    def within(self, begin: int, end: int) -> int:
        """How much of [begin, end) is loaded, in microseconds."""
        return sum(max(0, min(last, end) - max(first, begin)) for first, last in self.spans)

    def encode(self) -> str:
        """As it stands in a cursor."""
        return msgspec.json.encode(_Written(list(self.spans), self.rows)).decode()

    @classmethod
    def decode(cls, text: str | None) -> Coverage:
        """From a cursor; one that cannot be read covers nothing, so that everything is loaded again."""
        if text is None:
            return cls()
        try:
            written = _decoder.decode(text)
        except msgspec.MsgspecError as error:
            _log.warning("cursor of a backfill not understood; loading again", error=str(error))
            return cls()
        found = cls()
        for begin, end in written.spans:
            found = found.add(begin, end)
        return Coverage(found.spans, written.rows)
