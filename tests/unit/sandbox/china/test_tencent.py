"""Tencent's answers in its own shapes, checked against what is true."""

from __future__ import annotations

import re

import pytest

_LINE = re.compile(r'v_(\w+)="(.*)";')


async def quotes(place, *symbols):
    reply = await place.get(f"/tencent/q={','.join(symbols)}")
    assert reply.status == 200
    found = [_LINE.fullmatch(line) for line in reply.body.decode("gbk").splitlines()]
    return {line[1]: line[2].split("~") for line in found}


async def test_quotes_are_what_is_true(sites, truth):
    place = await sites()
    true = {key.lower(): row for key, row in (await truth(place)).items()}
    said = {}
    for begin in range(0, len(true), 80):
        said |= await quotes(place, *list(true)[begin : begin + 80])
    assert list(said) == list(true)
    for symbol, row in true.items():
        fields = said[symbol]
        assert len(fields) == 88
        assert fields[2] == row["code"]
        assert fields[0] == {"sh": "1", "sz": "51", "bj": "62"}[symbol[:2]]
        assert fields[40] == {"suspended": "S", "delisted": "D", "unlisted": "U", "trading": ""}[row["status"]]
        if row["open"] is None:
            continue
        assert [float(fields[at]) for at in (3, 4, 5, 33, 34)] == [
            row[name] for name in ("last", "pre_close", "open", "high", "low")
        ]
        lot = 1 if symbol.startswith("sh688") else 100
        assert abs(int(fields[6]) * lot - row["volume"]) <= lot // 2
        assert fields[6] == fields[36]
        assert int(fields[7]) + int(fields[8]) == int(fields[6])
        last, volume, amount = fields[35].split("/")
        assert (last, volume, int(amount)) == (fields[3], fields[6], int(row["amount"]))
        assert fields[30] == "20261201113000"
        assert float(fields[31]) == pytest.approx(row["last"] - row["pre_close"], abs=0.001)


async def test_unknown_codes_and_too_many(sites):
    place = await sites()
    assert await quotes(place, "sh999999") == {"pv_none_match": ["1"]}
    symbols = place.sandbox.china.market.listing.symbols[:100]
    assert list(await quotes(place, *symbols)) == list(symbols[:80])


@pytest.mark.parametrize(("adjusted", "key"), [("", "day"), ("qfq", "qfqday"), ("hfq", "hfqday")])
async def test_daily_bars(sites, truth, adjusted, key):
    place = await sites()
    params = {"param": f"sh688981,day,2026-11-01,2026-12-31,640,{adjusted}", "_var": "kline_day"}
    text = (await place.get("/tencent/appstock/app/fqkline/get", params=params)).body
    assert text.startswith(b"kline_day={")
    bare = await place.get("/tencent/appstock/app/fqkline/get", params={"param": params["param"]})
    rows = bare.body["data"]["sh688981"][key]
    true = (await truth(place))["SH688981"]
    assert rows[-1][0] == "2026-12-01"
    assert [float(value) for value in rows[-1][1:5]] == [true[name] for name in ("open", "last", "high", "low")]
    assert float(rows[-1][5]) == true["volume"]
    assert rows[0][0] >= "2026-11-02"


async def test_minute_bars(sites, truth):
    place = await sites()
    reply = await place.get("/tencent/appstock/app/kline/mkline", params={"param": "sh600519,m5,,320"})
    rows = reply.body["data"]["sh600519"]["m5"]
    assert len(rows) == 320
    today = [row for row in rows if row[0].startswith("20261201")]
    true = (await truth(place))["SH600519"]
    assert today[-1][0] == "202612011130"
    assert sum(float(row[5]) for row in today) * 100 == pytest.approx(true["volume"], abs=50 * len(today))
    assert float(today[-1][2]) == true["last"]


async def test_the_minutes_of_today_add_up(sites, truth):
    place = await sites(session_at="2026-12-01T15:30:00+08:00")
    reply = await place.get("/tencent/appstock/app/minute/query", params={"code": "sh600519"})
    rows = [line.split() for line in reply.body["data"]["sh600519"]["data"]["data"]]
    assert [row[0] for row in rows[:2]] == ["0930", "0931"]
    assert len(rows) == 242
    assert [row[0] for row in rows if row[0] in ("1130", "1300", "1301")] == ["1130", "1300", "1301"]
    true = (await truth(place))["SH600519"]
    assert [float(rows[-1][1]), float(rows[-1][3])] == [true["last"], true["amount"]]
    volumes = [int(row[2]) for row in rows]
    assert volumes == sorted(volumes)
    assert abs(volumes[-1] * 100 - true["volume"]) <= 50


async def test_faults(sites, faulty):
    place = await sites()
    before = await quotes(place, "sh600519", "sh688981")
    await faulty(place, "tencent", lots=True)
    after = await quotes(place, "sh600519", "sh688981")
    assert round(int(after["sh600519"][6]) / 100) == pytest.approx(int(before["sh600519"][6]), abs=1)
    assert int(after["sh688981"][6]) == pytest.approx(int(before["sh688981"][6]) / 100, abs=1)
    await faulty(place, "tencent", renamed=True)
    assert (await quotes(place, "sh600519"))["sh600519"][2:] == before["sh600519"][1:]
    await faulty(place, "tencent", new_key=True)
    assert len((await quotes(place, "sh600519"))["sh600519"]) == 89
