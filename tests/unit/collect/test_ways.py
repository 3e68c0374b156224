"""By which way a client asks, and what becomes of it, over real proxies."""

from __future__ import annotations

from dataclasses import replace

import pytest
from aiohttp import web

from tidewire.collect.http import HttpClient, HttpConfig
from tidewire.collect.identity import Identities
from tidewire.collect.proxies import Pool, PoolConfig
from tidewire.collect.ways import Choice, Ways
from tidewire.errors import RateLimited, TransientError
from tidewire.records.clock import SeededRng, SystemClock
from unit.collect.relay import relaying, site

CONFIG = HttpConfig(trust_env=False, backoff_s=0.001, backoff_s_max=0.002, total_timeout_s=5)


def ways_of(*urls: str, direct: bool = False) -> tuple[Ways, Pool]:
    clock, rng = SystemClock(), SeededRng(1)
    pool = Pool("test", PoolConfig(listed=urls, direct=direct), clock, rng)
    return Ways(Choice("a.com", pool, identities=Identities()), clock, rng), pool


async def test_the_next_attempt_goes_over_another_proxy() -> None:
    async with site(lambda _: web.Response(text="ok")) as url, relaying() as bad, relaying() as good:
        bad.broken = True
        ways, pool = ways_of(bad.url, good.url)
        async with HttpClient(SystemClock(), SeededRng(1), replace(CONFIG, ways=ways)) as asks:
            for _ in range(5):
                reply = await asks.get(url)
                assert reply.body == b"ok"
                assert reply.way.proxy is not None
                assert reply.way.proxy.url == good.url
        assert len(bad.heads) == 1
        scores = {each["proxy"]: each["score"] for each in pool.status("a.com")}
        assert scores[bad.url] < 0.7 < scores[good.url]


async def test_an_error_tells_whether_another_way_is_left() -> None:
    async with relaying() as first, relaying() as second:
        first.broken = second.broken = True
        ways, _ = ways_of(first.url, second.url)
        async with HttpClient(SystemClock(), SeededRng(1), replace(CONFIG, ways=ways, attempts=1)) as asks:
            told: list[bool] = []
            for _ in range(2):
                with pytest.raises(TransientError) as caught:
                    await asks.get("http://127.0.0.1:9/")
                told.append(caught.value.elsewhere)
            assert told == [True, False]
            with pytest.raises(RateLimited, match="all 2 proxies rest") as limited:
                await asks.get("http://127.0.0.1:9/")
            assert limited.value.retry_after > 25


async def test_without_a_proxy_there_is_no_other_way() -> None:
    ways, _ = ways_of(direct=True)
    way = await ways.take()
    assert way.proxy is None
    assert not ways.failed(way, "refused")
    assert (await ways.take()).identity is not way.identity


async def test_who_judges_for_itself_says_what_was_good() -> None:
    async with site(lambda _: web.Response(text="ok")) as url, relaying() as relay:
        ways, pool = ways_of(relay.url)
        async with HttpClient(SystemClock(), SeededRng(1), replace(CONFIG, ways=ways, judged=True)) as asks:
            reply = await asks.get(url)
        assert pool.status("a.com")[0]["score"] == 0.7
        ways.good(reply.way, reply.elapsed_s)
        assert pool.status("a.com")[0]["score"] > 0.7
