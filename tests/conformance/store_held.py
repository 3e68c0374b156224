"""What every store tells about the rows it holds, asked by place: for the audit. Part of `StoreConformance`."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from random import Random

import polars as pl

from conformance.store_kit import START, START_US, Feed, at, bar, everything, rows, trade
from tidewire.records.batch import HOUR_US
from tidewire.records.market import Kline, Trade
from tidewire.store.protocol import JOURNAL, REVISION, Store, Stretch

HOUR = timedelta(hours=1)
OTHER = "8c8f4a3e-0000-4000-8000-000000000002"


def found(versions: pl.DataFrame) -> list[tuple[int, str]]:
    """Frame and trade id of versions, sorted."""
    return sorted(versions.select("frame", "trade_id").iter_rows())


class HeldConformance:
    """Rows by hour, by frame, by key."""

    async def test_rows_are_counted_by_hour(self, store: Store) -> None:
        feed = Feed()
        chance = Random(3)
        expected: Counter[tuple[str, str, int]] = Counter()
        for batch in range(6):
            specs = [
                trade(20 * batch + n, source=chance.choice("ab"), ingested_at=chance.randrange(5) * 1_800)
                for n in range(20)
            ]
            for spec in specs:
                expected["trade", spec["source"], START_US + spec["ingested_at"] // 3_600 * HOUR_US] += 1
            await store.write([feed.batch(Trade.type, specs)])
        assert await store.counts() == expected
        for start, end in ((0, 1), (1, 3), (2, None), (None, 1)):
            first = None if start is None else START + start * HOUR
            last = None if end is None else START + end * HOUR
            inside = {
                name: n
                for name, n in expected.items()
                if START_US + (start or 0) * HOUR_US <= name[2] < START_US + (9 if end is None else end) * HOUR_US
            }
            assert await store.counts(first, last) == inside

    async def test_an_hour_begins_with_its_first_microsecond(self, store: Store) -> None:
        times = [3_600 - 1e-6, 3_600]
        await store.write([Feed().batch(Trade.type, [trade(n, ingested_at=time) for n, time in enumerate(times)])])
        assert await store.counts() == {("trade", "test", START_US): 1, ("trade", "test", START_US + HOUR_US): 1}
        assert await store.counts(START + HOUR) == {("trade", "test", START_US + HOUR_US): 1}
        assert await store.counts(None, START + HOUR) == {("trade", "test", START_US): 1}

    async def test_versions_of_frames(self, store: Store) -> None:
        feed = Feed()
        await store.write([feed.batch(Trade.type, [trade(n) for n in range(1, 8)])])
        await store.write([feed.batch(Trade.type, [trade(3, price="5", frame=12), trade(9, source="b", frame=13)])])
        await store.write([Feed(OTHER).batch(Trade.type, [trade(20, frame=4)])])
        asked = await store.of_frames(Trade.type, Stretch(feed.journal, "test", 2, 12))
        assert found(asked) == [(3, "3"), (4, "4"), (5, "5"), (6, "6"), (7, "7"), (12, "3")]
        assert asked.schema == {**Trade.type.schema, JOURNAL: pl.String(), REVISION: pl.Boolean()}
        assert asked[JOURNAL].unique().to_list() == [feed.journal]
        assert asked.filter(REVISION)["frame"].to_list() == [12]
        stored = await everything(store, Trade.type, revisions="all", where={"source": ["test"]})
        ours = asked.filter(pl.col("frame") > 4).select(*Trade.type.schema).sort("frame")
        assert ours.equals(stored.filter(pl.col("frame") > 4, pl.col("trade_id") != "20").sort("frame"))
        assert found(await store.of_frames(Trade.type, Stretch(OTHER, "test", 0, 9))) == [(4, "20")]
        assert (await store.of_frames(Trade.type, Stretch("unknown", "test", 0, 99))).is_empty()

    async def test_versions_of_keys(self, store: Store) -> None:
        feed = Feed()
        await store.write([feed.batch(Kline.type, [bar(0), bar(1), bar(2)])])
        again = [bar(1, close="3", frame=20, ingested_at=400), bar(1, close="1", frame=21, ingested_at=401)]
        await store.write([feed.batch(Kline.type, again)])
        keys = rows(Kline.type, [bar(1), bar(1), bar(7)])
        versions = (await store.versions(Kline.type, keys)).sort("frame")
        assert versions["frame"].to_list() == [2, 20, 21]
        assert versions[REVISION].to_list() == [False, True, True]
        assert versions[JOURNAL].unique().to_list() == [feed.journal]
        near = await store.versions(Kline.type, keys, at(60), at(61))
        assert near.sort("frame").equals(versions)
        assert (await store.versions(Kline.type, keys, at(61), at(90))).is_empty()
        assert (await store.versions(Kline.type, keys.clear())).is_empty()

    async def test_strays_of_an_hour(self, store: Store) -> None:
        feed = Feed()
        await store.write([feed.batch(Trade.type, [trade(n) for n in range(1, 9)])])
        await store.write([feed.batch(Trade.type, [trade(11, ingested_at=3_700), trade(12, source="b", frame=2)])])
        await store.write([Feed(OTHER).batch(Trade.type, [trade(20, frame=4)])])
        known = [Stretch(feed.journal, "test", 0, 3), Stretch(feed.journal, "test", 5, 8)]
        strays = await store.strays(Trade.type, "test", START, known, 100)
        assert found(strays) == [(4, "20"), (4, "4"), (5, "5")]
        assert dict(strays.select("trade_id", JOURNAL).iter_rows())["20"] == OTHER
        assert (await store.strays(Trade.type, "test", START, known, 2)).height == 2
        assert found(await store.strays(Trade.type, "test", START + HOUR, known, 100)) == [(11, "11")]
        assert (await store.strays(Trade.type, "test", START, [], 100)).height == 9
