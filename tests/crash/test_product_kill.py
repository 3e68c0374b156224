"""The product is killed with SIGKILL again and again under load; each accepted row is stored once, nothing is silent.

What must be there is worked out without the product's parsers: from the journal's bytes, and from the ledger of the
sandbox that sent them. ``SCALE`` multiplies the kills, ``SEED`` chooses their moments.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncGenerator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import msgspec
import polars as pl
import pytest

from integration.kit import every_trade_is_accounted_for, loaded, replayed, same_rows, tables, until
from tidewire.journal import JournalReader, Kind
from tidewire.runtime.supervise import found_running
from tidewire.sandbox.config import Faults, SandboxConfig
from tidewire.sandbox.server import Sandbox

SCALE = int(os.environ.get("SCALE", "1"))
SEED = int(os.environ.get("SEED", "7"))
KILLS = 20 * SCALE
ROWS = 20_000
RATE = 5_000.0
EARLY = 0.2
"""Share of the kills that come at any moment after the start, not only once data flows."""
SYMBOLS = {"BTCUSDT": "BTC-USDT.BINANCE", "ETHUSDT": "ETH-USDT.BINANCE", "SOLUSDT": "SOL-USDT.BINANCE"}

CONFIG = """\
data_dir: data
listen: {port: 0}
log: {level: warning, form: json}
pipe: {store_ms: 50}
sources:
  - source: {type: market, name: binance}
    api: {base_url: "${SANDBOX}"}
    collectors:
      trade: {symbols: [BTCUSDT, ETHUSDT, SOLUSDT]}
      quote: {symbols: [BTCUSDT, ETHUSDT, SOLUSDT]}
      kline: {symbols: [BTCUSDT, ETHUSDT, SOLUSDT], intervals: [1s, 1m], history: 60}
      ticker: {update_interval: 1s}
"""


class Product:
    """``tidewire up`` in a process of its own."""

    def __init__(self, directory: Path, sandbox: Sandbox) -> None:
        self.directory = directory
        self.sandbox = sandbox
        self.seen: dict[str, int] = {}
        """The latest trade of each instrument that the API ever showed."""

    @contextlib.asynccontextmanager
    async def life(self) -> AsyncGenerator[asyncio.subprocess.Process]:
        """One process from its start to its end; killed if it still runs."""
        errors = (self.directory / "errors.log").open("ab")
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tidewire", "up", "config.yaml", "--quiet"),
                cwd=self.directory,
                env=os.environ | {"SANDBOX": self.sandbox.url},
                stdout=asyncio.subprocess.DEVNULL,
                stderr=errors,
            )
            try:
                yield process
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()
        finally:
            errors.close()

    def sent(self) -> int:
        """Messages the sandbox has put on the wire."""
        return sum(entry["sent"] for entry in self.sandbox.ledger().values())  # type: ignore[misc]

    async def flowing(self, process: asyncio.subprocess.Process, messages: int) -> None:
        """Return when so many messages were sent to this life."""
        before = self.sent()
        await until(lambda: self.sent() >= before + messages or process.returncode is not None, "messages", 60, 0.002)
        assert process.returncode is None, (self.directory / "errors.log").read_text()[-4_000:]

    async def look(self, session: aiohttp.ClientSession) -> None:
        """Remember what the API shows now: from then on it may never be lost."""
        running = found_running(self.directory / "data")
        if running is None:
            return
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with session.get(f"{running.url}/v1/trade/latest") as reply:
                if reply.status == 200:
                    for row in msgspec.json.decode(await reply.read())["data"]:
                        self.seen[row["instrument"]] = max(row["sequence"], self.seen.get(row["instrument"], 0))


async def kill_often(product: Product, chance: random.Random) -> None:
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        for _ in range(KILLS):
            async with product.life() as process:
                if chance.random() < EARLY:
                    moment = time.monotonic() + chance.uniform(0.2, 3.0)
                    await until(lambda moment=moment: time.monotonic() >= moment, "a random moment", poll_s=0.005)
                else:
                    await product.flowing(process, chance.randrange(50, 3_500))
                    await product.look(session)
                assert process.returncode is None, (product.directory / "errors.log").read_text()[-4_000:]
                process.send_signal(signal.SIGKILL)
                assert await process.wait() == -signal.SIGKILL


async def drain(product: Product) -> None:
    """One last life: everything that is left is stored, and it ends by itself."""
    async with product.life() as process:
        await product.flowing(process, 2_000)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0


@pytest.mark.crash
async def test_kill(tmp_path: Path) -> None:
    print(f"SEED={SEED} SCALE={SCALE}")  # noqa: T201
    began = time.monotonic()
    (tmp_path / "config.yaml").write_text(CONFIG)
    config = SandboxConfig(symbols=tuple(SYMBOLS), rate=RATE, history_hours=1, faults=Faults(duplicate=0.01, seed=SEED))
    sandbox = Sandbox(config)
    await sandbox.start()
    try:
        product = Product(tmp_path, sandbox)
        await kill_often(product, random.Random(SEED))
        await drain(product)
        ledger = sandbox.ledger()
    finally:
        await sandbox.stop()
    found = tables(tmp_path / "data")
    reader = JournalReader(tmp_path / "data" / "journal")
    assert reader.verify() == []
    stored = sum(rows.height for rows in found.values())
    gaps = pl.concat([found["gap_v1"], found["gap_v1_revisions"]])
    print(f"{KILLS} kills, {reader.accepted:,} frames, {stored:,} rows in {time.monotonic() - began:.0f} s")  # noqa: T201
    assert stored >= ROWS
    assert gaps.filter(cause="down").height >= KILLS // 2

    is_what_the_journal_says(found, reader)
    every_trade_is_accounted_for(found, ledger, SYMBOLS)
    for instrument, sequence in product.seen.items():
        assert found["trade_v1"].filter(instrument=instrument)["sequence"].max() >= sequence  # type: ignore[operator]
    assert len(product.seen) == len(SYMBOLS)
    await adds_up(tmp_path)
    configuration = loaded(tmp_path, [])
    again = await replayed(tmp_path / "data", tmp_path / "again", configuration)
    same_rows(found, again, "killed and replayed")


async def adds_up(directory: Path) -> None:
    """``tidewire audit`` finds no difference (it exits 3 when it does) and nothing in flight."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tidewire", "audit", "--json", "--data", str(directory / "data")),
        cwd=directory,
        env=os.environ | {"SANDBOX": "http://127.0.0.1:1"},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    books = json.loads(out)
    assert (process.returncode, books["difference"], books["in_flight_frames"]) == (0, 0, 0), books


def is_what_the_journal_says(found: dict[str, pl.DataFrame], reader: JournalReader) -> None:
    """Trades, quotes and final bars of the journal, parsed here, are the store's: each once, at its first frame."""
    trades: dict[tuple[str, int], tuple[Any, ...]] = {}
    quotes: dict[tuple[str, int], tuple[Any, ...]] = {}
    bars: dict[tuple[str, str, int], tuple[Any, ...]] = {}
    for frame in reader.scan():
        if frame.kind is not Kind.DATA:
            continue
        message = json.loads(frame.payload)
        if "/klines?" in frame.origin.request:
            asked = {name: value[0] for name, value in parse_qs(urlsplit(frame.origin.request).query).items()}
            for row in message[:-1]:
                key = SYMBOLS[asked["symbol"]], asked["interval"], row[0] * 1_000
                bars.setdefault(key, (frame.sequence, *map(Decimal, (*row[1:6], row[7])), row[8]))
            continue
        stream, data = (message.get("stream", ""), message.get("data")) if isinstance(message, dict) else ("", None)
        if stream.endswith("@trade"):
            row = (
                frame.sequence,
                Decimal(data["p"]),
                Decimal(data["q"]),
                "sell" if data["m"] else "buy",
                data["T"] * 1_000,
            )
            trades.setdefault((SYMBOLS[data["s"]], data["t"]), row)
        elif stream.endswith("@bookTicker"):
            row = frame.sequence, *(Decimal(data[name]) for name in ("b", "B", "a", "A"))
            quotes.setdefault((SYMBOLS[data["s"]], data["u"]), row)
        elif "@kline_" in stream and data["k"]["x"]:
            bar = data["k"]
            values = (Decimal(bar[name]) for name in ("o", "h", "l", "c", "v", "q"))
            bars.setdefault((SYMBOLS[bar["s"]], bar["i"], bar["t"] * 1_000), (frame.sequence, *values, bar["n"]))
    us = pl.col("event_time").to_physical()
    same(trades, found["trade_v1"], ("instrument", "sequence"), ("frame", "price", "size", "side", us))
    sides = ("bid_price", "bid_size", "ask_price", "ask_size")
    same(quotes, found["quote_v1"], ("instrument", "sequence"), ("frame", *sides))
    prices = ("open", "high", "low", "close", "volume", "amount", "trades")
    same(bars, found["kline_v1"], ("instrument", "interval", pl.col("open_time").to_physical()), ("frame", *prices))
    for table in ("trade_v1", "quote_v1", "kline_v1"):
        assert found[f"{table}_revisions"].is_empty()
    assert found["quarantined_v1"].is_empty()


def same(
    expected: dict[Any, tuple[Any, ...]], rows: pl.DataFrame, key: tuple[Any, ...], values: tuple[Any, ...]
) -> None:
    keys = rows.select(key).rows()
    assert len(keys) == len(set(keys)), "a row is stored twice"
    stored = dict(zip(keys, rows.select(values).rows(), strict=True))
    assert len(expected) > 100
    missing, extra = expected.keys() - stored.keys(), stored.keys() - expected.keys()
    assert not missing, f"{len(missing)} accepted rows are not stored: {sorted(missing)[:5]}"
    assert not extra, f"{len(extra)} stored rows are in no frame: {sorted(extra)[:5]}"
    wrong = [one for one in expected if expected[one] != stored[one]]
    assert not wrong, f"{len(wrong)} rows differ: {[(one, expected[one], stored[one]) for one in wrong[:3]]}"
