"""A declared source and a site that refuses: it is left alone as its family allows, or asked by another way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tidewire.collect import Cursors, Families, Identities, SourceConfig, read
from tidewire.collect.family import LONG_PAUSE_S, PATIENCE, PAUSE_S
from tidewire.collect.identity import BROWSERS
from tidewire.collect.proxies import Pool, PoolConfig, Proxies
from tidewire.errors import ConfigError, RateLimited, TransientError
from tidewire.records.clock import ManualClock, SeededRng
from tidewire.sources.declared import DeclaredApp, app_of
from tidewire.sources.declared.parse import names_of
from unit.collect.kit import Place, place, until
from unit.collect.relay import Relay, relaying, site
from unit.sources.declared.samples import FIRST, LIST, file_of, page

ONE = LIST.replace("rate: 100/s, concurrency: 4", "rate: 1/s, concurrency: 1").replace("eastmoney.list", "one.list")
OTHER = ONE.replace("one.list", "other.list")
GOOD = page([FIRST], 1)


class Upstream:
    """A site; ``asked`` is when each request came, on the clock of the source."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.asked: list[float] = []
        self.requests: list[web.Request] = []
        self.answer: Callable[[web.Request], web.StreamResponse] = lambda _: web.json_response(GOOD)

    def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(self.clock.mono_ns() / 1e9)
        self.requests.append(request)
        return self.answer(request)


def drops(request: web.Request) -> web.StreamResponse:
    """The connection stood, the request was taken, and there is no answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@asynccontextmanager
async def upstream(folder: Path) -> AsyncIterator[tuple[Upstream, str, Place]]:
    clock = ManualClock()
    there = Upstream(clock)
    async with site(there.handle) as url, place(folder, clock) as here:
        yield there, url, here


@asynccontextmanager
async def running(here: Place, folder: Path, url: str, text: str = ONE, **api: Any) -> AsyncIterator[DeclaredApp]:
    app = made(here, folder, url, text, **api)
    await app.initialize()
    try:
        yield app
    finally:
        await app.stop()


def made(here: Place, folder: Path, url: str, text: str = ONE, **api: Any) -> DeclaredApp:
    kind = app_of(file_of(folder, text))
    config = read(
        {"source": {"type": "declared", "name": kind.name}, "api": {"base_url": url, **api}}, SourceConfig, ""
    )
    kind.check(config)
    return kind(config, here.context)


def fetching(app: DeclaredApp) -> Coroutine[Any, Any, None]:
    collector: Any = app.get("rows")
    return collector.fetch()


async def while_time_passes(clock: ManualClock, asking: Coroutine[Any, Any, None]) -> None:
    """Time goes on only while nothing is under way."""
    task = asyncio.ensure_future(asking)
    while not task.done():
        await until(lambda: task.done() or clock.sleepers > 0)
        if not task.done():
            await clock.advance(0.05)
    await task


async def test_dropped_connections_are_tried_again_each_half_minute_then_left_alone_for_long(tmp_path: Path) -> None:
    async with (
        upstream(tmp_path) as (there, url, here),
        running(here, tmp_path, url) as app,
        running(here, tmp_path, url, OTHER) as other,
    ):
        there.answer = drops
        with pytest.raises((TransientError, RateLimited)):
            await while_time_passes(there.clock, raised(app))
        assert len(there.asked) == 1 + PATIENCE
        between = [after - before for before, after in zip(there.asked, there.asked[1:], strict=False)]
        assert all(PAUSE_S <= each <= PAUSE_S + 1 for each in between)
        assert LONG_PAUSE_S - 1 <= app.family.of("any").paused_s <= 1.3 * LONG_PAUSE_S
        with pytest.raises(RateLimited):
            await while_time_passes(there.clock, fetching(other))
        assert len(there.asked) == 1 + PATIENCE, "another source of the family asks nothing either"
        await there.clock.advance(1.3 * LONG_PAUSE_S)
        there.answer = lambda _: web.json_response(GOOD)
        await while_time_passes(there.clock, fetching(other))
        assert app.family.refusals == 0


async def raised(app: DeclaredApp) -> None:
    """Fetch; what it only reports is an error here."""
    await fetching(app)
    if error := app.get("rows").status.last_error:
        raise TransientError(error)


async def test_another_source_of_the_family_waits_for_the_end_of_the_pause(tmp_path: Path) -> None:
    async with (
        upstream(tmp_path) as (there, url, here),
        running(here, tmp_path, url) as app,
        running(here, tmp_path, url, OTHER) as other,
    ):
        app.refused("dropped")
        await while_time_passes(there.clock, fetching(other))
        assert there.asked[0] >= PAUSE_S


async def test_a_403_is_not_asked_again(tmp_path: Path) -> None:
    async with upstream(tmp_path) as (there, url, here), running(here, tmp_path, url) as app:
        there.answer = lambda _: web.Response(status=403)
        for _ in range(2):
            with pytest.raises(RateLimited):
                await while_time_passes(there.clock, fetching(app))
        assert len(there.asked) == 1
        assert app.family.of("any").paused_s >= LONG_PAUSE_S - 1


async def test_a_429_is_obeyed_and_kept(tmp_path: Path) -> None:
    async with upstream(tmp_path) as (there, url, here), running(here, tmp_path, url) as app:
        there.answer = lambda _: web.Response(status=429, headers={"Retry-After": "100"})
        with pytest.raises(RateLimited):
            await while_time_passes(there.clock, fetching(app))
        assert 99 <= app.family.of("any").paused_s <= 100
        (frame,) = (frame for frame in here.frames() if frame.origin.request)
        assert names_of(frame.origin.request)["refused"] == "rotate"


async def test_pages_are_asked_for_one_by_one_a_second_and_a_bit_apart(tmp_path: Path) -> None:
    async with upstream(tmp_path) as (there, url, here), running(here, tmp_path, url) as app:
        there.answer = lambda request: web.json_response(
            page([{**FIRST, "f12": f"{100 * int(request.query['pn']) + each:06d}"} for each in range(100)], 2000)
        )
        await while_time_passes(there.clock, fetching(app))
        between = [after - before for before, after in zip(there.asked, there.asked[1:], strict=False)]
        assert len(between) == 19
        assert min(between) >= 0.95, "time goes in steps of a twentieth"
        assert 1.2 < max(between) <= 1.4
        assert 1.05 <= sum(between) / len(between) <= 1.25


async def test_a_pause_outlives_a_reload_and_the_process(tmp_path: Path) -> None:
    async with upstream(tmp_path) as (there, url, here), running(here, tmp_path, url) as app:
        there.answer = lambda _: web.Response(status=403)
        with pytest.raises(RateLimited):
            await while_time_passes(there.clock, fetching(app))
        left_s = app.family.of("any").paused_s
        assert made(here, tmp_path, url).family.of("any").paused_s == left_s
        await here.journal.drain()
        cursors = Cursors()
        cursors.load(here.journal)
        here.context = replace(here.context, cursors=cursors, families=Families())
        again = made(here, tmp_path, url)
        assert again.family is not app.family
        assert again.family.of("any").paused_s == pytest.approx(left_s, abs=0.01)
        assert again.family.refusals == app.family.refusals
        again.answered()
        await here.journal.drain()
        cursors.load(here.journal)
        here.context = replace(here.context, cursors=cursors, families=Families())
        assert made(here, tmp_path, url).family.refusals == 0


async def test_it_passes_for_one_browser_and_for_another_after_a_refusal(tmp_path: Path) -> None:
    text = ONE.replace("errors:\n", "errors:\n  - {when: {status: [403]}, do: rotate}\n")
    async with upstream(tmp_path) as (there, url, here), running(here, tmp_path, url, text) as app:
        await while_time_passes(there.clock, fetching(app))
        await while_time_passes(there.clock, fetching(app))
        there.answer = lambda _: web.Response(status=403)
        with pytest.raises(RateLimited):
            await while_time_passes(there.clock, fetching(app))
        await there.clock.advance(1.3 * LONG_PAUSE_S)
        there.answer = lambda _: web.json_response(GOOD)
        await while_time_passes(there.clock, fetching(app))
    agents = [request.headers["User-Agent"] for request in there.requests]
    assert agents[0] == agents[1] == agents[2] != agents[3]
    worn = {each.headers["User-Agent"]: each for each in BROWSERS}
    for request in there.requests:
        for name, text in worn[request.headers["User-Agent"]].dressed(page=False).items():
            assert request.headers.getall(name) == [text]


async def test_identities_may_be_turned_off_and_the_file_has_the_last_word(tmp_path: Path) -> None:
    mine = ONE.replace("  params:", "  headers: {user-agent: mine}\n  params:")
    async with upstream(tmp_path) as (there, url, here):
        async with running(here, tmp_path, url, identity=False) as app:
            await while_time_passes(there.clock, fetching(app))
        async with running(here, tmp_path, url, mine) as app:
            await while_time_passes(there.clock, fetching(app))
    assert "Chrome/141" in there.requests[0].headers["User-Agent"]
    assert "sec-ch-ua" not in there.requests[0].headers
    assert there.requests[1].headers.getall("User-Agent") == ["mine"]


# -- with proxies ---------------------------------------------------------------------------------------------------


def pooled(here: Place, *relays: Relay, direct: bool = False) -> Pool:
    """A pool of these, with a login that nobody may see; its source asks over it with ``proxy: pool:p``."""
    urls = tuple(relay.url.replace("http://", "http://user:hunter2@") for relay in relays)
    pool = Pool("p", PoolConfig(listed=urls, direct=direct), here.context.clock, SeededRng(1))
    here.context = replace(here.context, families=Families(Proxies({"p": pool}), Identities()))
    return pool


async def test_who_is_refused_over_one_proxy_asks_over_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = ONE.replace("errors:\n", "errors:\n  - {when: {status: [403]}, do: rotate}\n").replace(
        "share: eastmoney.com", "share: eastmoney.com, proxy: p"
    )
    async with upstream(tmp_path) as (there, url, here), relaying() as first, relaying() as second:
        pooled(here, first, second)
        there.answer = lambda _: web.Response(status=403) if len(there.asked) == 1 else web.json_response(GOOD)
        async with running(here, tmp_path, url, text) as app:
            await while_time_passes(there.clock, fetching(app))
            assert (len(first.heads), len(second.heads)) == (1, 1)
            assert app.family.refusals == 0
            status = app.status()["reach"]
            assert sorted(each["rested_until_ns"] is None for each in status["proxies"]) == [False, True]
            there.answer = lambda _: web.Response(status=403)
            with pytest.raises(RateLimited):
                await while_time_passes(there.clock, fetching(app))
            assert app.family.refusals > PATIENCE, "no other proxy was left"
            assert "hunter2" not in str(app.status())
        await here.journal.drain()
        assert all(b"hunter2" not in frame.payload and "hunter2" not in str(frame.origin) for frame in here.frames())
        assert "hunter2" not in str([event.facts for event in here.heard])
    assert all("Proxy-Authorization: Basic" in head for relay in (first, second) for head in relay.heads)
    assert "hunter2" not in "".join(capsys.readouterr())
    agents = [request.headers["User-Agent"] for request in there.requests]
    assert len(set(agents[:2])) == 2 or len(set(agents)) > 1


async def test_a_proxy_that_hangs_up_rests_and_the_family_is_not_blamed(tmp_path: Path) -> None:
    async with upstream(tmp_path) as (there, url, here), relaying() as bad, relaying() as good:
        pool = pooled(here, bad, good)
        bad.broken = True
        async with running(here, tmp_path, url, proxy="pool:p") as app:
            for _ in range(6):
                await while_time_passes(there.clock, fetching(app))
            assert app.family.refusals == 0
            assert len(bad.heads) == 1
            assert len(good.heads) == len(there.asked) == 6
            assert {each["score"] > 0.7 for each in pool.status("eastmoney.com")} == {True, False}


async def test_without_a_proxy_only_where_that_may_be(tmp_path: Path) -> None:
    async with upstream(tmp_path) as (there, url, here), relaying() as bad:
        bad.broken = True
        pooled(here, bad)
        async with running(here, tmp_path, url, proxy="pool:p") as app:
            with pytest.raises(RateLimited, match="all 1 proxies rest"):
                await while_time_passes(there.clock, fetching(app))
            assert there.asked == []
        pooled(here, bad, direct=True)
        async with running(here, tmp_path, url, proxy="pool:p") as app:
            await while_time_passes(there.clock, fetching(app))
            assert len(there.asked) == 1


@pytest.mark.parametrize(
    ("api", "message"),
    [
        ({"proxy": "pool:x"}, r"no pool of proxies 'x'"),
        ({"proxy": "socks5://h:1"}, r"api\.proxy: the client http goes over http, https, not over socks5"),
        ({"proxy": "user:hunter2@h"}, r"api\.proxy: 'http://\*\*\*@h' is no proxy"),
        ({"client": "browser_tls", "proxy": "ftp://h:1"}, r"is no proxy"),
    ],
)
async def test_what_cannot_be_is_said(tmp_path: Path, api: dict[str, str], message: str) -> None:
    async with place(tmp_path) as here:
        with pytest.raises(ConfigError, match=message):
            made(here, tmp_path, "http://127.0.0.1:1", **api)


@pytest.mark.parametrize(("client", "extra"), [("browser_tls", "tls"), ("browser", "browser")])
async def test_a_client_that_is_not_installed_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: str, extra: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    async with place(tmp_path) as here:
        with pytest.raises(ConfigError, match=rf"pip install 'tidewire\[{extra}\]'"):
            made(here, tmp_path, "http://127.0.0.1:1", client=client)
