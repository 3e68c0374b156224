"""Binance spot's market-data REST, in its shapes, weights and errors."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import msgspec
from aiohttp import web

from tidewire import telemetry
from tidewire.records.clock import Clock
from tidewire.sandbox.config import LimitConfig, SymbolInfo
from tidewire.sandbox.faults import FaultInjector
from tidewire.sandbox.limits import WeightMeter
from tidewire.sandbox.messages import SPOT, Form, agg_trade_row, kline_row, statistics, trade_row
from tidewire.sandbox.series import INTERVALS, Series, Trade, bar_end, bar_open, e8

_requests = telemetry.counter("sandbox_rest_requests", "REST requests answered by the sandbox", ("status",))

_SYMBOL = re.compile(r"[A-Z0-9_.-]{1,20}")
_INTEGER = re.compile(r"[0-9]{1,20}")
_SLOW_CHUNKS_PER_SECOND = 10


class Upstream(Protocol):
    """What answers are made from: the synthetic market or a recording."""

    @property
    def symbols(self) -> Mapping[str, SymbolInfo]:
        """Every symbol listed."""
        ...

    def now_ns(self) -> int:
        """The venue's time."""
        ...

    def series(self, symbol: str) -> Series:
        """Trades and bars of a symbol."""
        ...

    def depth(self, symbol: str, limit: int) -> Any:
        """The body of a depth request."""
        ...

    def best(self, symbol: str) -> Mapping[str, str]:
        """Best bid and ask with their quantities."""
        ...


class Refusal(Exception):
    """A request the venue answers with an error status, a code and a message."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class Query:
    """The parameters of a request, read once each; what was not read is an error, as at the venue."""

    def __init__(self, request: web.Request, symbols: Mapping[str, SymbolInfo]) -> None:
        self._given = dict(request.query)
        self._symbols = symbols
        self._sent = len(self._given)
        self.key = request.headers.get("X-MBX-APIKEY", "")
        unit = request.headers.get("X-MBX-TIME-UNIT", "MILLISECOND").upper()
        if unit not in ("MILLISECOND", "MICROSECOND"):
            raise Refusal(-1194, "Invalid value for time unit; expected either MICROSECOND or MILLISECOND.")
        self.unit = 1_000 if unit == "MICROSECOND" else 1

    def text(self, name: str) -> str | None:
        """A parameter, or None."""
        return self._given.pop(name, None)

    def _mandatory(self, name: str) -> str:
        value = self.text(name)
        if not value:
            raise Refusal(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
        return value

    def _known(self, symbol: str) -> str:
        if not _SYMBOL.fullmatch(symbol):
            raise Refusal(
                -1100, "Illegal characters found in parameter 'symbol'; legal range is '^[A-Z0-9-_.]{1,20}$'."
            )
        if symbol not in self._symbols:
            raise Refusal(-1121, "Invalid symbol.")
        return symbol

    def symbol(self) -> str:
        """The mandatory symbol."""
        return self._known(self._mandatory("symbol"))

    def several(self) -> tuple[list[str], bool]:
        """Symbols asked for (``symbol``, ``symbols`` or all) and whether the answer is a single object."""
        one, many = self.text("symbol"), self.text("symbols")
        if one is not None and many is not None:
            raise Refusal(-1128, "Combination of optional parameters invalid.")
        if one is not None:
            return [self._known(one)], True
        if many is None:
            return list(self._symbols), False
        try:
            names = msgspec.json.decode(many, type=list[str])
        except msgspec.MsgspecError as error:
            raise Refusal(-1100, "Illegal characters found in parameter 'symbols'.") from error
        return [self._known(name) for name in names], False

    def integer(self, name: str) -> int | None:
        """A whole number, or None."""
        value = self.text(name)
        if value is None:
            return None
        if not _INTEGER.fullmatch(value):
            raise Refusal(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
        return int(value)

    def time(self, name: str) -> int | None:
        """A time in ms; microseconds are accepted too, told apart by their size."""
        value = self.integer(name)
        return value // 1_000 if value is not None and value > 100_000_000_000_000 else value

    def limit(self, usual: int, most: int) -> int:
        """How many rows; more than the most gives the most."""
        value = self.integer("limit")
        if value == 0:
            raise Refusal(-1130, "Data sent for parameter 'limit' is not valid.")
        return min(usual if value is None else value, most)

    def interval(self, valid: Container[str]) -> str:
        """The mandatory bar interval."""
        interval = self._mandatory("interval")
        if interval not in valid:
            raise Refusal(-1120, "Invalid interval.")
        return interval

    def done(self) -> None:
        """Refuse what nobody read."""
        if self._given:
            read = self._sent - len(self._given)
            raise Refusal(
                -1104, f"Not all sent parameters were read; read '{read}' parameter(s) but was sent '{self._sent}'."
            )


@dataclass(frozen=True)
class Endpoint:
    """What a request weighs, and how it is answered."""

    weigh: Callable[[web.Request], int]
    answer: Callable[[Query], Any]


class Rest:
    """``/api/v3/...``: limits first, then faults, then the answer."""

    bars_most = 1_000
    intervals: Container[str] = INTERVALS.keys()

    def __init__(self, upstream: Upstream, faults: FaultInjector, clock: Clock, limits: LimitConfig) -> None:
        self._upstream = upstream
        self._faults = faults
        self._clock = clock
        self._limits = limits
        self.meter = WeightMeter(clock, limits)
        self._endpoints = self._table()

    def _table(self) -> dict[str, Endpoint]:
        return {
            "ping": Endpoint(always(1), self._ping),
            "time": Endpoint(always(1), self._time),
            "exchangeInfo": Endpoint(always(20), self._exchange_info),
            "klines": Endpoint(always(2), self._klines),
            "trades": Endpoint(always(25), self._trades),
            "historicalTrades": Endpoint(always(25), self._historical_trades),
            "aggTrades": Endpoint(always(4), self._agg_trades),
            "depth": Endpoint(_depth_weight, self._depth),
            "ticker/24hr": Endpoint(self._statistics_weight, self._statistics),
            "ticker/bookTicker": Endpoint(single_or(2, 4), self._book_ticker),
            "ticker/price": Endpoint(single_or(2, 4), self._price),
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        endpoint = self._endpoints.get(request.match_info["path"])
        refused = self.meter.spend(endpoint.weigh(request) if endpoint else 1)
        headers = {"X-MBX-USED-WEIGHT": str(self.meter.used), "X-MBX-USED-WEIGHT-1M": str(self.meter.used)}
        headers["X-Tidewire-Time"] = str(self._upstream.now_ns())  # for a product that runs on our clock
        failure = self._faults.rest_failure()
        if refused is not None:
            status, after = refused
            headers["Retry-After"] = str(after)
            body: Any = {"code": -1003, "msg": self._refusal_text(status)}
        elif failure is not None:
            status, body = failure, {"code": -1000, "msg": "An unknown error occurred while processing the request."}
            if failure in (418, 429, 503):
                headers["Retry-After"] = "1"
        elif endpoint is None:
            status, body = 404, {"code": -1000, "msg": f"Path {request.path}, Method GET is invalid"}
        else:
            try:
                status, body = 200, endpoint.answer(Query(request, self._upstream.symbols))
            except Refusal as refusal:
                status, body = refusal.status, {"code": refusal.code, "msg": str(refusal)}
        answer = status, msgspec.json.encode(body), headers
        return await respond(request, answer, self._faults.faults.slow_body, self._clock)

    def _refusal_text(self, status: int) -> str:
        if status == 418:
            return (
                f"Way too much request weight used; IP banned until {self.meter.banned_until_ms}. "
                "Please use WebSocket Streams for live updates to avoid bans."
            )
        return (
            f"Too much request weight used; current limit is {self._limits.weight_per_minute} request weight per "
            "1 MINUTE. Please use WebSocket Streams for live updates to avoid polling the API."
        )

    # --- answers

    def _now_ms(self) -> int:
        return self._upstream.now_ns() // 1_000_000

    def _ping(self, query: Query) -> Any:
        query.done()
        return {}

    def _time(self, query: Query) -> Any:
        query.done()
        if query.unit == 1:
            return {"serverTime": self._now_ms() + self._faults.skew_ms}
        return {"serverTime": self._upstream.now_ns() // 1_000 + self._faults.skew_ms * 1_000}

    def _exchange_info(self, query: Query) -> Any:
        names, _ = query.several()
        query.text("permissions")
        query.text("showPermissionSets")
        query.text("symbolStatus")
        query.done()
        return {
            "timezone": "UTC",
            "serverTime": (self._now_ms() + self._faults.skew_ms) * query.unit,
            "rateLimits": [
                rate_limit("REQUEST_WEIGHT", 1, self._limits.weight_per_minute),
                rate_limit("RAW_REQUESTS", 5, 300_000),
            ],
            "exchangeFilters": [],
            "symbols": [_listing(self._upstream.symbols[name]) for name in names],
        }

    def _form(self, _symbol: str) -> Form:
        return SPOT

    def _klines(self, query: Query) -> Any:
        symbol, interval = query.symbol(), query.interval(self.intervals)
        begin, end, limit = query.time("startTime"), query.time("endTime"), query.limit(500, self.bars_most)
        query.done()
        series, now = self._upstream.series(symbol), self._now_ms()
        first = series.first_ms
        if first is None:
            return []
        oldest = bar_open(interval, first)
        newest = bar_open(interval, now if end is None else min(now, end))
        if begin is None:
            opened = newest
            for _ in range(limit - 1):
                opened = bar_open(interval, opened - 1)
                if opened <= oldest:
                    break
        else:
            opened = bar_open(interval, begin)
            if opened < begin:
                opened = bar_end(interval, opened)
        opened = max(opened, oldest)
        edges = [opened]
        while edges[-1] <= newest and len(edges) <= limit:
            edges.append(bar_end(interval, edges[-1]))
        spans, bars, form = itertools.pairwise(edges), series.bars(edges), self._form(symbol)
        return [
            kline_row(span, bar, query.unit, form) for span, bar in zip(spans, bars, strict=True) if bar is not None
        ]

    def _rows(self, _symbol: str, trades: list[Trade], query: Query) -> list[dict[str, Any]]:
        return [trade_row(trade, self._faults.skew_ms, query.unit) for trade in trades]

    def _agg_rows(self, _symbol: str, trades: list[Trade], query: Query) -> list[dict[str, Any]]:
        return [agg_trade_row(trade, self._faults.skew_ms, query.unit) for trade in trades]

    def _trades(self, query: Query) -> Any:
        symbol, limit = query.symbol(), query.limit(500, 1_000)
        query.done()
        return self._rows(symbol, self._upstream.series(symbol).recent(limit), query)

    def _historical_trades(self, query: Query) -> Any:
        symbol, limit, ident = query.symbol(), query.limit(500, 1_000), query.integer("fromId")
        query.done()
        series = self._upstream.series(symbol)
        return self._rows(symbol, series.recent(limit) if ident is None else series.from_id(ident, limit), query)

    def _agg_trades(self, query: Query) -> Any:
        symbol, limit, ident = query.symbol(), query.limit(500, 1_000), query.integer("fromId")
        begin, end = query.time("startTime"), query.time("endTime")
        query.done()
        if ident is not None and (begin is not None or end is not None):
            raise Refusal(-1128, "Combination of optional parameters invalid.")
        series, shift = self._upstream.series(symbol), self._faults.skew_ms
        if ident is not None:
            found = series.from_id(ident, limit)
        elif begin is not None or end is not None:
            low = begin if begin is not None else 0
            high = end if end is not None else self._now_ms() + shift
            found = series.between(low - shift, high - shift, limit)
        else:
            found = series.recent(limit)
        return self._agg_rows(symbol, found, query)

    def _depth(self, query: Query) -> Any:
        symbol, limit = query.symbol(), query.limit(100, 5_000)
        query.text("symbolStatus")
        query.done()
        return self._upstream.depth(symbol, limit)

    def _statistics_weight(self, request: web.Request) -> int:
        many = request.query.get("symbols")
        count = 1 if "symbol" in request.query else many.count(",") + 1 if many else 101
        return 2 if count <= 20 else 40 if count <= 100 else 80

    def _statistics(self, query: Query) -> Any:
        (names, single), kind = query.several(), query.text("type")
        query.text("symbolStatus")
        query.done()
        now = self._now_ms()
        rows = [statistics(name, self._upstream.series(name), self._upstream.best(name), now) for name in names]
        for row in rows:
            row["openTime"] *= query.unit
            row["closeTime"] *= query.unit
        if kind == "MINI":
            rows = [{name: value for name, value in row.items() if name in _MINI} for row in rows]
        elif kind not in (None, "FULL"):
            raise Refusal(-1139, "Invalid ticker type.")
        return rows[0] if single else rows

    def _book_ticker(self, query: Query) -> Any:
        names, single = query.several()
        query.text("symbolStatus")
        query.done()
        rows = [{"symbol": name, **self._upstream.best(name)} for name in names]
        return rows[0] if single else rows

    def _price(self, query: Query) -> Any:
        names, single = query.several()
        query.text("symbolStatus")
        query.done()
        last = {name: self._upstream.series(name).recent(1) for name in names}
        rows = [{"symbol": name, "price": e8(trades[0][1] if trades else 0)} for name, trades in last.items()]
        return rows[0] if single else rows


_MINI = (
    "symbol",
    "openPrice",
    "highPrice",
    "lowPrice",
    "lastPrice",
    "volume",
    "quoteVolume",
    "openTime",
    "closeTime",
    "firstId",
    "lastId",
    "count",
)


async def respond(
    request: web.Request, answer: tuple[int, bytes, Mapping[str, str]], speed: int, clock: Clock
) -> web.StreamResponse:
    """Send status, body and headers, the body at ``speed`` bytes a second; 0 is at once."""
    status, body, headers = answer
    _requests.labels(str(status)).inc()
    kind = "application/json;charset=UTF-8"
    if not speed:
        return web.Response(status=status, body=body, headers={**headers, "Content-Type": kind})
    response = web.StreamResponse(status=status, headers={**headers, "Content-Type": kind})
    response.content_length = len(body)
    await response.prepare(request)
    size = max(1, speed // _SLOW_CHUNKS_PER_SECOND)
    for begin in range(0, len(body), size):
        await clock.sleep(size / speed)
        await response.write(body[begin : begin + size])
    return response


def always(weight: int) -> Callable[[web.Request], int]:
    """A request that weighs the same whatever is asked."""
    return lambda _request: weight


def single_or(single: int, several: int) -> Callable[[web.Request], int]:
    """A request that weighs less for one symbol."""
    return lambda request: single if "symbol" in request.query else several


def _depth_weight(request: web.Request) -> int:
    text = request.query.get("limit", "100")
    limit = int(text) if _INTEGER.fullmatch(text) else 100
    return 5 if limit <= 100 else 25 if limit <= 500 else 50 if limit <= 1_000 else 250


def rate_limit(kind: str, minutes: int, limit: int) -> dict[str, Any]:
    """One limit as the venue lists it."""
    return {"rateLimitType": kind, "interval": "MINUTE", "intervalNum": minutes, "limit": limit}


def _listing(info: SymbolInfo) -> dict[str, Any]:
    price_filter = {
        "filterType": "PRICE_FILTER",
        "minPrice": e8(info.tick_e8),
        "maxPrice": "1000000.00000000",
        "tickSize": e8(info.tick_e8),
    }
    lot_size = {
        "filterType": "LOT_SIZE",
        "minQty": e8(info.step_e8),
        "maxQty": "9000000.00000000",
        "stepSize": e8(info.step_e8),
    }
    notional = {
        "filterType": "NOTIONAL",
        "minNotional": "5.00000000",
        "applyMinToMarket": True,
        "maxNotional": "9000000.00000000",
        "applyMaxToMarket": False,
        "avgPriceMins": 5,
    }
    facts: dict[str, Any] = {
        "symbol": info.symbol,
        "status": info.status,
        "baseAsset": info.base,
        "baseAssetPrecision": 8,
        "quoteAsset": info.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"],
        "icebergAllowed": True,
        "ocoAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": cast("list[dict[str, Any]]", [price_filter, lot_size, notional]),
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"],
    }
    return facts
