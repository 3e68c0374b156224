from __future__ import annotations

import asyncio
import gzip
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from tidewire import telemetry
from tidewire.collect import http, unpack
from tidewire.collect.budget import Budgets, Limits
from tidewire.collect.http import HttpClient, HttpConfig, Reply, Request
from tidewire.errors import InputError, RateLimited, TerminalError, TransientError
from tidewire.records.clock import ManualClock, SeededRng, SystemClock, UpstreamClock

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
QUICK = HttpConfig(backoff_s=0.001, backoff_s_max=0.002, total_timeout_s=5, trust_env=False)


class Upstream:
    """A real server on loopback that answers from a script and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.answers: list[Handler] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        self.bodies.append(await request.read())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(request)

    @property
    def host(self) -> str:
        return URL(self.url).authority


def says(body: bytes = b"{}", status: int = 200, **headers: str) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return answer


@asynccontextmanager
async def serving(*answers: Handler) -> AsyncIterator[Upstream]:
    upstream = Upstream()
    upstream.answers = list(answers)
    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{tail:.*}", upstream.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield upstream
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_server(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


def client(config: HttpConfig = QUICK, **options: Any) -> HttpClient:
    return HttpClient(SystemClock(), SeededRng(1), config, **options)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - conditions of real sockets have no event
            await asyncio.sleep(0)


async def test_an_upstream_says_its_time_and_whether_it_runs() -> None:
    told = str(5 * 10**18)
    answers = (
        says(b"a", X_Tidewire_Time=told, X_Tidewire_Speed="1e9"),  # no speed we understand: it stands
        says(b"b", X_Tidewire_Time=told),
        says(b"c", X_Tidewire_Time=told, X_Tidewire_Speed="2.5"),
    )
    clock = UpstreamClock()
    async with serving(*answers) as upstream, client(replace(QUICK, clock=clock)) as asks:
        for _ in range(2):
            await asks.get(upstream.url)
            assert clock.wall_ns() == clock.wall_ns() == int(told)
        await asks.get(upstream.url)
        since = clock.wall_ns()
        await until(lambda: clock.wall_ns() > since > int(told))


async def test_a_reply_holds_what_came() -> None:
    async with serving(says(b'{"a":1}', X_Thing="yes")) as upstream, client() as asks:
        before = SystemClock().wall_ns()
        reply = await asks.get(f"{upstream.url}/api/v3/klines", {"symbol": "BTCUSDT", "api_key": "k123"}, weight=2)
        assert isinstance(reply, Reply)
        assert (reply.status, reply.body, reply.headers["x-thing"]) == (200, b'{"a":1}', "yes")
        assert reply.url == f"{upstream.url}/api/v3/klines?symbol=BTCUSDT&api_key=***"
        assert before < reply.received_ns <= SystemClock().wall_ns()
        assert 0 < reply.elapsed_s < 5
        assert upstream.asked[0].query["api_key"] == "k123"


async def test_post_with_a_body_and_other_statuses() -> None:
    async with serving(says(b"made", 201)) as upstream, client() as asks:
        asked = Request(f"{upstream.url}/rpc", method="POST", body=b"[]", ok_statuses=frozenset({200, 201}))
        assert (await asks.request(asked)).status == 201
        assert upstream.bodies == [b"[]"]


async def test_a_server_that_recovers_is_asked_again() -> None:
    async with serving(says(status=503), says(status=408), says(b"ok")) as upstream, client() as asks:
        assert (await asks.get(upstream.url)).body == b"ok"
        assert telemetry.value("tidewire_collect_http_retries_total", host=upstream.host) == 2
        count = {
            outcome: telemetry.value("tidewire_collect_http_requests_total", host=upstream.host, outcome=outcome)
            for outcome in ("ok", "transient")
        }
        assert count == {"ok": 1, "transient": 2}


async def test_attempts_are_bounded() -> None:
    async with serving(says(b"down", 500)) as upstream, client() as asks:
        with pytest.raises(TransientError, match="answered 500: down"):
            await asks.get(upstream.url)
        assert len(upstream.asked) == QUICK.attempts


async def test_back_off_doubles_with_full_jitter_up_to_its_cap() -> None:
    class Highest(SeededRng):
        def uniform(self, low: float, high: float) -> float:
            assert low == 0.0
            return high

    clock = ManualClock()
    config = replace(QUICK, backoff_s=1, backoff_s_max=5, attempts=5)
    async with serving(says(status=500)) as upstream:
        asks = HttpClient(clock, Highest(), config)
        asking = asyncio.create_task(asks.get(upstream.url))
        for number, wait_s in enumerate([1, 2, 4, 5], start=1):
            await until(lambda: clock.sleepers == 1)
            assert len(upstream.asked) == number
            await clock.advance(wait_s - 0.001)
            assert clock.sleepers == 1
            await clock.advance(0.001)
        with pytest.raises(TransientError):
            await asking
        await asks.close()


async def test_time_allowed_ends_the_retries() -> None:
    async with serving(says(status=500)) as upstream, client(replace(QUICK, allowed_s=1e-9)) as asks:
        with pytest.raises(TransientError, match="answered 500"):
            await asks.get(upstream.url)
        assert len(upstream.asked) == 1


async def test_a_refusal_is_final_and_quotes_the_body() -> None:
    body = b'{"code":-1121,"msg":"Invalid symbol."}' + b"x" * 10_000
    async with serving(says(body, 400)) as upstream, client() as asks:
        with pytest.raises(TerminalError) as caught:
            await asks.get(f"{upstream.url}/api", {"signature": "s3cret"})
        message = str(caught.value)
        assert message.startswith(f'GET {upstream.url}/api answered 400: {{"code":-1121,"msg":"Invalid symbol."}}xx')
        assert len(message) < 300 + 100
        assert "s3cret" not in message
        assert len(upstream.asked) == 1


async def test_a_refusal_may_be_a_bomb_or_broken() -> None:
    bomb = gzip.compress(b"no " * 10_000_000)
    answers = says(bomb, 400, Content_Encoding="gzip"), says(b"\x00\x01", 404, Content_Encoding="br")
    async with serving(*answers) as upstream, client() as asks:
        with pytest.raises(TerminalError, match="answered 400: no no no"):
            await asks.get(upstream.url)
        with pytest.raises(TerminalError, match=r"answered 404: \(body unreadable"):
            await asks.get(upstream.url)


async def test_redirects_are_not_followed() -> None:
    async with serving(says(status=302, Location="http://elsewhere.test/")) as upstream, client() as asks:
        with pytest.raises(TerminalError, match=r"moved to 'http://elsewhere.test/'"):
            await asks.get(upstream.url)


@pytest.mark.parametrize("status", [429, 418])
async def test_retry_after_pauses_the_whole_host(status: int) -> None:
    clock = ManualClock()
    budgets = Budgets(clock)
    async with serving(says(status=status, Retry_After="7"), says(b"ok")) as upstream:
        asks = HttpClient(clock, SeededRng(1), QUICK, budgets)
        asking = asyncio.create_task(asks.get(upstream.url))
        budget = budgets.of(upstream.host)
        await until(lambda: budget.paused_s > 0)
        other = asyncio.create_task(asks.get(upstream.url))
        await clock.advance(6.9)
        assert len(upstream.asked) == 1
        await clock.advance(0.1)
        assert (await asking).body == b"ok"
        assert (await other).body == b"ok"
        assert telemetry.value("tidewire_collect_budget_paused_seconds_total", host=upstream.host) == 7
        await asks.close()


async def test_a_ban_longer_than_allowed_is_told_at_once_to_everyone() -> None:
    async with serving(says(b"banned", 418, Retry_After="7200")) as upstream, client() as asks:
        for _ in range(2):
            with pytest.raises(RateLimited) as caught:
                await asks.get(upstream.url)
            assert caught.value.retry_after == pytest.approx(7200, abs=5)
        assert len(upstream.asked) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [({}, 10.0), ({"Retry_After": "soon"}, 10.0), ({"Retry_After": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30.0)],
)
async def test_retry_after_may_be_missing_or_a_date(header: dict[str, str], seconds: float) -> None:
    config = replace(QUICK, allowed_s=5)
    async with serving(says(status=429, **header)) as upstream:
        asks = HttpClient(ManualClock(), SeededRng(1), config)
        with pytest.raises(RateLimited) as caught:
            await asks.get(upstream.url)
        assert caught.value.retry_after == seconds
        await asks.close()


async def test_the_budget_learns_from_the_header_of_every_answer() -> None:
    clock = ManualClock()
    budgets = Budgets(clock, Limits(weight_per_minute=6000))
    config = replace(QUICK, weight_header="X-MBX-USED-WEIGHT-1M", attempts=1)
    async with serving(
        says(X_MBX_USED_WEIGHT_1M="1234"), says(status=400, X_MBX_USED_WEIGHT_1M="1240"), says(X_MBX_USED_WEIGHT_1M="?")
    ) as upstream:
        asks = HttpClient(clock, SeededRng(1), config, budgets)
        await asks.get(upstream.url, weight=20)
        assert budgets.of(upstream.host).used_weight == 1234
        with pytest.raises(TerminalError):
            await asks.get(upstream.url, weight=2)
        assert budgets.of(upstream.host).used_weight == 1240
        await asks.get(upstream.url)
        assert budgets.of(upstream.host).used_weight == 1241
        await asks.close()


async def test_nobody_there() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        async with client() as asks:
            with pytest.raises(TransientError, match=f"GET http://127.0.0.1:{port}/x: ClientConnectorError"):
                await asks.get(f"http://127.0.0.1:{port}/x", {"token": "abc"})


async def test_a_slow_body_runs_out_of_time() -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"begun")
        await asyncio.Event().wait()
        return response

    config = replace(QUICK, total_timeout_s=0.05, attempts=1)
    async with serving(slow) as upstream, client(config) as asks:
        with pytest.raises(TransientError, match="no complete answer in time"):
            await asks.get(upstream.url)


async def test_half_an_answer_is_asked_for_again() -> None:
    calls: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        calls.append(1)
        body = b"whole body" if len(calls) > 1 else b"who"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + body)
        await writer.drain()

    async with raw_server(talk) as url, client() as asks:
        assert (await asks.get(url)).body == b"whole body"
        assert len(calls) == 2


async def test_half_a_compressed_body_is_not_taken_for_a_whole() -> None:
    whole = gzip.compress(bytes(range(256)) * 100)
    half = says(whole[: len(whole) // 2], Content_Encoding="gzip")
    damaged = says(whole[:20] + b"\xff\xff" + whole[22:], Content_Encoding="gzip")
    async with serving(half, damaged, says(whole, Content_Encoding="gzip")) as upstream, client() as asks:
        assert (await asks.get(upstream.url)).body == bytes(range(256)) * 100
        assert len(upstream.asked) == 3


async def test_a_huge_body_is_refused() -> None:
    async with serving(says(b"x" * 100_001)) as upstream, client(replace(QUICK, body_bytes_max=100_000)) as asks:
        with pytest.raises(TerminalError, match="too large"):
            await asks.get(upstream.url)
        assert len(upstream.asked) == 1


async def test_a_body_of_exactly_the_limit_is_fine() -> None:
    async with serving(says(b"x" * 100_000)) as upstream, client(replace(QUICK, body_bytes_max=100_000)) as asks:
        assert len((await asks.get(upstream.url)).body) == 100_000


@pytest.mark.parametrize("config", [QUICK, replace(QUICK, body_bytes_max=3 << 20, ratio_max=1e9)])
async def test_a_bomb_is_refused_while_it_unfolds(config: HttpConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    unfolded: list[int] = []
    inflate = unpack.Inflate._inflate

    def counting(self: unpack.Inflate, data: bytes) -> bytes:
        piece = inflate(self, data)
        unfolded.append(len(piece))
        return piece

    monkeypatch.setattr(unpack.Inflate, "_inflate", counting)
    bomb = gzip.compress(bytes(50_000_000))
    async with serving(says(bomb, Content_Encoding="gzip")) as upstream, client(config) as asks:
        with pytest.raises(TerminalError, match="too large"):
            await asks.get(upstream.url)
    assert sum(unfolded) <= 16 << 20, "far less than the 50 MB it holds"
    assert max(unfolded) <= unpack._INFLATE_STEP_BYTES


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
async def test_an_encoding_not_asked_for_is_refused(encoding: str) -> None:
    async with serving(says(b"abc", Content_Encoding=encoding)) as upstream, client() as asks:
        with pytest.raises(TerminalError, match="asked for were gzip and deflate"):
            await asks.get(upstream.url)
        assert upstream.asked[0].headers["Accept-Encoding"] == "gzip, deflate"


async def test_keys_go_out_in_headers_and_nowhere_else(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    keys = iter(["key-one-5150", "key-two-5150"])
    config = replace(QUICK, headers=lambda: {"X-MBX-APIKEY": next(keys)})
    async with serving(says(status=500), says(b"no", 403)) as upstream, client(config) as asks:
        with pytest.raises(TerminalError) as caught:
            await asks.request(Request(upstream.url, headers={"X-Sign": "sig-5150"}))
        assert [request.headers["X-MBX-APIKEY"] for request in upstream.asked] == ["key-one-5150", "key-two-5150"]
        assert upstream.asked[0].headers["X-Sign"] == "sig-5150"
    said = caplog.text + "".join(capsys.readouterr()) + str(caught.value) + repr(caught.value.__cause__) + repr(config)
    assert "5150" not in said
    assert "5150" not in repr(Request("http://h", headers={"X-Sign": "sig-5150"}))


async def test_cookies_are_not_kept() -> None:
    async with serving(says(b"", Set_Cookie="session=1")) as upstream, client() as asks:
        for _ in range(2):
            await asks.get(upstream.url.replace("127.0.0.1", "localhost"))
        assert "Cookie" not in upstream.asked[1].headers


async def test_an_explicit_proxy_is_used() -> None:
    heads: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()

    async with raw_server(talk) as url:
        config = replace(QUICK, proxy=url.replace("http://", "http://user:pass-5150@"))
        async with client(config) as asks:
            assert (await asks.get("http://exchange.invalid/api")).body == b"ok"
        assert "5150" not in repr(config)
    assert heads[0].startswith(b"GET http://exchange.invalid/api HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic dXNlcjpwYXNzLTUxNTA=" in heads[0]


def test_the_environment_names_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "https_proxy", "NO_PROXY", "no_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "direct.test")
    assert http.env_proxy(URL("https://api.test/x"), True) == "http://proxy:3128"
    assert http.env_proxy(URL("wss://api.test/x"), True) == "http://proxy:3128"
    assert http.env_proxy(URL("https://api.test/x"), False) is None
    for direct in ("http://api.test", "https://direct.test", "https://127.0.0.1", "https://localhost", "https://[::1]"):
        assert http.env_proxy(URL(direct), True) is None


@pytest.mark.parametrize("url", ["ftp://h/x", "/x", "http://", "http://h:port/"])
async def test_a_bad_url_says_so(url: str) -> None:
    async with client() as asks:
        with pytest.raises(InputError, match=r"is not a URL|is not usable"):
            await asks.get(url)


async def test_a_closed_client_asks_no_more() -> None:
    asks = client(replace(QUICK, attempts=1))
    await asks.close()
    with pytest.raises(TransientError, match="closed"):
        await asks.get("http://127.0.0.1:1")


@pytest.mark.parametrize("name", ["attempts", "total_timeout_s", "body_bytes_max"])
def test_bad_options_say_so(name: str) -> None:
    with pytest.raises(InputError, match=name):
        HttpConfig(**{name: 0})  # type: ignore[arg-type]
