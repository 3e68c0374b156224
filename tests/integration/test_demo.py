"""What a stranger does first: the demo, the examples it prints, Ctrl-C."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.kit import POLL_S, books, tables
from tidewire.journal import JournalReader

ROOT = Path(__file__).parents[2]
TIDEWIRE = [sys.executable, "-m", "tidewire"]
DEADLINE_S = 40.0
STOCKS = 300
TOLD = "calendar XSHG is provisional"
"""What the demo may say on standard error: it is true of the next year, until somebody tells its holidays."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(POLL_S)


def get(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as reply:
        return reply.read()


def answers(url: str) -> bool:
    """Whether there are rows at an address."""
    try:
        return bool(json.loads(get(url))["data"])
    except (urllib.error.URLError, ConnectionError):
        return False


class Demo:
    """A demo in a process of its own, and what it has printed."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port()
        small = ["--stocks", str(STOCKS)]
        command = [*TIDEWIRE, "demo", "--dir", str(directory), "--port", str(self.port), *small, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True)
        self.lines: list[str] = []
        self.errors = ""
        self._readers = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(line.rstrip("\n") for line in self.process.stdout)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors = "".join(line for line in self.process.stderr if TOLD not in line)

    def ended(self) -> int:
        """Its exit code, once it has ended and all it printed is read."""
        code = self.process.wait(DEADLINE_S)
        for reader in self._readers:
            reader.join(DEADLINE_S)
        return code

    def example(self, name: str) -> str:
        """What is printed behind a word at the start of a line."""
        found = [line for line in self.lines if line.startswith(f"{name} ")]
        assert len(found) == 1, self.lines
        return found[0].removeprefix(name).strip()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.ended()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Demo]]:
    """Starts demos, and ends those that still run."""
    begun: list[Demo] = []

    def run(directory: Path, *options: str) -> Demo:
        begun.append(Demo(directory, *options))
        return begun[-1]

    yield run
    for demo in begun:
        demo.close()


def command(line: str) -> subprocess.CompletedProcess[str]:
    """Run a printed command as printed, but by this interpreter."""
    words = shlex.split(line)
    assert words[0] == ".venv/bin/tidewire"
    return subprocess.run([*TIDEWIRE, *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def url_of(line: str) -> str:
    words = shlex.split(line)
    assert (words[0], len(words)) == ("curl", 2), line
    return words[1]


def audited(directory: Path) -> dict[str, Any]:
    done = command(f".venv/bin/tidewire audit --json --data {shlex.quote(str(directory / 'data'))}")
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def test_ends_by_itself(start: Callable[..., Demo], tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    demo = start(directory, "--seconds", "7")
    assert demo.ended() == 0, demo.errors
    assert demo.errors == ""
    progress = [line for line in demo.lines if "frames received" in line]
    assert len(progress) >= 2, demo.lines
    assert all(re.match(r"[\d,]+ frames received \([\d,]+/s\), [\d,]+ in flight \| stored ", line) for line in progress)
    assert "Stopped cleanly" in demo.lines[-1]
    books_now = audited(directory)
    assert (books_now["difference"], books_now["in_flight_frames"]) == (0, 0)
    assert books_now["totals"]["stored"] > 500
    assert books_now["totals"].get("quarantined", 0) == 0


def test_what_it_prints_works_as_printed_and_ctrl_c_is_clean(start: Callable[..., Demo], tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    demo = start(directory)
    until(lambda: any(line.startswith("stop ") for line in demo.lines) or demo.process.poll() is not None, "examples")
    history, latest, shares = (url_of(demo.example(name)) for name in ("history", "latest", "A-shares"))
    until(lambda: answers(history) and answers(latest) and answers(shares), "trades and tickers of both markets")

    rows = json.loads(get(history))["data"]
    assert {row["instrument"] for row in rows} == {"BTC-USDT.BINANCE"}
    assert [row["sequence"] for row in rows] == sorted((row["sequence"] for row in rows), reverse=True)
    (ticker,) = json.loads(get(latest))["data"]
    assert ticker["instrument"] == "BTC-USDT.BINANCE"
    (share,) = json.loads(get(shares))["data"]
    assert (share["instrument"], share["source"]) == ("600519.SH", "sina.a_share_quotes")
    bars = list(csv.DictReader(io.StringIO(get(url_of(demo.example("bars"))).decode())))
    assert [(bar["instrument"], bar["interval"]) for bar in bars] == [("ETH-USDT.BINANCE", "1m")] * 3
    assert b"/v1/trade" in get(demo.example("API"))

    audit = command(demo.example("books"))
    assert audit.returncode == 0, audit
    assert "difference 0" in audit.stdout
    assert "asked the running platform" in audit.stderr
    query = command(demo.example("query"))
    assert query.returncode == 0, query
    assert "BTC-USDT" in query.stdout

    assert demo.process.poll() is None
    demo.process.send_signal(signal.SIGINT)
    assert demo.ended() == 0, demo.errors
    assert "Stopped cleanly" in demo.lines[-1]
    everything_is_stored(directory)


def everything_is_stored(directory: Path) -> None:
    """The trades in the journal, read by themselves, are the trades in the store; the books add up."""
    data = directory / "data"
    reader = JournalReader(data / "journal")
    frames = [frame for frame in reader.scan() if b"@trade" in frame.payload[:40]]
    sent = {(message["s"], message["t"]) for frame in frames if (message := json.loads(frame.payload)["data"])}
    native = {"BTC-USDT.BINANCE": "BTCUSDT", "ETH-USDT.BINANCE": "ETHUSDT", "SOL-USDT.BINANCE": "SOLUSDT"}
    rows = tables(data)["trade_v1"].select("instrument", "sequence").rows()
    assert {(native[instrument], sequence) for instrument, sequence in rows} == sent
    assert len(rows) == len(frames) > 50
    assert books(data)["trade", "binance", "stored"] == len(rows)
    found = audited(directory)
    assert (found["difference"], found["in_flight_frames"]) == (0, 0)


def test_sigterm_is_clean_too_and_it_begins_anew(start: Callable[..., Demo], tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    for _ in range(2):
        demo = start(directory)
        until(lambda demo=demo: answers(f"http://127.0.0.1:{demo.port}/v1/trade"), "trades")
        demo.process.send_signal(signal.SIGTERM)
        assert demo.ended() == 0, demo.errors
    first = next(iter(JournalReader(directory / "data" / "journal").scan()))
    assert first.sequence == 1
    everything = audited(directory)
    assert everything["totals"]["received"] < 10_000


def test_a_directory_it_did_not_make_is_refused(start: Callable[..., Demo], tmp_path: Path) -> None:
    precious = tmp_path / "thesis.txt"
    precious.write_text("years of work")
    demo = start(tmp_path, "--seconds", "3")
    assert demo.ended() == 2
    assert "holds something the demo did not make" in demo.errors
    assert "--dir" in demo.errors
    assert precious.read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
