"""Packed bodies, whatever they are cut into."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.collect import unpack


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.binary(max_size=3000), min_size=1, max_size=4),
    st.sampled_from(["gzip", "zlib", "raw"]),
    st.lists(st.integers(1, 200), max_size=40),
    st.integers(1, 500),
)
def test_any_chunks_inflate_to_the_same(parts: list[bytes], form: str, cuts: list[int], step: int) -> None:
    if form == "gzip":
        packed, want = b"".join(gzip.compress(part) for part in parts), b"".join(parts)
    else:
        want = parts[0]
        packer = zlib.compressobj(wbits=zlib.MAX_WBITS if form == "zlib" else -zlib.MAX_WBITS)
        packed = packer.compress(want) + packer.flush()
    decoder = unpack.Inflate("test")
    pieces: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpack, "_INFLATE_STEP_BYTES", step)
        at = 0
        # A bare deflate stream is told from zlib by its first two bytes, so they come together.
        for cut in [2 + (cuts.pop() if cuts else 0), *cuts, len(packed)]:
            pieces += decoder.feed(packed[at : at + cut])
            at += cut
    assert b"".join(pieces) == want
    assert decoder.complete
    assert all(len(piece) <= step for piece in pieces)
