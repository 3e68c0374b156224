"""The listing: boards and codes as they are, each kind of stock there, the same for the same seed."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from tidewire.errors import InputError
from tidewire.sandbox.china.listing import BSE, CHINEXT, MOST, SH_MAIN, STAR, SZ_MAIN, make_listing

TODAY = date(2026, 12, 1)
PREFIXES = {
    SH_MAIN: ("600", "601", "603", "605"),
    STAR: ("688",),
    SZ_MAIN: ("000", "001", "002", "003"),
    CHINEXT: ("300", "301"),
    BSE: ("920",),
}


@pytest.mark.parametrize("count", [1, 20, 500, MOST])
def test_codes_are_of_their_board_and_there_once(count):
    listing = make_listing(7, count, TODAY)
    assert listing.stocks == count
    assert len(set(listing.symbols)) == len(listing)
    for code, board in zip(listing.codes[:count], listing.board.tolist()[:count], strict=True):
        assert code.startswith(PREFIXES[board])
    shanghai = ("sh000001", "sh000016", "sh000300", "sh000688", "sh000852", "sh000905")
    assert listing.symbols[-9:] == (*shanghai, "sz399001", "sz399006", "bj899050")
    assert (listing.float_shares <= listing.total_shares).all()
    assert (listing.base > 0).all()


def test_every_kind_of_stock_is_there():
    listing = make_listing(7, 60, TODAY)
    assert set(listing.board.tolist()) == {SH_MAIN, STAR, SZ_MAIN, CHINEXT, BSE, 5}
    for kind in (listing.gone, listing.unlisted, listing.st):
        assert kind.any()
    recent = listing.listed >= date(2026, 11, 24).toordinal()
    assert recent.any()
    assert [
        name for name, new in zip(listing.names, recent.tolist(), strict=True) if new and not name.startswith("N")
    ] == []
    assert "万  科Ａ" in listing.names
    percents = set(listing.limit_percent[:60].tolist())
    assert {5, 10, 20, 30} == percents


def test_the_seed_decides():
    one, same, other = (make_listing(seed, 300, TODAY) for seed in (7, 7, 8))
    assert one.codes == same.codes
    assert one.names == same.names
    assert np.array_equal(one.base, same.base)
    assert one.codes != other.codes


@pytest.mark.parametrize("count", [0, -1, MOST + 1])
def test_a_market_that_cannot_be(count):
    with pytest.raises(InputError, match=f"valid is 1 to {MOST}"):
        make_listing(7, count, TODAY)
