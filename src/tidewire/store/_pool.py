"""A bounded pool of read-only cursors with statement time-outs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import duckdb

from tidewire import telemetry
from tidewire.errors import StatementTimeout, StoreBusy, StoreError
from tidewire.store.config import StoreConfig

T = TypeVar("T")
Work = Callable[[duckdb.DuckDBPyConnection], T]

_in_use = telemetry.gauge("store_readers", "Read cursors in use")
_timeouts = telemetry.counter("store_read_timeouts", "Reads stopped because they took too long")
_refused = telemetry.counter("store_reads_refused", "Reads refused because too many were waiting")

NUDGE_S = 0.05


class ReadPool:
    """Runs reads in threads, each in its own read-only transaction; concurrent with the writer.

    ``readers`` run at once and ``read_queue`` wait for a cursor; what comes beyond is refused.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, config: StoreConfig) -> None:
        self._config = config
        self._threads = ThreadPoolExecutor(config.readers, thread_name_prefix="tidewire-read")
        self._free = [connection.cursor() for _ in range(config.readers)]
        self._cursors = tuple(self._free)
        self._slots = asyncio.Semaphore(config.readers)
        self._waiting = 0
        self._closed = False
        self._running: dict[asyncio.Future[Any], duckdb.DuckDBPyConnection] = {}
        for cursor in self._free:
            cursor.execute("SET TimeZone = 'UTC'")

    async def run(self, work: Work[T]) -> T:
        """Run ``work`` with a cursor inside a read-only transaction.

        Raises:
            StoreBusy: too many reads are waiting.
            StatementTimeout: it took longer than ``statement_timeout_s``.
            StoreError: the engine refused it, or the store is closed.
        """
        await self._slot()
        cursor = self._free.pop()
        _in_use.inc()
        running = asyncio.get_running_loop().run_in_executor(self._threads, _inside, cursor, work)
        running.add_done_callback(_retrieved)
        self._running[running] = cursor
        try:
            done, _ = await asyncio.wait({running}, timeout=self._config.statement_timeout_s)
            if not done:
                _timeouts.inc()
                await _stop(cursor, running)
                raise StatementTimeout(
                    f"The read took longer than {self._config.statement_timeout_s:g} s. Ask for a shorter time "
                    "range, fewer series or a smaller limit."
                )
            return running.result()
        except asyncio.CancelledError:
            await _stop(cursor, running)
            raise
        except duckdb.Error as error:
            raise StoreError(f"The read failed: {error}") from error
        finally:
            _in_use.dec()
            del self._running[running]
            self._free.append(cursor)
            self._slots.release()

    async def _slot(self) -> None:
        if self._slots.locked():
            if self._waiting >= self._config.read_queue:
                _refused.inc()
                raise StoreBusy(
                    f"All {self._config.readers} readers are in use and {self._waiting} reads wait; try again soon."
                )
            self._waiting += 1
            try:
                await self._slots.acquire()
            finally:
                self._waiting -= 1
        else:
            await self._slots.acquire()
        if self._closed:
            self._slots.release()
            raise StoreError("The store is closed.")

    async def close(self) -> None:
        """Stop running reads, refuse waiting ones, let go of the cursors."""
        self._closed = True
        for running, cursor in list(self._running.items()):
            await _stop(cursor, running)
        self._threads.shutdown(wait=True)
        for cursor in self._cursors:
            cursor.close()


def _inside(cursor: duckdb.DuckDBPyConnection, work: Work[T]) -> T:
    cursor.execute("BEGIN TRANSACTION READ ONLY")
    try:
        return work(cursor)
    finally:
        with contextlib.suppress(duckdb.Error):  # the error of the read itself is the one to tell
            cursor.execute("ROLLBACK")


def _retrieved(running: asyncio.Future[Any]) -> None:
    """A read whose caller was cancelled twice has nobody left who would take its error."""
    if not running.cancelled():
        running.exception()


async def _stop(cursor: duckdb.DuckDBPyConnection, running: asyncio.Future[Any]) -> None:
    """Interrupt until the thread is free: an interrupt between two statements is lost."""
    while not running.done():
        cursor.interrupt()
        await asyncio.wait({running}, timeout=NUDGE_S)
    running.exception()
