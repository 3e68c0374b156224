"""History: whatever a venue has or lacks, its bars and aggregates are loaded whole, in few requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire import telemetry
from tidewire.collect import Coverage, Missing, Part, Reply, Shard
from tidewire.errors import TerminalError, TransientError
from tidewire.journal import Frame
from tidewire.records.clock import SystemClock
from tidewire.sandbox.config import LimitConfig, SandboxConfig
from tidewire.sandbox.server import Sandbox
from tidewire.sources.binance import BinanceApp, BinanceParser, history
from tidewire.sources.binance.collectors import KlineCollector
from tidewire.sources.binance.history import BinanceHistory, bar_open, bars_wanted, trades_wanted
from tidewire.sources.binance.parse import LATE_MS
from unit.collect.kit import place, until
from unit.sources.binance.samples import REST, frame
from unit.sources.binance.test_app import config

MINUTE = 60_000
BEGIN = 1_760_000_040_000
"""A whole minute, in ms."""
NAME = "ETH-BTC.BINANCE"
MOST = 5


@dataclass
class Venue:
    """Has bars of a minute that opened at ``bars``, and aggregates ``(id, time)``, ids ascending; all in ms."""

    bars: Sequence[int] = ()
    trades: Sequence[tuple[int, int]] = ()
    now: int = BEGIN + 100_000 * MINUTE
    asked: list[dict[str, str]] = field(default_factory=list)

    @property
    def listing(self) -> Venue:
        """What it lists: one symbol."""
        return self

    def native_of(self, instrument: str) -> str:
        if instrument != NAME:
            raise TerminalError(f"Binance does not list {instrument} any more")
        return "ETHBTC"

    async def ask(self, endpoint: str, params: Mapping[str, str], *, background: bool) -> Reply:
        assert background
        self.asked.append(dict(params))
        rows = self._klines(params) if endpoint == "klines" else self._agg_trades(params)
        query = "&".join(f"{name}={value}" for name, value in params.items())
        body = msgspec.json.encode(rows[: int(params["limit"])])
        return Reply(200, {}, body, f"http://x/api/v3/{endpoint}?{query}", self.now * 1_000_000, 0.0)

    def _klines(self, params: Mapping[str, str]) -> list[Any]:
        low, high = int(params["startTime"]), int(params.get("endTime", self.now))
        rest = ["1", "2", "1", "2", "5"]
        return [[at, *rest, at + MINUTE - 1, "9", 3, "2", "4", "0"] for at in self.bars if low <= at <= high]

    def _agg_trades(self, params: Mapping[str, str]) -> list[Any]:
        found = self.trades
        if "fromId" in params:
            found = [each for each in found if each[0] >= int(params["fromId"])]
        elif "startTime" in params:
            found = [each for each in found if each[1] >= int(params["startTime"])]
        else:
            found = found[-int(params["limit"]) :]
        return [{"a": a, "p": "1", "q": "2", "f": a, "l": a, "T": at, "m": True} for a, at in found]


def of(venue: Venue) -> BinanceHistory:
    made = BinanceHistory.__new__(BinanceHistory)
    made._app = venue  # type: ignore[assignment]
    return made


def shard(begin: int, end: int, oldest: int = BEGIN, name: str = NAME) -> Shard:
    return Shard("kline", name, "1m", begin * 1_000, end * 1_000, oldest * 1_000)


def ran(venue: Venue, wanted: Shard) -> list[Part]:
    async def parts() -> list[Part]:
        return [part async for part in of(venue).bars(wanted)]

    return asyncio.run(parts())


def bounds(parts: Sequence[Part]) -> list[tuple[int, int, int]]:
    return [
        ((part.begin_us // 1_000 - BEGIN) // MINUTE, (part.end_us // 1_000 - BEGIN) // MINUTE, part.rows)
        for part in parts
    ]


def rows_of(replies: Sequence[Reply]) -> list[dict[str, Any]]:
    """What the parser makes of the replies: bars that are final, aggregates."""
    frames: list[Frame] = []
    for number, reply in enumerate(replies, 1):
        made = frame(reply.body, REST + reply.url.partition("/api/v3/")[2], number)
        frames.append(msgspec.structs.replace(made, wall_ns=reply.received_ns))
    found: list[dict[str, Any]] = []
    for part in BinanceParser({"ETHBTC": NAME}).parse(frames).parsed:
        columns = {name: list(cast("Any", values)) for name, values in part.columns.items() if name != "interval"}
        found += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [row for row in found if row.get("final", True)]


def minutes(*numbers: int) -> list[int]:
    return [BEGIN + number * MINUTE for number in numbers]


def opened(parts: Sequence[Part]) -> list[int]:
    """Which bars became final rows, in minutes since the begin."""
    rows = rows_of([part.reply for part in parts])
    return [(row["open_time"] // 1_000 - BEGIN) // MINUTE for row in rows]


def test_a_request_brings_a_shard() -> None:
    venue = Venue(minutes(*range(20)))
    parts = ran(venue, shard(BEGIN + 4 * MINUTE, BEGIN + 9 * MINUTE))
    assert bounds(parts) == [(4, 9, 5)]
    assert opened(parts) == [4, 5, 6, 7, 8], "the last one of a reply may be forming"
    assert len(venue.asked) == 1


def test_a_pause_of_the_venue() -> None:
    venue = Venue(minutes(0, 1, 5, 6))
    parts = ran(venue, shard(BEGIN, BEGIN + 4 * MINUTE))
    assert bounds(parts) == [(0, 1, 1), (1, 4, 1)]
    assert opened(parts) == [0, 1]
    assert bounds(ran(venue, shard(BEGIN + 2 * MINUTE, BEGIN + 4 * MINUTE))) == [(2, 4, 0)], "nothing in the middle"


def test_the_last_bar_of_a_symbol_is_final_once_nothing_can_follow() -> None:
    venue = Venue(minutes(0, 1, 2))
    venue.now = BEGIN + 3 * MINUTE - 1 + LATE_MS - 1
    with pytest.raises(TransientError, match="not over yet"):
        ran(venue, shard(BEGIN, BEGIN + 4 * MINUTE))
    venue.now += 1
    parts = ran(venue, shard(BEGIN, BEGIN + 4 * MINUTE))
    assert bounds(parts) == [(0, 2, 2), (2, 4, 1)]
    assert opened(parts) == [0, 1, 2]
    (last,) = [row for row in rows_of([parts[-1].reply]) if row["final"]]
    assert last["public_at"] == last["close_time"]


def test_before_the_first_bar_there_is_nothing_to_ask_for() -> None:
    venue = Venue(minutes(50, 51, 52))
    assert bounds(ran(venue, shard(BEGIN + 40 * MINUTE, BEGIN + 44 * MINUTE))) == [(0, 44, 0)]
    assert bounds(ran(Venue(), shard(BEGIN + 40 * MINUTE, BEGIN + 44 * MINUTE))) == [(0, 44, 0)]


def test_a_symbol_that_is_not_listed() -> None:
    with pytest.raises(TerminalError, match="does not list OLD-BTC"):
        ran(Venue(), shard(BEGIN, BEGIN + MINUTE, name="OLD-BTC.BINANCE"))


Load = Callable[[Shard], Any]


async def all_of(load: Load, kind: str, head: int, shard_us: int, most: int) -> tuple[list[Reply], int]:
    """Load [BEGIN, head) as a `Backfill` would; the replies and how many rows were counted."""
    done, replies = Coverage(), list[Reply]()
    while (found := done.newest_missing(BEGIN * 1_000, head * 1_000, shard_us)) is not None:
        async for part in load(Shard(kind, NAME, "1m", *found, BEGIN * 1_000)):
            done = done.add(part.begin_us, part.end_us, part.rows)
            replies.append(part.reply)
        assert len(replies) <= most, "asked for without end"
    return replies, done.rows


@given(st.sets(st.integers(-10, 60)), st.integers(1, 50))
def test_every_bar_is_loaded_whatever_is_missing(there: set[int], head: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "MOST_ROWS", MOST)
        venue = Venue(minutes(*sorted(there)))
        wanted = bars_wanted(NAME, "1m", BEGIN * 1_000)
        assert wanted.shard_us == (MOST - 1) * MINUTE * 1_000
        replies, rows = asyncio.run(
            all_of(of(venue).bars, "kline", BEGIN + head * MINUTE, wanted.shard_us, 2 * head + 2)
        )
    final = [(row["open_time"] // 1_000 - BEGIN) // MINUTE for row in rows_of(replies)]
    expected = {number for number in there if 0 <= number < head}
    assert expected <= set(final)
    assert rows == len(expected)


@given(st.integers(0, 3), st.lists(st.sampled_from([0, 0, 1, 5, 200, 30_000]), max_size=60), st.integers(1, 600_000))
def test_every_aggregate_is_loaded_whatever_their_times(first: int, steps: list[int], length: int) -> None:
    """Many in one millisecond, none for long, ids that begin at zero or not."""
    at, trades = BEGIN - 5_000, list[tuple[int, int]]()
    for number, step in enumerate(steps):
        at += step
        trades.append((first + number, at))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "MOST_ROWS", MOST)
        most = 4 * len(steps) + 4 + 4 * (length // 60_000 + 1)
        venue = Venue(trades=trades)
        replies, _ = asyncio.run(all_of(of(venue).agg_trades, "agg_trade", BEGIN + length, 60_000_000, most))
    loaded = {row["sequence"] for row in rows_of(replies)}
    assert {a for a, at in trades if BEGIN <= at < BEGIN + length} <= loaded


@pytest.mark.parametrize(
    ("interval", "at", "begin"),
    [
        ("1m", "2026-03-05T10:07:30", "2026-03-05T10:07:00"),
        ("3d", "1970-01-05T01:00:00", "1970-01-04T00:00:00"),
        ("1w", "2026-03-05T10:07:30", "2026-03-02T00:00:00"),
        ("1M", "2026-03-31T23:59:59", "2026-03-01T00:00:00"),
    ],
)
def test_when_bars_open(interval: str, at: str, begin: str) -> None:
    assert bar_open(interval, micros(at)) == micros(begin)


@pytest.mark.parametrize(
    ("interval", "start", "first"),
    [
        ("1h", "2026-03-05T10:00:00", "2026-03-05T10:00:00"),
        ("1h", "2026-03-05T10:00:01", "2026-03-05T11:00:00"),
        ("1w", "2026-03-05T00:00:00", "2026-03-09T00:00:00"),
        ("1M", "2026-01-31T00:00:00", "2026-02-01T00:00:00"),
        ("1M", "2026-02-02T00:00:00", "2026-03-01T00:00:00"),
        ("1M", "2026-03-01T00:00:00", "2026-03-01T00:00:00"),
    ],
)
def test_history_begins_with_the_first_whole_bar(interval: str, start: str, first: str) -> None:
    wanted = bars_wanted(NAME, interval, micros(start))
    assert wanted.start_us == micros(first)
    assert wanted.align(micros(start)) <= micros(start)
    assert (wanted.row_us is None) == (interval == "1M")
    assert trades_wanted(NAME, micros(start)).start_us == micros(start)


def micros(text: str) -> int:
    return int(datetime.fromisoformat(f"{text}+00:00").timestamp()) * 1_000_000


class Hurried(SystemClock):
    """A minute takes a second; ``ahead_s`` is how much later it is than for others."""

    def __init__(self, ahead_s: int = 0) -> None:
        self._began_wall, self._began_mono = super().wall_ns() + ahead_s * 10**9, super().mono_ns()

    def wall_ns(self) -> int:
        return self._began_wall + 60 * (super().mono_ns() - self._began_mono)

    def mono_ns(self) -> int:
        return 60 * super().mono_ns()

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / 60)


async def neighbour(sandbox: Sandbox, clock: Hurried) -> None:
    """Another program behind the same address: uses up every other minute of the venue as it begins."""
    async with aiohttp.ClientSession(trust_env=False) as session:
        while True:
            await clock.sleep(120.0 - clock.wall_ns() / 1e9 % 120.0)
            status = 200
            while status == 200:
                async with session.get(f"{sandbox.url}/api/v3/exchangeInfo") as reply:
                    status = reply.status


def refused(status: int) -> float:
    return telemetry.value("tidewire_sandbox_rest_requests_total", status=str(status))


async def test_a_budget_that_others_use_too_is_kept(tmp_path: Path) -> None:
    """Our minutes turn in the middle of the venue's: we think there is room where there is none."""
    clock, theirs, days, symbols = Hurried(), Hurried(30), 10, ["BTCUSDT", "ETHUSDT"]
    limits = LimitConfig(weight_per_minute=60)
    sandbox = Sandbox(SandboxConfig(symbols=tuple(symbols), rate=1.0, history_hours=24 * 12, limits=limits), theirs)
    await sandbox.start()
    banned = refused(418)
    async with place(tmp_path, clock) as here:
        kline = {"symbols": symbols, "intervals": ["1m"], "history": 0, "history_days": days}
        app = BinanceApp(config(sandbox.url, kline=kline), here.context)
        await app.initialize()
        await app.start()
        other = asyncio.create_task(neighbour(sandbox, theirs))
        try:
            await until(lambda: all(row["state"] == "done" for row in app.backfill()), "all history")
        finally:
            other.cancel()
            await asyncio.wait((other,))
            told = app.backfill()
            host = sandbox.url.partition("//")[2]
            await app.stop()
            await sandbox.stop()
        frames = list(here.journal.scan())
    assert telemetry.value("tidewire_collect_http_requests_total", host=host, outcome="rate_limited") > 0
    assert refused(418) == banned, "but nobody was banned"
    for row, symbol in zip(told, symbols, strict=True):
        asked = f"klines?symbol={symbol}&"
        bodies = [frame.payload for frame in frames if asked in frame.origin.request]
        came = [bar[0] * 1_000 for body in bodies for bar in msgspec.json.decode(body)[:-1]]
        start, end = (round(datetime.fromisoformat(row[name]).timestamp()) * 1_000_000 for name in ("start", "end"))
        assert sorted(came) == list(range(start, end, 60_000_000)), "every bar, once"
        assert row["rows"] == row["rows_total"] == len(came)


async def test_a_gap_that_history_fills_is_not_asked_for_twice(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        app = BinanceApp(config(), here.context)
        kline = KlineCollector("kline", app, KlineCollector.Config(["ETHBTC"], ["1m"], history=0))
        app.register(kline)
        now_us = here.context.clock.wall_ns() // 1_000
        kline._past.backfill.want([bars_wanted(NAME, "1m", now_us - 3_600_000_000)])
        kline._past.backfill.reach(now_us)
        gap = now_us // 60_000_000 * 60_000_000 - 600_000_000
        with pytest.raises(TransientError, match="is being loaded"):
            await app.fill(Missing("kline", NAME, "1m", ((gap, gap),), gap, gap))
        with pytest.raises(TerminalError, match="does not list"):
            await app.fill(Missing("kline", "OLD-BTC.BINANCE", "1m", ((gap, gap),), gap, gap))
