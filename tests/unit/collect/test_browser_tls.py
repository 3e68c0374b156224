"""The client that speaks as a browser does, against real servers."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import replace

import pytest
from aiohttp import web

from tidewire.collect.http import HttpClient, HttpConfig, Request
from tidewire.collect.identity import BROWSERS, Identities
from tidewire.collect.transport import BROWSER_TLS, opener
from tidewire.collect.ways import Choice, Ways
from tidewire.errors import TerminalError, TransientError
from tidewire.records.clock import SeededRng, SystemClock
from unit.collect.relay import relaying, site, socks
from unit.collect.test_transport import server

CONFIG = HttpConfig(attempts=1, trust_env=False, total_timeout_s=5, transport=opener(BROWSER_TLS))


def client(config: HttpConfig = CONFIG) -> HttpClient:
    return HttpClient(SystemClock(), SeededRng(1), config)


def passing_for(name: str) -> HttpConfig:
    identity = [each for each in BROWSERS if each.name == name]
    ways = Ways(Choice("a.com", identities=Identities(identity)), SystemClock(), SeededRng(1))
    return replace(CONFIG, ways=ways)


async def test_a_reply_holds_what_came() -> None:
    requests: list[tuple[web.Request, bytes]] = []

    def answer(request: web.Request) -> web.StreamResponse:
        requests.append((request, b""))
        body = gzip.compress(b'{"a":1}' * 1000)
        return web.Response(body=body, headers={"Content-Encoding": "gzip", "X-Thing": "yes", "Set-Cookie": "a=1"})

    async with site(answer) as url, client() as asks:
        for _ in range(2):
            reply = await asks.get(f"{url}/list", {"page": "1", "fs": "m:0 t:6,m:1"})
        assert (reply.status, reply.body, reply.headers["x-thing"]) == (200, b'{"a":1}' * 1000, "yes")
        posted = Request(url, method="POST", body=b"a=1", headers={"Referer": "https://a.com/"})
        await asks.request(posted)
    assert requests[0][0].query["fs"] == "m:0 t:6,m:1"
    assert "Cookie" not in requests[1][0].headers
    assert requests[2][0].method == "POST"
    assert requests[2][0].headers["Referer"] == "https://a.com/"


@pytest.mark.parametrize(("name", "mark"), [("chrome-macos", "Chrome/"), ("firefox-windows", "Firefox/")])
async def test_it_is_the_browser_it_passes_for(name: str, mark: str) -> None:
    requests: list[web.Request] = []

    def answer(request: web.Request) -> web.StreamResponse:
        requests.append(request)
        return web.Response()

    async with site(answer) as url, client(passing_for(name)) as asks:
        await asks.get(url)
    headers = requests[0].headers
    assert mark in headers["User-Agent"]
    assert headers["Accept-Language"].startswith("zh-CN")
    assert ("sec-ch-ua" in headers) == (mark == "Chrome/")


async def test_it_greets_as_chrome_does() -> None:
    hello = b""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal hello
        hello = await reader.readexactly(9 + 2 + 32 + 1)
        session = await reader.readexactly(hello[-1])
        ciphers = await reader.readexactly(4)
        hello += session + ciphers

    async with server(talk) as url, client() as asks:
        with pytest.raises(TransientError):
            await asks.get(url.replace("http://", "https://"))
    first = hello[-2:]
    assert first[0] == first[1], "the first cipher is a grease, as no library of Python's sends it"
    assert first[0] & 0x0F == 0x0A


async def test_bounds_hold() -> None:
    async with (
        site(lambda _: web.Response(body=gzip.compress(bytes(5_000_000)), headers={"Content-Encoding": "gzip"})) as (
            url
        ),
        client(replace(CONFIG, body_bytes_max=100_000)) as asks,
    ):
        with pytest.raises(TerminalError, match="too large"):
            await asks.get(url)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server(silent) as url, client(replace(CONFIG, total_timeout_s=0.2)) as asks:
        with pytest.raises(TransientError, match="no complete answer in time"):
            await asks.get(url)


async def test_statuses_and_redirects_are_those_of_any_client() -> None:
    def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=int(request.path[1:]), headers={"Location": "/x"})

    async with site(answer) as url, client() as asks:
        with pytest.raises(TerminalError, match="it moved to '/x'"):
            await asks.get(f"{url}/302")
        with pytest.raises(TerminalError, match="answered 403"):
            await asks.get(f"{url}/403")
        with pytest.raises(TransientError, match="answered 503"):
            await asks.get(f"{url}/503")


async def test_it_goes_over_a_proxy_whose_login_nobody_sees() -> None:
    async with site(lambda _: web.Response(text="ok")) as url, relaying() as relay:
        at = relay.url.replace("http://", "http://user:hunter2@")
        async with client(replace(CONFIG, proxy=at)) as asks:
            assert (await asks.get(url)).body == b"ok"
            assert "Proxy-Authorization: Basic dXNlcjpodW50ZXIy" in relay.heads[0]
            relay.broken = True
            with pytest.raises(TransientError) as caught:
                await asks.get(url)
            assert "hunter2" not in str(caught.value)
        async with client(replace(CONFIG, proxy="http://user:hunter2@127.0.0.1:1")) as asks:
            with pytest.raises(TransientError) as caught:
                await asks.get(url)
            assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_it_goes_over_socks(scheme: str) -> None:
    async with site(lambda _: web.Response(text="ok")) as url, socks() as (at, ports):
        async with client(replace(CONFIG, proxy=at.replace("socks5", scheme))) as asks:
            assert (await asks.get(url)).body == b"ok"
        assert ports == [int(url.rpartition(":")[2])]


async def test_the_environment_of_the_process_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with site(lambda _: web.Response(text="ok")) as url, client() as asks:
        assert (await asks.get(url)).body == b"ok"
