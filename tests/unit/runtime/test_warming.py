"""What a warm-up reads again: everything but loaded history, and of that the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.collect import is_history
from tidewire.journal import Frame, Kind, Origin
from tidewire.runtime import warming
from tidewire.runtime.warming import Needed

HISTORY = b'{"history:BTC-USDT.BINANCE:1m":"{}"}'
SIZE = 10


@dataclass
class Listed:
    """A journal of these frames."""

    frames: list[Frame]

    def scan(self, *, after: int = 0) -> Iterator[Frame]:
        return (frame for frame in self.frames if frame.sequence > after)


def frame(sequence: int, collector: str, cursor: bytes) -> Frame:
    return Frame(sequence, 0, 0, Kind.DATA, Origin("binance", collector, "GET x"), cursor, b"x" * SIZE)


def test_what_history_is_stands_in_its_cursor() -> None:
    assert is_history(frame(1, "kline", HISTORY))
    assert not is_history(frame(1, "kline", b""))
    assert not is_history(frame(1, "news", b'{"list":"history:7"}'))


@given(
    st.lists(st.tuples(st.sampled_from(["kline", "agg_trade"]), st.booleans()), max_size=40),
    st.integers(0, 10),
    st.integers(0, 45),
    st.integers(1, 5),
)
def test_all_live_frames_and_the_last_of_history(
    kinds: list[tuple[str, bool]], after: int, last: int, kept: int
) -> None:
    frames = [frame(place, collector, HISTORY if past else b"") for place, (collector, past) in enumerate(kinds, 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warming, "HISTORY_BYTES", kept * SIZE)
        needed = Needed(Listed(frames), after, last)
        inside = frames[after:last]
        shown = [each.sequence for each in inside if needed.of(each)]
    expected = [each.sequence for each in inside if not each.cursor]
    for collector in ("kline", "agg_trade"):
        expected += [each.sequence for each in inside if each.cursor and each.origin.collector == collector][-kept:]
    assert shown == sorted(expected)
