"""`DuckDBStore`: the default store. One file, or memory; one process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import polars as pl

from tidewire import telemetry
from tidewire.errors import StoreError, StoreLocked
from tidewire.records.batch import Batch, Fate, Stream
from tidewire.records.clock import Clock, SystemClock
from tidewire.records.record import RecordType, types
from tidewire.store import _held, _read
from tidewire.store._book import EPOCH, MICROSECOND, watermark
from tidewire.store._cold import Cold, is_sealed
from tidewire.store._keeping import Keeping
from tidewire.store._pool import ReadPool
from tidewire.store._read import Page, Reading
from tidewire.store._schema import prepare
from tidewire.store._seal import Sealed
from tidewire.store._sealed import sealed_rows
from tidewire.store._write import RIDERS, Writer
from tidewire.store.config import StoreConfig, Tier
from tidewire.store.protocol import Query, Result, Stretch, Written

T = TypeVar("T")

MEMORY = ":memory:"

_log = telemetry.log("store")
_read_seconds = telemetry.histogram("store_read_seconds", "How long reads took, waiting included", ("kind",))

# Files open in this process: the engine's lock keeps out other processes only.
_OPEN: set[Path] = set()


class DuckDBStore:
    """Rows, positions and fates in one DuckDB file, written in one thread, read in several.

    ``path`` is a file or ``":memory:"``. One process owns the file; others read through the API. ``cold`` is where
    rows go that are `seal`-ed; without it all stay in the file.
    """

    def __init__(
        self,
        path: str | Path,
        config: StoreConfig | None = None,
        clock: Clock | None = None,
        cold: Tier | None = None,
    ) -> None:
        self._path = None if str(path) == MEMORY else Path(path)
        self._config = config or StoreConfig()
        self._clock = clock or SystemClock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tidewire-write")
        self._turn = asyncio.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._writer: Writer | None = None
        self._pool: ReadPool | None = None
        self._cold = None if cold is None else Cold(cold, self._clock)
        grace_s = 2 * self._config.statement_timeout_s
        self._keeping = None if self._cold is None else Keeping(self._cold, self._clock, self._turn, grace_s)

    async def open(self) -> None:
        """Open or create; tables of known record types are brought into being.

        Raises:
            StoreLocked: another process, or another store of this one, has the file.
            StoreError: the file cannot be used: damaged, or written by a newer version.
        """
        if self._writer is not None:
            raise StoreError(f"The store {self._where} is open already.")
        if self._path is not None:
            file = self._path.resolve()
            if file in _OPEN:
                raise StoreLocked(f"{self._where} is open in this process already; use that store.")
            _OPEN.add(file)
        try:
            await self._in_thread(self._connect)
        except BaseException:
            self._release()
            raise
        assert self._connection is not None
        self._pool = ReadPool(self._connection, self._config)
        _log.info("store_opened", file=self._where, streams=len(self._open_writer.book.positions))

    async def close(self) -> None:
        """Finish the running commit, stop reads, let go of the file. Closing twice is allowed."""
        if self._keeping is not None:
            await self._keeping.close()
        async with self._turn:
            if self._pool is not None:
                await self._pool.close()
                self._pool = None
            if self._connection is not None:
                await self._in_thread(self._disconnect)
                self._release()

    def positions(self) -> Mapping[Stream, int]:
        """The last frame durably committed for each stream; a stream not listed is at 0."""
        return {stream: at.last for stream, at in self._open_writer.book.positions.items()}

    def watermark(self, kind: RecordType) -> datetime:
        """Everything of this type received up to here is stored; an answer for an earlier snapshot never changes.

        Gaps and quarantined rows come with the batches of all types: theirs is the lowest of all.
        """
        book = self._open_writer.book
        return watermark(book.positions, None if kind in RIDERS else kind.name, book.retired)

    async def set_live(self, journals: Collection[str]) -> None:
        """Say which journals still get frames: what an abandoned one did not bring holds no watermark back."""
        async with self._turn:
            await self._in_thread(lambda: self._open_writer.book.set_live(journals))

    async def write(self, batches: Sequence[Batch]) -> list[Written]:
        """Commit batches of any types in one transaction, with rows, rejects, gaps, fates and positions.

        Calls take turns. A call that is cancelled ends when its commit has ended.

        Raises:
            PositionMismatch: a batch does not continue the position of its stream; nothing was committed.
            StoreError: the commit failed; nothing was committed.
        """
        async with self._turn:
            return await _to_its_end(self._write(batches))

    async def read(self, query: Query) -> Result:
        """Rows in a time range, a page at a time.

        Raises:
            QueryError: the query names something that is not there, or cannot be answered as asked.
            StoreBusy: too many reads wait already.
            StatementTimeout: it took too long.
        """
        return await self._answer("read", query, lambda reading: reading.read)

    async def latest(self, query: Query) -> Result:
        """The last row of each series, ordered and paged like a read; raises what a read raises."""
        return await self._answer("latest", query, lambda reading: reading.latest)

    async def marks(self, kind: RecordType) -> pl.DataFrame:
        """Per series the highest stored ``order`` value and its event time; columns: series, order, event_time."""
        await self._ensure(kind)
        return await self._open_pool.run(
            lambda connection: _read.marks(connection, kind, sealed=self._has_sealed(kind))
        )

    async def fates(self) -> Mapping[tuple[str, Fate], int]:
        """How many rows came to which fate, by (record type, `Fate`); ``received`` included."""
        rows = await self._open_pool.run(lambda connection: connection.execute("SELECT * FROM _fates").fetchall())
        return {(kind, Fate(source, hour, fate)): n for kind, source, hour, fate, n in rows}

    async def counts(
        self, start: datetime | None = None, end: datetime | None = None
    ) -> Mapping[tuple[str, str, int], int]:
        """Rows actually in the tables by (record type, source, hour of ``ingested_at``), revisions included."""
        kinds = [*types().values()]
        await self._ensure(*kinds)
        return await self._open_pool.run(lambda connection: _held.counts(connection, kinds, (start, end), self._cold))

    async def of_frames(self, kind: RecordType, stretch: Stretch) -> pl.DataFrame:
        """Every version stored under these frames: the type's columns, ``_journal`` (a uuid) and ``_revision``."""
        await self._ensure(kind)
        return await self._open_pool.run(lambda connection: _held.of_frames(connection, kind, stretch, self._cold))

    async def strays(
        self, kind: RecordType, source: str, hour: datetime, known: Sequence[Stretch], limit: int
    ) -> pl.DataFrame:
        """Versions ingested in an hour that are of none of the frames ``known``, at most ``limit``."""
        await self._ensure(kind)
        astray = _held.Astray(source, (hour, hour + timedelta(hours=1)), known, limit)
        return await self._open_pool.run(lambda connection: _held.strays(connection, kind, astray, self._cold))

    async def versions(
        self, kind: RecordType, keys: pl.DataFrame, start: datetime | None = None, end: datetime | None = None
    ) -> pl.DataFrame:
        """Every version of these keys; with bounds of ``event_time``, which is quicker."""
        await self._ensure(kind)
        return await self._open_pool.run(
            lambda connection: _held.versions(connection, kind, keys, (start, end), self._cold)
        )

    async def seal(self, after_s: float | None = None) -> list[Sealed]:
        """Move rows of spans that are over from the file to sealed ones; reads find them as before.

        A span is over ``after_s`` (by default as configured) before the watermark of its type. Runs beside reads and
        writes; calls take turns, and one that is cancelled ends when its step has ended.

        Raises:
            StoreError: a step failed, and changed nothing; or the store was opened without a place for sealed files.
            ArchiveFailed: the object store cannot be reached.
        """
        keeping = self._keeping
        if keeping is None:
            raise StoreError(f"The store {self._where} has no place for sealed rows; set cold.enabled.")
        wait_s = keeping.cold.tier.config.after_s if after_s is None else after_s
        kinds = [kind for kind in types().values() if is_sealed(kind)]
        await self._ensure(*kinds)
        done = [(kind, (self.watermark(kind) - EPOCH) // MICROSECOND - round(wait_s * 1e6)) for kind in kinds]
        try:
            return await _to_its_end(keeping.seal(self._connected, done), keeping.halt)
        except asyncio.CancelledError:
            keeping.go_on()
            raise

    def _connected(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            raise StoreError(f"The store {self._where} is not open.")
        return self._connection

    def _has_sealed(self, kind: RecordType) -> bool:
        return self._cold is not None and self._cold.reach(kind) is not None

    @property
    def _where(self) -> str:
        return MEMORY if self._path is None else str(self._path)

    @property
    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise StoreError(f"The store {self._where} is not open.")
        return self._writer

    @property
    def _open_pool(self) -> ReadPool:
        if self._pool is None:
            raise StoreError(f"The store {self._where} is not open.")
        return self._pool

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _connect(self) -> None:
        config: dict[str, str | bool | int | float | list[str]] = {
            "threads": self._config.threads,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
            "wal_autocheckpoint": self._config.checkpoint,
        }
        if self._config.memory_limit:
            config["memory_limit"] = self._config.memory_limit
        try:
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = duckdb.connect(self._where, config=config)
            self._connection.execute("SET TimeZone = 'UTC'")
            prepare(self._connection, self._where)
            if self._cold is not None:
                self._cold.open(self._connection)
            elif n := sealed_rows(self._connection):
                raise StoreError(
                    f"{n:,} rows of {self._where} are sealed in files outside it, and it was opened without them. Set "
                    "cold.enabled, and cold.url to where the files are."
                )
            self._writer = Writer(self._connection, self._config.max_series, self._clock, self._cold)
        except (duckdb.Error, OSError) as error:
            self._disconnect()
            if "lock" in str(error).lower() and isinstance(error, duckdb.IOException):
                raise StoreLocked(
                    f"{self._where} is in use by another process. Read through its API, or stop it first. ({error})"
                ) from error
            raise StoreError(f"Cannot open the store {self._where}: {error}") from error
        except BaseException:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        connection, self._connection, self._writer = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(duckdb.Error):
                connection.close()

    def _release(self) -> None:
        if self._path is not None:
            _OPEN.discard(self._path.resolve())

    async def _write(self, batches: Sequence[Batch]) -> list[Written]:
        if self._open_writer.doubt:
            await self._clear_doubt()
        writer = self._open_writer
        try:
            return await self._in_thread(lambda: writer.write(batches))
        except StoreError:
            if not writer.doubt:
                raise
            unsure = writer.unsure
            await self._clear_doubt()
            if unsure is None or not unsure.happened(self._open_writer.book.positions):
                raise
            _log.warning("commit_found_done", file=self._where, batches=len(batches))
            return unsure.written

    async def _clear_doubt(self) -> None:
        """Read from the file how the last commit ended, before anything else is said."""
        writer = self._open_writer
        try:
            await self._in_thread(writer.read_back)
        except (duckdb.Error, StoreError) as error:
            if self._path is None:
                raise StoreError(f"The store in memory is broken: {error}") from error
            _log.warning("store_reopening", file=self._where, error=str(error))
            if self._keeping is not None:
                await self._keeping.close()  # its connection would keep the broken engine alive
            if self._pool is not None:
                await self._pool.close()
            await self._in_thread(self._disconnect)
            await self._in_thread(self._connect)
            assert self._connection is not None
            self._pool = ReadPool(self._connection, self._config)

    async def _ensure(self, *kinds: RecordType) -> None:
        """Tables of types that were defined after the store was opened."""
        if all(map(self._open_writer.tables.ready, kinds)):
            return
        async with self._turn:
            writer = self._open_writer
            try:
                await self._in_thread(lambda: writer.ensure(kinds))
            except duckdb.Error as error:
                raise StoreError(
                    f"Cannot make the tables of {', '.join(kind.name for kind in kinds)}: {error}"
                ) from error

    async def _answer(
        self, what: str, query: Query, method: Callable[[Reading], Callable[[duckdb.DuckDBPyConnection], Page]]
    ) -> Result:
        started = self._clock.mono_ns()
        await self._ensure(query.type)
        committed = self.watermark(query.type)
        snapshot = query.snapshot or self._now(query.type)
        revised = self._open_writer.revised.get(query.type.table, 0) > 0
        reading = Reading(query, snapshot, revised=revised, cold=self._cold)
        page = await self._open_pool.run(method(reading))
        _read_seconds.labels(what).observe((self._clock.mono_ns() - started) / 1e9)
        return Result(page.rows, snapshot, committed, page.next)

    def _now(self, kind: RecordType) -> datetime:
        """The snapshot of a read that names none: the watermark.

        Of gaps and quarantined rows, all that are committed: a stream at rest would hide them otherwise.
        """
        if kind not in RIDERS:
            return self.watermark(kind)
        writer = self._open_writer
        untils = (at.until_us for at in writer.book.positions.values())
        newest = max((*untils, writer.newest_us.get(kind.table, 0)))
        return EPOCH + newest * MICROSECOND


async def _to_its_end(work: Coroutine[Any, Any, T], cancelled: Callable[[], None] = lambda: None) -> T:
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        cancelled()
        # The thread cannot be stopped: nobody may write before it has ended.
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        raise
