"""Binance spot: instruments, trades, quotes, tickers, klines and order books over REST and WebSocket.

Documentation of the source: https://developers.binance.com/docs/binance-spot-api-docs
"""

from tidewire.sources.binance.app import BinanceApp
from tidewire.sources.binance.parse import BinanceParser

__all__ = ["BinanceApp", "BinanceParser"]
