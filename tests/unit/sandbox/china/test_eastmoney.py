"""Eastmoney's answers in its own shapes, checked against what is true."""

from __future__ import annotations

import itertools

import msgspec
import pytest

LISTS = "/eastmoney/api/qt/clist/get"
ALL = "m:0 t:6,m:0 t:80,m:1 t:2,m:1 t:23,m:0 t:81 s:2048"
FIELDS = "f2,f3,f4,f5,f6,f12,f13,f14,f15,f16,f17,f18"


async def ask(place, path, **params):
    reply = await place.get(path, params={name: str(value) for name, value in params.items()})
    assert reply.status == 200
    return reply.body


async def everything(place, **params):
    rows, total, page = [], None, 1
    while True:
        body = await ask(place, LISTS, pn=page, pz=200, np=1, fltt=2, fs=ALL, fields=FIELDS, **params)
        if body["data"] is None:
            assert body["rc"] == 102
            return rows, total
        rows, total, page = rows + body["data"]["diff"], body["data"]["total"], page + 1


async def test_the_whole_market_is_what_is_true(sites, truth):
    place = await sites()
    rows, total = await everything(place, po=0, fid="f12")
    assert total == len(rows) == 120
    codes = [row["f12"] for row in rows]
    assert codes == sorted(codes)
    true = {row["code"]: row for key, row in (await truth(place)).items() if key != "SH000001"}
    names = {"f2": "last", "f15": "high", "f16": "low", "f17": "open", "f6": "amount"}
    for row in rows:
        fact = true[row["f12"]]
        assert row["f13"] == (fact["exchange"] == "SH")
        if fact["open"] is None:
            assert {row[name] for name in names} == {"-"}
            assert row["f5"] == "-"
        else:
            assert {name: row[name] for name in names} == {name: fact[word] for name, word in names.items()}
            assert abs(row["f5"] * 100 - fact["volume"]) <= 50
            assert row["f3"] == pytest.approx((fact["last"] / fact["pre_close"] - 1) * 100, abs=0.0051)
        assert row["f18"] == ("-" if fact["status"] == "unlisted" else fact["pre_close"])


async def test_pages_hold_a_hundred_at_most(sites):
    place = await sites()
    body = await ask(place, LISTS, pn=1, pz=5_000, np=1, fs=ALL, fields="f12")
    assert len(body["data"]["diff"]) == 100
    assert list(body) == ["rc", "rt", "svr", "lt", "full", "dlmkts", "dsc", "data"]


async def test_forms_of_numbers_and_of_the_list(sites):
    place = await sites()
    floats = await ask(place, "/eastmoney/api/qt/ulist.np/get", secids="1.600519", fltt=2, fields=FIELDS)
    whole = await ask(place, LISTS, pn=1, pz=100, po=0, fid="f12", fs="m:1 t:2", fields=FIELDS)
    diff = whole["data"]["diff"]
    assert list(diff) == [str(at) for at in range(len(diff))]
    row = next(row for row in diff.values() if row["f12"] == "600519")
    (other,) = floats["data"]["diff"]
    assert row["f2"] == round(other["f2"] * 100)
    assert row["f3"] == round(other["f3"] * 100)
    assert row["f5"] == other["f5"]
    assert row["f6"] == other["f6"]


async def test_a_callback_wraps_the_answer(sites):
    place = await sites()
    reply = await place.get(LISTS, params={"cb": "jQ35_1", "fs": ALL, "pz": "1", "fields": "f12"})
    assert reply.body.startswith(b'jQ35_1({"rc":0,')
    assert reply.body.endswith(b"});")
    odd = await place.get(LISTS, params={"cb": "alert(1)//", "fs": ALL, "pz": "1", "fields": "f12"})
    assert msgspec.json.decode(odd.body if isinstance(odd.body, bytes) else msgspec.json.encode(odd.body))["rc"] == 0


async def test_the_order_asked_for(sites):
    place = await sites()
    rows, _ = await everything(place, po=1, fid="f3")
    values = [row["f3"] for row in rows if row["f3"] != "-"]
    assert values == sorted(values, reverse=True)
    assert [row["f3"] for row in rows[len(values) :]] == ["-"] * (len(rows) - len(values))


async def test_one_stock_has_numbers_of_its_own(sites, truth):
    place = await sites()
    fields = "f43,f44,f45,f46,f47,f48,f57,f58,f60,f19,f20,f39,f40"
    body = await ask(place, "/eastmoney/api/qt/stock/get", secid="1.600519", fltt=2, fields=fields)
    true = (await truth(place))["SH600519"]
    said = body["data"]
    words = ("last", "high", "low", "open")
    assert [said[name] for name in ("f43", "f44", "f45", "f46")] == [true[word] for word in words]
    assert (said["f57"], said["f58"], said["f60"]) == ("600519", "贵州茅台", true["pre_close"])
    assert said["f19"] < said["f39"]
    missing = await ask(place, "/eastmoney/api/qt/stock/get", secid="1.999999", fields=fields)
    assert (missing["rc"], missing["data"]) == (100, None)


@pytest.mark.parametrize(("kind", "rows"), [(1, 4 * 240 + 120), (5, 40 * 48 - 24), (60, 40 * 4 - 2)])
async def test_minute_bars(sites, truth, kind, rows):
    place = await sites()
    path = "/eastmoney/api/qt/stock/kline/get"
    body = await ask(place, path, secid="1.600519", klt=kind, fqt=0, beg=0, end=20500000)
    bars = [line.split(",") for line in body["data"]["klines"]]
    assert len(bars) == rows
    true = (await truth(place))["SH600519"]
    today = [bar for bar in bars if bar[0].startswith("2026-12-01")]
    assert float(today[0][1]) == true["open"]
    assert float(today[-1][2]) == true["last"]
    assert max(float(bar[3]) for bar in today) == true["high"]
    assert min(float(bar[4]) for bar in today) == true["low"]
    assert sum(float(bar[6]) for bar in today) == pytest.approx(true["amount"], abs=0.01 * len(today))
    assert sum(int(bar[5]) for bar in today) * 100 == pytest.approx(true["volume"], abs=50 * len(today))
    assert today[-1][0] == "2026-12-01 11:30"


async def test_days_weeks_and_months(sites, truth):
    place = await sites()
    path = "/eastmoney/api/qt/stock/kline/get"
    days = await ask(place, path, secid="1.600519", klt=101, fqt=0, beg=20261101, end=20261201)
    bars = [line.split(",") for line in days["data"]["klines"]]
    true = (await truth(place))["SH600519"]
    assert [float(bars[-1][at]) for at in (1, 2, 3, 4)] == [true[name] for name in ("open", "last", "high", "low")]
    assert float(bars[-1][6]) == true["amount"]
    assert bars[0][0] >= "2026-11-02"
    for before, bar in itertools.pairwise(bars):
        assert float(bar[9]) == pytest.approx(float(bar[2]) - float(before[2]), abs=0.001)
    month = await ask(place, path, secid="1.600519", klt=103, fqt=0, beg=20261101, end=20261130)
    (line,) = month["data"]["klines"]
    november = [bar for bar in bars if bar[0] < "2026-12"]
    assert line.split(",")[1:3] == [november[0][1], november[-1][2]]
    last = await ask(place, path, secid="1.600519", klt=101, lmt=2)
    assert [row.split(",")[0] for row in last["data"]["klines"]] == ["2026-11-30", "2026-12-01"]


async def test_minutes_of_today(sites, truth):
    place = await sites()
    body = await ask(place, "/eastmoney/api/qt/stock/trends2/get", secid="1.600519", ndays=1)
    rows = [line.split(",") for line in body["data"]["trends"]]
    assert len(rows) == 121
    assert rows[0][0] == "2026-12-01 09:30"
    true = (await truth(place))["SH600519"]
    assert float(rows[-1][2]) == true["last"]
    assert float(rows[-1][7]) == pytest.approx(true["amount"] / true["volume"], abs=0.001)


async def test_faults(sites, truth, faulty):
    place = await sites()
    params = {"fs": "m:1 t:2", "pn": 1, "pz": 100, "po": 0, "fid": "f12", "np": 1, "fltt": 2, "fields": "f2,f5,f6,f12"}
    before = await ask(place, LISTS, **params)
    await faulty(place, "eastmoney", page_cap=3)
    assert len((await ask(place, LISTS, **params))["data"]["diff"]) == 3
    await faulty(place, "eastmoney", new_key=True)
    body = await ask(place, LISTS, **params)
    assert set(body) - set(before) == {"nwk"}
    assert set(body["data"]["diff"][0]) - set(before["data"]["diff"][0]) == {"f9999"}
    await faulty(place, "eastmoney", renamed=True)
    row = (await ask(place, LISTS, **params))["data"]["diff"][0]
    assert "f6" not in row
    assert row["f6006"] == before["data"]["diff"][0]["f6"]
    await faulty(place, "eastmoney", lots=True)
    true = {row["code"]: row for key, row in (await truth(place)).items() if key.startswith("SH6")}
    for row in (await ask(place, LISTS, **params))["data"]["diff"]:
        assert row["f5"] in ("-", true[row["f12"]]["volume"])
    await faulty(place, "eastmoney", garbage=True)
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        await ask(place, LISTS, **params)
