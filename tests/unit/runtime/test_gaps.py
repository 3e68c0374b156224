"""What the store knows of gaps: which rows of a hole are there, page by page, and which are not."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.store_kit import Feed
from tidewire.collect import OpenGap, control
from tidewire.collect.control import GapTold
from tidewire.journal import Kind
from tidewire.process.series import Hole
from tidewire.records.market import OrderBook, Trade
from tidewire.runtime import gaps
from tidewire.runtime.gaps import StoreLedger, last_rows, missing_of, stored_of
from tidewire.store.cache import LatestCache
from unit.runtime.kit import INFO, START_NS, WS, Run, Stepping, fill, opened, trade
from unit.sources.binance.samples import REST

BTC = "BTC-USDT.BINANCE"
SERIES = ("binance", BTC)


@given(st.integers(0, 50), st.integers(0, 60), st.sets(st.integers(0, 110)), st.sampled_from([1, 60_000_000]))
def test_what_is_missing_is_the_rest(first: int, length: int, stored: set[int], step: int) -> None:
    last = first + length
    hole = Hole(SERIES, first * step, last * step, 0, 0, (0, 0, 0))
    inside = np.array(sorted(value * step for value in stored if first <= value <= last), dtype=np.int64)
    ranges = missing_of(hole, inside, step)
    listed = [value for low, high in ranges for value in range(low, high + step, step)]
    assert listed == [value * step for value in range(first, last + 1) if value not in stored]
    assert all(later[0] > sooner[1] + step for sooner, later in itertools.pairwise(ranges))


async def test_what_is_stored_is_found_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaps, "_PAGE", 3)
    numbers = [100, *range(110, 120), 125, 130]
    async with opened(tmp_path) as (journal, store):
        run = Run(journal, store)
        await run.start()
        frames: list[Any] = [(INFO, f"{REST}exchangeInfo", Kind.DATA), (trade(99), WS, Kind.DATA)]
        frames += [(trade(131), WS, Kind.DATA)] + [(trade(n), WS, Kind.DATA) for n in numbers]
        await fill(journal, frames, Stepping())
        await run.drained()
        at_us = START_NS // 1_000
        hole = Hole(SERIES, 100, 130, at_us, at_us + 10**9, (0, 0, 0))
        assert (await stored_of(store, Trade.type, hole)).tolist() == numbers
        ledger = StoreLedger(store, run.pipe.stored)
        (gap,) = await ledger.open_gaps("binance")
        assert gap.series == ("trade", BTC, None)
        assert (gap.told.first_sequence, gap.told.last_sequence, gap.told.state) == (100, 130, "open")
        assert await ledger.missing(gap) == [(101, 109), (120, 124), (126, 129)]
        assert await ledger.open_gaps("other") == []
        await run.stop()


async def test_a_gap_told_by_a_frame_is_found_and_given_up_ones_on_request(tmp_path: Path) -> None:
    at_us = START_NS // 1_000
    told = GapTold(BTC, "quote", "q", "silence", "unfillable", at_us, at_us + 5, detail="gone")
    async with opened(tmp_path) as (journal, store):
        run = Run(journal, store)
        await run.start()
        await fill(journal, [(control.encode(told), WS, Kind.CONTROL)], Stepping())
        await run.drained()
        await run.pipe.stored(journal.accepted)
        ledger = StoreLedger(store, run.pipe.stored)
        assert await ledger.open_gaps("binance") == []
        assert await ledger.open_gaps("binance", given_up=True) == [OpenGap("binance", told)]
        assert await ledger.missing(OpenGap("binance", told)) is None, "no number tells which quotes are missing"
        await run.stop()


def test_the_last_row_of_a_book_is_the_one_that_came_last() -> None:
    cache, feed = LatestCache(), Feed()
    levels = {"bid_prices": ["1"], "bid_sizes": ["1"], "ask_prices": ["2"], "ask_sizes": ["1"]}
    for number, depth in enumerate((20, 1_000, 20, 1_000, 20), start=1):
        row = {"instrument": BTC, "frame": number, "sequence": number, "depth": depth, "valid": True, **levels}
        cache.update(feed.batch(OrderBook.type, [row]))
        assert last_rows(cache, "order_book")[BTC, None]["sequence"] == number


async def test_the_last_row_of_each_stream(tmp_path: Path) -> None:
    async with opened(tmp_path) as (journal, store):
        run = Run(journal, store)
        cache = LatestCache()
        await run.bus.start()
        run.bus.subscribe("data.*.processed", lambda event: cache.update(event.batch))
        await run.start()
        frames: list[Any] = [(INFO, f"{REST}exchangeInfo", Kind.DATA)]
        frames += [(trade(n), WS, Kind.DATA) for n in (5, 6)]
        await fill(journal, frames, Stepping())
        await run.drained()
        (name, row), *others = last_rows(cache, "trade").items()
        assert (name, row["sequence"], others) == ((BTC, None), 6, [])
        assert row["ingested_at"] == START_NS // 1_000 + 3_000
        assert last_rows(cache, "kline") == {}
        await run.stop()
