"""Binance spot and futures: instruments, trades, quotes, tickers, klines and more over REST and WebSocket.

Documentation of the source: https://developers.binance.com/docs/binance-spot-api-docs and, for futures,
https://developers.binance.com/docs/derivatives
"""

from tidewire.sources.binance.app import BinanceApp
from tidewire.sources.binance.futures import BinanceCoinmApp, BinanceUsdmApp
from tidewire.sources.binance.parse import BinanceParser

__all__ = ["BinanceApp", "BinanceCoinmApp", "BinanceParser", "BinanceUsdmApp"]
