"""What the peers' scripts share: their orders, the count of what reached them, and when. Only the standard library.

A script is started with one JSON argument, prints a line when it is set up, runs until its standard input ends, and
prints what it got as one JSON line.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from pathlib import Path
from time import monotonic_ns
from typing import Any

# Of every so-many rows one is written down with its time, so that writing down does not become the cost.
EVERY = 8


class Tally:
    """Counts rows by kind (``trade``, ``quote``, ``depth``)."""

    def __init__(self) -> None:
        self.orders: dict[str, Any] = json.loads(sys.argv[1])
        # Whoever is terminated stops the server beside it first.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        self.counts: Counter[str] = Counter()
        self.samples: list[tuple[str, str, int, int]] = []

    def row(self, kind: str, symbol: str, ident: int) -> None:
        """One row has arrived at the user: ``symbol`` as the venue spells it, ``ident`` as the venue gave it."""
        counts = self.counts
        counts[kind] += 1
        if not counts[kind] % EVERY:
            self.samples.append((kind, symbol, ident, monotonic_ns()))

    def ready(self, **facts: Any) -> None:
        """Tell that everything is set up; ``server`` is the pid of a server beside."""
        print(json.dumps(facts), flush=True)

    def report(self, **facts: Any) -> None:
        """Tell what was got. ``delivered`` is what the callback got, unless said otherwise."""
        Path(self.orders["samples"]).write_text(json.dumps(self.samples))
        versions = sys.version.split()[0]
        print(json.dumps({"delivered": dict(self.counts), "python": versions} | facts), flush=True)


def until_told() -> None:
    """Block until standard input ends."""
    sys.stdin.read()
