from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from tidewire.errors import JournalCorrupt
from tidewire.journal import Frame, JournalReader, Kind, Origin
from tidewire.journal.segment import Decoder, Encoder, Header, Limits, Stop, segment_name

GOLDEN = Path(__file__).parents[2] / "golden" / "segment-v1.seg"
UUID = "00112233-4455-4677-8899-aabbccddeeff"
FEED = Origin("binance", "trade", "wss://stream.binance.com:9443/ws#1")
PAGE = Origin("东方财富", "notice", "GET https://example.com/api?page=2")
T0 = 1_723_075_200_000_000_000
FRAMES = [
    Frame(1, T0, 5, Kind.DATA, FEED, b"", b'{"e":"trade","p":"2345.67"}'),
    Frame(2, T0, 5, Kind.DATA, PAGE, b"page=3", "公告".encode()),
    Frame(3, T0 + 1, 9, Kind.CONTROL, FEED, b"\x00\xff", b""),
    Frame(4, T0 + 2, 10, Kind.DATA, PAGE, b"after the last chunk", bytes(range(250))),
    Frame(5, T0 + 2, -1, Kind.OPERATOR, Origin("", "", ""), b"", b"release quarantine 17"),
]


def golden_bytes() -> bytes:
    out = [Header(UUID, first=1, created_ns=T0).encode()]
    encoder = Encoder(max_frame=100)
    for frame in FRAMES:
        encoder.encode(frame, out)
    return b"".join(out)


def encoded(frames: list[Frame], max_frame: int = 1 << 20) -> bytes:
    out: list[bytes] = []
    encoder = Encoder(max_frame)
    sizes = [encoder.encode(frame, out) for frame in frames]
    data = b"".join(out)
    assert sum(sizes) == len(data)
    return data


def test_golden_segment_is_written_the_same() -> None:
    assert golden_bytes() == GOLDEN.read_bytes()


def test_golden_segment_is_read(tmp_path: Path) -> None:
    shutil.copy(GOLDEN, tmp_path / segment_name(1))
    reader = JournalReader(tmp_path)
    assert reader.uuid == UUID
    assert list(reader.scan()) == FRAMES
    assert reader.verify() == []


def test_golden_segment_by_the_table() -> None:
    data = GOLDEN.read_bytes()
    assert data[:8] == b"TIDEWIRE"
    assert struct.unpack_from("<HHI", data, 8) == (1, 64, 0)
    assert data[16:32].hex() == UUID.replace("-", "")
    assert struct.unpack_from("<QQqQ", data, 32) == (0, 1, T0, xxh3_64_intdigest(data[:56]))
    length, checksum, sequence, wall, mono = struct.unpack_from("<IQQqq", data, 64)
    kind, flags, chunk, cursor, source, collector, request = struct.unpack_from("<BBHIHHI", data, 64 + 36)
    assert (sequence, wall, mono, kind, flags, chunk, cursor) == (1, T0, 5, 1, 0, 0, 0)
    assert (source, collector, request) == (7, 5, len(FEED.request))
    assert checksum == xxh3_64_intdigest(data[64 + 12 : 64 + length])
    body = data[64 + 52 : 64 + length]
    assert body == b"binancetrade" + FEED.request.encode() + FRAMES[0].payload


origins = st.builds(Origin, st.text(max_size=8), st.text(max_size=8), st.text(max_size=30))
parts = st.tuples(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from(Kind),
    origins,
    st.binary(max_size=40),
    st.binary(max_size=300),
)


@given(st.lists(parts, max_size=12), st.integers(1, 400), st.integers(1, 2**40))
def test_round_trip(rows: list[tuple[int, int, Kind, Origin, bytes, bytes]], max_frame: int, first: int) -> None:
    frames = [Frame(first + place, *row) for place, row in enumerate(rows)]
    data = encoded(frames, max_frame)
    done = Decoder().decode(data + bytes(64), first, Limits())
    assert done.frames == frames
    assert done.used == len(data)
    assert done.stop is Stop.END


@given(st.data())
def test_any_flipped_bit_is_seen(data: st.DataObject) -> None:
    raw = bytearray(encoded(FRAMES, 100))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    done = Decoder().decode(bytes(raw), 1, Limits())
    assert done.frames == FRAMES[: len(done.frames)]
    assert done.used <= place
    assert len(done.frames) < len(FRAMES)


def test_a_cut_at_every_byte_gives_the_whole_frames_before_it() -> None:
    data = encoded(FRAMES, 100)
    ends = [len(encoded(FRAMES[:number], 100)) for number in range(len(FRAMES) + 1)]
    for cut in range(len(data)):
        done = Decoder().decode(data[:cut], 1, Limits())
        whole = max(number for number, end in enumerate(ends) if end <= cut)
        assert (done.frames, done.used, done.stop) == (FRAMES[:whole], ends[whole], Stop.MORE)


def test_limits() -> None:
    data = encoded(FRAMES)
    decode = Decoder().decode
    assert [frame.sequence for frame in decode(data, 1, Limits(after=2)).frames] == [3, 4, 5]
    assert [frame.sequence for frame in decode(data, 1, Limits(after=1, upto=3)).frames] == [2, 3]
    assert [frame.sequence for frame in decode(data, 1, Limits(frames=2)).frames] == [1, 2]
    assert [frame.sequence for frame in decode(data, 1, Limits(bytes_=28)).frames] == [1, 2]


def test_equal_origins_become_one_object() -> None:
    frames = Decoder().decode(encoded(FRAMES), 1, Limits()).frames
    assert frames[0].origin is frames[2].origin


@pytest.mark.parametrize(
    "change", [{"sequence": 2}, {"kind": 9}], ids=["a sequence that does not follow", "an unknown kind"]
)
def test_intact_but_impossible_is_odd(change: dict[str, int]) -> None:
    values = {"sequence": 1, "kind": 1, **change}
    body = struct.pack("<QqqBBHIHHI", values["sequence"], 0, 0, values["kind"], 0, 0, 0, 0, 0, 0)
    data = struct.pack("<IQ", len(body) + 12, xxh3_64_intdigest(body)) + body
    done = Decoder().decode(data, 1, Limits())
    assert done.stop is Stop.ODD
    assert not done.frames


def test_header_of_something_else_is_refused() -> None:
    good = Header(UUID, 1, T0).encode()
    path = Path("x.seg")
    with pytest.raises(JournalCorrupt, match="not a journal segment"):
        Header.decode(b"PK\x03\x04" + bytes(60), path)
    with pytest.raises(JournalCorrupt, match="format version 2"):
        Header.decode(good[:8] + b"\x02" + good[9:], path)
    with pytest.raises(JournalCorrupt, match="checksum"):
        Header.decode(good[:40] + b"\x07" + good[41:], path)


def test_origin_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="source of a frame is 65536 bytes"):
        Origin("x" * 65536, "", "")
