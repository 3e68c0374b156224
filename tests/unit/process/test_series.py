"""Order within series: what the fast way finds is what a row-by-row reading finds, however batches are cut."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.process import series
from tidewire.process.series import MAX_OPEN_HOLES, Hole, SeriesWatch, describe, hole_of
from tidewire.records.batch import gaps
from tidewire.records.calendar import calendar
from tidewire.records.market import Instrument, Kline, Quote, Trade
from tidewire.records.ops import Gap
from tidewire.records.record import RecordType
from unit.process.kit import BTC, ETH, SECOND_US, START_US, bar, cuts, rows, trade

MINUTE_US = 60 * SECOND_US
Place = tuple[int, int]


@dataclass
class Naive:
    """The rule itself: one row at a time, every missing value kept in a dictionary."""

    kind: RecordType
    step: int
    said: dict[tuple[Any, ...], tuple[Any, ...]] = field(default_factory=dict)
    marks: dict[tuple[Any, ...], int] = field(default_factory=dict)
    missing: dict[tuple[Any, ...], dict[int, int]] = field(default_factory=dict)
    holes: list[tuple[Any, ...]] = field(default_factory=list)
    kept: list[Place] = field(default_factory=list)
    duplicates: list[Place] = field(default_factory=list)

    def take(self, row: dict[str, Any]) -> None:
        place = (row["frame"], row["ordinal"])
        key = tuple(row[name] for name in self.kind.key)
        own_time = row["event_time"] if row["event_time"] != row["ingested_at"] else None
        payload = (*(row[name] for name in self.kind.payload if name != "event_time"), own_time)
        if self.said.get(key) == payload:
            self.duplicates.append(place)
            return
        self.said[key] = payload
        self.kept.append(place)
        self._place_in_series(row, place)

    def _place_in_series(self, row: dict[str, Any], place: Place) -> None:
        if self.kind.order is None or row[self.kind.order] is None:
            return
        series = tuple(row[name] for name in self.kind.series)
        order = row[self.kind.order]
        number = order if isinstance(order, int) else round(order.timestamp() * 1_000_000)
        mark = self.marks.setdefault(series, number)
        missing = self.missing.setdefault(series, {})
        if number > mark:
            gone = range(mark + self.step, number, self.step) if self.step else range(0)
            if gone:
                self.holes.append(("open", series, gone[0], gone[-1], place))
                missing.update(dict.fromkeys(gone, gone[0]))
            self.marks[series] = number
        elif number in missing:
            hole = missing.pop(number)
            if hole not in missing.values():
                self.holes.append(("filled", series, hole, place))


def seen(hole: Hole) -> tuple[Any, ...]:
    if hole.state == "open":
        return ("open", hole.series, hole.first, hole.last, hole.shown[:2])
    return ("filled", hole.series, hole.first, hole.shown[:2])


def places(part: pl.DataFrame | None) -> list[Place]:
    return [] if part is None else part.select("frame", "ordinal").rows()  # type: ignore[return-value]


def run(watch: SeriesWatch, table: pl.DataFrame, pieces: list[tuple[int, int]]) -> tuple[list[Place], list[Place], Any]:
    kept: list[Place] = []
    duplicates: list[Place] = []
    holes: list[Hole] = []
    for begin, end in pieces:
        found = watch.sort(table[begin:end])
        kept += places(found.rows)
        duplicates += places(found.duplicates)
        holes += found.holes
    return kept, duplicates, holes


def compare(kind: RecordType, step: int, specs: list[dict[str, Any]], pieces: list[tuple[int, int]]) -> None:
    table = rows(kind, specs)
    naive = Naive(kind, step)
    for row in table.iter_rows(named=True):
        naive.take(row)
    kept, duplicates, holes = run(SeriesWatch(kind), table, pieces)
    assert kept == naive.kept
    assert duplicates == naive.duplicates
    assert sorted(map(repr, map(seen, holes))) == sorted(map(repr, naive.holes))


# A feed as it is: mostly the next number, sometimes a jump, a late one, a repeat, a row told differently.
STEPS = st.sampled_from([1, 1, 1, 1, 2, 3, 3, 5, 0, -1, -1, -2, -3, -6])


@st.composite
def feeds(draw: st.DrawFn) -> tuple[list[tuple[str, int, int]], list[tuple[int, int]]]:
    """Rows as (instrument, number, price), and how they are cut."""
    height = draw(st.integers(1, 40))
    at = {BTC: 100, ETH: 900}
    found: list[tuple[str, int, int]] = []
    for _ in range(height):
        name = draw(st.sampled_from([BTC, BTC, ETH]))
        at[name] = max(1, at[name] + draw(STEPS))
        found.append((name, at[name], draw(st.sampled_from([1, 1, 1, 2]))))
    return found, draw(cuts(height))


@settings(max_examples=80, deadline=None)
@given(feeds())
def test_trades_like_row_by_row(feed: Any) -> None:
    listed, pieces = feed
    specs = [
        trade(number, instrument=name, price=str(price), event_time=number * SECOND_US, frame=place + 1)
        for place, (name, number, price) in enumerate(listed)
    ]
    compare(Trade.type, 1, specs, pieces)


@settings(max_examples=40, deadline=None)
@given(feeds(), st.sampled_from([("1m", 1), ("5m", 5)]))
def test_bars_like_row_by_row(feed: Any, interval: tuple[str, int]) -> None:
    listed, pieces = feed
    name, minutes = interval
    specs = [
        bar(number * minutes, name, minutes, instrument=instrument, volume=str(price), frame=place + 1)
        for place, (instrument, number, price) in enumerate(listed)
    ]
    compare(Kline.type, minutes * MINUTE_US, specs, pieces)


@settings(max_examples=60, deadline=None)
@given(feeds())
def test_quotes_have_repeats_but_no_holes(feed: Any) -> None:
    listed, pieces = feed
    specs = [
        # The message has no time of its own: a repeat received later is still a repeat.
        {
            "sequence": n,
            "instrument": name,
            "bid_size": str(size),
            "frame": place + 1,
            "event_time": place,
            "ingested_at": place,
        }
        for place, (name, n, size) in enumerate(listed)
    ]
    compare(Quote.type, 0, specs, pieces)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([BTC, ETH]), st.sampled_from(["trading", "halted"])), min_size=1), st.data())
def test_definitions_like_row_by_row(said: list[tuple[str, str]], data: st.DataObject) -> None:
    specs = [
        {"instrument": name, "status": status, "frame": place + 1, "event_time": place, "ingested_at": place}
        for place, (name, status) in enumerate(said)
    ]
    compare(Instrument.type, 0, specs, data.draw(cuts(len(specs))))


def test_a_definition_that_changes_back_is_news() -> None:
    table = rows(
        Instrument.type,
        [
            {"status": status, "event_time": place, "ingested_at": place}
            for place, status in enumerate(["trading", "halted", "halted", "trading"])
        ],
    )
    for pieces in ([(0, 4)], [(0, 1), (1, 2), (2, 3), (3, 4)], [(0, 3), (3, 4)]):
        kept, duplicates, _ = run(SeriesWatch(Instrument.type), table, pieces)
        assert [frame for frame, _ in kept] == [1, 2, 4]
        assert [frame for frame, _ in duplicates] == [3]


def test_a_row_without_order_is_compared_and_leaves_the_mark() -> None:
    watch = SeriesWatch(Trade.type)
    again = {"trade_id": "x", "sequence": None, "event_time": 5}
    table = rows(Trade.type, [trade(10), again, again, trade(11), again])
    kept, duplicates, holes = run(watch, table, [(0, 2), (2, 5)])
    assert [frame for frame, _ in kept] == [1, 2, 4]
    assert [frame for frame, _ in duplicates] == [3, 5]
    assert holes == []


def test_a_new_series_begins_without_a_hole() -> None:
    found = SeriesWatch(Trade.type).sort(rows(Trade.type, [trade(5_000_000), trade(5_000_001)]))
    assert (found.rows.height, found.duplicates, found.holes) == (2, None, [])


def test_no_rows() -> None:
    for kind in (Trade.type, Instrument.type):
        found = SeriesWatch(kind).sort(kind.empty())
        assert (found.rows.height, found.duplicates, found.holes) == (0, None, [])


def test_months_have_no_grid() -> None:
    found = SeriesWatch(Kline.type).sort(rows(Kline.type, [bar(0, "1M", 44_640), bar(150_000, "1M", 44_640)]))
    assert found.holes == []


# -- restarts -------------------------------------------------------------------------------------------------


def marks_of(table: pl.DataFrame, kind: RecordType) -> pl.DataFrame:
    """What a store gives: the row of the highest order of each series."""
    assert kind.order is not None
    highest = table.sort(kind.order).unique(kind.series, keep="last", maintain_order=True)
    return highest.select(*kind.series, pl.col(kind.order).alias("order"), "event_time")


def stored_between(table: pl.DataFrame, kind: RecordType, hole: Hole) -> list[int]:
    assert kind.order is not None
    mine = [row for row in table.iter_rows(named=True) if tuple(row[name] for name in kind.series) == hole.series]
    own = pl.DataFrame(mine, schema=table.schema)[kind.order].to_physical()
    return [order for order in own.to_list() if hole.first <= order <= hole.last]


@settings(max_examples=60, deadline=None)
@given(feeds(), st.data())
@pytest.mark.parametrize("kind", [Trade.type, Kline.type], ids=lambda kind: kind.name)
def test_seeds_continue_exactly(kind: RecordType, feed: Any, data: st.DataObject) -> None:
    listed, _ = feed
    if kind is Trade.type:
        step = 1
        specs = [
            trade(n, instrument=name, price=str(price), event_time=n * SECOND_US, frame=place + 1)
            for place, (name, n, price) in enumerate(listed)
        ]
    else:
        step = MINUTE_US
        specs = [
            bar(n, instrument=name, volume=str(price), frame=place + 1) for place, (name, n, price) in enumerate(listed)
        ]
    table = rows(kind, specs)
    naive = Naive(kind, step)
    for row in table.iter_rows(named=True):
        naive.take(row)
    stop = data.draw(st.integers(1, table.height))
    before = SeriesWatch(kind)
    first = before.sort(table[:stop])
    # What a store has: the rows, and the last state of each gap.
    told = gaps([dict(describe(kind, hole)) for hole in first.holes])
    still = told.unique(Gap.type.key, keep="last", maintain_order=True).filter(pl.col("state") == "open")
    after = SeriesWatch(kind)
    after.seed(marks_of(first.rows, kind))
    for row in still.iter_rows(named=True):
        hole = hole_of(kind, row)
        assert hole is not None
        after.seed_hole(hole, stored_between(first.rows, kind, hole))
    after.remember(table[:stop])
    second = after.sort(table[stop:])
    assert places(first.rows) + places(second.rows) == naive.kept
    assert places(first.duplicates) + places(second.duplicates) == naive.duplicates
    holes = [*first.holes, *second.holes]
    assert sorted(map(repr, map(seen, holes))) == sorted(map(repr, naive.holes))


def test_a_gap_row_leads_back_to_its_hole() -> None:
    for kind, specs in (
        (Trade.type, [trade(10, event_time=7), trade(15, event_time=9)]),
        (Kline.type, [bar(3, "5m", 5), bar(23, "5m", 5)]),
    ):
        (hole,) = SeriesWatch(kind).sort(rows(kind, specs)).holes
        row = gaps([dict(describe(kind, hole))]).row(0, named=True)
        found = hole_of(kind, row)
        assert found is not None
        assert (found.series, found.first, found.last, found.shown) == (
            hole.series,
            hole.first,
            hole.last,
            hole.shown,
        )
        assert describe(kind, found) == describe(kind, hole)


def test_gaps_of_connections_lead_to_no_hole() -> None:
    row = {"cause": "disconnect", "source": "binance", "instrument": BTC, "series": None}
    assert hole_of(Trade.type, row) is None


def test_a_lunch_break_is_no_hole() -> None:
    before, after = ({**bar(minute), "instrument": "600000.SH"} for minute in (0, 90))
    assert SeriesWatch(Kline.type).sort(rows(Kline.type, [before, after])).holes == []
    assert len(SeriesWatch(Kline.type).sort(rows(Kline.type, [bar(0), bar(90)])).holes) == 1


def test_what_a_gap_row_says() -> None:
    (hole,) = SeriesWatch(Trade.type).sort(rows(Trade.type, [trade(10, event_time=7), trade(15, event_time=9)])).holes
    told = describe(Trade.type, hole)
    assert told["gap_id"] == "11"
    assert (told["first_sequence"], told["last_sequence"], told["missing"]) == (11, 14, 4)
    assert (told["event_time"], told["until_time"]) == (START_US + 7, START_US + 9)
    assert (told["cause"], told["state"], told["instrument"], told["series"]) == ("sequence", "open", BTC, None)
    (hole,) = SeriesWatch(Kline.type).sort(rows(Kline.type, [bar(0), bar(3)])).holes
    told = describe(Kline.type, hole)
    assert told["gap_id"] == f"1m:{START_US + MINUTE_US}"
    assert (told["event_time"], told["until_time"]) == (START_US + MINUTE_US, START_US + 3 * MINUTE_US)
    assert (told["cause"], told["missing"], told["series"], told["first_sequence"]) == ("grid", 2, "1m", None)


def test_a_hole_half_filled_before_a_restart_closes_after_it() -> None:
    watch = SeriesWatch(Trade.type)
    (hole,) = watch.sort(rows(Trade.type, [trade(10), trade(14)])).holes
    again = SeriesWatch(Trade.type)
    again.seed_hole(hole, [13, 11])
    again.seed(marks_of(rows(Trade.type, [trade(14)]), Trade.type))
    (filled,) = again.sort(rows(Trade.type, [trade(12, frame=9)])).holes
    assert (filled.first, filled.last, filled.state, filled.shown[0]) == (11, 13, "filled", 9)


def test_open_holes_are_bounded() -> None:
    watch = SeriesWatch(Trade.type)
    many = rows(Trade.type, [trade(2 * n, frame=n) for n in range(1, MAX_OPEN_HOLES + 52)])
    assert len(watch.sort(many).holes) == MAX_OPEN_HOLES + 50
    oldest, newest = 3, 2 * MAX_OPEN_HOLES + 101
    late = rows(Trade.type, [trade(oldest, frame=5_000), trade(newest, frame=5_001)])
    assert [hole.first for hole in watch.sort(late).holes] == [newest]


@given(st.data())
def test_history_from_new_to_old_beside_live_rows_opens_no_hole(data: st.DataObject) -> None:
    """Pages of the past below all that is known, and live rows that count up, in any mixture and any batches."""
    pages = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    live = data.draw(st.integers(1, 8))
    first = 1_000
    numbers: list[int] = [first]
    low, high = first, first + 1
    for page in data.draw(st.permutations([*pages, *[0] * live])):
        if page:
            numbers += range(low - page, low)
            low -= page
        else:
            numbers.append(high)
            high += 1
    table = rows(Trade.type, [trade(number, event_time=number * SECOND_US) for number in numbers])
    watch = SeriesWatch(Trade.type)
    kept, duplicates, holes = run(watch, table, data.draw(cuts(table.height)))
    assert len(kept) == len(numbers)
    assert duplicates == []
    assert list(holes) == []


def test_what_is_remembered_stays_bounded_however_rows_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series, "HISTORY_ROWS", 50)
    monkeypatch.setattr(series, "HISTORY_FRAMES", 8)
    watch = SeriesWatch(Trade.type)

    def said(number: int, frame: int) -> pl.DataFrame:
        return rows(Trade.type, [trade(number, event_time=number * SECOND_US, frame=frame)])

    for frame, number in enumerate(range(1_000, 0, -1), 1):
        assert watch.sort(said(number, frame)).duplicates is None
    assert watch._history_rows == sum(part.height for part, _ in watch._history) <= 2 * 50
    assert len(watch._history) <= 50
    for frame, number in enumerate(range(1, 51), 2_000):
        assert watch.sort(said(number, frame)).duplicates is not None
    assert watch.sort(said(900, 3_000)).duplicates is None, "forgotten: the store knows it"


# -- bars of a market that closes ---------------------------------------------------------------------------------

BANK = "600000.SH"


def sessions(interval: str, *days: str) -> list[int]:
    """When the bars of these sessions begin, µs after `START_US`."""
    return [at - START_US for day in days for at, _ in calendar("XSHG").grid(date.fromisoformat(day), interval)]


def bars_at(times: list[int], interval: str, minutes: int) -> pl.DataFrame:
    specs = [
        bar(0, interval, minutes, instrument=BANK, frame=place + 1)
        | {"event_time": at, "open_time": at, "close_time": at + minutes * MINUTE_US}
        for place, at in enumerate(times)
    ]
    return rows(Kline.type, specs)


@pytest.mark.parametrize(("interval", "minutes"), [("1m", 1), ("5m", 5), ("1h", 60)])
def test_lunch_nights_and_holidays_are_no_holes(interval: str, minutes: int) -> None:
    times = sessions(interval, "2026-02-12", "2026-02-13", "2026-02-24", "2026-02-25")
    table = bars_at(times, interval, minutes)
    assert SeriesWatch(Kline.type).sort(table).holes == []
    watch = SeriesWatch(Kline.type)
    assert [hole for place in range(table.height) for hole in watch.sort(table[place]).holes] == []


def test_days_without_a_bar_are_no_holes_of_a_stock_that_may_be_suspended() -> None:
    table = bars_at(sessions("1m", "2026-02-12", "2026-02-25"), "1m", 1)
    assert SeriesWatch(Kline.type).sort(table).holes == []
    days = bars_at(sessions("1d", "2026-01-05", "2026-01-06", "2026-01-20"), "1d", 330)
    assert SeriesWatch(Kline.type).sort(days).holes == []


def test_what_a_session_misses_is_one_hole_in_each_half_and_is_filled_by_its_bars() -> None:
    whole = sessions("1m", "2026-02-12", "2026-02-13")
    gone = {*whole[100:140], *whole[239:241]}
    watch = SeriesWatch(Kline.type)
    opened = watch.sort(bars_at([at for at in whole if at not in gone], "1m", 1)).holes
    edges = [(whole[100], whole[119]), (whole[120], whole[139]), (whole[239], whole[239]), (whole[240], whole[240])]
    assert [(hole.first - START_US, hole.last - START_US) for hole in opened] == edges
    late = bars_at(sorted(gone), "1m", 1).with_columns(frame=pl.int_range(1_000, 1_000 + len(gone), dtype=pl.Int64))
    closed = watch.sort(late).holes
    assert [(hole.state, hole.first) for hole in closed] == [("filled", hole.first) for hole in opened]
