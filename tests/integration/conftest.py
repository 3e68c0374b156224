"""Two runs of the product, looked at by several tests: a real recording, and a synthetic market with faults."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
import websockets

from integration.kit import (
    RECORDING,
    Api,
    Eager,
    api,
    binance,
    books,
    feed_connects,
    idle,
    loaded,
    running,
    tables,
    until,
)
from tidewire.records.market import Trade
from tidewire.runtime.config import GapsSection, Loaded
from tidewire.runtime.platform import Tidewire
from tidewire.sandbox.config import Faults, SandboxConfig
from tidewire.sandbox.server import Sandbox

TRADES, QUOTES = 6_106, 24_077
AFTER = "2024-08-10"
CHANNEL = "trade.ETH-USDT.BINANCE"


@dataclass
class Recorded:
    """What was seen of the run."""

    configuration: Loaded
    data: Path
    frames: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    answers: dict[str, Any] = field(default_factory=dict[str, Any])
    bodies: dict[str, tuple[dict[str, str], bytes]] = field(default_factory=dict[str, tuple[dict[str, str], bytes]])
    tables: dict[str, pl.DataFrame] = field(default_factory=dict[str, pl.DataFrame])


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """The recording, played through real sockets into a running platform."""
    if not RECORDING.is_file():
        pytest.skip(f"no recording at {RECORDING}")
    return asyncio.run(_record(tmp_path_factory.mktemp("recording")))


async def _record(directory: Path) -> Recorded:
    # Not at maximal speed: a subscriber in the same event loop would fall behind on a busy machine and get a gap.
    sandbox = Sandbox(SandboxConfig(tape=RECORDING, speed=60.0))
    await sandbox.start()
    try:
        configuration = loaded(directory, [binance(sandbox.url, ["ETHUSDT"])], clock="upstream")
        run = Recorded(configuration, configuration.data_dir)
        async with running(configuration) as platform, api(platform) as client:
            await until(lambda: len(sandbox.status()["subscriptions"]) == 2, "the platform's subscriptions")
            await _play(sandbox, platform, run)
            await idle(platform)
            run.answers["shown"] = {
                kind: await _shown_at_rest(client, kind, rows) for kind, rows in (("trade", TRADES), ("quote", QUOTES))
            }
            await _ask(client, run)
        run.tables = tables(run.data)
        return run
    finally:
        await sandbox.stop()


async def _play(sandbox: Sandbox, platform: Tidewire, run: Recorded) -> None:
    """Play everything while a subscriber listens, until it and the store have all."""
    url = platform.url.replace("http", "ws") + "/v1/stream"
    async with websockets.connect(url, subprotocols=[websockets.Subprotocol("tidewire.v1.json")], proxy=None) as socket:
        await socket.send(msgspec.json.encode({"op": "subscribe", "channels": [CHANNEL], "id": 1}).decode())
        while (frame := msgspec.json.decode(await socket.recv()))["op"] != "subscribed":
            run.frames.append(frame)
        sandbox.play()
        rows = 0
        async with asyncio.timeout(60):
            while rows < TRADES:
                frame = msgspec.json.decode(await socket.recv())
                assert frame["op"] != "gap", frame
                run.frames.append(frame)
                rows += len(frame.get("rows", ()))
        await sandbox.finished()

    async def stored() -> bool:
        counts = Counter[str]()
        for (kind, _, _), count in (await platform.store.counts()).items():
            counts[kind] += count
        return counts["trade"] >= TRADES and counts["quote"] >= QUOTES

    await until(stored, "all rows stored")


async def _shown_at_rest(client: Api, kind: str, rows: int) -> bool:
    """Whether a read that names no snapshot comes to show the rows of the very last frame too."""
    found = ""

    async def shown() -> bool:
        nonlocal found
        _, headers, _ = await client.raw(f"/v1/{kind}", limit=100_000, fields="frame", format="arrow")
        found = headers["x-tidewire-rows"]
        return found == str(rows)

    try:
        await until(shown, f"{rows:,} rows in a plain read", 3.0, 0.1)
    except AssertionError:
        return False
    return True


async def _ask(client: Api, run: Recorded) -> None:
    run.answers["sources"] = await client.get("/v1/sources")
    run.answers["audit"] = await client.get("/v1/audit")
    run.answers["bars"] = await client.get("/v1/trade", resample="1m", symbol="ETH-USDT", limit=1_000)
    run.answers["quarantine"] = await client.get("/v1/quarantine")
    run.answers["gaps"] = await client.get("/v1/gaps")
    run.answers["latest"] = await client.get("/v1/trade/latest", symbol="ETHUSDT")
    for kind in ("trade", "quote"):
        for form in ("json", "ndjson", "csv", "arrow", "parquet"):
            asked = {"symbol": "ETH-USDT", "limit": 100_000, "format": form, "snapshot": AFTER}
            status, headers, body = await client.raw(f"/v1/{kind}", **asked)
            assert status == 200, body[:500]
            run.bodies[f"{kind}.{form}"] = headers, body


# -- faults ---------------------------------------------------------------------------------------------------------

SYMBOLS = {"BTCUSDT": "BTC-USDT.BINANCE", "ETHUSDT": "ETH-USDT.BINANCE", "SOLUSDT": "SOL-USDT.BINANCE"}
EVENTS, RATE = 20_000, 3_000.0
FAULTS = Faults(drop=0.005, duplicate=0.01, reorder=0.01, disconnect_every=2_500, seed=11)


@dataclass
class Faulty:
    """What came of a market with faults, the platform being stopped and started twice meanwhile."""

    configuration: Loaded
    data: Path
    ledger: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    audit: dict[str, Any] = field(default_factory=dict[str, Any])
    tables: dict[str, pl.DataFrame] = field(default_factory=dict[str, pl.DataFrame])
    books: dict[tuple[str, str, str], int] = field(default_factory=dict[tuple[str, str, str], int])
    connects: int = 0


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    """Drops, repeats, reorderings and disconnects under load, with two restarts."""
    return asyncio.run(_faulty(tmp_path_factory.mktemp("faulty")))


async def _faulty(directory: Path) -> Faulty:
    config = SandboxConfig(
        symbols=tuple(SYMBOLS), rate=RATE, events=EVENTS, start_on=frozenset({"@trade"}), history_hours=1, faults=FAULTS
    )
    sandbox = Sandbox(config)
    await sandbox.start()
    try:
        more = {"kline": {"symbols": list(SYMBOLS), "intervals": ["1s", "1m"], "history": 30}}
        more["ticker"] = {"update_interval": "1s"}
        # What is missing stays missing here; `test_gaps` looks at how it is filled.
        unfilled = GapsSection(fill=False)
        configuration = loaded(directory, [binance(sandbox.url, list(SYMBOLS), **more)], gaps=unfilled)
        run = Faulty(configuration, configuration.data_dir)
        for part in (1, 2):
            async with running(configuration, Eager()) as platform:
                await until(lambda part=part: sandbox.status()["events"] >= part * EVENTS // 3, "a third of the market")
            run.connects += feed_connects(platform)
        async with running(configuration, Eager()) as platform, api(platform) as client:
            await until(lambda: sandbox.status()["events"] >= EVENTS * 9 // 10, "most of the market")
            sandbox.faults = Faults()  # so that the end of the market is sure to arrive
            await sandbox.finished()
            await until(lambda: _all_here(sandbox, platform), "the last trades")
            await idle(platform)
            run.audit = (await client.get("/v1/audit"))["data"]
        run.connects += feed_connects(platform)
        run.ledger = sandbox.ledger()
        run.tables = tables(run.data)
        run.books = books(run.data)
        return run
    finally:
        await sandbox.stop()


def _all_here(sandbox: Sandbox, platform: Tidewire) -> bool:
    """Whether the last message of each trade stream that was sent to the platform has been received."""
    last = {
        instrument: sandbox.ledger()[f"{symbol.lower()}@trade"]["last_id"] for symbol, instrument in SYMBOLS.items()
    }
    rows = platform.cache.get(Trade.type, {}).select("instrument", "sequence")
    have = dict(rows.iter_rows())
    return all(have.get(instrument) == ident for instrument, ident in last.items())
