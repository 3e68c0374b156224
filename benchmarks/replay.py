"""A store made anew from the journal of a backfill: daily bars of a whole market, ten years of each stock a reply.

Two programs, each in a process of its own, read the same journal into an empty DuckDB file:

- ``tidewire``: `tidewire replay` as it is: parse to exact decimals, checks, repeats, order, lineage, DuckDB;
- ``script``: what one writes in an afternoon: JSON, ``str.split``, floats, a Polars frame a reply into DuckDB.

    python benchmarks/replay.py --stocks 5500 --days 2430
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from tidewire import telemetry
from tidewire.journal import Durability, Journal, JournalConfig, JournalReader, Origin
from tidewire.records.calendar import calendar
from tidewire.records.clock import SeededRng, SystemClock
from tidewire.replay.runner import Replay
from tidewire.sources.declared.app import app_of
from tidewire.sources.declared.parse import DeclaredParser, asked_text
from tidewire.sources.declared.reading import CATALOGUE
from tidewire.store.config import StoreConfig
from tidewire.store.duckdb import DuckDBStore

SOURCE = "eastmoney.a_share_bars_1d"
PROGRAMS = ("tidewire", "script")
COLUMNS = ("open", "close", "high", "low", "volume", "amount")
LAST_DAY = date(2026, 1, 1)


def bodies(stocks: int, days: int) -> Any:
    """The replies of the site, one a stock: lines of day, open, close, high, low, lots, yuan and ratios."""
    market = calendar("XSHG")
    sessions = market.sessions(LAST_DAY - timedelta(days=days * 2), LAST_DAY)[-days:]
    rng = SeededRng("replay")
    for place in range(stocks):
        code, price, lines = f"{600_000 + place}", 1_000 + place, list[str]()
        for day in sessions:
            opened = price + round(rng.uniform(-9, 9))
            price = max(200, opened + round(rng.uniform(-15, 15)))
            high, low, lots = max(opened, price) + 7, min(opened, price) - 7, round(rng.uniform(1e3, 1e6))
            shown = ",".join(f"{each / 100:.2f}" for each in (opened, price, high, low, lots * (opened + price) * 50))
            first, _, amount = shown.rpartition(",")
            lines.append(f"{day},{first},{lots},{amount},1.15,0.38,0.04,0.21")
        yield code, json.dumps({"rc": 0, "data": {"code": code, "market": 1, "klines": lines}}).encode()


async def fill(folder: Path, stocks: int, days: int) -> int:
    """Write the journal; returns the rows in it."""
    config = JournalConfig(durability={SOURCE: Durability.NONE})
    journal = await Journal.open(folder / "journal", SystemClock(), config)
    told = {"since": 0, "until": 0}
    for code, body in bodies(stocks, days):
        asked = asked_text("GET", "https://push2his.eastmoney.com", {"symbol": f"{code}.SH", **told})
        journal.append(Origin(SOURCE, "rows", asked), body)
        if journal.full:
            await journal.ready()
    await journal.accept(journal.head)
    await journal.close()
    return stocks * days


async def tidewire(folder: Path) -> int:
    """The product's own way; returns the rows stored."""
    parser = DeclaredParser(app_of(CATALOGUE / f"{SOURCE}.yaml").source)
    store = DuckDBStore(folder / "tidewire.duckdb", StoreConfig(memory_limit="512MB"))
    await store.open()
    async for _ in Replay(JournalReader(folder / "journal"), {SOURCE: parser}).into(store):
        pass
    rows = sum(count for (kind, _, _), count in (await store.counts()).items() if kind == "kline")
    await store.close()
    return rows


def script(folder: Path) -> int:
    """No check, no exact number, no place in the journal."""
    connection = duckdb.connect(str(folder / "script.duckdb"))
    connection.execute(
        "CREATE TABLE bars (code TEXT, day DATE, open DOUBLE, close DOUBLE, high DOUBLE, low DOUBLE, volume DOUBLE,"
        " amount DOUBLE)"
    )
    journal = JournalReader(folder / "journal")
    after = 0
    while frames := journal.read(after):
        after = frames[-1].sequence
        for frame in frames:
            data = json.loads(frame.payload)["data"]
            parts = [line.split(",") for line in data["klines"]]
            rows = pl.DataFrame(  # noqa: F841 - DuckDB finds it by its name
                {
                    "code": [data["code"]] * len(parts),
                    "day": [datetime.strptime(part[0], "%Y-%m-%d").date() for part in parts],  # noqa: DTZ007 - a day
                    **{name: [float(part[at]) for part in parts] for at, name in enumerate(COLUMNS, 1)},
                }
            )
            connection.execute("INSERT INTO bars SELECT code, day, open, close, high, low, volume, amount FROM rows")
    (count,) = connection.execute("SELECT count(*) FROM bars").fetchall()[0]
    connection.close()
    return count


def run(name: str, folder: Path) -> dict[str, Any]:
    """One program, accounted for."""
    clock = SystemClock()
    before, began = resource.getrusage(resource.RUSAGE_SELF), clock.mono_ns()
    rows = asyncio.run(tidewire(folder)) if name == "tidewire" else script(folder)
    wall_s = (clock.mono_ns() - began) / 1e9
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "rows": rows,
        "rows_per_s": round(rows / wall_s),
        "cpu_us_per_row": round(cpu_s / rows * 1e6, 2),
        "rss_mb": round(after.ru_maxrss / 1024),
        "bytes_per_row": round((folder / f"{name}.duckdb").stat().st_size / rows, 1),
    }


def measure(stocks: int, days: int, repeat: int) -> dict[str, Any]:
    """Both programs in turn on one journal; medians, and how often the product is as quick as the script."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as folder:
        expected = asyncio.run(fill(Path(folder), stocks, days))
        for _ in range(repeat):
            for name in PROGRAMS:
                command = [sys.executable, __file__, "--program", name, "--folder", folder]
                runs[name].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
                (Path(folder) / f"{name}.duckdb").unlink()
    for name, found in runs.items():
        if any(each["rows"] != expected for each in found):
            raise SystemExit(f"{name}: {[each['rows'] for each in found]} rows of {expected}")
    medians = {
        name: {key: statistics.median(each[key] for each in found) for key in found[0]} for name, found in runs.items()
    }
    ratio = round(medians["tidewire"]["rows_per_s"] / medians["script"]["rows_per_s"], 2)
    return {
        "benchmark": "replay", "stocks": stocks, "days": days, "repeat": repeat, "median": medians,
        "speed_ratio_to_script": ratio,
    }  # fmt: skip


def main() -> None:
    """Run the benchmark, or one program of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stocks", type=int, default=5_500)
    parser.add_argument("--days", type=int, default=2_430)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--program", choices=PROGRAMS)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    telemetry.configure("warning")
    if chosen.program:
        print(json.dumps(run(chosen.program, chosen.folder)))
    else:
        print(json.dumps(measure(chosen.stocks, chosen.days, chosen.repeat), indent=2))


if __name__ == "__main__":
    main()
