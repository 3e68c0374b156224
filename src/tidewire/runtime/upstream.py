"""``tidewire sandbox``: the local upstream as a command."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from tidewire.errors import InputError, TransientError
from tidewire.runtime.supervise import Stop
from tidewire.sandbox.config import Faults, SandboxConfig, changed_faults, coinm_names, harbour_names, symbol_names
from tidewire.sandbox.server import Sandbox


def sandbox_config(
    *,
    port: int,
    seed: int,
    symbols: int,
    futures: int,
    harbour: int,
    china: int,
    session: str | None,
    session_speed: float,
    history_hours: int,
    rate: float,
    recording: Path | None,
    speed: float,
    start_on: Sequence[str],
    faults: Sequence[str],
) -> SandboxConfig:
    """The sandbox's configuration from command line values."""
    if recording is not None and not recording.is_file():
        raise InputError(f"--recording {recording}: no such file.")
    if session is None and session_speed != 1.0:
        raise InputError("--session-speed goes with --session, the time at which the clock begins.")
    futures, harbour = (0, 0) if recording is not None else (futures, harbour)
    return SandboxConfig(
        port=port,
        seed=seed,
        symbols=symbol_names(symbols),
        usdm_symbols=symbol_names(futures),
        coinm_symbols=coinm_names(futures),
        harbour_symbols=harbour_names(harbour),
        china_stocks=china,
        session_at=session,
        session_speed=session_speed,
        history_hours=history_hours,
        rate=rate or None,
        tape=recording,
        speed=speed or None,
        start_on=frozenset(start_on),
        faults=changed_faults(Faults(seed=seed), dict(_fault(pair) for pair in faults)),
    )


def _fault(pair: str) -> tuple[str, Any]:
    name, equals, text = pair.partition("=")
    if not equals:
        raise InputError(f"--fault {pair!r}: write name=value, e.g. drop=0.01.")
    try:
        return name, msgspec.json.decode(text)
    except msgspec.DecodeError:
        return name, text


async def serve(config: SandboxConfig, console: Console, *, as_json: bool, until_eof: bool) -> None:
    """Serve until a signal, or until standard input ends."""
    stop = Stop()
    stop.install()
    sandbox = Sandbox(config)
    try:
        await sandbox.start()
    except OSError as error:
        raise TransientError(f"The sandbox cannot listen on port {config.port}: {error}. Choose another.") from error
    try:
        if as_json:
            sys.stdout.write(msgspec.json.encode({"url": sandbox.url, "ws_url": sandbox.ws_url}).decode() + "\n")
            sys.stdout.flush()
        else:
            console.print(
                f"REST {sandbox.url}/api/v3, WebSocket {sandbox.ws_url}/stream, control {sandbox.url}/sandbox"
            )
            if config.usdm_symbols:
                console.print("futures: REST /fapi/v1 and /dapi/v1, WebSocket /public, /market and /dstream")
            if config.harbour_symbols:
                console.print("Harbour: REST /harbour, WebSocket /harbour/ws")
            if config.china_stocks:
                console.print("China: /eastmoney, /sina, /tencent, /szse, /sse, /bse; what is true at /sandbox/china")
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(stop.asked.wait())]
        if until_eof:
            waits.append(asyncio.create_task(_end_of_input()))
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()
    finally:
        await sandbox.stop()


async def _end_of_input() -> bool:
    """Return when whoever started us is gone."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    return True
