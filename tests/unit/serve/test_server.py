"""The gateway's life: where it listens, how it stops."""

from __future__ import annotations

import asyncio
import signal
import socket

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tidewire import telemetry
from tidewire.bus import MemoryBus
from tidewire.errors import ConfigError
from tidewire.records.clock import SystemClock
from tidewire.serve.platform import Health, Platform, ServeConfig
from tidewire.serve.server import Gateway, bound
from unit.serve.harness import BTC, SeededRng, frame, resolve, serving


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.com", ""])
def test_only_loopback(host: str) -> None:
    with pytest.raises(ConfigError, match=r"Valid: 127\.0\.0\.1"):
        bound(host, 0)


def test_a_given_socket_must_be_loopback_too() -> None:
    with socket.socket() as wide:
        wide.bind(("0.0.0.0", 0))
        platform = Platform(None, None, MemoryBus(SystemClock()), SystemClock(), SeededRng(1), resolve)

        async def start() -> None:
            await Gateway(platform, ServeConfig(), wide).start()

        with pytest.raises(ConfigError, match="loopback"):
            asyncio.run(start())


def test_a_taken_port_says_so() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match=r"Choose another listen\.port"):
            bound("127.0.0.1", other.getsockname()[1])


async def test_it_leaves_signals_alone_and_stops_twice() -> None:
    before = signal.getsignal(signal.SIGTERM)
    async with serving() as served:
        assert signal.getsignal(signal.SIGTERM) is before
        await served.gateway.stop()
        await served.gateway.stop()
        with pytest.raises(httpx.ConnectError):
            await served.http.get("/livez")


async def test_drain_says_bye_after_what_waits() -> None:
    async with serving() as served, served.stream(f"trade.{BTC}") as socket:
        stopping = asyncio.create_task(served.gateway.stop())
        bye = await frame(socket, "bye")
        assert bye == {"op": "bye", "code": 1012, "reason": bye["reason"], "reconnect": True, "after_ms": 1000}
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        async with asyncio.timeout(5):
            await stopping


async def test_drain_cuts_off_who_does_not_read() -> None:
    config = ServeConfig(port=0, drain=0.3, queue_bytes=8 << 20)
    async with serving(config) as served, served.stream("trade.>", close_timeout=0.1) as socket:
        socket.transport.pause_reading()
        await served.clog(socket)
        async with asyncio.timeout(5):
            await served.gateway.stop()
        assert telemetry.value("tidewire_ws_connections") == 0


async def test_small_answers_are_not_held_back() -> None:
    async with serving() as served:
        listening = served.gateway._socket
        assert listening is not None
        assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_readiness_turns_first() -> None:
    state = {"health": Health(ready=True, checks={"store": "ok"})}
    async with serving(health=lambda: state["health"]) as served:
        assert (await served.http.get("/readyz")).json() == {"ready": True, "checks": {"store": "ok"}}
        served.gateway.application.draining = True
        answer = await served.http.get("/readyz")
        assert (answer.status_code, answer.json()["checks"]["gateway"]) == (503, "draining")
        assert (await served.http.get("/livez")).status_code == 200


async def test_live_even_when_nothing_else_is() -> None:
    def broken() -> Health:
        raise RuntimeError("no health")

    async with serving(health=broken) as served:
        assert (await served.http.get("/livez")).json() == {"live": True}
        assert (await served.http.get("/readyz")).status_code == 500


@pytest.mark.parametrize("header", ["Host", "Origin"])
async def test_other_names_are_refused(header: str) -> None:
    async with serving(ServeConfig(port=0, hosts=("tide.local",))) as served:
        answer = await served.http.get(
            "/livez", headers={header: "http://evil.example" if header == "Origin" else "evil"}
        )
        assert (answer.status_code, answer.json()["code"]) == (403, "host_not_allowed")
        good = await served.http.get("/livez", headers={"Host": "tide.local:80"})
        assert good.status_code == 200
        with pytest.raises(InvalidStatus) as refused:
            async with served.stream(additional_headers={"Origin": "https://evil.example"}):
                pass
        assert refused.value.response.status_code == 403
