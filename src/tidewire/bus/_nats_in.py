"""What a bus receives: lines bring events to subscriptions, feeds bring them from the stream to durable consumers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import msgspec
from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as Wire
from nats.js import JetStreamContext, api
from nats.js import errors as js_errors

from tidewire import telemetry
from tidewire.bus._nats_envelope import MESSAGE_ID, Decoder, Unpacker, is_ours
from tidewire.bus._nats_link import Connection
from tidewire.bus._nats_out import Mark
from tidewire.bus.config import NatsConfig
from tidewire.bus.delivery import REFUSED, QueuedConsumer, Receiver
from tidewire.errors import BusClosed, EventsLost, ParseError
from tidewire.records.clock import Clock
from tidewire.records.event import Event
from tidewire.records.subject import matches

_LOG = telemetry.log("bus")
_DAMAGED = telemetry.counter("bus_nats_damaged", "Messages from NATS that were damaged or not of ours.")
_DROPPED = telemetry.counter("bus_nats_dropped", "Messages the NATS client dropped because handlers did not keep up.")

# What waits in the client for one subscription, beside the subscription's own queue.
_LINE_MESSAGES = 65_536
_LINE_BYTES = 256 << 20
# One request for the next messages: how many at most, how long it stands, and when its silence is a fault.
_PULL = 256
_PULL_S = 5.0
_SILENT_S = 3 * _PULL_S
# How long the server keeps a consumer nobody asks; positions, not it, say where an owner is.
_FORGOTTEN_S = 60.0
_PULL_OVER = {"404", "408"}


def subject_of(prefix: str, pattern: str) -> str:
    """The NATS subject that covers a pattern; a leading ``*`` stands for one or more tokens, which NATS cannot say."""
    return f"{prefix}.>" if pattern.startswith("*.") else f"{prefix}.{pattern}"


class Line:
    """A subscription at the server, and the receivers here that share it."""

    def __init__(self, subject: str, prefix: str, decoder: Decoder) -> None:
        self.subject = subject
        self.receivers: dict[Receiver, None] = {}
        self._cut = len(prefix) + 1
        self._unpacker = Unpacker(decoder)
        self._wire: Wire | None = None
        self._on: Connection | None = None
        self._handled = 0
        self._change = asyncio.Event()

    async def begin(self, connection: Connection) -> None:
        """Subscribe on this connection, unless that is done."""
        if self._on is connection or not self.receivers:
            return
        self._handled = 0
        self._wire = await connection.client.subscribe(
            self.subject, cb=self._came, pending_msgs_limit=_LINE_MESSAGES, pending_bytes_limit=_LINE_BYTES
        )
        self._on = connection

    async def end(self, connection: Connection) -> None:
        """Unsubscribe."""
        if self._wire is not None and self._on is connection:
            self._on = None
            await self._wire.unsubscribe()

    def dropped(self, wire: Wire) -> None:
        """The client had no room for a message of this line, if it is this line's."""
        if wire is self._wire:
            self._handled += 1
            _DROPPED.inc()
            self._change.set()

    async def handled(self) -> None:
        """Wait until receivers have all that has come so far."""
        target = self._wire.delivered if self._wire is not None else 0
        while self._on is not None and self._handled < target:
            self._change.clear()
            await self._change.wait()

    async def _came(self, message: Msg) -> None:
        try:
            subject = message.subject[self._cut :]
            event = self._unpacker.take(subject, message.headers or {}, message.data)
            if event is not None:
                await self._hand_out(event)
        except ParseError as error:
            _damaged(message, error)
        finally:
            self._handled += 1
            self._change.set()

    async def _hand_out(self, event: Event) -> None:
        for receiver in tuple(self.receivers):
            if matches(receiver.pattern, event.subject) and receiver.put(event) == REFUSED:
                with contextlib.suppress(BusClosed):
                    await receiver.push(event)


def _damaged(message: Msg, error: ParseError) -> None:
    _DAMAGED.inc()
    _LOG.error("message from NATS cannot be read", subject=message.subject, error=str(error))


class Feed:
    """Brings a durable consumer what the stream has, as fast as it takes it, from one connection to the next.

    The server's consumer is of no importance: it is made for one connection, and the next one is told where to begin.
    """

    def __init__(self, consumer: QueuedConsumer, config: NatsConfig, decoder: Decoder, clock: Clock, name: str) -> None:
        self.consumer = consumer
        self.begun = False
        self.expected = 0
        """The last message that the stream is known to have for this consumer."""
        self.seen = Mark()
        self._config = config
        self._clock = clock
        self._name = name
        self._lives = 0
        self._cut = len(config.prefix) + 1
        self._unpacker = Unpacker(decoder)
        self._on: Connection | None = None
        self._wire: Wire | None = None
        self._inbox = ""
        self._wanted = 0
        self._owed = 0
        self._sign_ns = 0
        self._held: tuple[str, Event | None] = ("", None)

    @property
    def silent(self) -> bool:
        """The server was asked for messages and did not even say that there are none."""
        return self._wanted > 0 and self._clock.mono_ns() - self._sign_ns > _SILENT_S * 1e9

    async def begin(self, connection: Connection) -> None:
        """Begin at the end of the stream as it is now."""
        if self.begun or self.consumer.closed:
            return
        jetstream = connection.jetstream
        state = (await jetstream.stream_info(self._config.stream_name)).state
        self.seen = Mark(state.last_seq, await id_at(jetstream, self._config.stream_name, state.last_seq))
        self.begun = True
        try:
            await self._attach(connection)
        except js_errors.BadRequestError as error:
            self.fail(f"the server refused it: {error.description}")

    async def resume(self, connection: Connection, *, intact: bool) -> None:
        """Go on after what was seen; where that may not be possible, tell the consumer."""
        if not self.begun or self.consumer.closed:
            return
        if not intact or not await is_there(connection.jetstream, self._config.stream_name, self.seen):
            self.fail("the server does not have the messages any more that were seen last")
            return
        await self._attach(connection)

    def fail(self, reason: str) -> None:
        """The consumer has to begin again."""
        self.begun = False
        _LOG.warning("events may be lost", consumer=self.consumer.name, reason=reason)
        self.consumer.fail(
            EventsLost(f"consumer {self.consumer.name!r}: {reason}; begin again from your own positions.")
        )

    async def end(self, connection: Connection) -> None:
        """Ask for no more; the server forgets its consumer."""
        self.begun = False
        if self._wire is not None and self._on is connection:
            self._on = None
            await self._wire.unsubscribe()
            with contextlib.suppress(TimeoutError, nats_errors.Error):
                await connection.jetstream.delete_consumer(self._config.stream_name, self._consumer_name)

    @property
    def _consumer_name(self) -> str:
        return f"{self._name}-{self._lives}"

    async def _attach(self, connection: Connection) -> None:
        client, self._on = connection.client, connection
        self._lives += 1
        inbox = client.new_inbox()
        self._wire = await client.subscribe(inbox, cb=self._came, pending_msgs_limit=2 * _PULL, pending_bytes_limit=0)
        await connection.jetstream.add_consumer(
            self._config.stream_name,
            api.ConsumerConfig(
                name=self._consumer_name,
                deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self.seen.sequence + 1,
                ack_policy=api.AckPolicy.NONE,
                filter_subject=f"{self._config.prefix}.{self.consumer.pattern}",
                inactive_threshold=_FORGOTTEN_S,
                mem_storage=True,
                num_replicas=1,
            ),
        )
        self._inbox = inbox
        await self._pull(client)

    async def _pull(self, client: Client) -> None:
        self._wanted = min(self.consumer.limit, _PULL)
        self._owed = self.expected
        self._sign_ns = self._clock.mono_ns()
        await client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._config.stream_name}.{self._consumer_name}",
            msgspec.json.encode({"batch": self._wanted, "expires": round(_PULL_S * 1e9)}),
            reply=self._inbox,
        )

    async def _came(self, message: Msg) -> None:
        connection = self._on
        if connection is None or self.consumer.closed:
            return
        self._sign_ns = self._clock.mono_ns()
        headers = message.headers or {}
        status = headers.get(api.Header.STATUS)
        if status is None:
            self._wanted -= 1
            await self._take(message, headers.get(MESSAGE_ID, ""))
        elif status not in _PULL_OVER:
            connection.end(f"consumer {self.consumer.name!r}: {status} {headers.get(api.Header.DESCRIPTION, '')}")
            return
        elif self._owed > self.seen.sequence:
            # It says it has none, and had acknowledged one before it was asked: find out what there is.
            connection.end(f"consumer {self.consumer.name!r} does not get what the stream has")
            return
        else:
            self._wanted = 0
        if not self._wanted and self.begun:
            with contextlib.suppress(nats_errors.ConnectionClosedError):
                await self._pull(connection.client)

    async def _take(self, message: Msg, message_id: str) -> None:
        if not message_id or message_id != self._held[0]:
            self._held = message_id, self._unpacked(message)
        event = self._held[1]
        if event is not None and not isinstance(event.payload, Mapping):
            with contextlib.suppress(BusClosed):
                await self.consumer.push(event)
        # Only now: a connection that breaks before begins with this message again.
        self.seen = Mark(message.metadata.sequence.stream, message_id)

    def _unpacked(self, message: Msg) -> Event | None:
        headers = message.headers or {}
        try:
            return self._unpacker.take(message.subject[self._cut :], headers, message.data)
        except ParseError as error:
            _damaged(message, error)
            if is_ours(headers):  # else nothing of any stream is missing
                self.fail(f"a message is damaged: {error}")
            return None


async def id_at(jetstream: JetStreamContext, stream: str, sequence: int) -> str:
    """The id of the message at a place of the stream; empty if there is none."""
    if not sequence:
        return ""
    try:
        found = await jetstream.get_msg(stream, sequence)
    except js_errors.NotFoundError:
        return ""
    return (found.headers or {}).get(MESSAGE_ID, "")


async def is_there(jetstream: JetStreamContext, stream: str, mark: Mark) -> bool:
    """Whether the stream still has the message that was there, so that all before it can be trusted too."""
    if not mark.sequence:
        return True
    return bool(mark.message_id) and await id_at(jetstream, stream, mark.sequence) == mark.message_id
