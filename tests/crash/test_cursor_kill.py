"""A collector that pages through a list is killed again and again: it goes on after the last page that was accepted."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from crash.pages import PAGE, SYMBOL
from integration.kit import tables, until
from tidewire.journal import JournalReader, Kind
from tidewire.sandbox.config import LimitConfig, SandboxConfig
from tidewire.sandbox.server import Sandbox

KILLS = 8

CONFIG = """\
data_dir: data
listen: {{port: 0}}
log: {{level: warning, form: json}}
journal: {{segment_bytes: 65536}}
sources:
  - source: {{type: market, name: pages}}
    api: {{base_url: "{url}", key: "{first}", rate_limit: {{requests_per_second: 1000, burst: 1000}}}}
"""


async def one_life(directory: Path, chance: random.Random, pages: int) -> int:
    """Run until so many more pages are in the journal's files, then kill it; how many bytes there are."""
    errors = directory / "errors.log"
    with errors.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tidewire", "up", "config.yaml", "--quiet"),
            cwd=directory,
            env=os.environ.copy(),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=log,
        )
        try:
            before = len(accepted(directory))
            await until(
                lambda: process.returncode is not None or len(accepted(directory)) >= before + pages, "pages", 60, 0.05
            )
            assert process.returncode is None, errors.read_text()[-4_000:]
            await asyncio.sleep(chance.uniform(0, 0.02))  # a random moment, not a wait for anything
            process.send_signal(signal.SIGKILL)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
    return len(accepted(directory))


def accepted(directory: Path) -> list[tuple[int, list[int]]]:
    """Each page in the journal: from where it was asked for, and the ids in it."""
    try:
        reader = JournalReader(directory / "data" / "journal")
    except Exception:
        return []
    found: list[tuple[int, list[int]]] = []
    for frame in reader.scan():
        if frame.kind is Kind.DATA:
            asked = parse_qs(urlsplit(frame.origin.request.removeprefix("GET ")).query)
            found.append((int(asked["fromId"][0]), [entry["id"] for entry in msgspec.json.decode(frame.payload)]))
    return found


@pytest.mark.crash
async def test_kill(tmp_path: Path) -> None:
    chance = random.Random(11)
    limits = LimitConfig(weight_per_minute=10_000_000)
    sandbox = Sandbox(SandboxConfig(symbols=(SYMBOL,), rate=10.0, history_hours=168, limits=limits))
    await sandbox.start()
    try:
        first = sandbox._upstream.series(SYMBOL).first_id
        (tmp_path / "config.yaml").write_text(CONFIG.format(url=sandbox.url, first=first))
        (tmp_path / "plugins").mkdir()
        shutil.copy(Path(__file__).with_name("pages.py"), tmp_path / "plugins" / "pages.py")
        for _ in range(KILLS):
            await one_life(tmp_path, chance, chance.randrange(3, 30))
    finally:
        await sandbox.stop()
    pages = accepted(tmp_path)
    ids = [ident for _, page in pages for ident in page]
    # Every page begins where the one before ended: nothing is left out, and nothing accepted is asked for again.
    assert ids == list(range(first, first + len(ids)))
    assert all(asked == page[0] for asked, page in pages)
    assert len(pages) >= KILLS * 3
    stored = tables(tmp_path / "data")["trade_v1"]["sequence"].sort().to_list()
    assert stored == ids[: len(stored)], "what the store had when it died is the beginning of the list"
    assert len(ids) >= KILLS * 3 * PAGE
