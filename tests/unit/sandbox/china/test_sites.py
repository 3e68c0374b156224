"""The sites together: what is true, what was asked, a clock of their own, and how they break."""

from __future__ import annotations

import aiohttp
import pytest

from tidewire.errors import InputError
from tidewire.sandbox.config import ChinaFaults, Faults, SiteFaults
from tidewire.sandbox.server import Sandbox, SandboxConfig

QUOTE = "/tencent/q=sh600519"


async def test_what_is_true_of_any_time(sites, truth):
    place = await sites()
    now = await truth(place)
    assert now == await truth(place, "2026-12-01T11:30:00+08:00")
    before = await truth(place, "2026-12-01T09:10:00+08:00")
    row = before["SH600519"]
    assert (row["last"], row["volume"], row["open"]) == (row["pre_close"], 0, None)
    earlier = await truth(place, "2026-11-30T20:00:00+08:00")
    assert earlier["SH600519"]["last"] == row["pre_close"]
    statuses = {row["status"] for row in now.values()}
    assert {"trading", "delisted", "unlisted"} <= statuses
    assert {None} == {row["last"] for row in now.values() if row["status"] == "unlisted"}
    body = (await place.get("/sandbox/china")).body
    assert (body["day"], body["time"], body["tick"]) == ("2026-12-01", "11:30:00", 2_400)


@pytest.mark.parametrize("at", ["yesterday", "2026-12-01T10:00:00"])
async def test_a_time_that_is_none(sites, at):
    place = await sites()
    reply = await place.get("/sandbox/china", params={"at": at})
    assert reply.status == 400
    assert "with an offset" in reply.body["error"]


async def test_requests_are_counted(sites):
    place = await sites()
    for _ in range(3):
        await place.get(QUOTE)
    await place.get("/sina/list=sh600519")
    counts = (await place.get("/sandbox/china")).body["requests"]
    assert counts == {"eastmoney": {}, "sina": {"list": 1}, "tencent": {"q": 3}, "official": {}}


async def test_every_answer_says_the_time_and_that_it_runs(sites):
    place = await sites(session_speed=10.0)
    clock = place.sandbox._clock._clock
    first = await place.get(QUOTE)
    await clock.advance(1.5)
    for path in (QUOTE, "/api/v3/time", "/sandbox/status"):
        reply = await place.get(path)
        assert reply.headers["X-Tidewire-Speed"] == "10"
        assert int(reply.headers["X-Tidewire-Time"]) - int(first.headers["X-Tidewire-Time"]) == 15 * 10**9


async def test_without_a_session_the_time_is_the_machines(local):
    place = await local(symbols=("BTCUSDT",), rate=1.0, china_stocks=20)
    reply = await place.get(QUOTE)
    assert "X-Tidewire-Time" not in reply.headers


async def test_windows_in_which_one_site_is_gone(sites, faulty):
    place = await sites()
    clock = place.sandbox._clock._clock
    await faulty(place, "tencent", drop_windows=[20, 100])
    gone = []
    for _ in range(200):
        try:
            await place.get(QUOTE)
            gone.append(False)
        except aiohttp.ClientConnectionError:
            gone.append(True)
        await clock.advance(1.0)
    assert sum(gone) == 40
    assert gone[:100] == gone[100:]
    assert (await place.get("/eastmoney/api/qt/clist/get")).status == 200
    counts = (await place.get("/sandbox/china")).body["requests"]
    assert counts["tencent"]["q"] - counts["tencent"]["dropped"] == 160  # a client may try a broken one again


async def test_a_page_that_says_one_is_blocked(sites, faulty):
    place = await sites()
    await faulty(place, "eastmoney", block_page=True)
    reply = await place.get("/eastmoney/api/qt/clist/get")
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("text/html")
    assert b"<html>" in reply.body
    assert (await place.get(QUOTE)).body.startswith(b"v_sh600519")


async def test_quotes_that_stand_still(sites, faulty):
    place = await sites(session_at="2026-12-01T10:00:00+08:00")
    clock = place.sandbox._clock._clock
    first = (await place.get(QUOTE)).body
    await faulty(place, "tencent", stale=True)
    await clock.advance(600.0)
    assert (await place.get(QUOTE)).body == first
    moved = (await place.get("/eastmoney/api/qt/stock/get?secid=1.600519&fields=f86")).body
    assert moved["data"]["f86"] % 86_400 == 2 * 3_600 + 600
    await faulty(place, "tencent")
    assert (await place.get(QUOTE)).body != first


async def test_sites_are_away_with_the_venue(sites):
    place = await sites()
    await place.post("/sandbox/faults", {"away_s": -1})
    with pytest.raises(aiohttp.ClientConnectionError):
        await place.get(QUOTE)


async def test_an_unknown_switch_is_an_error(sites):
    place = await sites()
    reply = await place.post("/sandbox/faults", {"china": {"sina": {"lost": True}}})
    assert reply.status == 400
    assert "lost" in reply.body["error"]
    assert Faults().china == ChinaFaults(sina=SiteFaults())


def test_there_are_none_unless_asked_for():
    with pytest.raises(InputError, match="set china_stocks"):
        _ = Sandbox(SandboxConfig(history_hours=1)).china


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"session_at": "2026-12-01T09:30:00"}, "with an offset"),
        ({"session_at": "2026-12-01T09:30:00+08:00", "start_ns": 5}, "have a clock"),
        ({"session_speed": 0.0}, "session_speed is 0"),
        ({"china_history_days": 0}, "valid is 1 to 2500"),
    ],
)
def test_configurations_that_cannot_be(config, said):
    with pytest.raises(InputError, match=said):
        SandboxConfig(**config)
