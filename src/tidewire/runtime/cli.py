"""The command line. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 differences or damage found."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tidewire import __version__, telemetry
from tidewire.errors import ConfigError, InputError, TidewireError
from tidewire.runtime import (
    audit_command,
    backfill_command,
    cold_commands,
    declared_commands,
    gap_commands,
    journal_commands,
    quarantine_commands,
    source_commands,
)
from tidewire.runtime.console import (
    ConfigArg,
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

app = typer.Typer(
    name="tidewire",
    help="Collect market data continuously, keep every byte, check every row, serve history and live data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(gap_commands.app, name="gaps")
app.add_typer(journal_commands.app, name="journal")
app.add_typer(quarantine_commands.app, name="quarantine")
app.add_typer(declared_commands.app, name="source")
app.add_typer(cold_commands.app, name="cold")


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


@app.command()
def version() -> None:
    """Print the version."""
    console.print(__version__)


@app.command()
def demo(
    directory: Annotated[Path, typer.Option("--dir", help="Where the demo keeps its data.")] = Path("tidewire-demo"),
    port: Annotated[int, typer.Option(help="Port of the API.")] = 8700,
    rate: Annotated[float, typer.Option(help="Events per second of the local upstream's crypto market.")] = 500.0,
    stocks: Annotated[int, typer.Option(help="A-shares of the local upstream, all asked for each 3 s.")] = 5_500,
    seconds: Annotated[float | None, typer.Option(help="End by itself after so long.")] = None,
) -> None:
    """Collect crypto and A-shares from a local upstream, and show what happens. Needs no network."""
    from tidewire.runtime import demo as demo_

    run(demo_.demo(console, directory, port=port, rate=rate, stocks=stocks, seconds=seconds))


@app.command()
def up(
    config: ConfigArg = None,
    seconds: Annotated[float | None, typer.Option(help="End by itself after so long.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the log.")] = False,
) -> None:
    """Collect, check, store and serve until Ctrl-C."""
    from tidewire.runtime.config import load
    from tidewire.runtime.plugins import files_of
    from tidewire.runtime.supervise import supervise
    from tidewire.runtime.view import show

    loaded = load(config)
    if not loaded.sources and not files_of(loaded.plugins):
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
    from tidewire.records.clock import SystemClock, SystemRng
    from tidewire.runtime import installed
    from tidewire.runtime.archiving import keeper_config, objects_of
    from tidewire.runtime.config import load
    from tidewire.runtime.failover import successions_of
    from tidewire.runtime.platform import chosen_apps, make_bus, make_store
    from tidewire.runtime.plugins import check_files
    from tidewire.runtime.reach import families_of
    from tidewire.runtime.sealing import tier_of

    loaded = load(config)
    registry = installed.registry()
    registry.discover(loaded.plugins)
    families_of(loaded, SystemClock(), SystemRng())
    chosen_apps(loaded, registry)
    successions_of(loaded, registry)
    plugged = check_files(loaded.plugins, registry, loaded.places)
    for each in plugged:
        if each.error:
            raise ConfigError(each.error)
    make_store(loaded.config, loaded.data_dir, tier_of(loaded.config, loaded.data_dir))
    make_bus(loaded, SystemClock(), SystemRng())
    loaded.config.journal_config()
    _ = loaded.config.audit_interval_s
    keeper_config(loaded.config)
    objects_of(loaded.config.journal.archive, loaded.data_dir)
    loaded.config.breaker_config()
    loaded.config.check_config()
    names = [*loaded.places, *(name for each in plugged if each.runs for name in each.names)]
    if as_json:
        show_json({"config": loaded.origin, "sources": names, "data_dir": str(loaded.data_dir)})
        return
    console.print(f"{loaded.origin}: good. Sources: {', '.join(names) or 'none'}. Data: {loaded.data_dir}")


app.command("sources")(source_commands.sources)
app.command("reload")(source_commands.reload)


@app.command()
def sandbox(
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 0,
    rate: Annotated[
        float, typer.Option(help="Synthetic market: events per second; 0 as fast as clients read.")
    ] = 200.0,
    symbols: Annotated[int, typer.Option(help="Synthetic market: number of symbols.")] = 8,
    futures: Annotated[
        int, typer.Option(help="Synthetic market: number of USD-M contracts, and of COIN-M ones; 0 serves neither.")
    ] = 3,
    harbour: Annotated[
        int, typer.Option(help="Synthetic market: number of symbols of Harbour, an exchange of its own; 0: none.")
    ] = 3,
    china: Annotated[
        int, typer.Option(help="Number of A shares that Eastmoney, Sina, Tencent and the exchanges tell; 0: none.")
    ] = 0,
    session: Annotated[
        str | None, typer.Option(help="Let the clock begin here, e.g. 2026-12-01T09:29:50+08:00, and go on.")
    ] = None,
    session_speed: Annotated[float, typer.Option(help="With --session: times real speed.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Same seed, same market.")] = 7,
    history_hours: Annotated[int, typer.Option(help="Synthetic market: how far back REST reaches.")] = 168,
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
        futures=futures,
        harbour=harbour,
        china=china,
        session=session,
        session_speed=session_speed,
        history_hours=history_hours,
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
    reading = reading_of(config, data)
    rows = run(reading.rows(record_type, params, latest=latest))
    if as_json:
        show_json(rows)
        return
    errors.print(reading.how, style="dim", highlight=False, soft_wrap=True)
    show_rows(rows, every=every)


app.command("audit")(audit_command.audit)
app.command("backfill")(backfill_command.backfill)
app.command("seal")(cold_commands.seal)


@app.command()
def replay(
    into: Annotated[Path, typer.Option("--into", help="Data directory to fill; must not hold a store yet.")],
    config: ConfigOpt = None,
    data: DataOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Run a journal, with what was archived of it, through today's code into an empty store."""
    from tidewire.runtime import replaying

    done = run(replaying.replay(configured(config), data_dir_of(config, data), into, console if not as_json else None))
    if as_json:
        show_json(done)
        return
    console.print(f"{done['frames']:,} frames, {done['rows']:,} rows stored in {into}", highlight=False)
    if done["expired"] or done["first"] > 1:
        said = f"begins with frame {done['first']:,}; {done['expired']:,} later frames have expired in the archive"
        errors.print(f"[yellow]note[/yellow] not the whole journal: it {said}.", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
