"""Harbour's REST: replies in an envelope, what is wrong with a request told by its code and not by the status."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from tidewire.records.clock import Clock
from tidewire.sandbox.binance import respond
from tidewire.sandbox.book import LEVELS
from tidewire.sandbox.config import LimitConfig
from tidewire.sandbox.faults import FaultInjector
from tidewire.sandbox.harbour import HarbourMarket, plain, trade_row
from tidewire.sandbox.limits import Window

MISSING, INVALID, NO_SYMBOL, NO_PATH, TOO_MANY, UNAVAILABLE = "1001", "1002", "1003", "1004", "1010", "1050"
SPAN_S = 2
"""Requests are counted over so many seconds."""

TRADES_USUAL, TRADES_MOST = 100, 500
_INTEGER = re.compile(r"[0-9]{1,18}", re.ASCII)
_ID_MOST = 10**18 - 1


class _Refused(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class HarbourRest:
    """``/harbour/...``: limits first, then faults, then the answer."""

    def __init__(self, market: HarbourMarket, faults: FaultInjector, clock: Clock, limits: LimitConfig) -> None:
        self._market = market
        self._faults = faults
        self._clock = clock
        self._most = limits.harbour_requests_per_2_s
        self._turns = Window(clock, self._most, SPAN_S)
        self._endpoints: dict[str, Callable[[dict[str, str]], list[Any]]] = {
            "instruments": self._instruments,
            "trades": self._trades,
            "book": self._book,
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        headers = {"X-Tidewire-Time": str(self._market.now_ns())}  # for a product that runs on our clock
        endpoint = self._endpoints.get(request.match_info["path"])
        failure = self._faults.rest_failure()
        status, rows = 200, list[Any]()
        code, message = "0", ""
        if not self._turns.allow():
            status, code, message = 429, TOO_MANY, f"Too many requests; the limit is {self._most} in {SPAN_S} s."
            headers["Retry-After"] = str(SPAN_S)
        elif failure is not None:
            status, code, message = failure, UNAVAILABLE, "The service is not available; try again."
            if failure in (418, 429, 503):
                headers["Retry-After"] = "1"
        elif endpoint is None:
            status, code, message = 404, NO_PATH, f"There is no {request.path}."
        else:
            query = dict(request.query)
            try:
                rows = endpoint(query)
            except _Refused as refused:
                code, message = refused.code, str(refused)
        body = msgspec.json.encode({"code": code, "msg": message, "data": rows})
        return await respond(request, (status, body, headers), self._faults.faults.slow_body, self._clock)

    # --- answers

    def _instruments(self, query: dict[str, str]) -> list[Any]:
        _done(query)
        return [
            {"symbol": info.symbol, "type": "spot", "base": info.base, "quote": info.quote}
            | {"tickSize": plain(info.tick_e8), "lotSize": plain(info.step_e8), "state": "live"}
            for info in self._market.symbols.values()
        ]

    def _trades(self, query: dict[str, str]) -> list[Any]:
        symbol, after = self._symbol(query), _integer(query, "after", -1, (0, _ID_MOST))
        limit = _integer(query, "limit", TRADES_USUAL, (1, TRADES_MOST))
        _done(query)
        series = self._market.series(symbol)
        trades = series.recent(limit) if after < 0 else series.from_id(after + 1, limit)
        return [trade_row(symbol, trade, self._faults.skew_ms) for trade in trades]

    def _book(self, query: dict[str, str]) -> list[Any]:
        symbol, depth = self._symbol(query), _integer(query, "depth", LEVELS, (1, LEVELS))
        _done(query)
        return [{"symbol": symbol, **self._market.book(symbol, depth, self._faults.skew_ms)}]

    def _symbol(self, query: dict[str, str]) -> str:
        symbol = query.pop("symbol", "")
        if not symbol:
            raise _Refused(MISSING, "Parameter symbol is missing.")
        if symbol not in self._market.pairs:
            raise _Refused(NO_SYMBOL, f"There is no symbol {symbol}.")
        return symbol


def _integer(query: dict[str, str], name: str, usual: int, bounds: tuple[int, int]) -> int:
    text = query.pop(name, None)
    if text is None:
        return usual
    least, most = bounds
    if not _INTEGER.fullmatch(text) or not least <= int(text) <= most:
        raise _Refused(INVALID, f"Parameter {name} must be an integer from {least} to {most}.")
    return int(text)


def _done(query: dict[str, str]) -> None:
    """Refuse what nobody read."""
    if query:
        raise _Refused(INVALID, f"Unknown parameter {next(iter(query))}.")
