"""The circuit breaker: exactly the rule row by row, however rows are cut; told once; the notice of batches ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire import telemetry
from tidewire.bus import MemoryBus
from tidewire.errors import ConfigError
from tidewire.process import processor as processing
from tidewire.process.breaker import Breaker, BreakerConfig, Turn
from tidewire.process.processor import FRAME, Processor, ProcessStage
from tidewire.records.batch import quarantined, rejection
from tidewire.records.clock import ManualClock
from tidewire.records.event import Event, data_event
from tidewire.records.market import Trade
from tidewire.records.ops import Quarantined
from unit.process.kit import JOURNAL, SECOND_US, START_US, batch, cuts, rows, trade

SMALL = BreakerConfig(share=0.5, rows=20, window_s=30.0, least=5)


def slow(config: BreakerConfig, listed: list[tuple[int, bool]]) -> list[tuple[bool, int, int, int]]:
    """The rule, row by row."""
    turns: list[tuple[bool, int, int, int]] = []
    is_open = False
    for place, (at, _) in enumerate(listed):
        window = [
            bad
            for when, bad in listed[max(0, place + 1 - config.rows) : place + 1]
            if when > at - config.window_s * 1e6
        ]
        failed = sum(window)
        if not is_open and len(window) >= config.least and failed > config.share * len(window):
            is_open = True
            turns.append((True, at, len(window), failed))
        elif is_open and failed < config.share / 2 * len(window):
            is_open = False
            turns.append((False, at, len(window), failed))
    return turns


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), min_size=1, max_size=120),
    st.data(),
)
def test_like_row_by_row_however_it_is_cut(steps: list[tuple[int, bool, bool]], data: st.DataObject) -> None:
    at, listed = START_US, list[tuple[int, bool]]()
    for seconds, one, other in steps:
        at += seconds * SECOND_US
        listed.append((at, one and (other or len(listed) % 30 < 15)))
    breaker = Breaker(SMALL)
    turns: list[Turn] = []
    for begin, end in data.draw(cuts(len(listed))):
        part = listed[begin:end]
        flags = np.array([bad for _, bad in part])
        breaker.see("x", "trade", np.array([when for when, _ in part]), flags if flags.any() else None)
        turns += breaker.take()
    expected = slow(SMALL, listed)
    assert [(turn.opened, turn.at_us, turn.rows, turn.failed) for turn in turns] == expected
    assert bool(breaker.open) == (bool(expected) and expected[-1][0])


def test_what_is_open_is_shown_until_it_closes() -> None:
    breaker = Breaker(SMALL)
    bad, good = np.ones(10, dtype=bool), None
    breaker.see("x", "trade", np.arange(10), bad)
    (turn,) = breaker.take()
    assert turn.why == "source broken, not data: 5 of the last 5 trade rows were quarantined"
    assert (breaker.open, breaker.is_open("x", "trade"), breaker.is_open("x", "quote")) == (
        {("x", "trade"): turn},
        True,
        False,
    )
    assert telemetry.value("tidewire_quarantine_breaker_open", source="x", type="trade") == 1
    breaker.see("x", "trade", np.arange(10, 30), good)
    assert [turn.opened for turn in breaker.take()] == [False]
    assert breaker.open == {}
    assert telemetry.value("tidewire_quarantine_breaker_open", source="x", type="trade") == 0


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"share": 0.0}, "breaker.share is 0; valid is 0.01 to 1"),
        ({"share": 1.5}, "breaker.share"),
        ({"rows": 1}, "breaker.rows is 1; valid is 10"),
        ({"least": 2_000}, "breaker.least is 2000; valid is 1 to 1000"),
        ({"window_s": 0}, "breaker.window"),
    ],
)
def test_a_breaker_that_cannot_be(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        BreakerConfig(**config)


def test_a_share_of_one_switches_it_off() -> None:
    breaker = Breaker(BreakerConfig(share=1.0))
    breaker.see("x", "trade", np.arange(500), np.ones(500, dtype=bool))
    assert not breaker.open


def mixed(count: int, bad: range) -> pl.DataFrame:
    return rows(Trade.type, [trade(n, price="0" if n in bad else "1") for n in range(1, count + 1)])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_processor_sees_the_same_however_batches_are_cut(data: st.DataObject) -> None:
    table = mixed(200, range(50, 150))
    turns: list[list[Turn]] = []
    for pieces in ([(0, 200)], data.draw(cuts(200))):
        processor = Processor(BreakerConfig(rows=40, least=10))
        for begin, end in pieces:
            processor.process(batch(Trade.type, table[begin:end], begin, end))
        turns.append(list(processor.breaker.take()))
    assert turns[0] == turns[1]
    assert [turn.opened for turn in turns[0]] == [True, False]


def unreadable(count: int, first: int) -> pl.DataFrame:
    made = [
        rejection(
            JOURNAL,
            FRAME,
            {"source": "binance", "frame": n, "ordinal": 0, "ingested_at": START_US + n * SECOND_US // 10},
            {"unreadable": "x"},
        )
        for n in range(first, first + count)
    ]
    return quarantined(made)


def test_unreadable_frames_are_many_or_few_beside_the_rows_that_could_be_read() -> None:
    processor = Processor()
    processor.process(batch(Quarantined.type, Quarantined.type.empty(), 0, 1).with_(rejected=unreadable(1, 1)))
    for turn in range(60):
        last = 2 + 21 * turn
        processor.process(batch(Trade.type, mixed(20, range(0)), 1 + 20 * turn, 21 + 20 * turn))
        mark = batch(Quarantined.type, Quarantined.type.empty(), last - 1, last)
        processor.process(mark.with_(rejected=unreadable(1, last)))
    assert not processor.breaker.open
    mark = batch(Quarantined.type, Quarantined.type.empty(), 3_000, 4_000)
    processor.process(mark.with_(rejected=unreadable(900, 3_001)))
    assert processor.breaker.is_open("binance", FRAME)


async def test_opening_is_told_once_and_batches_are_not_any_more() -> None:
    clock = ManualClock()
    bus = MemoryBus(clock)
    await bus.start()
    heard: list[Event] = []
    bus.subscribe(">", heard.append)
    processor = Processor(BreakerConfig(rows=40, least=10))
    stage = ProcessStage(bus, processor, clock)
    table = mixed(300, range(20, 200))
    for begin in range(0, 300, 10):
        await stage.take(data_event("collected", batch(Trade.type, table[begin : begin + 10], begin, begin + 10), 1))
    await bus.close()
    said = [event.subject for event in heard if event.subject != "data.trade.processed"]
    opened, closed = said.index("control.quarantine.opened"), said.index("control.quarantine.closed")
    assert set(said[:opened]) == {"data.trade.quarantined"}
    assert said[opened + 1 : closed] == [], "one notice, not one for every batch"
    facts = next(event.facts for event in heard if event.subject == "control.quarantine.opened")
    assert (facts["source"], facts["type"]) == ("binance", "trade")
    rejected = sum(
        e.batch.rejected.height for e in heard if e.subject.endswith("processed") and e.batch.rejected is not None
    )
    assert rejected == 180, "nothing is dropped"


def test_a_restart_finds_it_open() -> None:
    """What the warm-up shows of the time before is not told again."""
    table = mixed(100, range(20, 101))
    before = Processor(BreakerConfig(rows=40, least=10))
    before.process(batch(Trade.type, table, 0, 100))
    after = Processor(BreakerConfig(rows=40, least=10))
    after.warm(batch(Trade.type, table, 0, 100), 100)
    assert after.breaker.open == before.breaker.open
    assert list(after.breaker.take()) == []


def test_rows_held_in_quarantine_are_not_remembered_as_good() -> None:
    """A parser that knows more than it did finds them good; they are not stored, and their release is no repeat."""
    table = mixed(4, range(0))
    held = pl.DataFrame({"record_type": ["trade", FRAME], "frame": [2, 3], "row": [0, 0]})
    for held_rows, repeats in ((held, 2), (None, 4)):
        processor = Processor()
        processor.warm(batch(Trade.type, table, 0, 4), 4, held_rows)
        marks = table[3:].select("source", "instrument", pl.col("sequence").alias("order"), "event_time")
        processor.watch(Trade.type).seed(marks)
        again = processor.process(batch(Trade.type, table.with_columns(frame=pl.col("frame") + 4), 4, 8))
        assert again.rows.height == 4 - repeats


def test_mutant_that_remembers_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """A released row would be counted as a repeat of one that is not stored: lost."""

    def wrong(_kind: Any, part: pl.DataFrame, _held: Any) -> pl.Series:
        return pl.Series([False]).new_from_index(0, part.height)

    monkeypatch.setattr(processing, "_among", wrong)
    with pytest.raises(AssertionError):
        test_rows_held_in_quarantine_are_not_remembered_as_good()
