"""The processes that are killed: each appends frames without end and says on standard output what was accepted.

Every line on standard input forks one from this process, which has done the slow imports and nothing else: no thread,
no file, no event loop. Lines out: ``pid <n>``, then accepted sequences, then ``dead <signal>``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tidewire import telemetry
from tidewire.journal import Journal, JournalConfig, Origin
from tidewire.records.clock import SystemClock

CONFIG = JournalConfig(segment_bytes=128 * 1024, commit_ms=1, max_frame=1000, recent_bytes=64 * 1024)
ORIGIN = Origin("crash", "numbers", "none")
BURST = 60


def payload(sequence: int) -> bytes:
    """What frame ``sequence`` holds; every 50th is stored in chunks."""
    return b"%d." % sequence * (400 if sequence % 50 == 0 else 1 + sequence % 40)


async def main(directory: Path) -> None:
    telemetry.configure(level="error")
    journal = await Journal.open(directory, SystemClock(), CONFIG)
    os.write(1, b"%d\n" % journal.accepted)
    while True:
        for _ in range(BURST):
            sequence = journal.append(ORIGIN, payload(journal.head + 1))
        await journal.accept(sequence)
        os.write(1, b"%d\n" % sequence)


def serve(directory: Path) -> None:
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            asyncio.run(main(directory))
            os._exit(0)
        os.write(1, b"pid %d\n" % pid)
        _, status = os.waitpid(pid, 0)
        os.write(1, b"dead %d\n" % (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0))


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
