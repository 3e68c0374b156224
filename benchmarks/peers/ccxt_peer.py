"""ccxt.pro: one user loop for each ``watch_...`` method; what its loops were given is what it delivered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import ccxt.pro
import uvloop
from tally import Tally, until_told

tally = Tally()


def exchange() -> Any:
    """The stock Binance class, pointed at the local upstream."""
    url, ws_url = tally.orders["url"], tally.orders["ws_url"]
    found = ccxt.pro.binance({"enableRateLimit": False, "options": {"fetchMarkets": {"types": ["spot"]}}})
    found.has["fetchCurrencies"] = False
    found.urls["api"]["public"] = f"{url}/api/v3"
    found.urls["api"]["ws"]["spot"] = f"{ws_url}/ws"
    return found


def trades(found: list[dict[str, Any]]) -> None:
    for trade in found:
        tally.row("trade", trade["info"]["s"], int(trade["id"]))


def quotes(found: dict[str, Any]) -> None:
    for quote in found.values():
        tally.row("quote", quote["info"]["s"], int(quote["info"]["u"]))


def book(found: dict[str, Any]) -> None:
    tally.row("depth", found["symbol"].replace("/", ""), found["nonce"])


async def loop(watch: Callable[[list[str]], Awaitable[Any]], symbols: list[str], take: Callable[[Any], None]) -> None:
    """What a user writes."""
    while True:
        take(await watch(symbols))


async def main() -> None:
    """Watch until told to stop."""
    binance = exchange()
    await binance.load_markets()
    symbols = [binance.markets_by_id[symbol][0]["symbol"] for symbol in tally.orders["symbols"]]
    if tally.orders["scenario"] == "depth":
        loops = [loop(binance.watch_order_book_for_symbols, symbols, book)]
    else:
        loops = [
            loop(binance.watch_trades_for_symbols, symbols, trades),
            loop(binance.watch_bids_asks, symbols, quotes),
        ]
    tasks = [asyncio.create_task(found) for found in loops]
    tally.ready()
    told = asyncio.create_task(asyncio.to_thread(until_told))
    await asyncio.wait([told, *tasks], return_when=asyncio.FIRST_COMPLETED)
    failed = [repr(task.exception()) for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await binance.close()
    tally.report(versions={"ccxt": ccxt.__version__}, errors=failed)


if __name__ == "__main__":
    uvloop.run(main())
