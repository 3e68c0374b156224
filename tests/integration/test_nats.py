"""The whole product on a NATS server that dies: every row is stored once, and the books add up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.conftest import SYMBOLS
from integration.kit import (
    Eager,
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
from nats_server import NatsServer, served
from tidewire import telemetry
from tidewire.errors import BusError
from tidewire.runtime.config import BusSection, Loaded
from tidewire.runtime.platform import Tidewire
from tidewire.sandbox.config import Faults, SandboxConfig
from tidewire.sandbox.server import Sandbox

RATE = 2_000.0
ROWS = 6_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with served(tmp_path / "nats") as server:
        yield server


def on_nats(directory: Path, server: NatsServer, url: str) -> Loaded:
    bus = BusSection(type="nats", servers=[server.url], prefix="product", max_bytes=64 << 20, timeout="1s")
    return loaded(directory, [binance(url, list(SYMBOLS))], bus=bus)


@pytest.mark.parametrize("forget", [False, True], ids=["on its store", "on nothing"])
async def test_the_server_is_killed_twice(tmp_path: Path, server: NatsServer, *, forget: bool) -> None:
    config = SandboxConfig(symbols=tuple(SYMBOLS), rate=RATE, history_hours=1, faults=Faults(duplicate=0.01, seed=3))
    sandbox = Sandbox(config)
    await sandbox.start()
    restarts = telemetry.value("tidewire_pipe_restarts_total")
    try:
        configuration = on_nats(tmp_path, server, sandbox.url)
        async with running(configuration, Eager()) as platform, api(platform) as client:
            for kills in (1, 2):
                await until(lambda n=kills: platform.journal.head > n * ROWS // 3, "frames before a kill")
                server.restart(forget=forget)
            await until(lambda: platform.journal.head > ROWS, "frames after the kills")
            await platform.apps[0].stop()
            await idle(platform)
            audit = (await client.get("/v1/audit"))["data"]
            ledger = sandbox.ledger()
    finally:
        await sandbox.stop()
    balanced(audit)
    found = tables(configuration.data_dir)
    assert found["trade_v1"].height + found["quote_v1"].height >= ROWS // 2
    every_trade_is_accounted_for(found, ledger, SYMBOLS)
    same_rows(found, await replayed(configuration.data_dir, tmp_path / "again", configuration), "stored and replayed")
    again = telemetry.value("tidewire_pipe_restarts_total") - restarts
    assert bool(again) == forget, "the pipe begins again where the server forgot something, and only there"


async def test_a_platform_without_its_server_says_what_is_missing(tmp_path: Path) -> None:
    platform = Tidewire(on_nats(tmp_path, NatsServer(tmp_path / "nats"), "http://127.0.0.1:1"))
    with pytest.raises(BusError, match="No NATS server at"):
        await platform.start()
