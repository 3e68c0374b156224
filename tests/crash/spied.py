"""The product over a watched disk, in processes that are killed.

Each line on standard input is a request; it forks one process from this one, which has done those slow imports that
start no thread, and nothing else. Lines out: ``pid <n>``, then ``dead <status>`` (negative: the signal).
The child puts `SpiedFiles` under the journal, breaks what the request says, and then is the command ``tidewire``.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

# Its threads would make this process one that cannot be forked.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import aiohttp.web
import fastapi
import msgspec
import numpy  # noqa: ICN001 - imported for its cost
import picows
import structlog
import typer
import uvicorn
import websockets.asyncio.server
import yaml

if TYPE_CHECKING:
    from crash.disk import SpiedFiles

IMPORTED = (aiohttp.web, fastapi, numpy, picows, structlog, typer, uvicorn, websockets.asyncio.server, yaml)


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of one process; the last two are switches of `crash.mutants`."""

    directory: str
    argv: list[str]
    environ: dict[str, str] = {}
    sync_ms: float = 0.0
    fail_sync: int | None = None
    seed: int = 0
    full: list[float] = []
    """From when to when the disk is full, in seconds after the start."""
    skew: list[tuple[float, float]] = []
    """Jumps of the wall clock: so many seconds after the start, by so many."""
    faults: list[str] = []
    mutants: list[str] = []


def become(start: Start) -> None:
    """Be the product until it ends."""
    from crash import mutants
    from crash.disk import SpiedFiles
    from tidewire.journal import journal

    directory = Path(start.directory)
    clock = mutants.SkewedClock(start.skew)
    spied = SpiedFiles(
        directory / "synced",
        sync_ms=start.sync_ms,
        fail_sync=start.fail_sync,
        full=lambda: bool(start.full) and start.full[0] <= clock.age_s() < start.full[1],
        seed=start.seed,
    )

    def files() -> SpiedFiles:
        return spied

    journal.OsFiles = files  # type: ignore[assignment, misc]
    if start.skew:
        mutants.skew(clock)
    for name in start.faults:
        mutants.FAULTS[name](start.seed)
    for name in [*start.mutants, *filter(None, [os.environ.get("MUTANT")])]:
        mutants.MUTANTS[name].install()

    from tidewire.runtime.cli import main
    from tidewire.sources.binance import app

    # The sandbox has no limits either: a venue's would only make the filling of a thousand gaps take hours.
    app.WEIGHT_PER_MINUTE = 10_000_000
    sys.argv = ["tidewire", *start.argv]
    main()


def child(start: Start) -> None:
    """What the forked process does; never returns."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.chdir(start.directory)
        os.environ.update(start.environ)
        errors = os.open("errors.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor, number in ((nothing, 0), (nothing, 1), (errors, 2)):
            os.dup2(descriptor, number)
        become(start)
        status = 0
    except SystemExit as done:
        status = done.code if isinstance(done.code, int) else int(done.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def serve() -> None:
    """Fork until standard input ends; then nothing of ours is left running."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    gc.freeze()
    waiting, pid = b"", 0
    while True:
        ready, _, _ = select.select([0, reader], [], [])
        if reader in ready:
            os.read(reader, 64)
            if pid and (found := os.waitpid(pid, os.WNOHANG))[0]:
                os.write(1, b"dead %d\n" % os.waitstatus_to_exitcode(found[1]))
                pid = 0
        if 0 in ready:
            part = os.read(0, 65_536)
            if not part:
                break
            *lines, waiting = (waiting + part).split(b"\n")
            for line in lines:
                start = msgspec.json.decode(line, type=Start)
                pid = os.fork()
                if pid == 0:
                    child(start)
                os.write(1, b"pid %d\n" % pid)
    if pid:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    serve()
