"""``tidewire journal``: what was received, byte for byte, in the journal's directory and in the archive."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from tidewire.runtime.console import (
    FOUND_SOMETHING,
    ConfigOpt,
    DataOpt,
    JsonOpt,
    configured,
    console,
    data_dir_of,
    errors,
    moment,
    show_json,
    show_rows,
)

app = typer.Typer(help="Look into the journal: what was received, byte for byte.", no_args_is_help=True)

StartOpt = Annotated[str | None, typer.Option(help="Received from then on: 2026-01-05 or 2026-01-05T09:30:00Z.")]
EndOpt = Annotated[str | None, typer.Option(help="Received before then.")]
JournalOpt = Annotated[
    str | None, typer.Option("--journal", help="Which journal of the archive, where the directory is lost.")
]


@app.command("ls")
def journal_ls(
    sources: Annotated[bool, typer.Option("--sources", help="What each source takes in the archive.")] = False,
    config: ConfigOpt = None,
    data: DataOpt = None,
    journal: JournalOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """List the segments, in the directory and in the archive."""
    history = _history(config, data, journal)
    segments = _segments(history)
    by_source = _by_source(history) if sources else None
    if as_json:
        found = {"journal": history.uuid, "accepted": history.accepted, "segments": segments}
        show_json(found if by_source is None else {**found, "sources": by_source})
        return
    show_rows(segments if by_source is None else by_source)
    console.print(f"journal {history.uuid}, {history.accepted:,} frames", highlight=False)


def _segments(history: Any) -> list[dict[str, Any]]:
    """Every segment once: where it is, and what it takes there."""
    from tidewire.journal.segment import segment_name

    found: dict[int, dict[str, Any]] = {}
    for kept in history.archive.manifests if history.archive is not None else ():
        left = [part for part in kept.parts if not part.expired]
        found[kept.first] = {
            "file": segment_name(kept.first),
            "first": kept.first,
            "last": kept.last,
            "bytes": kept.bytes,
            "created": moment(kept.created_ns),
            "local": "no",
            "archived_bytes": sum(part.stored_bytes for part in left),
            "expired_frames": kept.expired,
        }
    for segment in history.local.segments() if history.local is not None else ():
        archived = found.get(segment.first, {"archived_bytes": None, "expired_frames": 0})
        found[segment.first] = {
            "file": segment.path.name,
            "first": segment.first,
            "last": segment.last,
            "bytes": segment.bytes,
            "created": moment(segment.created_ns),
            "local": "yes",
            "archived_bytes": archived["archived_bytes"],
            "expired_frames": archived["expired_frames"],
        }
    return [found[first] for first in sorted(found)]


def _by_source(history: Any) -> list[dict[str, Any]]:
    sums: dict[str, dict[str, Any]] = {}
    for kept in history.archive.manifests if history.archive is not None else ():
        for part in kept.parts:
            start = {"source": part.source, "frames": 0, "raw_bytes": 0, "archived_bytes": 0, "expired_frames": 0}
            line = sums.setdefault(part.source, start)
            if part.expired:
                line["expired_frames"] += part.frames
                continue
            line["frames"] += part.frames
            line["raw_bytes"] += part.raw_bytes
            line["archived_bytes"] += part.stored_bytes
    return [sums[source] for source in sorted(sums)]


@app.command("verify")
def journal_verify(
    archive: Annotated[
        bool, typer.Option("--archive/--no-archive", help="Read the objects of the archive as well.")
    ] = True,
    config: ConfigOpt = None,
    data: DataOpt = None,
    journal: JournalOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Read every frame and check every checksum, also in the archive. Exits 3 when something is damaged."""
    from tidewire.journal import JournalReader
    from tidewire.runtime.archiving import archive_of, local_of

    folder, settings = data_dir_of(config, data), configured(config).config
    local = local_of(folder)
    archived = archive_of(settings, folder, local.uuid if local is not None else journal) if archive else None
    if local is None and archived is None:
        JournalReader(folder / "journal")  # says what is missing
    findings = [
        {"level": found.level, "file": found.path.name, "offset": found.offset, "what": found.what}
        for found in (local.verify() if local is not None else ())
    ]
    findings += [
        {"level": found.level, "file": str(found.path), "offset": found.offset, "what": found.what}
        for found in (archived.verify() if archived is not None else ())
    ]
    damaged = [found for found in findings if found["level"] != "torn"]
    known: Any = local or archived
    counts = {
        "segments": len(local.segments()) if local is not None else 0,
        "archived": len(archived.manifests) if archived is not None else 0,
    }
    if as_json:
        show_json({"journal": known.uuid, "frames": known.accepted, **counts, "findings": findings})
    else:
        for found in findings:
            line = f"{found['level']}: {found['file']} at {found['offset']:,}: {found['what']}"
            console.print(line, highlight=False, soft_wrap=True, markup=False)
        console.print(
            f"{counts['segments']} segments up to frame {known.accepted:,}, {counts['archived']} archived: "
            f"{len(damaged)} damaged"
        )
    if damaged:
        raise typer.Exit(FOUND_SOMETHING)


@app.command("export")
def journal_export(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file; .zst compresses.")] = None,
    source: Annotated[str | None, typer.Option(help="Frames of this source only.")] = None,
    start: StartOpt = None,
    end: EndOpt = None,
    after: Annotated[int | None, typer.Option(help="Frames after this sequence.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many frames.")] = None,
    config: ConfigOpt = None,
    data: DataOpt = None,
    journal: JournalOpt = None,
) -> None:
    """Write frames as NDJSON, one a line, from directory and archive: times, origin, cursor and payload."""
    from tidewire.runtime import exporting

    history = _history(config, data, journal)
    begin = history.first - 1 if after is None else after
    frames = history.scan(after=begin, source=source, start_ns=_ns(start, "start"), end_ns=_ns(end, "end"))
    chosen = frames if limit is None else islice(frames, limit)
    if out is None:
        for _ in exporting.write(chosen, sys.stdout.buffer):
            pass
        sys.stdout.buffer.flush()
    else:
        with exporting.output(out) as file:
            _show_export(chosen, file, history, begin)
    if history.expired:
        errors.print(f"[yellow]note[/yellow] {history.expired:,} frames of this journal have expired in the archive.")


def _show_export(frames: Any, file: IO[bytes], history: Any, begin: int) -> None:
    from rich.progress import Progress

    from tidewire.runtime import exporting

    with Progress(console=errors, disable=not errors.is_terminal) as progress:
        task = progress.add_task("export", total=history.accepted - begin)
        for frame in exporting.write(frames, file):
            progress.update(task, completed=frame.sequence - begin)


@app.command("restore")
def journal_restore(
    into: Annotated[Path, typer.Option("--into", help="Directory to write segments to; empty, or not there yet.")],
    from_sequence: Annotated[int | None, typer.Option(help="From the segment with this frame on.")] = None,
    to_sequence: Annotated[int | None, typer.Option(help="Up to the segment with this frame.")] = None,
    start: StartOpt = None,
    end: EndOpt = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Put a note in the place of each frame that has expired.")
    ] = False,
    config: ConfigOpt = None,
    data: DataOpt = None,
    journal: JournalOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Bring archived segments back, byte for byte, into a directory that is a readable journal."""
    from rich.progress import Progress

    from tidewire.errors import NotFound
    from tidewire.journal.restore import choose, restore
    from tidewire.runtime.archiving import archive_of, expired_note, local_of

    folder, settings = data_dir_of(config, data), configured(config).config
    local = local_of(folder) if journal is None else None
    reader = archive_of(settings, folder, local.uuid if local is not None else journal)
    if reader is None:
        raise NotFound(f"Nothing of the journal of {folder} is archived. `tidewire journal ls` shows what is where.")
    chosen = choose(
        reader.manifests,
        first=from_sequence,
        last=to_sequence,
        start_ns=_ns(start, "start"),
        end_ns=_ns(end, "end"),
    )
    with Progress(console=errors, disable=not errors.is_terminal) as progress:
        task = progress.add_task("restore", total=len(chosen))
        for _ in restore(reader, chosen, into, noted=expired_note if partial else None):
            progress.advance(task)
    found = {
        "journal": reader.uuid,
        "segments": len(chosen),
        "first": chosen[0].first,
        "last": chosen[-1].last,
        "expired_frames": sum(kept.expired for kept in chosen),
        "into": str(into),
    }
    if as_json:
        show_json(found)
        return
    console.print(
        f"{found['segments']} segments, frames {found['first']:,} to {found['last']:,}, restored into {into}",
        highlight=False,
    )
    if found["expired_frames"]:
        errors.print(
            f"[yellow]note[/yellow] {found['expired_frames']:,} of them have expired; notes stand in their place."
        )


def _history(config: Path | None, data: Path | None, journal: str | None) -> Any:
    from tidewire.runtime.archiving import history_of

    return history_of(configured(config).config, data_dir_of(config, data), journal)


def _ns(text: str | None, name: str) -> int | None:
    """A time of the command line in nanoseconds since 1970."""
    from tidewire.serve.params import time_of

    when = time_of({name: [text]}, name) if text is not None else None
    return None if when is None else round(when.timestamp() * 1_000_000) * 1_000
