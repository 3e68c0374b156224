"""Binance futures' market-data REST: ``/fapi/v1`` and ``/dapi/v1``, in their shapes, weights and errors."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import replace
from typing import Any

from aiohttp import web

from tidewire.records.clock import Clock
from tidewire.sandbox.binance import Endpoint, Query, Refusal, Rest, always, rate_limit, single_or
from tidewire.sandbox.config import E8, LimitConfig
from tidewire.sandbox.contracts import HOUR_MS, ContractInfo
from tidewire.sandbox.faults import FaultInjector
from tidewire.sandbox.futures import BARS, FuturesMarket
from tidewire.sandbox.limits import Window
from tidewire.sandbox.messages import Form, statistics
from tidewire.sandbox.series import Trade, e8

DEPTHS = (5, 10, 20, 50, 100, 500, 1_000)
USUAL_HOURS = 8
"""Contracts whose funding is settled so often are in no list."""

FUNDING_REQUESTS, FUNDING_S = 500, 300.0
"""How many requests for funding, of either kind, in how many seconds."""

_NOT_OF_FUTURES = ("prevClosePrice", "bidPrice", "bidQty", "askPrice", "askQty")


class FuturesRest(Rest):
    """REST of one futures market."""

    bars_most = 1_500
    intervals: Container[str] = BARS

    def __init__(self, market: FuturesMarket, faults: FaultInjector, clock: Clock, limits: LimitConfig) -> None:
        self._market = market
        self._funding_turns = Window(clock, FUNDING_REQUESTS, FUNDING_S)
        super().__init__(market, faults, clock, replace(limits, weight_per_minute=limits.futures_weight_per_minute))

    def _table(self) -> dict[str, Endpoint]:
        inverse = self._market.inverse
        return {
            "ping": Endpoint(always(1), self._ping),
            "time": Endpoint(always(1), self._time),
            "exchangeInfo": Endpoint(always(1), self._exchange_info),
            "klines": Endpoint(_stepped((99, 1), (499, 2), (1_000, 5), (1_500, 10)), self._klines),
            "depth": Endpoint(_stepped((50, 2), (100, 5), (500, 10), (1_000, 20)), self._depth),
            "trades": Endpoint(always(5), self._trades),
            "historicalTrades": Endpoint(always(20), self._historical_trades),
            "aggTrades": Endpoint(always(20), self._agg_trades),
            "ticker/24hr": Endpoint(single_or(1, 40), self._statistics),
            "ticker/bookTicker": Endpoint(single_or(2, 5), self._book_ticker),
            "premiumIndex": Endpoint(always(10) if inverse else single_or(1, 10), self._premium_index),
            "fundingRate": Endpoint(always(1), self._funding_rate),
            "fundingInfo": Endpoint(always(1), self._funding_info),
            "openInterest": Endpoint(always(1), self._open_interest),
        }

    # --- answers

    def _form(self, symbol: str) -> Form:
        return self._market.pairs[symbol].form

    def _shown_ms(self) -> int:
        return self._now_ms() + self._faults.skew_ms

    def _pair(self, symbol: str) -> dict[str, str]:
        """COIN-M names the pair beside the contract."""
        return {"pair": self._market.contracts[symbol].pair} if self._market.inverse else {}

    def _one_or_all(self, query: Query) -> tuple[list[str], bool]:
        """The contracts asked for, and whether the answer is a single object; COIN-M always gives a list."""
        one = query.text("symbol")
        query.done()
        if one is None:
            return list(self._market.pairs), False
        if one not in self._market.pairs:
            raise Refusal(-1121, "Invalid symbol.")
        return [one], not self._market.inverse

    def _exchange_info(self, query: Query) -> Any:
        query.done()
        return {
            "timezone": "UTC",
            "serverTime": self._shown_ms(),
            "rateLimits": [rate_limit("REQUEST_WEIGHT", 1, self._limits.weight_per_minute)],
            "exchangeFilters": [],
            "symbols": [_listing(info) for info in self._market.contracts.values()],
        }

    def _depth(self, query: Query) -> Any:
        symbol, limit = query.symbol(), query.integer("limit")
        query.done()
        limit = 500 if limit is None else limit
        if limit not in DEPTHS:
            raise Refusal(-4021, f"'{limit}' is not valid depth limit.")
        book = self._market.depth(symbol, limit)
        named = {"symbol": symbol, **self._pair(symbol)} if self._market.inverse else {}
        shown = self._shown_ms()
        return {
            "lastUpdateId": book["lastUpdateId"],
            **named,
            "E": shown,
            "T": shown,
            "bids": book["bids"],
            "asks": book["asks"],
        }

    def _rows(self, symbol: str, trades: list[Trade], query: Query) -> list[dict[str, Any]]:
        info, form, skew = self._market.contracts[symbol], self._form(symbol), self._faults.skew_ms
        return [
            {"id": ident, "price": form.price(price), "qty": form.size(size), **_worth(info, price, size)}
            | {"time": ms + skew, "isBuyerMaker": maker}
            for ident, price, size, ms, maker in trades
        ]

    def _agg_rows(self, symbol: str, trades: list[Trade], query: Query) -> list[dict[str, Any]]:
        form, skew = self._form(symbol), self._faults.skew_ms
        return [
            {"a": ident, "p": form.price(price), "q": form.size(size), "f": ident, "l": ident}
            | {"T": ms + skew, "m": maker}
            for ident, price, size, ms, maker in trades
        ]

    def _historical_trades(self, query: Query) -> Any:
        if not query.key:
            raise Refusal(-2014, "API-key format invalid.", 401)
        symbol, limit, ident = query.symbol(), query.limit(100, 500), query.integer("fromId")
        query.done()
        series = self._market.series(symbol)
        return self._rows(symbol, series.recent(limit) if ident is None else series.from_id(ident, limit), query)

    def _statistics(self, query: Query) -> Any:
        names, single = self._one_or_all(query)
        now = self._now_ms()
        rows: list[dict[str, Any]] = []
        for name in names:
            found = statistics(name, self._market.series(name), self._market.best(name), now, self._form(name))
            row = {key: value for key, value in found.items() if key not in _NOT_OF_FUTURES}
            if self._market.inverse:
                row["baseVolume"] = row.pop("quoteVolume")
            rows.append({**self._pair(name), **row})
        return rows[0] if single else rows

    def _book_ticker(self, query: Query) -> Any:
        names, single = self._one_or_all(query)
        shown = self._shown_ms()
        rows = [
            {"symbol": name, **self._pair(name), **self._market.best(name), "time": shown}
            | {"lastUpdateId": self._market.pairs[name].book.update_id}
            for name in names
        ]
        return rows[0] if single else rows

    def _premium_index(self, query: Query) -> Any:
        names, single = self._one_or_all(query)
        rows: list[dict[str, Any]] = []
        for name in names:
            mark, index = map(e8, self._market.mark(name))
            rate, settled = self._market.funding(name, self._now_ms())
            row = {"symbol": name, **self._pair(name), "markPrice": mark, "indexPrice": index}
            row |= {"estimatedSettlePrice": mark, "lastFundingRate": rate, "interestRate": "0.00010000" if rate else ""}
            rows.append({**row, "nextFundingTime": settled, "time": self._shown_ms()})
        return rows[0] if single else rows

    def _funding_turn(self) -> None:
        if not self._funding_turns.allow():
            raise Refusal(-1003, f"Too many requests; current limit is {FUNDING_REQUESTS} in 5 minutes.", 429)

    def _funding_rate(self, query: Query) -> Any:
        self._funding_turn()
        symbol, begin, end = query.symbol(), query.time("startTime"), query.time("endTime")
        limit = query.limit(100, 1_000)
        query.done()
        now = self._now_ms()
        if begin is None:  # the latest ones
            step = self._market.contracts[symbol].funding_hours * HOUR_MS
            begin = (now if end is None else min(now, end)) - step * limit + 1
        rows = self._market.settlements(symbol, begin, now if end is None else end, limit)
        return [
            {"symbol": symbol, "fundingTime": at, "fundingRate": rate, "markPrice": e8(mark)} for at, rate, mark in rows
        ]

    def _funding_info(self, query: Query) -> Any:
        self._funding_turn()
        query.done()
        return [
            {"symbol": name, "adjustedFundingRateCap": "0.02000000", "adjustedFundingRateFloor": "-0.02000000"}
            | {"fundingIntervalHours": info.funding_hours, "disclaimer": False}
            for name, info in self._market.contracts.items()
            if info.funding_hours not in (0, USUAL_HOURS)
        ]

    def _open_interest(self, query: Query) -> Any:
        symbol = query.symbol()
        query.done()
        row = {"symbol": symbol, "openInterest": self._market.open_interest(symbol), "time": self._shown_ms()}
        if self._market.inverse:
            row |= {**self._pair(symbol), "contractType": self._market.contracts[symbol].kind}
        return row


def _stepped(*steps: tuple[int, int]) -> Callable[[web.Request], int]:
    """A request that weighs more the more it brings: ``(limit, weight)``, ascending."""

    def weigh(request: web.Request) -> int:
        text = request.query.get("limit", "500")
        limit = int(text) if text.isdecimal() and len(text) < 10 else 500
        return next((weight for most, weight in steps if limit <= most), steps[-1][1])

    return weigh


def _worth(info: ContractInfo, price: int, size: int) -> dict[str, str]:
    if info.contract_size:
        return {"baseQty": e8(size * info.contract_size * E8 // price)}
    return {"quoteQty": e8(price * size // E8)}


def _listing(info: ContractInfo) -> dict[str, Any]:
    form = info.form
    price_filter = {"filterType": "PRICE_FILTER", "minPrice": form.price(info.tick_e8), "maxPrice": "1000000"}
    lot_size = {"filterType": "LOT_SIZE", "minQty": form.size(info.step_e8), "maxQty": "1000000"}
    facts: dict[str, Any] = {
        "symbol": info.symbol,
        "pair": info.pair,
        "contractType": info.kind,
        "deliveryDate": info.delivery_ms,
        "onboardDate": 1_569_398_400_000,
        "baseAsset": info.base,
        "quoteAsset": info.quote,
        "marginAsset": info.margin,
        "pricePrecision": 8,
        "quantityPrecision": 8,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "filters": [
            {**price_filter, "tickSize": form.price(info.tick_e8)},
            {**lot_size, "stepSize": form.size(info.step_e8)},
        ],
        "orderTypes": ["LIMIT", "MARKET", "STOP", "TAKE_PROFIT"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }
    if info.contract_size:
        return {**facts, "contractStatus": "TRADING", "contractSize": info.contract_size}
    return {**facts, "status": "TRADING"}
