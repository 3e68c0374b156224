"""What waits for one stream connection, bounded whatever its reader does.

Event frames wait in a byte-bounded queue: when it is full, frames are lost *as a gap*, which the reader is told
before anything later of that channel. State frames wait as the latest of their series. Nothing is lost silently.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import msgspec

from tidewire import telemetry

_CONFLATED = telemetry.counter("ws_conflated_frames", "State frames replaced by a later one before they were sent.")
_LOST = telemetry.counter("ws_lost_frames", "Frames lost to slow readers; each is told as a gap.")

SLOW = "slow_reader"
_MOST_GAPS = 1_000


@dataclass(frozen=True, slots=True)
class Frame:
    """One message, encoded once and shared between connections.

    ``key`` names the series for conflation. ``first`` and ``last`` are the sequence numbers of its channel that it
    stands for.
    """

    channel: str
    key: tuple[str, str]
    first: int
    last: int
    text: str
    state: bool = False


def encode(**fields: object) -> str:
    """A control frame as text."""
    return msgspec.json.encode(fields).decode()


def gap_frame(channel: str, first: int, last: int, reason: str) -> Frame:
    """Tells that the frames ``first`` to ``last`` of a channel will not come; 0 where the numbers are not known."""
    text = encode(op="gap", ch=channel, **{"from": first or None, "to": last or None}, reason=reason)
    return Frame(channel, (channel, ""), first, last, text)


class Outbox:
    """The waiting frames of one connection; ``limit`` bounds event bytes and state bytes each."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._control: deque[str] = deque()
        self._events: deque[Frame] = deque()
        self._states: dict[tuple[str, str], Frame] = {}
        self._event_bytes = 0
        self._state_bytes = 0
        self._lost: dict[str, tuple[int, int]] = {}
        self._last: str | None = None
        self.full = False
        self.ended = False

    @property
    def waiting_bytes(self) -> int:
        """Bytes of frames that wait."""
        return self._event_bytes + self._state_bytes

    @property
    def control(self) -> int:
        """How many answers to the client's own frames wait."""
        return len(self._control)

    def answer(self, text: str) -> None:
        """An answer to the client; goes before everything else."""
        if not self.ended:
            self._control.append(text)

    def put(self, frame: Frame) -> None:
        """A frame of a channel."""
        if self.ended:
            return
        # Also before an event: a forming bar must not arrive after the final one.
        old = self._states.pop(frame.key, None)
        if old is not None:
            self._state_bytes -= len(old.text)
            _CONFLATED.inc()
        if frame.state:
            self._put_state(frame)
        elif self.full or (self._events and self._event_bytes + len(frame.text) > self._limit):
            self.full = True
            self._lose(frame)
        else:
            self._events.append(frame)
            self._event_bytes += len(frame.text)

    def _put_state(self, frame: Frame) -> None:
        self._states[frame.key] = frame
        self._state_bytes += len(frame.text)
        while self._state_bytes > self._limit and len(self._states) > 1:
            oldest = self._states.pop(next(iter(self._states)))
            self._state_bytes -= len(oldest.text)
            self._lose(oldest)

    def _lose(self, frame: Frame) -> None:
        _LOST.inc()
        self._missing(frame.channel, frame.first, frame.last)

    def _missing(self, channel: str, first: int, last: int) -> None:
        if channel not in self._lost and len(self._lost) >= _MOST_GAPS:
            channel, first, last = ">", 0, 0
        known = self._lost.get(channel, (first, last))
        self._lost[channel] = (min(known[0], first), max(known[1], last))

    def pop(self) -> str | None:
        """The next message to send; ``None`` when nothing waits."""
        if self._control:
            return self._control.popleft()
        if self._lost and self._event_bytes <= self._limit // 2:
            self._tell_gaps()
        if self._events:
            frame = self._events.popleft()
            self._event_bytes -= len(frame.text)
            return frame.text
        if self._states:
            frame = self._states.pop(next(iter(self._states)))
            self._state_bytes -= len(frame.text)
            return frame.text
        last, self._last = self._last, None
        return last

    def _tell_gaps(self) -> None:
        """At the end of the queue: what waits there is older than what was lost."""
        for channel, (first, last) in self._lost.items():
            told = gap_frame(channel, first, last, SLOW)
            self._events.append(told)
            self._event_bytes += len(told.text)
        self._lost.clear()
        self.full = False

    def end(self, last: str) -> None:
        """Nothing more is accepted; what waits is sent, then ``last``."""
        if not self.ended:
            self.ended, self._last = True, last

    def abandon(self, last: str) -> None:
        """Nothing more is accepted; what waits is given up and told as gaps, then ``last``."""
        if self.ended:
            return
        waiting, self._events = self._events, deque()
        # From the oldest on, so that the ranges join.
        later, self._lost = self._lost, {}
        for frame in waiting:
            self._lose(frame)
        for channel, (first, final) in later.items():
            self._missing(channel, first, final)
        self._states.clear()
        self._control.clear()
        self._event_bytes = self._state_bytes = 0
        self.end(last)
