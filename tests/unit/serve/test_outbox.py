"""What waits for a connection: bounded, in order, and nothing lost silently."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tidewire.serve.outbox import Frame, Outbox

A, B = ("a", "s"), ("b", "s")


def framed(key: tuple[str, str], number: int, *, state: bool = False, size: int = 100) -> Frame:
    text = msgspec.json.encode({"op": "data", "ch": key[0], "seq": number, "pad": "x" * size}).decode()
    return Frame(key[0], key, number, number, text, state)


def sent(box: Outbox) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while (text := box.pop()) is not None:
        found.append(msgspec.json.decode(text))
    return found


def short(frames: list[dict[str, Any]]) -> list[Any]:
    return [
        (f["ch"], f["seq"]) if f["op"] == "data" else (f["op"], f.get("ch"), f.get("from"), f.get("to")) for f in frames
    ]


def test_events_keep_their_order_and_answers_go_first() -> None:
    box = Outbox(10_000)
    box.put(framed(A, 1))
    box.put(framed(B, 1))
    box.put(framed(A, 2))
    box.answer('{"op":"pong"}')
    assert short(sent(box)) == [("pong", None, None, None), ("a", 1), ("b", 1), ("a", 2)]


def test_a_full_queue_makes_one_gap_for_each_channel() -> None:
    box = Outbox(1_000)
    for number in range(1, 21):
        box.put(framed(A, number))
    box.put(framed(B, 1))
    assert box.full
    assert box.waiting_bytes <= 1_000
    got = short(sent(box))
    last = got[-3][1]
    assert got[:-2] == [("a", n) for n in range(1, last + 1)]
    assert got[-2:] == [("gap", "a", last + 1, 20), ("gap", "b", 1, 1)]
    assert not box.full
    box.put(framed(A, 21))
    assert short(sent(box)) == [("a", 21)]


def test_what_follows_a_gap_comes_after_it() -> None:
    box = Outbox(1_000)
    for number in range(1, 21):
        box.put(framed(A, number))
    seen: list[Any] = []
    while box.full:
        seen.append(msgspec.json.decode(box.pop() or ""))
    box.put(framed(A, 21))
    got = short(seen + sent(box))
    assert got[-2][0] == "gap"
    assert got[-2][3] == 20
    assert got[-1] == ("a", 21)


def test_one_frame_larger_than_the_queue_is_sent() -> None:
    box = Outbox(1_000)
    box.put(framed(A, 1, size=5_000))
    assert short(sent(box)) == [("a", 1)]


def test_states_keep_only_the_latest() -> None:
    box = Outbox(10_000)
    for number in range(1, 100):
        box.put(framed(A, number, state=True))
        box.put(framed(("a", "other"), number, state=True))
    assert short(sent(box)) == [("a", 99), ("a", 99)]
    assert box.waiting_bytes == 0


def test_an_event_drops_the_state_it_ends() -> None:
    box = Outbox(10_000)
    box.put(framed(A, 1, state=True))
    box.put(framed(A, 2))
    assert short(sent(box)) == [("a", 2)]
    box.put(framed(A, 3))
    box.put(framed(A, 4, state=True))
    assert short(sent(box)) == [("a", 3), ("a", 4)]


def test_too_many_states_are_told() -> None:
    box = Outbox(1_000)
    for number in range(20):
        box.put(framed((f"c{number}", "s"), 1, state=True))
    assert box.waiting_bytes <= 1_000
    got = short(sent(box))
    gaps = {ch for op, ch, *_ in got if op == "gap"}
    data = {op for op, *_ in got if op != "gap"}
    assert gaps | data == {f"c{n}" for n in range(20)}
    assert not gaps & data


def test_abandoning_tells_everything_that_will_not_come() -> None:
    box = Outbox(1_000)
    for number in range(1, 21):
        box.put(framed(A, number))
    box.pop()
    box.abandon('{"op":"bye"}')
    box.put(framed(A, 21))
    assert short(sent(box)) == [("gap", "a", 2, 20), ("bye", None, None, None)]
    assert box.ended


def test_many_lost_channels_become_one_gap() -> None:
    box = Outbox(200)
    for number in range(3_000):
        box.put(framed((f"c{number}", "s"), 1))
    assert len(box._lost) <= 1_001
    assert {"ch": ">", "from": None, "to": None, "op": "gap", "reason": "slow_reader"} in sent(box)


@given(st.lists(st.one_of(st.tuples(st.sampled_from("abc"), st.integers(1, 400)), st.none()), max_size=200))
def test_each_event_is_sent_once_or_in_a_gap(script: list[tuple[str, int] | None]) -> None:
    """Puts, and pops (None), in any order: what the reader sees accounts for every number, in order."""
    box, numbers, seen = Outbox(1_000), dict.fromkeys("abc", 0), []
    for step in script:
        if step is None:
            text = box.pop()
            seen += [] if text is None else [msgspec.json.decode(text)]
        else:
            numbers[step[0]] += 1
            box.put(framed((step[0], "s"), numbers[step[0]], size=step[1]))
            assert box.waiting_bytes <= 1_000 + 3 * 200
    seen += sent(box)
    told = dict.fromkeys("abc", 0)
    for one in seen:
        first, last = (one["seq"], one["seq"]) if one["op"] == "data" else (one["from"], one["to"])
        assert first == told[one["ch"]] + 1
        told[one["ch"]] = last
    assert told == numbers
