"""History is loaded complete, once each and within the budget, whenever the product is killed.

A full run: ``BACKFILL_SYMBOLS=50 BACKFILL_DAYS=365 BACKFILL_KILLS=20 pytest tests/integration/test_backfill.py``.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import duckdb
import msgspec

from integration.kit import until
from tidewire import telemetry
from tidewire.runtime.supervise import found_running
from tidewire.sandbox.binance import Upstream
from tidewire.sandbox.config import FailRest, Faults, LimitConfig, SandboxConfig, symbol_names
from tidewire.sandbox.server import Sandbox

SCALE = int(os.environ.get("SCALE", "1"))
SYMBOLS = int(os.environ.get("BACKFILL_SYMBOLS", "3"))
DAYS = int(os.environ.get("BACKFILL_DAYS", str(3 * SCALE)))
KILLS = int(os.environ.get("BACKFILL_KILLS", "4"))
WEIGHT = int(os.environ.get("BACKFILL_WEIGHT", "6000" if SYMBOLS * DAYS > 100 else "1200"))
RATE = float(os.environ.get("BACKFILL_RATE", "40" if SYMBOLS * DAYS > 100 else "15"))
LONGEST_S = float(os.environ.get("BACKFILL_LONGEST_S", "7200" if SYMBOLS * DAYS > 100 else "120"))
DAY_US = 86_400_000_000
MINUTE_US = 60_000_000

CONFIG = """\
data_dir: data
listen: {{port: 0}}
log: {{level: warning, form: json}}
sources:
  - source: {{type: market, name: binance}}
    api: {{base_url: "{url}", rate_limit: {{requests_per_second: {rate}, burst: 1}}}}
    collectors:
      kline: {{symbols: {symbols}, intervals: [1m], history: 0, history_days: {days}}}
      agg_trade: {{symbols: [BTCUSDT], history_days: 1}}
"""


def answered(status: int) -> float:
    return telemetry.value("tidewire_sandbox_rest_requests_total", status=str(status))


async def born(directory: Path) -> asyncio.subprocess.Process:
    with (directory / "errors.log").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tidewire", "up", "config.yaml", "--quiet"), cwd=directory, stdout=log, stderr=log
        )


async def one_that_is_killed(directory: Path, chance: random.Random, most: int) -> None:
    process = await born(directory)
    replies = chance.randrange(2, most)
    goal = answered(200) + replies
    patience_s = 60.0 + replies
    try:
        await until(lambda: answered(200) >= goal or process.returncode is not None, "replies", patience_s, 0.005)
    finally:
        assert process.returncode is None, (directory / "errors.log").read_text()[-2_000:]
        process.send_signal(signal.SIGKILL)
        await process.wait()


async def progress(directory: Path) -> list[dict[str, Any]]:
    running = found_running(directory / "data")
    if running is None:
        return []
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5), trust_env=False) as session,
            session.get(f"{running.url}/v1/backfill") as reply,
        ):
            return msgspec.json.decode(await reply.read())["data"] if reply.status == 200 else []
    except (aiohttp.ClientError, TimeoutError):
        return []


async def one_that_ends(directory: Path) -> list[dict[str, Any]]:
    process = await born(directory)
    rows: list[dict[str, Any]] = []

    async def done() -> bool:
        nonlocal rows
        assert process.returncode is None, (directory / "errors.log").read_text()[-2_000:]
        rows = await progress(directory)
        return bool(rows) and all(row["state"] == "done" for row in rows)

    try:
        await until(done, "all history", LONGEST_S, 0.2)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 120) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return rows


def micros(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp()) * 1_000_000


def check_bars(store: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]], market: Upstream) -> int:
    """Every bar of every symbol, once, with the values of the venue."""
    total = 0
    for row in rows:
        start, end = micros(row["start"]), micros(row["end"])
        name, times = row["instrument"], "epoch_us(open_time)"
        found = store.execute(
            f"SELECT count(*), count(DISTINCT open_time), min({times}), max({times}) FROM kline_v1"
            f" WHERE instrument = ? AND interval = '1m' AND {times} >= ? AND {times} < ?",
            [name, start, end],
        ).fetchone()
        count = (end - start) // MINUTE_US
        assert found == (count, count, start, end - MINUTE_US), name
        total += count
        native = name.partition(".")[0].replace("-", "")
        for at in random.Random(name).sample(range(start, end, MINUTE_US), 20):
            bar = market.series(native).bar(at // 1_000, (at + MINUTE_US) // 1_000)
            assert bar is not None
            stored = store.execute(
                f"SELECT (close * 100000000)::BIGINT, trades FROM kline_v1 WHERE instrument = ? AND {times} = ?",
                [name, at],
            ).fetchone()
            assert stored == (bar.close, bar.count)
    return total


def check_trades(store: duckdb.DuckDBPyConnection, row: dict[str, Any]) -> int:
    """The ids have no hole from the first of the history to the last that came live."""
    found = store.execute(
        "SELECT count(*), count(DISTINCT sequence), min(sequence), max(sequence), min(epoch_us(event_time))"
        " FROM agg_trade_v1"
    ).fetchone()
    assert found is not None
    count, distinct, first, last, oldest = found
    assert count == distinct
    assert oldest <= micros(row["start"]) + 2 * 10_000_000
    gaps = store.execute(
        "SELECT last_sequence - first_sequence + 1 FROM gap_v1 WHERE record_type = 'agg_trade' AND state != 'filled'"
    ).fetchall()
    assert last - first + 1 - count <= sum(size for (size,) in gaps)
    return count


async def test_history_is_complete_and_once_each_whenever_it_is_killed(
    tmp_path: Path, did: Callable[[object], None]
) -> None:
    began = time.monotonic()
    names = symbol_names(SYMBOLS)
    limits = LimitConfig(weight_per_minute=WEIGHT)
    market = SandboxConfig(symbols=names, rate=20.0, history_hours=24 * (DAYS + 2), limits=limits)
    sandbox = Sandbox(market)
    await sandbox.start()
    refused, banned, asked = answered(429), answered(418), answered(200)
    chance = random.Random(int(os.environ.get("SEED", "7")))
    text = CONFIG.format(url=sandbox.url, symbols=msgspec.json.encode(names).decode(), days=DAYS, rate=RATE)
    (tmp_path / "config.yaml").write_text(text)
    shards = SYMBOLS * DAYS * 1_440 // 999 + 10
    try:
        for number in range(KILLS):
            if number == 1:
                sandbox.faults = Faults(fail_rest=FailRest(429, 1))
            await one_that_is_killed(tmp_path, chance, max(4, shards // KILLS))
        rows = await one_that_ends(tmp_path)
        assert answered(418) == banned, "never banned"
        with duckdb.connect(str(tmp_path / "data" / "tidewire.duckdb"), read_only=True) as store:
            bars = check_bars(store, [row for row in rows if row["collector"] == "kline"], sandbox._upstream)  # pyright: ignore[reportPrivateUsage]
            (trades,) = [check_trades(store, row) for row in rows if row["collector"] == "agg_trade"]
            assert store.execute("SELECT count(*) FROM kline_v1_revisions").fetchone() == (0,)
            assert store.execute("SELECT count(*) FROM quarantined_v1").fetchone() == (0,)
    finally:
        await sandbox.stop()
    replies, spent_s = answered(200) - asked, time.monotonic() - began
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    did(
        f"{SYMBOLS} symbols x {DAYS} days: {bars:,} bars, {trades:,} aggregates, {KILLS} kills, {replies:,.0f} "
        f"replies, {answered(429) - refused:.0f} times 429, {spent_s:.0f} s, {60 * replies / spent_s:,.0f} replies "
        f"a minute, peak {peak_mb:,.0f} MB"
    )
