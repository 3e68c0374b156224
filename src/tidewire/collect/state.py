"""What parsers know, written into the journal now and then: whoever begins in its middle goes on from there.

The rows of most parsers follow from their frames. Those of an order book follow from every update since its last
snapshot, which may be a day ago. So each `CHECKPOINT_FRAMES` the state of every `Stateful` parser becomes a control
frame of its source (`control.Known`) that says after which frame it holds. A reader that begins after some frame takes
the last state that holds up to there, and shows the parser the frames in between. A replay from the first frame needs
none of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol, cast

import msgspec
import zstandard

from tidewire.collect import control
from tidewire.collect.parser import Parser, Stateful
from tidewire.errors import ParseError
from tidewire.journal import Frame, Kind, Origin

CHECKPOINT_FRAMES = 131_072
LOOK_BACK_FRAMES = 3 * CHECKPOINT_FRAMES
"""How far before a place its state may have been taken: a step more than one checkpoint, after a restart two."""
_NEAR_FRAMES = (8_192, 65_536, LOOK_BACK_FRAMES)
"""So far back it is looked for, one after the other: every start takes one, so there mostly is one near."""

COLLECTOR = "state"
_STEP = 4_096


class Frames(Protocol):
    """What is needed of a journal to read states back."""

    @property
    def first(self) -> int: ...
    def scan(self, *, after: int = 0, source: str | None = None) -> Iterable[Frame]: ...


class Log(Protocol):
    """What is needed of a journal to write them."""

    def append(self, origin: Origin, payload: bytes, *, kind: Kind = Kind.DATA, wall_ns: int | None = None) -> int: ...


def stateful(parsers: Mapping[str, Parser]) -> dict[str, Stateful]:
    """The parsers that have a state, by source."""
    return {name: cast("Stateful", parser) for name, parser in parsers.items() if hasattr(parser, "follow")}


def write(journal: Log, parsers: Mapping[str, Parser], last: Frame) -> None:
    """Write down what every parser knows after that frame."""
    for source, parser in stateful(parsers).items():
        if state := parser.state():
            known = control.Known(last.sequence, zstandard.ZstdCompressor().compress(state))
            origin = Origin(source, COLLECTOR, "")
            journal.append(origin, control.encode(known), kind=Kind.CONTROL, wall_ns=last.wall_ns)


def restore(journal: Frames, parsers: Mapping[str, Parser], after: int) -> None:
    """Bring fresh parsers to what they knew after that frame."""
    if not after:
        return
    for source, parser in stateful(parsers).items():
        known = _last_known(journal, source, after)
        begin = max(0, after - LOOK_BACK_FRAMES, journal.first - 1) if known is None else known.after
        if known is not None:
            parser.resume(_unpacked(known.state))
        _follow(journal, source, parser, begin, after)


def follow(journal: Frames, parsers: Mapping[str, Parser], begin: int, after: int) -> None:
    """Bring parsers from what they knew after frame ``begin`` to what they know after ``after``."""
    for source, parser in stateful(parsers).items():
        _follow(journal, source, parser, begin, after)


def _follow(journal: Frames, source: str, parser: Stateful, begin: int, after: int) -> None:
    for frames in _steps(journal, source, begin, after):
        parser.follow(frames)


def _last_known(journal: Frames, source: str, after: int) -> control.Known | None:
    for back in _NEAR_FRAMES:
        begin = max(0, after - back, journal.first - 1)
        found: control.Known | None = None
        for frame in journal.scan(after=begin, source=source):
            if frame.kind is not Kind.CONTROL or frame.origin.collector != COLLECTOR:
                continue
            known = msgspec.json.decode(frame.payload, type=control.Known)
            # Not always in order: what was not stored when a process died is parsed again by the next.
            if known.after <= after and (found is None or known.after >= found.after):
                found = known
        if found is not None or begin <= journal.first - 1:
            return found
    return None


def _steps(journal: Frames, source: str, begin: int, after: int) -> Iterator[Sequence[Frame]]:
    """The data frames of a source in ``(begin, after]``."""
    if after <= begin:
        return
    frames = iter(journal.scan(after=begin, source=source))
    while some := list(islice(frames, _STEP)):
        yield [frame for frame in some if frame.kind is Kind.DATA and frame.sequence <= after]
        if some[-1].sequence >= after:
            return


def _unpacked(state: bytes) -> bytes:
    try:
        return zstandard.ZstdDecompressor().decompress(state)
    except zstandard.ZstdError as error:
        raise ParseError(f"the state of a parser cannot be unpacked: {error}") from error
