"""Sources come, change and go while the product runs; the others do not notice."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from docs.kit import ROOT, blocks
from integration.kit import (
    DEADLINE_S,
    Api,
    Eager,
    all_gaps,
    api,
    audited,
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
from tidewire import telemetry
from tidewire.runtime.config import GapsSection
from tidewire.sandbox.config import SandboxConfig
from tidewire.sandbox.server import Sandbox
from unit.runtime.commands import line, started, tidewire

MAIN = """
listen: {{port: 0}}
pipe: {{store_ms: 20}}
sources:
  - source: {{type: market, name: binance}}
    api: {{base_url: "{url}"}}
    collectors: {{trade: {{symbols: [BTCUSDT]}}, quote: {{symbols: [BTCUSDT]}}}}
"""
SOURCE = """
source: {{type: market, name: prices}}
api: {{base_url: "{url}"}}
collectors:
  price: {{symbols: [{symbol}], update_interval: 200ms}}
"""
(CODE,) = [block.text for block in blocks("python", page=ROOT / "docs" / "add-a-source.md") if block.name]


@dataclass
class Hot:
    """A running platform, its plugin directory, and what it says."""

    folder: Path
    url: str
    api: Api

    def write(self, name: str, text: str) -> None:
        (self.folder / "plugins" / name).write_text(text)

    def symbol(self, symbol: str) -> None:
        self.write("prices.yaml", SOURCE.format(url=self.url, symbol=symbol))

    def remove(self, name: str) -> None:
        (self.folder / "plugins" / name).unlink()

    async def source(self, name: str) -> dict[str, Any] | None:
        found = (await self.api.get("/v1/sources"))["data"]
        return next((each for each in found if each["name"] == name), None)

    async def failed(self, name: str) -> str:
        found = await self.source(name)
        return "" if found is None else found["problems"][0]

    async def rows(self, symbol: str) -> int:
        status, _, body = await self.api.raw("/v1/ticker", symbol=f"{symbol}.PRICES", limit=1_000)
        return len(msgspec.json.decode(body)["data"]) if status == 200 else 0

    async def more_rows(self, symbol: str, why: str) -> None:
        before = await self.rows(symbol)

        async def come() -> bool:
            return await self.rows(symbol) > before + 1

        await until(come, why, poll_s=0.1)

    async def until_failed(self, name: str, part: str) -> None:
        async def told() -> bool:
            return part in await self.failed(name)

        await until(told, f"{name}: {part}", poll_s=0.1)

    async def until_source(self, name: str, there: bool) -> None:
        async def as_wanted() -> bool:
            return (await self.source(name) is not None) == there

        await until(as_wanted, f"{name}: {there}", poll_s=0.1)

    async def undisturbed(self) -> None:
        """The source of the platform file has one connection, and misses nothing."""
        binance = await self.source("binance")
        assert binance is not None
        assert (binance["health"], binance["feed"]["connections"], binance["feed"]["connected"]) == ("ok", 1, True)
        assert (await self.api.get("/v1/gap"))["data"] == []
        assert (await self.api.get("/v1/audit"))["data"]["difference"] == 0


@asynccontextmanager
async def hot(folder: Path) -> AsyncGenerator[Hot]:
    sandbox = Sandbox(SandboxConfig(symbols=("BTCUSDT", "ETHUSDT"), history_hours=1, rate=100.0))
    await sandbox.start()
    (folder / "plugins").mkdir(exist_ok=True)
    (folder / "tidewire.yaml").write_text(MAIN.format(url=sandbox.url))
    try:
        timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        async with (
            started("up", "--quiet", cwd=folder) as process,
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
        ):
            url = (await line(process, "serving http")).split()[-1]
            here = Hot(folder, sandbox.url, Api(session, url))

            async def collects() -> bool:
                found = await here.source("binance")
                return found is not None and found["health"] == "ok"

            await until(collects, "binance is collected", poll_s=0.1)
            yield here
            process.terminate()
            assert await process.wait() == 0
    finally:
        await sandbox.stop()


async def test_a_source_comes_changes_goes_and_comes_back(tmp_path: Path) -> None:
    async with hot(tmp_path) as here:
        # A source file without its code is told; with it, rows come.
        here.symbol("BTCUSDT")
        await here.until_failed("prices.yaml", "no source 'prices'")
        here.write("prices.py", CODE)
        await here.more_rows("BTCUSDT", "rows of the new source")
        assert await here.source("prices.yaml") is None
        await here.undisturbed()

        # What cannot be read changes nothing but what is told.
        here.write("prices.yaml", "source: {type: market, name: prices}\ncolectors: {}\n")
        await here.until_failed("prices.yaml", "prices.yaml.colectors: no such key. Did you mean 'collectors'")
        listed = tidewire("sources", cwd=tmp_path)
        assert "colectors: no such key" in listed.out
        assert tidewire("check", cwd=tmp_path).code == 2
        await here.more_rows("BTCUSDT", "the version before goes on")

        here.symbol("ETHUSDT")
        await here.more_rows("ETHUSDT", "rows of the other symbol")
        assert await here.source("prices.yaml") is None
        await here.undisturbed()

        here.remove("prices.yaml")
        await here.until_source("prices", there=False)
        ended = await here.rows("ETHUSDT")
        here.symbol("ETHUSDT")
        await here.more_rows("ETHUSDT", "it goes on")
        assert await here.rows("ETHUSDT") > ended
        await here.undisturbed()
    books = tidewire("audit", "--json", cwd=tmp_path)
    assert (books.code, books.json()["difference"], books.json()["in_flight_frames"]) == (0, 0, 0)


async def test_code_changes_and_goes(tmp_path: Path) -> None:
    async with hot(tmp_path) as here:
        here.write("prices.py", CODE)
        here.symbol("BTCUSDT")
        await here.more_rows("BTCUSDT", "rows of the new source")
        here.write("prices.py", CODE + "\ndef (\n")
        await here.until_failed("prices.py", "SyntaxError")
        await here.more_rows("BTCUSDT", "the version before goes on")
        # Same size, same second: still another file.
        here.write("prices.py", CODE.replace('"PRICES"', '"VALUES"'))

        async def values() -> bool:
            status, _, _ = await here.api.raw("/v1/ticker", symbol="BTCUSDT.VALUES")
            return status == 200

        await until(values, "rows by the new parser", poll_s=0.1)
        assert await here.source("prices.py") is None
        here.remove("prices.py")
        await here.until_failed("prices.yaml", "no source 'prices'")
        assert await here.source("prices") is None
        await here.undisturbed()
        here.write("prices.py", CODE)
        await here.more_rows("BTCUSDT", "it is back")
        await here.undisturbed()
    # A replay finds the same directory.
    again = tidewire("replay", "--into", "again", "--json", cwd=tmp_path)
    assert (again.code, again.json()["difference"]) == (0, 0), again.err


async def test_a_feed_that_was_away_goes_on_as_after_a_restart(tmp_path: Path) -> None:
    """What it missed meanwhile is a gap, and what can be had again is filled; its book is not kept."""
    sandbox = Sandbox(SandboxConfig(symbols=("BTCUSDT",), history_hours=1, rate=150.0))
    await sandbox.start()
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    source = binance(sandbox.url, ["BTCUSDT"], ("trade", "quote", "order_book"))
    source["collectors"]["order_book"]["update_interval"] = "100ms"
    file = plugins / "binance.yml"
    file.write_bytes(msgspec.json.encode(source))
    configuration = loaded(tmp_path, [], gaps=GapsSection(settle="50ms"))
    try:
        async with running(configuration, Eager()) as platform, api(platform) as client:

            async def good() -> bool:
                found = (await client.get("/v1/order_book/latest"))["data"]
                return bool(found) and found[0]["valid"]

            async def closed() -> bool:
                found = (await client.get("/v1/gap", record_type="trade"))["data"]
                return bool(found) and all(gap["state"] == "filled" for gap in found)

            await until(good, "a book that is kept", poll_s=0.1)
            away_us = platform.clock.wall_ns() // 1_000
            file.unlink()
            await platform.reload()
            assert platform.apps == []
            head = platform.journal.head
            await idle(platform)
            assert not await good(), "nobody keeps the book"
            assert (await client.get("/v1/gap"))["data"] == []
            assert telemetry.value("tidewire_source_up", source="binance") == 0
            balanced(await audited(client))
            assert platform.journal.head <= head + 1, "nothing is collected, but a note at most"
            file.write_bytes(msgspec.json.encode(source))
            assert (await platform.reload())["sources"] == ["binance"]
            await until(good, "the book is kept again", poll_s=0.1)
            await until(closed, "the trades that were missed came", poll_s=0.1)
            file.unlink()
            await platform.reload()
            balanced(await audited(client))
    finally:
        await sandbox.stop()
    found = tables(configuration.data_dir)
    assert every_trade_is_accounted_for(found, sandbox.ledger(), {"BTCUSDT": "BTC-USDT.BINANCE"}) == 0
    (quotes,) = all_gaps(found).filter(record_type="quote").iter_rows(named=True)
    assert quotes["cause"] == "down"
    assert away_us <= quotes["event_time"].timestamp() * 1e6 < quotes["until_time"].timestamp() * 1e6
    again = await replayed(configuration.data_dir, tmp_path / "again", configuration)
    same_rows(found, again, "live and replayed")
