"""A real browser against a real site; skipped where there is no browser."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace

import pytest
from aiohttp import web

from tidewire.collect.browser import Browser
from tidewire.collect.http import HttpClient, HttpConfig, Request
from tidewire.collect.transport import BROWSER, opener
from tidewire.errors import TerminalError, TransientError
from tidewire.records.clock import SeededRng, SystemClock
from unit.collect.relay import relaying, site, socks

FOUND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
pytestmark = pytest.mark.skipif(not FOUND, reason="no chromium or chrome on the PATH")

PAGE = """<!doctype html><title>t</title><img src="/picture.png"><b id=x>before</b>
<script>fetch('/api/list?page=1').then(r => r.json()).then(j => { document.title = j.a })
document.getElementById('x').textContent = 'after'</script>"""


class Site:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.at_once = self.most = 0
        self.headers: dict[str, str] = {}

    def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if request.path == "/":
            self.headers = dict(request.headers)
            return web.Response(text=PAGE, content_type="text/html")
        if request.path == "/status":
            return web.Response(status=403, text="<html>no</html>", content_type="text/html")
        if request.path == "/long":
            return web.Response(text="x" * 200_000)
        return web.json_response({"a": 1})


def config(browser: Browser, **options: float) -> HttpConfig:
    return replace(HttpConfig(attempts=1, trust_env=False, transport=opener(BROWSER, browser)), **options)  # type: ignore[arg-type]


def client(browser: Browser, **options: float) -> HttpClient:
    return HttpClient(SystemClock(), SeededRng(1), config(browser, **options))


async def test_a_page_is_taken_as_it_stands_after_its_scripts() -> None:
    there, browser = Site(), Browser(FOUND)
    async with site(there.answer) as url, client(browser) as asks:
        page = await asks.request(Request(f"{url}/", headers={"Referer": "https://a.com/"}))
        assert (page.status, page.headers["content-type"][:9]) == (200, "text/html")
        assert b"after" in page.body.split(b"</b>")[0]
        assert (await asks.get(f"{url}/api/list")).body == b'{"a": 1}'
        refused = await asks.request(Request(f"{url}/status", ok_statuses=frozenset({403})))
        assert refused.status == 403
    assert "/picture.png" not in there.asked
    assert there.headers["Referer"] == "https://a.com/"
    assert there.headers["Accept-Language"].startswith("zh-CN")


async def test_the_response_that_is_wanted_is_the_answer() -> None:
    there, browser = Site(), Browser(FOUND)
    async with site(there.answer) as url, client(browser) as asks:
        reply = await asks.request(Request(f"{url}/", wanted="/api/list"))
        assert (reply.body, reply.headers["content-type"][:16]) == (b'{"a": 1}', "application/json")


async def test_bounds_and_errors_are_those_of_any_client() -> None:
    there, browser = Site(), Browser(FOUND)
    async with site(there.answer) as url:
        async with client(browser, body_bytes_max=100_000) as asks:
            with pytest.raises(TerminalError, match="too large"):
                await asks.get(f"{url}/long")
            with pytest.raises(TerminalError, match="does not POST"):
                await asks.request(Request(url, method="POST", body=b""))
        async with client(browser, total_timeout_s=1.5) as asks:
            with pytest.raises(TransientError, match="no complete answer in time"):
                await asks.request(Request(f"{url}/", wanted="/never"))
    async with client(browser) as asks:
        with pytest.raises(TransientError, match="ERR_CONNECTION_REFUSED") as caught:
            await asks.get(url, {"key": "hunter2"})
        assert "hunter2" not in str(caught.value)


async def test_one_browser_serves_all_and_ends_with_the_last() -> None:
    there, browser = Site(), Browser(FOUND, pages=2)
    async with site(there.answer) as url:
        async with client(browser) as first:
            async with client(browser) as second:
                replies = await asyncio.gather(*(asks.get(f"{url}/api/list") for asks in (first, second) * 3))
                assert {reply.body for reply in replies} == {b'{"a": 1}'}
            assert browser._chromium is not None
            assert (await first.get(f"{url}/api/list")).status == 200
        assert browser._chromium is None


async def test_it_goes_over_a_proxy() -> None:
    there, browser = Site(), Browser(FOUND)
    async with site(there.answer) as url, relaying() as relay:
        over = replace(config(browser), proxy=relay.url)
        async with HttpClient(SystemClock(), SeededRng(1), over) as asks:
            assert (await asks.get(f"{url}/api/list")).body == b'{"a": 1}'
        assert relay.heads[0].startswith(f"GET {url}/api/list HTTP/1.1")
    async with site(there.answer) as url, socks() as (at, ports):
        async with HttpClient(SystemClock(), SeededRng(1), replace(config(browser), proxy=at)) as asks:
            assert (await asks.get(f"{url}/api/list")).body == b'{"a": 1}'
        assert int(url.rpartition(":")[2]) in ports


async def test_keys_go_to_the_site_they_are_meant_for_and_to_no_other() -> None:
    seen: dict[str, str | None] = {}
    page = "<!doctype html><script>fetch('/own'); fetch('{other}/foreign')</script>"

    def answer(request: web.Request) -> web.StreamResponse:
        seen[request.path] = request.headers.get("X-Key")
        text = page.format(other=other.replace("127.0.0.1", "localhost"))
        return web.Response(text=text, content_type="text/html", headers={"Access-Control-Allow-Origin": "*"})

    async with site(answer) as other, site(answer) as url, client(Browser(FOUND)) as asks:
        await asks.request(Request(f"{url}/", headers={"X-Key": "k"}, wanted="/foreign"))
    assert (seen["/"], seen["/foreign"]) == ("k", None)
    assert seen.get("/own", "k") == "k"
