"""What every bus is beside its way of carrying events: who receives, handlers' tasks, how it opens and closes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from enum import Enum

from tidewire import telemetry
from tidewire.bus.delivery import TAKEN, ConflatingSubscriber, QueuedConsumer, Receiver, Subscriber, Terms
from tidewire.bus.protocol import (
    Consumer,
    Full,
    Handler,
    Key,
    Stats,
    Subscription,
    check_consumer,
    check_queue,
    check_subscription,
)
from tidewire.errors import BusClosed, BusError
from tidewire.records.batch import Stream
from tidewire.records.clock import Clock
from tidewire.records.event import Event
from tidewire.records.subject import check_pattern

PUBLISHED = telemetry.counter("bus_published", "Events published or offered.")
WAITED = telemetry.histogram("bus_publish_wait_seconds", "How long publishers waited for room, when they had to.")

_LOG = telemetry.log("bus")


class State(Enum):
    """The life of a bus; the value completes "the bus is"."""

    NEW = "not started; await start() first"
    OPEN = "open"
    DRAINING = "closing"
    CLOSED = "closed"


class Once:
    """Waits for one event."""

    def __init__(self, bus: Hub, pattern: str, handler: Handler | None) -> None:
        self.pattern = pattern
        self.future: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._bus = bus
        self._handler = handler
        self._task: asyncio.Task[None] | None = None
        self.future.add_done_callback(lambda _: bus.forget(self))

    def put(self, event: Event) -> int:
        if self.future.done() or self._task is not None:
            return TAKEN
        if self._handler is None:
            self.future.set_result(event)
        else:
            self._task = asyncio.get_running_loop().create_task(self._call(self._handler, event))
            self._task.add_done_callback(self._handled)
            self._bus.watch(self._task)
        self._bus.forget(self)
        return TAKEN

    async def push(self, event: Event) -> None:
        self.put(event)

    def refuse(self) -> None:
        """Never: there is always room."""

    def fail(self, error: BaseException) -> None:
        """Tell whoever waits; nobody has to."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()

    async def _call(self, handler: Handler, event: Event) -> None:
        try:
            answer = handler(event)
            if answer is not None:
                await answer
        except Exception as error:
            _LOG.error("handler failed", subscription=self.pattern, subject=event.subject, exc_info=error)
            self.fail(error)
        else:
            if not self.future.done():
                self.future.set_result(event)

    def _handled(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self.fail(BusClosed("the bus was closed before the handler returned."))


class Hub:
    """Base of every bus; ``grace`` is in seconds of the clock.

    A bus adds ``publish`` and ``offer``, and overrides what it needs of `_open`, `_joined`, `_left`, `_arrived` and
    `_shut`.
    """

    def __init__(self, clock: Clock, *, grace: float = 5.0) -> None:
        self._clock = clock
        self._grace = grace
        self._state = State.NEW
        self._published = 0
        self._lapsed = 0
        self._receivers: dict[Receiver, None] = {}
        self._consumers: dict[str, QueuedConsumer] = {}
        self._running: dict[asyncio.Task[None], Subscriber | None] = {}
        self._closing: asyncio.Task[None] | None = None

    # -- what a bus overrides ---------------------------------------------------------------------------------

    async def _open(self) -> None:
        """Begin to carry events; an error leaves the bus unstarted."""

    def _joined(self, receiver: Receiver) -> None:
        """A receiver is there: what is published from now on has to reach it."""

    def _left(self, receiver: Receiver) -> None:
        """A receiver is gone."""

    async def _arrived(self) -> None:
        """Return when nothing that was published is still on its way to a subscription."""

    async def _shut(self) -> None:
        """Carry nothing more; also called when `_open` was not."""

    # -- what every bus does ----------------------------------------------------------------------------------

    async def start(self) -> None:
        if self._state in (State.DRAINING, State.CLOSED):
            raise self._refusal()
        if self._state is State.NEW:
            await self._open()
            self._state = State.OPEN

    async def close(self) -> None:
        if self._closing is None:
            was, self._state = self._state, State.DRAINING
            self._closing = asyncio.get_running_loop().create_task(self._close(was), name="bus close")
        await asyncio.shield(self._closing)

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
        self._check_open()
        check_subscription(pattern, queue, full, key)
        terms = Terms(pattern, handler, queue, full, key, name)
        if key is None:
            subscriber = Subscriber(terms, self._detached)
        else:
            subscriber = ConflatingSubscriber(terms, key, self._detached)
        self.watch(subscriber.task, subscriber)
        self._attach(subscriber)
        return subscriber

    def once(self, pattern: str, handler: Handler | None = None) -> asyncio.Future[Event]:
        self._check_open()
        once = Once(self, check_pattern(pattern), handler)
        self._attach(once)
        return once.future

    def unsubscribe(self, subscription: Subscription) -> None:
        if isinstance(subscription, Subscriber):
            subscription.cancel()

    def consume(self, name: str, pattern: str, *, positions: Mapping[Stream, int], queue: int = 256) -> Consumer:
        self._check_open()
        check_consumer(pattern)
        check_queue(queue)
        if name in self._consumers:
            raise BusError(f"a consumer {name!r} is open already; close it first, or choose another name.")
        consumer = QueuedConsumer(name, pattern, positions=positions, queue=queue, detach=self._detached)
        self._consumers[name] = consumer
        self._attach(consumer)
        return consumer

    def stats(self) -> Stats:
        receivers = tuple(self._receivers)
        return Stats(
            published=self._published,
            subscriptions=tuple(each.stats() for each in receivers if isinstance(each, Subscriber)),
            consumers=tuple(each.stats() for each in receivers if isinstance(each, QueuedConsumer)),
            once=sum(isinstance(each, Once) for each in receivers),
            closed=self._lapsed,
        )

    def watch(self, task: asyncio.Task[None], subscriber: Subscriber | None = None) -> None:
        """Keep a handler's task until it ends; it may publish while the bus drains."""
        self._running[task] = subscriber
        task.add_done_callback(self._ended)

    def forget(self, receiver: Receiver) -> None:
        """Send it nothing more. Idempotent."""
        if receiver in self._receivers:
            del self._receivers[receiver]
            self._left(receiver)

    def _attach(self, receiver: Receiver) -> None:
        self._receivers[receiver] = None
        self._joined(receiver)

    def _detached(self, receiver: Subscriber | QueuedConsumer) -> None:
        self.forget(receiver)
        if isinstance(receiver, QueuedConsumer):
            self._consumers.pop(receiver.name, None)
        elif receiver.lapsed:
            self._lapsed += 1

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("subscription ended", task=task.get_name(), exc_info=error)

    def _refusal(self) -> BusClosed:
        return BusClosed(f"the bus is {self._state.value}.")

    def _check_open(self) -> None:
        if self._state is not State.OPEN:
            raise self._refusal()

    def _check_draining(self) -> None:
        if self._state is not State.DRAINING or asyncio.current_task() not in self._running:
            raise self._refusal()

    def _subscribers(self) -> Iterator[Subscriber]:
        return (each for each in self._running.values() if each is not None)

    async def _close(self, was: State) -> None:
        if was is State.OPEN:
            loop = asyncio.get_running_loop()
            drained = loop.create_task(self._drain())
            patience = loop.create_task(self._clock.sleep(self._grace))
            await asyncio.wait({drained, patience}, return_when=asyncio.FIRST_COMPLETED)
            for task in (drained, patience):
                task.cancel()
            await asyncio.gather(drained, patience, return_exceptions=True)
        left = [each for each in self._subscribers() if not each.settled]
        if left:
            _LOG.warning(
                "closed before every event was handled",
                grace_seconds=self._grace,
                subscriptions=[each.name or each.pattern for each in left],
                events=sum(each.waiting for each in left),
            )
        self._state = State.CLOSED
        await self._stop()

    async def _drain(self) -> None:
        """Until no handler has anything to do and no publisher waits."""
        while True:
            published = self._published
            await self._arrived()
            busy = [each for each in (*self._subscribers(), *self._consumers.values()) if not each.settled]
            tasks = [task for task, subscriber in self._running.items() if subscriber is None]
            if busy:
                await busy[0].settle()
            elif tasks:
                await asyncio.wait(tasks)
            elif self._published == published:  # else a handler published meanwhile, and that may be on its way
                return

    async def _stop(self) -> None:
        error = self._refusal()
        for consumer in self._consumers.values():
            consumer.stop(error)
            consumer.end()
        for subscriber in tuple(self._subscribers()):
            subscriber.stop(error)
        for receiver in tuple(self._receivers):
            if isinstance(receiver, Once):
                receiver.fail(error)
        tasks = tuple(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._shut()
