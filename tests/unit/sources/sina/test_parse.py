"""Messages of Sina's WebSocket: the same rows as the file makes of HTTP replies, however they are cut."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tidewire.collect import Assembler, Frame, Outcome
from tidewire.journal import Kind, Origin
from tidewire.sources.sina.parse import SinaParser, lines

BODY = (
    "浦发银行,8.690,8.700,8.750,8.820,8.660,8.750,8.760,22910251,200620309.000,53000,8.750,115800,8.740,222600,8.730,"
    "176400,8.720,407500,8.710,220000,8.760,44900,8.770,163400,8.780,192200,8.790,272000,8.800,2026-07-03,10:13:29,00"
)
STOCK = f"sh600000={BODY}"
INDEX = (
    "sh000001=上证指数,3127.61,3131.86,3092.98,3130.0,3090.1,0,0,253413388,287363012838"
    + ",0" * 20
    + (",2026-07-03,10:13:29,00,")
)
SHORT = "sz000002=万科A,8.690,8.700"
UNKNOWN = "sh600001="
PIECES = [STOCK, INDEX, SHORT, UNKNOWN, "garbage", "", BODY]


def message(text: str | bytes, sequence: int = 1) -> Frame:
    body = text if isinstance(text, bytes) else text.encode()
    wall_ns = 1_783_044_810_000_000_000 + sequence * 1_000_000
    return Frame(sequence, wall_ns, sequence, Kind.DATA, Origin("sina", "stream", "wss://x 1#1"), b"", body)


def test_a_line_is_what_the_file_makes_of_an_http_reply() -> None:
    found = SinaParser().parse([message(STOCK + "\n" + INDEX + "\n")])
    reply = f'var hq_str_sh600000="{BODY}";\nvar hq_str_{INDEX.replace("=", chr(61) + chr(34))}";\n'
    read = lines().read(reply.encode("gb18030"), {}, 1_783_044_810_001_000)
    assert [part.type.name for part in found.parsed] == ["ticker", "quote", "order_book"]
    assert [part.columns for part in found.parsed] == [each.columns for each in (read, *read.also)]
    assert list(read.columns["instrument"]) == ["600000.SH", "000001.SH"]
    assert list(read.columns["volume"]) == ["22910251", None]
    assert list(read.also[0].columns["ask_size"]) == ["220000"]
    assert len(found.filtered) == 2  # an index has neither quote nor book


def test_a_line_that_is_cut_off_or_none_at_all_is_quarantined_and_the_others_are_not() -> None:
    assembler = Assembler("j" * 8, {"sina": SinaParser()})
    assembler.start({})
    batches = {batch.type.name: batch for batch in assembler.step([message(f"{STOCK}\n{SHORT}\ngarbage")])}
    ticker = batches["ticker"]
    assert ticker.rows["instrument"].to_list() == ["600000.SH"]
    assert ticker.rejected is not None
    assert ticker.rejected["instrument"].to_list() == ["000002.SZ", None]
    assert ticker.rejected["ordinal"].to_list() == [1, 2]


def test_bytes_that_are_no_text_and_text_without_lines() -> None:
    frames = [message(b"\xff\xfe\x00", 1), message("hello", 2), message("", 3), message(STOCK.encode("gb18030"), 4)]
    found = SinaParser().parse(frames)
    assert [(frame.sequence, why[:21]) for frame, why in found.unreadable] == [
        (1, "expected text in utf-"),
        (2, "expected lines such a"),
        (4, "expected text in utf-"),
    ]
    assert [frame.sequence for frame in found.control] == [3]
    assert found.parsed == []


@given(
    st.lists(st.lists(st.sampled_from(PIECES), max_size=4), max_size=6),
    st.lists(st.integers(0, 6), max_size=3),
)
def test_rows_do_not_depend_on_how_frames_are_cut(messages: list[list[str]], cuts: list[int]) -> None:
    frames = [message("\n".join(each), place) for place, each in enumerate(messages, 1)]
    parser = SinaParser()
    whole, parts = parser.parse(frames), Outcome()
    for begin, end in itertools.pairwise(sorted({0, len(frames), *(cut for cut in cuts if cut < len(frames))})):
        parts.add(parser.parse(frames[begin:end]))
    assert rows(parts) == rows(whole)
    for name in ("filtered", "control", "unreadable"):
        assert sorted(map(repr, getattr(parts, name))) == sorted(map(repr, getattr(whole, name)))


def rows(outcome: Outcome) -> dict[str, list[Any]]:
    """Rows by type, each with its place, and what is wrong with it."""
    found: dict[str, list[Any]] = {}
    for part in outcome.parsed:
        names = list(part.columns)
        columns: Any = part.columns
        for place, frame in enumerate(part.frames):
            assert part.ordinals is not None
            row = tuple(columns[name][place] for name in names)
            wrong = part.wrong.get(place)
            found.setdefault(part.type.name, []).append((frame.sequence, part.ordinals[place], row, wrong))
    return {name: sorted(each, key=lambda row: row[:2]) for name, each in found.items()}
