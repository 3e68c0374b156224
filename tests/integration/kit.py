"""The whole product in a test: sandbox, platform, HTTP, and the tables of a store read without the product's help."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import duckdb
import msgspec
import polars as pl

from tidewire.collect import Parser, SourceConfig
from tidewire.journal import JournalReader
from tidewire.records.record import types
from tidewire.replay import Replay
from tidewire.runtime.config import Config, JournalSection, Listen, Loaded, PipeSection
from tidewire.runtime.platform import Tidewire
from tidewire.runtime.replaying import parsers
from tidewire.store.duckdb import DuckDBStore

RECORDING = Path(__file__).parents[3] / "shared" / "data" / "crypto" / "binance-spot-ethusdt-20240808.gz"
DEADLINE_S = 60.0
POLL_S = 0.02

Rows = Mapping[str, pl.DataFrame]
"""Table name → its rows."""


async def until(
    condition: Callable[[], bool | Awaitable[bool]], what: str, deadline_s: float = DEADLINE_S, poll_s: float = POLL_S
) -> None:
    """Return when the condition is true; fail, saying what was waited for, when it never is."""
    end = time.monotonic() + deadline_s
    while True:
        found = condition()
        if not isinstance(found, bool):
            found = await found
        if found:
            return
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        await asyncio.sleep(poll_s)


# -- the platform -------------------------------------------------------------------------------------------------


def binance(url: str, symbols: Sequence[str], collectors: Sequence[str] = ("trade", "quote"), **more: Any) -> Any:
    """A source file's content for a sandbox."""
    sections = {name: {"symbols": list(symbols)} for name in collectors} | more
    return {"source": {"type": "market", "name": "binance"}, "api": {"base_url": url}, "collectors": sections}


def loaded(directory: Path, sources: Sequence[Any], **settings: Any) -> Loaded:
    """A configuration as if it had been read from a file in ``directory``."""
    settings = {"pipe": PipeSection(store_ms=20.0), "journal": JournalSection()} | settings
    config = Config(data_dir="data", listen=Listen(port=0), **settings)
    return Loaded(config, [msgspec.convert(source, SourceConfig) for source in sources], directory, "test")


@contextlib.asynccontextmanager
async def running(configuration: Loaded) -> AsyncGenerator[Tidewire]:
    """A started platform, stopped at the end."""
    platform = Tidewire(configuration)
    await platform.start()
    try:
        yield platform
        assert platform.failure is None, f"a part failed: {platform.failure!r}"
    finally:
        await platform.stop()


async def idle(platform: Tidewire) -> None:
    """Return when everything accepted is stored."""
    await platform.journal.drain()
    await until(lambda: platform.pipe.in_flight() == 0, "in flight 0")


def feed_connects(platform: Tidewire) -> int:
    """How many connections to the upstream were opened."""
    feed = platform.apps[0].status().get("feed", {})
    return int(feed.get("connections", 0))


# -- HTTP -----------------------------------------------------------------------------------------------------------


class Api:
    """GET requests to a platform."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url

    async def raw(self, path: str, accept: str = "*/*", **params: Any) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body."""
        async with self._session.get(self.url + path, params=params, headers={"accept": accept}) as reply:
            return reply.status, dict(reply.headers), await reply.read()

    async def get(self, path: str, **params: Any) -> Any:
        """The JSON document of a request that must succeed."""
        status, _, body = await self.raw(path, **params)
        assert status == 200, f"{path} {params}: {status} {body[:500]!r}"
        return msgspec.json.decode(body)


@contextlib.asynccontextmanager
async def api(platform: Tidewire) -> AsyncGenerator[Api]:
    """A client of a platform."""
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        yield Api(session, platform.url)


# -- what is stored, read from the file -----------------------------------------------------------------------------


def tables(data: Path) -> dict[str, pl.DataFrame]:
    """Every table of record types of a closed store, revisions too, sorted by (frame, ordinal)."""
    found: dict[str, pl.DataFrame] = {}
    with duckdb.connect(str(data / "tidewire.duckdb"), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for kind in types().values():
            for table in (kind.table, f"{kind.table}_revisions"):
                rows = pl.from_arrow(connection.sql(f'SELECT * EXCLUDE (_journal) FROM "{table}"').to_arrow_table())
                assert isinstance(rows, pl.DataFrame)
                # The rest of the columns only breaks ties: several gaps may be shown by one row.
                flat = [name for name, dtype in rows.schema.items() if not dtype.is_nested()]
                found[table] = rows.sort(["frame", "ordinal", *flat], nulls_last=True)
    return found


def books(data: Path) -> dict[tuple[str, str, str], int]:
    """Rows of a closed store's books by (type, source, fate)."""
    with duckdb.connect(str(data / "tidewire.duckdb"), read_only=True) as connection:
        rows = connection.execute("SELECT type, source, fate, sum(n)::BIGINT FROM _fates GROUP BY ALL").fetchall()
    return {(kind, source, fate): count for kind, source, fate, count in rows}


def same_rows(left: Rows, right: Rows, what: str) -> None:
    """Fail, showing the first differences, unless all tables are equal in all columns."""
    assert left.keys() == right.keys()
    for table, rows in left.items():
        other = right[table]
        if rows.equals(other, null_equal=True):
            continue
        shown = [name for name in rows.columns if name not in ("content",)]
        only = rows.join(other, on=rows.columns, how="anti", nulls_equal=True).select(shown)
        extra = other.join(rows, on=rows.columns, how="anti", nulls_equal=True).select(shown)
        raise AssertionError(
            f"{what}: {table} differs: {rows.height} rows and {other.height}; only in the first: "
            f"{only.height} {only.head(3).to_dicts()}; only in the second: {extra.height} {extra.head(3).to_dicts()}"
        )


def replay_parsers(configuration: Loaded) -> dict[str, Parser]:
    """The parsers that ``tidewire replay`` uses."""
    return parsers(configuration)


async def replayed(data: Path, into: Path, configuration: Loaded, **options: Any) -> dict[str, pl.DataFrame]:
    """The tables that the journal of ``data`` makes in an empty store."""
    into.mkdir(parents=True)
    store = DuckDBStore(into / "tidewire.duckdb")
    await store.open()
    try:
        run = Replay(JournalReader(data / "journal"), replay_parsers(configuration), **options)
        async for _ in run.into(store):
            pass
    finally:
        await store.close()
    return tables(into)


def balanced(audit: Mapping[str, Any]) -> None:
    """Fail unless the books add up and nothing is in flight."""
    assert audit["difference"] == 0, audit
    assert audit["in_flight_frames"] == 0, audit
    assert audit["tables"] == {}, audit
