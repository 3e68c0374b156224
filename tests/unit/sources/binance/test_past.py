"""What Binance is asked for again: every missing value once, in as few requests as can be; and what comes of it."""

from __future__ import annotations

import itertools
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.collect import Expected, Frame, Missing
from tidewire.errors import TerminalError
from tidewire.journal import Kind, Origin
from tidewire.records.market import Trade
from tidewire.sources.binance import BinanceParser
from tidewire.sources.binance.past import goes_on, spans
from unit.sources.binance.samples import REST
from unit.sources.binance.test_app import requests, running


@given(st.sets(st.integers(0, 300), min_size=1, max_size=60), st.integers(1, 50), st.sampled_from([1, 60]))
def test_spans_cover_all_that_is_missing_and_begin_and_end_with_it(missing: set[int], most: int, step: int) -> None:
    ordered = sorted(missing)
    ranges: list[tuple[int, int]] = []
    for value in ordered:
        if ranges and ranges[-1][1] == (value - 1) * step:
            ranges[-1] = (ranges[-1][0], value * step)
        else:
            ranges.append((value * step, value * step))
    found = list(spans(ranges, step, most))
    wanted = {value * step for value in missing}
    covered = [value for first, last in found for value in range(first, last + step, step)]
    assert wanted <= set(covered)
    assert len(covered) == len(set(covered)), "nothing is asked for twice"
    assert all(first in wanted and last in wanted for first, last in found)
    assert all(last - first < most * step for first, last in found)
    # As few as can be: going through from the left, each begins where the one before could not reach.
    assert all(later[0] >= first[0] + most * step for first, later in itertools.pairwise(found))


async def test_trades_are_asked_for_by_id_and_bars_by_time(tmp_path: Path) -> None:
    kline = {"symbols": ["BTCUSDT"], "intervals": ["1m"], "history": 0}
    async with running(tmp_path, trade={"symbols": ["BTCUSDT"]}, kline=kline) as (here, app, sandbox):
        first = sandbox._upstream.series("BTCUSDT").first_id
        minute = 60_000_000
        now = here.context.clock.wall_ns() // 1_000 // minute * minute
        trades = Missing("trade", "BTC-USDT.BINANCE", None, ((first + 5, first + 7), (first + 9, first + 9)), 0, 1)
        bars = Missing("kline", "BTC-USDT.BINANCE", "1m", ((now - 30 * minute, now - 28 * minute),), 0, 1)
        for missing in (trades, bars):
            sequence = await app.fill(missing)
            assert here.journal.accepted >= sequence > 0
        asked = requests(here)
    assert f"historicalTrades?symbol=BTCUSDT&fromId={first + 5}&limit=5" in asked
    bounds = f"startTime={(now - 30 * minute) // 1_000}&endTime={(now - 27 * minute) // 1_000}"
    assert f"klines?symbol=BTCUSDT&interval=1m&{bounds}&limit=1000" in asked
    replies = [frame for frame in here.frames() if "historicalTrades" in frame.origin.request]
    assert [row["id"] for row in msgspec.json.decode(replies[0].payload)] == list(range(first + 5, first + 10))


async def test_what_the_venue_does_not_have_is_not_asked_for_span_by_span(tmp_path: Path) -> None:
    async with running(tmp_path, trade={"symbols": ["BTCUSDT"]}) as (here, app, sandbox):
        first = sandbox._upstream.series("BTCUSDT").first_id
        ranges = ((first - 100_000, first + 2), (first + 10_000_000, first + 10_900_000))
        await app.fill(Missing("trade", "BTC-USDT.BINANCE", None, ranges, 0, 1))
        asked = [request for request in requests(here) if request.startswith("historicalTrades")]
    assert len(asked) == 3, "before its first trade, from its first trade on, after its last"


async def test_what_cannot_be_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path, trade={"symbols": ["BTCUSDT"]}) as (_, app, _):
        assert app.fills("trade")
        assert app.fills("kline")
        assert not app.fills("quote")
        with pytest.raises(TerminalError, match="does not list NOPE-USDT"):
            await app.fill(Missing("trade", "NOPE-USDT.BINANCE", None, ((1, 2),), 0, 1))


async def test_what_binance_has_more_than_a_stream_brought(tmp_path: Path) -> None:
    """A later trade, another best price, a bar with more trades; not what is as it was."""
    async with running(tmp_path, trade={"symbols": ["BTCUSDT"]}) as (_, app, sandbox):
        name = "BTC-USDT.BINANCE"
        series = sandbox._upstream.series("BTCUSDT")
        last_id, *_ = series.recent(1)[0]
        minute = 60_000_000
        now = app.context.clock.wall_ns() // 1_000 // minute * minute
        far = {"open_time": now + 10 * minute, "trades": 0}
        quote = {"bid_price": None, "bid_size": Decimal(1), "ask_price": None, "ask_size": Decimal(1)}
        for kind, series_, row, more in (
            ("trade", None, {"sequence": last_id - 1}, True),
            ("trade", None, {"sequence": last_id + 10**6}, False),
            ("kline", "1m", {"open_time": now - minute, "trades": 5}, True),
            ("kline", "1m", far, False),
            ("quote", None, quote, True),
            ("quote", None, None, True),
        ):
            assert await app.probe(Expected(kind, name, series_, 60.0), row) is more, (kind, row)


def test_a_trade_asked_for_later_is_the_trade_that_was_streamed() -> None:
    row = {"id": 28457, "price": "4.00000100", "qty": "12.00000000", "quoteQty": "48.000012", "time": 1499865549590}
    row |= {"isBuyerMaker": True, "isBestMatch": True}
    data = {"e": "trade", "E": 1499865549591, "s": "BNBBTC", "t": 28457, "p": "4.00000100", "q": "12.00000000"}
    data |= {"T": 1499865549590, "m": True, "M": True}
    late = Frame(
        2,
        10**18,
        0,
        Kind.DATA,
        Origin("binance", "trade", f"{REST}historicalTrades?symbol=BNBBTC&fromId=28457"),
        b"",
        msgspec.json.encode([row]),
    )
    live = Frame(
        1,
        10**18,
        0,
        Kind.DATA,
        Origin("binance", "stream", "ws"),
        b"",
        msgspec.json.encode({"stream": "bnbbtc@trade", "data": data}),
    )
    parser = BinanceParser({"BNBBTC": "BNB-BTC.BINANCE"})
    (streamed,), (asked,) = (parser.parse([frame]).parsed for frame in (live, late))
    assert asked.type is streamed.type is Trade.type
    assert {name: list(values) for name, values in asked.columns.items()} == {
        name: list(values) for name, values in streamed.columns.items()
    }
    assert asked.past
    assert not streamed.past


@pytest.mark.parametrize(
    ("opened_ms", "trades", "age_s", "more"),
    [
        (60_000, 5, 130, True),  # a later bar with trades
        (60_000, 0, 130, False),  # a later bar in which nothing was traded
        (0, 3, 30, False),  # what was pushed
        (0, 4, 30, True),  # more trades in the bar that is running
        (0, 4, 130, False),  # ... in one that is over and that none follows: the symbol is not traded any more
        (-60_000, 9, 30, False),
    ],
)
def test_only_a_bar_that_shows_trading_went_on_is_a_reason_for_a_new_connection(
    opened_ms: int, trades: int, age_s: int, more: bool
) -> None:
    begin_ms = 1_700_000_040_000
    opened_ms += begin_ms
    bar = (opened_ms, "1", "1", "1", "1", "1", opened_ms + 59_999, "1", trades, "1", "1", "0")
    last = {"open_time": begin_ms * 1_000, "trades": 3}
    assert goes_on(bar, last, (begin_ms + age_s * 1_000) * 1_000_000) is more
