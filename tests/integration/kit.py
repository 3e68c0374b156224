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
from aiohttp import web

from tidewire.collect import Parser, SourceConfig
from tidewire.journal import JournalReader
from tidewire.records.clock import Rng, SeededRng
from tidewire.records.record import types
from tidewire.replay import Replay
from tidewire.runtime.config import Config, JournalSection, Listen, Loaded, PipeSection
from tidewire.runtime.platform import Tidewire
from tidewire.runtime.replaying import parsers
from tidewire.store.duckdb import DuckDBStore

RECORDING = Path(__file__).parents[3] / "shared" / "data" / "crypto" / "binance-spot-ethusdt-20240808.gz"
DEADLINE_S = 90.0
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
async def running(configuration: Loaded, rng: Rng | None = None) -> AsyncGenerator[Tidewire]:
    """A started platform, stopped at the end."""
    platform = Tidewire(configuration, rng=rng)
    await platform.start()
    try:
        yield platform
        assert platform.failure is None, f"a part failed: {platform.failure!r}"
    finally:
        await platform.stop()


async def idle(platform: Tidewire) -> None:
    """Return when everything accepted is stored; nothing may be coming in any more."""
    await platform.journal.drain()
    await until(lambda: platform.pipe.in_flight() == 0, "in flight 0")


def feed_connects(platform: Tidewire) -> int:
    """How many connections to the upstream were opened."""
    feed = platform.apps[0].status().get("feed", {})
    return int(feed.get("connections", 0))


# -- HTTP -----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def served(application: web.Application) -> AsyncGenerator[str]:
    """A site on a port of its own; its URL."""
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


class Api:
    """GET requests to a platform."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url

    async def raw(self, path: str, accept: str = "*/*", **params: Any) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body."""
        async with self._session.get(self.url + path, params=params, headers={"accept": accept}) as reply:
            headers = {name.lower(): value for name, value in reply.headers.items()}
            return reply.status, headers, await reply.read()

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
        shown = [name for name in rows.columns if name != "content"]
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


async def audited(client: Api, **params: Any) -> Any:
    """The audit, asked for until nothing is in flight: what is done about gaps comes as frames when all is quiet."""
    found: dict[str, Any] = {}

    async def at_rest() -> bool:
        found.update((await client.get("/v1/audit", **params))["data"])
        return found["in_flight_frames"] == 0

    await until(at_rest, "nothing is in flight", poll_s=0.1)
    return found


def balanced(audit: Mapping[str, Any]) -> None:
    """Fail unless the books add up and nothing is in flight."""
    assert audit["difference"] == 0, audit
    assert audit["in_flight_frames"] == 0, audit
    assert audit["sound"], audit


# -- a market with faults ---------------------------------------------------------------------------------------------


class Eager:
    """Chance for tests in a hurry: waits with jitter are a fiftieth of what they may be."""

    def __init__(self) -> None:
        self._tokens = SeededRng("eager")

    def uniform(self, low: float, high: float) -> float:
        """Near the lower end."""
        return low + (high - low) / 50

    def token(self, size: int = 8) -> str:
        """Different each time."""
        return self._tokens.token(size)


def open_holes(gaps: pl.DataFrame, kind: str, instrument: str) -> list[tuple[int, int]]:
    """First and last missing sequence of every gap of a series that was not filled, from a table of `Gap` rows."""
    state: dict[str, dict[str, Any]] = {}
    for row in gaps.filter(record_type=kind, instrument=instrument).sort("frame", "ordinal").iter_rows(named=True):
        if row["first_sequence"] is not None:
            state[row["gap_id"]] = row
    return [(row["first_sequence"], row["last_sequence"]) for row in state.values() if row["state"] != "filled"]


def all_gaps(found: Rows) -> pl.DataFrame:
    """Gap rows with their revisions."""
    return pl.concat([found["gap_v1"], found["gap_v1_revisions"]])


def every_trade_is_accounted_for(
    found: Rows, ledger: Mapping[str, Mapping[str, Any]], symbols: Mapping[str, str]
) -> int:
    """Fail unless each trade the sandbox numbered, from the first stored to the last sent, is a row or in a gap.

    ``symbols``: the venue's spelling → instrument. Returns how many are in gaps.
    """
    assert found["trade_v1_revisions"].is_empty()
    gaps = all_gaps(found)
    inside = 0
    for symbol, instrument in symbols.items():
        stored = found["trade_v1"].filter(instrument=instrument)["sequence"].to_list()
        assert len(stored) == len(set(stored)), f"{symbol}: a trade is stored twice"
        have = set(stored)
        missing: set[int] = set()
        for first, last in open_holes(gaps, "trade", instrument):
            hole = set(range(first, last + 1)) - have
            assert hole, f"{symbol}: the gap {first} to {last} misses nothing"
            assert not hole & missing, f"{symbol}: a trade is in two gaps"
            missing |= hole
        entry = ledger[f"{symbol.lower()}@trade"]
        numbered = set(range(min(have), max(have) + 1))
        assert have | missing == numbered, f"{symbol}: {len(numbered - have - missing)} trades are nowhere"
        dropped = set(entry["dropped_ids"]) & numbered
        assert dropped - have <= missing, f"{symbol}: trades that were never sent are neither asked for nor in gaps"
        assert entry["first_id"] <= min(have)
        assert max(have) <= entry["last_id"]
        # Sent once each, apart from repetitions: what is not stored was on the wire when it was cut.
        sent = int(entry["sent"]) - int(entry["duplicated"])
        assert sent <= len(have) + len(missing - dropped) + (entry["last_id"] - max(have))
        inside += len(missing)
    return inside
