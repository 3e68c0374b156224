"""The command line. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 differences or damage found."""

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

from tidewire import __version__, telemetry
from tidewire.errors import InputError, TidewireError

FOUND_SOMETHING = 3

app = typer.Typer(
    name="tidewire",
    help="Collect market data continuously, keep every byte, check every row, serve history and live data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
journal_app = typer.Typer(help="Look into the journal: what was received, byte for byte.", no_args_is_help=True)
app.add_typer(journal_app, name="journal")

console = Console()
errors = Console(stderr=True)
T = TypeVar("T")

ConfigArg = Annotated[
    Path | None, typer.Argument(help="A platform file, or a single source file. Default: ./tidewire.yaml")
]
ConfigOpt = Annotated[Path | None, typer.Option("--config", "-c", help="Platform or source file.")]
DataOpt = Annotated[Path | None, typer.Option("--data", help="Data directory; default: the one of the configuration.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def main() -> None:
    """Run a command; every expected error is one clear message and an exit code."""
    telemetry.configure("warning")
    try:
        app()
    except InputError as error:
        errors.print(f"[red]error[/red] {error}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except TidewireError as error:
        errors.print(f"[red]error[/red] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


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


@app.command()
def version() -> None:
    """Print the version."""
    console.print(__version__)


@app.command()
def demo(
    directory: Annotated[Path, typer.Option("--dir", help="Where the demo keeps its data.")] = Path("tidewire-demo"),
    port: Annotated[int, typer.Option(help="Port of the API.")] = 8700,
    rate: Annotated[float, typer.Option(help="Market events per second of the local upstream.")] = 500.0,
    seconds: Annotated[float | None, typer.Option(help="End by itself after so long.")] = None,
) -> None:
    """Collect from a local upstream that speaks Binance's protocol, and show what happens. Needs no network."""
    from tidewire.runtime import demo as demo_

    run(demo_.demo(console, directory, port=port, rate=rate, seconds=seconds))


@app.command()
def up(
    config: ConfigArg = None,
    seconds: Annotated[float | None, typer.Option(help="End by itself after so long.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the log.")] = False,
) -> None:
    """Collect, check, store and serve until Ctrl-C."""
    from tidewire.runtime.config import load
    from tidewire.runtime.supervise import supervise
    from tidewire.runtime.view import show

    loaded = load(config)
    if not loaded.sources:
        errors.print(f"[yellow]note[/yellow] {loaded.origin} lists no sources; only what is stored is served.")
    log = loaded.config.log
    telemetry.configure(log.level, log.form)
    plain = quiet or log.form == "json" or not console.is_terminal
    run(
        supervise(
            loaded,
            view=None if plain else lambda platform: show(platform, console, [f"API {platform.url}/docs"]),
            seconds=seconds,
            ready=lambda platform: console.print(f"serving {platform.url}", highlight=False) if plain else None,
        )
    )


@app.command()
def check(config: ConfigArg = None, as_json: JsonOpt = False) -> None:
    """Read a configuration and say what is wrong with it, without touching the network."""
    from tidewire.collect import AppRegistry
    from tidewire.runtime.config import load
    from tidewire.runtime.platform import chosen_apps, make_store

    loaded = load(config)
    registry = AppRegistry()
    registry.discover(loaded.plugins)
    chosen_apps(loaded, registry)
    make_store(loaded.config, loaded.data_dir)
    loaded.config.journal_config()
    names = [source.source.name for source in loaded.sources]
    if as_json:
        show_json({"config": loaded.origin, "sources": names, "data_dir": str(loaded.data_dir)})
        return
    console.print(f"{loaded.origin}: good. Sources: {', '.join(names) or 'none'}. Data: {loaded.data_dir}")


@app.command()
def sources(config: ConfigOpt = None, data: DataOpt = None, as_json: JsonOpt = False) -> None:
    """List the sources that are installed, and how those of a running platform are."""
    from tidewire.collect import AppRegistry

    reading = _reading(config, data)
    registry = AppRegistry()
    registry.discover(_loaded(config).plugins)
    status = {entry["name"]: entry for entry in run(reading.sources())}
    found = [
        {
            "name": entry.name,
            "about": entry.app.about if entry.app else f"did not load: {entry.error}",
            "origin": entry.origin,
            "status": status.get(entry.name, {}).get("health", "not running"),
        }
        for entry in registry.list()
    ]
    if as_json:
        show_json({"installed": found, "running": list(status.values())})
        return
    show_rows(found)


@app.command()
def sandbox(
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 0,
    rate: Annotated[
        float, typer.Option(help="Synthetic market: events per second; 0 as fast as clients read.")
    ] = 200.0,
    symbols: Annotated[int, typer.Option(help="Synthetic market: number of symbols.")] = 8,
    seed: Annotated[int, typer.Option(help="Same seed, same market.")] = 7,
    recording: Annotated[Path | None, typer.Option(help="Play this recording instead.")] = None,
    speed: Annotated[float, typer.Option(help="Recording: times real speed; 0 as fast as clients read.")] = 1.0,
    start_on: Annotated[
        list[str] | None, typer.Option(help="Begin once all streams of this kind are subscribed, e.g. trade.")
    ] = None,
    fault: Annotated[list[str] | None, typer.Option(help="A fault switch, name=value, e.g. drop=0.01.")] = None,
    until_eof: Annotated[bool, typer.Option(hidden=True)] = False,
    as_json: JsonOpt = False,
) -> None:
    """Run a local upstream that speaks Binance's real protocol: a synthetic market, or a recording."""
    from tidewire.runtime import upstream

    config = upstream.sandbox_config(
        port=port,
        seed=seed,
        symbols=symbols,
        rate=rate,
        recording=recording,
        speed=speed,
        start_on=start_on or [],
        faults=fault or [],
    )
    run(upstream.serve(config, console, as_json=as_json, until_eof=until_eof))


@app.command()
def query(
    record_type: Annotated[str, typer.Argument(help="What to read: trade, quote, kline, ticker, gap …")],
    symbol: Annotated[
        list[str] | None, typer.Option(help="Any common spelling, or a pattern; may be repeated.")
    ] = None,
    start: Annotated[str | None, typer.Option(help="From, inclusive: 2026-01-05 or 2026-01-05T09:30:00Z.")] = None,
    end: Annotated[str | None, typer.Option(help="Until, exclusive.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many rows.")] = 20,
    order: Annotated[str, typer.Option(help="asc or desc by time.")] = "desc",
    where: Annotated[list[str] | None, typer.Option(help="Any other filter, name=value, e.g. interval=1m.")] = None,
    latest: Annotated[bool, typer.Option("--latest", help="Only the last row of each series.")] = False,
    every: Annotated[bool, typer.Option("--all-columns", help="Show lineage columns too.")] = False,
    config: ConfigOpt = None,
    data: DataOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Read rows: through the API while a platform runs, from its files otherwise."""
    params: dict[str, list[str]] = {"limit": [str(limit)]}
    if not latest:
        params |= {"order": [order]} | {n: [v] for n, v in (("start", start), ("end", end)) if v is not None}
    if symbol:
        params["symbol"] = symbol
    for pair in where or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--where {pair!r}: write name=value, e.g. interval=1m.")
        params.setdefault(name, []).append(value)
    reading = _reading(config, data)
    rows = run(reading.rows(record_type, params, latest=latest))
    if as_json:
        show_json(rows)
        return
    errors.print(reading.how, style="dim", highlight=False, soft_wrap=True)
    show_rows(rows, every=every)


@app.command()
def audit(config: ConfigOpt = None, data: DataOpt = None, as_json: JsonOpt = False) -> None:
    """Add up what became of every row that was received. Exits 3 when something is not accounted for."""
    reading = _reading(config, data)
    books = run(reading.audit())
    if as_json:
        show_json(books)
    else:
        errors.print(reading.how, style="dim", highlight=False, soft_wrap=True)
        fates = sorted({fate for line in books["lines"] for fate in line["fates"]})
        show_rows(
            [
                {
                    "source": line["source"],
                    "type": line["type"],
                    "hour": line["hour"][:13],
                    "received": line["received"],
                }
                | {fate: line["fates"].get(fate, 0) for fate in fates}
                | {"difference": line["difference"]}
                for line in books["lines"]
            ]
        )
        for place, both in books["tables"].items():
            console.print(f"{place}: the books say {both['books']:,} stored, the table holds {both['table']:,}")
        console.print(f"difference {books['difference']:,}, in flight {books['in_flight_frames']:,} frames")
    if books["difference"]:
        raise typer.Exit(FOUND_SOMETHING)


@app.command()
def replay(
    into: Annotated[Path, typer.Option("--into", help="Data directory to fill; must not hold a store yet.")],
    config: ConfigOpt = None,
    data: DataOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Run a journal through today's code into an empty store."""
    from tidewire.runtime import replaying

    done = run(replaying.replay(_loaded(config), _data_dir(config, data), into, console if not as_json else None))
    if as_json:
        show_json(done)
        return
    console.print(f"{done['frames']:,} frames, {done['rows']:,} rows stored in {into}", highlight=False)


@journal_app.command("ls")
def journal_ls(config: ConfigOpt = None, data: DataOpt = None, as_json: JsonOpt = False) -> None:
    """List the segments."""
    reader = _journal(config, data)
    segments = [
        {
            "file": segment.path.name,
            "first": segment.first,
            "last": segment.last,
            "bytes": segment.bytes,
            "created": _moment(segment.created_ns),
        }
        for segment in reader.segments()
    ]
    if as_json:
        show_json({"journal": reader.uuid, "accepted": reader.accepted, "segments": segments})
        return
    show_rows(segments)
    console.print(f"journal {reader.uuid}, {reader.accepted:,} frames", highlight=False)


@journal_app.command("verify")
def journal_verify(config: ConfigOpt = None, data: DataOpt = None, as_json: JsonOpt = False) -> None:
    """Read every frame and check every checksum. Exits 3 when something is damaged."""
    reader = _journal(config, data)
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


def _moment(wall_ns: int) -> str:
    from tidewire.records.clock import utc

    return utc(wall_ns).isoformat()


def _loaded(config: Path | None) -> Any:
    from tidewire.runtime.config import DEFAULT_FILE, Config, Loaded, load

    if config is None and not Path(DEFAULT_FILE).exists():
        return Loaded(Config(), [], Path(), "defaults")
    return load(config)


def _data_dir(config: Path | None, data: Path | None) -> Path:
    return data if data is not None else _loaded(config).data_dir


def _reading(config: Path | None, data: Path | None) -> Any:
    from tidewire.runtime.reading import Reading

    return Reading(_data_dir(config, data), _loaded(config).config)


def _journal(config: Path | None, data: Path | None) -> Any:
    from tidewire.journal import JournalReader

    return JournalReader(_data_dir(config, data) / "journal")


if __name__ == "__main__":
    main()
