"""Control frames: what collectors write into the journal about themselves, and the gaps that follow from it.

A connection that came back after a break writes one frame saying since when it had been away, why, and which streams
it carries. Sequences and bar grids show what trades and klines miss; for what has neither (quotes, tickers, books)
this frame is the only witness, so it becomes one `Gap` row a stream.

What is done about a gap is written as well: that it is being filled, that the source has nothing for it, that a
stream fell silent. Each such frame is the gap's newer state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tidewire.collect.parser import Outcome, Parsed
from tidewire.journal import Frame
from tidewire.records.clock import utc
from tidewire.records.ops import CAUSES, Gap


class Carried(msgspec.Struct, frozen=True):
    """One stream of a connection: a record type of an instrument."""

    type: str
    instrument: str


class Resumed(msgspec.Struct, frozen=True, tag_field="event", tag="resumed"):
    """A connection is back: nothing of ``streams`` came between ``since_ns`` and this frame."""

    since_ns: int
    cause: str
    reason: str
    streams: Sequence[Carried]


class Noted(msgspec.Struct, frozen=True, tag_field="event", tag="noted"):
    """Something worth keeping that leads to no rows."""

    what: str
    detail: dict[str, Any] = {}


class GapTold(msgspec.Struct, frozen=True, tag_field="event", tag="gap"):
    """A gap, or its newer state; the fields are those of `tidewire.records.ops.Gap`, times in UTC microseconds."""

    instrument: str
    record_type: str
    gap_id: str
    cause: str
    state: str
    event_time: int
    until_time: int
    series: str | None = None
    first_sequence: int | None = None
    last_sequence: int | None = None
    missing: int | None = None
    detail: str | None = None


class Known(msgspec.Struct, frozen=True, tag_field="event", tag="state"):
    """What the parser of the frame's source knew after frame ``after``: its state, zstd."""

    after: int
    state: bytes


Act = Resumed | Noted | GapTold | Known

_decoder = msgspec.json.Decoder(Act)


def encode(act: Act) -> bytes:
    """The payload of a control frame."""
    return msgspec.json.encode(act)


def parse(frame: Frame) -> Outcome:
    """The gaps a control frame tells of."""
    try:
        act = _decoder.decode(frame.payload)
    except msgspec.MsgspecError as error:
        return Outcome(unreadable=[(frame, f"not a control frame: {error}")])
    if isinstance(act, GapTold):
        told = {name: [value] for name, value in msgspec.structs.asdict(act).items()}
        return Outcome(parsed=[Parsed(Gap.type, {**told, "public_at": [frame.wall_ns // 1_000]}, [frame])])
    if isinstance(act, (Noted, Known)) or not act.streams:
        return Outcome(control=[frame])
    since = act.since_ns // 1_000
    count = len(act.streams)
    columns: dict[str, Any] = {
        "event_time": [since] * count,
        "public_at": [frame.wall_ns // 1_000] * count,
        "instrument": [stream.instrument for stream in act.streams],
        "record_type": [stream.type for stream in act.streams],
        "gap_id": [f"{utc(act.since_ns):%Y%m%dT%H%M%S.%fZ}"] * count,
        "cause": act.cause if act.cause in CAUSES else "disconnect",
        "state": "unfillable",
        "until_time": [frame.wall_ns // 1_000] * count,
    }
    return Outcome(parsed=[Parsed(Gap.type, columns, [frame] * count, list(range(count)))])
