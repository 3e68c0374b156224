"""One snapshot of the whole A-share market, from the first request on: what it costs, next to AKShare and efinance.

Each program, in a process of its own, asks the same sandbox for all of its 5,500 stocks, round after round:

- ``tidewire``: Eastmoney's list in 56 pages of 100; journal with fsync, exact decimals, checks, DuckDB, latest values;
  a round ends when its last row is stored;
- ``tidewire-sina``: the same stocks from Sina in 8 requests: prices, best bid and ask, and five levels of the book;
- ``akshare``: ``stock_zh_a_spot_em``, the same pages into a pandas frame, nothing stored; its pauses are taken out;
- ``efinance``: ``get_realtime_quotes``, the same.

    python benchmarks/snapshot.py --stocks 5500 --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tidewire import telemetry
from tidewire.collect import SourceConfig
from tidewire.records.clock import SystemClock, UpstreamClock
from tidewire.records.market import Ticker
from tidewire.runtime.config import Config, Listen, Loaded
from tidewire.runtime.platform import Tidewire
from tidewire.runtime.supervise import seldom_collecting
from tidewire.sources.declared.reading import CATALOGUE

PROGRAMS = ("tidewire", "tidewire-sina", "akshare", "efinance")
FILES = {"tidewire": "eastmoney.a_share_quotes", "tidewire-sina": "sina.a_share_quotes"}
LISTING = "eastmoney.listing"
SESSION = "2026-12-01T10:00:00+08:00"
SESSION_NS = 1_796_090_400_000_000_000
TICK_S = 3.1
MOST = 0.95
"""Of the stocks asked for that must have a row: some are listed no more, or not yet."""


def used_s() -> float:
    """Processor time of this process so far."""
    now = resource.getrusage(resource.RUSAGE_SELF)
    return now.ru_utime + now.ru_stime


# -- ours -------------------------------------------------------------------------------------------------------------


def in_a_hurry(name: str, folder: Path) -> None:
    """The catalogue's file as a plugin that asks only when told to, and as fast as it is answered."""
    text = (CATALOGUE / f"{name}.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    for place, line in enumerate(lines):
        if line.startswith("schedule:"):
            lines[place] = "schedule: {every: 24h}"
        if line.startswith("limits:"):
            lines[place] = "limits: {rate: 5000/s, concurrency: 8, jitter: 0%}"
        if line.startswith("paginate:"):
            lines[place] = line.replace("max:", "parallel: 8, max:")
    (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def source(name: str, url: str) -> SourceConfig:
    said = {"source": {"type": "declared", "name": name}, "api": {"base_url": f"{url}/{name.partition('.')[0]}"}}
    return msgspec.convert(said, SourceConfig)


async def ours(name: str, url: str, rounds: int, stocks: int) -> list[dict[str, Any]]:
    """Rounds of the product; each is over when everything that came is stored."""
    file = FILES[name]
    clock = UpstreamClock()
    clock.tell(SESSION_NS, 1.0)
    with tempfile.TemporaryDirectory() as folder:
        plugins = Path(folder) / "plugins"
        plugins.mkdir()
        needed = [file] if name == "tidewire" else [file, LISTING]
        for each in needed:
            in_a_hurry(each, plugins)
        config = Config(data_dir="data", listen=Listen(port=0))
        sources = [source(each, url) for each in needed]
        platform = Tidewire(Loaded(config, sources, Path(folder), "benchmark"), clock)
        await platform.start()
        with seldom_collecting():
            await warm(platform, needed, stocks)
            found = [await one_round(platform, file) for _ in range(rounds)]
        await platform.stop()
    return found


async def warm(platform: Tidewire, names: list[str], stocks: int) -> None:
    """First rounds of everything, until all stocks are asked for: the listing says which there are."""
    clock = SystemClock()
    while len(platform.apps) < len(names) or any(not app.list() for app in platform.apps):
        await clock.sleep(0.05)
    for name in reversed(names):
        while (await one_round(platform, name))["rows"] < MOST * stocks:
            await clock.sleep(1.0)


async def one_round(platform: Tidewire, name: str) -> dict[str, Any]:
    """Ask for everything once; what it cost until it was stored."""
    clock, (app,) = SystemClock(), [app for app in platform.apps if app.name == name]
    timer = app.get("rows").get_timer("ask")
    while timer.status.state == "running":
        await clock.sleep(0.05)
    await clock.sleep(TICK_S)  # prices stand still between two ticks, and a repeat is no snapshot
    before, wall, cpu = await rows_of(platform, name), clock.mono_ns(), used_s()
    timer.trigger()
    while timer.status.state == "running":
        await clock.sleep(0.002)
    while platform.pipe.in_flight():
        await clock.sleep(0.002)
    wall_ms, cpu_ms = (clock.mono_ns() - wall) / 1e6, (used_s() - cpu) * 1e3
    return {"wall_ms": wall_ms, "cpu_ms": cpu_ms, "rows": await rows_of(platform, name) - before}


async def rows_of(platform: Tidewire, name: str) -> int:
    """Rows that came of a source, stored or the same as before."""
    fates = await platform.store.fates()
    kinds = (Ticker.type.name, "instrument") if name == LISTING else (Ticker.type.name,)
    return sum(count for (kind, fate), count in fates.items() if fate.fate == "received" and kind in kinds)


# -- peers ------------------------------------------------------------------------------------------------------------


def peers(name: str, url: str, rounds: int) -> list[dict[str, Any]]:
    """Rounds of another program, which finds the sandbox in place of the site."""
    spec = importlib.util.spec_from_file_location("china_client", CLIENT)
    assert spec is not None
    assert spec.loader is not None
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    client.redirect(url)
    time.sleep = lambda _seconds: None
    os.environ["TQDM_DISABLE"] = "1"
    if name == "akshare":
        from akshare import stock_zh_a_spot_em as ask
    else:
        from efinance.stock import get_realtime_quotes as ask
    found: list[dict[str, Any]] = []
    clock = SystemClock()
    for _ in range(rounds + 1):
        asyncio.run(clock.sleep(TICK_S))
        wall, cpu = clock.mono_ns(), used_s()
        rows = len(ask())
        found.append({"wall_ms": (clock.mono_ns() - wall) / 1e6, "cpu_ms": (used_s() - cpu) * 1e3, "rows": rows})
    return found[1:]


CLIENT = Path(__file__).parents[1] / "tests" / "integration" / "china_client.py"


# -- all of them ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def sandbox(stocks: int) -> Iterator[str]:
    """A sandbox in a process of its own; its URL."""
    command = [sys.executable, "-m", "tidewire", "sandbox", "--json", "--until-eof", "--rate", "1"]
    command += ["--china", str(stocks), "--session", SESSION]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.stdin.close()
        process.wait(30)


def measure(stocks: int, rounds: int, programs: tuple[str, ...] = PROGRAMS) -> dict[str, Any]:
    """Every program in turn; medians of its rounds, and processor time as a share of AKShare's."""
    medians: dict[str, dict[str, float]] = {}
    for name in programs:
        with sandbox(stocks) as url:
            command = [sys.executable, __file__, "--program", name, "--url", url, "--rounds", str(rounds)]
            command += ["--stocks", str(stocks)]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        medians[name] = {key: round(statistics.median(each[key] for each in found), 1) for key in found[0]}
        if medians[name]["rows"] < MOST * stocks:
            raise SystemExit(f"{name}: {medians[name]['rows']:.0f} rows of {stocks} stocks")
    base = medians.get("akshare", {}).get("cpu_ms")
    ratios = {name: round(each["cpu_ms"] / base, 2) for name, each in medians.items()} if base else {}
    return {
        "benchmark": "snapshot", "stocks": stocks, "rounds": rounds, "median": medians, "cpu_ratio_to_akshare": ratios,
    }  # fmt: skip


def main() -> None:
    """Run the benchmark, or one program of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stocks", type=int, default=5_500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument("--program", choices=PROGRAMS)
    parser.add_argument("--url")
    chosen = parser.parse_args()
    telemetry.configure("error")
    if chosen.program in FILES:
        print(json.dumps(asyncio.run(ours(chosen.program, chosen.url, chosen.rounds, chosen.stocks))))
    elif chosen.program:
        print(json.dumps(peers(chosen.program, chosen.url, chosen.rounds)))
    else:
        print(json.dumps(measure(chosen.stocks, chosen.rounds, tuple(chosen.programs)), indent=2))


if __name__ == "__main__":
    main()
