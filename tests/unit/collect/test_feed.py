"""A pool of one feed against a real socket: every break leaves a mark, a full journal stops the reading."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidewire.collect import Carried, FeedPool, WsConfig
from tidewire.collect.control import Resumed
from tidewire.journal import Frame, JournalConfig, Kind
from tidewire.sandbox.config import SandboxConfig
from tidewire.sandbox.server import Sandbox
from unit.collect.kit import Place, Requests, place, until

QUICK = WsConfig(backoff_s=0.001, backoff_s_max=0.01)
CARRIED = (Carried("quote", "BTC-USDT.BINANCE"), Carried("ticker", "BTC-USDT.BINANCE"))
STREAMS = ["btcusdt@trade", "btcusdt@bookTicker"]


@asynccontextmanager
async def feeding(
    directory: Path,
    *,
    carries: Any = CARRIED,
    config: WsConfig = QUICK,
    market: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Place, FeedPool, Sandbox]]:
    sandbox = Sandbox(SandboxConfig(history_hours=1, symbols=("BTCUSDT",), **{"rate": 500.0, **(market or {})}))
    await sandbox.start()
    async with place(directory, **options) as here:
        url = f"{sandbox.ws_url}/stream"
        feed = FeedPool("binance", url, here.context, Requests(), ws=config, carried=lambda _: carries)
        feed.want(STREAMS)
        feed.start()
        try:
            yield here, feed, sandbox
        finally:
            await feed.stop()
            await sandbox.stop()


def acts(here: Place) -> list[tuple[Frame, Resumed]]:
    found = [frame for frame in here.frames() if frame.kind is Kind.CONTROL]
    return [(frame, msgspec.json.decode(frame.payload, type=Resumed)) for frame in found]


def data(here: Place) -> list[Frame]:
    return [frame for frame in here.frames() if frame.kind is Kind.DATA]


async def test_every_message_goes_to_the_journal(tmp_path: Path) -> None:
    async with feeding(tmp_path) as (here, feed, sandbox):
        await until(lambda: len(data(here)) > 50)
        await feed.stop()
        await here.journal.drain()
        kept = [frame.payload for frame in data(here)]
        assert msgspec.json.decode(kept[0]) == {"result": None, "id": 1}
        streams = {msgspec.json.decode(payload)["stream"] for payload in kept[1:]}
        assert streams <= set(STREAMS)
        assert {(frame.origin.source, frame.origin.collector) for frame in data(here)} == {("binance", "stream")}
        assert {frame.origin.request for frame in data(here)} == {f"{sandbox.ws_url}/stream#1"}
        ids = [m["data"]["t"] for m in map(msgspec.json.decode, kept[1:]) if m["stream"] == STREAMS[0]]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        assert acts(here) == []  # nothing was lost: it had never been up
        assert not feed.connected
        assert feed.last_frame_ns is not None


async def test_after_a_break_there_is_a_mark(tmp_path: Path) -> None:
    async with feeding(tmp_path) as (here, feed, sandbox):
        await until(lambda: len(data(here)) > 20)
        last = feed.last_frame_ns
        assert sandbox.disconnect() == 1
        await until(lambda: bool(acts(here)))
        ((frame, act),) = acts(here)
        assert (act.cause, tuple(act.streams)) == ("disconnect", CARRIED)
        before = [one for one in data(here) if one.sequence < frame.sequence]
        # From the last message of the old connection on, and before anything of the new one.
        assert act.since_ns >= (last or 0)
        assert act.since_ns == before[-1].wall_ns
        assert frame.origin.request.endswith("#2")
        assert all(one.origin.request.endswith("#1") for one in before)
        await until(lambda: data(here)[-1].sequence > frame.sequence + 5)
        assert all(one.origin.request.endswith("#2") for one in data(here) if one.sequence > frame.sequence)


async def test_breaks_of_what_can_be_counted_leave_no_mark(tmp_path: Path) -> None:
    async with feeding(tmp_path, carries=()) as (here, feed, sandbox):
        await until(lambda: len(data(here)) > 20)
        sandbox.disconnect()
        await until(lambda: data(here)[-1].origin.request.endswith("#2"))
        assert acts(here) == []
        assert feed.connected


async def test_the_time_we_were_down_is_a_gap(tmp_path: Path) -> None:
    async with feeding(tmp_path, down_since_ns=1_700_000_000_000_000_000) as (here, _, sandbox):
        await until(lambda: len(data(here)) > 5)
        ((frame, act),) = acts(here)
        assert (act.cause, act.since_ns) == ("down", 1_700_000_000_000_000_000)
        assert frame.sequence == 1
        sandbox.disconnect()
        await until(lambda: len(acts(here)) == 2)
        assert acts(here)[1][1].cause == "disconnect"


async def test_silence_is_a_cause_of_its_own(tmp_path: Path) -> None:
    quiet = replace(QUICK, silence_s=0.3)
    async with feeding(tmp_path, config=quiet, market={"events": 30}) as (here, _, _):
        await until(lambda: bool(acts(here)))
        assert acts(here)[0][1].cause == "silence"


async def test_a_full_journal_stops_the_reading(tmp_path: Path) -> None:
    # Nothing is committed until somebody asks for it.
    full = JournalConfig(commit_ms=60_000, pending_bytes=2_000)
    async with feeding(tmp_path, journal_config=full) as (here, feed, _):
        await until(lambda: feed.feeds[0].client.paused)
        assert here.journal.full
        head = here.journal.head
        assert data(here) == []
        await here.journal.drain()
        await until(lambda: not feed.feeds[0].client.paused or here.journal.head > head)
        for _ in range(5):
            await until(lambda: feed.feeds[0].client.paused)
            await here.journal.drain()
            await until(lambda: not here.journal.full)
        assert here.journal.head > head
        await feed.stop()
        await here.journal.drain()
        ids = [msgspec.json.decode(frame.payload) for frame in data(here)]
        trades = [message["data"]["t"] for message in ids if message.get("stream") == STREAMS[0]]
        # The upstream waited: nothing is missing.
        assert trades == list(range(trades[0], trades[0] + len(trades)))


async def test_a_journal_that_fails_ends_the_reading(tmp_path: Path) -> None:
    async with feeding(tmp_path) as (here, feed, _):
        await until(lambda: len(data(here)) > 5)
        head = here.journal.head
        await here.journal.close()
        taken = here.journal.head
        await until(lambda: not feed.connected)
        assert here.journal.head == taken >= head


@pytest.mark.parametrize("port", [1])
async def test_never_connected_is_no_gap(tmp_path: Path, port: int) -> None:
    async with place(tmp_path) as here:
        url = f"ws://127.0.0.1:{port}"
        feed = FeedPool("x", url, here.context, Requests(), ws=QUICK, carried=lambda _: CARRIED)
        feed.want(STREAMS)
        feed.start()
        await until(lambda: "connect failed" in feed.last_error)
        await feed.stop()
        assert here.journal.head == 0
        assert feed._lanes[0].lost is None
