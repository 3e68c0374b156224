"""One request over the wire, by the plain client: hung up on once is hung up on once."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tidewire.collect.http import HttpClient, HttpConfig
from tidewire.collect.transport import BROWSER_TLS, NEEDS, SCHEMES, PlainTransport, check_client, opener
from tidewire.errors import ConfigError, TerminalError, TransientError
from tidewire.records.clock import SeededRng, SystemClock

ONCE = HttpConfig(attempts=1, trust_env=False, total_timeout_s=5)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        scheme = "http" if tls is None else "https"
        yield f"{scheme}://localhost:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


def client(config: HttpConfig = ONCE) -> HttpClient:
    return HttpClient(SystemClock(), SeededRng(1), config)


@pytest.mark.parametrize("kind", [PlainTransport, opener(BROWSER_TLS)])
async def test_a_site_that_hangs_up_is_not_asked_again_at_once(kind: type[PlainTransport]) -> None:
    asked = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1

    async with (
        server(talk) as url,
        client(HttpConfig(attempts=1, trust_env=False, total_timeout_s=5, transport=kind)) as asks,
    ):
        with pytest.raises(TransientError):
            await asks.get(url)
    assert asked == 1


async def test_a_connection_that_was_closed_while_idle_costs_nothing() -> None:
    asked: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(0)
        while True:
            await reader.readuntil(b"\r\n\r\n")
            asked[-1] += 1
            if asked[-1] == 2:
                return
            writer.write(ANSWER)
            await writer.drain()

    async with server(talk) as url, client() as asks:
        assert (await asks.get(url)).body == b"ok"
        assert (await asks.get(url)).body == b"ok"
    assert asked == [2, 1]


def signed_by_itself(directory: Path) -> ssl.SSLContext:
    """What a server needs whose certificate nobody else has signed."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-keyout", str(directory / "key"), "-out", str(directory / "cert")),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(directory / "cert", directory / "key")
    return tls


async def test_a_site_that_cannot_prove_who_it_is_is_asked_nothing(tmp_path: Path) -> None:
    tls = signed_by_itself(tmp_path)
    asked = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1

    async with server(talk, tls) as url:
        for kind in (PlainTransport, opener(BROWSER_TLS)):
            async with client(HttpConfig(trust_env=False, transport=kind)) as asks:
                with pytest.raises(TerminalError, match=r"(?i)certificate"):
                    await asks.get(url)
    assert asked == 0


def test_every_client_says_what_it_needs_and_over_what_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SCHEMES.keys() == {"http", *NEEDS}
    for name in SCHEMES:
        check_client(name)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    check_client("http")
    for name, (package, extra) in NEEDS.items():
        with pytest.raises(ConfigError, match=rf"needs {package}\. Install it: pip install 'tidewire\[{extra}\]'"):
            opener(name)
