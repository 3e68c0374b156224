"""Running the command as a stranger does: in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from tidewire.runtime.cli import main

DEADLINE_S = 90.0
COMMAND = [sys.executable, "-m", "tidewire"]


def environment(**more: str) -> dict[str, str]:
    """Wide enough that no line is cut, and without colours."""
    kept = {name: value for name, value in os.environ.items() if name not in {"FORCE_COLOR", "TTY_COMPATIBLE"}}
    return {**kept, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", **more}


@dataclass
class Done:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return msgspec.json.decode(self.out)


def tidewire(*arguments: str | Path, cwd: Path | None = None, **environ: str) -> Done:
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd=cwd,
        env=environment(**environ),
        stdin=subprocess.DEVNULL,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def in_process(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Done:
    """The same without the cost of a process; `tidewire` proves for a few that there is no difference."""
    logging = structlog.get_config()
    code = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tidewire", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        finally:
            structlog.configure(**logging)
    captured = capsys.readouterr()
    return Done(code, captured.out, captured.err)


@asynccontextmanager
async def started(*arguments: str | Path, cwd: Path | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command that goes on running; killed in the end if it still does."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *map(str, arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
        env=environment(),
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def line(process: asyncio.subprocess.Process, containing: str) -> str:
    """The next line of its output with some text in it."""
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = (await process.stdout.readline()).decode()
            if not found:
                assert process.stderr is not None
                raise AssertionError(f"it ended: {(await process.stderr.read()).decode()}")
            if containing in found:
                return found


async def ended(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(DEADLINE_S):
        return await process.wait()
