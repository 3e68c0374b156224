"""``make bench``: every benchmark in turn, results as JSON beside the commit and machine they are from.

Absolute figures mean nothing across machines: read the ratios, which are from the same run on the same frames.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from pathlib import Path

import bus
import feed
import journal
import replay
import snapshot

from tidewire import telemetry

HERE = Path(__file__).parent
STOCKS, DAYS = 5_500, 2_430


def main() -> None:
    """Run and, with ``--save``, keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/<commit>.json")
    chosen = parser.parse_args()
    telemetry.configure("warning")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], check=False, capture_output=True, text=True, cwd=HERE
    ).stdout.strip()
    found = {
        "commit": commit,
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "results": [
            journal.measure(chosen.events, chosen.repeat),
            bus.measure(chosen.events // 40, chosen.repeat),
            feed.measure(chosen.events, chosen.repeat),
            snapshot.measure(STOCKS, chosen.repeat),
            replay.measure(STOCKS, DAYS, 1),
        ],
    }
    text = json.dumps(found, indent=2)
    print(text)
    if chosen.save:
        folder = HERE / "results"
        folder.mkdir(exist_ok=True)
        (folder / f"{commit}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
