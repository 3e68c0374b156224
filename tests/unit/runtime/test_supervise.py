"""Signals: the first drains, the second ends at once; nothing accepted is lost either way."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tidewire.journal import JournalReader
from tidewire.runtime.supervise import GARBAGE_OBJECTS, RUN_FILE, Running, found_running, seldom_collecting
from tidewire.sandbox.config import SandboxConfig
from tidewire.sandbox.server import Sandbox
from unit.collect.kit import until
from unit.runtime.commands import ended, line, started, tidewire

CONFIG = """
data_dir: data
listen: {{port: 0}}
pipe: {{store_ms: {store_ms}, store_rows: 1000000}}
sources:
  - source: {{type: market, name: binance}}
    api: {{base_url: "{url}"}}
    collectors: {{trade: {{symbols: [BTCUSDT]}}, quote: {{symbols: [BTCUSDT]}}}}
"""


@asynccontextmanager
async def up(folder: Path, store_ms: int) -> AsyncIterator[tuple[asyncio.subprocess.Process, Sandbox]]:
    """A platform collecting from a sandbox, with some frames accepted already."""
    sandbox = Sandbox(SandboxConfig(symbols=("BTCUSDT",), history_hours=1, rate=300.0))
    await sandbox.start()
    (folder / "tidewire.yaml").write_text(CONFIG.format(url=sandbox.url, store_ms=store_ms))
    try:
        async with started("up", "--quiet", cwd=folder) as process:
            await line(process, "serving http")
            await until(lambda: sum(sandbox.status()["sent"].values()) > 200, "messages")
            yield process, sandbox
    finally:
        await sandbox.stop()


def accepted(folder: Path) -> int:
    return JournalReader(folder / "data" / "journal").accepted


async def books(folder: Path) -> dict[str, int]:
    done = await asyncio.to_thread(tidewire, "audit", "--json", cwd=folder)
    found = done.json()
    assert (done.code, found["difference"]) == (0, 0)
    return {"in_flight": found["in_flight_frames"], "stored": found["totals"].get("stored", 0)}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_drains(tmp_path: Path, number: signal.Signals) -> None:
    async with up(tmp_path, store_ms=1_000) as (process, _):
        running = found_running(tmp_path / "data")
        assert running is not None
        assert running.pid == process.pid
        process.send_signal(number)
        assert await ended(process) == 0
    assert found_running(tmp_path / "data") is None
    assert not (tmp_path / "data" / RUN_FILE).exists()
    found = await books(tmp_path)
    assert found["in_flight"] == 0
    assert found["stored"] > 100


async def test_while_it_runs_others_ask_it(tmp_path: Path) -> None:
    async with up(tmp_path, store_ms=20) as (process, _):
        done = await asyncio.to_thread(tidewire, "query", "trade", "--limit", "2", cwd=tmp_path)
        assert done.code == 0
        assert f"asked the running platform (pid {process.pid})" in done.err
        done = await asyncio.to_thread(tidewire, "audit", "--json", cwd=tmp_path)
        assert (done.code, done.json()["difference"]) == (0, 0)
        done = await asyncio.to_thread(tidewire, "sources", "--json", cwd=tmp_path)
        assert [source["name"] for source in done.json()["running"]] == ["binance"]
        # A second platform on the same data is refused.
        done = await asyncio.to_thread(tidewire, "up", "--quiet", cwd=tmp_path)
        assert done.code == 1
        assert "Traceback" not in done.err
        process.terminate()
        assert await ended(process) == 0


async def test_hangup_has_the_plugin_directory_looked_at(tmp_path: Path) -> None:
    async with up(tmp_path, store_ms=20) as (process, _):
        plugins = tmp_path / "plugins"
        plugins.mkdir()
        (plugins / "a.yaml").write_text("nonsense")
        process.send_signal(signal.SIGHUP)

        done = await asyncio.to_thread(tidewire, "reload", cwd=tmp_path)
        assert done.code == 0
        assert done.out.startswith("sources: binance\n")
        assert "a.yaml: expected keys and values, found text" in done.out
        (plugins / "a.yaml").unlink()
        done = await asyncio.to_thread(tidewire, "reload", "--json", cwd=tmp_path)
        assert done.json() == {"sources": ["binance"], "problems": []}
        process.terminate()
        assert await ended(process) == 0


async def test_the_second_signal_ends_at_once_and_loses_nothing(tmp_path: Path) -> None:
    # A commit is a minute away: without the second signal it would drain for long.
    async with up(tmp_path, store_ms=60_000) as (process, _):
        process.terminate()
        # It drains once it has let go of the file that names it.
        await until(lambda: not (tmp_path / "data" / RUN_FILE).exists(), "draining")
        process.terminate()
        assert await ended(process) == 130
    was = accepted(tmp_path)
    assert was > 100
    before = await books(tmp_path)
    assert before["in_flight"] == was
    async with up(tmp_path, store_ms=50) as (process, _):
        process.terminate()
        assert await ended(process) == 0
    assert accepted(tmp_path) > was
    after = await books(tmp_path)
    assert after["in_flight"] == 0
    assert after["stored"] > before["stored"] + was // 2


def test_what_is_left_of_a_platform_that_was_killed(tmp_path: Path) -> None:
    assert found_running(tmp_path) is None
    (tmp_path / RUN_FILE).write_text("not json")
    assert found_running(tmp_path) is None
    (tmp_path / RUN_FILE).write_text('{"pid": 2147483646, "url": "http://127.0.0.1:1"}')
    assert found_running(tmp_path) is None
    (tmp_path / RUN_FILE).write_text(f'{{"pid": {os.getpid()}, "url": "http://127.0.0.1:1"}}')
    assert found_running(tmp_path) == Running(os.getpid(), "http://127.0.0.1:1")


def test_what_runs_is_seldom_searched_for_cycles_and_the_end_is_as_the_beginning():
    before = gc.get_threshold(), gc.get_freeze_count()
    with seldom_collecting():
        assert gc.get_threshold()[0] == GARBAGE_OBJECTS
        assert gc.get_freeze_count() > before[1]
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before[0], 0)
