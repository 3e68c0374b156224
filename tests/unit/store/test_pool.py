"""Reads are bounded in number and in time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import duckdb
import pytest

from tidewire import telemetry
from tidewire.errors import StatementTimeout, StoreBusy, StoreError
from tidewire.store._pool import ReadPool
from tidewire.store.config import StoreConfig

FOREVER = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE hash(a.range, b.range) = 7"


@pytest.fixture
async def pool() -> AsyncIterator[ReadPool]:
    connection = duckdb.connect()
    pool = ReadPool(connection, StoreConfig(readers=2, read_queue=1, statement_timeout_s=0.2))
    yield pool
    await pool.close()
    connection.close()


def one(connection: duckdb.DuckDBPyConnection) -> int:
    return connection.execute("SELECT 1").fetchall()[0][0]


async def test_a_slow_statement_is_stopped_and_its_reader_freed(pool: ReadPool) -> None:
    before = telemetry.value("tidewire_store_read_timeouts_total")
    with pytest.raises(StatementTimeout, match=r"0\.2 s"):
        await pool.run(lambda connection: connection.execute(FOREVER).fetchall())
    assert telemetry.value("tidewire_store_read_timeouts_total") == before + 1
    assert telemetry.value("tidewire_store_readers") == 0
    assert await asyncio.gather(*(pool.run(one) for _ in range(2))) == [1, 1]


async def test_what_does_not_fit_the_queue_is_refused(pool: ReadPool) -> None:
    leave = threading.Event()
    started = threading.Semaphore(0)

    def hold(connection: duckdb.DuckDBPyConnection) -> int:
        started.release()
        leave.wait(5)
        return one(connection)

    config = StoreConfig(readers=2, read_queue=1, statement_timeout_s=60)
    connection = duckdb.connect()
    patient = ReadPool(connection, config)
    held = [asyncio.create_task(patient.run(hold)) for _ in range(3)]
    for _ in range(2):
        await asyncio.to_thread(started.acquire)
    with pytest.raises(StoreBusy, match="try again"):
        await patient.run(one)
    leave.set()
    assert await asyncio.gather(*held) == [1, 1, 1]
    await patient.close()
    connection.close()


async def test_a_reader_cannot_write(pool: ReadPool) -> None:
    with pytest.raises(StoreError, match="read-only"):
        await pool.run(lambda connection: connection.execute("CREATE TABLE t (a INTEGER)"))


async def test_a_cancelled_read_stops_and_frees_its_reader(pool: ReadPool) -> None:
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def long(connection: duckdb.DuckDBPyConnection) -> object:
        loop.call_soon_threadsafe(started.set)
        return connection.execute(FOREVER).fetchall()

    reading = asyncio.create_task(pool.run(long))
    await started.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert len(pool._free) == 2
    assert await pool.run(one) == 1


async def test_closing_stops_running_and_waiting_reads() -> None:
    connection = duckdb.connect()
    pool = ReadPool(connection, StoreConfig(readers=1, statement_timeout_s=60))
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def long(cursor: duckdb.DuckDBPyConnection) -> object:
        loop.call_soon_threadsafe(started.set)
        return cursor.execute(FOREVER).fetchall()

    running = asyncio.create_task(pool.run(long))
    await started.wait()
    waiting = asyncio.create_task(pool.run(one))
    await asyncio.sleep(0)
    await pool.close()
    for task in (running, waiting):
        with pytest.raises(StoreError):
            await task
    connection.close()
