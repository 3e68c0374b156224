"""The bus over a NATS server: data events through a JetStream stream, everything else through core NATS.

- Everything a bus object does goes out on one connection in the order it was asked for: subscribing, beginning a
  consumer, publishing. That is what makes a subscription see every event published after it.
- A connection that is broken, silent or odd is given up, never mended. The next one subscribes again, looks whether the
  stream still has what was last seen and last acknowledged, goes on after it, and sends again, in order and under the
  same message ids, what was not acknowledged.
- Where the stream has lost messages, consumers are told with `EventsLost`. The state the server keeps of its consumers
  is never needed: positions decide.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime

from nats import errors as nats_errors
from nats.aio.subscription import Subscription as Wire

from tidewire import telemetry
from tidewire.bus._nats_envelope import Decoder, pack
from tidewire.bus._nats_in import Feed, Line, is_there, subject_of
from tidewire.bus._nats_link import Connection, ensure_stream, stopped
from tidewire.bus._nats_out import Mark, Outbox, Sending
from tidewire.bus.config import NatsConfig
from tidewire.bus.delivery import QueuedConsumer, Receiver, Subscriber
from tidewire.bus.hub import PUBLISHED, WAITED, Hub, State
from tidewire.bus.protocol import Full, check_subject
from tidewire.errors import BusError
from tidewire.records.clock import Clock, Rng
from tidewire.records.event import Event
from tidewire.records.subject import matches

RECONNECT_S = 0.05
RECONNECT_S_MAX = 2.0
LASTED_S = 1.0
"""A connection that held so long was a good one: the next is tried at once."""

_LOG = telemetry.log("bus")
_UP = telemetry.gauge("bus_nats_up", "Whether the connection to the NATS server is up.")
_CONNECTS = telemetry.counter("bus_nats_connects", "Connections made to the NATS server.")
_LOST = telemetry.counter("bus_nats_streams_lost", "Times the NATS server did not have what it had acknowledged.")

_DATA = "data."


class NatsBus(Hub):
    """A bus for rooms in one process or several. ``grace`` is in seconds of the clock."""

    def __init__(self, clock: Clock, rng: Rng, config: NatsConfig | None = None, *, grace: float = 5.0) -> None:
        super().__init__(clock, grace=grace)
        self._rng = rng
        self._config = config or NatsConfig()
        self._life = rng.token(6)
        self._number = 0
        self._cut = len(self._config.prefix) + 1
        self._outbox = Outbox(clock, self._config.in_flight, self._stored)
        self._decoder = Decoder()
        self._shared: dict[str, Line] = {}
        self._lines: dict[Receiver, Line] = {}
        self._feeds: dict[Receiver, Feed] = {}
        self._connection: Connection | None = None
        self._created: datetime | None = None
        self._intact = True
        self._connections: set[Connection] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def publish(self, event: Event) -> None:
        if self._state is not State.OPEN:
            self._check_draining()
        check_subject(event.subject)
        sending: Sending | None = None
        try:
            async with asyncio.timeout(self._config.patience_s):
                await self._room()
                sending = self._post(event)
                await sending.done
        except TimeoutError:
            raise BusError(
                f"{event.subject!r} was not taken within {self._config.patience_s:g} s by the NATS server at "
                f"{', '.join(self._config.servers)}; it is unreachable or overloaded."
            ) from None
        finally:
            if sending is not None and not sending.finished:
                self._outbox.abandon(sending)

    def offer(self, event: Event) -> bool:
        if self._state is not State.OPEN:
            self._check_draining()
        check_subject(event.subject)
        if self._outbox.full:
            self._published += 1
            PUBLISHED.inc()
            return False
        self._outbox.take()
        self._post(event)
        return True

    async def _room(self) -> None:
        if not self._outbox.full:
            self._outbox.take()
            return
        began = self._clock.mono_ns()
        try:
            await self._outbox.room()
        finally:
            WAITED.observe((self._clock.mono_ns() - began) / 1e9)

    def _post(self, event: Event) -> Sending:
        """Put an event into the outbox; room was taken for it."""
        assert self._connection is not None
        self._number += 1
        try:
            messages = pack(event, self._life, self._number, self._connection.client.max_payload)
        except BusError:
            self._outbox.leave()
            raise
        kept = event.subject.startswith(_DATA)
        sending = Sending(self._number, f"{self._config.prefix}.{event.subject}", messages, kept=kept)
        self._outbox.add(sending)
        self._published += 1
        PUBLISHED.inc()
        return sending

    def _stored(self, subject: str, sequence: int) -> None:
        for feed in self._feeds.values():
            if matches(feed.consumer.pattern, subject[self._cut :]):
                feed.expected = sequence

    # -- receivers --------------------------------------------------------------------------------------------

    def _joined(self, receiver: Receiver) -> None:
        if isinstance(receiver, QueuedConsumer):
            name = f"{self._life}-{self._rng.token(4)}"
            feed = self._feeds[receiver] = Feed(receiver, self._config, self._decoder, self._clock, name)
            self._outbox.then(lambda connection: self._begin(feed, connection))
            return
        subject = subject_of(self._config.prefix, receiver.pattern)
        # One that may hold up its line has a line of its own.
        own = isinstance(receiver, Subscriber) and receiver.stats().full is Full.BLOCK
        line = None if own else self._shared.get(subject)
        if line is None:
            line = Line(subject, self._config.prefix, self._decoder)
            self._outbox.then(line.begin)
            if not own:
                self._shared[subject] = line
        line.receivers[receiver] = None
        self._lines[receiver] = line

    def _left(self, receiver: Receiver) -> None:
        feed = self._feeds.pop(receiver, None)
        if feed is not None:
            self._outbox.then(feed.end)
        line = self._lines.pop(receiver, None)
        if line is not None:
            del line.receivers[receiver]
            if not line.receivers:
                if self._shared.get(line.subject) is line:
                    del self._shared[line.subject]
                self._outbox.then(line.end)

    async def _begin(self, feed: Feed, connection: Connection) -> None:
        # The stream takes messages a little later than it answers: those published before are not the consumer's.
        await self._outbox.acknowledged()
        await feed.begin(connection)

    # -- connections ------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        connection = await self._connect()
        self._tasks = [asyncio.get_running_loop().create_task(self._run(connection), name="bus nats")]

    async def _connect(self) -> Connection:
        """A connection to a server that has the stream; `BusError` says what is missing."""
        connection = Connection(self._config)
        self._connections.add(connection)
        try:
            await connection.open(self._dropped)
            jetstream = connection.jetstream
            stream = await ensure_stream(jetstream, self._config)
            self._intact = self._created in (None, stream.created) and await is_there(
                jetstream, self._config.stream_name, self._outbox.last
            )
        except BaseException:
            await self._close_one(connection)
            raise
        self._created = stream.created
        if not self._intact:
            _LOST.inc()
            self._outbox.last = Mark()
        self._connection = connection
        _CONNECTS.inc()
        return connection

    async def _run(self, connection: Connection) -> None:
        """Carry events over one connection after another."""
        wait_s = RECONNECT_S
        while True:
            began = self._clock.mono_ns()
            reason = await self._carry(connection)
            await self._close_one(connection)
            if self._clock.mono_ns() - began >= LASTED_S * 1e9:
                wait_s = RECONNECT_S
            _LOG.warning("disconnected from NATS", servers=self._config.servers, reason=reason)
            while True:
                await self._clock.sleep(self._rng.uniform(wait_s / 2, wait_s))
                wait_s = min(2 * wait_s, RECONNECT_S_MAX)
                try:
                    connection = await self._connect()
                    break
                except (BusError, OSError, TimeoutError, nats_errors.Error) as error:
                    _LOG.warning("no connection to NATS; trying again", reason=str(error), wait_s=wait_s)
            _LOG.info("connected to NATS again", servers=self._config.servers, intact=self._intact)

    async def _close_one(self, connection: Connection) -> None:
        await connection.close()
        self._connections.discard(connection)

    async def _carry(self, connection: Connection) -> str:
        """Use a connection until it ends; returns why it did."""
        _UP.set(1)
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._work(connection)), loop.create_task(self._watch(connection))]
        self._tasks = [self._tasks[0], *tasks]
        try:
            await asyncio.wait({*tasks, connection.ended}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and (error := task.exception()) is not None:
                    connection.end(f"{type(error).__name__}: {error}")
            return connection.ended.result()
        finally:
            _UP.set(0)
            await stopped(*tasks)

    async def _work(self, connection: Connection) -> None:
        inbox = connection.client.new_inbox()
        await connection.client.subscribe(f"{inbox}.>", cb=self._outbox.replied)
        for line in self._every_line():
            await line.begin(connection)
        for feed in tuple(self._feeds.values()):
            await feed.resume(connection, intact=self._intact)
        await self._outbox.carry(connection, inbox)

    async def _watch(self, connection: Connection) -> None:
        """Give a connection up that takes and does not answer."""
        while True:
            await self._clock.sleep(self._config.timeout_s / 4)
            if self._outbox.overdue(self._config.timeout_s):
                connection.end(f"no acknowledgement within {self._config.timeout_s:g} s")
            if any(feed.silent for feed in self._feeds.values()):
                connection.end("a consumer does not hear from the server any more")

    def _dropped(self, wire: Wire) -> None:
        for line in self._every_line():
            line.dropped(wire)

    def _every_line(self) -> tuple[Line, ...]:
        return tuple(dict.fromkeys(self._lines.values()))

    # -- the end ----------------------------------------------------------------------------------------------

    async def _arrived(self) -> None:
        if self._connection is not None:
            task = asyncio.get_running_loop().create_task(self._fence(self._connection))
            try:
                await asyncio.wait({task})
            finally:
                await stopped(task)

    async def _fence(self, connection: Connection) -> None:
        with contextlib.suppress(TimeoutError, nats_errors.Error):
            for feed in tuple(self._feeds.values()):
                await feed.end(connection)  # what the broker has stays there: the next start reads the journal
            await self._outbox.settled()
            await connection.echo()
            for line in self._every_line():
                await line.handled()

    async def _shut(self) -> None:
        self._outbox.close(self._refusal())
        await stopped(*self._tasks)
        for connection in tuple(self._connections):
            await self._close_one(connection)
