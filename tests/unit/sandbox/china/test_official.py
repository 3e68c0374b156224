"""The exchanges' calendar and lists."""

from __future__ import annotations

import io

import msgspec
import openpyxl

REFERER = {"Referer": "https://www.sse.com.cn/"}


async def test_the_calendar_of_a_month(sites):
    place = await sites()
    path = "/szse/api/report/exchange/onepersistenthour/monthList"
    body = (await place.get(path, params={"month": "2026-11"})).body
    assert body["nowdate"] == "2026-12-01"
    assert len(body["data"]) == 30
    assert body["data"][0] == {"zrxh": 1, "jybz": "0", "jyrq": "2026-11-01"}
    assert sum(day["jybz"] == "1" for day in body["data"]) == 21
    assert (await place.get(path, params={"month": "2026-13"})).body["data"] == []


async def test_the_lists_are_those_of_the_market(sites, truth):
    place = await sites()
    true = await truth(place)
    listed = {row["code"] for row in true.values() if row["status"] not in ("delisted", "unlisted")}
    found = []
    for kind in ("1", "8"):
        params = {"STOCK_TYPE": kind, "pageHelp.pageSize": "10000", "pageHelp.pageNo": "1"}
        reply = await place.get("/sse/sseQuery/commonQuery.do", params=params, headers=REFERER)
        found += [row["A_STOCK_CODE"] for row in reply.body["result"]]
    raw = (await place.get("/szse/api/report/ShowReport", params={"SHOWTYPE": "xlsx"})).body
    rows = list(openpyxl.load_workbook(io.BytesIO(raw)).active.iter_rows(values_only=True))
    assert rows[0][2] == "A股代码"
    sheet = [row[2] for row in rows[1:]]
    pages = []
    for page in range(1, 20):
        (report,) = (await place.get("/szse/api/report/ShowReport/data", params={"PAGENO": str(page)})).body
        pages += [row["agdm"] for row in report["data"]]
    assert pages == sheet
    raw = (await place.get("/bse/nqxxController/nqxxCnzq.do", params={"page": "0"})).body
    (content,) = msgspec.json.decode(raw.removeprefix(b"null(").removesuffix(b")"))
    found += sheet + [row["xxzqdm"] for row in content["content"]]
    assert content["totalPages"] == 1
    indices = {"000001", "000016", "000300", "000688", "000852", "000905", "399001", "399006", "899050"}
    assert set(found) - indices == listed - indices
    assert len(found) == len(set(found))


async def test_the_exchange_wants_its_own_page_as_referer(sites):
    place = await sites()
    assert (await place.get("/sse/sseQuery/commonQuery.do", params={"STOCK_TYPE": "1"})).status == 403
