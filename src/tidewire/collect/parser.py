"""What a source brings to be parsed: columns of plain values, made from its frames alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

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
    say nothing about the clock of their source. ``wrong``: by row, columns that could not be made of what was sent, and
    why; such rows are quarantined.
    """

    type: RecordType
    columns: Mapping[str, Values | str | bool | None]
    frames: Sequence[Frame]
    ordinals: Sequence[int] | None = None
    past: bool = False
    wrong: Mapping[int, Mapping[str, Any]] = field(default_factory=dict[int, Mapping[str, Any]])


class Ask(NamedTuple):
    """What a parser wants of its source: published as the event ``control.<what>`` where frames are parsed live."""

    what: str
    facts: Mapping[str, Any]


@dataclass
class Outcome:
    """What a parser made of some frames.

    Rows; frames that carry no rows; frames that went into rows of later frames (updates of an order book); a frame for
    each row that was left out by a rule of the source; frames it could not read and why; what it wants of the source.
    """

    parsed: list[Parsed] = field(default_factory=list[Parsed])
    control: list[Frame] = field(default_factory=list[Frame])
    folded: list[Frame] = field(default_factory=list[Frame])
    filtered: list[Frame] = field(default_factory=list[Frame])
    unreadable: list[tuple[Frame, str]] = field(default_factory=list[tuple[Frame, str]])
    asks: list[Ask] = field(default_factory=list[Ask])

    def add(self, more: Outcome) -> None:
        """Take in the outcome of other frames."""
        self.parsed += more.parsed
        self.control += more.control
        self.folded += more.folded
        self.filtered += more.filtered
        self.unreadable += more.unreadable
        self.asks += more.asks


class Parser(Protocol):
    """Given frames of its source, in order, a parser returns their rows.

    No clock and no chance: the same frames, cut in any way, must give the same rows.
    """

    def parse(self, frames: Sequence[Frame]) -> Outcome:
        """Parse frames of kind data. Bytes that cannot be read go to `Outcome.unreadable`."""
        ...


class Stateful(Parser, Protocol):
    """A parser whose rows depend on frames long before them, as an order book's do.

    Its state is written into the journal now and then, so that whoever begins in the middle need not read it from its
    beginning (`tidewire.collect.state`).
    """

    def follow(self, frames: Sequence[Frame]) -> None:
        """Take in frames whose rows are known already."""
        ...

    def state(self) -> bytes:
        """What is known after the frames so far; empty if that is nothing."""
        ...

    def resume(self, state: bytes) -> None:
        """Know what `state` said; `ParseError` when it is not understood."""
        ...


def unreadable(what: str, found: bytes) -> ParseError:
    """The error for bytes that are not what the source promised."""
    return ParseError(f"expected {what}, found {found[:120]!r}")
