"""A source that misbehaves: every row is stored once or in a recorded gap, and the gap says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from integration.conftest import FAULTS, SYMBOLS, Faulty
from integration.kit import (
    Eager,
    all_gaps,
    api,
    balanced,
    binance,
    every_trade_is_accounted_for,
    feed_connects,
    idle,
    loaded,
    running,
    tables,
    until,
)
from tidewire.collect import feed
from tidewire.collect.ws_config import WsConfig
from tidewire.sandbox.config import FailRest, Faults, SandboxConfig
from tidewire.sandbox.server import Sandbox


def test_every_trade_is_stored_or_in_a_gap(faulty: Faulty) -> None:
    inside = every_trade_is_accounted_for(faulty.tables, faulty.ledger, SYMBOLS)
    dropped = sum(entry["dropped"] for name, entry in faulty.ledger.items() if name.endswith("@trade"))
    assert dropped >= 10
    assert inside >= dropped, "nothing was asked for again"


def test_holes_of_trades_say_they_were_seen_in_the_sequence(faulty: Faulty) -> None:
    gaps = all_gaps(faulty.tables).filter(pl.col("first_sequence").is_not_null())
    assert set(gaps["cause"]) == {"sequence"}
    assert set(gaps["record_type"]) == {"trade"}
    late = gaps.filter(state="filled")
    assert late.height >= 10, "messages that came late close the holes they left"


def test_breaks_of_a_connection_are_gaps_of_its_quotes(faulty: Faulty) -> None:
    gaps = all_gaps(faulty.tables).filter(record_type="quote")
    assert set(gaps["instrument"]) == set(SYMBOLS.values())
    by_cause = {cause: gaps.filter(cause=cause).height // len(SYMBOLS) for cause in set(gaps["cause"])}
    assert by_cause == {"down": 2, "disconnect": faulty.connects - 3}
    assert (gaps["until_time"] >= gaps["event_time"]).all()


def test_repeats_are_stored_once(faulty: Faulty) -> None:
    for kind, key in (("trade", ["instrument", "trade_id"]), ("quote", ["instrument", "sequence"])):
        rows = faulty.tables[f"{kind}_v1"]
        assert rows.select(key).is_duplicated().sum() == 0
        assert faulty.tables[f"{kind}_v1_revisions"].is_empty()
    stream = {"trade": "@trade", "quote": "@bookTicker"}
    for kind, ending in stream.items():
        sent_again = sum(entry["duplicated"] for name, entry in faulty.ledger.items() if name.endswith(ending))
        counted = faulty.books[kind, "binance", "duplicate"]
        # A repetition is one frame; those on the wire when it was cut did not arrive.
        assert 0.5 * sent_again <= counted <= sent_again
        assert counted >= 20


def test_the_books_add_up(faulty: Faulty) -> None:
    balanced(faulty.audit)
    assert faulty.tables["quarantined_v1"].is_empty()
    assert faulty.connects >= 5
    assert FAULTS.disconnect_every


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    """A feed that takes a short silence for a broken connection."""
    silence_s = 0.3
    real = feed.WsClient

    def client(url: str, on_frame: Any, on_state: Any, clock: Any, rng: Any, config: WsConfig) -> Any:
        return real(url, on_frame, on_state, clock, rng, replace(config, silence_s=silence_s))

    monkeypatch.setattr(feed, "WsClient", client)
    return silence_s


async def test_silence_ends_the_connection_and_leaves_a_gap(tmp_path: Path, impatient: float) -> None:
    sandbox = Sandbox(SandboxConfig(symbols=("BTCUSDT",), rate=500.0, history_hours=1))
    await sandbox.start()
    try:
        configuration = loaded(tmp_path, [binance(sandbox.url, ["BTCUSDT"])])
        async with running(configuration, Eager()) as platform, api(platform) as client:
            await until(lambda: platform.journal.head > 100, "frames")
            sandbox.faults = Faults(silence_s=-1)
            before = feed_connects(platform)
            await until(lambda: feed_connects(platform) >= before + 2, "two more connections")
            sandbox.faults = Faults()
            head = platform.journal.head
            await until(lambda: platform.journal.head > head + 100, "frames after the silence")
            await platform.apps[0].stop()
            await idle(platform)
            balanced((await client.get("/v1/audit"))["data"])
            shown = (await client.get("/v1/gaps", type="quote"))["data"]
    finally:
        await sandbox.stop()
    assert shown, "the gap is served"
    gaps = all_gaps(tables(configuration.data_dir))
    quotes = gaps.filter(record_type="quote", cause="silence")
    assert quotes.height >= 1
    assert set(gaps.filter(record_type="quote")["cause"]) == {"silence"}
    assert set(quotes["state"]) == {"unfillable"}
    lengths = (quotes["until_time"] - quotes["event_time"]).dt.total_microseconds()
    assert lengths.max() >= impatient * 1e6
    trades = gaps.filter(record_type="trade", cause="sequence", state="open")
    assert trades.height == 1, "the market went on, so its trades have a hole"


@pytest.mark.parametrize("skew_s", [3_600.0, -3_600.0])
async def test_a_clock_that_is_an_hour_off_quarantines_nothing(tmp_path: Path, skew_s: float) -> None:
    config = SandboxConfig(symbols=tuple(SYMBOLS), rate=3_000.0, events=6_000, start_on=frozenset({"@trade"}))
    sandbox = Sandbox(config)
    sandbox.faults = Faults(skew_s=skew_s)
    await sandbox.start()
    try:
        configuration = loaded(tmp_path, [binance(sandbox.url, list(SYMBOLS))])
        async with running(configuration, Eager()) as platform, api(platform) as client:
            await sandbox.finished()
            sent = sum(entry["sent"] for entry in sandbox.ledger().values())
            # One more frame is the instrument list, one the reply to the subscription.
            await until(lambda: platform.journal.head == sent + 2, "every message")
            await idle(platform)
            audit = (await client.get("/v1/audit"))["data"]
            (source,) = (await client.get("/v1/sources"))["data"]
    finally:
        await sandbox.stop()
    balanced(audit)
    assert audit["totals"].get("quarantined", 0) == 0
    assert source["clock_skew_seconds"]["trade"] == pytest.approx(-skew_s, abs=0.5)
    found = tables(configuration.data_dir)
    assert found["trade_v1"].height + found["quote_v1"].height == sent
    assert found["gap_v1"].is_empty()


async def test_a_rest_side_that_fails_and_crawls_is_tried_again(tmp_path: Path) -> None:
    sandbox = Sandbox(SandboxConfig(symbols=("BTCUSDT",), rate=500.0, history_hours=1))
    await sandbox.start()
    sandbox.faults = Faults(fail_rest=FailRest(status=503, times=2), slow_body=20_000)
    try:
        configuration = loaded(tmp_path, [binance(sandbox.url, ["BTCUSDT"])])
        async with running(configuration, Eager()) as platform:
            await until(lambda: platform.journal.head > 100, "frames")
            await platform.apps[0].stop()
            await idle(platform)
    finally:
        await sandbox.stop()
    assert tables(configuration.data_dir)["trade_v1"].height > 0
