"""A source that is a package of its own: installed, found, and run as a process against the sandbox's Harbour."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import polars as pl
import pytest

from integration.kit import DEADLINE_S, Api, Rows, all_gaps, open_holes, same_rows, tables, until
from tidewire.journal import Frame, Kind, Origin
from tidewire.sandbox.config import Faults, SandboxConfig
from tidewire.sandbox.server import Sandbox

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tests" / "packages" / "tidewire-harbour"
PUBLIC = ("tidewire.collect", "tidewire.records", "tidewire.errors")
SYMBOLS = {"BTC-USD": "BTC-USD.HARBOUR", "ETH-USD": "ETH-USD.HARBOUR"}
DEPTH = 20


@dataclass
class Plugged:
    """What came of Harbour while messages were dropped, and the platform was killed once."""

    sources: list[dict[str, Any]]
    checked: str = ""
    books: dict[str, tuple[dict[str, Any], dict[str, Any]]] = field(
        default_factory=dict[str, tuple[dict[str, Any], dict[str, Any]]]
    )
    ledger: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    trades: dict[str, list[dict[str, str]]] = field(default_factory=dict[str, list[dict[str, str]]])
    health: dict[str, Any] = field(default_factory=dict[str, Any])
    audit: dict[str, Any] = field(default_factory=dict[str, Any])
    tables: Rows = field(default_factory=dict[str, pl.DataFrame])
    replayed: Rows = field(default_factory=dict[str, pl.DataFrame])


def installed(into: Path) -> dict[str, str]:
    """The environment in which the package is found; built by what is in this environment, without a network."""
    source = into / "source"  # building leaves files beside the code
    shutil.copytree(PACKAGE, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command = [*pip, "--no-deps", "--no-build-isolation", "--target", str(into / "site"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    known = [str(into / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(known), "TERM": "dumb"}


class Product:
    """``tidewire`` in processes of its own."""

    def __init__(self, environment: Mapping[str, str], configuration: Path) -> None:
        self._environment = environment
        self._configuration = configuration

    async def run(self, *words: str, code: int = 0) -> str:
        """What a command prints; it must end with this exit code."""
        process = await self._started(*words)
        printed, errors = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        assert process.returncode == code, (words, process.returncode, printed[-2000:], errors[-2000:])
        return printed.decode()

    @contextlib.asynccontextmanager
    async def up(self, ended_by: signal.Signals) -> AsyncGenerator[Api]:
        """A running platform, ended by this signal."""
        process = await self._started("up", str(self._configuration))
        assert process.stdout is not None
        assert process.stderr is not None
        log = asyncio.create_task(process.stderr.read())
        try:
            line = await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)
            assert line.startswith(b"serving http://"), (line, await log)
            timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
            async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
                yield Api(session, line.split()[1].decode())
            process.send_signal(ended_by)
            await asyncio.wait_for(process.wait(), DEADLINE_S)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            said = (await log).decode()
        assert process.returncode == (-ended_by if ended_by is signal.SIGKILL else 0), said[-3000:]
        assert "Traceback" not in said, said[-3000:]

    async def _started(self, *words: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tidewire", *words),
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )


def configured(directory: Path, url: str) -> Path:
    """A platform file that collects all of Harbour."""
    symbols = {"symbols": ["BTC-USD", "eth/usd"], "silence": "10s"}
    books = {**symbols, "depth": DEPTH, "update_interval": "200ms", "deltas": True}
    source = {
        "source": {"type": "market", "name": "harbour"},
        "api": {"base_url": url},
        "collectors": {"trade": symbols, "quote": symbols, "order_book": books},
    }
    file = directory / "tidewire.yaml"
    platform = {"data_dir": "data", "listen": {"port": 0}, "gaps": {"settle": "100ms"}, "sources": [source]}
    file.write_text(json.dumps(platform), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def plugged(tmp_path_factory: pytest.TempPathFactory) -> Plugged:
    """One run: faults, a kill, a second life, a market at rest."""
    return asyncio.run(_plugged(tmp_path_factory.mktemp("plugged")))


async def _plugged(directory: Path) -> Plugged:
    environment = installed(directory)
    config = SandboxConfig(symbols=("BTCUSDT",), harbour_symbols=tuple(SYMBOLS), rate=100.0, history_hours=1)
    sandbox = Sandbox(config)
    await sandbox.start()
    try:
        product = Product(environment, file := configured(directory, sandbox.url))
        listed = json.loads(await product.run("sources", "--json"))
        run = Plugged(listed["installed"])
        run.checked = await product.run("check", str(file))
        async with product.up(signal.SIGKILL) as client:
            await until(lambda: _all_served(client), "rows of every type", poll_s=0.1)
            await _with_faults(sandbox)
            await until(lambda: _in_step(client), "both books are in step", poll_s=0.1)
            sandbox.disconnect()
        before = _newest(sandbox)
        async with product.up(signal.SIGINT) as client:
            await until(lambda: _all_beyond(client, before), "trades of the second life", poll_s=0.1)
            await until(lambda: _none_open(client), "no gap is open any more", poll_s=0.2)
            sandbox.pause()
            await until(lambda: _compared(client, sandbox.url, run), "the last change of each book", poll_s=0.1)
            await until(lambda: _up_to(client, _newest(sandbox)), "the last trades", poll_s=0.1)
            (run.health,) = (await client.get("/v1/sources"))["data"]
        run.ledger = sandbox.ledger("harbour")
        run.audit = json.loads(await product.run("audit", "--config", str(file), "--frames", "--json"))
        await product.run("replay", "--config", str(file), "--into", str(directory / "again"))
        run.tables, run.replayed = tables(directory / "data"), tables(directory / "again")
        for symbol, instrument in SYMBOLS.items():
            first = run.tables["trade_v1"].filter(instrument=instrument)["sequence"].min()
            assert isinstance(first, int)
            run.trades[symbol] = await _upstream(sandbox.url, symbol, first)
        return run
    finally:
        await sandbox.stop()


async def _with_drops(sandbox: Sandbox, channel: str, least: int) -> None:
    sandbox.faults = Faults(drop=0.15, only=(channel,))
    await until(lambda: _count(sandbox, channel, "dropped") >= least, f"dropped of {channel}")


async def _with_faults(sandbox: Sandbox) -> None:
    await _with_drops(sandbox, "@trades", 5)
    await _with_drops(sandbox, "@book", 3)
    sandbox.faults = Faults(duplicate=0.2, reorder=0.2)
    await until(lambda: _count(sandbox, "@book", "duplicated") >= 3, "repeated updates")
    sandbox.faults = Faults()


def _count(sandbox: Sandbox, channel: str, what: str) -> int:
    return min(int(str(entry[what])) for name, entry in sandbox.ledger("harbour").items() if name.endswith(channel))


def _newest(sandbox: Sandbox) -> dict[str, int]:
    """The last trade of each symbol that was sent."""
    ledger = sandbox.ledger("harbour")
    return {instrument: int(str(ledger[f"{symbol}@trades"]["last_id"])) for symbol, instrument in SYMBOLS.items()}


async def _all_served(client: Api) -> bool:
    for kind in ("instrument", "trade", "quote", "order_book", "book_delta"):
        found = (await client.get(f"/v1/{kind}", source="harbour", limit=100))["data"]
        if not set(SYMBOLS.values()) <= {row["instrument"] for row in found}:
            return False
    return True


async def _last_trade(client: Api, instrument: str) -> int:
    found = (await client.get("/v1/trade", symbol=instrument, limit=1, order="desc"))["data"]
    return found[0]["sequence"] if found else 0


async def _all_beyond(client: Api, before: Mapping[str, int]) -> bool:
    return all([await _last_trade(client, instrument) > last for instrument, last in before.items()])


async def _up_to(client: Api, newest: Mapping[str, int]) -> bool:
    return all([await _last_trade(client, instrument) == last for instrument, last in newest.items()])


async def _none_open(client: Api) -> bool:
    rows = (await client.get("/v1/gaps", limit=10_000))["data"]
    return not any(row["state"] in ("open", "filling") for row in rows)


async def _books(client: Api) -> dict[str, dict[str, Any]]:
    """The books served now; those of another depth are snapshots."""
    found = (await client.get("/v1/order_book/latest", source="harbour"))["data"]
    return {row["instrument"]: row for row in found if row["depth"] == DEPTH}


async def _in_step(client: Api) -> bool:
    found = await _books(client)
    return set(found) == set(SYMBOLS.values()) and all(row["valid"] for row in found.values())


async def _compared(client: Api, url: str, run: Plugged) -> bool:
    """Whether each book that is served is as of the last change; keeps both it and the sandbox's own."""
    found = await _books(client)
    for symbol, instrument in SYMBOLS.items():
        (own,) = await _asked(url, f"book?symbol={symbol}&depth={DEPTH}")
        run.books[instrument] = found[instrument], own
    return all(row["valid"] and row["sequence"] == own["seq"] for row, own in run.books.values())


async def _asked(url: str, what: str) -> list[Any]:
    """The data of a reply of Harbour's, asked for again while there were too many requests."""
    found: list[Any] = []

    async def answered() -> bool:
        async with aiohttp.ClientSession(trust_env=False) as session, session.get(f"{url}/harbour/{what}") as reply:
            body = await reply.json()
        found[:] = body["data"]
        return body["code"] == "0"

    await until(answered, what, poll_s=0.5)
    return found


async def _upstream(url: str, symbol: str, first: int) -> list[dict[str, str]]:
    """All trades that Harbour has, from one on."""
    found: list[dict[str, str]] = []
    after = first - 1
    while page := await _asked(url, f"trades?symbol={symbol}&after={after}&limit=500"):
        found += page
        after = int(page[-1]["id"])
    return found


def test_the_package_is_found_and_its_configuration_checked(plugged: Plugged) -> None:
    (found,) = [one for one in plugged.sources if one["name"] == "harbour"]
    assert found["about"].startswith("Harbour, the exchange of the sandbox")
    assert found["origin"] == "entry point tidewire_harbour:Harbour"
    assert "good. Sources: harbour." in " ".join(plugged.checked.split())  # lines are as wide as the terminal


def test_every_trade_is_stored_as_harbour_has_it(plugged: Plugged) -> None:
    assert plugged.tables["trade_v1_revisions"].is_empty()
    for symbol, instrument in SYMBOLS.items():
        rows = plugged.tables["trade_v1"].filter(instrument=instrument).sort("sequence")
        stored = rows["sequence"].to_list()
        entry = plugged.ledger[f"{symbol}@trades"]
        assert stored == list(range(stored[0], entry["last_id"] + 1)), "ids are consecutive up to the last one sent"
        assert stored[0] <= entry["first_id"], "and from the first one told"
        assert set(entry["dropped_ids"]) <= set(stored), "what was dropped came by REST"
        own = [
            (each["id"], Decimal(each["price"]), Decimal(each["size"]), each["side"]) for each in plugged.trades[symbol]
        ]
        assert rows.select("trade_id", "price", "size", "side").rows() == own


def test_what_was_dropped_is_a_gap_and_filled(plugged: Plugged) -> None:
    gaps = all_gaps(plugged.tables)
    for instrument in SYMBOLS.values():
        found = gaps.filter(instrument=instrument, record_type="trade")
        assert found.filter(state="filled").height >= 3
        assert open_holes(gaps, "trade", instrument) == []
        told = gaps.filter(instrument=instrument, record_type="order_book", cause="sequence")
        assert told.filter(pl.col("detail").str.contains("a new snapshot is asked for")).height >= 1
        assert told.filter(pl.col("detail").str.contains("in step again")).height >= 1
        assert gaps.filter(instrument=instrument, record_type="quote", cause="down").height >= 1
    assert gaps.filter(cause="silence").is_empty(), "nothing was silent while the market went on"


def test_the_books_served_are_harbour_s_own(plugged: Plugged) -> None:
    assert set(plugged.books) == set(SYMBOLS.values())
    for row, own in plugged.books.values():
        assert row["sequence"] == own["seq"]
        for side in ("bid", "ask"):
            levels = list(zip(row[f"{side}_prices"], row[f"{side}_sizes"], strict=True))
            assert [list(level) for level in levels] == own[f"{side}s"]


def test_quotes_are_the_tops_of_the_books(plugged: Plugged) -> None:
    """Of the same number, whatever came by which channel."""
    tops = plugged.tables["order_book_v1"].select(
        *("instrument", "sequence"),
        pl.col("bid_prices", "bid_sizes", "ask_prices", "ask_sizes").list.first().name.suffix("_top"),
    )
    both = plugged.tables["quote_v1"].join(tops, on=["instrument", "sequence"])
    assert both.height >= 10
    for column in ("bid_price", "bid_size", "ask_price", "ask_size"):
        assert both[column].equals(both[f"{column}s_top"]), column
    assert plugged.tables["quote_v1_revisions"].is_empty()


def test_instruments_are_as_harbour_lists_them(plugged: Plugged) -> None:
    shown = plugged.tables["instrument_v1"].select("instrument", "native", "kind", "base", "quote", "status")
    assert shown.sort("instrument").rows() == [
        (instrument, symbol, "spot", symbol[:3], "USD", "trading") for symbol, instrument in SYMBOLS.items()
    ]


def test_the_books_add_up_and_nothing_was_unreadable(plugged: Plugged) -> None:
    assert plugged.audit["difference"] == 0, plugged.audit
    assert plugged.audit["sound"], plugged.audit
    assert plugged.tables["quarantined_v1"].is_empty()
    assert plugged.health["health"] == "ok", plugged.health


def test_replay_comes_to_the_same(plugged: Plugged) -> None:
    same_rows(plugged.tables, plugged.replayed, "replay")


def test_what_the_parser_cannot_read_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PACKAGE / "src")
    parser = importlib.import_module("tidewire_harbour.parser").HarbourParser()
    feed, origin = "ws://x/harbour/ws#1", "GET http://x/harbour/trades?symbol=XRP-USD"
    said = [
        (feed, b"pong"),
        (feed, b'{"event":"error","code":"2004","msg":"no","arg":{"channel":"bbo","symbol":"XRP-USD"}}'),
        (origin, b'{"code":"1003","msg":"There is no symbol XRP-USD.","data":[]}'),
        (feed, b"pon"),
        (feed, b'{"arg":{"channel":"kline","symbol":"BTC-USD"},"data":[{}]}'),
        (feed, b'{"arg":{"channel":"trades","symbol":"BTC-USD"},"data":[{"id":1}]}'),
        (origin, b'{"code":"0","data":[{"symbol":"B-U","id":"x","price":"1","size":"1","side":"buy","ts":"1"}]}'),
    ]
    frames = [
        Frame(place, 0, 0, Kind.DATA, Origin("harbour", "stream", request), b"", payload)
        for place, (request, payload) in enumerate(said)
    ]
    outcome = parser.parse(frames)
    assert [frame.sequence for frame in outcome.control] == [0, 1, 2]
    assert [frame.sequence for frame, _ in outcome.unreadable] == [3, 4, 5, 6]
    assert outcome.parsed == []
    (ask,) = outcome.asks
    assert (ask.what, ask.facts["stream"], ask.facts["code"]) == ("harbour.refused", "XRP-USD@bbo", "2004")


def _imported(module: Path) -> Sequence[str]:
    """Modules that a file imports."""
    found: list[str] = []
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, module
            found.append(str(node.module))
    return found


def test_the_package_imports_the_plugin_interface_alone() -> None:
    names = re.compile(rf"({'|'.join(map(re.escape, PUBLIC))})(\..+)?")
    modules = sorted((PACKAGE / "src").rglob("*.py"))
    assert len(modules) >= 3
    for module in modules:
        ours = [name for name in _imported(module) if name.split(".")[0] == "tidewire"]
        assert all(names.fullmatch(name) for name in ours), (module.name, ours)
        others = {name.split(".")[0] for name in _imported(module)} - {"tidewire", "tidewire_harbour", "msgspec"}
        assert others <= sys.stdlib_module_names, (module.name, others)
