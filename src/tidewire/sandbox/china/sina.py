"""Sina's quotes, market pages and bars, below ``/sina``.

Volumes are shares, of indices lots. Replies are GBK, the messages of its WebSocket UTF-8.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import date
from typing import Any

import msgspec
import numpy as np
from aiohttp import web

from tidewire.records.clock import Clock
from tidewire.sandbox.china.listing import BJ, CHINEXT, INDEX, SH, STAR, SZ
from tidewire.sandbox.china.noise import Flags, Ints, unit
from tidewire.sandbox.china.paths import MINUTES
from tidewire.sandbox.china.session import TICK_S, ChinaMarket, Quotes, clock_text
from tidewire.sandbox.china.site import GARBAGE, SCRIPT, TEXT, Answer, Site, whole

CODES_MOST = 800
"""More codes than these in one request get no answer."""

BARS_MOST = 1_970
_PAGE_MOST = 100
_NORMAL, _HALTED = "00", "03"
_PRICES = ",".join(["%.3f"] * 7)
_LINE = f"%s,{_PRICES},%d,%.3f,{','.join(['%d,%.3f'] * 10)},%s,%s,%s"
_NAME = re.compile(r"[\w $.=]{0,80}", re.ASCII)
_MINUTES = ("1", "5", "15", "30", "60")
_KEY = re.compile(rb'"([a-z]+)":')


class Sina(Site):
    """The site."""

    def __init__(self, market: ChinaMarket, clock: Clock) -> None:
        super().__init__("sina", market, clock)
        self._lines: list[str] = []
        self._replies: list[bytes] = []
        self._sockets: set[web.WebSocketResponse] = set()

    def route(self, router: web.UrlDispatcher) -> None:
        """Serve it."""
        router.add_get("/sina/list={codes:.*}", self.serve("list", self._list))
        router.add_get("/sina/wskt", self._push)
        pages = "/sina/quotes_service/api/json_v2.php/Market_Center."
        router.add_get(f"{pages}getHQNodeData", self.serve("pages", self._page))
        router.add_get(f"{pages}getHQNodeStockCount", self.serve("count", self._count))
        bars = "/sina/cn/api/jsonp_v2.php/{name}/CN_MarketDataService.getKLineData"
        router.add_get(bars, self.serve("bars", self._bars))

    async def stop(self) -> None:
        """Close every connection."""
        for socket in list(self._sockets):
            await socket.close(code=1001)

    # --- quotes

    def lines(self) -> list[str]:
        """The fields of each row of the listing as text, empty for what the site does not know."""
        quotes = self.quotes()
        if self._shown is not quotes:
            self._lines = self._made(quotes)
            self._replies = [
                f'var hq_str_{symbol}="{line}";\n'.encode("gbk")
                for symbol, line in zip(self.market.listing.symbols, self._lines, strict=True)
            ]
            self._shown = quotes
        return self._lines

    def _made(self, quotes: Quotes) -> list[str]:
        listing, moment = self.market.listing, quotes.moment
        traded = quotes.traded
        shown = [np.where(traded, column, 0) for column in (quotes.last, quotes.bid_prices[0], quotes.ask_prices[0])]
        prices = (quotes.open, quotes.pre_close, shown[0], quotes.high, quotes.low, shown[1], shown[2])
        columns: list[list[Any]] = [list(listing.names), *((column / 100).tolist() for column in prices)]
        columns += [self._volume(quotes).tolist(), (quotes.amount / 100).tolist()]
        for volumes, levels in ((quotes.bid_volumes, quotes.bid_prices), (quotes.ask_volumes, quotes.ask_prices)):
            for volume, price in zip(volumes, levels, strict=True):
                columns += [volume.tolist(), (price / 100).tolist()]
        day, at = str(moment.date), moment.clock
        count = len(listing)
        status = [_HALTED if halted else _NORMAL for halted in quotes.halted.tolist()]
        columns += [[day] * count, [at] * count, status]
        known = (~listing.gone & ~listing.unlisted).tolist()
        form = _LINE
        if self.faults.renamed:
            form = form.replace("%s,", "%s,A,", 1)
        if self.faults.new_key:
            form += ",N"
        return [form % row if there else "" for there, row in zip(known, zip(*columns, strict=True), strict=True)]

    def _volume(self, quotes: Quotes) -> Ints:
        in_lots = self.market.listing.board == INDEX
        if self.faults.lots:
            in_lots = ~in_lots
        return np.where(in_lots, (quotes.volume + 50) // 100, quotes.volume)

    def _list(self, request: web.Request) -> Answer:
        if not request.headers.get("Referer", "").startswith(
            ("https://finance.sina.com.cn", "http://finance.sina.com.cn")
        ):
            return Answer(b"Forbidden", TEXT, 403)
        self.lines()
        rows = self.market.listing.rows
        codes = request.match_info["codes"].split(",")[: self.faults.page_cap or CODES_MOST]
        found = [
            self._replies[row]
            if (row := rows.get(code)) is not None
            else f'var hq_str_{code}="";\n'.encode("gbk", "replace")
            for code in codes
            if code
        ]
        if self.faults.garbage and found:
            found[0] = found[0].replace(b'="', b'="' + GARBAGE, 1)
        return Answer(b"".join(found), "application/javascript; charset=GB18030")

    # --- the push

    async def _push(self, request: web.Request) -> web.StreamResponse:
        self.requests["wskt"] += 1
        if self.dropping and request.transport is not None:
            request.transport.abort()
            return web.Response(status=503)  # reaches nobody
        if "finance.sina.com.cn" not in request.headers.get("Origin", ""):
            return web.Response(status=403, text="Forbidden")
        known = self.market.listing.rows
        asked = request.query.get("list", "").split(",")[:CODES_MOST]
        rows = [known[code] for code in asked if code in known]
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._sockets.add(socket)
        sender = asyncio.get_running_loop().create_task(self._send(request, socket, rows))
        try:
            async for _ in socket:
                pass  # what a client says keeps the connection open, and means nothing else
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            self._sockets.discard(socket)
        return socket

    async def _send(self, request: web.Request, socket: web.WebSocketResponse, rows: list[int]) -> None:
        """All rows at first, then each tick those that changed."""
        symbols = self.market.listing.symbols
        told: dict[int, str] = {}
        while not socket.closed:
            if self.dropping and request.transport is not None:
                request.transport.abort()
                return
            lines = self.lines()
            news = [row for row in rows if _facts(lines[row]) != told.get(row)]
            told.update((row, _facts(lines[row])) for row in news)
            if news:
                await socket.send_str("\n".join(f"{symbols[row]}={lines[row]}" for row in news))
            now_ns = self.market.now_ns()
            await self._clock.sleep(TICK_S - now_ns / 1e9 % TICK_S + 0.001)

    # --- pages of the market

    def _node(self, name: str) -> Flags:
        listing = self.market.listing
        there = ~listing.gone & ~listing.unlisted & (listing.board != INDEX)
        boards = {"kcb": listing.board == STAR, "cyb": listing.board == CHINEXT, "hs_bjs": listing.exchange == BJ}
        boards |= {"sh_a": listing.exchange == SH, "sz_a": listing.exchange == SZ, "hs_a": there}
        return there & boards.get(name, np.zeros(len(listing), np.bool_))

    def _count(self, request: web.Request) -> Answer:
        return Answer(b'"%d"' % self._node(request.query.get("node", "")).sum(), TEXT)

    def _page(self, request: web.Request) -> Answer:
        quotes, listing = self.quotes(), self.market.listing
        rows = np.flatnonzero(self._node(request.query.get("node", ""))).tolist()
        by = request.query.get("sort", "symbol")
        keys: Mapping[str, Ints] = {"trade": quotes.last, "volume": quotes.volume, "amount": quotes.amount}
        order = keys[by].__getitem__ if by in keys else listing.symbols.__getitem__
        rows.sort(key=order, reverse=request.query.get("asc", "1") == "0")
        size = whole(request, "num", 20, 1, self.faults.page_cap or _PAGE_MOST)
        begin = (whole(request, "page", 1, 1) - 1) * size
        found = [self._row(quotes, row) for row in rows[begin : begin + size]]
        if not found:
            return Answer(b"null", TEXT)
        body = msgspec.json.encode(found).decode().encode("gbk")
        if self.faults.garbage:
            body = body.replace(b'"name":"', b'"name":"' + GARBAGE, 1)
        return Answer(_KEY.sub(rb"\1:", body), TEXT)  # its keys stand without quotes

    def _row(self, quotes: Quotes, row: int) -> dict[str, Any]:
        listing = self.market.listing
        traded = bool(quotes.traded[row])
        last, pre = int(quotes.last[row]) if traded else 0, int(quotes.pre_close[row])
        change = last - pre if traded else 0
        volume = int(self._volume(quotes)[row])
        figures: dict[str, Any] = {
            "symbol": listing.symbols[row],
            "code": listing.codes[row],
            "name": listing.names[row],
            "trade": _price(last),
            "pricechange": change / 100,
            "changepercent": round(change / pre * 100, 3),
            "buy": _price(int(quotes.bid_prices[0, row])),
            "sell": _price(int(quotes.ask_prices[0, row])),
            "settlement": _price(pre),
            "open": _price(int(quotes.open[row])),
            "high": _price(int(quotes.high[row])),
            "low": _price(int(quotes.low[row])),
            "volume": volume,
            "amount": int(quotes.amount[row]) / 100,
            "ticktime": quotes.moment.clock,
            "per": round(5 + 85 * float(unit(listing.seed, "ttm", listing.ident[row : row + 1])[0]), 3),
            "pb": round(0.5 + 8.5 * float(unit(listing.seed, "pb", listing.ident[row : row + 1])[0]), 3),
            "mktcap": round(int(quotes.last[row]) * int(listing.total_shares[row]) / 1e6, 4),
            "nmc": round(int(quotes.last[row]) * int(listing.float_shares[row]) / 1e6, 4),
            "turnoverratio": round(int(quotes.volume[row]) / int(listing.float_shares[row]) * 100, 5),
        }
        return figures | ({"newkey": 0} if self.faults.new_key else {})

    # --- bars

    def _bars(self, request: web.Request) -> Answer:
        listing = self.market.listing
        row = listing.rows.get(request.query.get("symbol", ""))
        scale, most = request.query.get("scale", "240"), whole(request, "datalen", 240, 1, BARS_MOST)
        name = request.match_info["name"]
        found = b"null"
        if row is not None and scale in (*_MINUTES, "240"):
            found = self._encoded_bars(row, scale, most)
        name = name if _NAME.fullmatch(name) else ""
        head = b"/*<script>location.href='//sina.com';</script>*/\n"
        return Answer(head + name.encode() + b"(" + found + b");", SCRIPT)

    def _encoded_bars(self, row: int, scale: str, most: int) -> bytes:
        market, moment = self.market, self.moment()
        if scale == "240":
            bars = market.day_bars(row, most, moment)
        else:
            days = min(-(-most * int(scale) // MINUTES) + 1, market.history_days)
            bars = market.resampled(row, int(scale), days, moment)
        bars = bars.last(most)
        unit_shares = 100 if (int(market.listing.board[row]) == INDEX) != self.faults.lots else 1
        rows = [
            {
                "day": str(date.fromordinal(day)) + (f" {clock_text(second)}" if scale != "240" else ""),
                "open": _price(first),
                "high": _price(high),
                "low": _price(low),
                "close": _price(last),
                "volume": str((volume + unit_shares // 2) // unit_shares),
                **({"amount": f"{amount / 100:.4f}"} if scale != "240" else {}),
            }
            for day, second, first, last, high, low, volume, amount in zip(
                *(getattr(bars, name).tolist() for name in bars.__dataclass_fields__), strict=True
            )
        ]
        return msgspec.json.encode(rows)


def _price(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}0"


def _facts(line: str) -> str:
    """A line without the time, which alone is no news."""
    return line[:-12]
