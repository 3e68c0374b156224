"""Many streams over few connections: spread, replaced without a break, changed while they run."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidewire import telemetry
from tidewire.collect import Carried, FeedPool, Limits, PoolConfig, WsConfig
from tidewire.journal import Kind
from tidewire.sandbox.config import Faults, LimitConfig, SandboxConfig
from tidewire.sandbox.server import Sandbox
from unit.collect.kit import Place, Requests, place, until

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT")
TRADES = [f"{symbol.lower()}@trade" for symbol in SYMBOLS]
CARRIED = Carried("quote", "BTC-USDT.BINANCE")
SHUTDOWN = (b'{"stream":"!serverShutdown"',)
QUICK = WsConfig(backoff_s=0.001, backoff_s_max=0.01, messages_per_second=1_000)
LIMITS = LimitConfig(client_messages_per_second=1_000, connections_per_5_minutes=10_000, ping_interval_s=0.05)


class Run:
    """A pool at a sandbox."""

    def __init__(self, here: Place, sandbox: Sandbox, name: str, config: PoolConfig) -> None:
        self.here = here
        self.sandbox = sandbox
        self.name = name
        self.lost: list[list[str]] = []
        url = f"{sandbox.ws_url}/stream"
        self.pool = FeedPool(
            name,
            url,
            here.context,
            Requests(),
            ws=QUICK,
            config=config,
            carried=lambda _: [CARRIED],
            lost=lambda streams: self.lost.append(list(streams)),
        )

    def trades(self) -> dict[str, list[int]]:
        """The ids of the trades that came, by stream."""
        found: dict[str, list[int]] = {}
        for frame in self.here.journal.read(0, frames=1_000_000):
            if frame.kind is Kind.DATA and b'"e":"trade"' in frame.payload:
                message = msgspec.json.decode(frame.payload)
                found.setdefault(message["stream"], []).append(message["data"]["t"])
        return found

    def count(self) -> int:
        return sum(map(len, self.trades().values()))

    def marks(self) -> int:
        return sum(frame.kind is Kind.CONTROL for frame in self.here.journal.read(0, frames=1_000_000))

    def replaced(self, cause: str, outcome: str) -> float:
        labels = {"source": self.name, "cause": cause, "outcome": outcome}
        return telemetry.value("tidewire_collect_pool_replacements_total", **labels)

    async def more(self, trades: int = 50) -> None:
        """Wait for more trades."""
        wanted = self.count() + trades
        await until(lambda: self.count() >= wanted, "trades")

    def whole(self) -> bool:
        """Whether every stream came from its first to its last trade without a hole."""
        return all(set(ids) == set(range(min(ids), max(ids) + 1)) for ids in self.trades().values())


@asynccontextmanager
async def pooled(
    directory: Path, name: str, config: PoolConfig, streams: Sequence[str] = TRADES, **limits: Any
) -> AsyncIterator[Run]:
    limit = replace(LIMITS, **limits)
    sandbox = Sandbox(SandboxConfig(symbols=SYMBOLS, rate=2_000.0, history_hours=1, limits=limit))
    await sandbox.start()
    async with place(directory) as here:
        run = Run(here, sandbox, name, config)
        run.pool.want(streams)
        run.pool.start()
        try:
            yield run
        finally:
            await run.pool.stop()
            await sandbox.stop()


def quick(**changed: Any) -> PoolConfig:
    return PoolConfig(**{"farewells": SHUTDOWN, "overlap_s": 0.1, "patience_s": 1.0, "look_s": 0.02, **changed})


async def test_streams_are_spread_over_as_few_connections_as_are_allowed(tmp_path: Path) -> None:
    async with pooled(tmp_path, "spread", quick(streams_max=3), streams_per_connection=3) as run:
        await run.more()
        assert run.pool.sizes == [3, 1]
        assert run.sandbox.status()["connections"] == 2
        assert set(run.trades()) == set(TRADES)
        assert run.pool.connected
        requests = {frame.origin.request for frame in run.here.journal.read(0)}
        assert len(requests) == 2, "each connection has its own name in the journal"


async def test_an_old_connection_is_replaced_without_a_break(tmp_path: Path) -> None:
    """The venue cuts at 0.9 s; nobody is still there then."""
    async with pooled(tmp_path, "aging", quick(streams_max=2, age_s=0.4), connection_age_s=0.9) as run:
        await until(lambda: run.replaced("age", "done") >= 6, "replacements")
        await run.more()
        assert run.whole()
        assert run.marks() == 0
        assert run.lost == []
        up = functools.partial(telemetry.value, "tidewire_collect_ws_up", source="aging")
        await until(lambda: up() == len(run.pool.feeds), "as many are up as there are")


async def test_a_connection_that_was_told_goodbye_is_replaced_before_it_is_cut(tmp_path: Path) -> None:
    async with pooled(tmp_path, "leaving", quick(streams_max=2)) as run:
        await run.more()
        assert run.sandbox.shutdown(after_s=2.0) == 2
        await until(lambda: run.replaced("farewell", "done") == 2, "replacements")
        await run.more()
        assert run.whole()
        assert run.marks() == 0
        assert run.lost == []


async def test_one_that_is_told_goodbye_later_does_not_wait_for_the_other(tmp_path: Path) -> None:
    async with pooled(tmp_path, "apart", quick(streams_max=2, overlap_s=1.0, look_s=60.0)) as run:
        await run.more()
        first, second = run.pool.feeds
        first._farewell()
        await until(lambda: len(run.pool.feeds) == 3, "the first replacement")
        second._farewell()
        await until(lambda: len(run.pool.feeds) == 4, "the second, beside it")
        await until(lambda: run.replaced("farewell", "done") == 2, "replacements")
        assert len(run.pool.feeds) == 2
        assert run.marks() == 0


async def test_a_replacement_that_brings_nothing_is_given_up(tmp_path: Path) -> None:
    async with pooled(tmp_path, "mute", quick(age_s=0.3, patience_s=0.2)) as run:
        await run.more()
        run.sandbox.faults = Faults(silence_s=-1)  # connections are accepted, nothing is sent
        await until(lambda: run.replaced("age", "failed") >= 2, "attempts")
        assert len(run.pool.feeds) <= 2
        run.sandbox.faults = Faults()
        await until(lambda: run.replaced("age", "done") >= 1, "a replacement")
        await run.more()
        assert run.marks() == 0


async def test_one_that_broke_while_it_was_replaced_leaves_its_mark(tmp_path: Path) -> None:
    async with pooled(tmp_path, "breaking", quick(age_s=0.5, overlap_s=0.3)) as run:
        await until(lambda: len(run.pool.feeds) == 2 and run.pool.feeds[1].connected, "two side by side")
        old = run.pool.feeds[0]
        run.sandbox.faults = Faults(away_s=-1)  # both break
        await until(lambda: not run.pool.connected, "the break")
        run.sandbox.faults = Faults()
        await until(lambda: old not in run.pool.feeds or run.marks() > 0, "the end")
        await until(lambda: run.pool.connected and run.marks() > 0, "a mark")
        assert run.lost, "books are told"


async def test_streams_come_and_go_while_it_runs(tmp_path: Path) -> None:
    async with pooled(tmp_path, "changing", quick(streams_max=2), TRADES[:3], streams_per_connection=2) as run:
        await run.more()
        connects = run.pool.connects
        run.pool.want([TRADES[0], *TRADES[2:]])  # one goes, one comes: it takes the place
        await until(lambda: TRADES[3] in run.trades(), "the new stream")
        await until(
            lambda: (
                TRADES[1] not in run.sandbox.status()["subscriptions"]
                or not (run.sandbox.status()["subscriptions"][TRADES[1]])
            ),
            "the old one is given up",
        )
        assert run.pool.connects == connects
        assert sorted(run.pool.sizes) == [1, 2]
        run.pool.want([TRADES[2]])
        await until(lambda: run.pool.sizes == [1], "what carries nothing is closed")
        await until(lambda: run.sandbox.status()["connections"] == 1, "one connection is left")
        assert run.marks() == 0


async def test_only_what_is_silent_is_made_anew(tmp_path: Path) -> None:
    async with pooled(tmp_path, "silent", quick(streams_max=2)) as run:
        await run.more()
        run.pool.reconnect("silence: a test", [TRADES[3]])
        await until(lambda: run.pool.connects == 3 and run.pool.connected, "one new connection")
        await until(lambda: run.marks() == 1, "its mark")
        assert run.lost == [TRADES[2:]]


@pytest.mark.parametrize("streams_max", [1])
async def test_new_connections_stand_in_line(tmp_path: Path, streams_max: int) -> None:
    line = Limits(requests_per_second=10, burst=1)
    async with pooled(tmp_path, "storm", quick(streams_max=streams_max, connects=line)) as run:
        await until(lambda: run.pool.connected, "all are up")
        ages = sorted(feed.client.age_s for feed in run.pool.feeds)
        assert all(later - sooner > 0.08 for sooner, later in pairwise(ages))
