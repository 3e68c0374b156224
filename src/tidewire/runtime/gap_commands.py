"""``tidewire gaps``: what is known to be missing, and what became of it."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer

from tidewire.runtime.console import ConfigOpt, DataOpt, JsonOpt, console, errors, reading_of, run, show_json, show_rows

MOST = 10_000

app = typer.Typer(help="What is known to be missing, why, and what became of it.", no_args_is_help=True)

_ABOUT = ("source", "record_type", "cause", "state")
_SHOWN = (
    *("event_time", "until_time", "source", "record_type", "instrument", "series", "cause", "state", "missing"),
    "detail",
)


@app.command("ls")
def gaps_ls(
    state: Annotated[str | None, typer.Option(help="Only these: open, filling, filled, unfillable.")] = None,
    record_type: Annotated[str | None, typer.Option("--type", help="Only gaps of this record type.")] = None,
    symbol: Annotated[list[str] | None, typer.Option(help="Only of this instrument; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(help="List at most so many, the newest.")] = 20,
    config: ConfigOpt = None,
    data: DataOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Count gaps by source, type, cause and state, and list the newest."""
    params: dict[str, list[str]] = {"limit": [str(MOST)], "order": ["desc"]}
    given = {"state": state, "record_type": record_type}
    params |= {name: [value] for name, value in given.items() if value is not None}
    if symbol:
        params["symbol"] = symbol
    reading = reading_of(config, data)
    rows = run(reading.rows("gap", params))
    counts = Counter(tuple(row[name] for name in _ABOUT) for row in rows)
    summary = [dict(zip(_ABOUT, name, strict=True)) | {"gaps": count} for name, count in sorted(counts.items())]
    if as_json:
        show_json({"summary": summary, "gaps": rows[:limit]})
        return
    errors.print(reading.how, style="dim", highlight=False, soft_wrap=True)
    show_rows(summary)
    if rows:
        console.print()
        show_rows([_shown(row) for row in rows[:limit]])
    if len(rows) == MOST:
        errors.print(f"only the newest {MOST:,} gaps were counted; name a --type or --state for the rest")


@app.command("fill")
def gaps_fill(
    source: Annotated[str | None, typer.Option(help="Only this source; default: all.")] = None,
    config: ConfigOpt = None,
    data: DataOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Have the running platform look at its gaps again, also at those it gave up."""
    asked = run(reading_of(config, data).refill(source))
    if as_json:
        show_json({"asked": asked})
        return
    console.print(f"asked: {', '.join(asked) or 'no source'}; watch `tidewire gaps ls`", highlight=False)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _SHOWN}
