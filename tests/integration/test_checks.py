"""A site whose volumes are in lots from one round to the next: no wrong row is stored, and it is told why."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from integration.kit import api, audited, balanced, idle, loaded, replayed, running, same_rows, served, tables, until

FILE = """
version: 1
source: example.list
emits: ticker@1
schedule: {{every: 300ms, jitter: 0%}}
request: {{get: "{url}/list"}}
select: items
fields:
  instrument: "${{row.code}}.${{row.code | cn_exchange}}"
  last: last | decimal
  open: open | decimal
  high: high | decimal
  low: low | decimal
  pre_close: before | decimal
  volume: volume | decimal
  amount: amount | decimal
  event_time: at | epoch_ms
limits: {{rate: 1000/s, concurrency: 8}}
"""
STOCKS = 30
BEGIN_MS = 1_783_044_809_000  # 2026-07-03 10:13:29 in Shanghai


@dataclass
class Site:
    """A list of stocks, each round traded a little more."""

    url: str = ""
    rounds: int = 0
    lots: bool = False
    odd: bool = False

    async def answer(self, request: web.Request) -> web.Response:
        self.rounds += 1
        rows = [self._row(number) for number in range(STOCKS)]
        if self.odd:
            rows[7]["last"] = "10.005"
        return web.json_response({"items": rows})

    def _row(self, number: int) -> dict[str, Any]:
        volume = 1_000_000 + 100 * self.rounds
        return {
            "code": f"{600_000 + number}",
            "last": "10.00",
            "open": "10.00",
            "high": "10.10",
            "low": "9.95",
            "before": "9.98",
            "volume": volume // 100 if self.lots else volume,
            "amount": f"{volume * 10}.00",
            "at": BEGIN_MS + self.rounds * 1_000,
        }


@asynccontextmanager
async def site() -> AsyncGenerator[Site]:
    here = Site()
    application = web.Application()
    application.router.add_get("/list", here.answer)
    async with served(application) as here.url:
        yield here


async def test_a_unit_that_changes_overnight_is_not_stored(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    configuration = loaded(tmp_path, [], checks={"shown": 5})
    async with site() as here, running(configuration) as platform, api(platform) as client:

        async def rounds(count: int) -> None:
            goal = here.rounds + count
            await until(lambda: here.rounds >= goal, "the site is asked")

        (plugins / "example.list.yaml").write_text(FILE.format(url=here.url), encoding="utf-8")
        await rounds(2)
        here.odd = True
        await rounds(2)
        here.odd, here.lots = False, True
        await rounds(2)

        async def told(rule: str = "unit") -> list[dict[str, Any]]:
            return [one for one in (await client.get("/v1/finding"))["data"] if one["rule"] == rule]

        async def is_told() -> bool:
            return bool(await told())

        await until(is_told, "the wrong unit is told", poll_s=0.1)
        found = await told("tick")
        (plugins / "example.list.yaml").unlink()

        async def gone() -> bool:
            return not (await client.get("/v1/sources"))["data"]

        await until(gone, "the file is gone")
        await idle(platform)
        balanced(await audited(client))
        metrics = (await client.raw("/metrics"))[2].decode()
    stored = tables(tmp_path / "data")
    ticker, quarantined, finding = stored["ticker_v1"], stored["quarantined_v1"], stored["finding_v1"]
    assert found[0]["instrument"] == "600007.SH"
    assert found[0]["observed"].startswith("last 10.005")
    assert ticker["volume"].min() >= 1_000_000  # type: ignore[operator]
    assert quarantined.height % STOCKS == 0
    assert quarantined.height >= STOCKS
    assert quarantined["reasons"].str.contains("unit").all()
    assert set(finding["rule"]) == {"unit", "tick"}
    assert finding.filter(rule="unit").height < quarantined.height
    labels = '{rule="unit",severity="reject",source="example.list",type="ticker"}'
    assert f"tidewire_checks_failed_total{labels} {float(quarantined.height)}" in metrics
    (plugins / "example.list.yaml").write_text(FILE.format(url=here.url), encoding="utf-8")
    checks = configuration.config.check_config()
    same_rows(stored, await replayed(tmp_path / "data", tmp_path / "again", configuration, checks=checks), "replay")
