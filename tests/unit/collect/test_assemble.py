"""From frames to batches: places without holes, the same rows however frames are cut, nothing lost to a bad parser."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import polars as pl
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tidewire.collect import Assembler, Outcome, Parsed, Parser, control
from tidewire.collect.assemble import FRAME, lane_of
from tidewire.collect.control import Carried, Noted, Resumed
from tidewire.journal import Frame, Kind, Origin
from tidewire.records.batch import Batch, Stream
from tidewire.records.market import Quote, Trade
from tidewire.records.ops import Gap, Quarantined
from tidewire.records.record import record_type, types

JOURNAL = "8c8f4a3e-0000-4000-8000-000000000001"
START_NS = 1_767_600_000_000_000_000
SECOND_NS = 1_000_000_000
NAMES = ["BTC-USDT.X", "ETH-USDT.X", "SOL-USDT.X"]


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """Parsers raise here hundreds of times on purpose; writing the tracebacks would take most of the time."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


class Toy:
    """A payload is JSON, a list of rows ``[type, name, number, price]``; or "chatter"; or "boom": it raises."""

    def parse(self, frames: Sequence[Frame]) -> Outcome:
        outcome = Outcome()
        for frame in frames:
            if frame.payload == b"boom":
                raise ZeroDivisionError("a bug")
            if frame.payload == b"chatter":
                outcome.control.append(frame)
                continue
            try:
                listed = msgspec.json.decode(frame.payload, type=list[tuple[str, str | None, int, str]])
            except msgspec.MsgspecError as error:
                outcome.unreadable.append((frame, str(error)))
                continue
            for kind in (Trade.type, Quote.type):
                mine = [(place, row) for place, row in enumerate(listed) if row[0] == kind.name]
                at = [frame.wall_ns // 1_000] * len(mine)
                prices = [row[3] for _, row in mine]
                columns: dict[str, Any] = {
                    "instrument": [row[1] for _, row in mine],
                    "event_time": at,
                    "public_at": at,
                    "sequence": [row[2] for _, row in mine],
                }
                if kind is Trade.type:
                    columns |= {"trade_id": [str(row[2]) for _, row in mine], "price": prices, "size": prices}
                else:
                    columns |= {"bid_price": prices, "bid_size": prices}
                outcome.parsed.append(Parsed(kind, columns, [frame] * len(mine), [place for place, _ in mine]))
        return outcome


def data(
    sequence: int, payload: bytes | list[Any], source: str = "toy", kind: Kind = Kind.DATA, seconds: float | None = None
) -> Frame:
    body = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
    wall_ns = START_NS + round((sequence if seconds is None else seconds) * SECOND_NS)
    return Frame(sequence, wall_ns, sequence, kind, Origin(source, "stream", f"{source}#1"), b"", body)


def trade(number: int, price: str = "1", name: str | None = NAMES[0]) -> list[Any]:
    return ["trade", name, number, price]


def quote(number: int, price: str = "1", name: str | None = NAMES[0]) -> list[Any]:
    return ["quote", name, number, price]


def assembler(lanes: int = 1, parsers: Mapping[str, Parser] | None = None) -> Assembler:
    return Assembler(JOURNAL, {"toy": Toy(), "other": Toy()} if parsers is None else parsers, lanes)


def fates(batches: Sequence[Batch]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for batch in batches:
        for fate, count in batch.fates.items():
            sums[fate.fate] += count
    return sums


def whole(batches: Sequence[Batch]) -> dict[str, pl.DataFrame]:
    """Rows by type, and everything rejected, in the order of the journal."""
    found: dict[str, list[pl.DataFrame]] = {}
    for batch in batches:
        found.setdefault(batch.type.name, []).append(batch.rows)
        if batch.rejected is not None:
            found.setdefault("rejected", []).append(batch.rejected)
    order = ["frame", "ordinal", "record_type", "row", "decision_frame"]
    return {
        name: pl.concat(parts).sort([one for one in order if one in parts[0].columns], maintain_order=True)
        for name, parts in found.items()
        if sum(part.height for part in parts)
    }


def same(left: Sequence[Batch], right: Sequence[Batch]) -> None:
    ours, theirs = whole(left), whole(right)
    assert ours.keys() == theirs.keys()
    for name, part in ours.items():
        assert_frame_equal(part, theirs[name])
    assert fates(left) == fates(right)


class Places:
    """Follows the positions of every stream, as a sink does."""

    def __init__(self, positions: Mapping[Stream, int] | None = None) -> None:
        self.positions = dict(positions or {})

    def take(self, batches: Sequence[Batch], last: int | None = None) -> None:
        for batch in batches:
            line = batch.lineage
            assert line.prev == self.positions.get(batch.stream, 0), str(batch.stream)
            assert line.last > line.prev
            assert last is None or line.last == last
            told = None if batch.rejected is None else batch.rejected.select(pl.coalesce("decision_frame", "frame"))
            for part in (batch.rows.select("frame"), told):
                if part is not None and part.height:
                    frames = part.to_series()
                    assert line.prev < frames.min() <= frames.max() <= line.last  # type: ignore[operator]
            self.positions[batch.stream] = line.last


ROW = st.builds(
    lambda make, number, price, name: make(number, price, name),
    st.sampled_from([trade, quote]),
    st.integers(1, 99),
    st.sampled_from(["1", "2.5", "1e-3", "0.1234567890123", "x"]),  # the last two are not exact
    st.sampled_from([*NAMES, None]),
)
PAYLOAD = st.one_of(st.lists(ROW, max_size=4), st.sampled_from([b"chatter", b"boom", b"{", b"[[1]]"]))


@st.composite
def journals(draw: st.DrawFn) -> list[Frame]:
    frames: list[Frame] = []
    for sequence in range(1, draw(st.integers(1, 25)) + 1):
        source = draw(st.sampled_from(["toy", "toy", "other", "stranger"]))
        if draw(st.integers(0, 6)):
            frames.append(data(sequence, draw(PAYLOAD), source))
            continue
        acts = [
            Noted("something"),
            Resumed(START_NS, "silence", "silence", (Carried("quote", NAMES[0]), Carried("quote", NAMES[1]))),
        ]
        frames.append(data(sequence, control.encode(draw(st.sampled_from(acts))), source, Kind.CONTROL))
    return frames


def pieces_of(frames: list[Frame], draw: Any) -> list[list[Frame]]:
    found: list[list[Frame]] = []
    while frames:
        size = draw(st.integers(1, len(frames)))
        found.append(frames[:size])
        frames = frames[size:]
    return found


def run(one: Assembler, pieces: list[list[Frame]], places: Places | None = None) -> list[Batch]:
    found: list[Batch] = []
    places = places or Places()
    for piece in pieces:
        batches = one.step(piece)
        places.take(batches, piece[-1].sequence)
        found += batches
    return found


@settings(max_examples=40, deadline=None)
@given(journals(), st.sampled_from([1, 1, 3]), st.data())
def test_cutting_frames_differently_gives_the_same_rows(frames: list[Frame], lanes: int, draw: st.DataObject) -> None:
    one = assembler(lanes)
    one.start({})
    places = Places()
    cut = run(one, pieces_of(frames, draw.draw), places)
    at_once = run(assembler(1), [frames])
    same(cut, at_once)
    marks = one.marks(frames[-1])
    places.take(marks, frames[-1].sequence)
    assert all(mark.is_mark for mark in marks)
    # Now every stream there is has arrived at the same place.
    assert set(places.positions.values()) == {frames[-1].sequence}
    assert len(places.positions) == len(types()) * lanes


@settings(max_examples=40, deadline=None)
@given(journals(), st.sampled_from([1, 1, 3]), st.data())
def test_a_restart_from_any_positions_continues_exactly(frames: list[Frame], lanes: int, draw: st.DataObject) -> None:
    before = assembler(lanes)
    before.start({})
    steps = pieces_of(frames, draw.draw)
    kept: list[Batch] = []
    places = Places()
    for place, step in enumerate(steps):
        batches = before.step(step)
        if place % 2 and draw.draw(st.booleans()):
            batches += before.marks(step[-1])
        # What a sink committed of a stream before it died: a prefix.
        for batch in batches:
            if places.positions.get(batch.stream, 0) == batch.lineage.prev and draw.draw(st.booleans()):
                places.take([batch])
                kept.append(batch)
    after = assembler(lanes)
    begin = after.start(places.positions)
    assert begin == min(places.positions.get(stream, 0) for stream in after._streams())
    rest = [frame for frame in frames if frame.sequence > begin]
    kept += run(after, pieces_of(rest, draw.draw), places)
    same(kept, run(assembler(1), [frames]))


def test_positions_of_other_journals_mean_nothing() -> None:
    elsewhere = {Stream("f" * 36, "trade", 0): 700}
    one = assembler()
    assert one.start(elsewhere) == 0
    (batch,) = one.step([data(1, [trade(1)])])
    assert (batch.lineage.prev, batch.lineage.last) == (0, 1)


def test_no_frames_no_batches() -> None:
    assert assembler().step([]) == []


def test_rows_get_their_lineage() -> None:
    (batch,) = assembler().step([data(1, b"chatter"), data(2, [trade(5), quote(1), trade(6)])])[:1]
    assert batch.rows.select("source", "frame", "ordinal").rows() == [("toy", 2, 0), ("toy", 2, 2)]
    assert batch.rows["ingested_at"].to_physical().to_list() == [(START_NS + 2 * SECOND_NS) // 1_000] * 2
    assert batch.lineage.until_us == (START_NS + 2 * SECOND_NS) // 1_000
    assert batch.connections is not None
    assert batch.connections.to_list() == ["toy#1"] * 2
    assert batch.lineage.trace_id == f"{JOURNAL[:8]}-2"


def test_rows_of_two_sources_are_in_the_order_of_the_journal() -> None:
    frames = [data(n, [trade(n)], "toy" if n % 2 else "other") for n in range(1, 7)]
    (batch,) = assembler().step(frames)
    assert batch.rows["frame"].to_list() == [1, 2, 3, 4, 5, 6]
    assert batch.connections is not None
    assert batch.connections.to_list() == ["toy#1", "other#1"] * 3


def test_a_parser_that_raises_loses_only_the_frames_it_raises_on() -> None:
    frames = [data(n, b"boom" if n in (3, 8) else [trade(n)]) for n in range(1, 11)]
    batches = assembler().step(frames)
    found = whole(batches)
    assert found["trade"]["frame"].to_list() == [1, 2, 4, 5, 6, 7, 9, 10]
    assert found["rejected"].select("frame", "record_type", "state").rows() == [(3, FRAME, "open"), (8, FRAME, "open")]
    for reasons in found["rejected"]["reasons"]:
        assert msgspec.json.decode(reasons) == {"unreadable": "ZeroDivisionError: a bug"}
    assert msgspec.json.decode(found["rejected"]["content"][0]) == {"collector": "stream", "begins": "boom"}
    assert fates(batches) == {"received": 10, "quarantined": 2}


def test_a_parser_that_gives_what_fits_no_column_loses_only_that_frame() -> None:
    frames = [data(n, [quote(2**70 if n == 4 else n)]) for n in range(1, 8)]
    batches = assembler().step(frames)
    found = whole(batches)
    assert found["quote"]["frame"].to_list() == [1, 2, 3, 5, 6, 7]
    assert found["rejected"]["frame"].to_list() == [4]


def test_a_source_without_a_parser() -> None:
    batches = assembler().step([data(1, [trade(1)], "gone"), data(2, [trade(2)])])
    found = whole(batches)
    assert found["trade"].height == 1
    assert "no parser for source 'gone'" in found["rejected"]["reasons"][0]
    assert found["rejected"]["source"][0] == "gone"


def test_what_is_not_exact_is_quarantined_with_what_was_found() -> None:
    (batch,) = assembler().step([data(1, [trade(1), trade(2, "1.0000000000001"), trade(3, "many"), trade(4)])])
    assert batch.rows["trade_id"].to_list() == ["1", "4"]
    assert batch.connections is not None
    assert len(batch.connections) == 2
    assert batch.rejected is not None
    reasons = [msgspec.json.decode(text) for text in batch.rejected["reasons"]]
    assert reasons == [
        {"not_exact": {"price": "1.0000000000001", "size": "1.0000000000001"}},
        {"not_exact": {"price": "many", "size": "many"}},
    ]
    assert batch.rejected.select("record_type", "frame", "row").rows() == [("trade", 1, 1), ("trade", 1, 2)]
    assert fates([batch]) == {"received": 4, "quarantined": 2}


def test_rejected_rows_are_not_told_twice_after_a_restart() -> None:
    """Rejected rows of several sources come in the order of the sources, not of frames."""
    one = assembler()
    one.start({Stream(JOURNAL, "trade", 0): 2})
    frames = [data(1, b"chatter"), data(2, [trade(2, "x")], "other"), data(3, [trade(3, "x")])]
    batches = one.step(frames)
    (batch,) = [each for each in batches if each.type is Trade.type]
    assert batch.rejected is not None
    assert batch.rejected["frame"].to_list() == [3]
    assert fates([batch]) == {"received": 1, "quarantined": 1}


def test_connections_that_came_back_leave_gaps() -> None:
    carried = (Carried("quote", NAMES[0]), Carried("ticker", NAMES[1]))
    act = Resumed(START_NS, "disconnect", "peer closed", carried)
    frames = [data(7, control.encode(act), kind=Kind.CONTROL), data(8, control.encode(Noted("x")), kind=Kind.CONTROL)]
    batches = assembler().step(frames)
    gaps = whole(batches)["gap"]
    assert gaps.select("instrument", "record_type", "cause", "state", "ordinal").rows() == [
        (NAMES[0], "quote", "disconnect", "unfillable", 0),
        (NAMES[1], "ticker", "disconnect", "unfillable", 1),
    ]
    assert gaps["event_time"].to_physical().to_list() == [START_NS // 1_000] * 2
    assert gaps["until_time"].to_physical().to_list() == [(START_NS + 7 * SECOND_NS) // 1_000] * 2
    assert gaps["gap_id"].unique().to_list() == ["20260105T080000.000000Z"]
    assert (Gap.type.check(gaps) == 0).all()
    assert fates(batches) == {"received": 3, "control": 1}


def test_a_control_frame_that_is_none() -> None:
    batches = assembler().step(
        [data(1, b"{}", kind=Kind.CONTROL), data(2, b'{"event":"noted","what":1}', kind=Kind.OPERATOR)]
    )
    assert fates(batches) == {"received": 2, "quarantined": 2}
    assert whole(batches)["rejected"]["record_type"].to_list() == [FRAME, FRAME]


@pytest.mark.parametrize("lanes", [2, 5])
def test_lanes_share_out_rows_and_rejected_rows(lanes: int) -> None:
    names = [f"C{n}-USDT.X" for n in range(12)]
    frames = [data(n + 1, [trade(n, name=name), trade(100 + n, "x", name)]) for n, name in enumerate(names)]
    batches = [batch for batch in assembler(lanes).step(frames) if batch.type is Trade.type]
    assert len({batch.lineage.lane for batch in batches}) == len(batches) > 1
    for batch in batches:
        assert {lane_of(name, lanes) for name in batch.rows["instrument"]} == {batch.lineage.lane}
        assert batch.rejected is not None
        assert {lane_of(name, lanes) for name in batch.rejected["instrument"]} == {batch.lineage.lane}
        assert batch.connections is not None
        assert len(batch.connections) == batch.rows.height
    same(batches, assembler(1).step(frames))


def test_lanes_never_change() -> None:
    """The lane of an instrument is part of the storage format."""
    assert [lane_of(name, 16) for name in ("BTC-USDT.BINANCE", "600000.SH", "")] == [8, 13, 2]


def test_hours_are_those_of_receipt() -> None:
    frames = [data(1, [trade(1)], seconds=0), data(2, [trade(2)], seconds=3_600), data(3, b"{", seconds=7_200)]
    batches = assembler().step(frames)
    hours = Counter((fate.hour_us, fate.fate) for batch in batches for fate in batch.fates)
    base = START_NS // 1_000
    hour = 3_600_000_000
    assert set(hours) == {
        (base, "received"),
        (base + hour, "received"),
        (base + 2 * hour, "received"),
        (base + 2 * hour, "quarantined"),
    }


def test_an_unreadable_frame_shows_only_its_beginning() -> None:
    (batch,) = assembler().step([data(1, b"\xff" + b"y" * 100_000)])
    assert batch.type is Quarantined.type
    assert batch.rejected is not None
    assert len(batch.rejected["content"][0]) < 4_100
    assert record_type("quarantined").check(batch.rejected).to_list() == [0]
