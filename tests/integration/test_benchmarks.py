"""The benchmarks of a feed run; of the contestants next to peers only ours, which need nothing installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RUN = BENCHMARKS / "peers" / "run.py"
OURS = ("tidewire-subscriber", "tidewire-books")
ROWS = 400


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the benchmark reads /proc")
def test_every_row_of_ours_is_delivered_and_timed():
    command = [sys.executable, str(RUN), "--contestants", *OURS, "--rates", "2000", "--repeat", "1"]
    sizes = ["--frames", str(ROWS), "--depth-frames", str(ROWS)]
    done = subprocess.run([*command, *sizes], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert [(row["scenario"], row["contestant"]) for row in results] == [
        ("trades_quotes", "tidewire-subscriber"),
        ("depth", "tidewire-subscriber"),
        ("depth", "tidewire-books"),
    ]
    for row in results:
        assert row.get("not_run") is None, row["not_run"]
        assert row["delivered"] == row["sent"] == ROWS
        assert ("p99_us" in row) == (row["contestant"] == "tidewire-subscriber")


def test_every_row_of_the_feed_is_delivered():
    command = [sys.executable, str(BENCHMARKS / "feed.py"), "--client", "tidewire", "--events", str(ROWS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["delivered"] == result["sent"] >= ROWS
