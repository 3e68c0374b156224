"""What a bus sends: in order, several at a time, again after a broken connection, and bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec
from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from tidewire import telemetry
from tidewire.bus._nats_envelope import MESSAGE_ID, Message
from tidewire.bus._nats_link import Connection
from tidewire.errors import BusClosed, BusError
from tidewire.records.clock import Clock

_LOG = telemetry.log("bus")
_ACKNOWLEDGED = telemetry.counter("bus_nats_acknowledged", "Data events the NATS server has acknowledged.")
_RESENT = telemetry.counter("bus_nats_resent", "Events sent again because their fate was not known.")
_FAILED = telemetry.counter("bus_nats_failed", "Events the NATS server did not take.")
_IN_FLIGHT = telemetry.gauge("bus_nats_in_flight_events", "Events sent or waiting to be sent, not acknowledged.")

Step = Callable[[Connection], Awaitable[None]]
"""Something to be done on the connection between two events: subscribe, begin or end a consumer."""


class Mark:
    """A message of the stream that is known to have been there; all before it were too."""

    __slots__ = ("message_id", "sequence")

    def __init__(self, sequence: int = 0, message_id: str = "") -> None:
        self.sequence = sequence
        self.message_id = message_id


class _Ack(msgspec.Struct):
    seq: int = 0
    error: dict[str, object] | None = None


class Sending:
    """One event on its way. ``kept``: a stream keeps it, and says so."""

    __slots__ = ("done", "kept", "messages", "number", "sent_ns", "subject", "unacknowledged")

    def __init__(self, number: int, subject: str, messages: list[Message], *, kept: bool) -> None:
        self.number = number
        self.subject = subject
        self.messages = messages
        self.kept = kept
        self.sent_ns = 0
        self.unacknowledged = set(range(len(messages))) if kept else set[int]()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Its fate is known, or nobody wants to know it any more."""

    @property
    def finished(self) -> bool:
        """Its fate is known."""
        return self.done.done() and not self.done.cancelled()

    def finish(self, error: BusError | None = None) -> None:
        """Tell its fate."""
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
            self.done.exception()  # nobody waits for an offered event


class Outbox:
    """Events and steps in the order they were asked for.

    At most ``limit`` events are here; further publishers wait for room in the order they came. ``stored`` is told the
    subject of each event the stream has, and where.
    """

    def __init__(self, clock: Clock, limit: int, stored: Callable[[str, int], None]) -> None:
        self.last = Mark()
        """The last message of ours that the server acknowledged."""
        self._clock = clock
        self._limit = limit
        self._stored = stored
        self._held = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._jobs: deque[Sending | Step] = deque()
        self._flight: dict[int, Sending] = {}
        self._more = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._landed = asyncio.Event()
        self._landed.set()
        self._connection: Connection | None = None

    @property
    def full(self) -> bool:
        """No room, or somebody waits for room already."""
        return self._held >= self._limit or bool(self._waiting)

    async def room(self) -> None:
        """Wait for room and take it."""
        if not self.full:
            self.take()
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.leave()
            elif future in self._waiting:
                self._waiting.remove(future)
            raise

    def take(self) -> None:
        """Take the room that is there."""
        self._held += 1
        self._settled.clear()
        _IN_FLIGHT.set(self._held)

    def leave(self) -> None:
        """Give the room to whoever waits longest."""
        self._held -= 1
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                self._held += 1
                future.set_result(None)
                break
        _IN_FLIGHT.set(self._held)
        if not self._held:
            self._settled.set()

    def add(self, sending: Sending) -> None:
        """Send this after everything that was added before; room was taken for it."""
        sending.done.add_done_callback(lambda _: self.leave())
        self._jobs.append(sending)
        self._more.set()

    def then(self, step: Step) -> None:
        """Do this after everything that was added before."""
        self._jobs.append(step)
        self._more.set()

    def abandon(self, sending: Sending) -> None:
        """Whoever published it does not wait any more: it is not sent, or not sent again."""
        sending.done.cancel()
        if sending in self._jobs:
            self._jobs.remove(sending)

    async def settled(self) -> None:
        """Wait until the fate of every event is known."""
        await self._settled.wait()

    def overdue(self, timeout_s: float) -> bool:
        """Whether the server owes an acknowledgement for longer than that."""
        oldest = next(iter(self._flight.values()), None)
        return oldest is not None and self._clock.mono_ns() - oldest.sent_ns > timeout_s * 1e9

    def close(self, error: BusClosed) -> None:
        """Nothing is sent any more; everybody who waits gets the error."""
        for sending in [*self._flight.values(), *(job for job in self._jobs if isinstance(job, Sending))]:
            sending.finish(error)
        for future in self._waiting:
            if not future.done():
                future.set_exception(error)
        self._flight.clear()
        self._landed.set()
        self._jobs.clear()
        self._waiting.clear()

    # -- on one connection ------------------------------------------------------------------------------------

    async def carry(self, connection: Connection, inbox: str) -> None:
        """Send what may have got lost, in order, then what is new, until the connection ends."""
        self._connection = connection
        for sending in tuple(self._flight.values()):
            if sending.done.done():
                self._land(sending)
            else:
                _RESENT.inc()
                await self._send(connection.client, inbox, sending)
        while True:
            while not self._jobs:
                self._more.clear()
                await self._more.wait()
            # It stays at the front until it is done: the next connection begins with it.
            job = self._jobs[0]
            if not isinstance(job, Sending):
                await job(connection)
            elif not job.done.done():
                await self._send(connection.client, inbox, job)
            if self._jobs and self._jobs[0] is job:
                self._jobs.popleft()

    async def acknowledged(self) -> None:
        """Wait until the server has all that was sent."""
        await self._landed.wait()

    async def _send(self, client: Client, inbox: str, sending: Sending) -> None:
        sending.sent_ns = self._clock.mono_ns()
        if sending.kept:
            self._flight[sending.number] = sending
            self._landed.clear()
        try:
            for part, (headers, body) in enumerate(sending.messages):
                reply = f"{inbox}.{sending.number}.{part}" if sending.kept else ""
                await client.publish(sending.subject, body, reply=reply, headers=headers)
        except (nats_errors.MaxPayloadError, nats_errors.BadSubjectError, nats_errors.BadHeaderError) as error:
            self._fail(sending, f"{type(error).__name__}: {error}")
        else:
            if not sending.kept:
                sending.finish()

    async def replied(self, message: Msg) -> None:
        """The server says what became of a message."""
        number, part = map(int, message.subject.rsplit(".", 2)[1:])
        sending = self._flight.get(number)
        if sending is None:
            return
        ack = msgspec.json.decode(message.data, type=_Ack) if message.data else _Ack()
        if ack.error is not None and int(str(ack.error.get("code", 500))) < 500:
            self._fail(sending, str(ack.error.get("description", "no reason given")))
            return
        if not ack.seq:
            # No stream there, or one that is not ready: the next connection looks for it.
            if self._connection is not None:
                self._connection.end(f"{sending.subject} could not be stored: {ack.error or 'no stream takes it'}")
            return
        self.last = Mark(ack.seq, sending.messages[part].headers[MESSAGE_ID])
        sending.unacknowledged.discard(part)
        if not sending.unacknowledged:
            self._land(sending)
            _ACKNOWLEDGED.inc()
            self._stored(sending.subject, ack.seq)
            sending.finish()

    def _land(self, sending: Sending) -> None:
        self._flight.pop(sending.number, None)
        if not self._flight:
            self._landed.set()

    def _fail(self, sending: Sending, reason: str) -> None:
        self._land(sending)
        _FAILED.inc()
        _LOG.error("the NATS server did not take an event", subject=sending.subject, reason=reason)
        sending.finish(BusError(f"The NATS server did not take {sending.subject!r}: {reason}."))
