"""The script everybody writes first: websockets, json.loads, floats, books as dicts; nothing is stored."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.request import urlopen

import websockets
from tally import Tally, until_told

STREAMS = {"trades_quotes": ("trade", "bookTicker"), "depth": ("depth@100ms",)}
Book = tuple[dict[float, float], dict[float, float]]

tally = Tally()
last: dict[str, tuple[float, ...]] = {}
books: dict[str, Book] = {}


def _side(levels: list[list[str]]) -> dict[float, float]:
    return {float(price): float(size) for price, size in levels}


def snapshot(symbol: str) -> Book:
    """A book to begin with."""
    with urlopen(f"{tally.orders['url']}/api/v3/depth?symbol={symbol}&limit=1000") as answer:
        found = json.load(answer)
    return _side(found["bids"]), _side(found["asks"])


def apply(data: dict[str, Any]) -> None:
    """Change a book by one message."""
    for side, levels in zip(books[data["s"]], (data["b"], data["a"]), strict=True):
        for price, size in levels:
            if amount := float(size):
                side[float(price)] = amount
            else:
                side.pop(float(price), None)
    tally.row("depth", data["s"], data["u"])


def take(data: dict[str, Any]) -> None:
    """One message of any kind."""
    if "U" in data:
        apply(data)
    elif "t" in data:
        last[data["s"]] = (float(data["p"]), float(data["q"]))
        tally.row("trade", data["s"], data["t"])
    else:
        last[data["s"]] = (float(data["b"]), float(data["B"]), float(data["a"]), float(data["A"]))
        tally.row("quote", data["s"], data["u"])


async def read(url: str) -> None:
    """Read until cancelled."""
    async with websockets.connect(url, compression=None) as socket:
        async for text in socket:
            take(json.loads(text)["data"])


async def main() -> None:
    """Read until told to stop."""
    orders = tally.orders
    if orders["scenario"] == "depth":
        books.update({symbol: snapshot(symbol) for symbol in orders["symbols"]})
    names = [f"{symbol.lower()}@{kind}" for symbol in orders["symbols"] for kind in STREAMS[orders["scenario"]]]
    reader = asyncio.create_task(read(f"{orders['ws_url']}/stream?streams={'/'.join(names)}"))
    tally.ready()
    await asyncio.to_thread(until_told)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    tally.report(versions={"websockets": websockets.__version__})


if __name__ == "__main__":
    if tally.orders.get("loop") == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())
