"""What the exchanges themselves publish: the calendar, and who is listed; below ``/szse``, ``/sse`` and ``/bse``.

Only the keys of Beijing's list that stand in `_bse_row` are served; the exchange has more.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any
from xml.sax.saxutils import escape

import msgspec
import numpy as np
from aiohttp import web

from tidewire.records.clock import Clock
from tidewire.sandbox.china.eastmoney_fields import INDUSTRIES
from tidewire.sandbox.china.listing import BSE, CHINEXT, SH_MAIN, STAR, SZ_MAIN
from tidewire.sandbox.china.noise import Ints, below
from tidewire.sandbox.china.session import ChinaMarket
from tidewire.sandbox.china.site import JSON, TEXT, Answer, Site, whole

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
_PAGE = 20
_HUNDRED_MILLION = 100_000_000
_HEADS = ("板块", "公司全称", "A股代码", "A股简称", "A股上市日期", "A股总股本", "A股流通股本", "所属行业")
_SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_KIND = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_KIND}.sheet.main+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_KIND}.worksheet+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_SHEET}" xmlns:r="{_OFFICE}">'
    '<sheets><sheet name="A股列表" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
}


class Official(Site):
    """The three exchanges."""

    def __init__(self, market: ChinaMarket, clock: Clock) -> None:
        super().__init__("official", market, clock)

    def route(self, router: web.UrlDispatcher) -> None:
        """Serve them."""
        router.add_get(
            "/szse/api/report/exchange/onepersistenthour/monthList", self.serve("szse calendar", self._calendar)
        )
        router.add_get("/szse/api/report/ShowReport", self.serve("szse list", self._szse_sheet))
        router.add_get("/szse/api/report/ShowReport/data", self.serve("szse list", self._szse_pages))
        router.add_get("/sse/sseQuery/commonQuery.do", self.serve("sse list", self._sse))
        router.add_get("/bse/nqxxController/nqxxCnzq.do", self.serve("bse list", self._bse))
        router.add_post("/bse/nqxxController/nqxxCnzq.do", self.serve("bse list", self._bse))

    def _calendar(self, request: web.Request) -> Answer:
        today = self.market.moment().date
        try:
            first = date.fromisoformat(f"{request.query.get('month', today.isoformat()[:7])}-01")
        except ValueError:
            return _json({"data": [], "nowdate": str(today)})
        days = [first + timedelta(days=at) for at in range(31) if (first + timedelta(days=at)).month == first.month]
        said = [
            # Sunday is the first day of their week.
            {"zrxh": day.isoweekday() % 7 + 1, "jybz": str(int(self._opens(day))), "jyrq": str(day)}
            for day in days
        ]
        return _json({"data": said, "nowdate": str(today)})

    def _opens(self, day: date) -> bool:
        return self.market.days.is_session(day.toordinal())

    # --- who is listed

    def _listed(self, *boards: int) -> Ints:
        """Rows of the boards that are listed today; those delisted are in other lists."""
        listing = self.market.listing
        there = ~listing.gone & ~listing.unlisted & (listing.listed <= self.market.moment().day)
        return np.flatnonzero(there & np.isin(listing.board, boards))

    def _industry(self, row: int) -> str:
        return INDUSTRIES[
            int(
                below(len(INDUSTRIES), self.market.listing.seed, "industry", self.market.listing.ident[row : row + 1])[
                    0
                ]
            )
        ]

    def _day(self, row: int) -> date:
        return date.fromordinal(int(self.market.listing.listed[row]))

    def _sse(self, request: web.Request) -> Answer:
        if "sse.com.cn" not in request.headers.get("Referer", ""):
            return Answer(b"Forbidden", TEXT, 403)
        listing = self.market.listing
        rows = self._listed({"1": SH_MAIN, "8": STAR}.get(request.query.get("STOCK_TYPE", ""), -1))
        size = whole(request, "pageHelp.pageSize", 25, 1, self.faults.page_cap or 10_000)
        begin = (whole(request, "pageHelp.pageNo", 1, 1) - 1) * size
        found = [
            {
                "A_STOCK_CODE": listing.codes[row],
                "B_STOCK_CODE": "-",
                "COMPANY_ABBR": listing.names[row],
                "COMPANY_CODE": listing.codes[row],
                "FULL_NAME": f"{listing.names[row]}股份有限公司",
                "LIST_BOARD": request.query["STOCK_TYPE"],
                "LIST_DATE": f"{self._day(row):%Y%m%d}",
                "NUM": str(begin + at + 1),
                "SEC_NAME_CN": listing.names[row],
                "SEC_NAME_FULL": listing.names[row],
                "STATE_CODE_STOCK": "2",
            }
            for at, row in enumerate(rows[begin : begin + size].tolist())
        ]
        pages = {"total": len(rows), "pageCount": -(-len(rows) // size), "pageNo": begin // size + 1, "pageSize": size}
        return _json({"actionErrors": [], "pageHelp": {**pages, "data": found}, "result": found, "success": "true"})

    def _szse_rows(self) -> Ints:
        return self._listed(SZ_MAIN, CHINEXT)

    def _szse_pages(self, request: web.Request) -> Answer:
        listing, rows = self.market.listing, self._szse_rows()
        page = whole(request, "PAGENO", 1, 1)
        found = [
            {
                "bk": self._board(row),
                "gsjc": "",
                "agdm": listing.codes[row],
                "agjc": f"<a href='/certificate/individual/index.html?code={listing.codes[row]}'>"
                f"<u>{listing.names[row]}</u></a>",
                "agssrq": str(self._day(row)),
                "agzgb": f"{int(listing.total_shares[row]) / _HUNDRED_MILLION:.2f}",
                "agltgb": f"{int(listing.float_shares[row]) / _HUNDRED_MILLION:.2f}",
                "sshymc": self._industry(row),
            }
            for row in rows[(page - 1) * _PAGE : page * _PAGE].tolist()
        ]
        about = {"catalogid": "1110", "tabkey": "tab1", "pagesize": _PAGE, "pageno": page}
        counts = {"pagecount": -(-len(rows) // _PAGE), "recordcount": len(rows)}
        return _json([{"metadata": {**about, **counts, "name": "A股列表"}, "data": found, "error": None}])

    def _szse_sheet(self, request: web.Request) -> Answer:
        listing = self.market.listing
        rows: list[tuple[str, ...]] = [_HEADS]
        for row in self._szse_rows().tolist():
            name = listing.names[row]
            shares = (f"{int(listing.total_shares[row]):,}", f"{int(listing.float_shares[row]):,}")
            facts = (listing.codes[row], name, str(self._day(row)), *shares, self._industry(row))
            rows.append((self._board(row), f"{name}股份有限公司", *facts))
        return Answer(workbook(rows), XLSX)

    def _board(self, row: int) -> str:
        return "创业板" if self.market.listing.board[row] == CHINEXT else "主板"

    def _bse(self, request: web.Request) -> Answer:
        rows = self._listed(BSE)
        page = whole(request, "page", 0)
        found = [self._bse_row(row) for row in rows[page * _PAGE : (page + 1) * _PAGE].tolist()]
        pages = {"totalElements": len(rows), "totalPages": -(-len(rows) // _PAGE), "number": page, "size": _PAGE}
        return Answer(
            b"null(" + msgspec.json.encode([{"content": found, **pages}]) + b")", TEXT.replace("GBK", "UTF-8")
        )

    def _bse_row(self, row: int) -> dict[str, Any]:
        listing = self.market.listing
        return {
            "fxssrq": f"{self._day(row):%Y%m%d}",
            "xxhyzl": self._industry(row),
            "xxltgb": int(listing.float_shares[row]),
            "xxzgb": int(listing.total_shares[row]),
            "xxzqdm": listing.codes[row],
            "xxzqjc": listing.names[row],
        }


def workbook(rows: Sequence[Sequence[str]]) -> bytes:
    """An xlsx file with one sheet of text."""
    cells = "".join(
        f'<row r="{at}">' + "".join(f'<c t="inlineStr"><is><t>{escape(text)}</t></is></c>' for text in row) + "</row>"
        for at, row in enumerate(rows, 1)
    )
    sheet = f'<worksheet xmlns="{_SHEET}"><sheetData>{cells}</sheetData></worksheet>'
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in {**_PARTS, "xl/worksheets/sheet1.xml": sheet}.items():
            # A fixed time: the same listing is the same bytes.
            archive.writestr(
                zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), f'<?xml version="1.0" encoding="UTF-8"?>{part}'
            )
    return file.getvalue()


def _json(said: object) -> Answer:
    return Answer(msgspec.json.encode(said), JSON)
