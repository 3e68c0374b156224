"""A real proxy for plain HTTP, and a site behind it, on free ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from yarl import URL


@dataclass
class Relay:
    """``heads`` of what it was asked; it hangs up in place of an answer while ``broken``."""

    url: str = ""
    heads: list[str] = field(default_factory=list[str])
    broken: bool = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            if not self.broken:
                writer.write(await self._forwarded(head))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _forwarded(self, head: str) -> bytes:
        line, _, rest = head.partition("\r\n")
        method, address, version = line.split(" ")
        url = URL(address)
        kept = [each for each in rest.strip().split("\r\n") if not each.lower().startswith(("proxy-", "connection"))]
        reader, writer = await asyncio.open_connection(url.host, url.port)
        asked = "\r\n".join([f"{method} {url.raw_path_qs} {version}", *kept, "Connection: close"])
        writer.write(f"{asked}\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer


@asynccontextmanager
async def relaying() -> AsyncIterator[Relay]:
    """A proxy while the block runs."""
    relay = Relay()
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield relay
    finally:
        server.close()


@asynccontextmanager
async def site(answer: Callable[[web.Request], web.StreamResponse]) -> AsyncIterator[str]:
    """A site while the block runs."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return answer(request)

    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def socks() -> AsyncIterator[tuple[str, list[int]]]:
    """A SOCKS5 proxy without logins, and the ports it was asked to connect to."""
    ports: list[int] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            _, methods = await reader.readexactly(2)
            await reader.readexactly(methods)
            writer.write(b"\x05\x00")
            *_, kind = await reader.readexactly(4)
            length = {1: 4, 4: 16}.get(kind) or (await reader.readexactly(1))[0]
            await reader.readexactly(length)
            ports.append(int.from_bytes(await reader.readexactly(2)))
            there, back = await asyncio.open_connection("127.0.0.1", ports[-1])
            writer.write(b"\x05\x00\x00\x01" + bytes(6))
            await asyncio.gather(pipe(reader, back), pipe(there, writer))
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"socks5://127.0.0.1:{server.sockets[0].getsockname()[1]}", ports
    finally:
        server.close()
