"""``make bench-peers``: Tidewire next to its peers on the same frames from the same sandbox, in one run.

    python benchmarks/peers/run.py --seconds 10 --frames 300000 --repeat 3 --save

Each contestant runs in a process, and each peer in a virtual environment, of its own. What is measured and how to read
it is in docs/benchmarks.md. Progress goes to standard error, the result to standard output as JSON; what could not be
run is in it with the reason.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import machine
import msgspec
import numpy as np
from contestants import CONTESTANTS, START_S, Running, line, peer, process, tidewire
from environments import Missing, environment, find_python
from upstream import KINDS, SCENARIOS, SYMBOLS, make

from tidewire import telemetry
from tidewire.records.clock import SystemClock

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
RATES = (1_000, 5_000, 10_000, 50_000, 0)
SETTLE_S = 1.0
# A contestant is done when it used less than this for this long.
IDLE_S, IDLE_CPU_S, STEP_S = 1.0, 0.04, 0.25
CLOCK = SystemClock()


def _ask(url: str, body: bytes | None = None) -> dict[str, Any]:
    with urlopen(Request(url, data=body, method="POST" if body is not None else "GET")) as answer:
        return json.load(answer)


async def subscribed(url: str, scenario: str) -> None:
    """Wait until somebody listens to every kind of message of every symbol."""
    wanted = {(symbol.lower(), KINDS[name]) for symbol in SYMBOLS for name in SCENARIOS[scenario]}
    async with asyncio.timeout(START_S):
        while True:
            streams = (await asyncio.to_thread(_ask, f"{url}/sandbox/status"))["subscriptions"]
            split = [stream.partition("@") for stream in streams]
            if wanted <= {(symbol, KINDS.get(name, "")) for symbol, _, name in split}:
                return
            await CLOCK.sleep(0.1)


class Meter:
    """Processor time of a contestant, its server and its subscriber since `start`."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._zero = self._read()
        self._began_ns = CLOCK.mono_ns()

    def _read(self) -> tuple[float, float, float]:
        running = self._running
        return (
            machine.cpu_s(running.pid),
            machine.tree_cpu_s(running.server) if running.server else 0.0,
            machine.cpu_s(running.subscriber) if running.subscriber else 0.0,
        )

    def now(self) -> tuple[float, list[float]]:
        """Seconds, and processor seconds of each."""
        used = [now - zero for now, zero in zip(self._read(), self._zero, strict=True)]
        return (CLOCK.mono_ns() - self._began_ns) / 1e9, used

    async def idle(self, most_s: float) -> tuple[float, list[float], bool]:
        """Wait until nothing more is done; the moment that began, and whether it came in time."""
        history = [self.now()]
        while history[-1][0] < most_s:
            await CLOCK.sleep(STEP_S)
            history.append(self.now())
            then = [each for each in history if history[-1][0] - each[0] >= IDLE_S]
            if then and sum(history[-1][1]) - sum(then[-1][1]) < IDLE_CPU_S:
                return *then[-1], True
        return *history[-1], False


def latencies(sent: Path, samples: Path) -> dict[str, Any]:
    """From the moment a frame was handed to the socket to the moment its row was at the user; in microseconds."""
    if not samples.exists():
        return {}
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for kind, symbol, ident, at_ns in json.loads(samples.read_bytes()):
        found.setdefault((kind, symbol), []).append((ident, at_ns))
    waits: list[Any] = []
    for kind, symbol, idents, times in msgspec.msgpack.decode(sent.read_bytes()):
        rows = np.array(found.get((kind, symbol), []), dtype=np.int64).reshape(-1, 2)
        known, at_ns = np.frombuffer(idents, dtype=np.int64), np.frombuffer(times, dtype=np.int64)
        place = np.clip(np.searchsorted(known, rows[:, 0]), 0, len(known) - 1)
        same = known[place] == rows[:, 0]
        waits.append((rows[same, 1] - at_ns[place[same]]) / 1e3)
    every = np.concatenate(waits) if waits else np.array([])
    if not every.size:
        return {}
    p50, p99 = np.percentile(every, [50, 99])
    return {"p50_us": round(float(p50)), "p99_us": round(float(p99)), "samples": int(every.size)}


def summary(
    running: Running, played: dict[str, Any], spent: tuple[float, list[float], bool], peaks: dict[str, int]
) -> dict[str, Any]:
    """One line of the result."""
    wall_s, (own_s, server_s, subscriber_s), idle = spent
    sent, report = played["sent"], running.report
    delivered = sum(report["delivered"].values())
    cpu_s = own_s + server_s
    found = {
        "sent": sent,
        "delivered": delivered,
        "delivered_share": round(delivered / sent, 4),
        "cpu_s": round(own_s, 2),
        "cpu_us_per_frame": round(own_s / sent * 1e6, 2),
        "cpu_us_per_row": round(cpu_s / delivered * 1e6, 2) if delivered else None,
        "core_share": round(cpu_s / wall_s, 3) if wall_s else None,
        "frames_per_s": round(sent / played["play_s"]),
        "play_s": round(played["play_s"], 2),
        "wall_s": round(wall_s, 2),
        "finished": idle,
        "behind_ms": round(played["behind_ms"], 1),
        **peaks,
    }
    if running.server:
        found |= {"server_cpu_s": round(server_s, 2), "server_cpu_us_per_frame": round(server_s / sent * 1e6, 2)}
    if running.subscriber:
        got = sum(report["subscriber"]["delivered"].values())
        found |= {"subscriber_cpu_s": round(subscriber_s, 2), "subscriber_share": round(got / sent, 4)}
    return found | {"report": report}


async def once(name: str, scenario: str, rate: int, frames: Path, count: int, python: Path) -> dict[str, Any]:
    """One contestant against a fresh upstream."""
    contestant = CONTESTANTS[name]
    with tempfile.TemporaryDirectory(prefix="tidewire-peers-") as made:
        folder, log = Path(made), Path(made) / "upstream.log"
        folder.chmod(0o755)  # Postgres may run as a user of its own
        sent = folder / "sent"
        command = [sys.executable, str(HERE / "upstream.py"), str(frames), str(count), str(rate), str(sent)]
        async with process(command, log) as upstream:
            orders = await line(upstream, START_S, log) | {"scenario": scenario, "symbols": SYMBOLS}
            run = (
                peer(python, contestant, orders, folder) if contestant.script else tidewire(contestant, orders, folder)
            )
            async with run as running:
                await subscribed(orders["url"], scenario)
                await CLOCK.sleep(SETTLE_S)
                meter = Meter(running)
                await asyncio.to_thread(_ask, f"{orders['url']}/sandbox/play", b"")
                played = await line(upstream, 600.0, log)
                spent = await meter.idle(played["play_s"] + 120.0)
                peaks = {"rss_mb": machine.peak_mb(running.pid)}
                if running.server:
                    peaks["server_rss_mb"] = machine.resident_mb(running.server)
            found = summary(running, played, spent, peaks)
        return found | latencies(sent, folder / "samples.json")


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of every number; counts of what was delivered stay those of the last run."""
    found = runs[-1] | {"finished": all(run["finished"] for run in runs)}
    for key, value in runs[-1].items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            values = [run[key] for run in runs if run.get(key) is not None]
            middle = statistics.median(values) if values else None
            found[key] = round(middle, 4) if isinstance(middle, float) and middle % 1 else middle and int(middle)
    if len(runs) > 1:
        costs = [run["cpu_us_per_row"] for run in runs if run["cpu_us_per_row"] is not None]
        found["cpu_us_per_row_range"] = [min(costs), max(costs)] if costs else None
    return found


def environments(names: list[str], python: str | None) -> tuple[dict[str, Path], dict[str, str]]:
    """The interpreter of each contestant, and why one has none."""
    ready: dict[str, Path] = {}
    missing: dict[str, str] = {}
    for name in names:
        wanted = CONTESTANTS[name].environment
        try:
            ready[name] = environment(wanted, find_python(python)) if wanted else Path(sys.executable)
        except Missing as error:
            missing[name] = str(error)
    return ready, missing


async def measure(chosen: argparse.Namespace, folder: Path, keep: Callable[[dict[str, Any]], None]) -> None:
    """Every scenario, rate and contestant; repeats are interleaved, so that a slow minute of the machine hits all.

    ``keep`` gets all there is after each rate: a run that is interrupted has not been for nothing.
    """
    ready, missing = environments(chosen.contestants, chosen.python)
    found: dict[str, Any] = {"frames": {}, "results": []}
    for scenario in chosen.scenarios:
        most = chosen.frames[scenario]
        path = folder / scenario
        counts = {rate: min(most, rate * chosen.seconds) if rate else most for rate in chosen.rates}
        found["frames"][scenario] = make(scenario, max(counts.values()), path)
        names = [name for name in chosen.contestants if scenario in CONTESTANTS[name].scenarios]
        for rate, count in counts.items():
            runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
            failures = dict(missing)
            for turn in range(chosen.repeat):
                for name in names:
                    if name in failures:
                        continue
                    print(f"{scenario} {rate or 'saturated'} {name} ({turn + 1})", file=sys.stderr, flush=True)
                    try:
                        runs[name].append(await once(name, scenario, rate, path, count, ready[name]))
                    except Exception as error:  # the others go on
                        traceback.print_exc()
                        failures[name] = f"{type(error).__name__}: {error}"
            found["results"] += rows(scenario, rate, runs, failures)
            keep(found)


def plain(text: str) -> str:
    """Without paths of this machine."""
    return re.sub(r"(?<![\w.])/[\w./-]+/", "", text)


def rows(
    scenario: str, rate: int, runs: dict[str, list[dict[str, Any]]], failures: dict[str, str]
) -> list[dict[str, Any]]:
    """The lines of one scenario and rate, each with its cost next to Tidewire's."""
    found: list[dict[str, Any]] = []
    own = next((runs[name] for name in ("tidewire", "tidewire-books") if runs.get(name)), None)
    base = medians(own)["cpu_us_per_row"] if own else None
    for name, done in runs.items():
        head = {"scenario": scenario, "rate": rate or "saturated", "contestant": name, "runs": len(done)}
        if done:
            each = medians(done)
            cost = each["cpu_us_per_row"]
            head |= {"cost_ratio_to_tidewire": round(cost / base, 2) if cost and base else None, **each}
        if name in failures:
            head["not_run"] = plain(failures[name])
        found.append(head)
    return found


def arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="NAME")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), metavar="NAME")
    parser.add_argument("--rates", nargs="+", type=int, default=list(RATES), help="frames a second; 0: saturation")
    parser.add_argument("--seconds", type=int, default=10, help="how long a paced run is, unless its frames end before")
    parser.add_argument(
        "--frames", type=int, default=300_000, help="most frames of trades and quotes; at saturation all"
    )
    parser.add_argument("--depth-frames", type=int, default=60_000, help="the same for depth")
    parser.add_argument("--repeat", type=int, default=3, help="how often each; medians are shown")
    parser.add_argument("--python", help="interpreter for the peers; default: one that is found")
    parser.add_argument(
        "--save",
        action="store_true",
        help="write benchmarks/results/<commit>-peers.json (with the scenario, if not all are run)",
    )
    chosen = parser.parse_args()
    chosen.frames = {"trades_quotes": chosen.frames, "depth": chosen.depth_frames}
    return chosen


def written(found: dict[str, Any]) -> str:
    """The result as JSON, each line of it on a line."""
    lines = ",\n    ".join(json.dumps(row) for row in found["results"])
    return json.dumps(found | {"results": "@"}, indent=2).replace('"@"', f"[\n    {lines}\n  ]") + "\n"


def main() -> None:
    """Run and, with ``--save``, keep the results."""
    chosen = arguments()
    telemetry.configure("warning")
    if not machine.measurable():
        sys.exit("This benchmark reads what processes cost from /proc, which this system does not have; use Linux.")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude", "*"],
        check=False,
        capture_output=True,
        text=True,
        cwd=HERE,
    ).stdout.strip()
    head = {
        "benchmark": "peers",
        "commit": commit,
        "machine": machine.described(tempfile.gettempdir()),
        "settings": {"seconds": chosen.seconds, "frames": chosen.frames, "repeat": chosen.repeat},
        "contestants": {name: CONTESTANTS[name].about for name in chosen.contestants},
    }
    last, part = "", "" if len(chosen.scenarios) == len(SCENARIOS) else "-" + "-".join(chosen.scenarios)
    name = f"{commit}-peers{part}.json"

    def keep(found: dict[str, Any]) -> None:
        nonlocal last
        last = written(head | found)
        if chosen.save:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / name).write_text(last)

    with tempfile.TemporaryDirectory(prefix="tidewire-frames-") as folder:
        asyncio.run(measure(chosen, Path(folder), keep))
    sys.stdout.write(last)


if __name__ == "__main__":
    main()
