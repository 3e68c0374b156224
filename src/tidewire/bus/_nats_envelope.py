"""An event as NATS messages and back: headers for what is about it, the payload's bytes as body.

A payload larger than the server takes in one message travels as several, in order, each with its place. The
message id names the life of the bus that sent it and counts that bus's events: no two publishings share it, not even of
the same event, so that the server removes what the connection repeated and nothing that was published again on
purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import xxhash

from tidewire.errors import BusError, ParseError
from tidewire.records.batch import Batch
from tidewire.records.event import Event, Payload

MESSAGE_ID = "Nats-Msg-Id"
MAX_EVENT_BYTES = 256 << 20

_ID = "Tidewire-Event"
_SOURCE = "Tidewire-Source"
_TIME = "Tidewire-Time"
_VERSION = "Tidewire-Version"
_TRACE = "Tidewire-Trace"
_HASH = "Tidewire-Hash"
_FORM = "Tidewire-Form"
_PART = "Tidewire-Part"
_BATCH, _FACTS = "batch/1", "facts/1"

# Lives whose last message is remembered: as many buses publish under one prefix, and far fewer do.
_LIVES = 256
# Events that are remembered once decoded: several receivers in one process get the same message.
_DECODED = 32


class Message(NamedTuple):
    """What goes over the wire, beside subject and reply."""

    headers: dict[str, str]
    body: bytes


class MessageId(NamedTuple):
    """``life.number.part``: the bus that sent it, which of its events, which part of that event."""

    life: str
    number: int
    part: int

    def __str__(self) -> str:
        return f"{self.life}.{self.number}.{self.part}"


def message_id(headers: Mapping[str, str]) -> MessageId:
    """The id of a message of ours; `ParseError` for any other."""
    try:
        life, number, part = headers[MESSAGE_ID].rsplit(".", 2)
        return MessageId(life, int(number), int(part))
    except (KeyError, ValueError):
        raise ParseError("not a message of a Tidewire bus: it has no message id of one") from None


def is_ours(headers: Mapping[str, str]) -> bool:
    """Whether a bus sent it."""
    try:
        message_id(headers)
    except ParseError:
        return False
    return True


def pack(event: Event, life: str, number: int, limit: int) -> list[Message]:
    """The messages of an event, each with headers at most ``limit`` bytes; `BusError` if it cannot be sent."""
    body = event.payload_bytes
    headers = {
        MESSAGE_ID: str(MessageId(life, number, 0)),
        _ID: event.id,
        _SOURCE: event.source,
        _TIME: str(event.time_ns),
        _VERSION: str(event.version),
        _TRACE: event.trace_id,
        _HASH: event.payload_hash,
        _FORM: _FACTS if isinstance(event.payload, Mapping) else _BATCH,
    }
    taken = sum(len(name) + len(value.encode()) + 4 for name, value in headers.items()) + 64
    room = limit - taken
    if room < 1 or len(body) > MAX_EVENT_BYTES:
        raise BusError(
            f"{event.subject!r} cannot be sent: its payload is {len(body):,} bytes and its headers {taken:,}; the "
            f"server takes {limit:,} in one message, and an event may have {MAX_EVENT_BYTES:,}."
        )
    if len(body) <= room:
        return [Message(headers, body)]
    parts = -(-len(body) // room)
    return [
        Message(
            (headers if part == 0 else {MESSAGE_ID: str(MessageId(life, number, part))}) | {_PART: f"{part}/{parts}"},
            body[part * room : (part + 1) * room],
        )
        for part in range(parts)
    ]


class Decoder:
    """Makes events of headers and bodies; one for a bus."""

    def __init__(self) -> None:
        self._decoded: dict[tuple[str, int], Event] = {}

    def event(self, subject: str, headers: Mapping[str, str], body: bytes) -> Event:
        """The event of a whole payload; `ParseError` for damaged or unknown ones."""
        life, number, _ = message_id(headers)
        event = self._decoded.get((life, number))
        if event is None:
            event = _event(subject, headers, body)
            if len(self._decoded) >= _DECODED:
                del self._decoded[next(iter(self._decoded))]
            self._decoded[life, number] = event
        return event


class Unpacker:
    """The messages of one subscription, in the order they come, to events."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._last: dict[str, tuple[int, int]] = {}
        self._parts: dict[str, tuple[Mapping[str, str], list[bytes]]] = {}

    def take(self, subject: str, headers: Mapping[str, str], body: bytes) -> Event | None:
        """The event a message completes; None when more is to come, or when it was here before.

        `ParseError` for a message of ours that is damaged, unknown or not preceded by its other parts.
        """
        life, number, part = message_id(headers)
        if (number, part) <= self._last.get(life, (-1, -1)):
            return None  # the connection broke before it was acknowledged, and it was sent again
        begun = self._last.pop(life, None) is not None
        if len(self._last) >= _LIVES:
            oldest = next(iter(self._last))
            del self._last[oldest]
            self._parts.pop(oldest, None)
        self._last[life] = (number, part)
        place = headers.get(_PART)
        if place is None:
            self._parts.pop(life, None)
            return self._decoder.event(subject, headers, body)
        if part and not begun:
            return None  # the subscription begins in the middle of an event
        return self._join(life, part, place, subject, headers, body)

    def _join(
        self, life: str, part: int, place: str, subject: str, headers: Mapping[str, str], body: bytes
    ) -> Event | None:
        first, parts = (headers, []) if part == 0 else self._parts.pop(life, (headers, []))
        count = int(place.rpartition("/")[2]) if place.rpartition("/")[2].isdecimal() else 0
        if place != f"{part}/{count}" or len(parts) != part or message_id(first).number != message_id(headers).number:
            raise ParseError(f"part {place!r} of an event, after {len(parts)} others; the rest of it is missing")
        parts.append(body)
        if sum(map(len, parts)) > MAX_EVENT_BYTES:
            raise ParseError(f"an event of more than {MAX_EVENT_BYTES:,} bytes")
        if len(parts) < count:
            self._parts[life] = first, parts
            return None
        return self._decoder.event(subject, first, b"".join(parts))


def _event(subject: str, headers: Mapping[str, str], body: bytes) -> Event:
    try:
        if xxhash.xxh3_128_hexdigest(body) != headers[_HASH]:
            raise ParseError(f"{headers[_ID]}: its {len(body)} bytes are not those that were sent")
        return Event(
            id=headers[_ID],
            subject=subject,
            source=headers[_SOURCE],
            time_ns=int(headers[_TIME]),
            version=int(headers[_VERSION]),
            trace_id=headers[_TRACE],
            payload=_payload(headers[_FORM], body),
        )
    except (KeyError, ValueError) as error:
        raise ParseError(f"the headers of {subject} are not whole: {error!r}") from None


def _payload(form: str, body: bytes) -> Batch | Payload:
    if form == _BATCH:
        return Batch.from_bytes(body)
    if form == _FACTS:
        return msgspec.json.decode(body, type=dict[str, object])
    raise ParseError(f"a payload of form {form!r}; this process reads {_BATCH} and {_FACTS}. Upgrade it.")
