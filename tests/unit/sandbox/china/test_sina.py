"""Sina's answers in its own shapes, checked against what is true."""

from __future__ import annotations

import asyncio
import re

import aiohttp
import msgspec
import pytest

from unit.sandbox.china.kit import at_ns

REFERER = {"Referer": "https://finance.sina.com.cn"}
ORIGIN = {"Origin": "https://finance.sina.com.cn"}
_LINE = re.compile(r'var hq_str_(\w+)="(.*)";')


async def quotes(place, *symbols):
    reply = await place.get(f"/sina/list={','.join(symbols)}", headers=REFERER)
    assert reply.status == 200
    lines = reply.body.decode("gbk").splitlines()
    return {found[1]: found[2].split(",") for line in lines if (found := _LINE.fullmatch(line))}


async def test_quotes_are_what_is_true(sites, truth):
    place = await sites()
    true = {key.lower(): row for key, row in (await truth(place)).items() if not key.startswith("SH000")}
    said = await quotes(place, *true)
    assert list(said) == list(true)
    for symbol, row in true.items():
        fields = said[symbol]
        if row["status"] in ("delisted", "unlisted"):
            assert fields == [""]
            continue
        assert len(fields) == 33
        assert fields[32] == ("03" if row["status"] == "suspended" else "00")
        assert float(fields[2]) == row["pre_close"]
        if row["open"] is not None and not symbol.startswith(("sz399", "bj899")):
            values = [row[name] for name in ("open", "last", "high", "low", "volume", "amount")]
            assert [float(fields[at]) for at in (1, 3, 4, 5, 8, 9)] == values
            assert fields[30:32] == ["2026-12-01", "11:30:00"]


async def test_unknown_codes_are_empty(sites):
    place = await sites()
    said = await quotes(place, "sh999999", "sh600519")
    assert said["sh999999"] == [""]
    assert said["sh600519"][0] == "贵州茅台"
    assert len(await quotes(place, *["sh600519"] * 3, *(f"sh9{at:05d}" for at in range(900)))) == 1 + 797


async def test_who_comes_from_elsewhere_is_refused(sites):
    place = await sites()
    assert (await place.get("/sina/list=sh600519")).status == 403
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await session.ws_connect(place.sandbox.url + "/sina/wskt?list=sh600519")


async def test_push_tells_all_at_first_and_then_what_changed(sites):
    place = await sites(session_at="2026-12-01T10:00:00+08:00")
    clock = place.sandbox._clock._clock
    symbols = place.sandbox.china.market.listing.symbols[:30]
    async with (
        aiohttp.ClientSession() as session,
        asyncio.timeout(20),
        session.ws_connect(f"{place.sandbox.url}/sina/wskt?list={','.join(symbols)}", headers=ORIGIN) as socket,
    ):
        first = (await socket.receive_str()).splitlines()
        assert [line.partition("=")[0] for line in first] == list(symbols)
        told = dict(line.split("=", 1) for line in first)
        for _ in range(3):
            hears = asyncio.create_task(socket.receive_str())
            while not hears.done():
                await clock.advance(0.5)
            news = dict(line.split("=", 1) for line in hears.result().splitlines())
            assert 0 < len(news) < len(symbols)
            assert all(told[symbol] != line for symbol, line in news.items())
            told.update(news)
            sent_at = max(line.split(",")[31] for line in news.values())
            lines = lines_at(place, f"2026-12-01T{sent_at}")
            for symbol in symbols:  # the time alone is no news
                assert told[symbol].split(",")[:30] == lines[symbol].split(",")[:30]


def lines_at(place, time):
    china = place.sandbox.china
    made = china.sina._made(china.market.quotes(china.market.moment(at_ns(time))))
    return dict(zip(china.market.listing.symbols, made, strict=True))


async def test_pages_of_the_market(sites, truth):
    place = await sites()
    base = "/sina/quotes_service/api/json_v2.php/Market_Center."
    count = int((await place.get(f"{base}getHQNodeStockCount?node=hs_a")).body.decode().strip('"'))
    rows = []
    for page in (1, 2, 3):
        params = {"page": str(page), "num": "80", "sort": "symbol", "asc": "1", "node": "hs_a"}
        body = (await place.get(f"{base}getHQNodeData", params=params)).body.decode("gbk")
        if body == "null":
            break
        assert body.startswith('[{symbol:"')
        rows += msgspec.json.decode(re.sub(r"([{,])(\w+):", r'\1"\2":', body))
    assert page == 3
    assert len(rows) == count
    true = await truth(place)
    assert [row["symbol"] for row in rows] == sorted(row["symbol"] for row in rows)
    for row in rows:
        fact = true[row["symbol"].upper()]
        assert row["volume"] == fact["volume"]
        assert row["amount"] == fact["amount"]
        assert float(row["trade"]) == (fact["last"] if fact["open"] else 0)


@pytest.mark.parametrize("scale", [5, 15, 30, 60, 240])
async def test_bars(sites, truth, scale):
    place = await sites()
    path = "/sina/cn/api/jsonp_v2.php/var%20_x=/CN_MarketDataService.getKLineData"
    reply = await place.get(path, params={"symbol": "sh600519", "scale": str(scale), "ma": "no", "datalen": "5000"})
    text = reply.body.decode()
    assert text.startswith("/*<script>location.href='//sina.com';</script>*/\nvar _x=([{")
    bars = msgspec.json.decode(text.split("=(")[1].removesuffix(");"))
    assert (
        {5: 1_969, 15: 1_969, 30: 1_850, 60: 900, 240: 230}[scale] < len(bars) <= {60: 998, 240: 250}.get(scale, 1_970)
    )
    today = [bar for bar in bars if bar["day"].startswith("2026-12-01")]
    true = (await truth(place))["SH600519"]
    assert sum(int(bar["volume"]) for bar in today) == true["volume"]
    assert float(today[-1]["close"]) == true["last"]
    assert float(today[0]["open"]) == true["open"]
    missing = await place.get(path, params={"symbol": "sh999999", "scale": "5"})
    assert missing.body.endswith(b"(null);")


async def test_faults(sites, faulty):
    place = await sites()
    before = await quotes(place, "sh600519", "sz000001")
    await faulty(place, "sina", lots=True)
    assert int((await quotes(place, "sh600519"))["sh600519"][8]) == round(int(before["sh600519"][8]) / 100)
    await faulty(place, "sina", renamed=True)
    assert (await quotes(place, "sh600519"))["sh600519"][2:] == before["sh600519"][1:]
    await faulty(place, "sina", garbage=True)
    raw = await place.get("/sina/list=sh600519,sz000001", headers=REFERER)
    with pytest.raises(UnicodeDecodeError):
        raw.body.decode("gbk")
    await faulty(place, "sina", page_cap=1)
    assert list(await quotes(place, "sh600519", "sz000001")) == ["sh600519"]
    await faulty(place, "sina")
    assert await quotes(place, "sh600519", "sz000001") == before
