"""What every bus promises, whatever carries the events.

- **Order.** Events published one after another by one task reach each subscriber in that order. Events of
  concurrent publishers arrive in some order.
- **Subscriptions** (`Bus.subscribe`) have a bounded queue and a policy (`Full`) for when it is full. They are for
  what may be missed: views, caches, clients.
- **Durable consumers** (`Bus.consume`) are for what may not be missed. A bus may still drop, repeat, delay or reorder,
  and it may be restarted; a consumer turns all of that into three outcomes, decided by positions alone: the event
  continues its stream and is delivered; it is a repeat and is skipped; or it does not continue and a `Hole` is
  delivered instead. The journal has what lies in the hole, so no bus has to be trusted.
- **Accepted.** `Bus.publish` returns when every ``BLOCK`` subscription and every durable consumer has the event in its
  queue, or it is on its way there: a broker holds it for the consumer, the client of a broker for the subscription.
- A subscription or consumer sees every event whose publish was called, on the same bus object, after `subscribe` or
  `consume` returned.
- Before `Bus.start`, and from the call of `Bus.close` on, everything but `Bus.stats`, `Bus.unsubscribe`, `Bus.close`
  and what is done with a consumer raises `BusClosed`; handlers may go on publishing until the drain ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from tidewire.errors import InputError, nearest
from tidewire.records.batch import Stream
from tidewire.records.event import STAGES, Event
from tidewire.records.subject import check_pattern

Handler = Callable[[Event], Awaitable[None] | None]
Key = Callable[[Event], Hashable]

START = 0
"""The position of a stream of which nothing has been seen."""

CLOSED = "bus.closed"
"""Subject of the last event a ``CLOSE`` subscription gets."""


class Full(StrEnum):
    """What happens when the queue of a subscription is full."""

    BLOCK = "block"
    """`Bus.publish` waits; `Bus.offer` is refused. With a broker between them, its client holds what does not fit, up
    to a bound, and counts what it has to drop."""
    DROP_OLDEST = "drop_oldest"
    """The event that has waited longest makes room."""
    CONFLATE = "conflate"
    """Of the waiting events only the latest of each key is kept, full or not; with too many keys the oldest goes."""
    CLOSE = "close"
    """The subscription ends: what waits is delivered, then one event ``bus.closed`` names the first event lost."""


class Hole(NamedTuple):
    """In place of an event ``(prev, last]`` that does not continue the stream at ``position``.

    The event itself is not delivered. The owner reads ``(position, last]`` (or further) from the journal and says so
    with `Consumer.seek`; until then every later event of the stream that does not continue it is a hole too.
    """

    stream: Stream
    position: int
    prev: int
    last: int

    @property
    def overlaps(self) -> bool:
        """Nothing is missing, but the batch begins before ``position``: the stream was cut into other batches."""
        return self.prev < self.position


@dataclass(frozen=True, slots=True)
class SubscriptionStats:
    """One subscription. Events that matched = queued + busy + delivered + dropped + conflated + refused."""

    name: str
    pattern: str
    full: Full
    queued: int
    busy: bool
    delivered: int
    """Handler calls that have ended, with or without an exception."""
    errors: int
    """Handler calls, or calls of the key function, that ended with an exception."""
    dropped: int
    """Events that were discarded because the queue was full."""
    conflated: int
    """Events that were replaced by a later one of the same key."""
    refused: int
    """Offers that found a full ``BLOCK`` queue."""
    closed: bool


@dataclass(frozen=True, slots=True)
class ConsumerStats:
    """One durable consumer. Events taken from its queue = delivered + skipped + holes."""

    name: str
    pattern: str
    queued: int
    delivered: int
    unfinished: int
    """Events delivered and not done."""
    skipped: int
    """Repeats."""
    holes: int
    refused: int
    closed: bool


@dataclass(frozen=True, slots=True)
class Stats:
    """A bus: what is subscribed now, and the totals since it started."""

    published: int
    subscriptions: tuple[SubscriptionStats, ...]
    consumers: tuple[ConsumerStats, ...]
    once: int
    """Calls of `Bus.once` still waiting."""
    closed: int
    """Subscriptions that ended because they were ``CLOSE`` and full."""


class Subscription(Protocol):
    """A handle, for `Bus.unsubscribe` and for looking at."""

    @property
    def name(self) -> str: ...
    @property
    def pattern(self) -> str: ...
    @property
    def closed(self) -> bool:
        """No event is accepted any more."""
        ...

    def stats(self) -> SubscriptionStats:
        """Its counts, also after it ended."""
        ...


class Consumer(Protocol):
    """A durable consumer, read by one task: ``async for item in consumer``.

    An item is the next event of its stream or a `Hole`. Iteration can be broken off and begun again; cancelling a
    waiting read loses nothing. It ends when the consumer or the bus is closed and nothing is left in the queue.

    A hole shows when a later event comes. Where a broker may have lost events and none may follow, reading raises
    `EventsLost`, from then on each time: the owner closes the consumer and begins again from its own positions.
    """

    @property
    def name(self) -> str: ...
    @property
    def pattern(self) -> str: ...

    def __aiter__(self) -> AsyncIterator[Event | Hole]: ...
    async def __anext__(self) -> Event | Hole: ...

    def done(self, event: Event) -> None:
        """The event is dealt with. The position moves over events that are done with no undone one before them.

        In any order; again, or for an event from before a `seek`, does nothing.
        """
        ...

    def seek(self, stream: Stream, position: int) -> None:
        """The owner has the stream up to ``position``, forwards or backwards; what was unfinished is forgotten."""
        ...

    def position(self, stream: Stream) -> int:
        """Up to where everything of the stream is done; `START` for an unknown stream."""
        ...

    def positions(self) -> dict[Stream, int]:
        """`position` of every stream known."""
        ...

    def stats(self) -> ConsumerStats: ...

    def close(self) -> None:
        """Stop; what waits in the queue is discarded (the journal has it). Idempotent."""
        ...


class Bus(Protocol):
    """Carries events between rooms. See the module's text for what holds for all methods."""

    async def start(self) -> None:
        """Open for use. Again does nothing; after `close` it raises `BusClosed`."""
        ...

    async def close(self) -> None:
        """Refuse what is new, let handlers finish what is queued for at most the grace time, then stop them.

        Publishers still waiting after the grace time, and everybody waiting in `once`, get `BusClosed`. Consumers
        end after what is in their queues. Idempotent.
        """
        ...

    async def publish(self, event: Event) -> None:
        """Return when the event is accepted.

        Waits while a ``BLOCK`` subscription or a consumer is full, behind publishers that waited before. If it is
        cancelled meanwhile, some may have the event and some not; a consumer that has not will see a hole.

        Raises
        ------
        BusClosed
            The bus is not open, or was closed before the event was accepted.
        BusError
            A handler would wait for its own full queue.
        InputError
            The subject is not a plain dotted name.

        """
        ...

    def offer(self, event: Event) -> bool:
        """Publish without waiting.

        Whoever has room gets the event; for a full ``BLOCK`` subscription or consumer it counts as refused. Returns
        False if it was refused anywhere. Raises as `publish`.
        """
        ...

    def subscribe(
        self,
        pattern: str,
        handler: Handler,
        *,
        queue: int = 1024,
        full: Full = Full.DROP_OLDEST,
        key: Key | None = None,
        name: str = "",
    ) -> Subscription:
        """Call the handler with each matching event, in order, one at a time, in a task of its own.

        ``queue`` is the largest number of waiting events. ``key`` is for ``CONFLATE`` and required there. ``name`` is
        a label of metrics: few different ones. An exception in the handler is logged and counted, and the next event
        is delivered. `InputError` if an argument cannot be used.
        """
        ...

    def once(self, pattern: str, handler: Handler | None = None) -> asyncio.Future[Event]:
        """The first matching event, then nothing more.

        With a handler the future is done when the handler has returned, and gets its exception. Cancelling the
        future unsubscribes.
        """
        ...

    def unsubscribe(self, subscription: Subscription) -> None:
        """No handler call begins after this returned; one that is under way ends in its time. Idempotent."""
        ...

    def consume(self, name: str, pattern: str, *, positions: Mapping[Stream, int], queue: int = 256) -> Consumer:
        """A durable consumer of the data events of one stage: ``data.*.processed``, ``data.trade.stored``.

        ``positions`` is what the owner has already; a stream that is not in it begins at `START`. At most ``queue``
        events wait, and at most ``queue`` more are delivered and not done: then the next read waits for `done`.

        Publishers of such a stage publish every ``(prev, last]`` of a stream, with an empty batch where there are no
        rows. Events without a batch are passed over.

        Raises
        ------
        InputError
            The pattern is not ``data.<type or *>.<stage>``: a stage is named because each has the same positions.
        BusError
            A consumer of that name is open.

        """
        ...

    def stats(self) -> Stats: ...


def check_subscription(pattern: str, queue: int, full: Full, key: Key | None) -> None:
    """Raise `InputError` if a subscription cannot be made of these."""
    check_pattern(pattern)
    check_queue(queue)
    if (key is None) == (full is Full.CONFLATE):
        raise InputError(
            f"subscription {pattern!r}: full={full.value!r} {'without' if key is None else 'with'} a key. "
            "A key says which events replace each other: give one with 'conflate', and only there."
        )


def check_queue(queue: int) -> None:
    """Raise `InputError` unless a queue can have this size."""
    if queue < 1:
        raise InputError(f"a queue of {queue} events cannot hold any; the smallest is 1.")


def check_consumer(pattern: str) -> None:
    """Raise `InputError` unless the pattern is ``data.<type or *>.<stage>``."""
    check_pattern(pattern)
    tokens = pattern.split(".")
    if len(tokens) == 3 and tokens[0] == "data" and tokens[2] in STAGES:
        return
    raise InputError(
        f"{pattern!r} cannot be consumed by position: the pattern must be data.<type or *>.<stage>, with one stage of "
        f"{', '.join(STAGES)}, because every stage has the same positions.{nearest(tokens[-1], STAGES)}"
    )


def check_subject(subject: str) -> None:
    """Raise `InputError` unless the subject is a dotted name without wildcards."""
    if check_pattern(subject) and ("*" in subject or ">" in subject):
        raise InputError(f"{subject!r} is a pattern; an event needs a subject without '*' and '>'.")


def closed_event(subscription: Subscription, lost: Event) -> Event:
    """The last event of a ``CLOSE`` subscription; its time and trace are those of the first event lost."""
    return Event(
        id=f"{CLOSED}.{lost.id}",
        subject=CLOSED,
        source="bus",
        time_ns=lost.time_ns,
        version=1,
        trace_id=lost.trace_id,
        payload={
            "name": subscription.name,
            "pattern": subscription.pattern,
            "reason": "queue full",
            "lost_id": lost.id,
            "lost_subject": lost.subject,
        },
    )
