"""Control frames: what is written is what is read."""

from __future__ import annotations

import msgspec
import pytest

from tidewire.collect import control
from tidewire.collect.control import Carried, GapTold, Noted, Resumed
from tidewire.journal import Frame, Kind, Origin
from tidewire.records.ops import CAUSES, Gap

NS = 1_767_600_000_123_456_789


def frame(payload: bytes) -> Frame:
    return Frame(1, NS, 0, Kind.CONTROL, Origin("s", "stream", "ws"), b"", payload)


@pytest.mark.parametrize("cause", [*CAUSES, "moonlight"])
def test_a_break_becomes_a_gap_of_each_stream(cause: str) -> None:
    act = Resumed(NS - 10**9, cause, "why", (Carried("quote", "A-B.X"), Carried("ticker", "C-D.X")))
    outcome = control.parse(frame(control.encode(act)))
    (part,) = outcome.parsed
    assert part.type is Gap.type
    assert part.columns["instrument"] == ["A-B.X", "C-D.X"]
    assert part.columns["cause"] == (cause if cause in CAUSES else "disconnect")
    assert part.columns["event_time"] == [(NS - 10**9) // 1_000] * 2
    assert part.columns["until_time"] == [NS // 1_000] * 2
    assert part.ordinals == [0, 1]


def test_a_newer_state_of_a_gap_is_a_row_of_it() -> None:
    act = GapTold("A-B.X", "trade", "7", "sequence", "filling", 5, 9, None, 7, 8, 2, "asked")
    (part,) = control.parse(frame(control.encode(act))).parsed
    assert part.type is Gap.type
    assert part.columns["public_at"] == [NS // 1_000]
    assert {name: value for name, (value,) in part.columns.items() if name != "public_at"} == msgspec.structs.asdict(
        act
    )


@pytest.mark.parametrize("act", [Noted("started", {"version": "1"}), Resumed(NS, "down", "down", ())])
def test_what_leads_to_no_rows_is_accounted_for(act: control.Act) -> None:
    outcome = control.parse(frame(control.encode(act)))
    assert (len(outcome.control), outcome.parsed, outcome.unreadable) == (1, [], [])


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"event":"exploded"}', b'{"event":"resumed"}', b"\xff"])
def test_what_is_no_control_frame(payload: bytes) -> None:
    ((_, why),) = control.parse(frame(payload)).unreadable
    assert why.startswith("not a control frame")


def test_the_form_is_plain_json() -> None:
    assert msgspec.json.decode(control.encode(Noted("x", {"a": 1}))) == {
        "event": "noted",
        "what": "x",
        "detail": {"a": 1},
    }
