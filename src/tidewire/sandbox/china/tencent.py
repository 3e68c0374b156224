"""Tencent's quotes and bars, below ``/tencent``.

Volumes are lots of a hundred shares, those of the STAR market (688, 689) shares. Quotes are GBK, all else is JSON.
Adjusted bars are not served: whoever asks for them gets the raw ones under the name of the others.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import msgspec
import numpy as np
from aiohttp import web

from tidewire.records.clock import Clock
from tidewire.sandbox.china.listing import INDEX, STAR, Listing
from tidewire.sandbox.china.noise import Ints, unit
from tidewire.sandbox.china.paths import MINUTES
from tidewire.sandbox.china.session import AFTERNOON_S, Bars, ChinaMarket, Quotes
from tidewire.sandbox.china.site import GARBAGE, TEXT, Answer, Site

CODES_MOST = 80
"""More codes than these in one request get no answer."""

BARS_MOST = 640
MINUTE_BARS_MOST = 320
_MARKETS = ("1", "51", "62")
_NONE = b'v_pv_none_match="1";\n'
_VAR = re.compile(r"[\w.]{1,60}", re.ASCII)
_SIDE = "~".join(["%.2f~%d"] * 5)
_MINUTES = {"m1": 1, "m5": 5, "m15": 15, "m30": 30, "m60": 60}
_KINDS = ("day", "week", "month")

# From the third field on; what stands before does not move and is put in front as it is.
_LINE = (
    "%.2f~%.2f~%.2f~%d~%d~%d~"  # last, close before, open, volume, outer, inner
    f"{_SIDE}~{_SIDE}~"  # bids, asks
    "~%s~%.2f~%.2f~%.2f~%.2f~%.2f/%d/%d~%d~%d~%.2f~"  # latest trades, time, change ... amount, turnover
    "%s~%s~%.2f~%.2f~%.2f~%.2f~%.2f~"  # P/E, state, high, low, amplitude, worth of the float and of all shares
    "%s~%.2f~%.2f~%s~%d~%.2f~%s~%s~~~%s~"  # P/B, limits, volume ratio, order difference, average, P/Es
    "%.4f~0.0000~0~   A~%s~%s~CNY~0~___D__F__N~%.2f~%d~"
)


class Tencent(Site):
    """The site."""

    def __init__(self, market: ChinaMarket, clock: Clock) -> None:
        super().__init__("tencent", market, clock)
        self._replies: list[bytes] = []
        self._still = _still_fields(market.listing)

    def route(self, router: web.UrlDispatcher) -> None:
        """Serve it."""
        router.add_get("/tencent/q={codes:.*}", self.serve("q", self._list))
        for prefix in ("", "/ifzqgtimg"):  # the same behind another host
            app = f"/tencent{prefix}/appstock/app"
            router.add_get(app + "/{name:(?:new)?fqkline}/get", self.serve("fqkline", self._bars))
            router.add_get(f"{app}/kline/mkline", self.serve("mkline", self._minute_bars))
            router.add_get(f"{app}/minute/query", self.serve("minute", self._minute))
        router.add_get("/tencent/other/klineweb/klineWeb/weekTrends", self.serve("trends", self._trends))

    # --- quotes

    def _lots(self) -> Ints:
        """What a volume is divided by, of each row."""
        in_shares = self.market.listing.board == STAR
        if self.faults.lots:
            in_shares = ~in_shares
        return np.where(in_shares, 1, 100)

    def _current(self) -> list[bytes]:
        quotes = self.quotes()
        if self._shown is not quotes:
            self._replies = self._made(quotes)
            self._shown = quotes
        return self._replies

    def _made(self, quotes: Quotes) -> list[bytes]:
        listing, still = self.market.listing, self._still
        lots = self._lots()
        volume = _in(quotes.volume, lots)
        outer = volume * 52 // 100
        change = quotes.last - quotes.pre_close
        pre = np.maximum(quotes.pre_close, 1)
        time = quotes.moment.date.strftime("%Y%m%d") + quotes.moment.clock.replace(":", "")
        average = np.where(quotes.volume > 0, quotes.amount / np.maximum(quotes.volume, 1), quotes.last) / 100
        ten_thousand = quotes.amount / 1e6
        sides = [
            column
            for prices, volumes in ((quotes.bid_prices, quotes.bid_volumes), (quotes.ask_prices, quotes.ask_volumes))
            for price, size in zip(prices, volumes, strict=True)
            for column in (price / 100, _in(size, lots))
        ]
        bids, asks = quotes.bid_volumes.sum(axis=0), quotes.ask_volumes.sum(axis=0)
        columns: list[Any] = [
            quotes.last / 100,
            quotes.pre_close / 100,
            quotes.open / 100,
            volume,
            outer,
            volume - outer,
        ]
        columns += [
            *sides,
            [time] * len(listing),
            change / 100,
            change / pre * 100,
            quotes.high / 100,
            quotes.low / 100,
        ]
        columns += [quotes.last / 100, volume, quotes.amount // 100, volume, np.rint(ten_thousand).astype(np.int64)]
        columns += [quotes.volume / listing.float_shares * 100, still["pe"], _states(quotes, listing)]
        columns += [quotes.high / 100, quotes.low / 100, (quotes.high - quotes.low) / pre * 100]
        columns += [quotes.last * listing.float_shares / 1e10, quotes.last * listing.total_shares / 1e10, still["pb"]]
        limits = [np.where(limit > 0, limit / 100, -1.0) for limit in (quotes.up, quotes.down)]
        columns += [*limits, still["ratio"], _in(bids - asks, lots), average, still["dynamic"], still["static"]]
        columns += [still["small"], ten_thousand, still["kind"], still["year"], average, _in(bids - asks, lots)]
        rows = zip(*(column if isinstance(column, list) else column.tolist() for column in columns), strict=True)
        heads = still["renamed"] if self.faults.renamed else still["head"]
        tail = 'N~";\n' if self.faults.new_key else '";\n'
        lines = [head + _LINE % row + tail for head, row in zip(heads, rows, strict=True)]
        return "\0".join(lines).encode("gbk").split(b"\0")

    def _list(self, request: web.Request) -> Answer:
        replies, rows = self._current(), self.market.listing.rows
        codes = request.match_info["codes"].split(",")[: self.faults.page_cap or CODES_MOST]
        found = [replies[row] if (row := rows.get(code)) is not None else _NONE for code in codes if code]
        if self.faults.garbage and found:
            found[0] = found[0].replace(b"~", b"~" + GARBAGE, 1)
        return Answer(b"".join(found), TEXT)

    # --- bars

    def _bars(self, request: web.Request) -> Answer:
        symbol, kind, begin, end, count, adjusted = (request.query.get("param", "").split(",") + [""] * 6)[:6]
        row = self.market.listing.rows.get(symbol)
        if row is None or kind not in _KINDS:
            return _said(request, {symbol: []} if symbol else [], "param error")
        bars = self.market.day_bars(row, moment=self.moment())
        if kind != "day" and len(bars):
            spans = [at.isocalendar()[:2] if kind == "week" else (at.year, at.month) for at in _dates(bars.day)]
            starts = [at for at in range(len(spans)) if at == 0 or spans[at] != spans[at - 1]]
            bars = bars.grouped(np.array(starts))
        chosen = (bars.day >= _day(begin, 0)) & (bars.day <= _day(end, date.max.toordinal()))
        bars = bars.where(chosen).last(_count(count, BARS_MOST))
        more = request.match_info["name"] == "newfqkline"
        lines = [self._line(row, bars, at, more=more) for at in range(len(bars))]
        name = (adjusted if adjusted in ("qfq", "hfq") else "") + kind
        return _said(request, {symbol: {name: lines, **self._about(row)}})

    def _line(self, row: int, bars: Bars, at: int, *, more: bool) -> list[Any]:
        prices = [f"{getattr(bars, name)[at] / 100:.2f}" for name in ("open", "close", "high", "low")]
        volume, lot = int(bars.volume[at]), int(self._lots()[row])
        line: list[Any] = [str(date.fromordinal(int(bars.day[at]))), *prices, f"{(volume + lot // 2) // lot}.000"]
        if more:
            turnover = volume / int(self.market.listing.float_shares[row]) * 100
            line += [{}, f"{turnover:.2f}", f"{int(bars.amount[at]) / 1e6:.4f}", ""]
        return line

    def _minute_bars(self, request: web.Request) -> Answer:
        symbol, kind, _, count = (request.query.get("param", "").split(",") + [""] * 4)[:4]
        row, minutes = self.market.listing.rows.get(symbol), _MINUTES.get(kind)
        if row is None or minutes is None:
            return _said(request, [], "param error")
        most = _count(count, MINUTE_BARS_MOST)
        days = min(-(-most * minutes // MINUTES) + 1, self.market.history_days)
        bars = self.market.resampled(row, minutes, days, self.moment()).last(most)
        shares = int(self.market.listing.float_shares[row])
        lines: list[list[Any]] = []
        for at in range(len(bars)):
            second = int(bars.second[at])
            time = f"{date.fromordinal(int(bars.day[at])):%Y%m%d}{second // 3_600:02d}{second // 60 % 60:02d}"
            basis_points = int(bars.volume[at]) / shares * 10_000
            lines.append([time, *self._line(row, bars, at, more=False)[1:], {}, f"{basis_points:.4f}"])
        return _said(request, {symbol: {**self._about(row), kind: lines}})

    def _minute(self, request: web.Request) -> Answer:
        symbol = request.query.get("code", "")
        row, moment = self.market.listing.rows.get(symbol), self.moment()
        if row is None:
            return _said(request, {symbol: {"data": {"data": [], "date": ""}}}, "code error")
        bars = self.market.minute_bars(row, 1, moment, auction=True)
        lot = int(self._lots()[row])
        lines: list[str] = []
        volume = np.cumsum(bars.volume)
        amount = np.cumsum(bars.amount)
        for second, last, shares, worth in zip(
            bars.second.tolist(), bars.close.tolist(), volume.tolist(), amount.tolist(), strict=True
        ):
            traded = f"{last / 100:.2f} {(shares + lot // 2) // lot} {worth / 100:.2f}"
            if second == AFTERNOON_S + 60:
                lines.append(f"1300 {lines[-1].partition(' ')[2]}")
            lines.append(f"{second // 3_600:02d}{second // 60 % 60:02d} {traded}")
        day = f"{moment.date:%Y%m%d}"
        return _said(request, {symbol: {"data": {"data": lines, "date": day}, **self._about(row)}})

    def _trends(self, request: web.Request) -> Answer:
        row = self.market.listing.rows.get(request.query.get("code", ""))
        bars = self.market.day_bars(row, moment=self.moment()) if row is not None else None
        lines = (
            []
            if bars is None
            else [
                [str(date.fromordinal(int(d))), f"{c / 100:.2f}"]
                for d, c in zip(bars.day[::5], bars.close[::5], strict=True)
            ]
        )
        return _said(request, lines)

    def _about(self, row: int) -> dict[str, Any]:
        """What stands beside bars: the quote, and the close before."""
        symbol = self.market.listing.symbols[row]
        fields = self._current()[row].decode("gbk").split('"')[1].split("~")
        return {"qt": {symbol: fields}, "mx_price": [], "prec": fields[4], "version": "16"}


def _still_fields(listing: Listing) -> dict[str, list[str]]:
    """What does not move, as text."""

    def chance(salt: str, low: float, high: float) -> list[str]:
        return [f"{value:.2f}" for value in (low + (high - low) * unit(listing.seed, salt, listing.ident)).tolist()]

    heads = list(zip(listing.symbols, listing.exchange.tolist(), listing.names, listing.codes, strict=True))
    year = zip(
        chance("year", -40, 60),
        chance("week", -5, 5),
        chance("yield", 0, 6),
        chance("roe", -5, 30),
        chance("roa", -2, 20),
        strict=True,
    )
    spans = zip((listing.base * 0.012).tolist(), (listing.base * 0.008).tolist(), strict=True)
    shares = zip(listing.float_shares.tolist(), listing.total_shares.tolist(), strict=True)
    moved = zip(*(chance(f"m{at}", -15, 15) for at in range(7)), strict=True)
    return {
        "head": [f'v_{symbol}="{_MARKETS[at]}~{name}~{code}~' for symbol, at, name, code in heads],
        "renamed": [f'v_{symbol}="{_MARKETS[at]}~0~{name}~{code}~' for symbol, at, name, code in heads],
        "pe": chance("ttm", 5, 90),
        "pb": chance("pb", 0.5, 9),
        "ratio": chance("ratio", 0.4, 2.5),
        "dynamic": chance("pe", 5, 90),
        "static": chance("static", 5, 90),
        "small": chance("small", 0, 1),
        "kind": ["ZS" if board == INDEX else "GP-A" for board in listing.board.tolist()],
        "year": [
            "~".join((*first, f"{high:.2f}", f"{low:.2f}", *move[:3], f"{floating}", f"{total}"))
            + "~".join(("", *move[3:5], f"{total}", "", "", *move[5:], ""))
            for first, (high, low), move, (floating, total) in zip(year, spans, moved, shares, strict=True)
        ],
    }


def _states(quotes: Quotes, listing: Listing) -> list[str]:
    states = np.where(quotes.halted, "S", "")
    return np.where(listing.gone, "D", np.where(listing.unlisted, "U", states)).tolist()


def _in(shares: Ints, lots: Ints) -> Ints:
    return (shares + lots // 2) // lots


def _said(request: web.Request, data: object, message: str = "") -> Answer:
    body = msgspec.json.encode({"code": 0, "msg": message, "data": data})
    name = request.query.get("_var", "")
    if _VAR.fullmatch(name):
        return Answer(name.encode() + b"=" + body, TEXT.replace("GBK", "utf-8"))
    return Answer(body)


def _count(text: str, most: int) -> int:
    return min(int(text), most) if text.isdecimal() and 0 < len(text) < 10 and int(text) else most


def _day(text: str, usual: int) -> int:
    try:
        return date.fromisoformat(text).toordinal() if text else usual
    except ValueError:
        return usual


def _dates(days: Ints) -> list[date]:
    return [date.fromordinal(day) for day in days.tolist()]
