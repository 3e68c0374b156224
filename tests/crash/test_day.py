"""A day of a venue in a minute: connections that age and are told goodbye, refusals, listings; nothing is missing.

``SCALE=10`` makes it ten minutes. The product is a process of its own, with several connections under one pattern.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import polars as pl
import pytest

from crash.harness import SCALE, client
from crash.truth import Stored
from integration.kit import until
from tidewire.runtime.supervise import found_running
from tidewire.sandbox.config import FailRest, Faults, LimitConfig, SandboxConfig
from tidewire.sandbox.server import Sandbox

DAY_S = 60.0 * SCALE
SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "XRPUSDT", "DOGEUSDT")
NEW, OLD = "ADAUSDT", "DOGEUSDT"
AGE_S = 32.0
"""When the sandbox cuts a connection; the product replaces it before."""
GROWTH_MIB = 160
CONFIG = """\
data_dir: data
listen: {port: 0}
log: {level: warning, form: json}
pipe: {store_ms: 100}
gaps: {fill: true, settle: 500ms}
sources:
  - source: {type: market, name: binance}
    api:
      base_url: "${SANDBOX}"
      rate_limit: {requests_per_second: 50, burst: 50}
      streams_per_connection: 8
      connection_age: 12s
    collectors:
      trade: {symbols: ["*USDT"]}
      quote: {symbols: ["*USDT"]}
      kline: {symbols: ["*USDT"], intervals: [1m], history: 30}
      order_book: {symbols: ["BTC*", "ETH*"], depth: 10, update_interval: 500ms}
      ticker: {update_interval: 5s}
"""


class Product:
    """``tidewire up`` in a process, its memory, and what it says of itself."""

    def __init__(self, directory: Path, process: asyncio.subprocess.Process, session: aiohttp.ClientSession) -> None:
        self._directory = directory
        self.process = process
        self._session = session
        self.mib: list[float] = []

    @classmethod
    @asynccontextmanager
    async def running(cls, directory: Path, url: str) -> AsyncGenerator[Product]:
        (directory / "config.yaml").write_text(CONFIG)
        log = (directory / "log").open("wb")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tidewire", "up", "config.yaml", "--quiet"),
            cwd=directory,
            env={**os.environ, "SANDBOX": url, "NO_PROXY": "*"},
            stderr=log,
            stdout=log,
        )
        async with client() as session:
            product = cls(directory, process, session)
            watching = asyncio.create_task(product._watch())
            try:
                yield product
            finally:
                watching.cancel()
                if process.returncode is None:
                    process.kill()
                await process.wait()
                log.close()

    async def _watch(self) -> None:
        statm = Path(f"/proc/{self.process.pid}/statm")
        while statm.exists():
            words = statm.read_text().split()
            self.mib.append(int(words[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
            await asyncio.sleep(0.5)

    async def get(self, path: str, **params: Any) -> Any:
        """The ``data`` of a reply; None while it does not answer."""
        running = found_running(self._directory / "data")
        if running is None:
            return None
        async with self._session.get(f"{running.url}{path}", params=params) as reply:
            return msgspec.json.decode(await reply.read())["data"] if reply.status == 200 else None

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        running = found_running(self._directory / "data")
        assert running is not None
        async with self._session.get(f"{running.url}/metrics") as reply:
            lines = (await reply.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))

    async def has(self, symbol: str, ident: int) -> bool:
        """Whether its latest trade is that one."""
        instrument = symbol.replace("USDT", "-USDT.BINANCE")
        rows = await self.get("/v1/trade/latest") or []
        return any(row["sequence"] >= ident for row in rows if row["instrument"] == instrument)

    async def settled(self) -> bool:
        """Nothing is in flight, and every gap that can be filled is."""
        gaps = await self.get("/v1/gaps", state="open,filling", limit=1)
        audit = await self.get("/v1/audit")
        return gaps == [] and audit is not None and audit["in_flight_frames"] == 0


async def the_day(sandbox: Sandbox, product: Product) -> None:
    """What happens in it, at its hours: the sleeps are the length of each state, nothing is waited for."""
    hour_s = DAY_S / 24
    sandbox.change_listing(listed=[NEW])
    await asyncio.sleep(4 * hour_s)
    assert sandbox.shutdown(after_s=11.0) >= 2
    await asyncio.sleep(6 * hour_s)
    for status, times in ((429, 5), (418, 1), (503, 3)):
        # Trades are missing while REST refuses: they are asked for again until they are there.
        sandbox.faults = Faults(drop=0.01, only=("@trade",), fail_rest=FailRest(status, times))
        await asyncio.sleep(2 * hour_s)
    sandbox.faults = Faults()
    sandbox.disconnect()  # all at once
    await asyncio.sleep(4 * hour_s)
    sandbox.change_listing(delisted=[OLD])
    await asyncio.sleep(4 * hour_s)
    assert product.process.returncode is None, "the product ended by itself"


@pytest.mark.crash
async def test_a_day(tmp_path: Path, did: Callable[[object], None]) -> None:
    limits = LimitConfig(connection_age_s=AGE_S, ping_interval_s=1.0, streams_per_connection=8, ban_s=5)
    sandbox = Sandbox(SandboxConfig(symbols=SYMBOLS, rate=600.0, history_hours=1, limits=limits))
    await sandbox.start()
    try:
        async with Product.running(tmp_path, sandbox.url) as product:
            await until(lambda: sent(sandbox) > 500, "messages", 60)
            await the_day(sandbox, product)
            await until(
                lambda: sandbox.ledger().get(f"{NEW.lower()}@trade", {}).get("sent", 0) > 50,
                "trades of the new one",
                30,
            )
            sandbox.pause()
            ledger = sandbox.ledger()
            for symbol in (*SYMBOLS, NEW):
                last = int(str(ledger[f"{symbol.lower()}@trade"]["last_id"]))
                await until(functools.partial(product.has, symbol, last), f"the last trade of {symbol}", 60, 0.1)
            await until(product.settled, "all is stored and filled", 120, 0.2)
            replaced = await product.metric("tidewire_collect_pool_replacements_total")
            connects = await product.metric("tidewire_collect_ws_connects_total")
            audit = await product.get("/v1/audit")
            product.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(product.process.wait(), 60) == 0
        ledger = sandbox.ledger()
    finally:
        await sandbox.stop()
    stored = Stored(tmp_path / "data")
    trades = whole(stored, ledger)
    gaps = stored.gaps()
    first, last = max(product.mib[: len(product.mib) // 3]), max(product.mib)
    by_cause = gaps.group_by("record_type", "cause", "state").len().sort("record_type", "cause", "state")
    did(
        f"a day in {DAY_S:.0f} s: {trades:,} trades, none missing; {connects:.0f} connections, {replaced:.0f} "
        f"replaced; gaps {by_cause.rows()}; memory {first:.0f} MiB in the first third, at most {last:.0f}"
    )
    assert replaced >= 3 * DAY_S / AGE_S
    assert stored.count("quarantined_v1") == 0
    assert audit["difference"] == 0
    assert audit["sound"]
    # Only the one cut of all connections was felt: not their age, not the goodbye.
    quotes = gaps.filter(record_type="quote")
    assert set(quotes["cause"]) == {"disconnect"}
    assert quotes.group_by("instrument").len()["len"].max() == 1
    assert gaps.filter(record_type="trade")["cause"].unique().to_list() == ["sequence"]
    assert stored.open_gaps().filter(pl.col("record_type") == "trade").is_empty()
    assert last - first < GROWTH_MIB


def sent(sandbox: Sandbox) -> int:
    """Messages that were put on the wire."""
    return sum(int(str(entry["sent"])) for entry in sandbox.ledger().values())


def whole(stored: Stored, ledger: dict[str, dict[str, Any]]) -> int:
    """Fail unless every trade from the first to the last sent is stored once; how many."""
    count = 0
    for symbol in (*SYMBOLS, NEW):
        ids = stored.rows("trade").filter(instrument=symbol.replace("USDT", "-USDT.BINANCE"))["sequence"].to_list()
        assert ids == list(range(ids[0], ledger[f"{symbol.lower()}@trade"]["last_id"] + 1)), symbol
        count += len(ids)
    return count
