"""``tidewire replay``: a journal and its archive through today's code into an empty store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tidewire.collect import Parser
from tidewire.errors import InputError
from tidewire.records.instrument import InstrumentBook
from tidewire.replay import Replay
from tidewire.runtime import installed
from tidewire.runtime.archiving import history_of
from tidewire.runtime.config import Loaded
from tidewire.runtime.platform import make_store
from tidewire.watch.audit import Accepted, audit


def parsers(loaded: Loaded) -> dict[str, Parser]:
    """The parser of every installed source, knowing no instruments: the journal's own lists come first."""
    registry = installed.registry()
    registry.discover(loaded.plugins)
    return registry.parsers(InstrumentBook())


async def replay(loaded: Loaded, data_dir: Path, into: Path, console: Console | None) -> dict[str, Any]:
    """Fill the store of ``into`` from the journal of ``data_dir`` and its archive; both are only read."""
    reader = history_of(loaded.config, data_dir)
    into.mkdir(parents=True, exist_ok=True)
    store = make_store(loaded.config, into)
    await store.open()
    try:
        if store.positions():
            raise InputError(f"{into} holds a store that is not empty; replay fills an empty one. Name another --into.")
        checks = loaded.config.check_config()
        run = Replay(reader, parsers(loaded), lanes=loaded.config.pipe.lanes, checks=checks)
        columns = (TextColumn("replay"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, disable=console is None) as progress:
            task = progress.add_task("frames", total=reader.accepted)
            async for done in run.into(store):
                progress.update(task, completed=done)
        books = await audit(store, Accepted(reader.uuid, reader.accepted))
        return {
            "frames": run.frames,
            "rows": books.totals.get("stored", 0),
            "difference": books.difference,
            "first": reader.first,
            "expired": reader.expired,
            "into": str(into),
        }
    finally:
        await store.close()
