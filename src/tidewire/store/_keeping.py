"""Sealing beside reads and writes: one run after another, in a thread of its own, and what runs leave to be removed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import duckdb

from tidewire import telemetry
from tidewire.errors import ArchiveFailed, StoreError
from tidewire.records.clock import Clock
from tidewire.records.record import RecordType
from tidewire.store._cold import Cold
from tidewire.store._seal import Sealed, Sealer, sweep

T = TypeVar("T")

_log = telemetry.log("store")


class Keeping:
    """Runs the sealer of one store. ``turn`` is the writer's: nobody writes while files are removed.

    ``grace_s`` is longer than any read takes: files that were merged into others are read until then.
    """

    def __init__(self, cold: Cold, clock: Clock, turn: asyncio.Lock, grace_s: float) -> None:
        self.cold = cold
        self._clock = clock
        self._turn = turn
        self._grace_ns = int(grace_s * 1e9)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tidewire-seal")
        self.running = asyncio.Lock()
        self._swept = False
        self._closing = False
        self._doomed: deque[tuple[int, tuple[str, ...]]] = deque()

    async def seal(
        self, connection: Callable[[], duckdb.DuckDBPyConnection], done: Iterable[tuple[RecordType, int]]
    ) -> list[Sealed]:
        """Seal all that is over by type, ``done`` saying since when, and remove what earlier runs replaced.

        Raises:
            StoreError: a step failed; what was sealed before it stays sealed.
            ArchiveFailed: the object store cannot be reached.
        """
        async with self.running:
            cursor = connection().cursor()
            try:
                if not self._swept:
                    # Files that a read may still know are removed in their time.
                    waiting = {name for _, names in self._doomed for name in names}
                    await self.in_thread(lambda: sweep(cursor, self.cold, waiting))
                    self._swept = True
                await self._remove()
                return await self._run(cursor, done)
            except (duckdb.Error, OSError) as error:
                raise StoreError(f"Rows cannot be sealed: {error}") from error
            finally:
                await self.in_thread(cursor.close)

    async def _run(self, cursor: duckdb.DuckDBPyConnection, done: Iterable[tuple[RecordType, int]]) -> list[Sealed]:
        sealer = Sealer(cursor, self.cold, self._clock)
        found: list[Sealed] = []
        for kind, done_us in done:
            plan = await self.in_thread(lambda kind=kind, done_us=done_us: sealer.plan(kind, done_us))
            for span in plan:
                if self._closing:
                    return found
                try:
                    sealed = await self.in_thread(lambda kind=kind, span=span: sealer.seal(kind, span))
                except BaseException:
                    self._swept = False  # the next run begins with what this one left
                    raise
                if sealed is not None:
                    found.append(sealed)
                    self.doom(*sealed.replaced)
        return found

    def doom(self, *names: str) -> None:
        """Objects to remove when no read can need them any more."""
        self._doomed.append((self._clock.mono_ns(), names))

    async def _remove(self) -> None:
        """Remove what no read can need: a write that began earlier has ended once it is our turn."""
        async with self._turn:
            while self._doomed and self._doomed[0][0] + self._grace_ns <= self._clock.mono_ns():
                _, names = self._doomed[0]
                try:
                    await self.in_thread(lambda names=names: [self.cold.tier.objects.delete(name) for name in names])
                except ArchiveFailed as error:
                    _log.warning("sealed_files_not_removed", error=str(error))
                    return
                self._doomed.popleft()

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run something in the sealer's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def halt(self) -> None:
        """Begin no other step."""
        self._closing = True

    def go_on(self) -> None:
        """Runs may begin again."""
        self._closing = False

    async def close(self) -> None:
        """Let the running step end, and begin no other."""
        self.halt()
        async with self.running:
            self.go_on()
