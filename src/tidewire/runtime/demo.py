"""The demo: a local upstream with two markets, Binance and A-shares, and the real product collecting from it.

Everything lives on the upstream's clock: it begins half a minute before the next session of Shanghai opens.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from collections.abc import AsyncGenerator
from datetime import datetime, time
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
from rich.console import Console

from tidewire.collect import SourceConfig
from tidewire.errors import ConfigError, TransientError
from tidewire.records.calendar import calendar
from tidewire.records.clock import SystemClock, UpstreamClock, utc
from tidewire.runtime.config import Config, FailoverSection, Listen, Loaded, Log
from tidewire.runtime.supervise import found_running, supervise
from tidewire.runtime.view import Progress

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
QUOTES = ("sina.a_share_quotes", "tencent.a_share_quotes", "eastmoney.a_share_quotes")
"""Who is asked for quotes of A-shares: the first, and the others when it fails."""
CHINA = ("eastmoney.listing", "eastmoney.index_quotes", *QUOTES)
OPENS = time(9, 29, 30)
BROKEN = '{"china": {"sina": {"lots": true}}}'
MENDED = '{"china": {}}'
MARKER = ".tidewire-demo"
DATA = "data"
START_S = 30.0


def demo_config(url: str, directory: Path, port: int, stocks: int) -> Loaded:
    """The configuration a user would write, pointed at the local upstream."""
    sources = [_binance(url), *(_china(name, url) for name in CHINA if stocks)]
    failover = {"a_share_quotes": FailoverSection(order=QUOTES)} if stocks else {}
    config = Config(
        data_dir=DATA, listen=Listen(port=port), log=Log(level="warning"), clock="upstream", failover=failover
    )
    return Loaded(config, sources, directory, "demo")


def _binance(url: str) -> SourceConfig:
    return msgspec.convert(
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


def _china(name: str, url: str) -> SourceConfig:
    site = name.partition(".")[0]
    said = {"source": {"type": "declared", "name": name}, "api": {"base_url": f"{url}/{site}"}}
    return msgspec.convert(said, SourceConfig)


async def demo(
    console: Console, directory: Path, *, port: int, rate: float, stocks: int, seconds: float | None
) -> None:
    """Collect from the sandbox until stopped, showing progress and where to look."""
    _fresh(directory)
    begins = _before_the_open(utc(SystemClock().wall_ns()))
    options = ["--rate", str(rate), "--china", str(stocks), "--session", begins.isoformat()]
    async with sandbox_process(options) as url:
        clock = UpstreamClock()
        clock.tell(round(begins.timestamp()) * 1_000_000_000, 1.0)
        loaded = demo_config(url, directory, port, stocks)
        progress: list[Progress] = []
        hints = _hints(f"http://127.0.0.1:{port}", url, directory)
        await supervise(
            loaded,
            view=lambda _: progress[0].show(),
            seconds=seconds,
            ready=lambda platform: progress.append(Progress(platform, console, hints)),
            clock=clock,
        )
        console.print(progress[0].line(), highlight=False, soft_wrap=True)
    console.print(
        f"Stopped cleanly. The data is in {directory}; remove the folder when you are done.",
        highlight=False,
        soft_wrap=True,
    )


def _before_the_open(now: datetime) -> datetime:
    """A little before the next session opens: later than now, so that no stamp of the demo goes back."""
    market = calendar("XSHG")
    return datetime.combine(market.next(market.day(now)), OPENS, tzinfo=ZoneInfo(market.tz))


def _hints(url: str, upstream: str, directory: Path) -> list[str]:
    return [
        "",
        f"API        {url}/docs",
        f"history    curl '{url}/v1/trade?symbol=BTC-USDT&limit=3&order=desc'",
        f"bars       curl '{url}/v1/kline?symbol=ETH-USDT.BINANCE&interval=1m&limit=3&order=desc&format=csv'",
        f"latest     curl '{url}/v1/ticker/latest?symbol=BTC-USDT'",
        f"A-shares   curl '{url}/v1/ticker/latest?symbol=600519.SH'",
        f"break it   curl -X POST '{upstream}/sandbox/faults' -d '{BROKEN}'; then watch Tencent stand in for Sina",
        f"mend it    curl -X POST '{upstream}/sandbox/faults' -d '{MENDED}'",
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
