"""Product and NATS server are killed with SIGKILL again and again under load; each accepted row is stored once.

The checks are those of `test_product_kill`. ``SCALE`` multiplies the kills, ``SEED`` chooses their moments.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from crash.test_product_kill import (
    CONFIG,
    RATE,
    SCALE,
    SEED,
    SYMBOLS,
    Product,
    adds_up,
    drain,
    is_what_the_journal_says,
)
from integration.kit import every_trade_is_accounted_for, loaded, replayed, same_rows, tables
from nats_server import NatsServer, served
from tidewire.journal import JournalReader
from tidewire.sandbox.config import Faults, SandboxConfig
from tidewire.sandbox.server import Sandbox

KILLS = 15 * SCALE
"""Of each."""
ROWS = 10_000
BUS = 'bus: {{type: nats, servers: ["{url}"], prefix: crash, max_bytes: 67108864, timeout: 1s}}\n'
KINDS = ("server first", "both at once", "server forgets")


async def kill_both(product: Product, server: NatsServer, chance: random.Random) -> Counter[str]:
    """Every life sees its server die at a random moment, and then dies itself; returns how often each way was taken."""
    ways: Counter[str] = Counter()
    for number in range(KILLS):
        way = KINDS[number] if number < len(KINDS) else chance.choices(KINDS, (5, 3, 2))[0]
        ways[way] += 1
        async with product.life() as process:
            await product.flowing(process, chance.randrange(50, 1_500))
            server.kill()
            if way == "both at once":
                await kill(process)
                server.start()
                continue
            server.restart(forget=way == "server forgets")
            await product.flowing(process, chance.randrange(50, 2_000))
            await kill(process)
    return ways


async def kill(process: asyncio.subprocess.Process) -> None:
    assert process.returncode is None
    process.send_signal(signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL


@pytest.mark.crash
async def test_kill(tmp_path: Path) -> None:
    print(f"SEED={SEED} SCALE={SCALE}")  # noqa: T201
    began = time.monotonic()
    config = SandboxConfig(symbols=tuple(SYMBOLS), rate=RATE, history_hours=1, faults=Faults(duplicate=0.01, seed=SEED))
    sandbox = Sandbox(config)
    await sandbox.start()
    try:
        with served(tmp_path / "nats") as server:
            (tmp_path / "config.yaml").write_text(CONFIG + BUS.format(url=server.url))
            product = Product(tmp_path, sandbox)
            ways = await kill_both(product, server, random.Random(SEED))
            await drain(product)
            ledger = sandbox.ledger()
    finally:
        await sandbox.stop()
    found = tables(tmp_path / "data")
    reader = JournalReader(tmp_path / "data" / "journal")
    stored = sum(rows.height for rows in found.values())
    print(f"{dict(ways)}, {reader.accepted:,} frames, {stored:,} rows in {time.monotonic() - began:.0f} s")  # noqa: T201
    assert set(ways) == set(KINDS)
    assert stored >= ROWS

    assert reader.verify() == []
    is_what_the_journal_says(found, reader)
    every_trade_is_accounted_for(found, ledger, SYMBOLS)
    await adds_up(tmp_path)
    again = await replayed(tmp_path / "data", tmp_path / "again", loaded(tmp_path, []))
    same_rows(found, again, "killed and replayed")
