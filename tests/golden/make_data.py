"""Makes a data directory of a landing, for `tests/crash/test_upgrade.py`: journal and store as that code left them.

Run by the code of that landing, in a worktree of its commit::

    git worktree add /tmp/landing <commit>
    PYTHONPATH=/tmp/landing/src python tests/golden/make_data.py tests/golden/data-<landing>.tar.xz

``data-1.tar.xz`` was made so from commit b985310. It holds trades with open and with closed holes, quotes with the gap
of a restart, bars of which one was revised, rows and frames in quarantine, and, at the end of the journal, frames that
were accepted and not stored yet, as a kill leaves them. ``facts.json`` beside them says how many rows each table has.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from tidewire.journal import Journal, JournalConfig, Origin
from tidewire.records.clock import SystemClock
from tidewire.runtime.config import load
from tidewire.runtime.platform import Tidewire
from tidewire.sandbox.config import Faults, SandboxConfig
from tidewire.sandbox.server import Sandbox

CONFIG = """\
data_dir: data
listen: {port: 0}
journal: {segment_bytes: 131072}
sources:
  - source: {type: market, name: binance}
    api: {base_url: "URL"}
    collectors:
      trade: {symbols: [BTCUSDT]}
      quote: {symbols: [BTCUSDT]}
      kline: {symbols: [BTCUSDT], intervals: [1m], history: 5}
"""
STREAM = Origin("binance", "stream", "wss://stream.example/stream#1")
TRADE = (
    '{"stream":"btcusdt@trade","data":{"e":"trade","E":%d,"s":"BTCUSDT","t":%d,"p":"%s","q":"1.00000000","T":%d,'
    '"m":true,"M":true}}'
)
KLINE = (
    '{"stream":"btcusdt@kline_1m","data":{"e":"kline","E":1760000100000,"s":"BTCUSDT","k":{"t":1760000040000,'
    '"T":1760000099999,"s":"BTCUSDT","i":"1m","f":1,"L":9,"o":"1.00000000","c":"%s","h":"9.00000000",'
    '"l":"1.00000000","v":"1.00000000","n":9,"x":true,"q":"1.00000000","V":"1.00000000","Q":"1.00000000","B":"0"}}}'
)


def trade(number: int, price: str = "100.00000000") -> bytes:
    at = SystemClock().wall_ns() // 1_000_000
    return (TRADE % (at, number, price, at)).encode()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what the network brings has no event
            await asyncio.sleep(0.01)


async def collect(directory: Path, frames: int, more: list[bytes]) -> None:
    """One life of the platform: so many frames of the sandbox, then ours; a clean stop."""
    platform = Tidewire(load(directory / "config.yaml"))
    await platform.start()
    await until(lambda: platform.journal.head >= frames)
    for payload in more:
        platform.journal.append(STREAM, payload)
    await platform.stop()


async def make(directory: Path) -> None:
    faults = Faults(drop=0.01, reorder=0.02, duplicate=0.02, only=("@trade",))
    sandbox = Sandbox(SandboxConfig(symbols=("BTCUSDT",), rate=400.0, history_hours=1, faults=faults))
    await sandbox.start()
    (directory / "config.yaml").write_text(CONFIG.replace("URL", sandbox.url))
    try:
        await collect(directory, 500, [])
        odd = [(KLINE % close).encode() for close in ("2.00000000", "3.00000000", "3.00000000")]
        odd += [trade(1, "0.00000000"), trade(2, "1.00000000000000001"), b'{"stream":"btcusdt@trade","data":{']
        await collect(directory, 1_000, odd)
    finally:
        await sandbox.stop()
    journal = await Journal.open(directory / "data" / "journal", SystemClock(), JournalConfig(segment_bytes=131_072))
    for number in range(1, 11):
        journal.append(STREAM, trade(90_000_000 + number))
    await journal.close()


def facts(data: Path) -> dict[str, Any]:
    with duckdb.connect(str(data / "tidewire.duckdb"), read_only=True) as connection:
        names = [name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        counts = {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchall()[0][0] for name in names}
    return {"rows": {name: count for name, count in sorted(counts.items()) if count and not name.startswith("_")}}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        asyncio.run(make(directory))
        found = facts(directory / "data")
        (directory / "data" / "facts.json").write_text(json.dumps(found))
        with tarfile.open(sys.argv[1], "w:xz", preset=9) as archive:
            archive.add(directory / "data", "data", filter=plain)
        sys.stdout.write(f"{found}, {Path(sys.argv[1]).stat().st_size:,} bytes\n")


def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main()
