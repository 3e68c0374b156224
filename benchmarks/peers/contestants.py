"""Who takes part, and how each is started, waited for and asked what it got."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import duckdb
from upstream import SYMBOLS

HERE = Path(__file__).parent
START_S, STOP_S = 60.0, 120.0
STAGES = {
    "journal_commit_s": "tidewire_journal_commit_seconds_sum",
    "parse_and_process_s": "tidewire_pump_step_seconds_sum",
    "store_commit_s": "tidewire_store_commit_seconds_sum",
}
RECEIVED = "tidewire_collect_frames_total"
COLLECTORS = {"trades_quotes": ("trade", "quote"), "depth": ("order_book",)}


@dataclass(frozen=True)
class Contestant:
    """``environment`` names its requirements (empty: the project's own); ``options`` go to its script."""

    about: str
    script: str = ""
    environment: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    scenarios: tuple[str, ...] = ("trades_quotes", "depth")


CRYPTOFEED = {"script": "cryptofeed_peer.py", "environment": "cryptofeed"}
BLOCK = {"overflow": "block"}
CONTESTANTS = {
    "tidewire": Contestant("journal synced to disk, checks, dedupe, continuity, books, DuckDB, latest values, API"),
    "tidewire-subscriber": Contestant("the same with a subscriber of its WebSocket API", options={"subscriber": True}),
    "tidewire-books": Contestant(
        "order books kept and served, changes of levels not stored; delivered are frames in the journal",
        options={"deltas": False},
        scenarios=("depth",),
    ),
    "cryptofeed": Contestant("no-op callbacks", **CRYPTOFEED),
    "cryptofeed-postgres": Contestant("Postgres backend as it comes", **CRYPTOFEED, options={"sink": "postgres"}),
    "cryptofeed-postgres-block": Contestant(
        "Postgres backend that waits where it would drop", **CRYPTOFEED, options={"sink": "postgres"} | BLOCK
    ),
    "cryptofeed-redis": Contestant("Redis streams backend as it comes", **CRYPTOFEED, options={"sink": "redis"}),
    "cryptofeed-redis-block": Contestant(
        "Redis streams backend that waits where it would drop", **CRYPTOFEED, options={"sink": "redis"} | BLOCK
    ),
    "ccxt": Contestant("ccxt.pro, watch loops on uvloop", "ccxt_peer.py", "ccxt"),
    "naive": Contestant("websockets, json.loads, floats", "naive_peer.py", "naive"),
    "naive-uvloop": Contestant("the same on uvloop", "naive_peer.py", "naive", options={"loop": "uvloop"}),
}


class Failed(Exception):
    """A contestant did not start, or ended by itself."""


@dataclass
class Running:
    """One that runs: its pid, that of a server beside it, and what `finish` returned."""

    pid: int
    server: int | None = None
    subscriber: int | None = None
    report: dict[str, Any] = field(default_factory=dict)


async def line(process: asyncio.subprocess.Process, timeout_s: float, log: Path) -> dict[str, Any]:
    """The next JSON line of a process."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(timeout_s):
            text = await process.stdout.readline()
    except TimeoutError:
        text = b""
    if not text:
        last = log.read_text().splitlines()[-3:] if log.exists() else []
        raise Failed(f"no answer within {timeout_s:.0f} s, exit code {process.returncode}: {' | '.join(last)}")
    return json.loads(text)


@contextlib.asynccontextmanager
async def process(command: list[str], log: Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A process with its log in a file beside which it runs; it is gone when this ends."""
    with log.open("wb") as errors:
        found = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            cwd=log.parent,
            env=os.environ | {"XDG_CACHE_HOME": str(log.parent)},  # cryptofeed would leave a file in the user's
            limit=2**20,
        )
    try:
        yield found
    finally:
        if found.returncode is None:
            assert found.stdin is not None
            found.stdin.close()
            found.terminate()
            try:
                async with asyncio.timeout(20):
                    await found.wait()
            except TimeoutError:
                found.kill()
                await found.wait()


async def told(found: asyncio.subprocess.Process, log: Path) -> dict[str, Any]:
    """Tell a script to stop; what it reports."""
    assert found.stdin is not None
    found.stdin.close()
    report = await line(found, STOP_S, log)
    async with asyncio.timeout(STOP_S):
        await found.wait()
    return report


async def gone(server: int | None) -> None:
    """Stop a server that its script has left behind."""
    if server is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, signal.SIGTERM)


@contextlib.asynccontextmanager
async def peer(python: Path, contestant: Contestant, orders: dict[str, Any], folder: Path) -> AsyncGenerator[Running]:
    """A peer's script; its report is there afterwards."""
    log = folder / "peer.log"
    orders = orders | contestant.options | {"samples": str(folder / "samples.json"), "folder": str(folder)}
    async with process([str(python), str(HERE / contestant.script), json.dumps(orders)], log) as found:
        facts = await line(found, START_S, log)
        running = Running(found.pid, facts.get("server"))
        try:
            yield running
            running.report = await told(found, log)
        finally:
            await gone(running.server)


def configuration(contestant: Contestant, scenario: str, url: str) -> dict[str, Any]:
    """The platform file a user would write."""
    collectors: dict[str, Any] = {name: {"symbols": list(SYMBOLS)} for name in COLLECTORS[scenario]}
    if scenario == "depth":
        collectors["order_book"]["deltas"] = contestant.options.get("deltas", True)
    return {
        "data_dir": "data",
        "listen": {"port": 0},
        "log": {"level": "warning"},
        "journal": {"durability": {"binance": "disk"}},
        "sources": [
            {"source": {"type": "market", "name": "binance"}, "api": {"base_url": url}, "collectors": collectors}
        ],
    }


def _metrics(url: str) -> dict[str, float]:
    """Samples by name, labels added up."""
    found: dict[str, float] = {}
    with urlopen(f"{url}/metrics") as answer:
        for text in answer.read().decode().splitlines():
            if text and not text.startswith("#"):
                name, _, value = text.rpartition(" ")
                name = name.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
    return found


def _stored(path: Path) -> dict[str, int]:
    """Rows in the store's file; the levels of one update of a book count as one."""
    with duckdb.connect(str(path), read_only=True) as store:
        names = {row[0] for row in store.execute("select table_name from duckdb_tables()").fetchall()}
        counts = {
            kind: store.execute(f"select count(*) from {kind}_v1").fetchall()[0][0]
            for kind in ("trade", "quote", "book_delta", "order_book", "gap", "quarantined")
            if f"{kind}_v1" in names
        }
        if "book_delta_v1" in names:
            # Levels of a snapshot have no first update id.
            distinct = "select distinct instrument, sequence from book_delta_v1 where first_sequence is not null"
            query = f"select count(*) from ({distinct})"
            counts["depth"] = store.execute(query).fetchall()[0][0]
    return counts


@contextlib.asynccontextmanager
async def tidewire(contestant: Contestant, orders: dict[str, Any], folder: Path) -> AsyncGenerator[Running]:
    """The product as a user runs it; its rows are counted in the store's file after it has stopped."""
    log, file = folder / "tidewire.log", folder / "tidewire.json"
    file.write_text(json.dumps(configuration(contestant, orders["scenario"], orders["url"])))
    command = [sys.executable, "-m", "tidewire", "up", str(file), "--quiet"]
    async with process(command, log) as found:
        assert found.stdout is not None
        async with asyncio.timeout(START_S):
            said = await found.stdout.readline()
        url = said.decode().removeprefix("serving ").strip()
        if not url.startswith("http"):
            raise Failed(f"tidewire up said {said!r}: {log.read_text()[-300:]}")
        running = Running(found.pid)
        async with contextlib.AsyncExitStack() as stack:
            if contestant.options.get("subscriber"):
                place = "ws" + url.removeprefix("http") + "/v1/stream"
                asks = json.dumps(orders | {"stream": place, "samples": str(folder / "samples.json")})
                own = folder / "subscriber.log"
                reader = await stack.enter_async_context(
                    process([sys.executable, str(HERE / "subscriber.py"), asks], own)
                )
                await line(reader, START_S, own)
                running.subscriber = reader.pid
            yield running
            metrics = await asyncio.to_thread(_metrics, url)
            if running.subscriber:
                running.report["subscriber"] = await told(reader, own)
        found.send_signal(signal.SIGINT)
        async with asyncio.timeout(STOP_S):
            await found.wait()
    stored = _stored(folder / "data" / "tidewire.duckdb")
    kinds = ("depth",) if orders["scenario"] == "depth" else ("trade", "quote")
    delivered = {kind: stored.get(kind, 0) for kind in kinds}
    if not contestant.options.get("deltas", True):
        delivered = {"depth": int(metrics.get(RECEIVED, 0))}
    running.report |= {
        "delivered": delivered,
        "stored": stored,
        "python": sys.version.split()[0],
        "stages": {name: round(metrics.get(metric, 0.0), 3) for name, metric in STAGES.items()},
    }
