"""A gateway on a free loopback port, over a store that is a few frames, and clients for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import msgspec
import polars as pl
from websockets.asyncio.client import ClientConnection, connect

from tidewire.bus import MemoryBus
from tidewire.errors import AmbiguousInstrument, InstrumentError
from tidewire.records import RecordType, market
from tidewire.records.batch import Batch, Lineage
from tidewire.records.clock import SeededRng, SystemClock
from tidewire.records.event import data_event
from tidewire.serve.platform import Platform, ServeConfig
from tidewire.serve.rest import build
from tidewire.serve.server import Gateway
from tidewire.store.protocol import Query, Result

START = datetime(2026, 1, 5, tzinfo=UTC)
WATERMARK = START + timedelta(days=1)
BTC, ETH = "BTC-USDT.BINANCE", "ETH-USDT.BINANCE"
US = timedelta(microseconds=1)


def moment(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def rows_of(kind: RecordType, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows with every column filled that is not given."""
    filled: list[dict[str, Any]] = []
    for place, row in enumerate(rows):
        seconds = float(row.get("seconds", place))
        base: dict[str, Any] = dict.fromkeys(kind.fields)
        base |= {"source": "binance", "event_time": moment(seconds), "public_at": moment(seconds)}
        base |= {"ingested_at": moment(seconds + 0.1), "frame": place + 1, "ordinal": 0}
        if "instrument" in kind.fields:
            base["instrument"] = BTC
        filled.append(base | {name: value for name, value in row.items() if name != "seconds"})
    return pl.DataFrame(filled, schema=kind.schema)


def trades(count: int, **facts: Any) -> pl.DataFrame:
    made = [
        {
            "trade_id": str(1000 + n),
            "sequence": 1000 + n,
            "price": Decimal("61837.63") + n,
            "size": Decimal("0.02000001"),
            "side": "buy" if n % 2 else "sell",
            "seconds": n,
        }
        | facts
        for n in range(count)
    ]
    return rows_of(market.Trade.type, made)


def quote(number: int, **facts: Any) -> dict[str, Any]:
    return {"sequence": number, "bid_price": Decimal(number), "bid_size": Decimal(1), "frame": number} | facts


def kline(number: int, *, final: bool, **facts: Any) -> dict[str, Any]:
    return {
        "interval": "1m",
        "open_time": moment(60 * number),
        "close_time": moment(60 * number + 60),
        "event_time": moment(60 * number),
        "close": Decimal(100 + number),
        "final": final,
        "frame": number + 1,
    } | facts


class TableStore:
    """Just enough of a store: one frame for each type, read as the protocol says. ``fail`` is raised by reads."""

    def __init__(self) -> None:
        self.tables: dict[str, pl.DataFrame] = {}
        self.queries: list[Query] = []
        self.fail: Exception | None = None

    def put(self, kind: RecordType, rows: pl.DataFrame) -> None:
        known = self.tables.get(kind.name)
        self.tables[kind.name] = rows if known is None else pl.concat([known, rows])

    def watermark(self, kind: RecordType) -> datetime:
        return WATERMARK

    def _matching(self, query: Query) -> tuple[pl.DataFrame, datetime]:
        if self.fail is not None:
            raise self.fail
        self.queries.append(query)
        rows = self.tables.get(query.type.name, pl.DataFrame(schema=query.type.schema))
        snapshot = query.snapshot or WATERMARK
        rows = rows.filter(pl.col("ingested_at") <= snapshot)
        for name, values in query.where.items():
            column = pl.col(name).cast(pl.String)
            tests = [column.str.contains(f"^{v.replace('.', '[.]').replace('*', '.*')}$") for v in values]
            rows = rows.filter(pl.any_horizontal(tests))
        if query.start is not None:
            rows = rows.filter(pl.col("event_time") >= query.start)
        if query.end is not None:
            rows = rows.filter(pl.col("event_time") < query.end)
        if query.as_of is not None:
            rows = rows.filter(pl.col("public_at") <= query.as_of)
        return rows, snapshot

    async def read(self, query: Query) -> Result:
        rows, snapshot = self._matching(query)
        place = ("event_time", "frame", "ordinal")
        rows = rows.sort(place, descending=query.order == "desc")
        positions = list(zip(*(rows[name].to_physical() for name in place), strict=True))
        if query.after is not None:
            later = [(at > query.after) == (query.order == "asc") and at != query.after for at in positions]
            rows = rows.filter(pl.Series(later, dtype=pl.Boolean))
            positions = [at for at, keep in zip(positions, later, strict=True) if keep]
        following = positions[query.limit - 1] if len(positions) > query.limit else None
        rows = rows.head(query.limit)
        return Result(rows.select(query.fields or rows.columns), snapshot, WATERMARK, following)

    async def latest(self, query: Query) -> Result:
        rows, snapshot = self._matching(query)
        rows = rows.sort("event_time", "frame").unique(query.type.series, keep="last", maintain_order=True)
        return Result(rows.head(query.limit), snapshot, WATERMARK)


class FrameCache:
    """The latest values in memory, set by the test."""

    def __init__(self) -> None:
        self.tables: dict[str, pl.DataFrame] = {}

    def get(self, kind: RecordType, where: Mapping[str, Sequence[str]]) -> pl.DataFrame:
        rows = self.tables.get(kind.name, pl.DataFrame(schema=kind.schema))
        for name, values in where.items():
            rows = rows.filter(pl.col(name).is_in(list(values)))
        return rows


SPELLINGS = {"BTCUSDT": BTC, "BTC/USDT": BTC, "BTC-USDT": BTC, "ETHUSDT": ETH, "BTCUSDT.BINANCE": BTC}


def resolve(spelling: str) -> str:
    if spelling == "000001":
        raise AmbiguousInstrument(spelling, ["000001.SZ", "000001.SH"])
    found = SPELLINGS.get(spelling, spelling)
    if "." not in found:
        raise InstrumentError(f"{spelling!r} is not a symbol of any source. Did you mean 'BTCUSDT'?")
    return found


@dataclass
class Served:
    """A running gateway and what it serves."""

    gateway: Gateway
    store: TableStore
    cache: FrameCache
    bus: MemoryBus
    http: httpx.AsyncClient
    clock: Any
    facts: dict[str, Any]
    position: dict[str, int] = field(default_factory=dict)

    async def publish(self, kind: RecordType, rows: pl.DataFrame, **parts: Any) -> None:
        """One processed batch, the next on its stream unless ``prev`` is given."""
        prev = parts.pop("prev", self.position.get(kind.name, 0))
        last = parts.pop("last", prev + 1)
        self.position[kind.name] = max(self.position.get(kind.name, 0), last)
        lineage = Lineage("journal", 0, prev, last, 1, "trace")
        await self.bus.publish(data_event("processed", Batch(kind, rows, lineage, **parts), 1))

    async def clog(self, socket: ClientConnection) -> None:
        """Publish trades until a client that does not read cannot be written to any more."""
        connection = list(self.gateway.application.hub._connections)[-1]
        big = trades(2_000, trade_id="x" * 2_000)
        stuck = 0
        while stuck < 3 and connection in self.gateway.application.hub._connections:
            before = connection._box.waiting_bytes
            await self.publish(market.Trade.type, big)
            await self.settled(lambda: not self.gateway.application.hub._pending)
            await asyncio.sleep(0)
            stuck = stuck + 1 if connection._box.waiting_bytes > before or connection._box.full else 0

    async def settled(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds."""
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - what goes on inside the server has no event of its own
                await asyncio.sleep(0.001)

    @asynccontextmanager
    async def stream(self, *channels: str, **options: Any) -> AsyncIterator[ClientConnection]:
        """A connection that has its welcome, and its subscriptions if channels are given."""
        options.setdefault("subprotocols", ["tidewire.v1.json"])
        url = self.gateway.url.replace("http", "ws") + "/v1/stream"
        async with connect(url, compression=None, max_size=None, **options) as socket:
            assert (await frame(socket))["op"] == "welcome"
            if channels:
                await say(socket, op="subscribe", channels=list(channels))
                assert (await frame(socket))["op"] == "subscribed"
            yield socket


async def say(socket: ClientConnection, **fields: Any) -> None:
    await socket.send(msgspec.json.encode(fields).decode())


async def frame(socket: ClientConnection, op: str = "") -> dict[str, Any]:
    """The next frame, or the next of one kind."""
    async with asyncio.timeout(10):
        while True:
            found = msgspec.json.decode(await socket.recv())
            if not op or found["op"] == op:
                return found


@asynccontextmanager
async def asking() -> AsyncIterator[httpx.AsyncClient]:
    """A client that calls the application without a server: for what does not depend on one."""
    platform = Platform(TableStore(), FrameCache(), MemoryBus(SystemClock()), SystemClock(), SeededRng(7), resolve)
    transport = httpx.ASGITransport(build(platform))
    async with httpx.AsyncClient(base_url="http://localhost", transport=transport, trust_env=False) as client:
        yield client


@asynccontextmanager
async def serving(config: ServeConfig | None = None, clock: Any = None, **parts: Any) -> AsyncIterator[Served]:
    """A gateway over an empty store, stopped at the end."""
    clock = clock or SystemClock()
    bus = MemoryBus(SystemClock())
    await bus.start()
    facts: dict[str, Any] = {}
    store, cache = parts.pop("store", None) or TableStore(), parts.pop("cache", None) or FrameCache()
    platform = Platform(store, cache, bus, clock, SeededRng(7), resolve, **parts)
    gateway = Gateway(platform, config or ServeConfig(port=0, cursor_key=b"k" * 32))
    await gateway.start()
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        try:
            yield Served(gateway, store, cache, bus, client, clock, facts)
        finally:
            await gateway.stop()
            await bus.close()
