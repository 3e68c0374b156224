"""Eastmoney's lists, quotes and bars, below ``/eastmoney``.

Volumes are lots of a hundred shares. Adjusted bars are not served: ``fqt`` 1 and 2 are answered as 0.
"""

from __future__ import annotations

import re
from datetime import date
from typing import cast

import msgspec
import numpy as np
from aiohttp import web

from tidewire.records.clock import Clock
from tidewire.sandbox.china.eastmoney_fields import LIST_FIELDS, SINGLE_FIELDS, Columns, Sheet
from tidewire.sandbox.china.listing import BSE, CHINEXT, INDEX, SH, SH_MAIN, STAR, SZ_MAIN
from tidewire.sandbox.china.noise import Flags, Ints
from tidewire.sandbox.china.session import NO_BARS, Bars, ChinaMarket, clock_text
from tidewire.sandbox.china.site import GARBAGE, SCRIPT, Answer, Site, whole

PAGE_CAP = 100
MINUTE_DAYS = 5
"""How many days one-minute bars reach back; those of more minutes reach further."""

LONGER_DAYS = 40
NO_DATA, NOT_FOUND = 102, 100
_LIST, _QUOTE, _KLINE = 6, 4, 17
_RENAMED = {"f6": "f6006", "f48": "f6048"}
_CALLBACK = re.compile(r"[A-Za-z_$][\w$.]{0,99}", re.ASCII)
_CONDITION = re.compile(r"([mtsf]):(!?\d+)")
_BOARDS = {("1", "2"): SH_MAIN, ("1", "23"): STAR, ("0", "6"): SZ_MAIN, ("0", "80"): CHINEXT, ("0", "81"): BSE}


class Eastmoney(Site):
    """The site."""

    def __init__(self, market: ChinaMarket, clock: Clock) -> None:
        super().__init__("eastmoney", market, clock)
        listing = market.listing
        market_of = (listing.exchange == SH).astype(int).tolist()
        self._rows = {f"{at}.{code}": row for row, (at, code) in enumerate(zip(market_of, listing.codes, strict=True))}
        self._sheet: Sheet | None = None
        self._encoded: dict[tuple[str, ...] | bool, list[bytes]] = {}
        self._order: dict[tuple[str, str, bool], Ints] = {}

    def route(self, router: web.UrlDispatcher) -> None:
        """Serve it."""
        for path, answer in (
            ("clist/get", self._clist),
            ("ulist.np/get", self._ulist),
            ("stock/get", self._single),
            ("stock/kline/get", self._kline),
            ("stock/trends2/get", self._trends),
        ):
            router.add_get(f"/eastmoney/api/qt/{path}", self.serve(path, answer))
        router.add_get("/eastmoney/codetable/search/web", self.serve("search", self._search))

    # --- lists

    def _current(self) -> Sheet:
        """Columns of now; what was encoded of another moment is forgotten."""
        quotes = self.quotes()
        if self._sheet is None or self._sheet.quotes is not quotes:
            self._sheet = Sheet(self.market.listing, quotes)
            self._encoded.clear()
            self._order.clear()
        return self._sheet

    def _encoded_rows(self, request: web.Request) -> list[bytes]:
        """All rows as JSON, with the fields and in the numbers that were asked for."""
        sheet = self._current()
        floats = request.query.get("fltt") == "2"
        asked = set(request.query.get("fields", "f2,f3,f12,f14").split(","))
        if "f128" in asked:
            asked |= {"f140", "f141"}  # whoever asks for the leader gets its code too
        names = tuple(sorted((name for name in asked if name in LIST_FIELDS), key=_number))
        key = (*names, str(floats), str(self.faults))
        if key not in self._encoded:
            columns = Columns(sheet, floats=floats, in_shares=self.faults.lots)
            values = [columns.of(LIST_FIELDS[name]) for name in names]
            self._encoded[key] = self._encode(names, values)
        return self._encoded[key]

    def _encode(self, names: tuple[str, ...], values: list[list[object]]) -> list[bytes]:
        if self.faults.renamed:
            names = tuple(_RENAMED.get(name, name) for name in names)
        if self.faults.new_key:
            names, values = (*names, "f9999"), [*values, ["-"] * len(self.market.listing)]
        encode = msgspec.json.Encoder().encode
        return [encode(dict(zip(names, row, strict=True))) for row in zip(*values, strict=True)]

    def _clist(self, request: web.Request) -> Answer:
        rows = self._encoded_rows(request)
        order = self._ordered(request)
        size = whole(request, "pz", 20, 1, self.faults.page_cap or PAGE_CAP)
        begin = (whole(request, "pn", 1, 1) - 1) * size
        page = order[begin : begin + size].tolist()
        if not page:
            return self._reply(request, _LIST, None)
        return self._reply(request, _LIST, self._diff(request, len(order), [rows[row] for row in page], 0))

    def _ulist(self, request: web.Request) -> Answer:
        rows = self._encoded_rows(request)
        found = [self._rows[secid] for secid in request.query.get("secids", "").split(",") if secid in self._rows]
        if not found:
            return self._reply(request, _LIST, None)
        return self._reply(request, _LIST, self._diff(request, len(found), [rows[row] for row in found], 1))

    def _diff(self, request: web.Request, total: int, rows: list[bytes], usual: int) -> bytes:
        if whole(request, "np", usual) == 1:
            diff = b"[%s]" % b",".join(rows)
        else:
            diff = b"{%s}" % b",".join(b'"%d":%s' % pair for pair in enumerate(rows))
        return b'{"total":%d,"diff":%s}' % (total, diff)

    def _ordered(self, request: web.Request) -> Ints:
        """Rows of the boards asked for, in the order asked for; what has no value stands at the end."""
        query = request.query
        boards, by, down = query.get("fs", ""), query.get("fid", "f12"), query.get("po") != "0"
        key = (boards, by, down)
        if key not in self._order:
            chosen = np.flatnonzero(self._chosen(boards))
            if by not in LIST_FIELDS:
                by = "f12"
            values = Columns(self._current(), floats=True, in_shares=False).of(LIST_FIELDS[by])
            rows = [row for row in chosen.tolist() if values[row] != "-"]
            rows.sort(key=lambda row: cast("float", values[row]), reverse=down)
            rest = [row for row in chosen.tolist() if values[row] == "-"]
            self._order[key] = np.array(rows + rest, np.int64)
        return self._order[key]

    def _chosen(self, boards: str) -> Flags:
        listing = self.market.listing
        chosen = np.zeros(len(listing), np.bool_)
        for group in boards.split(","):
            said: dict[str, str] = dict(_CONDITION.findall(group))
            market, kind = said.get("m", ""), said.get("t", "")
            if (market, kind) in _BOARDS:
                chosen |= listing.board == _BOARDS[market, kind]
            elif (market, said.get("s")) == ("1", "2") or (market, kind) == ("0", "5"):
                chosen |= (listing.board == INDEX) & ((listing.exchange == SH) == (market == "1"))
            elif market in ("0", "1") and said.get("f") == "4":
                chosen |= listing.st & ((listing.exchange == SH) == (market == "1"))
        return chosen

    # --- one stock

    def _single(self, request: web.Request) -> Answer:
        row = self._rows.get(request.query.get("secid", ""))
        if row is None:
            return self._reply(request, _QUOTE, None, NOT_FOUND)
        floats = request.query.get("fltt") == "2"
        columns = Columns(self._current(), floats=floats, in_shares=self.faults.lots, row=row)
        asked = request.query.get("fields", "f43,f57,f58,f59,f60").split(",")
        found = {
            name: columns.of(SINGLE_FIELDS[name])[0] for name in sorted(asked, key=_number) if name in SINGLE_FIELDS
        }
        if self.faults.renamed:
            found = {_RENAMED.get(name, name): value for name, value in found.items()}
        if self.faults.new_key:
            found["f9999"] = "-"
        return self._reply(request, _QUOTE, msgspec.json.encode(found))

    def _kline(self, request: web.Request) -> Answer:
        row = self._rows.get(request.query.get("secid", ""))
        if row is None:
            return self._reply(request, _KLINE, None, NO_DATA)
        kind = request.query.get("klt", "101")
        bars, before = self._bars(row, kind)
        begin, end = (
            _day(request.query.get(name, ""), usual) for name, usual in (("beg", 0), ("end", date.max.toordinal()))
        )
        wanted = (bars.day >= begin) & (bars.day <= end)
        before = np.append(before, bars.close[:-1]) if len(bars) else bars.close
        bars, before = bars.where(wanted), before[wanted]
        most = whole(request, "lmt", len(bars))
        bars, before = bars.last(most), before[max(len(before) - most, 0) :]
        listing = self.market.listing
        said = {
            "code": listing.codes[row],
            "market": int(listing.exchange[row] == SH),
            "name": listing.names[row],
            "decimal": 2,
            "dktotal": len(bars),
            "preKPrice": int(before[0]) / 100 if len(before) else 0.0,
            "klines": self._lines(row, bars, before, with_time=len(kind) < 3),
        }
        return self._reply(request, _KLINE, msgspec.json.encode(said))

    def _bars(self, row: int, kind: str) -> tuple[Bars, Ints]:
        """Bars of a kind, and the close before the first of them."""
        market, moment = self.market, self.moment()
        if kind == "1":
            bars = market.minute_bars(row, MINUTE_DAYS, moment)
        elif kind in ("5", "15", "30", "60"):
            bars = market.resampled(row, int(kind), LONGER_DAYS, moment)
        elif kind in ("101", "102", "103"):
            bars = market.day_bars(row, moment=moment)
            if kind != "101" and len(bars):
                spans = [day.isocalendar()[:2] if kind == "102" else (day.year, day.month) for day in _dates(bars.day)]
                starts = [at for at in range(len(spans)) if at == 0 or spans[at] != spans[at - 1]]
                bars = bars.grouped(np.array(starts))
        else:
            bars = NO_BARS
        before = market.pre_close(row, int(bars.day[0])) if len(bars) else 0
        return bars, np.array([before])

    def _lines(self, row: int, bars: Bars, before: Ints, *, with_time: bool) -> list[str]:
        # For percentages the site rounds to two places.
        shares = float(self.market.listing.float_shares[row])
        unit = 1 if self.faults.lots else 100
        lines: list[str] = []
        columns = (bars.day, bars.second, bars.open, bars.close, bars.high, bars.low, bars.volume, bars.amount, before)
        for day, second, first, last, high, low, volume, amount, pre in zip(
            *(c.tolist() for c in columns), strict=True
        ):
            at = f"{date.fromordinal(day)} {clock_text(second)[:5]}" if with_time else str(date.fromordinal(day))
            prices = f"{first / 100:.2f},{last / 100:.2f},{high / 100:.2f},{low / 100:.2f}"
            change = f"{(high - low) / pre * 100:.2f},{(last / pre - 1) * 100:.2f},{(last - pre) / 100:.2f}"
            traded = f"{(volume + unit // 2) // unit},{amount / 100:.2f}"
            lines.append(f"{at},{prices},{traded},{change},{volume / shares * 100:.2f}")
        return lines

    def _trends(self, request: web.Request) -> Answer:
        row = self._rows.get(request.query.get("secid", ""))
        if row is None:
            return self._reply(request, _KLINE, None, NO_DATA)
        moment, listing = self.moment(), self.market.listing
        days = whole(request, "ndays", 1, 1, MINUTE_DAYS)
        bars = self.market.minute_bars(row, days, moment, auction=True)
        unit = 1 if self.faults.lots else 100
        lines: list[str] = []
        shares = worth = 0
        columns = (bars.day, bars.second, bars.open, bars.close, bars.high, bars.low, bars.volume, bars.amount)
        at_day = 0
        for day, second, first, last, high, low, volume, amount in zip(*(c.tolist() for c in columns), strict=True):
            shares, worth, at_day = (shares, worth, day) if day == at_day else (0, 0, day)
            shares, worth = shares + volume, worth + amount
            prices = f"{first / 100:.2f},{last / 100:.2f},{high / 100:.2f},{low / 100:.2f}"
            at = f"{date.fromordinal(day)} {clock_text(second)[:5]}"
            lines.append(f"{at},{prices},{(volume + unit // 2) // unit},{amount / 100:.2f},{worth / shares / 100:.3f}")
        pre = int(self.quotes().pre_close[row]) / 100
        said = {
            "code": listing.codes[row],
            "market": int(listing.exchange[row] == SH),
            "type": 5 if listing.board[row] == INDEX else 2,
            "status": 0,
            "name": listing.names[row],
            "decimal": 2,
            "preSettlement": 0.0,
            "preClose": pre,
            "beticks": "33300|34200|54000|34200|41400|46800|54000",
            "trendsTotal": len(lines),
            "time": moment.epoch_s,
            "kind": 1,
            "prePrice": pre,
            "trends": lines,
        }
        return self._reply(request, 10, msgspec.json.encode(said))

    def _search(self, request: web.Request) -> Answer:
        """The search box: what efinance asks for the market of a code."""
        listing, text = self.market.listing, request.query.get("keyword", "").strip().upper()
        found = [row for row, code in enumerate(listing.codes) if text and text in (code, listing.names[row])]
        kinds = ("沪A", "深A", "京A")
        said = [
            {
                "code": listing.codes[row],
                "innerCode": f"{row:014d}",
                "shortName": listing.names[row],
                "market": int(listing.exchange[row] == SH),
                "pinyin": "",
                "securityType": [],
                "securityTypeName": "指数" if listing.board[row] == INDEX else kinds[listing.exchange[row]],
            }
            for row in found[: whole(request, "pageSize", 10, 1, 100)]
        ]
        return Answer(msgspec.json.encode({"code": "0", "msg": "OK", "result": said}))

    # --- the envelope

    def _reply(self, request: web.Request, kind: int, data: bytes | None, code: int = NO_DATA) -> Answer:
        head = (
            f'"rc":{0 if data is not None else code},"rt":{kind},"svr":182482656,"lt":1,"full":1,"dlmkts":"","dsc":"0"'
        )
        if self.faults.new_key:
            head += ',"nwk":{"v":1}'
        body = b'{%s,"data":%s}' % (head.encode(), b"null" if data is None else data)
        if self.faults.garbage:
            body = body.replace(b'"data":{', b'"data":{"' + GARBAGE + b'":0,', 1)
        call = request.query.get("cb", "")
        if _CALLBACK.fullmatch(call):
            return Answer(call.encode() + b"(" + body + b");", SCRIPT.replace("GB18030", "UTF-8"))
        return Answer(body)


def _number(name: str) -> tuple[int, str]:
    return (int(name[1:]), name) if name[1:].isdecimal() and len(name) < 9 else (0, name)


def _day(text: str, usual: int) -> int:
    """``20260105`` as an ordinal; what is no date, as ``0`` and ``20500000``, does not limit."""
    try:
        return date.fromisoformat(text[:8]).toordinal() if len(text) >= 8 else usual
    except ValueError:
        return usual


def _dates(days: Ints) -> list[date]:
    return [date.fromordinal(day) for day in days.tolist()]
