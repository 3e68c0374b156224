from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.records.clock import ManualClock
from tidewire.sandbox.config import Faults, LimitConfig
from tidewire.sandbox.hub import Connection, Hub, clock_pong, text_frame


class Wire:
    """A socket that remembers, and can be full."""

    def __init__(self):
        self.data = b""
        self.is_full = False
        self.room = asyncio.Event()
        self.ended = []

    def write(self, data):
        self.data += data

    def full(self):
        return self.is_full

    async def drain(self):
        await self.room.wait()

    def cut(self):
        self.ended.append(None)

    async def close(self, code, reason):
        self.ended.append(code)


def hub(faults=None, *, tell_clock=False, **limits):
    return Hub(ManualClock(), faults or Faults(), LimitConfig(**limits), tell_clock=tell_clock)


def join(where, *streams, combined=False, micro=False):
    connection = Connection(len(where.connections) + 1, Wire(), combined=combined, micro=micro)
    where.add(connection)
    where.subscribe(connection, streams)
    return connection


@given(st.sampled_from([0, 1, 125, 126, 65_535, 65_536]))
def test_frames_have_the_length_they_say(size):
    frame = text_frame(b"x" * size)
    assert frame[0] == 0x81
    head = 2 if size < 126 else 4 if size < 65_536 else 10
    said = frame[1] if head == 2 else int.from_bytes(frame[2:head], "big")
    assert said == size == len(frame) - head


async def test_each_listener_gets_its_own_form_and_nobody_else_anything():
    place = hub()
    raw, combined, other = join(place, "a@trade"), join(place, "a@trade", combined=True), join(place, "b@trade")
    place.publish("a@trade", 1, b'{"t":1}', 5)
    place.publish("c@trade", 1, b'{"t":1}', 5)
    await place.flush()
    assert raw.socket.data == text_frame(b'{"t":1}')
    assert combined.socket.data == text_frame(b'{"stream":"a@trade","data":{"t":1}}')
    assert other.socket.data == b""
    assert (place.entry("a@trade").sent, "c@trade" in place.ledger) == (1, False)


async def test_the_clock_is_told_before_the_message_and_only_when_it_changed():
    place = hub(tell_clock=True)
    one = join(place, "s")
    for now_ns in (7, 7, 9):
        place.publish("s", 1, b"{}", now_ns)
    await place.flush()
    message = text_frame(b"{}")
    assert one.socket.data == clock_pong(7) + message + message + clock_pong(9) + message
    assert clock_pong(7) == b"\x8a\x0aTW" + (7).to_bytes(8, "little")


async def test_playing_starts_when_all_expected_streams_are_subscribed():
    place = hub()
    seen = []
    place.attach(lambda streams: seen.append(sorted(streams)), {"a", "b"})
    join(place, "a")
    assert not place.started.is_set()
    two = join(place, "b")
    assert place.started.is_set()
    place.remove(two)
    assert seen == [["a"], ["a", "b"], ["a"]]


async def test_a_full_client_holds_the_flush_back():
    place = hub()
    slow, quick = join(place, "s"), join(place, "s")
    slow.socket.is_full = True
    place.publish("s", 1, b"{}", 1)
    flush = asyncio.create_task(place.flush())
    await asyncio.sleep(0)
    assert quick.socket.data
    assert not flush.done()
    slow.socket.room.set()
    await flush


async def test_a_client_that_never_reads_is_cut():
    place = hub(slow_client_s=0.01)
    slow = join(place, "s")
    slow.socket.is_full = True
    place.publish("s", 1, b"{}", 1)
    await place.flush()
    assert slow.socket.ended == [None]
    assert place.connections == {}


async def test_disconnect_every_sends_what_it_counted():
    place = hub(Faults(disconnect_every=3))
    one = join(place, "s")
    for ident in range(5):
        place.publish("s", ident, b"{}", ident)
    await place.flush()
    assert one.socket.data == text_frame(b"{}") * 3
    assert one.socket.ended == [None]
    assert place.entry("s").sent == 3


async def test_halve_every_cuts_inside_a_message():
    place = hub(Faults(halve_every=3))
    one = join(place, "s")
    for ident in range(5):
        place.publish("s", ident, b'{"long":"enough"}', ident)
    await place.flush()
    whole = text_frame(b'{"long":"enough"}')
    assert one.socket.data == whole * 2 + whole[: len(whole) // 2]
    assert one.socket.ended == [None]


async def test_a_message_held_back_is_sent_at_the_end():
    place = hub(Faults(reorder=1.0))
    one = join(place, "s")
    place.publish("s", 1, b"1", 1)
    await place.flush()
    assert one.socket.data == b""
    place.release_held()
    await place.flush()
    assert one.socket.data == text_frame(b"1")


@pytest.mark.parametrize("combined", [True, False])
async def test_microseconds_for_those_who_asked(combined):
    place = hub()
    fine = join(place, "s", combined=combined, micro=True)
    plain = join(place, "s")
    place.publish("s", 1, b'{"E":1723161255343}', 1)
    await place.flush()
    assert b'{"E":1723161255343000}' in fine.socket.data
    assert plain.socket.data == text_frame(b'{"E":1723161255343}')


async def test_stop_closes_everyone():
    place = hub()
    one = join(place, "s")
    await place.stop()
    assert one.socket.ended == [1001]
