"""What was asked for and did not come: gaps that are told when they begin and again when they are over.

Which are open stands in the cursors, so that a run that comes after a kill closes what the one before has told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tidewire.collect import GapTold
from tidewire.records.clock import utc

if TYPE_CHECKING:
    from tidewire.collect import Collector

WHOLE = "*.*"
"""The instrument of a gap in a list of the whole market."""

FRESH = "fresh"
"""The name of the gap of a site that answers with what is old."""

ROUND = "round"
"""The name of the gap of a round that ended early."""

CAUSES = frozenset({"total", "silence"})
"""Of gaps that are told here."""

TOLD_MAX = 100
"""So many combinations have a gap of their own; when more fail, the gap of the round stands for them."""

_GAP = "gap:"
_KEPT = "it was asked again, and is whole"
_LOST = "asked again; what was there in between is not to be had"


class Outages:
    """The gaps of one collector, by name. ``recovers``: what is missing is asked for again, from where it was."""

    def __init__(self, collector: Collector, kind: str, *, recovers: bool) -> None:
        self._collector = collector
        self._kind = kind
        self._recovers = recovers
        self._open = 0

    def begin(self, name: str, since_us: int, why: str, cause: str = "total") -> bool:
        """Something is missing from ``since_us`` on; told once until `end`: whether it was."""
        if self._open >= TOLD_MAX:
            name = ROUND
        if self._collector.cursor(_GAP + name):
            return False
        self._open += 1
        begin = f"{since_us}:{cause}"
        self._tell(name, begin, "open", why, begin)
        return True

    def end(self, name: str, *, lost: str = "") -> None:
        """It is whole again; ``lost``: why some of it never will be."""
        begin = self._collector.cursor(_GAP + name)
        if not begin:
            return
        self._open = max(0, self._open - 1)
        is_filled = self._recovers and not lost and begin.endswith(":total")
        self._tell(name, begin, "filled" if is_filled else "unfillable", lost or (_KEPT if is_filled else _LOST), "")

    def _tell(self, name: str, begin: str, state: str, detail: str, cursor: str) -> None:
        at, _, cause = begin.partition(":")
        since_us = int(at)
        now_us = self._collector.app.context.clock.wall_ns() // 1_000
        told = GapTold(
            instrument=_instrument(name.split(",")),
            record_type=self._kind,
            gap_id=f"{utc(since_us * 1_000):%Y%m%dT%H%M%S.%fZ}" + (f" {name}" if name else ""),
            cause=cause,
            state=state,
            event_time=since_us,
            until_time=max(since_us, now_us),
            detail=detail,
        )
        self._collector.write(told, {_GAP + name: cursor})


def _instrument(values: Sequence[str]) -> str:
    """The one of the values that is an instrument."""
    found = [value for value in values if value.count(".") == 1 and all(value.split(".")) and value == value.upper()]
    return found[0] if len(found) == 1 else WHOLE
