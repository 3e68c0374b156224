"""``tidewire audit``: what became of every row that was received, and which rows are not where they should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from tidewire.runtime.console import (
    FOUND_SOMETHING,
    ConfigOpt,
    DataOpt,
    JsonOpt,
    console,
    errors,
    reading_of,
    run,
    show_json,
    show_rows,
)


def audit(
    source: Annotated[list[str] | None, typer.Option(help="Only this source; may be repeated.")] = None,
    kind: Annotated[list[str] | None, typer.Option("--type", help="Only this record type; may be repeated.")] = None,
    start: Annotated[str | None, typer.Option(help="From this hour on: 2026-01-05 or 2026-01-05T09:00:00Z.")] = None,
    end: Annotated[str | None, typer.Option(help="Up to this hour.")] = None,
    totals: Annotated[bool, typer.Option("--totals", help="All hours in one line.")] = False,
    frames: Annotated[
        bool, typer.Option("--frames", help="Read all frames again, not only those of lines that differ.")
    ] = False,
    config: ConfigOpt = None,
    data: DataOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Add up what became of every row that was received. Exits 3 when something is not accounted for.

    Where books and tables differ the frames are read again, and the rows are named that are missing, foreign, changed
    or there twice.
    """
    params = {"frames": ["true" if frames else "differing"]}
    params |= {name: [value] for name, value in (("start", start), ("end", end)) if value is not None}
    params |= {name: values for name, values in (("source", source), ("type", kind)) if values}
    reading = reading_of(config, data)
    with errors.status("adding up", spinner="dots") as status:
        books = run(reading.audit(params, lambda done, of: status.update(f"frames of hour {done + 1} of {of}")))
    if as_json:
        show_json(books)
    else:
        errors.print(reading.how, style="dim", highlight=False, soft_wrap=True)
        show_rows(list(_rows(books["lines"], totals=totals)))
        for text in _told(books):
            console.print(text, highlight=False, soft_wrap=True, markup=False)
    if not books["sound"]:
        raise typer.Exit(FOUND_SOMETHING)


def _rows(lines: list[dict[str, Any]], *, totals: bool) -> Iterator[dict[str, Any]]:
    """The lines as rows of a table; with ``totals`` those of all hours in one."""
    fates = sorted({fate for line in lines for fate in line["fates"]})
    sums: dict[tuple[str, ...], Counter[str]] = {}
    for line in lines:
        name = (line["source"], line["type"]) if totals else (line["source"], line["type"], line["hour"][:13])
        sums.setdefault(name, Counter()).update(
            {"received": line["received"], **line["fates"], "difference": line["difference"]}
        )
    for name, counted in sums.items():
        yield dict(zip(("source", "type", "hour"), name, strict=False)) | {
            column: counted[column] for column in ("received", *fates, "difference")
        }


def _told(books: Mapping[str, Any]) -> Iterator[str]:
    """What differs, in words."""
    for line in books["lines"]:
        if line["table"] != line["booked"]:
            yield f"{_place(line)}: the books say {line['booked']:,} stored, the table holds {line['table']:,}"
        if line["difference"] and line["received"] != sum(line["fates"].values()):
            yield f"{_place(line)}: {line['received']:,} received, {sum(line['fates'].values()):,} with a fate"
    for traced in books["frames"] or ():
        yield from _named(traced)
    flying = ", ".join(f"{frames:,} {name}" for name, frames in books["in_flight"].items() if frames)
    yield (
        f"difference {books['difference']:,}, in flight {books['in_flight_frames']:,} frames"
        f"{f' ({flying})' if flying else ''}"
    )


def _named(traced: Mapping[str, Any]) -> Iterator[str]:
    counts = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in traced["counts"].items())
    yield f"{_place(traced)}: {counts or 'every row is as its frame has it'}"
    for name in traced["names"]:
        key = ", ".join(f"{column}={value}" for column, value in name["key"].items())
        place = f"frame {name['frame']}" + (f" ordinal {name['ordinal']}" if name["ordinal"] is not None else "")
        differs = f"; differs in {', '.join(name['columns'])}" if name["columns"] else ""
        yield f"  {name['what'].replace('_', ' ')}: {place}, {key}{differs}"
    if traced["more"]:
        yield f"  … and {traced['more']:,} more"
    for fate, both in traced["books"].items():
        yield f"  {fate}: the books say {both['books']:,}, the frames come to {both['frames']:,}"
    for why in traced["unread"]:
        yield f"  not looked at: {why}"


def _place(line: Mapping[str, Any]) -> str:
    return f"{line['type']}/{line['source']} {line['hour'][:13]}"
