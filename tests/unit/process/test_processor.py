"""The processor: every row has one fate, and what a batch comes to depends on frames, not on batches."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tidewire.bus import MemoryBus
from tidewire.process import Processor
from tidewire.process.processor import FUTURE, ProcessStage
from tidewire.records.batch import Batch
from tidewire.records.clock import ManualClock
from tidewire.records.event import Event, data_event
from tidewire.records.market import Instrument, Kline, Ticker, Trade
from tidewire.records.ops import Gap, Quarantined
from tidewire.records.record import RecordType
from unit.process.kit import BTC, ETH, SECOND_US, bar, batch, by_fate, cuts, joined, rows, trade


def process(kind: RecordType, table: pl.DataFrame, pieces: list[tuple[int, int]]) -> list[Batch]:
    processor, found, prev = Processor(), [], 0
    for begin, end in pieces:
        last = int(table["frame"][end - 1])
        found.append(processor.process(batch(kind, table[begin:end], prev, last)))
        prev = last
    return found


def sides(found: list[Batch], kind: RecordType) -> dict[str, pl.DataFrame]:
    place = ["frame", "ordinal"]
    return {
        "rows": joined((one.rows for one in found), kind),
        "forming": joined((one.forming for one in found), kind),
        "rejected": joined((one.rejected for one in found), Quarantined.type).sort(place, maintain_order=True),
        "gaps": joined((one.gaps for one in found), Gap.type).sort(*place, "gap_id", maintain_order=True),
    }


ONE = st.fixed_dictionaries(
    {
        "number": st.integers(100, 115),
        "price": st.sampled_from(["1", "1", "1", "2", "0", "-5"]),
        "side": st.sampled_from(["buy", "buy", None, "left"]),
        "late": st.sampled_from([40_000, 40_000, 50_000, 0, -3_600 * SECOND_US, None]),
        "instrument": st.sampled_from([BTC, BTC, ETH, None]),
    }
)


def trades_of(listed: list[dict[str, Any]]) -> pl.DataFrame:
    specs = []
    for place, one in enumerate(listed):
        received = place * SECOND_US
        own = (
            None
            if one["late"] is None
            else one["number"] * SECOND_US // 100
            if not one["late"]
            else received - one["late"]
        )
        specs.append(
            trade(
                one["number"],
                price=one["price"],
                side=one["side"],
                instrument=one["instrument"],
                frame=place // 2 + 1,
                ordinal=place % 2,
                ingested_at=received,
                event_time=own,
                public_at=received,
            )
        )
    return rows(Trade.type, specs)


@settings(max_examples=60, deadline=None)
@given(st.lists(ONE, min_size=1, max_size=30), st.data())
def test_every_row_has_one_fate_and_cutting_changes_nothing(listed: list[dict[str, Any]], data: st.DataObject) -> None:
    table = trades_of(listed)
    frames = table["frame"].to_list()
    # A batch ends with a frame.
    pieces = data.draw(cuts(len(set(frames))))
    by_frame = [(min(place for place, f in enumerate(frames) if f > begin), begin, end) for begin, end in pieces]
    cut = [
        (first, sum(frame <= end for frame in frames))
        for first, _, end in by_frame
    ]  # fmt: skip
    found = process(Trade.type, table, cut)
    at_once = process(Trade.type, table, [(0, table.height)])
    fates = sum((by_fate(one.fates) for one in found), by_fate({}))
    seen = sides(found, Trade.type)
    assert fates["received"] == table.height
    assert fates["received"] == seen["rows"].height + fates["quarantined"] + fates["duplicate"]
    assert seen["rejected"].height == fates["quarantined"]
    for name, part in sides(at_once, Trade.type).items():
        assert_frame_equal(seen[name], part)
    assert not (Trade.type.check(seen["rows"]) > 0).any()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.sampled_from(["1", "2", "9"])), min_size=1), st.data())
def test_forming_bars_are_never_among_the_rows(listed: list[tuple[int, bool, str]], data: st.DataObject) -> None:
    # A low of 9 is above the high: such a bar is quarantined, forming or not.
    specs = [bar(n, final=final, low=low, frame=place + 1) for place, (n, final, low) in enumerate(listed)]
    table = rows(Kline.type, specs)
    found = process(Kline.type, table, data.draw(cuts(table.height)))
    fates = sum((by_fate(one.fates) for one in found), by_fate({}))
    seen = sides(found, Kline.type)
    assert seen["rows"]["final"].all()
    assert not seen["forming"]["final"].any()
    assert seen["forming"].height == fates["folded"]
    assert fates["received"] == (
        seen["rows"].height + fates["folded"] + fates["quarantined"] + fates["duplicate"] == table.height
        and table.height
    )


def test_rejected_rows_say_which_rules_and_what_was_found() -> None:
    table = rows(Trade.type, [trade(1), trade(2, price="-5", side="left"), trade(3)])
    (done,) = process(Trade.type, table, [(0, 3)])
    assert done.rows["trade_id"].to_list() == ["1", "3"]
    assert done.rejected is not None
    row = done.rejected.row(0, named=True)
    reasons = msgspec.json.decode(row["reasons"])
    assert {name: value for name, value in reasons.items() if name.startswith("side")} == {"side|check__known": "left"}
    assert Decimal(reasons["price|min_exclusive"]) == -5
    assert (row["record_type"], row["instrument"], row["frame"], row["row"], row["state"]) == (
        "trade",
        BTC,
        2,
        0,
        "open",
    )
    assert msgspec.json.decode(row["content"])["trade_id"] == "2"
    assert row["event_time"] == row["ingested_at"] == table["ingested_at"][1]
    # The hole that is left is a gap: the row is not there.
    assert done.gaps is not None
    assert done.gaps.select("first_sequence", "last_sequence", "state").row(0) == (2, 2, "open")


def test_a_row_from_the_future_says_so() -> None:
    specs = [trade(n, frame=n) for n in range(1, 40)]
    specs[20]["event_time"] = 9_999 * SECOND_US
    specs[20]["ingested_at"] = 21 * SECOND_US
    specs[20]["price"] = "-1"
    (done,) = process(Trade.type, rows(Trade.type, specs), [(0, 39)])
    assert done.rejected is not None
    (reasons,) = done.rejected["reasons"]
    assert set(msgspec.json.decode(reasons)) == {"price|min_exclusive", FUTURE}
    assert done.rows.height == 38


def test_a_row_without_a_time_is_quarantined_alone() -> None:
    table = rows(Trade.type, [trade(1), trade(2, event_time=None, ingested_at=2 * SECOND_US), trade(3)])
    (done,) = process(Trade.type, table, [(0, 3)])
    assert done.rows.height == 2
    assert done.rejected is not None
    assert "event_time|nullability" in done.rejected["reasons"][0]


def test_progress_marks_and_what_was_rejected_before_pass_through() -> None:
    processor = Processor()
    mark = processor.process(batch(Trade.type, Trade.type.empty(), 0, 9))
    assert mark.is_mark
    assert mark.lineage.last == 9
    before = process(Trade.type, rows(Trade.type, [trade(1, price="0")]), [(0, 1)])[0].rejected
    assert before is not None
    own = batch(Trade.type, rows(Trade.type, [trade(2, price="0")]), 0, 2).with_(rejected=before)
    done = processor.process(own)
    assert done.rejected is not None
    assert done.rejected.height == 2
    assert done.connections is None


def test_a_definition_that_changed_and_changed_back() -> None:
    specs = [
        {"status": status, "event_time": place, "ingested_at": place}
        for place, status in enumerate(["trading", "trading", "halted", "trading"])
    ]
    found = process(Instrument.type, rows(Instrument.type, specs), [(0, 1), (1, 2), (2, 4)])
    assert [one.rows["status"].to_list() for one in found] == [["trading"], [], ["halted", "trading"]]
    assert by_fate(found[1].fates) == {"received": 1, "duplicate": 1}


@settings(max_examples=40, deadline=None)
@given(st.lists(ONE, min_size=2, max_size=25), st.data())
def test_warmed_up_it_continues_as_if_it_had_run_through(listed: list[dict[str, Any]], data: st.DataObject) -> None:
    """Only what depends on positions in the series (holes) needs the store besides; see the tests of the pipe."""
    for place, one in enumerate(listed):
        one |= {"number": place + 100, "instrument": BTC}
    # Some rows twice: the second is the repeat.
    again = data.draw(st.lists(st.integers(0, len(listed) - 1), max_size=5))
    table = trades_of(listed)
    table = pl.concat([table, *(table[place : place + 1] for place in again)])
    table = table.with_columns(pl.int_range(1, table.height + 1, dtype=pl.Int64).alias("frame"))
    stop = data.draw(st.integers(1, table.height - 1))
    through = process(Trade.type, table, [(0, stop), (stop, table.height)])[1]
    late = Processor()
    late.warm(batch(Trade.type, table, 0, table.height), stop)
    good = process(Trade.type, table, [(0, stop)])[0].rows
    if good.height:
        highest = good.sort("sequence").tail(1)
        marks = highest.select("source", "instrument", pl.col("sequence").alias("order"), "event_time")
        late.watch(Trade.type).seed(marks)
    after = late.process(batch(Trade.type, table[stop:], stop, table.height))
    assert_frame_equal(after.rows, through.rows)
    assert by_fate(after.fates) == by_fate(through.fates)


async def test_the_stage_publishes_what_came_of_a_batch() -> None:
    clock = ManualClock()
    bus = MemoryBus(clock)
    await bus.start()
    heard: list[Event] = []
    bus.subscribe("data.>", heard.append)
    stage = ProcessStage(bus, Processor(), clock)
    good = batch(Ticker.type, rows(Ticker.type, [{}]), 0, 1)
    bad = batch(Trade.type, rows(Trade.type, [trade(1, price="0"), trade(2)]), 0, 2)
    for one in (good, bad):
        await stage.take(data_event("collected", one, clock.wall_ns()))
    await bus.close()
    subjects = [event.subject for event in heard]
    assert subjects == ["data.ticker.processed", "data.trade.quarantined", "data.trade.processed"]
    assert heard[-1].batch.rows.height == 1
    assert heard[-1].trace_id == "trace"


def test_rows_that_failed_before_a_restart_are_not_remembered() -> None:
    table = rows(Trade.type, [trade(1, event_time=5), trade(1, event_time=5, price="0"), trade(1, event_time=5)])
    late = Processor()
    late.warm(batch(Trade.type, table, 0, 3), 2)
    late.watch(Trade.type).seed(
        table[:1].select("source", "instrument", pl.col("sequence").alias("order"), "event_time")
    )
    assert by_fate(late.process(batch(Trade.type, table[2:], 2, 3)).fates) == {"received": 1, "duplicate": 1}
