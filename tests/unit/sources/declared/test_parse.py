"""Frames to rows: the same however the frames are cut, and every row accounted for."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, cast

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidewire.collect import Assembler, Outcome
from tidewire.sources.declared.parse import DeclaredParser, asked_text, names_of
from unit.sources.declared.samples import FIRST, LINES, LIST, SINA, SUSPENDED, frame, page, source_of


def test_what_was_asked_for_stands_in_the_frame() -> None:
    text = asked_text("GET", "https://x/?a=1", {"symbol": "600000.SH", "page": 2})
    assert names_of(text) == {"symbol": "600000.SH", "page": 2}
    assert names_of(asked_text("POST", "https://x/", {})) == {}


def test_every_reply_comes_to_something(tmp_path: Path) -> None:
    frames = [
        frame(page([FIRST, SUSPENDED], 2), sequence=1),
        frame({"rc": 0, "data": None}, sequence=2),
        frame(b"<html>", sequence=3),
        frame(b"<html>", asked_text("GET", "https://x", {"refused": "back_off"}), sequence=4),
        frame(page([], 0), sequence=5),
    ]
    found = DeclaredParser(source_of(tmp_path, LIST)).parse(frames)
    assert [len(part.frames) for part in found.parsed] == [2]
    assert [each.sequence for each in found.control] == [2, 4, 5]
    assert [each.sequence for each, _ in found.unreadable] == [3]


def test_rows_that_are_left_out_are_counted(tmp_path: Path) -> None:
    assembler = Assembler("j" * 8, {"x": DeclaredParser(source_of(tmp_path, LINES))})
    assembler.start({})
    batches = assembler.step([frame(SINA.encode("gb18030"), sequence=1)])
    fates = {fate.fate: count for batch in batches for fate, count in batch.fates.items() if fate.fate != "received"}
    received = sum(count for batch in batches for fate, count in batch.fates.items() if fate.fate == "received")
    assert fates == {"filtered": 1}
    assert received == 2


def test_a_row_that_cannot_be_read_is_quarantined_and_the_others_are_not(tmp_path: Path) -> None:
    assembler = Assembler("j" * 8, {"x": DeclaredParser(source_of(tmp_path, LIST))})
    assembler.start({})
    batches = assembler.step([frame(page([FIRST, {**FIRST, "f12": "000002", "f124": "soon"}], 2))])
    (batch,) = [batch for batch in batches if batch.type.name == "ticker"]
    assert batch.rows["instrument"].to_list() == ["000001.SZ"]
    assert batch.rejected is not None
    assert batch.rejected["instrument"].to_list() == ["000002.SZ"]
    assert "event_time" in batch.rejected["reasons"][0]


def cells(outcome: Outcome) -> list[Any]:
    """Every row by its place: values, and what could not be made of it."""
    return [
        (part.frames[at].sequence, (part.ordinals or [])[at], {name: values[at] for name, values in columns.items()},
         part.wrong.get(at))
        for part in outcome.parsed
        for columns in [cast("dict[str, list[Any]]", part.columns)]
        for at in range(len(part.frames))
    ]  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(cuts=st.lists(st.integers(1, 5), max_size=4))
def test_rows_do_not_depend_on_how_frames_are_cut(tmp_path: Path, cuts: list[int]) -> None:
    frames = [
        frame(page([FIRST, SUSPENDED], 2), sequence=1),
        frame(b"<html>", sequence=2),
        frame(page([{**FIRST, "f12": "x"}], 1), sequence=3),
        frame({"rc": 0, "data": None}, sequence=4),
        frame(page([SUSPENDED], 1), sequence=5),
    ]
    parser = DeclaredParser(source_of(tmp_path, LIST))
    whole, parts = parser.parse(frames), Outcome()
    places = sorted({0, *(cut for cut in cuts), len(frames)})
    for begin, end in itertools.pairwise(places):
        parts.add(parser.parse(frames[begin:end]))
    assert cells(parts) == cells(whole)
    assert (parts.control, parts.unreadable, parts.filtered) == (whole.control, whole.unreadable, whole.filtered)
