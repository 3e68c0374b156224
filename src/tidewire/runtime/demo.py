"""The demo: a local upstream speaking Binance's protocol, and the real product collecting from it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
from rich.console import Console

from tidewire.collect import SourceConfig
from tidewire.errors import ConfigError, TransientError
from tidewire.runtime.config import Config, Listen, Loaded, Log
from tidewire.runtime.supervise import found_running, supervise
from tidewire.runtime.view import Progress

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
MARKER = ".tidewire-demo"
DATA = "data"
START_S = 30.0


def demo_config(url: str, directory: Path, port: int) -> Loaded:
    """The configuration a user would write, pointed at the local upstream."""
    source = msgspec.convert(
        {
            "source": {"type": "market", "name": "binance", "display_name": "币安 (sandbox)"},
            "api": {"base_url": url, "rate_limit": {"requests_per_second": 20, "burst": 50}},
            "collectors": {
                "trade": {"symbols": SYMBOLS},
                "quote": {"symbols": SYMBOLS},
                "kline": {"symbols": SYMBOLS, "intervals": ["1m", "5m", "1h"]},
                "ticker": {"update_interval": "5s"},
                "order_book": {"symbols": SYMBOLS},
            },
        },
        SourceConfig,
    )
    config = Config(data_dir=DATA, listen=Listen(port=port), log=Log(level="warning"))
    return Loaded(config, [source], directory, "demo")


async def demo(console: Console, directory: Path, *, port: int, rate: float, seconds: float | None) -> None:
    """Collect from the sandbox until stopped, showing progress and where to look."""
    _fresh(directory)
    async with sandbox_process(["--rate", str(rate)]) as url:
        loaded = demo_config(url, directory, port)
        progress: list[Progress] = []
        hints = _hints(f"http://127.0.0.1:{port}", directory)
        await supervise(
            loaded,
            view=lambda _: progress[0].show(),
            seconds=seconds,
            ready=lambda platform: progress.append(Progress(platform, console, hints)),
        )
        console.print(progress[0].line(), highlight=False, soft_wrap=True)
    console.print(
        f"Stopped cleanly. The data is in {directory}; remove the folder when you are done.",
        highlight=False,
        soft_wrap=True,
    )


def _hints(url: str, directory: Path) -> list[str]:
    return [
        "",
        f"API        {url}/docs",
        f"history    curl '{url}/v1/trade?symbol=BTC-USDT&limit=3&order=desc'",
        f"bars       curl '{url}/v1/kline?symbol=ETH-USDT.BINANCE&interval=1m&limit=3&order=desc&format=csv'",
        f"latest     curl '{url}/v1/ticker/latest?symbol=BTC-USDT'",
        f"books      .venv/bin/tidewire audit --data {directory / 'data'}",
        f"query      .venv/bin/tidewire query quote --symbol BTC-USDT --limit 3 --data {directory / 'data'}",
        "stop       Ctrl-C",
    ]


def _fresh(directory: Path) -> None:
    """Begin anew: the synthetic market does, too. Only a folder the demo made is ever removed."""
    if directory.exists() and any(directory.iterdir()):
        if not (directory / MARKER).exists():
            raise ConfigError(f"{directory} holds something the demo did not make; choose another with --dir.")
        if (other := found_running(directory / DATA)) is not None:
            raise ConfigError(
                f"Another demo (pid {other.pid}) uses {directory}; stop it, or choose another with --dir."
            )
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MARKER).touch()


@contextlib.asynccontextmanager
async def sandbox_process(options: list[str]) -> AsyncGenerator[str]:
    """A sandbox in a process of its own; it ends when this one does, however that happens. Yields its URL."""
    command = [sys.executable, "-m", "tidewire", "sandbox", "--json", "--until-eof", *options]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        async with asyncio.timeout(START_S):
            line = await process.stdout.readline()
        if not line:
            raise TransientError("the sandbox did not start; run `tidewire sandbox` to see why")
        yield msgspec.json.decode(line)["url"]
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
