"""What was missed is asked for again: every gap the upstream has the rows of is filled, and the books still add up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import polars as pl
import pytest

from integration.conftest import FAULTS, SYMBOLS
from integration.kit import (
    Eager,
    all_gaps,
    api,
    balanced,
    binance,
    every_trade_is_accounted_for,
    idle,
    loaded,
    replayed,
    running,
    same_rows,
    tables,
    until,
)
from tidewire.collect import silence
from tidewire.journal import JournalReader, Kind
from tidewire.records.market import INTERVALS, Kline
from tidewire.runtime.config import GapsSection, Loaded
from tidewire.runtime.platform import Tidewire
from tidewire.sandbox.config import FailRest, Faults, SandboxConfig
from tidewire.sandbox.server import Sandbox
from tidewire.sources.binance import collectors

EVENTS, RATE = 12_000, 3_000.0
HASTE = GapsSection(settle="50ms")
KLINE = {"symbols": list(SYMBOLS), "intervals": ["1s", "1m"], "history": 5}


@dataclass
class Filled:
    """What came of a market with faults whose holes were filled."""

    configuration: Loaded
    ledger: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    audit: dict[str, Any] = field(default_factory=dict[str, Any])
    tables: dict[str, pl.DataFrame] = field(default_factory=dict[str, pl.DataFrame])
    sources: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


async def open_gaps(platform: Tidewire) -> int:
    rows = [row for row in await gap_rows(platform) if row["state"] in ("open", "filling")]
    return len(rows)


async def gap_rows(platform: Tidewire) -> list[dict[str, Any]]:
    async with api(platform) as client:
        found: list[dict[str, Any]] = (await client.get("/v1/gaps", limit=10_000))["data"]
    return found


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """Drops, repeats, reorderings, disconnects and two restarts, and a REST side that refuses now and then."""
    return asyncio.run(_filled(tmp_path_factory.mktemp("filled")))


async def _filled(directory: Path) -> Filled:
    faults = msgspec.structs.replace(FAULTS, drop=0.01, fail_rest=FailRest(status=503, times=3))
    config = SandboxConfig(
        symbols=tuple(SYMBOLS), rate=RATE, events=EVENTS, start_on=frozenset({"@trade"}), history_hours=1, faults=faults
    )
    sandbox = Sandbox(config)
    await sandbox.start()
    try:
        configuration = loaded(directory, [binance(sandbox.url, list(SYMBOLS), kline=KLINE)], gaps=HASTE)
        run = Filled(configuration)
        for part in (1, 2):
            async with running(configuration, Eager()):
                await until(lambda part=part: sandbox.status()["events"] >= part * EVENTS // 3, "a third of the market")
        async with running(configuration, Eager()) as platform, api(platform) as client:
            await until(lambda: sandbox.status()["events"] >= EVENTS * 9 // 10, "most of the market")
            sandbox.faults = Faults()
            await sandbox.finished()
            await idle(platform)
            await until(lambda: _none_open(platform), "no gap is open any more", 60, 0.2)
            await idle(platform)
            run.audit = (await client.get("/v1/audit", frames="true"))["data"]
            run.sources = (await client.get("/v1/sources"))["data"]
        run.ledger = sandbox.ledger()
        run.tables = tables(configuration.data_dir)
        return run
    finally:
        await sandbox.stop()


async def _none_open(platform: Tidewire) -> bool:
    return await open_gaps(platform) == 0


def test_no_trade_is_missing(filled: Filled) -> None:
    assert every_trade_is_accounted_for(filled.tables, filled.ledger, SYMBOLS) == 0
    dropped = sum(entry["dropped"] for name, entry in filled.ledger.items() if name.endswith("@trade"))
    assert dropped >= 10, "there was something to fill"
    for rows in filled.tables["trade_v1"].partition_by("instrument"):
        assert rows["sequence"].sort().diff().drop_nulls().eq(1).all(), "the sequence is contiguous"


def test_no_bar_is_missing(filled: Filled) -> None:
    bars = filled.tables["kline_v1"]
    for (instrument, interval), rows in bars.partition_by("instrument", "interval", as_dict=True).items():
        steps = rows["open_time"].sort().diff().drop_nulls().dt.total_seconds()
        assert steps.eq(INTERVALS[interval]).all(), f"{instrument} {interval}"
    assert filled.tables["kline_v1_revisions"].is_empty()


def test_each_gap_went_through_its_states_in_order(filled: Filled) -> None:
    gaps = all_gaps(filled.tables).filter(pl.col("record_type").is_in(["trade", "kline"])).sort("frame", "ordinal")
    lives = gaps.group_by("record_type", "instrument", "gap_id", maintain_order=True).agg("state", "missing")
    assert lives.height >= 20
    asked = 0
    for states in lives["state"].to_list():
        assert states[0] == "open"
        assert states[-1] == "filled"
        assert set(states[1:-1]) <= {"filling"}
        asked += "filling" in states
    assert asked >= 10, "some were asked for; others closed by messages that came late"
    assert lives["missing"].list.last().eq(0).all()
    quotes = all_gaps(filled.tables).filter(record_type="quote")
    assert set(quotes["state"]) == {"unfillable"}, "nobody has the best prices of a moment that is over"


def test_what_was_asked_for_is_in_the_journal_like_everything_else(filled: Filled) -> None:
    frames = list(JournalReader(filled.configuration.data_dir / "journal").scan())
    asked = [frame for frame in frames if "historicalTrades" in frame.origin.request]
    told = [frame for frame in frames if frame.kind is Kind.CONTROL and frame.origin.collector == "gaps"]
    assert asked
    assert told
    rows = filled.tables["trade_v1"]
    assert rows.filter(pl.col("frame").is_in([frame.sequence for frame in asked])).height > 0


def test_the_books_add_up_and_the_clock_of_the_source_is_not_the_past_s(filled: Filled) -> None:
    balanced(filled.audit)
    assert filled.tables["quarantined_v1"].is_empty()
    (source,) = filled.sources
    assert abs(source["clock_skew_seconds"]["trade"]) < 5


async def test_a_replay_gives_the_same(filled: Filled, tmp_path: Path) -> None:
    again = await replayed(filled.configuration.data_dir, tmp_path / "again", filled.configuration)
    same_rows(filled.tables, again, "filled and replayed")


async def test_gaps_of_an_earlier_run_are_filled_by_the_next(tmp_path: Path) -> None:
    sandbox = Sandbox(SandboxConfig(symbols=("BTCUSDT",), rate=2_000.0, history_hours=1))
    await sandbox.start()
    sandbox.faults = Faults(drop=0.05, only=("@trade",))
    try:
        sources = [binance(sandbox.url, ["BTCUSDT"])]
        off = loaded(tmp_path, sources, gaps=GapsSection(fill=False))
        async with running(off, Eager()) as platform:
            await until(lambda: platform.journal.head > 800, "frames")
            await until(lambda: _some_open(platform), "gaps")
        sandbox.faults = Faults()
        async with running(loaded(tmp_path, sources, gaps=HASTE), Eager()) as platform:
            await until(lambda: platform.journal.head > 1_200, "frames")
            await until(lambda: _none_open(platform), "no gap is open any more", poll_s=0.2)
            states = {row["state"] for row in await gap_rows(platform) if row["record_type"] == "trade"}
            await platform.apps[0].stop()
            await idle(platform)
    finally:
        await sandbox.stop()
    assert states == {"filled"}
    assert (
        every_trade_is_accounted_for(tables(tmp_path / "data"), sandbox.ledger(), {"BTCUSDT": "BTC-USDT.BINANCE"}) == 0
    )


async def _some_open(platform: Tidewire) -> bool:
    return await open_gaps(platform) > 5


async def test_what_was_given_up_is_filled_on_request(tmp_path: Path) -> None:
    """The venue says no for a while; an operator who knows better asks again."""
    sandbox = Sandbox(SandboxConfig(symbols=("BTCUSDT",), rate=1_000.0, history_hours=1))
    await sandbox.start()
    try:
        async with running(loaded(tmp_path, [binance(sandbox.url, ["BTCUSDT"])], gaps=HASTE), Eager()) as platform:
            await until(lambda: platform.journal.head > 200, "frames")
            sandbox.faults = Faults(drop=0.05, only=("@trade",), fail_rest=FailRest(status=400, times=1_000_000))
            await until(lambda: _given_up(platform), "gaps that were given up", poll_s=0.2)
            sandbox.faults = Faults()
            await until(lambda: _none_open(platform), "no gap is open", poll_s=0.2)
            assert await _given_up(platform)
            url = f"{platform.url}/v1/gaps/fill"
            async with (
                aiohttp.ClientSession(trust_env=False) as session,
                session.post(url, json={"source": "binance"}) as reply,
            ):
                assert reply.status == 202
            await until(lambda: _all_filled(platform), "every gap is filled", poll_s=0.2)
            await platform.apps[0].stop()
            await idle(platform)
    finally:
        await sandbox.stop()


async def _given_up(platform: Tidewire) -> bool:
    rows = await gap_rows(platform)
    return any(row["state"] == "unfillable" and row["record_type"] == "trade" for row in rows)


async def _all_filled(platform: Tidewire) -> bool:
    return {row["state"] for row in await gap_rows(platform) if row["record_type"] == "trade"} == {"filled"}


@pytest.fixture
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams are looked at all the time, and may be silent for half a second."""
    monkeypatch.setattr(silence, "LOOK_S", 0.1)
    monkeypatch.setattr(silence, "SETTLE_S", 0.1)
    monkeypatch.setattr(collectors, "SILENCE_S_MIN", 0.1)
    monkeypatch.setattr(collectors, "BAR_SILENCE_S", 1.5)


@pytest.mark.usefixtures("attentive")
async def test_one_stream_that_stops_among_others_is_noticed(tmp_path: Path) -> None:
    """The venue takes the subscription and sends nothing of it, for ever and without an error."""
    sandbox = Sandbox(SandboxConfig(symbols=("BTCUSDT", "ETHUSDT"), rate=1_000.0, history_hours=1))
    await sandbox.start()
    names = ["BTCUSDT", "ETHUSDT"]
    sections = {kind: {"symbols": names, "silence": "0.5s"} for kind in ("trade", "quote")}
    kline = {"symbols": names, "intervals": ["1s"], "history": 0}
    try:
        configuration = loaded(tmp_path, [binance(sandbox.url, names, (), kline=kline, **sections)], gaps=HASTE)
        async with running(configuration, Eager()) as platform, api(platform) as client:
            await until(lambda: platform.cache.get(Kline.type).height == len(names), "a bar of each")
            sandbox.faults = Faults(drop=1.0, only=("btcusdt@bookTicker", "ethusdt@trade", "btcusdt@kline_1s"))
            await until(lambda: len(platform.apps[0].silent) == 3, "three silent streams")
            (source,) = (await client.get("/v1/sources"))["data"]
            sandbox.faults = Faults()
            await until(lambda: platform.apps[0].silent == (), "all are back")
            await until(lambda: _none_open(platform), "no gap is open any more", poll_s=0.2)
            await platform.apps[0].stop()
            await idle(platform)
            balanced((await client.get("/v1/audit", frames="true"))["data"])
    finally:
        await sandbox.stop()
    assert source["health"] == "degraded"
    assert "quote BTC-USDT.BINANCE: silent, although the source has more" in source["problems"]
    found = tables(configuration.data_dir)
    gaps = all_gaps(found)
    silent = gaps.filter(cause="silence", record_type="quote").filter(pl.col("detail").is_not_null())
    assert set(silent["instrument"]) == {"BTC-USDT.BINANCE"}, "the other stream's quotes came all the time"
    assert every_trade_is_accounted_for(found, sandbox.ledger(), {name: SYMBOLS[name] for name in names}) == 0
    by_calendar = gaps.filter(cause="grid", instrument="BTC-USDT.BINANCE").filter(pl.col("detail").is_not_null())
    assert by_calendar.filter(state="open").height >= 1
    for rows in found["kline_v1"].partition_by("instrument"):
        assert rows["open_time"].sort().diff().drop_nulls().dt.total_seconds().eq(1).all(), "every bar came in the end"
