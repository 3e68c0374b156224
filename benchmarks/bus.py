"""The price of a bus between processes: batches of 50 trades through the memory bus and through NATS JetStream.

- ``cpu_us_per_event``, ``cpu_us_per_row``: processor time of this process, publisher and one durable consumer together,
  as fast as they go, 16 events on the way; ``server_cpu_us_per_event`` is that of the NATS server beside it;
- ``latency_ms``: from the call of `publish` to the consumer's hands, one event each 2 ms.

    python benchmarks/bus.py
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import statistics
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

from tidewire import telemetry
from tidewire.bus import Bus, MemoryBus
from tidewire.bus.nats import NatsBus
from tidewire.records.batch import Batch, Lineage, Stream
from tidewire.records.clock import SystemClock, SystemRng
from tidewire.records.event import Event, data_event
from tidewire.records.record import record_type

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from nats_server import NatsServer, config, served

ROWS = 50
AT_A_TIME = 16
PACE_S = 0.002
TRADE = record_type("trade")
STREAM = Stream("benchmark", "trade", 0)


def trades() -> pl.DataFrame:
    """Rows as a feed brings them."""
    numbers = range(ROWS)
    values: dict[str, Any] = {
        "source": "binance",
        "instrument": ["BTC-USDT.BINANCE", "ETH-USDT.BINANCE"] * (ROWS // 2),
        "sequence": [4_000_000_000 + n for n in numbers],
        "trade_id": [str(4_000_000_000 + n) for n in numbers],
        "price": [Decimal(6_100_000 + n * 37 % 991) / 100 for n in numbers],
        "size": [Decimal(1 + n * 7_919 % 100_000) / 100_000 for n in numbers],
        "side": ["buy", "sell"] * (ROWS // 2),
    }
    columns = [
        pl.Series(
            name, values[name] if isinstance(values.get(name), list) else [values.get(name)] * ROWS, strict=False
        ).cast(dtype, strict=False)
        for name, dtype in TRADE.schema.items()
    ]
    return pl.DataFrame(columns)


@asynccontextmanager
async def memory() -> AsyncGenerator[Bus]:
    bus = MemoryBus(SystemClock())
    await bus.start()
    yield bus
    await bus.close()


def over(server: NatsServer) -> Callable[[], Any]:
    @asynccontextmanager
    async def nats() -> AsyncGenerator[Bus]:
        bus = NatsBus(SystemClock(), SystemRng(), config(server, "benchmark", max_bytes=256 << 20, timeout_s=5.0))
        await bus.start()
        yield bus
        await bus.close()

    return nats


async def throughput(opened: Callable[[], Any], events: int) -> dict[str, float]:
    """Processor time and rate, as fast as it goes."""
    clock, rows = SystemClock(), trades()
    async with opened() as bus:
        consumer = bus.consume("sink", "data.trade.processed", positions={STREAM: 0})

        async def read() -> None:
            left = events
            async for item in consumer:
                assert isinstance(item, Event)
                assert item.batch.rows.height == ROWS
                consumer.done(item)
                left -= 1
                if not left:
                    return

        async def publish() -> None:
            for first in range(0, events, AT_A_TIME):
                some = [event_at(rows, place, clock) for place in range(first, min(first + AT_A_TIME, events))]
                await asyncio.gather(*(bus.publish(event) for event in some))

        gc.collect()
        before, began = resource.getrusage(resource.RUSAGE_SELF), clock.mono_ns()
        await asyncio.gather(read(), publish())
        wall = (clock.mono_ns() - began) / 1e9
        after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "cpu_us_per_event": cpu / events * 1e6,
        "cpu_us_per_row": cpu / events / ROWS * 1e6,
        "events_per_s": events / wall,
    }


async def latency(opened: Callable[[], Any], events: int) -> dict[str, float]:
    """Milliseconds from the call of publish to the consumer, at a pace."""
    clock, rows = SystemClock(), trades()
    sent: dict[int, int] = {}
    took: list[float] = []
    async with opened() as bus:
        consumer = bus.consume("sink", "data.trade.processed", positions={STREAM: 0})

        async def read() -> None:
            while len(took) < events:
                item = await anext(consumer)
                took.append((clock.mono_ns() - sent[item.batch.lineage.last]) / 1e6)
                consumer.done(item)

        reading = asyncio.create_task(read())
        for place in range(events):
            event = event_at(rows, place, clock)
            sent[place + 1] = clock.mono_ns()
            await bus.publish(event)
            await clock.sleep(PACE_S)
        await reading
    cuts = statistics.quantiles(took, n=100)
    return {"latency_p50_ms": cuts[49], "latency_p99_ms": cuts[98]}


def event_at(rows: pl.DataFrame, place: int, clock: SystemClock) -> Event:
    return data_event(
        "processed", Batch(TRADE, rows, Lineage(STREAM.journal, 0, place, place + 1, 0, "t")), clock.wall_ns()
    )


@contextmanager
def accounted(folder: Path, events: int, into: dict[str, float]) -> Generator[NatsServer]:
    """A server whose processor time is known once it has ended."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with served(folder) as server:
        yield server
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    into["server_cpu_us_per_event"] = (
        (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / events * 1e6
    )


def measure(events: int, repeat: int) -> dict[str, Any]:
    """Medians of both, interleaved."""
    paced = min(events, 1_000)
    runs: dict[str, list[dict[str, float]]] = {"memory": [], "nats": []}
    for _ in range(repeat):
        runs["memory"].append(asyncio.run(throughput(memory, events)) | asyncio.run(latency(memory, paced)))
        found: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as name:
            with accounted(Path(name) / "a", events, found) as server:
                found |= asyncio.run(throughput(over(server), events))
            with served(Path(name) / "b") as server:
                found |= asyncio.run(latency(over(server), paced))
        runs["nats"].append(found)
    medians = {
        name: {key: round(statistics.median(run[key] for run in found), 3) for key in found[0]}
        for name, found in runs.items()
    }
    ratio = medians["nats"]["cpu_us_per_event"] / medians["memory"]["cpu_us_per_event"]
    return {"benchmark": "bus", "events": events, "median": medians, "cpu_ratio_nats_to_memory": round(ratio, 1)}


if __name__ == "__main__":
    telemetry.configure("warning")
    print(json.dumps(measure(5_000, 3), indent=2))
