"""Where collectors go on after a restart: the cursors in the journal.

A frame's cursor is a JSON object, name → where to go on, and says only what it changes. So that a restart need not
read the whole journal, all cursors are written down once a segment (a *checkpoint*, a control frame): reading goes
back to the last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from tidewire import telemetry
from tidewire.collect import control
from tidewire.journal import Frame, Kind, Origin

CHECKPOINT = "cursors"
_ORIGIN = Origin("tidewire", "cursors", "")

_log = telemetry.log("collect")
_decoder = msgspec.json.Decoder(dict[str, str])

Name = tuple[str, str, str]
"""Source, collector, and the collector's own name for it."""


class Segment(Protocol):
    """What is needed of a segment."""

    @property
    def first(self) -> int: ...


class Frames(Protocol):
    """What is needed of a journal."""

    def segments(self) -> Iterable[Segment]: ...
    def scan(self, *, after: int = 0) -> Iterable[Frame]: ...
    def append(self, origin: Origin, payload: bytes, *, kind: Kind = Kind.DATA) -> int: ...


class Cursors:
    """The last cursor of each name. Used in the event loop."""

    def __init__(self) -> None:
        self._known: dict[Name, str] = {}
        self._written_in = 0
        self._written = (0, 0)

    def get(self, source: str, collector: str, name: str) -> str | None:
        """Where the last frame with that name said to go on."""
        return self._known.get((source, collector, name))

    def move(self, origin: Origin, cursor: Mapping[str, str]) -> bytes:
        """Take over what a frame that is about to be appended says; returns it as the frame carries it."""
        self._known.update({(origin.source, origin.collector, name): at for name, at in cursor.items()})
        return msgspec.json.encode(cursor)

    def load(self, journal: Frames) -> None:
        """Read the cursors of a journal that nobody writes to yet: its newest segments, back to a checkpoint."""
        for segment in sorted(journal.segments(), key=lambda each: each.first, reverse=True):
            found: dict[Name, str] = {}
            ended = False
            for frame in _until_next(journal, segment.first):
                if frame.cursor:
                    found.update(_said(frame))
                elif frame.kind is Kind.CONTROL and frame.origin == _ORIGIN:
                    found.update(_written(frame))
                    ended = True
            self._known = found | self._known
            if ended:
                return

    def checkpoint(self, journal: Frames) -> None:
        """Write all cursors down if the newest segment does not have them yet."""
        newest = max((segment.first for segment in journal.segments()), default=0)
        if newest == self._written_in:
            return
        self._written_in = newest
        listed = [[*name, at] for name, at in sorted(self._known.items())]
        act = control.Noted(CHECKPOINT, {"cursors": listed})
        self._written = (self._written[1], journal.append(_ORIGIN, control.encode(act), kind=Kind.CONTROL))

    def needed_from(self, accepted: int) -> int:
        """The frame that `load` reads back to: the last checkpoint that is accepted; 0 before there is one."""
        before, last = self._written
        return last if last <= accepted else before


def _until_next(journal: Frames, first: int) -> Iterable[Frame]:
    """The frames of the segment that begins with ``first``; those after it are known already."""
    firsts = sorted(segment.first for segment in journal.segments())
    place = firsts.index(first)
    end = firsts[place + 1] if place + 1 < len(firsts) else None
    for frame in journal.scan(after=first - 1):
        if end is not None and frame.sequence >= end:
            return
        yield frame


def _said(frame: Frame) -> dict[Name, str]:
    """What a frame's cursor says; one that is not ours (an older program's) is left alone."""
    try:
        cursor = _decoder.decode(frame.cursor)
    except msgspec.MsgspecError as error:
        _log.warning("cursor not understood", source=frame.origin.source, frame=frame.sequence, error=str(error))
        return {}
    return {(frame.origin.source, frame.origin.collector, name): at for name, at in cursor.items()}


def _written(frame: Frame) -> dict[Name, str]:
    try:
        noted = msgspec.json.decode(frame.payload, type=control.Noted)
        rows = msgspec.convert(noted.detail["cursors"], list[tuple[str, str, str, str]])
    except (msgspec.MsgspecError, KeyError) as error:
        _log.warning("checkpoint of cursors not understood", frame=frame.sequence, error=str(error))
        return {}
    return {(source, collector, name): at for source, collector, name, at in rows}
