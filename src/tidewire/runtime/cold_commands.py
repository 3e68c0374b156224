"""``tidewire seal`` and ``tidewire cold``: finished rows, in Parquet files beside the store."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import typer

from tidewire.errors import NotFound
from tidewire.runtime.console import (
    FOUND_SOMETHING,
    ConfigOpt,
    DataOpt,
    JsonOpt,
    configured,
    console,
    data_dir_of,
    errors,
    reading_of,
    run,
    show_json,
    show_rows,
)

app = typer.Typer(help="Look at the sealed files of finished rows.", no_args_is_help=True)


def seal(config: ConfigOpt = None, data: DataOpt = None, as_json: JsonOpt = False) -> None:
    """Move finished rows from the store to sealed files now; a running platform does it by itself."""
    done = [_step(each) for each in run(reading_of(config, data).seal())]
    if as_json:
        show_json({"sealed": done})
        return
    show_rows(done)
    console.print(f"{sum(each['rows'] for each in done):,} rows went into {len(done):,} files", highlight=False)


@app.command("list")
def cold_list(config: ConfigOpt = None, data: DataOpt = None, as_json: JsonOpt = False) -> None:
    """List the sealed files, by type, source and span of time."""
    files = [
        {
            "type": manifest.table,
            "source": file.source,
            "level": file.level,
            "rows": file.rows,
            "bytes": file.bytes,
            "file": file.name,
        }
        for manifest in _manifests(config, data)
        for file in manifest.files
    ]
    if as_json:
        show_json({"files": files})
        return
    show_rows(files)
    rows, size = sum(file["rows"] for file in files), sum(file["bytes"] for file in files)
    console.print(f"{rows:,} rows, {size:,} bytes in {len(files):,} files", highlight=False)


@app.command("check")
def cold_check(config: ConfigOpt = None, data: DataOpt = None, as_json: JsonOpt = False) -> None:
    """Read every sealed file: its length, checksum and rows. Exits 3 when something is damaged or missing."""
    from tidewire.runtime.sealing import objects_of
    from tidewire.store.sealed import fault

    objects = objects_of(configured(config).config, data_dir_of(config, data))
    checked = 0
    found: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="tidewire-cold-") as work:
        for manifest in _manifests(config, data):
            for file in manifest.files:
                checked += 1
                if problem := fault(objects, file, Path(work)):
                    found.append({"file": file.name, "problem": problem})
    if as_json:
        show_json({"files": checked, "damaged": found})
    else:
        for each in found:
            errors.print(f"[red]damaged[/red] {each['file']} {each['problem']}", highlight=False, soft_wrap=True)
        console.print(f"{checked:,} files read, {len(found):,} damaged or missing", highlight=False)
    if found:
        raise typer.Exit(FOUND_SOMETHING)


def _manifests(config: Path | None, data: Path | None) -> list[Any]:
    from tidewire.runtime.sealing import objects_of
    from tidewire.store.sealed import manifests

    folder = data_dir_of(config, data)
    if not folder.is_dir():
        raise NotFound(f"{folder}: no such data directory. Name one with --data, or a config with --config.")
    return list(manifests(objects_of(configured(config).config, folder)))


def _step(sealed: Any) -> dict[str, Any]:
    return {"type": sealed.type, "source": sealed.file.source, "rows": sealed.rows, "file": sealed.file.name}
