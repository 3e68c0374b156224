"""Listings and trading days through the whole product: what a code was called, which days are open, recodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from integration.kit import api, audited, balanced, idle, loaded, replayed, running, same_rows, served, tables, until

FILES = {
    "example.listing": """
version: 1
source: example.listing
emits: instrument@1
schedule: {{every: 200ms, jitter: 0%}}
request: {{get: "{url}/listing"}}
fields:
  instrument: code | suffix('.BJ')
  uid: code | suffix('.BJ') | uid
  native: code
  kind: = stock
  board: = bse
  name: name
  status: = trading
  listed_on: listed | time('%Y%m%d') | date('%Y-%m-%d')
limits: {{rate: 1000/s}}
""",
    "example.days": """
version: 1
source: example.days
emits: trading_day@1
schedule: {{every: 200ms, jitter: 0%}}
for_each: {{month: ["${{now | date('%Y-%m')}}"]}}
request: {{get: "{url}/days", params: {{month: "${{month}}"}}}}
fields:
  exchange: = XSHE
  day: day
  session: open | map('1=true', '0=false')
limits: {{rate: 1000/s}}
""",
}


@dataclass
class Site:
    """An exchange that renames a stock, and changes its mind about a day."""

    url: str = ""
    name: str = "诺思兰德"
    open: str = "1"
    asked: int = 0

    async def listing(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response([{"code": "920047", "name": self.name, "listed": "20201124"}])

    async def days(self, request: web.Request) -> web.Response:
        assert len(request.query["month"]) == len("2026-10")
        days = [("2026-10-08", self.open), ("2026-10-09", "1"), ("8.10.2026", "1")]
        return web.json_response([{"day": day, "open": session} for day, session in days])


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    here = Site()
    application = web.Application()
    application.router.add_get("/listing", here.listing)
    application.router.add_get("/days", here.days)
    async with served(application) as here.url:
        yield here


async def test_names_and_days_through_time(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    configuration = loaded(tmp_path, [])
    async with site() as here:
        for name, text in FILES.items():
            (plugins / f"{name}.yaml").write_text(text.format(url=here.url), encoding="utf-8")
        async with running(configuration) as platform, api(platform) as client:

            async def named(name: str) -> bool:
                rows = (await client.get("/v1/instrument", symbol="920047.BJ"))["data"]
                return [row["name"] for row in rows] == [name]

            async def session(*, is_open: bool) -> bool:
                rows = (await client.get("/v1/trading_day", day="2026-10-08", exchange="XSHE"))["data"]
                return [row["session"] for row in rows] == [is_open]

            await until(lambda: named("诺思兰德"), "the first name", poll_s=0.1)
            await until(lambda: session(is_open=True), "the day as it was planned", poll_s=0.1)
            asked = here.asked
            await until(lambda: here.asked > asked + 1, "the same answer again")
            here.name, here.open = "ST诺思", "0"
            await until(lambda: named("ST诺思"), "the second name", poll_s=0.1)
            await until(lambda: session(is_open=False), "the day as it became", poll_s=0.1)
            versions = (await client.get("/v1/instrument", symbol="920047.BJ", revisions="all"))["data"]
            assert [row["name"] for row in versions] == ["诺思兰德", "ST诺思"]
            before = versions[0]["public_at"]
            (row,) = (await client.get("/v1/instrument", symbol="920047.BJ", as_of=before))["data"]
            assert (row["name"], row["listed_on"], row["board"]) == ("诺思兰德", "2020-11-24", "bse")
            # By the code it had until 2025-10-09, however that is spelled.
            for spelling in ("430047", "bj430047", "430047.XBSE"):
                (row,) = (await client.get("/v1/instrument", symbol=spelling))["data"]
                assert row["instrument"] == "920047.BJ"
            status, _, body = await client.raw("/v1/trading_day", day="8.10.2026")
            assert (status, b"is not a day; write it as 2026-01-05" in body) == (400, True)
            for form in ("csv", "arrow", "parquet"):
                status, _, body = await client.raw("/v1/trading_day", day="2026-10-08", format=form)
                assert (status, b"2026-10-08" in body or form != "csv") == (200, True)
            wrong = (await client.get("/v1/quarantine", limit="1"))["data"]
            assert wrong[0]["record_type"] == "trading_day"
            assert "not_exact" in str(wrong[0]["reasons"])
            await idle(platform)
            balanced(await audited(client))
    stored = tables(tmp_path / "data")
    assert stored["instrument_v1"].height == stored["instrument_v1_revisions"].height == 1
    assert stored["trading_day_v1"].height == 2
    same_rows(stored, await replayed(tmp_path / "data", tmp_path / "again", configuration), "replay")
