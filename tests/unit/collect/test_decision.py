"""Decisions about quarantined rows: what they come to, the books they move, and that nothing depends on the cut."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import polars as pl
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.collect import Outcome, assemble, decision
from tidewire.collect.assemble import FRAME
from tidewire.collect.decision import MAX_COPY, Decision, Target
from tidewire.errors import DecisionRefused, ParseError
from tidewire.journal import Frame, Kind
from tidewire.records.batch import Batch, Fate
from unit.collect.test_assemble import (
    JOURNAL,
    NAMES,
    PAYLOAD,
    START_NS,
    Places,
    Toy,
    assembler,
    data,
    fates,
    pieces_of,
    run,
    same,
    trade,
    whole,
)

HOUR_NS = 3_600_000_000_000


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


class Lenient(Toy):
    """The parser after it was mended: an x is a seven, and it reads what was boom."""

    def parse(self, frames: Sequence[Frame]) -> Outcome:
        mended = []
        for frame in frames:
            payload = frame.payload.replace(b"x", b"7").replace(b"boom", msgspec.json.encode([trade(77)]))
            mended.append(msgspec.structs.replace(frame, payload=payload))
        return super().parse(mended)


def decided(
    sequence: int,
    about: Frame,
    rows: Sequence[tuple[str, int]],
    act: decision.Act = "release",
    after_s: float = 7_200,
    **values: Any,
) -> Frame:
    """The frame of a decision, two hours later unless told otherwise."""
    targets = [Target(kind, row, about.wall_ns // 1_000, NAMES[0], '{"not_exact":1}', None) for kind, row in rows]
    take = None if rows[0][0] == FRAME else list(rows)
    copied = None if act == "reject" else decision.copy_of(about)
    made = Decision(act, "me", "tested", JOURNAL, about.sequence, targets, copied, take, values)
    origin = decision.origin_of(about.origin.source, made)
    wall_ns = START_NS + round(after_s * 1e9)
    return Frame(sequence, wall_ns, sequence, Kind.OPERATOR, origin, b"", decision.encode(made))


def totals(batches: Sequence[Batch]) -> Counter[tuple[str, str, int]]:
    """Fates by type, fate and hour after the start."""
    sums: Counter[tuple[str, str, int]] = Counter()
    for batch in batches:
        for fate, count in batch.fates.items():
            sums[batch.type.name, fate.fate, round((fate.hour_us - START_NS // 1_000) / 3.6e9)] += count
    return Counter({name: count for name, count in sums.items() if count})


def test_a_released_row_takes_the_time_and_place_of_the_decision() -> None:
    bad = data(1, [trade(1), trade(2, "x"), trade(3)])
    before = assembler().step([bad])
    assert before[0].rejected is not None
    release = decided(2, bad, [("trade", 1)])
    batches = assembler(parsers={"toy": Lenient()}).step([release])
    (batch,) = [each for each in batches if each.type.name == "trade"]
    row = batch.rows.row(0, named=True)
    assert batch.rows.height == 1
    assert (row["trade_id"], row["frame"], row["ordinal"]) == ("2", 2, 1)
    assert batch.rows["ingested_at"].to_physical().to_list() == [release.wall_ns // 1_000]
    # Parsed as it was received then: this parser's rows are of the time of receipt.
    assert batch.rows["event_time"].to_physical().to_list() == [bad.wall_ns // 1_000]
    assert batch.connections is not None
    assert batch.connections.to_list() == [None]
    assert batch.rejected is not None
    state = batch.rejected.row(0, named=True)
    assert (state["state"], state["frame"], state["row"], state["decision_frame"]) == ("released", 1, 1, 2)
    assert state["decided_by"] == "me: tested"
    assert state["decision_journal"] == JOURNAL
    assert batch.rejected["ingested_at"].to_physical().to_list() == [release.wall_ns // 1_000]
    assert batch.rejected["event_time"].to_physical().to_list() == [bad.wall_ns // 1_000]


def test_the_books_move_in_the_hour_the_row_was_received() -> None:
    bad = data(1, [trade(1), trade(2, "x"), trade(3)])
    one = assembler(parsers={"toy": Toy()})
    batches = one.step([bad])
    batches += assembler(parsers={"toy": Lenient()}).step([decided(2, bad, [("trade", 1)])])
    assert totals(batches) == {
        ("trade", "received", 0): 3,
        ("trade", "superseded", 0): 1,
        ("trade", "received", 2): 1,
    }


def test_a_rejected_row_stays_where_it_is() -> None:
    bad = data(1, [trade(2, "x")])
    batches = assembler().step([bad, decided(2, bad, [("trade", 0)], "reject")])
    assert totals(batches) == {
        ("trade", "received", 0): 1,
        ("trade", "quarantined", 0): 1,
        ("quarantined", "received", 2): 1,
        ("quarantined", "control", 2): 1,
    }
    states = whole(batches)["rejected"]
    assert states.select("state", "decision_frame").rows() == [("open", None), ("rejected", 2)]


def test_a_corrected_row_has_the_values_and_is_public_from_now_on() -> None:
    bad = data(1, [trade(1), trade(2, "x")])
    correct = decided(2, bad, [("trade", 1)], "correct", price="3.25", size="2", side="buy")
    (batch,) = [each for each in assembler().step([bad, correct]) if each.type.name == "trade"]
    row = batch.rows.row(1, named=True)
    assert (str(row["price"]), row["side"], row["trade_id"]) == ("3.250000000000", "buy", "2")
    times = batch.rows.select(pl.col("public_at", "ingested_at", "event_time").to_physical()).row(1)
    assert times == (correct.wall_ns // 1_000, correct.wall_ns // 1_000, bad.wall_ns // 1_000)
    # The row beside it is as the venue said.
    assert batch.rows.height == 2
    assert batch.rejected is not None
    assert batch.rejected["state"].to_list() == ["open", "corrected"]


def test_what_fails_again_is_quarantined_again_as_a_row_of_its_own() -> None:
    bad = data(1, [trade(2, "x")])
    batches = assembler().step([bad, decided(2, bad, [("trade", 0)])])
    rejected = whole(batches)["rejected"]
    assert rejected.select("frame", "state").rows() == [(1, "open"), (1, "released"), (2, "open")]
    assert totals(batches) == {
        ("trade", "received", 0): 1,
        ("trade", "superseded", 0): 1,
        ("trade", "received", 2): 1,
        ("trade", "quarantined", 2): 1,
    }


def test_a_whole_frame_is_released_with_all_its_rows() -> None:
    bad = data(1, b"boom")
    batches = assembler().step([bad])
    batches += assembler(parsers={"toy": Lenient()}).step([decided(2, bad, [(FRAME, 0)])])
    assert whole(batches)["trade"]["trade_id"].to_list() == ["77"]
    assert totals(batches) == {
        ("quarantined", "received", 0): 1,
        ("quarantined", "superseded", 0): 1,
        ("trade", "received", 2): 1,
    }
    again = assembler().step([decided(2, bad, [(FRAME, 0)])])
    fresh = whole(again)["rejected"].filter(state="open")
    assert fresh.select("frame", "record_type").rows() == [(2, FRAME)]
    assert msgspec.json.decode(fresh["content"][0])["begins"] == "boom", "the bytes in question, not the decision's"


def test_a_row_the_parser_does_not_give_any_more_is_not_lost() -> None:
    bad = data(1, [trade(2, "x")])
    batches = assembler().step([decided(2, bad, [("trade", 0), ("trade", 5)])])
    rejected = whole(batches)["rejected"].filter(state="open")
    assert rejected.select("record_type", "frame").rows() == [(FRAME, 2), ("trade", 2)]
    assert "finds no trade row 5" in rejected["reasons"][0]
    chatter = data(1, b"chatter")
    batches = assembler().step([decided(2, chatter, [("trade", 0)])])
    assert "finds no trade row 0" in whole(batches)["rejected"].filter(state="open")["reasons"][0]
    assert totals(batches)["quarantined", "control", 2] == 0
    assert totals(batches)["quarantined", "quarantined", 2] == 1


def test_a_control_frame_is_released_by_its_own_parser() -> None:
    broken = data(1, b'{"event":"noted","what":"x"}', kind=Kind.CONTROL)
    batches = assembler().step([decided(2, broken, [(FRAME, 0)])])
    assert totals(batches)["quarantined", "control", 2] == 1


def test_what_is_no_decision_is_quarantined() -> None:
    frame = data(1, b'{"event":"decided"}', kind=Kind.OPERATOR)
    with pytest.raises(ParseError, match="not a decision"):
        decision.decode(frame)
    assert fates(assembler().step([frame])) == {"received": 1, "quarantined": 1}
    bad = data(1, [trade(2, "x")])
    unknown = decided(2, bad, [("mood", 0)])
    rejected = whole(assembler().step([unknown]))["rejected"]
    assert "no record type mood is loaded" in rejected["reasons"][0]
    nobody = msgspec.structs.replace(bad, origin=msgspec.structs.replace(bad.origin, source="gone"))
    rejected = whole(assembler().step([decided(2, nobody, [("trade", 0)])]))["rejected"]
    assert "no parser for source 'gone'" in rejected.filter(state="open")["reasons"][0]


def test_too_large_a_frame_is_refused() -> None:
    with pytest.raises(DecisionRefused, match=r"33,554,433 bytes; .* at most 33,554,432"):
        decision.copy_of(data(1, bytes(MAX_COPY + 1)))


def test_what_a_parser_knows_is_what_stood_before_the_decision() -> None:
    """A parser that learns from its frames must not have learned from those after the decision."""

    class Learning(Toy):
        def __init__(self) -> None:
            self.knows = False

        def parse(self, frames: Sequence[Frame]) -> Outcome:
            outcome = Outcome()
            for frame in frames:
                if frame.payload == b"chatter":
                    self.knows = True
                elif self.knows:
                    outcome.add(super().parse([frame]))
                else:
                    outcome.unreadable.append((frame, "not known yet"))
            return outcome

    bad = data(1, [trade(1)])
    frames = [bad, decided(2, bad, [(FRAME, 0)]), data(3, b"chatter", seconds=8_000)]
    late = [bad, data(2, b"chatter", seconds=7_000), decided(3, bad, [(FRAME, 0)])]
    for listed, rows in ((frames, 0), (late, 1)):
        for pieces in ([listed], [[one] for one in listed]):
            one = assembler(parsers={"toy": Learning()})
            batches = run(one, pieces)
            assert sum(batch.rows.height for batch in batches if batch.type.name == "trade") == rows


@st.composite
def journals(draw: st.DrawFn) -> list[Frame]:
    """Frames of which many fail, and decisions about those that did: about rows, and about whole frames."""
    frames: list[Frame] = []
    open_: list[tuple[Frame, list[tuple[str, int]]]] = []
    for sequence in range(1, draw(st.integers(3, 25)) + 1):
        if open_ and draw(st.integers(0, 2)) == 0:
            about, rows = open_.pop(draw(st.integers(0, len(open_) - 1)))
            act = draw(st.sampled_from(["release", "release", "reject", "correct"]))
            values = {"price": "5"} if act == "correct" and rows[0][0] == "trade" else {}
            act = act if values or act != "correct" else "release"
            frames.append(decided(sequence, about, rows[:1] if values else rows, act, after_s=sequence * 500, **values))
            continue
        frame = data(sequence, draw(PAYLOAD), draw(st.sampled_from(["toy", "other"])), seconds=sequence * 500)
        frames.append(frame)
        found = whole(assembler().step([frame])).get("rejected")
        if found is not None:
            names = list(found.select("record_type", "row").iter_rows())
            open_.append((frame, names))
    return frames


@settings(max_examples=60, deadline=None)
@given(journals(), st.sampled_from([1, 3]), st.data())
def test_however_decisions_are_cut_rows_and_books_are_the_same(
    frames: list[Frame], lanes: int, draw: st.DataObject
) -> None:
    one = assembler(lanes)
    one.start({})
    cut = run(one, pieces_of(frames, draw.draw))
    at_once = assembler(1).step(frames)
    same(cut, at_once)
    assert totals(cut) == totals(at_once)
    sums = fates(at_once)
    rows = sum(batch.rows.height for batch in at_once)
    # Each parsed row has one fate, whatever was decided.
    assert sums["received"] == rows + sums["quarantined"] + sums["superseded"] + sums["control"]
    rejected = whole(at_once).get("rejected")
    if rejected is not None:
        taken = rejected.filter(pl.col("state").is_in(["released", "corrected"])).height
        assert sums["superseded"] == taken
        assert sums["quarantined"] == rejected.filter(state="open").height - taken


@settings(max_examples=40, deadline=None)
@given(journals(), st.sampled_from([1, 3]), st.data())
def test_a_restart_from_any_positions_decides_nothing_twice(
    frames: list[Frame], lanes: int, draw: st.DataObject
) -> None:
    before = assembler(lanes)
    before.start({})
    places = Places()
    kept: list[Batch] = []
    for step in pieces_of(frames, draw.draw):
        for batch in before.step(step):
            if places.positions.get(batch.stream, 0) == batch.lineage.prev and draw.draw(st.booleans()):
                places.positions[batch.stream] = batch.lineage.last
                kept.append(batch)
    after = assembler(lanes)
    begin = after.start(places.positions)
    for piece in pieces_of([frame for frame in frames if frame.sequence > begin], draw.draw):
        kept += after.step(piece)
    at_once = assembler(1).step(frames)
    same(kept, at_once)
    assert totals(kept) == totals(at_once)


def test_a_fate_may_move_to_an_hour_of_its_own() -> None:
    bad = data(1, [trade(2, "x")])
    batch = assembler().step([decided(2, bad, [("trade", 0)], after_s=3 * 3_600)])[0]
    back = Batch.from_bytes(batch.to_bytes())
    assert back.fates == batch.fates
    hour = START_NS // 1_000 // 3_600_000_000 * 3_600_000_000
    assert back.fates[Fate("toy", hour, "quarantined")] == -1


# -- broken on purpose ----------------------------------------------------------------------------------------------


def test_mutant_that_keeps_the_time_of_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A released row with its old ``ingested_at`` would change answers of snapshots before the decision."""
    right = decision.copied_into

    def wrong(frame: Frame, copied: decision.Copied) -> Frame:
        return msgspec.structs.replace(right(frame, copied), wall_ns=copied.wall_ns)

    monkeypatch.setattr(decision, "copied_into", wrong)
    with pytest.raises(AssertionError):
        test_a_released_row_takes_the_time_and_place_of_the_decision()


def test_mutant_that_counts_a_released_row_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once as quarantined, and once as what came of it."""
    monkeypatch.setattr(assemble, "moved", lambda _: Counter())
    with pytest.raises(AssertionError):
        test_the_books_move_in_the_hour_the_row_was_received()


def test_mutant_that_drops_negative_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``Counter += …`` does."""
    right = assemble.moved
    monkeypatch.setattr(assemble, "moved", lambda rejected: +right(rejected))
    with pytest.raises(AssertionError):
        test_the_books_move_in_the_hour_the_row_was_received()


def test_mutant_that_parses_data_before_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        """Brings frames of a kind together, as if their order did not matter."""

        @staticmethod
        def groupby(frames: Sequence[Frame], key: Any) -> Any:
            return itertools.groupby(sorted(frames, key=key), key=key)

    monkeypatch.setattr(assemble, "itertools", Wrong)
    with pytest.raises(AssertionError):
        test_what_a_parser_knows_is_what_stood_before_the_decision()
