"""``tidewire backfill``: how far the loading of history is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from tidewire.records.clock import SystemClock
from tidewire.runtime.console import ConfigOpt, DataOpt, JsonOpt, console, reading_of, run, show_json, show_rows

POLL_S = 1.0
ENDED = ("done", "failed")
_SHOWN = (
    *("source", "collector", "instrument", "series", "state", "start", "oldest", "shards_done", "shards_total"),
    *("rows", "rows_total", "percent", "eta_seconds", "error"),
)


def backfill(
    follow: Annotated[bool, typer.Option("--follow", help="Draw a progress bar until all is loaded.")] = False,
    config: ConfigOpt = None,
    data: DataOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """List the series whose history is loaded, and how far each is."""
    reading = reading_of(config, data)
    found = run(_follow(reading) if follow else reading.backfill())
    if as_json:
        show_json(found)
        return
    show_rows([{name: row[name] for name in _SHOWN} for row in found])


async def _follow(reading: Any) -> list[dict[str, Any]]:
    """What all came to, once nothing is loading or waiting any more."""
    clock = SystemClock()
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("history", total=None)
        while True:
            found: list[dict[str, Any]] = await reading.backfill()
            done, total = (sum(row[name] for row in found) for name in ("shards_done", "shards_total"))
            progress.update(task, completed=done, total=total, description=_said(found, done, total))
            if all(row["state"] in ENDED for row in found):
                return found
            await clock.sleep(POLL_S)


def _said(found: Sequence[dict[str, Any]], done: int, total: int) -> str:
    left = max((row["eta_seconds"] or 0 for row in found), default=0)
    return f"{done:,} of {total:,} shards, {sum(row['rows'] for row in found):,} rows, {left:,.0f} s left"
