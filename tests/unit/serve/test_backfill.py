"""How far the loading of history is, over HTTP."""

from __future__ import annotations

from typing import Any

from unit.serve.harness import serving

ROW = {"source": "binance", "collector": "kline", "instrument": "BTC-USDT.BINANCE", "series": "1m", "state": "loading"}


async def test_the_series_of_all_sources() -> None:
    sources: list[dict[str, Any]] = [
        {"name": "binance", "backfill": [ROW, {**ROW, "state": "done", "series": "1h"}]},
        {"name": "other"},
        {"name": "third", "backfill": []},
    ]
    async with serving(sources=lambda: sources) as served:
        answer = await served.http.get("/v1/backfill")
        refused = await served.http.get("/v1/backfill", params={"source": "binance"})
    assert (answer.status_code, answer.json()) == (200, {"data": sources[0]["backfill"]})
    assert (refused.status_code, refused.json()["code"]) == (400, "unknown_parameter")


async def test_nothing_is_loaded() -> None:
    async with serving(sources=list) as served:
        assert (await served.http.get("/v1/backfill")).json() == {"data": []}
