"""Between a bus and whoever reads from it: bounded queues, their policies, the tasks that call handlers.

Every bus uses these; a bus adds how events get here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol

from tidewire import telemetry
from tidewire.bus.inbox import Inbox
from tidewire.bus.progress import Progress
from tidewire.bus.protocol import (
    ConsumerStats,
    Full,
    Handler,
    Hole,
    Key,
    SubscriptionStats,
    closed_event,
)
from tidewire.errors import BusClosed, BusError, EventsLost
from tidewire.records.batch import Stream
from tidewire.records.event import Event

_LOG = telemetry.log("bus")
_DELIVERED = telemetry.counter("bus_delivered", "Events handed to handlers.", ("subscription",))
_ERRORS = telemetry.counter("bus_handler_errors", "Handler calls that ended with an exception.", ("subscription",))
_DROPPED = telemetry.counter("bus_dropped", "Events discarded because a queue was full.", ("subscription", "policy"))
_REFUSED = telemetry.counter("bus_refused", "Offers that found a full queue.", ("receiver",))
_SKIPPED = telemetry.counter("bus_repeats", "Repeated events skipped by durable consumers.", ("consumer",))
_HOLES = telemetry.counter("bus_holes", "Events that did not continue their stream.", ("consumer",))

# What became of an event at a queue. CROWDED: taken, and other tasks should run before more comes.
TAKEN, CROWDED, REFUSED = 0, 1, 2

# Events a handler gets before other tasks have a turn.
_TURN = 64


class Receiver(Protocol):
    """Where a bus puts an event."""

    @property
    def pattern(self) -> str: ...

    def put(self, event: Event) -> int:
        """`TAKEN`, `CROWDED` or `REFUSED`, at once."""
        ...

    async def push(self, event: Event) -> None:
        """Put, waiting for room."""
        ...

    def refuse(self) -> None:
        """An offer was refused here: count it."""
        ...


def _notable(count: int) -> bool:
    """Whether the n-th occurrence is worth a log line: 1, 2, 4, 8, ..."""
    return count & (count - 1) == 0


@dataclass(frozen=True, slots=True)
class Terms:
    """What was asked for in `Bus.subscribe`."""

    pattern: str
    handler: Handler
    queue: int
    full: Full
    key: Key | None
    name: str


class Subscriber:
    """A subscription: a queue, its policy, and the task that calls the handler.

    ``detach`` is called once, when it accepts no more events.
    """

    def __init__(self, terms: Terms, detach: Callable[[Subscriber], None]) -> None:
        self.name = terms.name
        self.pattern = terms.pattern
        self.closed = False
        self.lapsed = False
        """It closed because it was full."""
        self._terms = terms
        self._detach = detach
        self._inbox = Inbox(terms.queue)
        self._busy = False
        self._farewell: Event | None = None
        self._delivered = self._errors = self._dropped = self._conflated = self._refused = 0
        self._reported = 0
        self._delivered_metric = _DELIVERED.labels(terms.name)
        self._dropped_metric = _DROPPED.labels(terms.name, terms.full.value)
        self.task = asyncio.get_running_loop().create_task(self._run(), name=f"bus {terms.name or terms.pattern}")

    def put(self, event: Event) -> int:
        if self.closed:
            return TAKEN
        inbox = self._inbox
        if inbox.full:
            return self._overflow(event)
        inbox.add(event)
        return CROWDED if not self._busy and 2 * len(inbox.pending) >= inbox.limit else TAKEN

    async def push(self, event: Event) -> None:
        if self.closed:
            return
        if asyncio.current_task() is self.task and self._inbox.full:
            raise BusError(
                f"the handler of {self.pattern!r} publishes {event.subject!r} to itself while its queue of "
                f"{self._inbox.limit} is full, and would wait for ever; use offer, or a larger queue."
            )
        await self._inbox.push(event)

    def refuse(self) -> None:
        self._refused += 1
        _REFUSED.labels(self.name).inc()

    @property
    def settled(self) -> bool:
        """Nothing waits and no handler runs."""
        return self._inbox.idle or self.task.done()

    @property
    def waiting(self) -> int:
        """Events that wait, publishers' included."""
        return len(self._inbox.pending) + self._inbox.writers

    async def settle(self) -> None:
        """Wait until it may be settled."""
        await self._inbox.settled()

    def cancel(self) -> None:
        """Accept nothing more and discard what waits; a handler under way ends in its time."""
        self._inbox.pending.clear()
        self._inbox.release()
        self._end()

    def stop(self, error: BusClosed) -> None:
        """End at once: discard what waits, fail waiting publishers, cancel the handler."""
        self._inbox.pending.clear()
        self._inbox.release(error)
        self._end()
        self.task.cancel()

    def stats(self) -> SubscriptionStats:
        return SubscriptionStats(
            name=self.name,
            pattern=self.pattern,
            full=self._terms.full,
            queued=len(self._inbox.pending) - (self._farewell is not None and bool(self._inbox.pending)),
            busy=self._busy,
            delivered=self._delivered,
            errors=self._errors,
            dropped=self._dropped,
            conflated=self._conflated,
            refused=self._refused,
            closed=self.closed,
        )

    def _end(self) -> None:
        if not self.closed:
            self.closed = True
            self._detach(self)
        self._inbox.wake()

    def _overflow(self, event: Event) -> int:
        full = self._terms.full
        if full is Full.BLOCK:
            return REFUSED
        if full is Full.DROP_OLDEST:
            lost = self._inbox.pop()
            self._inbox.add(event)
            self._drop(lost)
            return TAKEN if self._busy else CROWDED
        self._drop(event)
        self._farewell = closed_event(self, event)
        self._inbox.add(self._farewell)
        self.lapsed = True
        self._end()
        return TAKEN

    def _drop(self, lost: Event) -> None:
        self._dropped += 1
        self._dropped_metric.inc()
        if _notable(self._dropped):
            _LOG.warning(
                "queue full",
                subscription=self.name or self.pattern,
                policy=self._terms.full.value,
                lost=lost.id,
                dropped=self._dropped,
            )

    def _take(self) -> Event:
        return self._inbox.pop()

    async def _run(self) -> None:
        inbox, turn = self._inbox, _TURN
        try:
            while True:
                while not inbox.pending:
                    self._report()
                    if self.closed:
                        return
                    await inbox.change()
                await self._call(self._take())
                turn -= 1
                if not turn:
                    turn = _TURN
                    self._report()
                    await asyncio.sleep(0)
        finally:
            self._report()
            inbox.release(inbox.error)

    async def _call(self, event: Event) -> None:
        self._busy = True
        try:
            answer = self._terms.handler(event)
            if answer is not None:
                await answer
        except asyncio.CancelledError as error:
            # A handler may be hit by the cancellation of something it waits for; only ours ends the task.
            if self.task.cancelling():
                raise
            self._failed(event, error)
        except Exception as error:
            self._failed(event, error)
        finally:
            self._busy = False
            if event is not self._farewell:
                self._delivered += 1

    def _failed(self, event: Event, error: BaseException) -> None:
        self._errors += 1
        _ERRORS.labels(self.name).inc()
        if _notable(self._errors):
            _LOG.error(
                "handler failed",
                subscription=self.name or self.pattern,
                subject=event.subject,
                event_id=event.id,
                trace_id=event.trace_id,
                errors=self._errors,
                exc_info=error,
            )

    def _report(self) -> None:
        if self._delivered > self._reported:
            self._delivered_metric.inc(self._delivered - self._reported)
            self._reported = self._delivered


class ConflatingSubscriber(Subscriber):
    """Keeps, of the events that wait, the latest of each key, in the place of the earliest."""

    def __init__(self, terms: Terms, key: Key, detach: Callable[[Subscriber], None]) -> None:
        super().__init__(terms, detach)
        self._key = key
        self._latest: dict[Hashable, Event] = {}
        self._keys: deque[Hashable] = deque()

    def put(self, event: Event) -> int:
        if self.closed:
            return TAKEN
        try:
            key = self._key(event)
            known = key in self._latest
        except Exception as error:
            self._drop(event)
            self._failed(event, error)
            return TAKEN
        self._latest[key] = event
        if known:
            self._conflated += 1
            return TAKEN
        if self._inbox.full:
            self._inbox.pop()
            self._drop(self._latest.pop(self._keys.popleft()))
        self._keys.append(key)
        self._inbox.add(event)
        return CROWDED if not self._busy and 2 * len(self._keys) >= self._inbox.limit else TAKEN

    def cancel(self) -> None:
        self._keys.clear()
        self._latest.clear()
        super().cancel()

    def _take(self) -> Event:
        # The queue holds the place; the event of the key may be newer.
        self._inbox.pop()
        return self._latest.pop(self._keys.popleft())


class QueuedConsumer:
    """A durable consumer over a bounded queue. ``detach`` is called once, when it accepts no more events."""

    def __init__(
        self,
        name: str,
        pattern: str,
        *,
        positions: Mapping[Stream, int],
        queue: int,
        detach: Callable[[QueuedConsumer], None],
    ) -> None:
        self.name = name
        self.pattern = pattern
        self.limit = queue
        self.closed = False
        self._ending = False
        self._lost: EventsLost | None = None
        self._detach = detach
        self._inbox = Inbox(queue)
        self._progress = Progress(positions)
        self._delivered = self._skipped = self._holes = self._refused = 0

    def put(self, event: Event) -> int:
        if self.closed or isinstance(event.payload, Mapping):
            return TAKEN
        if self._inbox.full:
            return REFUSED
        self._inbox.add(event)
        return TAKEN

    async def push(self, event: Event) -> None:
        if not self.closed:
            await self._inbox.push(event)

    def refuse(self) -> None:
        self._refused += 1
        _REFUSED.labels(self.name).inc()

    @property
    def settled(self) -> bool:
        """No publisher waits here."""
        return not self._inbox.writers

    async def settle(self) -> None:
        """Wait until it may be settled."""
        await self._inbox.settled()

    def end(self) -> None:
        """The bus closes: reading ends after what is queued."""
        self._ending = True
        self._inbox.wake()

    def stop(self, error: BusClosed) -> None:
        """The bus is closed: fail waiting publishers."""
        self._inbox.release(error)

    def fail(self, error: EventsLost) -> None:
        """What is on the way here may not be all: the next read raises the error."""
        self._lost = error
        self._inbox.wake()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._inbox.pending.clear()
            self._inbox.release()
            self._detach(self)

    def __aiter__(self) -> AsyncIterator[Event | Hole]:
        return self

    async def __anext__(self) -> Event | Hole:
        inbox, progress = self._inbox, self._progress
        while True:
            if self.closed:
                raise StopAsyncIteration
            if self._lost is not None:
                raise self._lost
            if inbox.pending and progress.unfinished < inbox.limit:
                item = progress.take(inbox.pop())
                if item is not None:
                    return self._counted(item)
                self._skipped += 1
                _SKIPPED.labels(self.name).inc()
                continue
            if self._ending and not inbox.pending:
                raise StopAsyncIteration
            await inbox.change()

    def done(self, event: Event) -> None:
        self._progress.done(event)
        self._inbox.wake()

    def seek(self, stream: Stream, position: int) -> None:
        self._progress.seek(Stream(*stream), position)
        self._inbox.wake()

    def position(self, stream: Stream) -> int:
        return self._progress.position(stream)

    def positions(self) -> dict[Stream, int]:
        return self._progress.positions()

    def stats(self) -> ConsumerStats:
        return ConsumerStats(
            name=self.name,
            pattern=self.pattern,
            queued=len(self._inbox.pending),
            delivered=self._delivered,
            unfinished=self._progress.unfinished,
            skipped=self._skipped,
            holes=self._holes,
            refused=self._refused,
            closed=self.closed,
        )

    def _counted(self, item: Event | Hole) -> Event | Hole:
        if isinstance(item, Hole):
            self._holes += 1
            _HOLES.labels(self.name).inc()
            if _notable(self._holes):
                _LOG.warning("stream not continued", consumer=self.name, holes=self._holes, **item._asdict())
        else:
            self._delivered += 1
        return item
