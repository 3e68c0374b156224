"""Binance's markets: one protocol, and what differs between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

Steps = Sequence[tuple[int, int]]
"""``(limit, weight)``, ascending: a request of up to ``limit`` rows weighs that much."""

MOST_ROWS = 1_000
"""How many bars or aggregated trades one request brings."""

_PUBLIC = "/public/stream"
_MARKET = "/market/stream"


@dataclass(frozen=True)
class Market:
    """One of Binance's markets.

    ``stream_paths``: the kinds of streams (``trade``, ``kline`` ...) that exist, and under which path each is served;
    streams of two paths never share a connection. ``local_path`` stands before it where one host has REST and streams.
    ``weights``: what a request weighs, by endpoint; ``one_weights``: the same with a ``symbol``; ``limit_weights``: by
    ``limit``. An endpoint that has no entry weighs 1.
    """

    name: str
    venue: str
    rest_url: str
    prefix: str
    stream_url: str
    stream_paths: Mapping[str, str]
    weight_per_minute: int
    weights: Mapping[str, int]
    one_weights: Mapping[str, int] = field(default_factory=dict[str, int])
    limit_weights: Mapping[str, Steps] = field(default_factory=dict[str, Steps])
    local_path: str = ""
    weight_header: str = "X-MBX-USED-WEIGHT-1M"
    trades_by_id: int = 1_000
    """How many past trades one request by id brings."""
    trades_by_id_need_key: bool = False
    inverse: bool = False
    """Contracts are for an amount of the quote asset and settled in the base asset."""

    def weight(self, endpoint: str, params: Mapping[str, str]) -> int:
        """What a request weighs."""
        steps = self.limit_weights.get(endpoint)
        if steps is not None:
            limit = int(params.get("limit", "500"))
            return next((weight for most, weight in steps if limit <= most), steps[-1][1])
        if "symbol" in params and endpoint in self.one_weights:
            return self.one_weights[endpoint]
        return self.weights.get(endpoint, 1)

    def path_of(self, stream: str) -> str:
        """The path under which a stream is served; `KeyError` for one that this market does not have."""
        return self.stream_paths[kind_of(stream)]

    def stream_base(self, rest: str) -> str:
        """Binance's own stream host for its own REST host; a mirror or sandbox serves both on one."""
        if rest == self.rest_url:
            return self.stream_url
        parts = urlsplit(rest)
        return f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.netloc}{self.local_path}"


def kind_of(stream: str) -> str:
    """``btcusdt@kline_1m`` → ``kline``, ``btcusdt@markPrice@1s`` → ``markPrice``, ``!ticker@arr`` → ``ticker``."""
    if stream.startswith("!"):
        return stream[1:].partition("@")[0]
    kind = stream.partition("@")[2].partition("@")[0].partition("_")[0]
    return "depth" if kind.startswith("depth") else kind


SPOT = Market(
    name="binance",
    venue="BINANCE",
    rest_url="https://api.binance.com",
    prefix="/api/v3",
    stream_url="wss://stream.binance.com:9443",
    stream_paths=dict.fromkeys(("trade", "aggTrade", "bookTicker", "kline", "ticker", "depth"), "/stream"),
    weight_per_minute=6_000,
    weights={"exchangeInfo": 20, "klines": 2, "trades": 25, "historicalTrades": 25, "aggTrades": 4, "ticker/24hr": 80}
    | {"ticker/bookTicker": 4},
    one_weights={"ticker/24hr": 2, "ticker/bookTicker": 2},
    limit_weights={"depth": ((100, 5), (500, 25), (1_000, 50), (5_000, 250))},
)

_FUTURES_STREAMS = {
    "depth": _PUBLIC,
    "bookTicker": _PUBLIC,
    # Not said by the venue's announcement of the split, but single trades stayed on the old address when all that is
    # under /market fell silent there.
    "trade": _PUBLIC,
    "aggTrade": _MARKET,
    "markPrice": _MARKET,
    "kline": _MARKET,
    "forceOrder": _MARKET,
    "ticker": _MARKET,
}
_FUTURES_WEIGHTS = {"trades": 5, "historicalTrades": 20, "aggTrades": 20, "ticker/24hr": 40, "ticker/bookTicker": 5}
_FUTURES_LIMITS: Mapping[str, Steps] = {
    "klines": ((99, 1), (499, 2), (1_000, 5), (1_500, 10)),
    "depth": ((50, 2), (100, 5), (500, 10), (1_000, 20)),
}

USDM = Market(
    name="binanceusdm",
    venue="BINANCEUSDM",
    rest_url="https://fapi.binance.com",
    prefix="/fapi/v1",
    stream_url="wss://fstream.binance.com",
    stream_paths=_FUTURES_STREAMS,
    weight_per_minute=2_400,
    weights={**_FUTURES_WEIGHTS, "premiumIndex": 10},
    one_weights={"ticker/24hr": 1, "ticker/bookTicker": 2, "premiumIndex": 1},
    limit_weights=_FUTURES_LIMITS,
    trades_by_id=500,
    trades_by_id_need_key=True,
)

COINM = Market(
    name="binancecoinm",
    venue="BINANCECOINM",
    rest_url="https://dapi.binance.com",
    prefix="/dapi/v1",
    stream_url="wss://dstream.binance.com",
    stream_paths=dict.fromkeys(_FUTURES_STREAMS, "/stream"),
    weight_per_minute=2_400,
    weights={**_FUTURES_WEIGHTS, "premiumIndex": 10},
    one_weights={"ticker/24hr": 1, "ticker/bookTicker": 2, "premiumIndex": 10},
    limit_weights=_FUTURES_LIMITS,
    trades_by_id=500,
    trades_by_id_need_key=True,
    local_path="/dstream",
    inverse=True,
)
