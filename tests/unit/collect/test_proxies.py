"""Pools of proxies: where they come from, who is taken, who rests; logins are never shown."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from tidewire import telemetry
from tidewire.collect.proxies import (
    HALF_LIFE_S,
    PRIOR,
    PROXIES_MAX,
    REST_S,
    REST_S_MAX,
    Pool,
    PoolConfig,
    Proxies,
    Proxy,
    proxies_told,
    proxy_of,
)
from tidewire.errors import ConfigError, RateLimited
from tidewire.records.clock import ManualClock, SeededRng
from unit.collect.relay import site

PLAIN = frozenset({"http", "https"})
TWO = ("http://a:1", "http://b:2")


def pool(clock: ManualClock, config: PoolConfig, name: str = "test") -> Pool:
    return Pool(name, config, clock, SeededRng(1))


async def taken(of: Pool, count: int = 200) -> Counter[str]:
    found = [await of.take("a.com", PLAIN) for _ in range(count)]
    return Counter("" if each is None else each.url for each in found)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("1.2.3.4:8080", "http://1.2.3.4:8080"),
        (" http://u:p@h:1 ", "http://u:p@h:1"),
        ("socks5://h:1080", "socks5://h:1080"),
        ("https://h:443", "https://h:443"),
    ],
)
def test_a_proxy_is_written_with_a_port(text: str, url: str) -> None:
    assert proxy_of(text, "x").url == url


@pytest.mark.parametrize("text", ["", "http://", "h", "http://u:hunter2@h", "ftp://h:1", "http://u:hunter2@h:port"])
def test_what_is_no_proxy_is_refused_without_its_login(text: str) -> None:
    with pytest.raises(ConfigError, match=r"x: .* is no proxy; write http") as caught:
        proxy_of(text, "x")
    assert "hunter2" not in str(caught.value)


def test_a_login_is_never_shown() -> None:
    proxy = proxy_of("http://user:hunter2@h:1", "x")
    of = pool(ManualClock(), PoolConfig(listed=("http://user:hunter2@h:1",)))
    of.failed(proxy, "a.com", "http://user:hunter2@h:1 hung up")
    for shown in (repr(proxy), proxy.shown, repr(of.config), str(of.status("a.com"))):
        assert "hunter2" not in shown
    assert of.status("a.com")[0]["proxy"] == "http://***@h:1"


LISTS = [
    b"1.2.3.4:80\n\n# comment\nhttp://u:p@h:1\n",
    b'["1.2.3.4:80", "http://u:p@h:1"]',
    b'{"code": 0, "data": [{"ip": "1.2.3.4", "port": 80}, {"host": "h", "port": "1", "user": "u", "password": "p"}]}',
    b'{"proxies": [{"proxy": "1.2.3.4:80"}, {"proxy": "http://u:p@h:1"}]}',
    b'{"data": {"list": ["1.2.3.4:80", "http://u:p@h:1"]}}',
]


@pytest.mark.parametrize("data", LISTS)
def test_proxies_are_told_in_lines_or_json(data: bytes) -> None:
    assert [each.url for each in proxies_told(data, "x")] == ["http://1.2.3.4:80", "http://u:p@h:1"]


def test_one_proxy_as_an_object() -> None:
    assert proxies_told(b'{"proxy": "1.2.3.4:80", "https": false}', "x") == [Proxy("http://1.2.3.4:80")]


@given(st.binary(max_size=200))
def test_whatever_is_told_is_a_list_or_a_clear_error(data: bytes) -> None:
    for given_ in (data, b"[" + data + b"]", b'{"data": ' + data + b"}"):
        try:
            assert all(isinstance(each, Proxy) for each in proxies_told(given_, "x"))
        except ConfigError:
            continue


async def test_the_better_and_faster_are_taken_more_often() -> None:
    clock = ManualClock()
    of = pool(clock, PoolConfig(listed=TWO))
    fair = await taken(of)
    assert min(fair.values()) > 60
    for _ in range(20):
        of.good(Proxy(TWO[0]), "a.com", 0.1)
        of.good(Proxy(TWO[1]), "a.com", 9.0)
    rated = await taken(of)
    assert rated[TWO[0]] > 3 * rated[TWO[1]] > 0


async def test_what_fails_rests_twice_as_long_each_time_and_only_there() -> None:
    clock = ManualClock()
    of, bad = pool(clock, PoolConfig(listed=TWO)), Proxy(TWO[0])
    rests = [of.failed(bad, "a.com", "hung up") for _ in range(12)]
    for number, rest_s in enumerate(rests):
        least = min(REST_S * 2**number, REST_S_MAX)
        assert least <= rest_s <= 1.3 * least
    assert set(await taken(of)) == {TWO[1]}
    assert await of.take("other.com", PLAIN) is not None
    assert of.status("other.com")[0]["rested_until_ns"] is None
    await clock.advance(1.3 * REST_S_MAX)
    assert (await taken(of, 2000))[TWO[0]] > 0


async def test_when_all_rest_it_says_until_when_and_goes_without_one_only_where_it_may() -> None:
    clock = ManualClock()
    of = pool(clock, PoolConfig(listed=TWO))
    for url in TWO:
        of.failed(Proxy(url), "a.com", "hung up")
    with pytest.raises(RateLimited, match=r"all 2 proxies rest at a\.com") as caught:
        await of.take("a.com", PLAIN)
    assert REST_S <= caught.value.retry_after <= 1.3 * REST_S
    assert not of.others("a.com", PLAIN)
    may = pool(clock, PoolConfig(listed=TWO[:1], direct=True))
    may.failed(Proxy(TWO[0]), "a.com", "hung up")
    assert await may.take("a.com", PLAIN) is None
    assert may.others("a.com", PLAIN)


async def test_what_was_long_ago_fades() -> None:
    clock = ManualClock()
    of = pool(clock, PoolConfig(listed=TWO))
    for _ in range(30):
        of.good(Proxy(TWO[0]), "a.com", 0.1)
    before = of.status("a.com")[0]["score"]
    assert before > 0.99
    await clock.advance(HALF_LIFE_S)
    assert of.status("a.com")[0]["score"] == pytest.approx((before + PRIOR) / 2, abs=0.01)


async def test_a_client_is_given_what_it_can_use() -> None:
    of = pool(ManualClock(), PoolConfig(listed=("socks5://h:1",)))
    with pytest.raises(RateLimited, match="no proxy to ask with: it has 1, none of http, https"):
        await of.take("a.com", PLAIN)
    assert await of.take("a.com", frozenset({"socks5"})) == Proxy("socks5://h:1")


async def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    clock, file = ManualClock(), tmp_path / "list.txt"
    of = pool(clock, PoolConfig(file=file))
    with pytest.raises(RateLimited, match="FileNotFoundError"):
        await of.take("a.com", PLAIN)
    await clock.advance(REST_S)
    file.write_text("a:1\n")
    assert set(await taken(of)) == {"http://a:1"}
    of.failed(Proxy("http://a:1"), "a.com", "hung up")
    file.write_text("b:2\n")
    os.utime(file, ns=(1, 1))
    await clock.advance(1.0)
    assert set(await taken(of)) == {"http://b:2"}
    file.write_text("no proxy at all\n")
    os.utime(file, ns=(2, 2))
    await clock.advance(1.0)
    assert set(await taken(of)) == {"http://b:2"}, "what was known stays"


async def test_an_address_is_asked_at_an_interval_and_what_was_known_stays() -> None:
    clock, asked = ManualClock(), 0
    says = [web.Response(text="a:1"), web.Response(text="b:2"), web.Response(status=500)]

    def answer(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return says[asked - 1]

    async with site(answer) as url:
        of = pool(clock, PoolConfig(url=f"{url}/?token=hunter2", refresh_s=60.0), "asked")
        assert set(await taken(of)) == {"http://a:1"}
        assert asked == 1
        await clock.advance(60.0)
        assert set(await taken(of)) == {"http://b:2"}
        await clock.advance(60.0)
        assert set(await taken(of)) == {"http://b:2"}
        assert asked == 3
    assert telemetry.value("tidewire_collect_proxies", pool="asked") == 1


async def test_a_list_is_bounded() -> None:
    async with site(lambda _: web.Response(text="\n".join(f"h:{1 + each}" for each in range(2000)))) as url:
        of = pool(ManualClock(), PoolConfig(url=url))
        await of.take("a.com", PLAIN)
        assert len(of.status("a.com")) == PROXIES_MAX
    async with site(lambda _: web.Response(text="#" * (2 << 20))) as url:
        of = pool(ManualClock(), PoolConfig(url=url))
        with pytest.raises(RateLimited, match="longer than"):
            await of.take("a.com", PLAIN)


def test_a_pool_that_is_not_there_is_named_with_the_nearest() -> None:
    pools = Proxies({"cheap": pool(ManualClock(), PoolConfig(listed=TWO), "cheap")})
    assert pools.get("cheap").name == "cheap"
    with pytest.raises(ConfigError, match=r"no pool of proxies 'chep'\. Did you mean 'cheap'"):
        pools.get("chep")
