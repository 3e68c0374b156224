"""``tidewire journal``: what was received, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from tidewire.runtime.console import (
    FOUND_SOMETHING,
    ConfigOpt,
    DataOpt,
    JsonOpt,
    console,
    data_dir_of,
    moment,
    show_json,
    show_rows,
)

app = typer.Typer(help="Look into the journal: what was received, byte for byte.", no_args_is_help=True)


@app.command("ls")
def journal_ls(config: ConfigOpt = None, data: DataOpt = None, as_json: JsonOpt = False) -> None:
    """List the segments."""
    reader = _reader(config, data)
    segments = [
        {
            "file": segment.path.name,
            "first": segment.first,
            "last": segment.last,
            "bytes": segment.bytes,
            "created": moment(segment.created_ns),
        }
        for segment in reader.segments()
    ]
    if as_json:
        show_json({"journal": reader.uuid, "accepted": reader.accepted, "segments": segments})
        return
    show_rows(segments)
    console.print(f"journal {reader.uuid}, {reader.accepted:,} frames", highlight=False)


@app.command("verify")
def journal_verify(config: ConfigOpt = None, data: DataOpt = None, as_json: JsonOpt = False) -> None:
    """Read every frame and check every checksum. Exits 3 when something is damaged."""
    reader = _reader(config, data)
    findings = [
        {"level": found.level, "file": found.path.name, "offset": found.offset, "what": found.what}
        for found in reader.verify()
    ]
    damaged = [found for found in findings if found["level"] != "torn"]
    if as_json:
        show_json({"journal": reader.uuid, "frames": reader.accepted, "findings": findings})
    else:
        for found in findings:
            console.print(f"{found['level']}: {found['file']} at {found['offset']:,}: {found['what']}", highlight=False)
        console.print(f"{len(reader.segments())} segments up to frame {reader.accepted:,}: {len(damaged)} damaged")
    if damaged:
        raise typer.Exit(FOUND_SOMETHING)


def _reader(config: Path | None, data: Path | None) -> Any:
    from tidewire.journal import JournalReader

    return JournalReader(data_dir_of(config, data) / "journal")
