"""Reading the frames of an hour again, and knowing which were not to be had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from tidewire.errors import TidewireError
from tidewire.journal import Frame
from tidewire.records.batch import HOUR_US

STEP_FRAMES = 8_192
STEP_BYTES = 8 << 20


class Frames(Protocol):
    """Where frames are read from: a journal, its reader, an archive."""

    @property
    def uuid(self) -> str:
        """Which journal."""
        ...

    def scan(
        self,
        *,
        after: int = 0,
        source: str | None = None,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> Iterator[Frame]:
        """Frames that are to be had, in order: after a sequence, with wall time in ``[start_ns, end_ns)``."""
        ...


class HourReading:
    """Reads the frames of an hour, and knows which were not to be had."""

    def __init__(self, hour_us: int) -> None:
        self._start_ns = hour_us * 1_000
        self._end_ns = (hour_us + HOUR_US) * 1_000
        self._problems: list[str] = []
        self._some = False

    def stretches(self, journal: Frames) -> Iterator[list[Frame]]:
        """The frames of the hour, some at a time."""
        try:
            yield from self._stretches(journal)
        except (TidewireError, OSError) as error:
            self._problems.append(f"journal {journal.uuid} cannot be read: {error}")

    @property
    def problems(self) -> list[str]:
        """What could not be read."""
        return self._problems or ([] if self._some else ["no frame of this hour is at hand"])

    def _stretches(self, journal: Frames) -> Iterator[list[Frame]]:
        expected = 0
        taken: list[Frame] = []
        size = 0
        for frame in journal.scan(start_ns=self._start_ns, end_ns=self._end_ns):
            if frame.sequence != (expected or frame.sequence) or (not expected and _is_torn(journal, frame.sequence)):
                self._problems.append(f"frames of this hour before {frame.sequence:,} are not at hand")
                if taken:
                    yield taken
                taken, size = [], 0
            expected = frame.sequence + 1
            self._some = True
            taken.append(frame)
            size += len(frame.payload)
            if len(taken) >= STEP_FRAMES or size >= STEP_BYTES:
                yield taken
                taken, size = [], 0
        if taken:
            yield taken


def _is_torn(journal: Frames, first: int) -> bool:
    """Whether the frame before the first one found is gone, so that others of its hour may be."""
    if first == 1:
        return False
    before = next(journal.scan(after=first - 2), None)
    return before is None or before.sequence != first - 1


def picked(journal: Frames, sequences: Sequence[int]) -> list[Frame]:
    """Single frames, as far as they are to be had."""
    found: list[Frame] = []
    for sequence in sequences:
        frame = next(journal.scan(after=sequence - 1), None)
        if frame is not None and frame.sequence == sequence:
            found.append(frame)
    return found
