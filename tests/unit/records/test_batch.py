from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal, assert_series_equal

from tidewire.errors import ParseError
from tidewire.records import MarketRecord
from tidewire.records.batch import (
    FATES,
    HOUR_US,
    MAX_CONTENT,
    Batch,
    Fate,
    Lineage,
    Stream,
    fates_of,
    gaps,
    joined,
    quarantined,
    rejection,
)
from tidewire.records.market import Kline, OrderBook, Trade
from tidewire.records.ops import Gap, Quarantined
from tidewire.records.record import RecordType, forget
from tidewire.records.roles import Count
from unit.records.kit import KINDS, NOW, frame_of, good_row, random_rows

EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
LINEAGES = st.builds(
    lambda journal, lane, prev, more, until, trace: Lineage(journal, lane, prev, prev + more, until, trace),
    st.text(max_size=8),
    st.integers(0, 2**31),
    st.integers(0, 2**62),
    st.integers(0, 2**62),
    st.integers(-(2**62), 2**62),
    st.text(max_size=8),
)
FATE_COUNTS = st.dictionaries(
    st.builds(Fate, st.text(max_size=5), st.integers(0, 2**50), st.sampled_from(FATES)), st.integers(1, 2**40)
)


def batch_of(kind: RecordType, rng: Random, *, broken: bool = True) -> Batch:
    """A batch with everything one can carry; each part may be missing or empty."""
    rows = random_rows(kind, rng, broken=broken)

    def part(of: RecordType) -> pl.DataFrame | None:
        return rng.choice([None, random_rows(of, rng, broken=broken)])

    connections = [rng.choice(["wss://a", "", None]) for _ in range(rows.height)]
    return Batch(
        type=kind,
        rows=rows,
        lineage=Lineage("journal", 3, 5, 9, 7, "trace"),
        forming=part(kind),
        rejected=part(Quarantined.type),
        gaps=part(Gap.type),
        connections=rng.choice([None, pl.Series("connection", connections, dtype=pl.String)]),
    )


def assert_same(found: Batch, wanted: Batch) -> None:
    assert found.type is wanted.type
    assert_frame_equal(found.rows, wanted.rows, check_exact=True)
    assert (found.lineage, dict(found.fates)) == (wanted.lineage, dict(wanted.fates))
    for name in ("forming", "rejected", "gaps"):
        one, other = getattr(found, name), getattr(wanted, name)
        if other is None or other.is_empty():  # no rows are no part
            assert one is None
        else:
            assert_frame_equal(one, other, check_exact=True)
    if wanted.connections is None:
        assert found.connections is None
    else:
        assert found.connections is not None
        assert_series_equal(found.connections, wanted.connections)


@EVERY_KIND
@given(seed=st.integers(0, 2**32), lineage=LINEAGES, fates=FATE_COUNTS)
@settings(max_examples=15, deadline=None)
def test_a_batch_comes_back_exactly(kind: RecordType, seed: int, lineage: Lineage, fates: dict[Fate, int]) -> None:
    sent = batch_of(kind, Random(seed)).with_(lineage=lineage, fates=fates)
    data = sent.to_bytes()
    assert_same(Batch.from_bytes(data), sent)
    assert Batch.from_bytes(data).to_bytes() == data


@EVERY_KIND
def test_a_batch_without_rows_comes_back_as_a_mark(kind: RecordType) -> None:
    sent = Batch(kind, kind.empty(), Lineage("j", 0, 0, 0, 0, ""))
    found = Batch.from_bytes(sent.to_bytes())
    assert_same(found, sent)
    assert found.is_mark
    assert found.rows.schema == kind.schema


def test_parts_of_larger_frames_come_back_as_they_are() -> None:
    rows = pl.concat([frame_of(OrderBook.type, [good_row(OrderBook.type) | {"frame": n}]) for n in range(6)])
    sent = Batch(OrderBook.type, rows[2:5], Lineage("j", 0, 0, 6, 0, ""))
    assert Batch.from_bytes(sent.to_bytes()).rows["frame"].to_list() == [2, 3, 4]


@EVERY_KIND
def test_any_arrow_library_reads_the_rows_alone(kind: RecordType) -> None:
    sent = batch_of(kind, Random(4))
    data = sent.to_bytes()
    assert_frame_equal(pl.read_ipc_stream(data), sent.rows, check_exact=True)
    table = pa.ipc.open_stream(data).read_all()
    assert table.column_names == list(kind.schema)
    assert table.to_pylist() == pa.Table.from_batches(sent.rows.to_arrow().to_batches()).to_pylist()
    assert not [field for field in table.schema if field.type in {pa.string_view(), pa.binary_view()}]


def test_what_goes_beside_the_rows_is_json_in_the_metadata() -> None:
    table = pa.ipc.open_stream(batch_of(Trade.type, Random(4)).to_bytes()).read_all()
    beside: Any = json.loads(table.schema.metadata[b"tidewire"])
    assert beside[:4] == [1, "trade", 1, ["journal", 3, 5, 9, 7, "trace"]]


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_garbage_is_no_batch(data: bytes) -> None:
    with pytest.raises(ParseError, match=f"These {len(data)} bytes are not a whole batch"):
        Batch.from_bytes(data)


def test_no_part_of_a_batch_is_taken_for_a_batch() -> None:
    data = batch_of(Trade.type, Random(4)).to_bytes()
    for size in range(len(data)):
        with pytest.raises(ParseError):
            Batch.from_bytes(data[:size])
    with pytest.raises(ParseError):
        Batch.from_bytes(data + b"\x00")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_batch_is_noticed(data: st.DataObject) -> None:
    whole = bytearray(batch_of(Trade.type, Random(4)).to_bytes())
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ParseError):
        Batch.from_bytes(bytes(whole))


def sealed(data: bytes) -> bytes:
    return data + xxhash.xxh3_128_digest(data)


def arrow_stream(metadata: dict[bytes, bytes] | None) -> bytes:
    table = pa.table({"x": [1]}).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no arrow at all",
        arrow_stream(None),
        arrow_stream({b"tidewire": b"no json"}),
        arrow_stream({b"tidewire": b"[1,2,3]"}),
        arrow_stream({b"tidewire": b'[1,"no_such_type",1,["j",0,0,1,0,"t"],[],{}]'}),
        arrow_stream({b"tidewire": b'[1,"trade",1,["j",0,5,1,0,"t"],[],{}]'}),
        arrow_stream({b"tidewire": b'[1,"trade",1,["j",0,0,1,0,"t"],[],{"gaps":"AAAA"}]'}),
        arrow_stream({b"tidewire": b'[1,"trade",1,["j",0,0,1,0,"t"],[],{"no_such_part":"AAAA"}]'}),
    ],
)
def test_whole_bytes_of_something_else_are_no_batch(data: bytes) -> None:
    with pytest.raises(ParseError):
        Batch.from_bytes(sealed(data))


def test_a_batch_of_a_newer_version_says_which() -> None:
    class HailStone(MarketRecord, version=2):
        """Hail."""

        n = Count("N.")

    data = Batch(HailStone.type, HailStone.type.empty(), Lineage("j", 0, 0, 1, 0, "t")).to_bytes()
    forget("hail_stone")
    with pytest.raises(ParseError, match="No record type 'hail_stone'"):
        Batch.from_bytes(data)
    define_older()
    try:
        with pytest.raises(ParseError, match=r"hail_stone@2 in format 1; this process reads hail_stone@1 in format 1"):
            Batch.from_bytes(data)
    finally:
        forget("hail_stone")


def define_older() -> None:
    class HailStone(MarketRecord):
        """Hail."""

        n = Count("N.")


@pytest.mark.parametrize(("prev", "last"), [(-1, 0), (5, 4), (-2, -1)])
def test_a_lineage_is_a_range_of_frames(prev: int, last: int) -> None:
    with pytest.raises(ValueError, match=rf"found \({prev}, {last}\]"):
        Lineage("j", 0, prev, last, 0, "t")


@pytest.mark.parametrize(("prev", "last"), [(0, 0), (5, 5), (0, 2**62)])
def test_a_range_may_be_empty_or_long(prev: int, last: int) -> None:
    assert Lineage("j", 0, prev, last, 0, "t").last == last


def test_a_position_belongs_to_journal_type_and_lane() -> None:
    batch = Batch(Kline.type, Kline.type.empty(), Lineage("0123456789ab", 7, 0, 1, 0, "t"))
    assert batch.stream == Stream("0123456789ab", "kline", 7)
    assert str(batch.stream) == "01234567/kline/7"


@pytest.mark.parametrize("part", ["rows", "forming", "rejected", "gaps", "fates"])
def test_anything_carried_makes_it_more_than_a_mark(part: str) -> None:
    mark = Batch(Trade.type, Trade.type.empty(), Lineage("j", 0, 0, 1, 0, "t"), forming=Trade.type.empty())
    assert mark.is_mark
    kind = {"rejected": Quarantined.type, "gaps": Gap.type}.get(part, Trade.type)
    what: Any = {Fate("s", 0, "stored"): 1} if part == "fates" else frame_of(kind, [good_row(kind)])
    assert not mark.with_(**{part: what}).is_mark
    assert mark.is_mark


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "币"]), st.integers(-3, 3), st.integers(0, HOUR_US - 1)), max_size=30
    ),
    st.sampled_from(["received", *FATES]),
)
@settings(deadline=None)
def test_fates_are_counted_by_source_and_hour(rows: list[tuple[str, int, int]], fate: str) -> None:
    start = int(NOW.timestamp()) // 3600 * HOUR_US
    at = [start + hour * HOUR_US + into for _, hour, into in rows]
    frame = pl.DataFrame(
        [
            pl.Series("source", [source for source, _, _ in rows], dtype=pl.String),
            pl.Series("ingested_at", at, dtype=pl.Int64).cast(pl.Datetime("us", "UTC")),
        ]
    )
    naive = Counter(Fate(source, start + hour * HOUR_US, fate) for source, hour, _ in rows)
    assert fates_of(frame, fate) == naive


def test_a_rejected_row_says_what_it_was_and_why() -> None:
    row = good_row(Trade.type) | {"frame": 17, "ordinal": 2, "price": float("nan"), "size": None}
    made = rejection("j1", "trade", row, {"not_exact": {"price": "1e-13"}, "public_at|nullability": NOW})
    frame = quarantined([made])
    assert frame.schema == Quarantined.type.schema
    assert Quarantined.type.check(frame).to_list() == [0]
    found = frame.row(0, named=True)
    assert (found["frame"], found["ordinal"], found["row"], found["record_type"]) == (17, 2, 2, "trade")
    assert (found["source"], found["instrument"], found["state"]) == ("binance", "BTC-USDT.BINANCE", "open")
    assert found["journal"] == "j1"
    assert found["event_time"] == found["public_at"] == found["ingested_at"] == row["ingested_at"]
    assert json.loads(found["reasons"])["not_exact"] == {"price": "1e-13"}
    content = json.loads(found["content"])
    assert (content["trade_id"], content["price"], content["size"]) == (row["trade_id"], None, None)
    assert not {"source", "frame", "ordinal", "ingested_at"} & set(content)


def test_a_rejected_row_of_decimals_is_shown_exactly() -> None:
    row = frame_of(OrderBook.type, [good_row(OrderBook.type)]).row(0, named=True)
    content = msgspec.json.decode(rejection("j1", "order_book", row, {"same_lengths": ""})["content"])
    assert content["bid_prices"] == ["1.500000000000", "1.400000000000"]


def test_a_long_row_is_cut_and_still_json() -> None:
    row = {"source": "s", "frame": 1, "ordinal": 0, "ingested_at": NOW, "begins": '"\\币' * MAX_CONTENT}
    made = rejection("j1", "frame", row, {"unreadable": "too long"})
    content = json.loads(made["content"])
    assert content["cut"].startswith('{"begins":')
    assert len(content["cut"]) == MAX_CONTENT
    assert made["instrument"] is None


def test_gaps_are_made_from_plain_values() -> None:
    frame = gaps([good_row(Gap.type)])
    assert frame.schema == Gap.type.schema
    assert Gap.type.check(frame).to_list() == [0]
    assert gaps([]).schema == Gap.type.schema
    assert quarantined([]).schema == Quarantined.type.schema


def test_frames_are_joined_in_order_and_nothing_is_none() -> None:
    one, other = (frame_of(Trade.type, [good_row(Trade.type) | {"frame": n}]) for n in (1, 2))
    both = joined(None, one, Trade.type.empty(), other)
    assert both is not None
    assert both["frame"].to_list() == [1, 2]
    assert joined(None, Trade.type.empty()) is None
    assert joined() is None


def test_hours_are_those_of_utc() -> None:
    frame = pl.DataFrame({"source": ["a"], "ingested_at": [datetime(2026, 1, 5, 1, 59, 59, 999_999, tzinfo=UTC)]})
    hour = int(datetime(2026, 1, 5, 1, tzinfo=UTC).timestamp()) * 1_000_000
    assert fates_of(frame, "stored") == {Fate("a", hour, "stored"): 1}
