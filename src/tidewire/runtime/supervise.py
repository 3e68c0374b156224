"""Running a platform until somebody stops it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import msgspec

from tidewire import telemetry
from tidewire.errors import TidewireError
from tidewire.records.clock import Clock
from tidewire.runtime.config import Loaded
from tidewire.runtime.platform import Tidewire

RUN_FILE = "run.json"
SECOND_SIGNAL = 130
GARBAGE_OBJECTS = 50_000

_log = telemetry.log("runtime")


class Running(msgspec.Struct, frozen=True):
    """What a running platform leaves in its data directory for other commands to find it."""

    pid: int
    url: str


def found_running(data_dir: Path) -> Running | None:
    """The platform that runs on this data directory, if one does."""
    try:
        running = msgspec.json.decode((data_dir / RUN_FILE).read_bytes(), type=Running)
        os.kill(running.pid, 0)
    except (OSError, msgspec.MsgspecError):
        return None
    return running


class Stop:
    """Turns SIGINT and SIGTERM into a request to drain; the second one ends the process at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def install(self) -> None:
        """Take over the signals of this process."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signal)

    def on_hangup(self, reload: Callable[[], object]) -> None:
        """Have SIGHUP do this, unless it means that the terminal of this process is gone."""
        if hasattr(signal, "SIGHUP") and not sys.stdin.isatty():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)

    def _signal(self) -> None:
        if self.asked.is_set():
            # What was accepted is in the journal; the next start continues from there.
            sys.stderr.write("\nstopped at once; the next start continues where this one was\n")
            sys.stderr.flush()
            os._exit(SECOND_SIGNAL)
        self.asked.set()


@contextlib.contextmanager
def seldom_collecting() -> Generator[None]:
    """Have Python look for cycles seldom, and not among what the start left: there are hardly any.

    Each search walks everything alive, and by default there is one every 700 objects: 7 % of the time under load.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS, 20, 20)
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


@contextlib.asynccontextmanager
async def running(loaded: Loaded, clock: Clock | None = None) -> AsyncGenerator[Tidewire]:
    """A started platform; drained and closed at the end."""
    platform = Tidewire(loaded, clock)
    await platform.start()
    note = loaded.data_dir / RUN_FILE
    note.write_bytes(msgspec.json.encode(Running(os.getpid(), platform.url)))
    try:
        with seldom_collecting():
            yield platform
    finally:
        _log.info("stopping: draining what is accepted")
        note.unlink(missing_ok=True)
        await platform.stop()


async def supervise(
    loaded: Loaded,
    *,
    view: Callable[[Tidewire], Awaitable[None]] | None = None,
    seconds: float | None = None,
    ready: Callable[[Tidewire], None] | None = None,
    clock: Clock | None = None,
) -> None:
    """Run until a signal, a failure, or the end of ``seconds``; ``view`` shows progress meanwhile.

    ``clock``: another than the configured one.

    Raises:
        TidewireError: a part failed that nothing can go on without.
    """
    stop = Stop()
    stop.install()
    async with running(loaded, clock) as platform:
        stop.on_hangup(platform.plugins.hurry)
        if ready is not None:
            ready(platform)
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(event.wait()) for event in (stop.asked, platform.failed)]
        if view is not None:
            waits.append(asyncio.create_task(_quietly(view(platform))))
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        failure = platform.failure
    if failure is not None:
        raise failure if isinstance(failure, TidewireError) else TidewireError(f"{type(failure).__name__}: {failure}")


async def _quietly(work: Awaitable[None]) -> None:
    """A view that fails must not stop what it shows."""
    try:
        await work
    except Exception:
        _log.exception("the progress view failed; collecting goes on")
        await asyncio.Event().wait()
