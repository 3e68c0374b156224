"""A small running platform for the examples, on free ports, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import msgspec
import pytest

from docs.kit import NO_PROXY, Running
from tidewire.collect import SourceConfig
from tidewire.records.market import Kline, Quote, Ticker, Trade
from tidewire.runtime.config import Config, Listen, Loaded, Log
from tidewire.runtime.platform import Tidewire
from tidewire.runtime.supervise import running
from tidewire.sandbox.config import SandboxConfig, harbour_names
from tidewire.sandbox.server import Sandbox

SYMBOLS = ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
START_S = 60.0


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NO_PROXY.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A platform that collects from a sandbox and has stored something of every kind."""
    directory = tmp_path_factory.mktemp("platform")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="platform")
    thread.start()
    try:
        stop = asyncio.Event()
        ready: Future[Running] = Future()
        life = asyncio.run_coroutine_threadsafe(_live(directory, ready, stop), loop)
        try:
            yield ready.result(START_S)
        finally:
            loop.call_soon_threadsafe(stop.set)
            life.result(START_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _live(directory: Path, ready: Future[Running], stop: asyncio.Event) -> None:
    try:
        config = SandboxConfig(rate=400.0, history_hours=2, harbour_symbols=harbour_names(3), china_stocks=60)
        sandbox = Sandbox(config)
        await sandbox.start()
        try:
            async with running(_loaded(sandbox.url, directory)) as tidewire:
                await _until_stored(tidewire)
                ready.set_result(Running(tidewire.url, sandbox.url, directory / "data", directory / "replayed"))
                await stop.wait()
        finally:
            await sandbox.stop()
    except BaseException as error:
        if not ready.done():
            ready.set_exception(error)
            return
        raise


def _loaded(url: str, directory: Path) -> Loaded:
    source = {
        "source": {"type": "market", "name": "binance"},
        "api": {"base_url": url},
        "collectors": {
            "trade": {"symbols": SYMBOLS},
            "quote": {"symbols": SYMBOLS},
            "kline": {"symbols": SYMBOLS, "intervals": ["1m", "5m"], "history": 50},
            "ticker": {"symbols": SYMBOLS},
        },
    }
    config = Config(data_dir="data", listen=Listen(port=0), log=Log(level="warning"))
    return Loaded(config, [msgspec.convert(source, SourceConfig)], directory, "docs")


async def _until_stored(tidewire: Tidewire) -> None:
    end = time.monotonic() + START_S
    wanted = [Trade.type.name, Quote.type.name, Ticker.type.name, Kline.type.name]
    while True:
        counts = await tidewire.store.counts()
        forming = tidewire.cache.get(Kline.type, {})
        stored = {name: sum(n for (kind, *_), n in counts.items() if kind == name) for name in wanted}
        if all(n > 3 for n in stored.values()) and not forming.is_empty():
            return
        assert time.monotonic() < end, f"nothing was stored: {counts}"
        await asyncio.sleep(0.05)
