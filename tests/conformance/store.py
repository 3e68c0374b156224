"""What every store must do. A store inherits `StoreConformance` and overrides the fixtures ``make`` and ``fresh``.

``make()`` gives an unopened store, called again one on the same data if ``persistent``; ``fresh()`` always an empty
one. ``breaks`` makes the next write go wrong, see `CommitConformance`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import date
from typing import Any

import polars as pl
import pytest

from conformance.store_commits import CommitConformance
from conformance.store_held import HeldConformance
from conformance.store_kit import START_US, Feed, at, bar, everything, fate_sums, quote, rows, trade
from conformance.store_reads import ReadConformance
from tidewire.errors import PositionMismatch, QueryError, StoreError
from tidewire.records.batch import HOUR_US, Fate, Stream
from tidewire.records.market import Instrument, Kline, Quote, Trade
from tidewire.records.ops import Finding, Gap, Quarantined
from tidewire.records.reference import TradingDay
from tidewire.store.protocol import Query, Store

Make = Callable[[], Store]


HOUR = START_US
"""The hour that the rows of this suite are ingested in, unless they say otherwise."""


class StoreConformance(ReadConformance, HeldConformance, CommitConformance):
    """The suite."""

    persistent = True
    """Whether a closed store keeps its data."""

    @pytest.fixture
    def make(self) -> Make:
        raise NotImplementedError

    @pytest.fixture
    def fresh(self) -> Make:
        raise NotImplementedError

    @pytest.fixture
    async def store(self, make: Make) -> AsyncIterator[Store]:
        opened = make()
        await opened.open()
        yield opened
        await opened.close()

    async def reopened(self, store: Store, make: Make) -> Store:
        await store.close()
        again = make()
        await again.open()
        return again

    # Positions

    async def test_positions_follow_the_batches(self, store: Store) -> None:
        feed, other = Feed(), Feed(journal="other", lane=3)
        assert store.positions() == {}
        await store.write([feed.batch(Trade.type, [trade(1)]), other.batch(Trade.type, [trade(2)], frames=4)])
        await store.write([feed.batch(Quote.type, [quote(1)], frames=7)])
        assert store.positions() == {
            Stream(feed.journal, "trade", 0): 10,
            Stream("other", "trade", 3): 4,
            Stream(feed.journal, "quote", 0): 7,
        }

    async def test_batches_of_one_call_continue_each_other(self, store: Store) -> None:
        feed = Feed()
        written = await store.write([feed.batch(Trade.type, [trade(n)]) for n in range(5)])
        assert [one.stored for one in written] == [1] * 5
        assert store.positions() == {Stream(feed.journal, "trade", 0): 50}

    @pytest.mark.parametrize("prev", [0, 9, 11], ids=["repeat", "overlap", "hole"])
    async def test_a_batch_that_does_not_continue_changes_nothing(self, store: Store, prev: int) -> None:
        feed = Feed()
        await store.write([feed.batch(Trade.type, [trade(1)])])
        before = await store.fates()
        wrong = Feed(reached={"trade": prev}).batch(Trade.type, [trade(2)])
        with pytest.raises(PositionMismatch) as caught:
            await store.write([feed.batch(Quote.type, [quote(1)]), wrong])
        assert (caught.value.position, caught.value.prev) == (10, prev)
        assert store.positions() == {Stream(feed.journal, "trade", 0): 10}
        assert (await everything(store, Trade.type))["trade_id"].to_list() == ["1"]
        assert (await everything(store, Quote.type)).is_empty()
        assert await store.fates() == before

    async def test_a_hole_inside_one_call_changes_nothing(self, store: Store) -> None:
        feed = Feed()
        first = feed.batch(Trade.type, [trade(1)])
        feed.batch(Trade.type, [trade(2)])
        third = feed.batch(Trade.type, [trade(3)])
        with pytest.raises(PositionMismatch):
            await store.write([first, third])
        assert store.positions() == {}
        assert (await everything(store, Trade.type)).is_empty()

    async def test_a_mark_moves_position_and_watermark_only(self, store: Store) -> None:
        feed = Feed()
        await store.write([feed.batch(Trade.type, [trade(1)])])
        await store.write([feed.mark(Trade.type, until=60)])
        assert store.positions() == {Stream(feed.journal, "trade", 0): 20}
        assert store.watermark(Trade.type) == at(60 - 1e-6)
        assert (await store.counts()) == {("trade", "test", HOUR): 1}

    async def test_the_watermark_is_that_of_the_slowest_stream(self, store: Store) -> None:
        assert store.watermark(Trade.type) < at(-1_000_000)
        await store.write([Feed(lane=lane).mark(Trade.type, until=10 + lane) for lane in range(3)])
        await store.write([Feed().mark(Quote.type, until=5)])
        assert store.watermark(Trade.type) == at(10 - 1e-6)
        assert store.watermark(Gap.type) == at(5 - 1e-6)

    async def test_everything_known_survives_a_restart(self, store: Store, make: Make) -> None:
        if not self.persistent:
            pytest.skip("keeps nothing")
        feed = Feed()
        await store.write([feed.batch(Trade.type, [trade(1), trade(2)]), feed.batch(Kline.type, [bar(0)])])
        facts = store.positions(), store.watermark(Trade.type), await store.fates(), await store.counts()
        before = await everything(store, Trade.type)
        store = await self.reopened(store, make)
        assert (store.positions(), store.watermark(Trade.type), await store.fates(), await store.counts()) == facts
        assert before.equals(await everything(store, Trade.type))
        (written,) = await store.write([feed.batch(Trade.type, [trade(2), trade(3)])])
        assert (written.stored, written.duplicates) == (1, 1)
        await store.close()

    # All or nothing

    async def test_a_type_that_fails_takes_the_others_with_it(self, store: Store) -> None:
        feed = Feed()
        await store.write([feed.batch(Trade.type, [trade(1)])])
        before = store.positions(), await store.fates(), await store.counts()
        bad = rows(Quote.type, [quote(1)]).with_columns(source=pl.lit(None, dtype=pl.String))
        reached = dict(feed.reached)
        with pytest.raises(StoreError):
            await store.write([feed.batch(Trade.type, [trade(2)]), feed.batch(Quote.type, bad)])
        assert (store.positions(), await store.fates(), await store.counts()) == before
        feed.reached = reached
        (written,) = await store.write([feed.batch(Trade.type, [trade(2)])])
        assert written.stored == 1

    async def test_rows_of_another_shape_are_refused(self, store: Store) -> None:
        frame = rows(Trade.type, [trade(1)]).with_columns(pl.col("price").cast(pl.Float64))
        with pytest.raises(StoreError, match="price"):
            await store.write([Feed().batch(Trade.type, frame)])
        assert store.positions() == {}

    # Once

    async def test_a_repeat_is_a_duplicate(self, store: Store) -> None:
        feed = Feed()
        await store.write([feed.batch(Trade.type, [trade(1), trade(2)])])
        (written,) = await store.write([feed.batch(Trade.type, [trade(2, frame=15), trade(3)])])
        assert (written.stored, written.duplicates, written.revisions) == (1, 1, 0)
        assert written.fresh["trade_id"].to_list() == ["3"]
        found = await everything(store, Trade.type)
        assert found["frame"].to_list() == [1, 2, 3]

    async def test_repeats_within_a_batch_and_a_call(self, store: Store) -> None:
        feed = Feed()
        first = feed.batch(Trade.type, [trade(1), trade(1, frame=2), trade(2)])
        second = feed.batch(Trade.type, [trade(2, frame=12), trade(3)])
        written = await store.write([first, second])
        assert [(one.stored, one.duplicates) for one in written] == [(2, 1), (1, 1)]
        assert (await everything(store, Trade.type))["trade_id"].to_list() == ["1", "2", "3"]

    async def test_rows_without_order_are_compared_too(self, store: Store) -> None:
        feed = Feed()
        await store.write([feed.batch(Trade.type, [trade(1, sequence=None), trade(7)])])
        (written,) = await store.write([feed.batch(Trade.type, [trade(1, sequence=None), trade(8, sequence=None)])])
        assert (written.stored, written.duplicates) == (1, 1)

    async def test_a_late_row_is_stored_and_changes_nothing_else(self, store: Store) -> None:
        feed = Feed()
        await store.write([feed.batch(Trade.type, [trade(5), trade(9)])])
        (written,) = await store.write([feed.batch(Trade.type, [trade(7)])])
        assert (written.stored, written.duplicates) == (1, 0)
        (again,) = await store.write([feed.batch(Trade.type, [trade(9)])])
        assert (again.stored, again.duplicates) == (0, 1)

    async def test_a_repeat_of_the_highest_alone_and_among_others(self, store: Store) -> None:
        feed = Feed()
        names = ("A.X", "B.X")
        await store.write([feed.batch(Trade.type, [trade(3, instrument=name) for name in names])])
        (one,) = await store.write([feed.batch(Trade.type, [trade(3, instrument="A.X")])])
        (both,) = await store.write(
            [feed.batch(Trade.type, [trade(n, instrument=name) for n in (3, 4) for name in names])]
        )
        assert (one.stored, one.duplicates) == (0, 1)
        assert (both.stored, both.duplicates) == (2, 2)
        assert both.fresh["sequence"].to_list() == [4, 4]

    async def test_another_payload_is_a_revision(self, store: Store) -> None:
        feed = Feed()
        await store.write([feed.batch(Kline.type, [bar(0), bar(1)])])
        again = bar(0, close="3", ingested_at=200, frame=11)
        (written,) = await store.write([feed.batch(Kline.type, [again], until=201)])
        assert (written.stored, written.revisions, written.duplicates) == (1, 1, 0)
        assert written.fresh.height == 1
        (written,) = await store.write([feed.batch(Kline.type, [{**again, "frame": 21}])])
        assert (written.stored, written.duplicates) == (0, 1)
        found = await everything(store, Kline.type)
        assert found["close"].cast(pl.Int64).to_list() == [3, 2]
        both = await everything(store, Kline.type, revisions="all")
        assert both["close"].cast(pl.Int64).to_list() == [2, 3, 2]
        assert (await store.counts()) == {("kline", "test", HOUR): 3}

    async def test_a_revision_back_to_the_first_payload_counts(self, store: Store) -> None:
        feed = Feed()
        for place, close in enumerate(["2", "3", "2", "2"]):
            spec = bar(0, close=close, frame=place + 1, ingested_at=100 + place)
            await store.write([feed.batch(Kline.type, [spec])])
        assert (await everything(store, Kline.type))["frame"].to_list() == [3]
        assert fate_sums(await store.fates()) == {
            ("kline", "received"): 4,
            ("kline", "stored"): 3,
            ("kline", "duplicate"): 1,
        }

    @pytest.mark.parametrize("calls", [1, 3])
    async def test_a_key_that_is_used_again_much_later_is_another_row_however_it_is_cut(
        self, store: Store, calls: int
    ) -> None:
        """A venue that numbers anew; one commit (as a replay makes them) or several must come to the same."""
        feed = Feed()
        specs = [trade(1, event_time=1), trade(1, event_time=200, price="7"), trade(1, event_time=201, price="8")]
        specs = [{**spec, "frame": 1 + place, "ingested_at": 300 + place} for place, spec in enumerate(specs)]
        parts = [specs] if calls == 1 else [[spec] for spec in specs]
        written = [one for part in parts for one in await store.write([feed.batch(Trade.type, part)])]
        assert (sum(one.stored for one in written), sum(one.revisions for one in written)) == (3, 1)
        found = await everything(store, Trade.type, revisions="all")
        assert found["price"].cast(pl.Int64).to_list() == [100, 7, 8]

    async def test_a_null_is_a_value_like_others(self, store: Store) -> None:
        feed = Feed()
        await store.write([feed.batch(Trade.type, [trade(1, side=None)])])
        (same,) = await store.write([feed.batch(Trade.type, [trade(1, side=None)])])
        (other,) = await store.write([feed.batch(Trade.type, [trade(1, side="buy")])])
        assert (same.duplicates, other.revisions) == (1, 1)

    async def test_the_time_of_receipt_is_no_payload(self, store: Store) -> None:
        feed = Feed()
        await store.write([feed.batch(Quote.type, [quote(1, event_time=1, ingested_at=1)])])
        (same,) = await store.write([feed.batch(Quote.type, [quote(1, event_time=500, ingested_at=500)])])
        assert (same.stored, same.duplicates) == (0, 1)
        (other,) = await store.write(
            [feed.batch(Quote.type, [quote(1, event_time=501, ingested_at=501, bid_size="7")])]
        )
        assert other.revisions == 1

    async def test_definitions_are_compared_with_all_ever_stored(self, store: Store) -> None:
        feed = Feed()
        spec = {"uid": "u", "native": "BTCUSDT", "kind": "spot", "status": "trading"}
        day = 86_400
        for place, status in enumerate(["trading", "trading", "halted", "halted"]):
            row = {**spec, "status": status, "frame": place, "event_time": place * day, "ingested_at": place * day}
            await store.write([feed.batch(Instrument.type, [row])])
        found = await everything(store, Instrument.type)
        assert found["status"].to_list() == ["halted"]
        assert fate_sums(await store.fates())["instrument", "duplicate"] == 2

    async def test_which_name_a_code_had_on_a_day(self, store: Store) -> None:
        """A definition's revisions are its history: a read as of a day gives what was known then."""
        feed, day = Feed(), 86_400
        spec = {"instrument": "600000.SH", "uid": "u", "native": "600000", "kind": "stock", "board": "main"}
        for place, (name, status, delisted) in enumerate(
            [("Pufa", "trading", None), ("ST Pufa", "trading", None), ("ST Pufa", "delisted", date(2026, 1, 7))]
        ):
            known = {"name": name, "status": status, "listed_on": date(1999, 11, 10), "delisted_on": delisted}
            row = {**spec, **known, "frame": place, "event_time": place * day, "ingested_at": place * day}
            await store.write([feed.batch(Instrument.type, [row])])
        names: list[Any] = []
        for hours in (1, 25, 49):
            found = await everything(store, Instrument.type, as_of=at(hours * 3_600))
            names.append(found.select("name", "status", "delisted_on", "listed_on").row(0))
        listed = date(1999, 11, 10)
        assert names == [
            ("Pufa", "trading", None, listed),
            ("ST Pufa", "trading", None, listed),
            ("ST Pufa", "delisted", date(2026, 1, 7), listed),
        ]
        assert (await everything(store, Instrument.type, revisions="all")).height == 3

    async def test_a_day_is_a_key_to_ask_by(self, store: Store) -> None:
        feed = Feed()
        for place, session in enumerate([True, True, False]):
            row = {
                "exchange": "XSHE",
                "day": date(2026, 10, 8),
                "session": session,
                "ingested_at": place,
                "frame": place,
            }
            other = {**row, "day": date(2026, 10, 9), "session": True}
            await store.write([feed.batch(TradingDay.type, [row, other])])
        found = await everything(store, TradingDay.type, where={"day": ["2026-10-08"]})
        assert found.select("day", "session").rows() == [(date(2026, 10, 8), False)]
        assert fate_sums(await store.fates())["trading_day", "duplicate"] == 3
        with pytest.raises(QueryError, match="days such as 2026-01-05"):
            await everything(store, TradingDay.type, where={"day": ["8.10.2026"]})

    # Gaps, quarantine, fates

    async def test_a_gap_is_found_in_its_latest_state(self, store: Store) -> None:
        feed = Feed()
        for place, state in enumerate(["open", "filling", "open", "filled"]):
            spec = {"gap_id": "7", "event_time": 3, "until_time": 9, "ingested_at": 10 + place, "frame": 10 * place + 1}
            gaps = rows(Gap.type, [{**spec, "state": state}])
            await store.write([feed.batch(Trade.type, [trade(place)], gaps=gaps)])
            found = await store.read(Query(Gap.type))
            assert found.rows["state"].to_list() == [state]
        found = await store.read(Query(Gap.type, where={"state": ["open"]}))
        assert found.rows.is_empty()
        assert (await everything(store, Gap.type, revisions="all"))["state"].to_list() == [
            "open",
            "filling",
            "open",
            "filled",
        ]

    async def test_states_of_a_gap_come_in_the_order_of_their_frames_whatever_they_ride_on(self, store: Store) -> None:
        """A gap is found in the batch of its type, its next state in one of gaps, which may stand before it."""
        feed = Feed()
        spec = {"gap_id": "7", "event_time": 3, "until_time": 9}
        later = feed.batch(Gap.type, [{**spec, "ingested_at": 12, "frame": 5, "state": "filling"}])
        first = rows(Gap.type, [{**spec, "ingested_at": 10, "frame": 1, "state": "open"}])
        written = await store.write([later, feed.batch(Trade.type, [trade(1)], gaps=first)])
        assert [(one.stored, one.revisions) for one in written] == [(1, 1), (1, 0)]
        assert (await store.read(Query(Gap.type))).rows["state"].to_list() == ["filling"]

    async def test_findings_ride_on_other_rows_and_have_no_fate(self, store: Store) -> None:
        feed = Feed()
        found = rows(Finding.type, [{"rule": "vwap", "frame": 3, "event_time": 3, "count": 1}])
        await store.write([feed.batch(Trade.type, [trade(1)], findings=found)])
        assert (await store.read(Query(Finding.type))).rows["rule"].to_list() == ["vwap"]
        assert not any(kind == "finding" for kind, _ in fate_sums(await store.fates()))

    async def test_gaps_are_shown_though_another_stream_rests(self, store: Store) -> None:
        await store.write([Feed().mark(Quote.type, until=1)])
        gaps = rows(Gap.type, [{"gap_id": "7", "frame": 3, "event_time": 30}])
        await store.write([Feed().batch(Trade.type, (), gaps=gaps, until=40)])
        assert (await store.read(Query(Gap.type))).rows.height == 1

    async def test_fates_add_up(self, store: Store) -> None:
        feed = Feed()
        rejected = rows(Quarantined.type, [{"frame": 4, "event_time": 4, "ingested_at": 4}])
        own = {Fate("test", 0, "quarantined"): 1, Fate("test", 0, "received"): 1}
        await store.write([feed.batch(Trade.type, [trade(1), trade(1), trade(2)], rejected=rejected, fates=own)])
        await store.write([feed.batch(Trade.type, [trade(2, price="5", ingested_at=50), trade(3_700)])])
        fates = await store.fates()
        assert fate_sums(fates) == {
            ("trade", "received"): 6,
            ("trade", "stored"): 4,
            ("trade", "duplicate"): 1,
            ("trade", "quarantined"): 1,
        }
        assert {fate.hour_us for _, fate in fates} == {0, 1_767_600_000_000_000, 1_767_603_600_000_000}
        counts = await store.counts()
        later = HOUR + HOUR_US
        assert counts == {("trade", "test", HOUR): 3, ("trade", "test", later): 1, ("quarantined", "test", HOUR): 1}
        assert sum(n for (kind, fate), n in fates.items() if (kind, fate.fate) == ("trade", "stored")) == 4

    async def test_hundreds_of_commits_keep_one_row_for_each_fate(self, store: Store) -> None:
        feed = Feed()
        expected: Counter[str] = Counter()
        for n in range(30):
            source = f"s{n % 3}"
            expected[source] += 1
            await store.write([feed.batch(Trade.type, [trade(n, source=source)])])
        fates = await store.fates()
        assert {fate.source: n for (_, fate), n in fates.items() if fate.fate == "stored"} == expected
        assert len(fates) == 6
