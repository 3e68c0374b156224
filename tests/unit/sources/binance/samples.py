"""Binance's own samples, and frames made of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from tidewire.journal import Frame, Kind, Origin

START_NS = 1_723_161_255_400_000_000
WS = "wss://stream.binance.com:9443/stream#1"
REST = "GET https://api.binance.com/api/v3/"

NAMES = {
    "BTCUSDT": "BTC-USDT.BINANCE",
    "NKNUSDT": "NKN-USDT.BINANCE",
    "BNBBTC": "BNB-BTC.BINANCE",
    "ETHBTC": "ETH-BTC.BINANCE",
}

TRADE = (
    b'{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161255343,"s":"BTCUSDT","t":3735683259,'
    b'"p":"61837.63000000","q":"0.02000000","T":1723161255342,"m":true,"M":true}}'
)
AGG_TRADE = (
    b'{"stream":"bnbbtc@aggTrade","data":{"e":"aggTrade","E":1672515782136,"s":"BNBBTC","a":12345,"p":"0.00100000",'
    b'"q":"100.00000000","f":100,"l":105,"T":1672515782135,"m":true,"M":true}}'
)
AGG_TRADES = (
    b'[{"a":12345,"p":"0.00100000","q":"100.00000000","f":100,"l":105,"T":1672515782135,"m":true,"M":true},'
    b'{"a":12346,"p":"0.00110000","q":"4.70443515","f":-1,"l":-1,"T":1672515782140,"m":false,"M":true}]'
)
QUOTE = (
    b'{"stream":"nknusdt@bookTicker","data":{"u":499869768,"s":"NKNUSDT","b":"0.35210000","B":"672.00000000",'
    b'"a":"0.35260000","A":"3199.00000000"}}'
)
KLINE = (
    b'{"stream":"nknusdt@kline_1m","data":{"e":"kline","E":1633998523963,"s":"NKNUSDT","k":{"t":1633998480000,'
    b'"T":1633998539999,"s":"NKNUSDT","i":"1m","f":19862761,"L":19862790,"o":"0.35270000","c":"0.35280000",'
    b'"h":"0.35280000","l":"0.35220000","v":"25877.00000000","n":30,"x":false,"q":"9116.04600000","V":"58.0",'
    b'"Q":"20.46","B":"0"}}}'
)
TICKER = (
    b'{"stream":"bnbbtc@ticker","data":{"e":"24hrTicker","E":1672515782136,"s":"BNBBTC","p":"0.0015","P":"250.00",'
    b'"w":"0.0018","x":"0.0009","c":"0.0025","Q":"10","b":"0.0024","B":"10","a":"0.0026","A":"100","o":"0.0010",'
    b'"h":"0.0025","l":"0.0010","v":"10000","q":"18","O":0,"C":86400000,"F":0,"L":18150,"n":18151}}'
)
KLINES = (
    b'[[1499040000000,"0.01634790","0.80000000","0.01575800","0.01577100","148976.11427815",1499644799999,'
    b'"2434.19055334",308,"1756.87402397","28.46694368","0"],'
    b'[1499644800000,"0.01577100","0.01600000","0.01570000","0.01590000","10.5",1500249599999,"0.1",3,"1","0.01","0"]]'
)
TICKER_24H = (
    b'{"symbol":"BNBBTC","priceChange":"-94.99999800","priceChangePercent":"-95.960","weightedAvgPrice":"0.29628482",'
    b'"lastPrice":"4.00000200","bidPrice":"4.00000000","bidQty":"100.00000000","askPrice":"4.00000200",'
    b'"openPrice":"99.0","highPrice":"100.0","lowPrice":"0.1","volume":"8913.3","quoteVolume":"15.3",'
    b'"openTime":1499783499040,"closeTime":1499869899040,"firstId":28385,"lastId":28460,"count":76}'
)
DEPTH = (
    b'{"stream":"nknusdt@depth@100ms","data":{"e":"depthUpdate","E":1633998512068,"s":"NKNUSDT","U":499869750,'
    b'"u":499869752,"b":[["0.35130000","6195.00000000"]],"a":[]}}'
)
SNAPSHOT = (
    b'{"lastUpdateId":499869752,"bids":[["0.35210000","672.00000000"],["0.35200000","1144.00000000"]],'
    b'"asks":[["0.35260000","3199.00000000"]]}'
)
EXCHANGE_INFO = (
    b'{"timezone":"UTC","serverTime":1633998511098,"rateLimits":[{"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE",'
    b'"intervalNum":1,"limit":6000}],"symbols":[{"symbol":"ETHBTC","status":"TRADING","baseAsset":"ETH",'
    b'"baseAssetPrecision":8,"quoteAsset":"BTC","quoteAssetPrecision":8,"filters":[{"filterType":"LOT_SIZE",'
    b'"minQty":"0.00010000","stepSize":"0.00010000"},{"filterType":"PRICE_FILTER","minPrice":"0.00000100",'
    b'"tickSize":"0.00000100"}],"permissionSets":[["SPOT","MARGIN"]]},{"symbol":"OLDBTC","status":"CANCEL_ONLY",'
    b'"baseAsset":"OLD","quoteAsset":"BTC","filters":[{"filterType":"PRICE_FILTER","tickSize":"0.00000000"}]}]}'
)

REQUESTS = {
    TRADE: WS,
    AGG_TRADE: WS,
    AGG_TRADES: f"{REST}aggTrades?symbol=BNBBTC&fromId=12345&limit=2",
    QUOTE: WS,
    KLINE: WS,
    TICKER: WS,
    KLINES: f"{REST}klines?symbol=ETHBTC&interval=1w&limit=2",
    TICKER_24H: f"{REST}ticker/24hr?symbol=BNBBTC",
    DEPTH: WS,
    SNAPSHOT: f"{REST}depth?symbol=NKNUSDT&limit=1000",
    EXCHANGE_INFO: f"{REST}exchangeInfo",
}


def frame(payload: bytes, request: str = WS, sequence: int = 1, kind: Kind = Kind.DATA) -> Frame:
    collector = "stream" if request.startswith("ws") else "rest"
    wall_ns = START_NS + sequence * 1_000_000
    return Frame(sequence, wall_ns, sequence, kind, Origin("binance", collector, request), b"", payload)


def frames(payloads: Iterable[tuple[bytes, str]], first: int = 1) -> list[Frame]:
    return [frame(payload, request, first + place) for place, (payload, request) in enumerate(payloads)]


def changed(payload: bytes, **data: Any) -> bytes:
    """A stream message with other values in its data (or, for a kline, in its bar)."""
    whole = msgspec.json.decode(payload)
    inside = whole["data"]
    inside.get("k", inside).update(data)
    return msgspec.json.encode(whole)
