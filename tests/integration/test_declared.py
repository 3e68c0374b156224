"""A site that nobody wrote code for: a file is dropped into the plugin directory, and its rows are stored."""

from __future__ import annotations

import re
from pathlib import Path

from aiohttp import web

from integration.kit import api, audited, balanced, idle, loaded, replayed, running, same_rows, tables, until
from integration.site import FILE, STOCKS, TESTS, site


async def test_a_file_that_is_there_at_the_start_runs_and_obeys_the_platform_file(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    async with site() as here:
        text = FILE.format(url="http://127.0.0.1:9", price="price | decimal")
        (tmp_path / "plugins" / "example.list.yaml").write_text(text, encoding="utf-8")
        (tmp_path / "plugins" / "example.other.yaml").write_text(
            FILE.format(url=here.url, price="price | decimal").replace("example.list", "example.other"),
            encoding="utf-8",
        )
        named = {"source": {"type": "declared", "name": "example.list"}, "api": {"base_url": here.url}}
        async with running(loaded(tmp_path, [named])) as platform, api(platform) as client:

            async def both() -> bool:
                rows = (await client.get("/v1/ticker/latest", symbol="000249.SZ"))["data"]
                return {row["source"] for row in rows} == {"example.list", "example.other"}

            await until(both, "rows of both", poll_s=0.1)
            names = [each["name"] for each in (await client.get("/v1/sources"))["data"]]
            assert sorted(names) == ["example.list", "example.other"]


async def test_health_says_when_the_calendar_that_a_source_keeps_ends(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    text = FILE.format(url="http://127.0.0.1:9", price="price | decimal").replace("jitter: 0%", "calendar: XSHG")
    (tmp_path / "plugins" / "example.list.yaml").write_text(text, encoding="utf-8")
    async with running(loaded(tmp_path, [])) as platform, api(platform) as client:

        async def said() -> str:
            return (await client.get("/readyz"))["checks"].get("calendar XSHG", "")

        await until(said, "the calendar among the checks", poll_s=0.1)
        assert await said() == "ok" or re.fullmatch(r"provisional from \d{4}-01-01", await said())


async def test_a_dropped_file_collects_a_site_and_nothing_is_taken_for_what_it_is_not(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    configuration = loaded(tmp_path, [])
    async with site() as here, running(configuration) as platform, api(platform) as client:
        path = plugins / "example.list.yaml"

        async def rounds(count: int, why: str) -> None:
            goal = here.rounds + count
            await until(lambda: here.rounds >= goal, why)

        path.write_text(FILE.format(url=here.url, price="price | decimal"), encoding="utf-8")
        await rounds(2, "the file is noticed and the site is asked")
        here.garbage = True
        await rounds(2, "rows that cannot be read")
        here.garbage, here.missing = False, 20
        await rounds(2, "a list that is short")
        here.missing, here.blocked = 0, True

        async def failing() -> bool:
            (source,) = (await client.get("/v1/sources"))["data"]
            return source["health"] != "ok"

        await until(failing, "the block page is noticed")
        here.blocked = False
        await rounds(2, "it goes on")
        path.write_text(FILE.format(url=here.url, price="prices | decimals"), encoding="utf-8")

        async def told() -> bool:
            return any("no filter 'decimals'" in str(each) for each in (await client.get("/v1/sources"))["data"])

        await until(told, "the wrong file is told")
        await rounds(2, "the version before goes on")
        path.unlink()

        async def gone() -> bool:
            return not (await client.get("/v1/sources"))["data"]

        await until(gone, "the file is gone")
        await idle(platform)
        balanced(await audited(client))
        latest = (await client.get("/v1/ticker/latest", symbol="000249.SZ"))["data"]
    stored = tables(tmp_path / "data")
    ticker, gap, quarantined = stored["ticker_v1"], stored["gap_v1"], stored["quarantined_v1"]
    assert latest[0]["last"] == "7.49"
    assert ticker["instrument"].n_unique() == STOCKS - TESTS
    assert ticker.filter(instrument="000057.SZ")["last"].null_count() == ticker.filter(instrument="000057.SZ").height
    assert "999999.SH" not in ticker["instrument"]
    assert gap.filter(cause="total").height > 0
    assert {"000005.SZ"} == set(quarantined["instrument"].drop_nulls())
    path.write_text(FILE.format(url=here.url, price="price | decimal"), encoding="utf-8")
    same_rows(stored, await replayed(tmp_path / "data", tmp_path / "again", configuration), "replay")


LISTING = """
version: 1
source: example.listing
emits: instrument@1
schedule: {{every: 300ms, jitter: 0%}}
request: {{get: "{url}/listing"}}
fields:
  instrument: code | cn_symbol
  uid: code
  native: code
  kind: = stock
  status: status
limits: {{rate: 1000/s}}
"""
QUOTES = """
version: 1
source: example.quotes
emits: ticker@1
schedule: {{every: 300ms, jitter: 0%}}
for_each: {{codes: {{ref: instrument.instrument, where: {{source: example.listing, status: trading}}, chunk: 2}}}}
request:
  get: "{url}/quotes"
  params: {{list: "${{codes | cn_symbol('sh600000') | join(',')}}"}}
fields: {{instrument: code | cn_symbol, last: price | decimal}}
limits: {{rate: 1000/s}}
"""
LISTED = {"sh600000": "trading", "sz000001": "trading", "bj920002": "trading", "sz000003": "delisted"}


async def test_what_one_source_brought_another_asks_for(tmp_path: Path) -> None:
    asked: set[str] = set()

    async def listing(_: web.Request) -> web.Response:
        return web.json_response([{"code": code, "status": status} for code, status in LISTED.items()])

    async def quotes(request: web.Request) -> web.Response:
        asked.add(request.query["list"])
        return web.json_response([{"code": code, "price": "8.75"} for code in request.query["list"].split(",")])

    (tmp_path / "plugins").mkdir()
    application = web.Application()
    application.router.add_get("/listing", listing)
    application.router.add_get("/quotes", quotes)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        host, port = runner.addresses[0][:2]
        url = f"http://{host}:{port}"
        quotes_file = tmp_path / "plugins" / "example.quotes.yaml"
        quotes_file.write_text(QUOTES.format(url=url), encoding="utf-8")
        async with running(loaded(tmp_path, [])) as platform, api(platform) as client:

            async def waits() -> bool:
                return "is example.listing running?" in str((await client.get("/v1/sources"))["data"])

            await until(waits, "it says what it waits for")
            assert not asked
            listing_file = tmp_path / "plugins" / "example.listing.yaml"
            listing_file.write_text(LISTING.format(url=url), encoding="utf-8")

            async def all_three() -> bool:
                rows = (await client.get("/v1/ticker/latest", symbol="*"))["data"]
                return len(rows) == 3

            await until(all_three, "rows of all that are listed", poll_s=0.1)
    finally:
        await runner.cleanup()
    assert asked == {"sz000001,sh600000", "bj920002"}


WITH_CODE = """
version: 1
source: example.tree
emits: ticker@1
use: python
schedule: {{every: 300ms, jitter: 0%}}
request: {{get: "{url}/quotes", params: {{list: "sh600000,sz000001"}}}}
fields: {{instrument: code | cn_symbol, last: price | decimal}}
limits: {{rate: 1000/s}}
"""
CODE = """
from tidewire.sources.declared import DeclaredSource


class Source(DeclaredSource):
    def rows(self, document):
        return [{**row, "price": FACTOR * row["price"]} for row in document]
"""


async def test_python_beside_a_file_is_loaded_with_it_and_again_when_it_changes(tmp_path: Path) -> None:
    async def quotes(request: web.Request) -> web.Response:
        return web.json_response([{"code": code, "price": 8} for code in request.query["list"].split(",")])

    plugins = tmp_path / "plugins"
    plugins.mkdir()
    application = web.Application()
    application.router.add_get("/quotes", quotes)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        host, port = runner.addresses[0][:2]
        code = plugins / "example.tree.py"
        code.write_text(CODE.replace("FACTOR", "2"), encoding="utf-8")
        (plugins / "example.tree.yaml").write_text(WITH_CODE.format(url=f"http://{host}:{port}"), encoding="utf-8")
        async with running(loaded(tmp_path, [])) as platform, api(platform) as client:

            async def last_is(price: str) -> bool:
                rows = (await client.get("/v1/ticker/latest", symbol="600000.SH"))["data"]
                return [row["last"] for row in rows] == [price]

            async def told() -> bool:
                return "example.tree.py:2: NameError" in str((await client.get("/v1/sources"))["data"])

            await until(lambda: last_is("16"), "rows by the code", poll_s=0.1)
            code.write_text("\nFACTOR = nothing\n" + CODE, encoding="utf-8")
            await until(told, "code that is wrong is told", poll_s=0.1)
            code.write_text("\nFACTOR = 3\n" + CODE, encoding="utf-8")
            await until(lambda: last_is("24"), "rows by the new code", poll_s=0.1)
    finally:
        await runner.cleanup()
