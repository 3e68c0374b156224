"""Where a durable consumer is on each of its streams; the same for every bus."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from tidewire.bus.protocol import START, Hole
from tidewire.records.batch import Stream
from tidewire.records.event import Event


class _Line:
    """One stream: done up to ``position``, delivered up to ``reached``, and what lies between."""

    __slots__ = ("finished", "open", "order", "position", "reached")

    def __init__(self, position: int) -> None:
        self.position = position
        self.reached = position
        self.order: deque[int] = deque()
        self.open: dict[int, Event] = {}
        self.finished: set[int] = set()


class Progress:
    """Decides by ``(prev, last]`` alone what becomes of an event, and advances positions without passing a hole."""

    def __init__(self, positions: Mapping[Stream, int]) -> None:
        self._lines = {Stream(*stream): _Line(position) for stream, position in positions.items()}
        self.unfinished = 0
        """Events delivered and not done."""

    def take(self, event: Event) -> Event | Hole | None:
        """The event if it continues its stream, None if it is a repeat, else the hole it leaves.

        A batch of no frames, ``(last, last]``, continues a stream that is at ``last``, as often as it comes.

        A batch that begins before what was delivered and ends after it is a hole as well: its first rows are known,
        and cutting rows is the owner's matter.
        """
        batch = event.batch
        stream, lineage = batch.stream, batch.lineage
        line = self._line(stream)
        prev, last = lineage.prev, lineage.last
        if prev == last == line.reached:
            return event  # no frames, but a later time up to which the stream is complete; there is nothing to finish
        if last <= line.reached:
            return None
        if prev != line.reached:
            return Hole(stream, line.reached, prev, last)
        line.reached = last
        line.order.append(last)
        line.open[last] = event
        self.unfinished += 1
        return event

    def done(self, event: Event) -> None:
        """Mark one delivered event; the position moves over the done ones at the front."""
        batch = event.batch
        line = self._lines.get(batch.stream)
        last = batch.lineage.last
        if line is None or line.open.get(last) is not event:
            return
        del line.open[last]
        line.finished.add(last)
        self.unfinished -= 1
        while line.order and line.order[0] in line.finished:
            line.position = line.order.popleft()
            line.finished.remove(line.position)

    def seek(self, stream: Stream, position: int) -> None:
        """Go on from ``position``; what was delivered and not done is forgotten."""
        line = self._line(stream)
        self.unfinished -= len(line.open)
        self._lines[stream] = _Line(position)

    def position(self, stream: Stream) -> int:
        """Up to where everything is done."""
        line = self._lines.get(stream)
        return START if line is None else line.position

    def positions(self) -> dict[Stream, int]:
        """`position` of every stream known."""
        return {stream: line.position for stream, line in self._lines.items()}

    def _line(self, stream: Stream) -> _Line:
        line = self._lines.get(stream)
        if line is None:
            line = self._lines[stream] = _Line(START)
        return line
