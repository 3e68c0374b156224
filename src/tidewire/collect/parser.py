"""What a source brings to be parsed: columns of plain values, made from its frames alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tidewire.errors import ParseError
from tidewire.journal import Frame
from tidewire.records.exact import Values
from tidewire.records.record import RecordType


@dataclass
class Parsed:
    """Rows of one type in columns.

    ``columns`` has the type's own columns (`tidewire.records.exact.build`); ``frames`` is the frame of each row and
    ``ordinals`` its place in that frame (None: one row a frame). ``source``, ``ingested_at``, ``frame`` and
    ``ordinal`` are added when the rows are assembled. ``past``: the rows were asked for long after they happened, and
    say nothing about the clock of their source.
    """

    type: RecordType
    columns: Mapping[str, Values | str | bool | None]
    frames: Sequence[Frame]
    ordinals: Sequence[int] | None = None
    past: bool = False


@dataclass
class Outcome:
    """What a parser made of some frames: rows, frames that carry no rows, frames it could not read and why."""

    parsed: list[Parsed] = field(default_factory=list[Parsed])
    control: list[Frame] = field(default_factory=list[Frame])
    unreadable: list[tuple[Frame, str]] = field(default_factory=list[tuple[Frame, str]])

    def add(self, more: Outcome) -> None:
        """Take in the outcome of other frames."""
        self.parsed += more.parsed
        self.control += more.control
        self.unreadable += more.unreadable


class Parser(Protocol):
    """Given frames of its source, in order, a parser returns their rows.

    No clock and no chance: the same frames, cut in any way, must give the same rows.
    """

    def parse(self, frames: Sequence[Frame]) -> Outcome:
        """Parse frames of kind data. Bytes that cannot be read go to `Outcome.unreadable`."""
        ...


def unreadable(what: str, found: bytes) -> ParseError:
    """The error for bytes that are not what the source promised."""
    return ParseError(f"expected {what}, found {found[:120]!r}")
