"""What every store must answer."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance.store_kit import Feed, Naive, at, bar, bars_by_hand, everything, pages, quote, rows, trade
from tidewire.errors import QueryError
from tidewire.records.market import Kline, OrderBook, Quote, Trade
from tidewire.records.record import MarketRecord, RecordType, forget
from tidewire.records.roles import Coin, Ratio, Sequence
from tidewire.store.protocol import Query, Store


class ReadConformance:
    """Reading; part of `StoreConformance`."""

    examples = 15
    """How many random histories are tried."""

    # Ranges, filters, order

    async def test_rows_come_back_exactly(self, store: Store) -> None:
        specs = [
            trade(1, price="61837.123456789012", size="0.00000001", side=None),
            trade(2, price="99999999999999999999999999.999999999999", size="1", sequence=None),
            trade(3, price="0.000000000001", size="123456789012345678901234567890.12345678"),
        ]
        sent = rows(Trade.type, specs)
        await store.write([Feed().batch(Trade.type, sent)])
        found = await everything(store, Trade.type)
        assert found.equals(sent)
        assert found.schema == Trade.type.schema

    async def test_lists_come_back_exactly(self, store: Store) -> None:
        spec = {"sequence": 1, "depth": 5, "bid_prices": ["1.5", "1.4"], "bid_sizes": ["1", "2"], "ask_prices": []}
        sent = rows(OrderBook.type, [{**spec, "ask_sizes": [], "frame": 1}])
        await store.write([Feed().batch(OrderBook.type, sent)])
        found = await everything(store, OrderBook.type)
        assert found.equals(sent)
        assert found.schema == OrderBook.type.schema

    async def test_an_empty_answer_has_the_shape(self, store: Store) -> None:
        found = await store.read(Query(Trade.type))
        assert found.rows.schema == Trade.type.schema
        assert found.next is None
        assert (await store.read(Query(Trade.type, fields=["price"]))).rows.columns == ["price"]

    async def test_a_range_is_half_open(self, store: Store) -> None:
        await store.write([Feed().batch(Trade.type, [trade(n) for n in range(10)])])
        found = await everything(store, Trade.type, start=at(3), end=at(6))
        assert found["sequence"].to_list() == [3, 4, 5]

    async def test_the_preferred_source_of_each_fact(self, store: Store) -> None:
        said = [("a", 1, "1"), ("b", 1, "2"), ("c", 2, "3"), ("b", 2, "4"), ("c", 3, "5"), ("a", 4, "6")]
        specs = [trade(n, source=source, price=price, frame=at) for at, (source, n, price) in enumerate(said, 1)]
        await store.write([Feed().batch(Trade.type, specs)])
        found = await everything(store, Trade.type, prefer=["b", "a"])
        assert list(zip(found["source"], found["trade_id"], strict=True)) == [
            ("b", "1"), ("b", "2"), ("c", "3"), ("a", "4"),
        ]  # fmt: skip
        paged = await pages(store, Query(Trade.type, prefer=["b", "a"], limit=1, snapshot=at(10_000)))
        assert [page.rows["source"][0] for page in paged] == ["b", "b", "c", "a"]
        for query in (Query(Trade.type, prefer=["b"], interval="1m"), Query(Trade.type, prefer=["b"], revisions="all")):
            with pytest.raises(QueryError, match="prefer"):
                await store.read(query)

    async def test_order_and_fields(self, store: Store) -> None:
        # Two rows of one event time: the frame decides, then the ordinal.
        specs = [trade(3), trade(1, event_time=3, frame=2), trade(2, event_time=3, frame=2)]
        await store.write([Feed().batch(Trade.type, specs)])
        found = await everything(store, Trade.type, fields=["trade_id", "frame"])
        assert found.rows() == [("1", 2), ("2", 2), ("3", 3)]
        back = await everything(store, Trade.type, fields=["trade_id"], order="desc")
        assert back["trade_id"].to_list() == ["3", "2", "1"]

    @pytest.mark.parametrize(
        ("where", "expected"),
        [
            ({"instrument": ["BTC-USDT.A"]}, [0]),
            ({"instrument": ["BTC-USDT.A", "ETH_USDT.B"]}, [0, 2]),
            ({"instrument": ["BTC-USDT.*"]}, [0, 1]),
            ({"instrument": ["*.B", "BTC-USDT.A"]}, [0, 1, 2]),
            ({"instrument": ["ETH_*"]}, [2]),
            ({"instrument": ["B%"]}, []),
            ({"instrument": ["ETH_USDT_*"]}, []),
            ({"instrument": ["*"], "side": ["sell"]}, [1, 2]),
            ({"sequence": ["2", "3"]}, [2, 3]),
            ({"price": ["100.0", "7"]}, [0, 1, 2]),
            ({"event_time": ["2026-01-05T08:00:01Z"]}, [1]),
            ({"source": ["'; DROP TABLE trade_v1; --"]}, []),
        ],
    )
    async def test_filters(self, store: Store, where: dict[str, list[str]], expected: list[int]) -> None:
        names = ["BTC-USDT.A", "BTC-USDT.B", "ETH_USDT.B", "ETHxUSDT.C"]
        sides = ["buy", "sell", "sell", None]
        prices = ["100", "100", "100", "100.000000000001"]
        specs = [trade(n, instrument=names[n], side=sides[n], price=prices[n]) for n in range(4)]
        await store.write([Feed().batch(Trade.type, specs)])
        assert (await everything(store, Trade.type, where=where))["sequence"].to_list() == expected

    @pytest.mark.parametrize(
        ("query", "words"),
        [
            ({"where": {"prise": ["1"]}}, "'price'"),
            ({"where": {"price": ["cheap"]}}, "decimal"),
            ({"where": {"price": ["1.0000000000001"]}}, "price"),
            ({"where": {"sequence": ["1.5"]}}, "whole"),
            ({"where": {"source": []}}, "names no value"),
            ({"fields": ["sise"]}, "'size'"),
            ({"limit": 0}, "limit"),
            ({"after": (1, 2)}, "first page"),
            ({"start": datetime(2026, 1, 1)}, "time zone"),  # noqa: DTZ001
            ({"interval": "7m"}, "Valid: 1s"),
            ({"interval": "1M"}, "Valid: 1s"),
            ({"interval": "1m", "where": {"side": ["buy"]}}, "whole series"),
        ],
    )
    async def test_what_cannot_be_answered_is_told(self, store: Store, query: dict[str, Any], words: str) -> None:
        with pytest.raises(QueryError, match=words):
            await store.read(Query(Trade.type, **query))

    # Pages

    @pytest.mark.parametrize("order", ["asc", "desc"])
    @pytest.mark.parametrize("interval", [None, "1m"])
    async def test_pages_show_each_row_once(self, store: Store, order: Any, interval: str | None) -> None:
        feed = Feed()
        # Many rows and many series share an event time.
        specs = [
            trade(n, event_time=n // 7 * 20, frame=n // 3, instrument=f"I{n % 5}.A", ordinal=n % 3) for n in range(80)
        ]
        await store.write([feed.batch(Trade.type, specs, until=3_000)])
        query = Query(Trade.type, order=order, limit=9, interval=interval)
        whole = (await store.read(Query(Trade.type, order=order, limit=500, interval=interval))).rows
        found = [await store.read(query)]
        while found[-1].next is not None:
            late = [trade(1_000 + len(found), event_time=len(found), frame=900 + len(found), ingested_at=4_000)]
            await store.write([feed.batch(Trade.type, late, until=4_001)])
            found.append(
                await store.read(
                    Query(
                        Trade.type,
                        order=order,
                        limit=9,
                        interval=interval,
                        after=found[-1].next,
                        snapshot=found[0].snapshot,
                    )
                )
            )
        assert pl.concat([page.rows for page in found]).equals(whole)
        assert {page.rows.height for page in found[:-1]} == {9}
        assert whole.height > 40 or interval

    @pytest.mark.parametrize("order", ["asc", "desc"])
    async def test_bars_of_one_start_fill_several_pages(self, store: Store, order: Any) -> None:
        specs = [trade(n, instrument=f"I{n % 7}.A", event_time=n // 14 * 60) for n in range(28)]
        await store.write([Feed().batch(Trade.type, specs, until=900)])
        found = await pages(store, Query(Trade.type, interval="1m", order=order, limit=2))
        bars = [(row["open_time"], row["instrument"]) for page in found for row in page.rows.to_dicts()]
        assert bars == sorted(bars, reverse=order == "desc")
        assert len(set(bars)) == len(bars) == 14

    async def test_a_full_last_page_has_no_next(self, store: Store) -> None:
        await store.write([Feed().batch(Trade.type, [trade(n) for n in range(4)], until=90)])
        found = await pages(store, Query(Trade.type, limit=2))
        assert [page.rows.height for page in found] == [2, 2]

    async def test_rows_of_the_same_place_are_not_lost_between_pages(self, store: Store) -> None:
        specs = [trade(n, event_time=1, frame=1, ordinal=0) for n in range(7)]
        await store.write([Feed().batch(Trade.type, specs, until=90)])
        found = await pages(store, Query(Trade.type, limit=3))
        assert sorted(pl.concat([page.rows for page in found])["sequence"].to_list()) == list(range(7))

    # Two clocks

    async def test_a_read_ends_at_the_watermark(self, store: Store) -> None:
        feed, slow = Feed(), Feed(lane=1)
        await store.write([feed.batch(Trade.type, [trade(n) for n in range(10)]), slow.mark(Trade.type, until=5)])
        found = await store.read(Query(Trade.type))
        assert found.snapshot == found.watermark == at(5 - 1e-6)
        assert found.rows["sequence"].to_list() == [0, 1, 2, 3, 4]
        early = await store.read(Query(Trade.type, snapshot=at(2.5)))
        assert (early.rows["sequence"].to_list(), early.snapshot) == ([0, 1, 2], at(2.5))

    async def test_as_of_shows_what_was_public(self, store: Store) -> None:
        feed = Feed()
        await store.write([feed.batch(Kline.type, [bar(0), bar(1)])])
        later = bar(0, close="3", public_at=500, ingested_at=500, frame=11)
        await store.write([feed.batch(Kline.type, [later])])
        for as_of, closes in [(59, []), (60, [2]), (120, [2, 2]), (499, [2, 2]), (500, [3, 2])]:
            found = await everything(store, Kline.type, as_of=at(as_of))
            assert found["close"].cast(pl.Int64).to_list() == closes, as_of

    async def test_a_revision_replaces_its_row_in_filters_and_order(self, store: Store) -> None:
        feed = Feed()
        await store.write([feed.batch(Trade.type, [trade(1), trade(2), trade(3)])])
        await store.write([feed.batch(Trade.type, [trade(1, event_time=2.5, side="sell", frame=12, ingested_at=20)])])
        assert (await everything(store, Trade.type))["sequence"].to_list() == [2, 1, 3]
        assert (await everything(store, Trade.type, where={"side": ["buy"]}))["sequence"].to_list() == [2, 3]
        assert (await everything(store, Trade.type, end=at(2)))["sequence"].to_list() == []
        assert (await everything(store, Trade.type, end=at(2), snapshot=at(19)))["sequence"].to_list() == [1]
        assert (await everything(store, Trade.type, start=at(2.2), end=at(2.9)))["sequence"].to_list() == [1]

    def test_any_history_in_any_pieces(self, fresh: Any) -> None:
        @settings(max_examples=self.examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(history=_histories(), cuts=st.lists(st.integers(0, 25), max_size=6).map(sorted))
        def check(history: tuple[RecordType, list[dict[str, Any]]], cuts: list[int]) -> None:
            asyncio.run(_follow(fresh, *history, cuts))

        check()

    # Latest, marks

    async def test_latest_is_the_last_row_of_each_series(self, store: Store) -> None:
        specs = [trade(n, instrument=f"I{n % 3}.A") for n in range(9)] + [trade(20, instrument="I0.A", event_time=1)]
        await store.write([Feed().batch(Trade.type, specs, until=90)])
        found = await store.latest(Query(Trade.type))
        assert found.rows["sequence"].to_list() == [6, 7, 8]
        assert found.rows.schema == Trade.type.schema
        one = await store.latest(Query(Trade.type, where={"instrument": ["I1.*"]}))
        assert one.rows["sequence"].to_list() == [7]
        then = await store.latest(Query(Trade.type, as_of=at(4), order="desc"))
        assert then.rows["sequence"].to_list() == [4, 3, 2]
        first = await store.latest(Query(Trade.type, limit=2))
        second = await store.latest(Query(Trade.type, limit=2, after=first.next))
        assert pl.concat([first.rows, second.rows]).equals(found.rows)

    async def test_latest_shows_the_revision(self, store: Store) -> None:
        feed = Feed()
        await store.write([feed.batch(Kline.type, [bar(0), bar(1)])])
        await store.write([feed.batch(Kline.type, [bar(1, close="3", frame=11, ingested_at=200)], until=300)])
        found = (await store.latest(Query(Kline.type))).rows
        assert found["close"].cast(pl.Int64).to_list() == [3]

    async def test_marks_tell_how_far_each_series_is(self, store: Store) -> None:
        specs = [trade(5, instrument="A.X"), trade(9, instrument="A.X", event_time=2), trade(3, instrument="B.X")]
        await store.write([Feed().batch(Trade.type, [*specs, trade(4, instrument="C.X", sequence=None)])])
        found = await store.marks(Trade.type)
        assert found.columns == ["source", "instrument", "order", "event_time"]
        assert found.rows() == [("test", "A.X", 9, at(2)), ("test", "B.X", 3, at(3))]
        assert (await store.marks(Kline.type)).schema["order"] == Kline.type.schema["open_time"]

    # Bars

    async def test_bars_are_those_of_the_trades(self, store: Store) -> None:
        feed = Feed()
        specs = [
            trade(
                n,
                event_time=n * 7.3 + (200 if n > 40 else 0),
                instrument=f"I{n % 2}.A",
                price=f"{100 + n * 37 % 11}.{n:012d}",
                size=f"0.{n * 7919 % 100_000_000:08d}",
                side=["buy", "sell"][n % 3 == 0],
            )
            for n in range(1, 80)
        ]
        for piece in range(0, 79, 13):
            await store.write([feed.batch(Trade.type, specs[piece : piece + 13], until=5_000)])
        found = (await store.read(Query(Trade.type, interval="1m", limit=10_000))).rows
        trades = (await everything(store, Trade.type)).to_dicts()
        expected = bars_by_hand(trades, 60)
        assert found.schema == Kline.type.schema
        assert found.height == len(expected)
        for row in found.to_dicts():
            by_hand = expected[row["instrument"], row["open_time"]]
            by_hand |= {name: round(by_hand[name], 8) for name in ("amount", "buy_amount")}  # half to even
            assert {name: row[name] for name in by_hand} == by_hand
            assert row["close_time"] - row["open_time"] == timedelta(minutes=1)
            assert row["public_at"] == row["close_time"]
            assert (row["interval"], row["event_time"], row["final"]) == ("1m", row["open_time"], True)
        long = (await store.read(Query(Trade.type, interval="5m", limit=10_000))).rows
        assert sum(long["trades"]) == 79
        assert sum(long["volume"], Decimal(0)) == sum((row["size"] for row in trades), Decimal(0))

    async def test_bars_are_never_cut_by_the_range(self, store: Store) -> None:
        await store.write([Feed().batch(Trade.type, [trade(n, event_time=n * 10) for n in range(24)], until=235)])
        found = (await store.read(Query(Trade.type, interval="1m", start=at(30), end=at(150)))).rows
        assert found["trades"].to_list() == [6, 6]
        assert found["open_time"].to_list() == [at(60), at(120)]
        whole = (await store.read(Query(Trade.type, interval="1m"))).rows
        assert whole["final"].to_list() == [True, True, True, False]
        known = (await store.read(Query(Trade.type, interval="1m", as_of=at(120)))).rows
        assert known["open_time"].to_list() == [at(0), at(60)]

    async def test_longer_bars_from_bars(self, store: Store) -> None:
        feed = Feed()
        bars = [bar(n, open=f"{n + 1}", high=f"{n + 9}", low=f"0.{n + 1}", trades=n) for n in range(12)]
        bars[7]["volume"] = None
        bars.append(bar(0, interval="5m", close_time=300, high="5000"))
        await store.write([feed.batch(Kline.type, bars, until=5_000)])
        query = Query(
            Kline.type, where={"interval": ["1m"]}, interval="5m", fields=["open", "high", "low", "volume", "trades"]
        )
        found = (await store.read(query)).rows
        assert found["open"].cast(pl.Int64).to_list() == [1, 6, 11]
        assert found["high"].cast(pl.Int64).to_list() == [13, 18, 20]
        assert found["volume"].cast(pl.Int64).to_list() == [50, None, 20]
        assert found["trades"].to_list() == [10, 35, 21]
        with pytest.raises(QueryError, match="one interval"):
            await store.read(Query(Kline.type, interval="5m"))
        with pytest.raises(QueryError, match="do not add up"):
            await store.read(Query(Kline.type, where={"interval": ["3m"]}, interval="5m"))

    # Types, concurrency

    async def test_a_new_record_type_appears_by_itself(self, store: Store) -> None:
        class Burn(MarketRecord, order="height"):
            """Coins destroyed."""

            height = Sequence("Block.", key=True)
            coins = Coin("How many.", unit="coin", nullable=True)
            share = Ratio("Of all.", nullable=True)

        try:
            assert (await store.read(Query(Burn.type))).rows.is_empty()
            specs = [
                {"height": 1, "coins": "0.000000000000000001", "share": 0.1, "frame": 1},
                {"height": 2, "frame": 2},
            ]
            sent = rows(Burn.type, specs)
            feed = Feed()
            await store.write([feed.batch(Burn.type, sent)])
            (again,) = await store.write([feed.batch(Burn.type, sent)])
            assert again.duplicates == 2
            assert (await everything(store, Burn.type)).equals(sent)
            assert sum(n for (kind, *_), n in (await store.counts()).items() if kind == "burn") == 2
        finally:
            forget("burn")

    async def test_reads_while_writing_see_whole_commits(self, store: Store) -> None:
        feed = Feed()
        done = asyncio.Event()
        seen: list[int] = []

        async def reader() -> None:
            while not done.is_set():
                found = await store.read(Query(Trade.type, limit=10_000, snapshot=at(1_000_000)))
                quotes = await store.read(Query(Quote.type, limit=10_000, snapshot=at(1_000_000)))
                assert found.rows.height % 50 == 0
                assert quotes.rows.height >= found.rows.height  # read later, committed together
                seen.append(found.rows.height)

        readers = [asyncio.create_task(reader()) for _ in range(3)]
        for piece in range(12):
            numbers = range(piece * 50, piece * 50 + 50)
            both = [
                feed.batch(Trade.type, [trade(n) for n in numbers]),
                feed.batch(Quote.type, [quote(n) for n in numbers]),
            ]
            await store.write(both)
        done.set()
        await asyncio.gather(*readers)
        assert seen == sorted(seen) or len(set(seen)) > 1
        assert (await everything(store, Trade.type)).height == 600


@st.composite
def _histories(draw: st.DrawFn) -> tuple[RecordType, list[dict[str, Any]]]:
    """Rows of few keys and few payloads, so that they often meet."""
    kind = draw(st.sampled_from([Trade.type, Quote.type]))
    specs: list[dict[str, Any]] = []
    for frame in range(1, draw(st.integers(1, 25)) + 1):
        number = draw(st.integers(1, 6))
        spec: dict[str, Any] = {
            "frame": frame,
            "ordinal": 0,
            "ingested_at": 10 + frame,
            "instrument": f"I{number % 2}.A",
        }
        spec["event_time"] = number + draw(st.sampled_from([0, 0, 0.25]))
        if kind is Quote.type:
            spec |= {"sequence": number, "bid_size": draw(st.sampled_from(["1", "2", None]))}
            if draw(st.booleans()):
                spec["event_time"] = spec["ingested_at"]
        else:
            spec |= {"trade_id": str(number), "sequence": number if number != 3 else None}
            spec["price"] = draw(st.sampled_from(["1", "1.5"]))
        spec["public_at"] = spec["event_time"] + draw(st.sampled_from([0, 3]))
        specs.append(spec)
    return kind, specs


async def _follow(make: Any, kind: RecordType, specs: list[dict[str, Any]], cuts: list[int]) -> None:
    """Write the rows cut into batches; every answer ever given at a watermark must stay as it was."""
    naive = Naive(kind)
    feed = Feed(journal=f"j{id(naive)}")
    answers: list[tuple[dict[str, Any], pl.DataFrame]] = []
    async with _opened(make) as store:
        for low, high in zip([0, *cuts], [*cuts, len(specs)], strict=True):
            high = min(high, len(specs))
            if low < high:
                frame = rows(kind, specs[low:high])
                await store.write([feed.batch(kind, frame, frames=high - low)])
                naive.take(frame)
            asked = {"snapshot": store.watermark(kind), "as_of": at(high % 9)}
            for more in ({"snapshot": asked["snapshot"]}, asked):
                answers += [(more, await everything(store, kind, **more))]
        for more, answer in answers:
            now = await everything(store, kind, **more)
            assert now.equals(answer)
            assert now.to_dicts() == naive.visible(**more)
        fates = {fate.fate: n for (_, fate), n in (await store.fates()).items()}
        assert fates.get("duplicate", 0) == naive.outcomes["duplicate"]
        assert fates.get("stored", 0) == naive.outcomes["new"] + naive.outcomes["revision"]
        assert (await everything(store, kind, revisions="all")).height == fates.get("stored", 0)
        assert sum((await store.counts()).values()) == fates.get("stored", 0)


class _opened:  # noqa: N801
    def __init__(self, make: Any) -> None:
        self.store: Store = make()

    async def __aenter__(self) -> Store:
        await self.store.open()
        return self.store

    async def __aexit__(self, *_: object) -> None:
        await self.store.close()
