"""The Sina App against a real WebSocket server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from aiohttp import web

from tidewire.collect import SourceConfig, Window
from tidewire.collect.config import read
from tidewire.errors import ConfigError
from tidewire.journal import Kind
from tidewire.records.clock import SystemClock, utc
from tidewire.records.instrument import InstrumentBook
from tidewire.sources.declared.grammar import Ref
from tidewire.sources.sina import SinaApp
from tidewire.sources.sina.app import ORIGIN
from tidewire.sources.sina.parse import lines
from unit.collect.kit import Place, place, until
from unit.sources.sina.test_parse import BODY

ALWAYS = ["00:00-24:00"]


@dataclass
class Site:
    """Sends a line for each code that is asked for, again and again."""

    asked: list[list[str]] = field(default_factory=list[list[str]])
    origins: list[str | None] = field(default_factory=list[str | None])
    open: list[web.WebSocketResponse] = field(default_factory=list[web.WebSocketResponse])
    url: str = ""

    async def talk(self, request: web.Request) -> web.StreamResponse:
        self.origins.append(request.headers.get("Origin"))
        codes = request.query["list"].split(",")
        self.asked.append(codes)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.open.append(socket)
        while not socket.closed:
            try:
                await socket.send_str("\n".join(f"{code}={BODY}" for code in codes))
            except ConnectionError:
                break
            try:
                await socket.receive(timeout=0.02)
            except TimeoutError:
                continue
        return socket


@asynccontextmanager
async def site() -> AsyncGenerator[Site]:
    found = Site()
    application = web.Application()
    application.router.add_get("/wskt", found.talk)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    found.url = f"ws://{host}:{port}"
    try:
        yield found
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running(here: Place, url: str, known: Any = None, **section: Any) -> AsyncGenerator[SinaApp]:
    context = here.context if known is None else replace(here.context, known=known)
    app = SinaApp(config(url, between=ALWAYS, **section), context)
    await app.initialize()
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


def config(url: str = "", **section: Any) -> SourceConfig:
    data = {"source": {"type": "market", "name": "sina"}, "api": {"ws_url": url}, "collectors": {"quotes": section}}
    return read(data, SourceConfig, "test")


def taken(here: Place, kind: Kind = Kind.DATA) -> list[Any]:
    return [frame for frame in here.journal.read(0, frames=100_000) if frame.kind is kind]


async def test_each_symbol_is_asked_for_once_over_connections_that_are_not_too_long(tmp_path: Path) -> None:
    symbols = ["600000.SH", "sz000001", "1.000001", "688981.SH", "920002.BJ"]
    async with site() as upstream, place(tmp_path) as here:
        async with running(here, upstream.url, symbols=symbols, per_connection=2) as app:
            await until(lambda: len(upstream.asked) == 3 and len(taken(here)) >= 6, "messages")
            await until(lambda: app.health().state == "ok", "health")
            assert app.status()["feed"]["streams"] == [2, 2, 1]
        asked = [code for codes in upstream.asked for code in codes]
        assert sorted(asked) == ["bj920002", "sh000001", "sh600000", "sh688981", "sz000001"]
        assert set(upstream.origins) == {ORIGIN}
        frames = taken(here)
        # Each frame holds the name of its connection, which must not be the list of its symbols.
        assert {frame.origin.request for frame in frames} == {f"{upstream.url}/wskt {at}#1" for at in (1, 2, 3)}
        parsed = SinaApp.make_parser(config(), InstrumentBook()).parse(frames)
        columns: Any = [part.columns for part in parsed.parsed]
        found = {name for each in columns for name in each["instrument"]}
        assert found == {"600000.SH", "000001.SZ", "000001.SH", "688981.SH", "920002.BJ"}
        assert parsed.unreadable == []


async def test_a_connection_that_breaks_comes_back_and_leaves_a_gap_of_all_it_carried(tmp_path: Path) -> None:
    async with site() as upstream, place(tmp_path) as here:
        async with running(here, upstream.url, symbols=["600000.SH", "000001.SH"]) as app:
            await until(lambda: bool(taken(here)), "messages")
            await upstream.open[0].close()
            await until(lambda: len(upstream.open) == 2, "a connection again")
            before = len(taken(here))
            await until(lambda: len(taken(here)) > before, "messages again")
            assert app.status()["feed"]["connections"] == 2
        (mark,) = taken(here, Kind.CONTROL)
    told = msgspec.json.decode(mark.payload)
    assert (told["event"], told["cause"]) == ("resumed", "disconnect")
    assert [(each["type"], each["instrument"]) for each in told["streams"]] == [
        ("ticker", "600000.SH"),
        ("quote", "600000.SH"),
        ("order_book", "600000.SH"),
        ("ticker", "000001.SH"),
    ]


async def test_what_is_stored_is_asked_for_and_what_is_listed_later_too(tmp_path: Path) -> None:
    listed: list[str] = []

    async def known(kind: str, column: str, where: Mapping[str, Sequence[str]]) -> Sequence[str]:
        assert (kind, column, where["kind"]) == ("instrument", "instrument", ["stock", "index"])
        return listed

    said = lines().declared.for_each["codes"]
    assert isinstance(said, Ref)
    async with site() as upstream, place(tmp_path) as here, running(here, upstream.url, known) as app:
        await until(lambda: bool(upstream.asked), "the main indices")
        assert len(upstream.asked[0]) == len(said.default)
        listed += ["000001.SH", "600000.SH", "000001.SZ"]
        collector: Any = app.get("quotes")
        await collector.look()
        await until(lambda: len(upstream.asked) == 2, "the stocks")
        await collector.look()
        assert upstream.asked[1] == ["sh600000", "sz000001"]
        assert len(collector.pools) == 2


async def test_outside_trading_hours_nothing_is_connected(tmp_path: Path) -> None:
    local = utc(SystemClock().wall_ns()).astimezone(ZoneInfo("Asia/Shanghai"))
    hour = (local.hour + 6) % 24
    async with site() as upstream, place(tmp_path) as here:
        app = SinaApp(
            config(upstream.url, symbols=["600000.SH"], between=[f"{hour:02d}:00-{hour:02d}:30"]), here.context
        )
        await app.initialize()
        await app.start()
        collector: Any = app.get("quotes")
        await collector.look()
        assert collector.pools == []
        assert app.health().state in ("ok", "starting")
        collector._windows = [Window("00:00-24:00", "Asia/Shanghai")]
        await collector.look()
        await until(lambda: bool(taken(here)), "messages")
        collector._windows = []
        await collector.look()
        assert collector.pools == []
        await until(lambda: upstream.open[0].closed, "the end of the connection")
        assert taken(here, Kind.CONTROL) == []  # the end of trading is no gap
        await app.stop()


async def test_garbage_is_kept_and_told_and_the_connection_goes_on(tmp_path: Path) -> None:
    async with site() as upstream, place(tmp_path) as here:
        async with running(here, upstream.url, symbols=["600000.SH"]):
            await until(lambda: bool(taken(here)), "messages")
            await upstream.open[0].send_bytes(b"\xff\xfe\x00garbage")
            await upstream.open[0].send_str("sh600000=cut,8.690")
            before = len(taken(here))
            await until(lambda: len(taken(here)) > before + 4, "messages after it")
            assert len(upstream.open) == 1
        parsed = SinaApp.make_parser(config(), InstrumentBook()).parse(taken(here))
    assert len(parsed.unreadable) == 1
    wrong = [each for part in parsed.parsed if part.type.name == "ticker" for each in part.wrong.values()]
    assert len(wrong) == 1
    assert "event_time" in wrong[0]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"symbols": ["600000"]}, "collectors.quotes.symbols[0]: '600000' is no symbol of a mainland exchange"),
        ({"symbol": ["600000.SH"]}, "collectors.quotes.symbol: no such key. Did you mean 'symbols'?"),
        ({"between": ["9-15"]}, "collectors.quotes.between[0]"),
        ({"between": []}, "write at least one window"),
        ({"silence": "soon"}, "collectors.quotes.silence"),
        ({"per_connection": 900}, "per_connection"),
    ],
)
def test_what_is_wrong_in_a_section_is_told(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        SinaApp.check(config(**section))
    assert said in str(error.value)


def test_an_address_must_be_one() -> None:
    with pytest.raises(ConfigError, match=r"api\.ws_url: 'https://x' is not a URL; write wss://host"):
        SinaApp.check(config("https://x"))
