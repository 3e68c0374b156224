from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.bus_kit import data, new_stream, note
from tidewire.bus._nats_envelope import MESSAGE_ID, Decoder, Message, Unpacker, pack
from tidewire.errors import BusError, ParseError
from tidewire.records.event import Event

LIMIT = 1_000


def unpacked(unpacker: Unpacker, subject: str, messages: list[Message]) -> list[Event]:
    found = [unpacker.take(subject, headers, body) for headers, body in messages]
    return [event for event in found if event is not None]


@given(
    text=st.text(max_size=5_000),
    source=st.text(st.characters(categories=("L", "N")), min_size=1, max_size=20),
    limit=st.integers(500, 6_000),
)
def test_an_event_comes_back_whatever_a_message_may_carry(text: str, source: str, limit: int) -> None:
    event = Event("e1", "a.b", source, 17, 2, "t1", {"text": text})
    messages = pack(event, "life", 1, limit)
    for headers, body in messages:
        assert sum(len(f"{name}: {value}\r\n".encode()) for name, value in headers.items()) + len(body) + 12 <= limit
    assert unpacked(Unpacker(Decoder()), "a.b", messages) == [event]


def test_a_batch_comes_back() -> None:
    event = data(new_stream(), 3, 8)
    (back,) = unpacked(Unpacker(Decoder()), event.subject, pack(event, "life", 1, 1 << 20))
    assert back.batch.lineage == event.batch.lineage
    assert back.batch.rows.equals(event.batch.rows)
    assert (back.id, back.subject, back.source, back.time_ns, back.version, back.trace_id) == (
        *(event.id, event.subject, event.source, event.time_ns),
        *(event.version, event.trace_id),
    )


def test_parts_of_several_buses_may_mingle() -> None:
    one, two = note("a.b", text="x" * 3_000), note("a.b", text="y" * 3_000)
    left, right = pack(one, "left", 1, LIMIT), pack(two, "right", 1, LIMIT)
    mingled = [message for pair in zip(left, right, strict=True) for message in pair]
    assert len(left) > 3
    assert unpacked(Unpacker(Decoder()), "a.b", mingled) == [one, two]


def test_what_is_sent_again_is_passed_over() -> None:
    one, two = note("a.b", text="x" * 3_000), note("a.b")
    first, second = pack(one, "life", 1, LIMIT), pack(two, "life", 2, LIMIT)
    again = [*first[:2], *first, *second, *first, *second]
    assert unpacked(Unpacker(Decoder()), "a.b", again) == [one, two]


def test_a_subscription_that_begins_in_the_middle_of_an_event_waits_for_the_next() -> None:
    one, two = note("a.b", text="x" * 3_000), note("a.b")
    messages = [*pack(one, "life", 1, LIMIT)[1:2], *pack(two, "life", 2, LIMIT)]
    assert unpacked(Unpacker(Decoder()), "a.b", messages) == [two]


def test_a_missing_part_is_told() -> None:
    messages = pack(note("a.b", text="x" * 3_000), "life", 1, LIMIT)
    unpacker = Unpacker(Decoder())
    assert unpacker.take("a.b", *messages[0]) is None
    with pytest.raises(ParseError, match="the rest of it is missing"):
        unpacker.take("a.b", *messages[2])


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_any_flipped_bit_of_a_payload_is_seen(place: int, bit: int) -> None:
    headers, body = pack(note("a.b", text="x" * 50), "life", 1, LIMIT)[0]
    broken = bytearray(body)
    broken[place % len(body)] ^= 1 << bit
    with pytest.raises(ParseError, match="not those that were sent"):
        Unpacker(Decoder()).take("a.b", headers, bytes(broken))


@pytest.mark.parametrize("name", ["Tidewire-Event", "Tidewire-Time", "Tidewire-Hash", "Tidewire-Form"])
def test_missing_headers_are_told(name: str) -> None:
    headers, body = pack(note("a.b"), "life", 1, LIMIT)[0]
    del headers[name]
    with pytest.raises(ParseError, match="are not whole"):
        Unpacker(Decoder()).take("a.b", headers, body)


@pytest.mark.parametrize("found", [{}, {MESSAGE_ID: "x"}, {MESSAGE_ID: "a.b.c"}])
def test_messages_of_others_are_told(found: dict[str, str]) -> None:
    with pytest.raises(ParseError, match="not a message of a Tidewire bus"):
        Unpacker(Decoder()).take("a.b", found, b"")


def test_an_unknown_form_is_told() -> None:
    headers, body = pack(note("a.b"), "life", 1, LIMIT)[0]
    with pytest.raises(ParseError, match="form 'batch/2'; this process reads batch/1 and facts/1"):
        Unpacker(Decoder()).take("a.b", headers | {"Tidewire-Form": "batch/2"}, body)


def test_what_no_message_can_carry_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BusError, match="the server takes 100 in one message"):
        pack(note("a.b"), "life", 1, 100)
    monkeypatch.setattr("tidewire.bus._nats_envelope.MAX_EVENT_BYTES", 1_000)
    with pytest.raises(BusError, match="an event may have 1,000"):
        pack(note("a.b", text="x" * 1_000), "life", 1, LIMIT)


def test_what_is_remembered_is_bounded() -> None:
    decoder = Decoder()
    unpacker = Unpacker(decoder)
    for number in range(600):
        unpacker.take("a.b", *pack(note("a.b", text="x" * 2_000), f"life{number}", 1, LIMIT)[0])
        assert unpacked(unpacker, "a.b", pack(note("a.b"), f"life{number}", 2, LIMIT))
    assert len(unpacker._last) <= 256
    assert len(unpacker._parts) <= 256
    assert len(decoder._decoded) <= 32
