"""Trades and quotes from the local upstream, as fast as the client reads: what a delivered row costs.

Clients, each in a process of its own, on the same frames from the same sandbox:

- ``tidewire``: journal with fsync, parse to exact decimals, checks, dedupe, continuity, DuckDB, cache;
- ``naive``: the script everybody writes first: websockets, json.loads, floats, nothing stored;
- ``csv``: the same, appending rows to a CSV file.

    python benchmarks/feed.py --events 200000 --repeat 3
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import resource
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import uvloop
import websockets

from tidewire import telemetry
from tidewire.collect import SourceConfig
from tidewire.records.clock import SystemClock
from tidewire.runtime.config import Config, Listen, Loaded
from tidewire.runtime.platform import Tidewire
from tidewire.runtime.supervise import seldom_collecting
from tidewire.sandbox.config import SandboxConfig
from tidewire.sandbox.server import Sandbox

SYMBOLS = ("BTCUSDT", "ETHUSDT")
CLIENTS = ("tidewire", "naive", "csv")
START_NS = 1_700_000_000_000_000_000


async def upstream(events: int) -> None:
    """The sandbox, in a process of its own: plays so many market events once both streams are subscribed."""
    config = SandboxConfig(
        symbols=SYMBOLS,
        rate=None,
        events=events,
        start_ns=START_NS,
        start_on=frozenset({"@trade", "@bookTicker"}),
    )
    sandbox = Sandbox(config)
    await sandbox.start()
    print(json.dumps({"url": sandbox.url, "ws_url": sandbox.ws_url}), flush=True)
    await sandbox.finished()
    print(json.dumps({stream: entry["sent"] for stream, entry in sandbox.ledger().items()}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await sandbox.stop()


async def tidewire(urls: dict[str, str], rows: asyncio.Future[int]) -> int:
    """The product; returns the rows it stored durably."""
    with tempfile.TemporaryDirectory() as folder:
        source = msgspec.convert(
            {
                "source": {"type": "market", "name": "binance"},
                "api": {"base_url": urls["url"]},
                "collectors": {"trade": {"symbols": SYMBOLS}, "quote": {"symbols": SYMBOLS}},
            },
            SourceConfig,
        )
        config = Config(data_dir="data", listen=Listen(port=0))
        platform = Tidewire(Loaded(config, [source], Path(folder), "benchmark"))
        await platform.start()
        with seldom_collecting():
            expected = await rows
            clock = SystemClock()
            while platform.pipe.rows < expected:  # asking the store each time would cost as much as a fifth of it all
                await clock.sleep(0.05)
            while (stored := await delivered(platform)) < expected:
                await clock.sleep(0.05)
        await platform.stop()
        return stored


async def delivered(platform: Tidewire) -> int:
    """Trades and quotes in the store."""
    counts = await platform.store.counts()
    return sum(rows for (kind, _, _), rows in counts.items() if kind in ("trade", "quote"))


async def naive(urls: dict[str, str], rows: asyncio.Future[int], file: Path | None = None) -> int:
    """A script: every message decoded, prices as floats, at most written to a CSV file."""
    streams = "/".join(f"{symbol.lower()}@{kind}" for symbol in SYMBOLS for kind in ("trade", "bookTicker"))
    sink = csv.writer(file.open("w", newline="")) if file else None
    count = 0
    last: dict[str, tuple[float, float]] = {}
    async with websockets.connect(f"{urls['ws_url']}/stream?streams={streams}", compression=None) as socket:
        while not rows.done() or count < rows.result():
            data = json.loads(await socket.recv())["data"]
            if "t" in data:
                row = (data["s"], data["t"], float(data["p"]), float(data["q"]), data["T"], data["m"])
            else:
                row = (data["s"], data["u"], float(data["b"]), float(data["B"]), float(data["a"]), float(data["A"]))
            last[data["s"]] = (row[2], row[3])
            if sink is not None:
                sink.writerow(row)
            count += 1
    return count


async def client(name: str, events: int) -> dict[str, Any]:
    """Run one client against a fresh upstream and account for its processor time."""
    here = [sys.executable, __file__, "--upstream", str(events)]
    process = await asyncio.create_subprocess_exec(*here, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    urls = json.loads(await process.stdout.readline())
    expected: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def finished() -> None:
        expected.set_result(sum(json.loads(await process.stdout.readline()).values()))

    watch = asyncio.create_task(finished())
    before, began = resource.getrusage(resource.RUSAGE_SELF), SystemClock().mono_ns()
    with tempfile.TemporaryDirectory() as folder:
        if name == "tidewire":
            count = await tidewire(urls, expected)
        else:
            count = await naive(urls, expected, Path(folder) / "rows.csv" if name == "csv" else None)
    wall = (SystemClock().mono_ns() - began) / 1e9
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    await watch
    process.stdin.close()
    await process.wait()
    return {
        "client": name,
        "sent": expected.result(),
        "delivered": count,
        "cpu_us_per_row": round(cpu / count * 1e6, 2),
        "rows_per_s": round(count / wall),
        "rss_mb": round(after.ru_maxrss / 1024),
    }


def measure(events: int, repeat: int) -> dict[str, Any]:
    """Every client in turn, ``repeat`` times over; medians and ratios to the naive script."""
    import subprocess

    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CLIENTS}
    for _ in range(repeat):
        for name in CLIENTS:
            command = [sys.executable, __file__, "--client", name, "--events", str(events)]
            runs[name].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    medians = {
        name: {
            key: statistics.median(run[key] for run in found)
            for key in ("sent", "delivered", "cpu_us_per_row", "rows_per_s", "rss_mb")
        }
        for name, found in runs.items()
    }
    base = medians["naive"]["cpu_us_per_row"]
    ratios = {name: round(found["cpu_us_per_row"] / base, 2) for name, found in medians.items()}
    return {"benchmark": "feed", "events": events, "repeat": repeat, "median": medians, "cpu_ratio_to_naive": ratios}


def main() -> None:
    """Run the benchmark, or one part of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--client", choices=CLIENTS)
    parser.add_argument("--upstream", type=int)
    chosen = parser.parse_args()
    telemetry.configure("warning")
    if chosen.upstream:
        uvloop.run(upstream(chosen.upstream))
    elif chosen.client:
        print(json.dumps(uvloop.run(client(chosen.client, chosen.events))))
    else:
        print(json.dumps(measure(chosen.events, chosen.repeat), indent=2))


if __name__ == "__main__":
    main()
