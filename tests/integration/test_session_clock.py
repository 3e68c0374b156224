"""A client that runs on its upstream's clock lives in the session the sandbox plays."""

from __future__ import annotations

import msgspec

from tidewire.collect.http import HttpClient, HttpConfig
from tidewire.records.clock import SeededRng, SystemClock, UpstreamClock
from tidewire.sandbox.config import session_ns
from tidewire.sandbox.server import Sandbox, SandboxConfig

SESSION = "2026-12-01T09:29:50+08:00"


async def test_it_follows_the_session_and_the_quotes_move_with_it() -> None:
    config = SandboxConfig(
        symbols=("BTCUSDT",), rate=10.0, history_hours=1, china_stocks=40, session_at=SESSION, session_speed=200.0
    )
    sandbox, clock = Sandbox(config), UpstreamClock()
    await sandbox.start()
    try:
        async with HttpClient(SystemClock(), SeededRng(1), HttpConfig(clock=clock, trust_env=False)) as client:
            reply = await client.get(f"{sandbox.url}/api/v3/time", {})
            began = clock.wall_ns()
            assert 0 <= began - session_ns(SESSION) < 3_600 * 10**9
            told = msgspec.json.decode(reply.body)["serverTime"] * 1_000_000
            assert abs(told - began) < 600 * 10**9
            while clock.wall_ns() < began + 60 * 10**9:
                quote = await client.get(
                    f"{sandbox.url}/eastmoney/api/qt/stock/get", {"secid": "1.600519", "fields": "f86"}
                )
            at_ns = msgspec.json.decode(quote.body)["data"]["f86"] * 10**9
            assert began < at_ns <= clock.wall_ns()
    finally:
        await sandbox.stop()
