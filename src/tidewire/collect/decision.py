"""Decisions about quarantined rows: released, corrected or rejected by somebody, for a reason.

A decision is a frame of the journal (`Kind.OPERATOR`), so that a replay comes to the same rows. It holds all that it
needs: a copy of the frame in question, whose original may be trimmed by then, and what is known of the quarantined
rows. What is taken out of quarantine is parsed again by the current parser, as it was received then, and goes the
ordinary way from there; it takes the time and the place of the decision, so that what was read below it stays true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import polars as pl

from tidewire.collect.parser import Outcome, Parsed, Parser
from tidewire.errors import DecisionRefused, ParseError
from tidewire.journal import Frame, Kind, Origin
from tidewire.records.record import LINEAGE

Act = Literal["release", "correct", "reject"]

FRAME = "frame"
"""What a quarantined row says as its type when the whole frame could not be read."""

COLLECTOR = "quarantine"
"""The collector in the origin of a decision; its source is that of the frame it is about."""

MAX_COPY = 32 << 20
"""Bytes of a frame that a decision can carry."""

STATES: Mapping[Act, str] = {"release": "released", "correct": "corrected", "reject": "rejected"}

FIXED = frozenset({"source", *LINEAGE})
"""Columns that are not for correcting: they say where a row is from."""


class Copied(msgspec.Struct, frozen=True):
    """A frame as it was received."""

    collector: str
    request: str
    kind: int
    wall_ns: int
    mono_ns: int
    cursor: bytes
    payload: bytes


class Target(msgspec.Struct, frozen=True):
    """A row in quarantine, with what its `Quarantined` row says; ``event_us`` is when it was received."""

    record_type: str
    row: int
    event_us: int
    instrument: str | None
    reasons: str
    content: str | None


class Decision(msgspec.Struct, frozen=True, tag_field="event", tag="decided"):
    """What was decided about rows of one frame.

    ``journal`` and ``frame`` say where the quarantined rows are. ``take`` names the rows of the copied frame that are
    parsed again, by type and place; ``None`` takes all of them. ``values`` are laid over their columns, as text where
    the column is decimal and as UTC microseconds where it is a time.
    """

    act: Act
    who: str
    why: str
    journal: str
    frame: int
    targets: Sequence[Target]
    copied: Copied | None = None
    take: Sequence[tuple[str, int]] | None = None
    values: Mapping[str, Any] = {}

    @property
    def state(self) -> str:
        """What the rows are from now on."""
        return STATES[self.act]

    def states(self, source: str, journal: str, decided: Frame) -> list[dict[str, Any]]:
        """The newer `Quarantined` rows, as plain values; ``decided`` is this decision's frame, in ``journal``."""
        at = decided.wall_ns // 1_000
        return [
            {
                "source": source,
                "event_time": target.event_us,
                "public_at": at,
                "ingested_at": at,
                "frame": self.frame,
                "ordinal": target.row,
                "row": target.row,
                "journal": self.journal,
                "record_type": target.record_type,
                "instrument": target.instrument,
                "reasons": target.reasons,
                "content": target.content,
                "state": self.state,
                "decided_by": f"{self.who}: {self.why}",
                "decision_journal": journal,
                "decision_frame": decided.sequence,
            }
            for target in self.targets
        ]


_decoder = msgspec.json.Decoder(Decision)


def copy_of(frame: Frame) -> Copied:
    """The copy a decision carries; `DecisionRefused` if the frame is too large for that."""
    if len(frame.payload) > MAX_COPY:
        raise DecisionRefused(
            f"Frame {frame.sequence} has {len(frame.payload):,} bytes; a decision carries a copy of at most "
            f"{MAX_COPY:,}. It can be rejected, or replayed by a fixed parser into another data directory."
        )
    origin = frame.origin
    return Copied(
        origin.collector, origin.request, int(frame.kind), frame.wall_ns, frame.mono_ns, frame.cursor, frame.payload
    )


def encode(decision: Decision) -> bytes:
    """The payload of a decision's frame."""
    return msgspec.json.encode(decision)


def decode(frame: Frame) -> Decision:
    """The decision in an operator's frame; `ParseError` for anything else."""
    try:
        return _decoder.decode(frame.payload)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ParseError(f"not a decision: {error}") from None


def origin_of(source: str, decision: Decision) -> Origin:
    """Where a decision's frame says it comes from."""
    return Origin(source, COLLECTOR, f"{decision.act} {decision.journal}/{decision.frame}")


def copied_into(decided: Frame, copied: Copied) -> Frame:
    """The copied bytes at the time and place of the decision: what the rows that come of them say they are from."""
    origin = Origin(decided.origin.source, copied.collector, copied.request)
    return Frame(
        decided.sequence, decided.wall_ns, decided.mono_ns, Kind.OPERATOR, origin, copied.cursor, copied.payload
    )


class Retry:
    """Parses a copied frame as it was received then; takes a frame made by `copied_into`."""

    def __init__(self, decision: Decision, copied: Copied, parser: Parser) -> None:
        self._decision = decision
        self._copied = copied
        self._parser = parser

    def parse(self, frames: Sequence[Frame]) -> Outcome:
        """The rows the decision takes; the frame is unreadable where the parser does not give them any more."""
        (frame,) = frames
        then = msgspec.structs.replace(
            frame, wall_ns=self._copied.wall_ns, mono_ns=self._copied.mono_ns, kind=Kind(self._copied.kind)
        )
        found = self._parser.parse([then])
        outcome = Outcome(unreadable=[(frame, why) for _, why in found.unreadable])
        wanted = None if self._decision.take is None else set(self._decision.take)
        missing = set(wanted or ())
        for part in found.parsed:
            ordinals = part.ordinals or [0] * len(part.frames)
            name = part.type.name
            places = [place for place, row in enumerate(ordinals) if wanted is None or (name, row) in wanted]
            if places:
                rows = [ordinals[place] for place in places]
                missing -= {(name, row) for row in rows}
                columns = self._columns(frame, part, places)
                # What was received long before its decision says nothing about a clock.
                outcome.parsed.append(Parsed(part.type, columns, [frame] * len(rows), rows, past=True))
        if missing and not outcome.unreadable:
            names = ", ".join(f"{name} row {row}" for name, row in sorted(missing))
            outcome.unreadable.append((frame, f"the parser finds no {names} in it any more"))
        if not outcome.unreadable:
            outcome.control += [frame] * len(found.control)
        return outcome

    def _columns(self, frame: Frame, part: Parsed, places: list[int]) -> dict[str, Any]:
        columns = {name: _taken(values, places) for name, values in part.columns.items() if name != "ingested_at"}
        if self._decision.values:  # ours from here on: nobody could have known them before
            ours = {**self._decision.values, "public_at": frame.wall_ns // 1_000}
            columns |= {name: [value] * len(places) for name, value in ours.items()}
        return columns


def _taken(values: Any, places: list[int]) -> Any:
    """Some rows of a column as a parser hands it over."""
    if values is None or isinstance(values, str | bool):
        return values
    return values.gather(places) if isinstance(values, pl.Series) else [values[place] for place in places]
