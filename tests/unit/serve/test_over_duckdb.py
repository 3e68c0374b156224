"""The API over the real store and the real cache."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from tidewire.records import MarketRecord, market, ops
from tidewire.records.batch import Batch, Lineage, fates_of
from tidewire.records.record import forget
from tidewire.records.roles import Size
from tidewire.store.cache import LatestCache
from tidewire.store.duckdb import DuckDBStore
from tidewire.store.protocol import Query
from unit.serve.harness import BTC, ETH, Served, kline, moment, rows_of, serving, trades

TRADE, KLINE = market.Trade.type, market.Kline.type


@dataclass
class Stored:
    """A gateway over a store in memory."""

    served: Served
    store: DuckDBStore
    cache: LatestCache
    writes: int = 0

    async def write(self, kind: Any, rows: pl.DataFrame, **parts: Any) -> None:
        """One batch, each on a lane of its own."""
        self.writes += 1
        lineage = Lineage("j", self.writes, 0, 1_000, 1_800_000_000_000_000, "t")
        batch = Batch(kind, rows, lineage, fates=fates_of(rows, "received"), **parts)
        await self.store.write([batch])
        self.cache.update(batch)

    async def get(self, path: str) -> Any:
        answer = await self.served.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()


@asynccontextmanager
async def stored() -> AsyncIterator[Stored]:
    store, cache = DuckDBStore(":memory:"), LatestCache()
    await store.open()
    try:
        async with serving(store=store, cache=cache) as served:
            yield Stored(served, store, cache)
    finally:
        await store.close()


async def test_every_format_has_every_row() -> None:
    async with stored() as db:
        await db.write(TRADE, trades(50))
        expected = (await db.store.read(Query(TRADE))).rows
        assert expected.height == 50
        arrow = (await db.served.http.get("/v1/trade?format=arrow")).content
        assert_frame_equal(_frame(pa.ipc.open_stream(arrow).read_all()), expected)
        parquet = (await db.served.http.get("/v1/trade?format=parquet")).content
        assert_frame_equal(_frame(pq.read_table(io.BytesIO(parquet))), expected)
        ids = expected["trade_id"].to_list()
        assert [row["trade_id"] for row in (await db.get("/v1/trade"))["data"]] == ids
        ndjson = (await db.served.http.get("/v1/trade?format=ndjson")).text
        assert len(ndjson.splitlines()) == 50
        csv = (await db.served.http.get("/v1/trade?format=csv")).content
        assert pl.read_csv(csv, infer_schema=False)["trade_id"].to_list() == ids


def _frame(table: pa.Table) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(table.replace_schema_metadata(None)))


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_hold_still_while_rows_arrive(order: str) -> None:
    async with stored() as db:
        await db.write(TRADE, trades(20))
        url: str | None = f"/v1/trade?limit=7&order={order}&symbol=BTC/USDT"
        seen: list[str] = []
        while url:
            body = await db.get(url)
            seen += [row["trade_id"] for row in body["data"]]
            cursor = body["meta"]["next_cursor"]
            url = f"/v1/trade?limit=7&order={order}&symbol={BTC}&cursor={cursor}" if cursor else None
            late = trades(1).with_columns(
                trade_id=pl.lit(f"late{len(seen)}"),
                sequence=pl.lit(len(seen), pl.Int64),
                ingested_at=pl.lit(moment(10**9)).cast(pl.Datetime("us", "UTC")),
            )
            await db.write(TRADE, late.select(TRADE.schema.names()))
        assert seen == sorted((str(1000 + n) for n in range(20)), reverse=order == "desc")


async def test_filters_and_times() -> None:
    async with stored() as db:
        await db.write(TRADE, trades(10))
        for query, count in (
            ("side=buy", 5),
            ("symbol=ETHUSDT", 0),
            ("symbol=BTC*", 10),
            ("trade_id=1001,1002", 2),
            ("start=2026-01-05T00:00:03Z&end=2026-01-05T00:00:05Z", 2),
            ("as_of=2026-01-05T00:00:03Z", 4),
            ("snapshot=2026-01-05T00:00:03Z", 3),
            ("revisions=all", 10),
            ("prefer=other,binance", 10),
        ):
            assert len((await db.get(f"/v1/trade?{query}"))["data"]) == count, query


async def test_the_latest_of_several_sources_is_the_newest_and_then_the_preferred() -> None:
    async with stored() as db:
        here = trades(2)
        there = here.with_columns(source=pl.lit("other"))
        await db.write(TRADE, pl.concat([here, there]).with_columns(ordinal=pl.int_range(4, dtype=pl.Int32)))
        for prefer, source in (("other", "other"), ("binance,other", "binance"), ("none", "binance")):
            (row,) = (await db.get(f"/v1/trade/latest?symbol=BTCUSDT&prefer={prefer}"))["data"]
            assert (row["source"], row["trade_id"]) == (source, "1001")
        await db.write(TRADE, trades(3).tail(1).with_columns(frame=pl.lit(900, pl.Int64)))
        (row,) = (await db.get("/v1/trade/latest?symbol=BTCUSDT&prefer=other"))["data"]
        assert (row["source"], row["trade_id"]) == ("binance", "1002")


async def test_bars_from_trades_and_bars_from_bars() -> None:
    async with stored() as db:
        await db.write(TRADE, trades(120))
        bars = (await db.get("/v1/trade?symbol=BTCUSDT&resample=1m&fields=open_time,open,close,trades"))["data"]
        assert [(bar["open"], bar["close"], bar["trades"]) for bar in bars] == [
            ("61837.63", "61896.63", 60),
            ("61897.63", "61956.63", 60),
        ]
        page = await db.get("/v1/trade?resample=1m&limit=1")
        assert page["meta"]["next_cursor"]
        await db.write(KLINE, rows_of(KLINE, [kline(n, final=True, open=Decimal(n + 1)) for n in range(10)]))
        longer = (await db.get("/v1/kline?interval=1m&resample=5m"))["data"]
        assert [(bar["interval"], bar["close"]) for bar in longer] == [("5m", "104"), ("5m", "109")]


async def test_latest_has_forming_bars_and_what_the_cache_forgot() -> None:
    async with stored() as db:
        await db.write(KLINE, rows_of(KLINE, [kline(0, final=True, instrument=ETH)]))
        db.served.gateway.application.platform.cache._types.clear()  # as after a restart
        forming = rows_of(KLINE, [kline(1, final=False)])
        await db.write(KLINE, rows_of(KLINE, [kline(0, final=True)]), forming=forming)
        rows = (await db.get("/v1/kline/latest"))["data"]
        assert [(row["instrument"], row["final"]) for row in rows] == [(BTC, False), (ETH, True)]
        assert len((await db.get("/v1/kline/latest?limit=1"))["data"]) == 1
        assert [row["final"] for row in (await db.get("/v1/kline/latest?snapshot=2027-01-01"))["data"]] == [True, True]


async def test_gaps_and_quarantine() -> None:
    gap = {"record_type": "trade", "gap_id": "1", "cause": "grid", "state": "open", "until_time": moment(60)}
    bad = {"journal": "j1", "record_type": "trade", "row": 0, "reasons": '{"price|min": "-1"}', "state": "open"}
    async with stored() as db:
        gaps, rejected = rows_of(ops.Gap.type, [gap]), rows_of(ops.Quarantined.type, [bad])
        await db.write(TRADE, trades(2), gaps=gaps, rejected=rejected)
        assert len((await db.get("/v1/gaps?state=open&type=trade&source=binance"))["data"]) == 1
        assert len((await db.get("/v1/gaps?state=filled"))["data"]) == 0
        assert (await db.get("/v1/quarantine?type=trade"))["data"][0]["reasons"] == '{"price|min": "-1"}'
        assert len((await db.get("/v1/quarantine?row=0&frame=1"))["data"]) == 1
        assert [hole["cause"] for hole in (await db.get("/v1/trade"))["meta"]["gaps"]] == ["grid"]


async def test_every_type_answers_even_when_it_is_empty_or_new() -> None:
    class RainFall(MarketRecord):
        """How much rain fell."""

        depth = Size("Depth of the water.", unit="mm")

    try:
        async with stored() as db:
            for name in [kind["name"] for kind in (await db.get("/v1/types"))["data"]]:
                assert (await db.get(f"/v1/{name}"))["data"] == []
                assert (await db.get(f"/v1/{name}/latest"))["data"] == []
            await db.write(RainFall.type, rows_of(RainFall.type, [{"depth": Decimal("1.5")}]))
            assert (await db.get("/v1/rain_fall"))["data"][0]["depth"] == "1.5"
            assert (await db.get("/v1/rain_fall/latest"))["data"][0]["depth"] == "1.5"
            wrong = await db.served.http.get("/v1/quarantine?row=x")
            assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid_query")
    finally:
        forget("rain_fall")
