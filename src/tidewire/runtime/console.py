"""What the commands share: options, output, and finding configuration and data."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table

FOUND_SOMETHING = 3

console = Console()
errors = Console(stderr=True)
T = TypeVar("T")

ConfigArg = Annotated[
    Path | None, typer.Argument(help="A platform file, or a single source file. Default: ./tidewire.yaml")
]
ConfigOpt = Annotated[Path | None, typer.Option("--config", "-c", help="Platform or source file.")]
DataOpt = Annotated[Path | None, typer.Option("--data", help="Data directory; default: the one of the configuration.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the fast event loop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


def show_json(what: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(what, enc_hook=str), indent=2) + b"\n")
    sys.stdout.flush()


def show_rows(rows: list[dict[str, Any]], *, every: bool = False) -> None:
    """Rows as a table; lineage and empty columns are left out unless asked for."""
    from tidewire.records.record import LINEAGE

    names = [name for name in (rows[0] if rows else {}) if every or name not in LINEAGE]
    names = [name for name in names if every or any(row[name] is not None for row in rows)]
    if not names:
        console.print("no rows")
        return
    table = Table(*names, box=None)
    for row in rows:
        table.add_row(*("" if row[name] is None else str(row[name]) for name in names))
    # Never narrower than the rows: a cut number is a wrong number.
    wide = Console(width=max(console.width, 400), soft_wrap=True)
    with wide.capture() as text:
        wide.print(table)
    for line in text.get().splitlines():
        console.print(line.rstrip(), highlight=False, soft_wrap=True, markup=False)


def moment(wall_ns: int) -> str:
    """A time for people and programs."""
    from tidewire.records.clock import utc

    return utc(wall_ns).isoformat()


def configured(config: Path | None) -> Any:
    """The configuration that is named, or ``tidewire.yaml``, or the defaults."""
    from tidewire.runtime.config import DEFAULT_FILE, Config, Loaded, load

    if config is None and not Path(DEFAULT_FILE).exists():
        return Loaded(Config(), [], Path(), "defaults")
    return load(config)


def data_dir_of(config: Path | None, data: Path | None) -> Path:
    """The data directory: as named, else the one of the configuration."""
    return data if data is not None else configured(config).data_dir


def reading_of(config: Path | None, data: Path | None) -> Any:
    """Answers through a running platform, or from its files."""
    from tidewire.runtime.reading import Reading

    return Reading(data_dir_of(config, data), configured(config))
