"""``tidewire quarantine``: what failed, why, and what is to become of it."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tidewire.errors import InputError
from tidewire.runtime.console import (
    FOUND_SOMETHING,
    ConfigOpt,
    DataOpt,
    JsonOpt,
    configured,
    console,
    data_dir_of,
    errors,
    run,
    show_json,
    show_rows,
)

app = typer.Typer(help="Look into quarantine, and decide what becomes of what is in it.", no_args_is_help=True)

SHOWN_TEXT = 4_000
SHOWN_ROWS = 20

NameArg = Annotated[str, typer.Argument(help="FRAME, or as `tidewire quarantine ls` names it; a journal may be cut.")]
NamesArg = Annotated[list[str] | None, typer.Argument(help="As `tidewire quarantine ls` names them.")]
RuleOpt = Annotated[str | None, typer.Option(help="Rows that failed this rule.")]
TypeOpt = Annotated[str | None, typer.Option("--type", help="Rows of this record type; frame: unreadable frames.")]
SourceOpt = Annotated[str | None, typer.Option(help="Rows of this source.")]
StartOpt = Annotated[str | None, typer.Option(help="Received from then on: 2026-01-05 or 2026-01-05T09:30:00Z.")]
EndOpt = Annotated[str | None, typer.Option(help="Received before.")]
WhyOpt = Annotated[str, typer.Option(help="Why; kept with the decision.")]
WhoOpt = Annotated[str | None, typer.Option(help="Who decides; default: the login name.")]
ForceOpt = Annotated[bool, typer.Option("--force", help="Also what would be quarantined again.")]
YesOpt = Annotated[bool, typer.Option("--yes", help="Do it; without, rows that match are only counted.")]
DryOpt = Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")]
LimitOpt = Annotated[int, typer.Option(help="Rows decided about at most, 1 to 1000.")]


@app.command("ls")
def quarantine_ls(
    state: Annotated[str, typer.Option(help="open, released, corrected, rejected, or all.")] = "open",
    rule: RuleOpt = None,
    record_type: TypeOpt = None,
    source: SourceOpt = None,
    start: StartOpt = None,
    end: EndOpt = None,
    limit: Annotated[int, typer.Option(help="At most so many rows, the newest.")] = SHOWN_ROWS,
    config: ConfigOpt = None,
    data: DataOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """List what is in quarantine, newest first."""
    from tidewire.runtime.quarantine_cases import name_of

    given = {"state": None if state == "all" else state, "type": record_type, "source": source}
    given |= {"start": start, "end": end, "order": "desc", "limit": str(limit if rule is None else 100_000)}
    params = {name: [value] for name, value in given.items() if value is not None}
    deciding = _deciding(config, data)
    rows = [row | {"reasons": msgspec.json.decode(row["reasons"])} for row in run(deciding.rows("quarantined", params))]
    rows = [row for row in rows if rule is None or rule in row["reasons"]][:limit]
    if as_json:
        show_json([{"name": name_of(row)} | row for row in rows])
        return
    errors.print(deciding.how, style="dim", highlight=False, soft_wrap=True)
    show_rows(
        [
            {
                "name": name_of(row),
                "source": row["source"],
                "received": row["event_time"],
                "state": row["state"],
                "reasons": _reasons(row["reasons"]),
                "decided_by": row["decided_by"],
            }
            for row in rows
        ]
    )


@app.command("rules")
def quarantine_rules(config: ConfigOpt = None, data: DataOpt = None, as_json: JsonOpt = False) -> None:
    """Count what is in quarantine by source, type, rule and state: in the last hour, the last day, and in all."""
    deciding = _deciding(config, data)
    found = run(deciding.rules())
    if as_json:
        show_json(found)
        return
    errors.print(deciding.how, style="dim", highlight=False, soft_wrap=True)
    show_rows(found["rules"])
    if found["rows_left_out"]:
        console.print(f"{found['rows_left_out']:,} older rows are not counted", highlight=False)


@app.command("show")
def quarantine_show(
    name: NameArg,
    raw: Annotated[
        bool, typer.Option("--raw", help="All the bytes that are shown by the API, not their beginning.")
    ] = False,
    config: ConfigOpt = None,
    data: DataOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Show a frame: the bytes as received, the rows of it in quarantine, and all that was decided."""
    from tidewire.runtime.quarantine_cases import Name

    found = run(_deciding(config, data).show(Name.of(name)))
    if as_json:
        show_json(found)
        return
    rows = found.pop("rows")
    for key, value in found.items():
        if value is None:
            continue
        text = str(value)
        cut = "" if raw or len(text) <= SHOWN_TEXT else f" … ({len(text):,} characters; --raw shows more)"
        _print(f"{key}: {text if raw else text[:SHOWN_TEXT]}{cut}")
    for row in rows:
        _print(f"\n{row['name']}  {row['state']}")
        _print(f"  reasons: {_reasons(row['reasons'])}")
        _print(f"  content: {msgspec.json.encode(row['content']).decode()[:SHOWN_TEXT]}")
        for step in row["history"]:
            by = f" by {step['by']} (frame {step['decision']})" if step["by"] else ""
            _print(f"  {step['at']}  {step['state']}{by}")


@app.command("release")
def quarantine_release(
    why: WhyOpt,
    names: NamesArg = None,
    rule: RuleOpt = None,
    record_type: TypeOpt = None,
    source: SourceOpt = None,
    start: StartOpt = None,
    end: EndOpt = None,
    limit: LimitOpt = 1_000,
    force: ForceOpt = False,
    yes: YesOpt = False,
    dry_run: DryOpt = False,
    who: WhoOpt = None,
    config: ConfigOpt = None,
    data: DataOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Parse rows again with today's parser and rules, and store them. Exits 3 when some would fail again."""
    match = {"rule": rule, "type": record_type, "source": source, "start": start, "end": end}
    asked = _asked("release", why, who, names, match)
    asked |= {"limit": limit, "force": force, "dry_run": dry_run or ("match" in asked and not yes)}
    _decide(asked, config, data, as_json=as_json)


@app.command("reject")
def quarantine_reject(
    why: WhyOpt,
    names: NamesArg = None,
    rule: RuleOpt = None,
    record_type: TypeOpt = None,
    source: SourceOpt = None,
    start: StartOpt = None,
    end: EndOpt = None,
    limit: LimitOpt = 1_000,
    yes: YesOpt = False,
    dry_run: DryOpt = False,
    who: WhoOpt = None,
    config: ConfigOpt = None,
    data: DataOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Say of rows that they are wrong and stay out."""
    match = {"rule": rule, "type": record_type, "source": source, "start": start, "end": end}
    asked = _asked("reject", why, who, names, match)
    asked |= {"limit": limit, "dry_run": dry_run or ("match" in asked and not yes)}
    _decide(asked, config, data, as_json=as_json)


@app.command("correct")
def quarantine_correct(
    name: NameArg,
    values: Annotated[list[str], typer.Option("--set", help="column=value; an empty value is null. May be repeated.")],
    why: WhyOpt,
    force: ForceOpt = False,
    dry_run: DryOpt = False,
    who: WhoOpt = None,
    config: ConfigOpt = None,
    data: DataOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Store a row with values of yours in place of what came; it is public from now on."""
    corrected: dict[str, str] = {}
    for pair in values:
        column, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--set {pair!r}: write column=value, e.g. price=61837.63.")
        corrected[column.strip()] = value
    asked = _asked("correct", why, who, [name], {})
    asked |= {"values": corrected, "force": force, "dry_run": dry_run}
    _decide(asked, config, data, as_json=as_json)


def _deciding(config: Path | None, data: Path | None) -> Any:
    from tidewire.runtime.deciding import Deciding

    return Deciding(data_dir_of(config, data), configured(config))


def _asked(act: str, why: str, who: str | None, names: list[str] | None, match: dict[str, Any]) -> dict[str, Any]:
    match = {key: value for key, value in match.items() if value is not None}
    if bool(names) == bool(match):
        raise InputError("Name rows, or say which by --rule, --type, --source, --start, --end; exactly one of the two.")
    asked: dict[str, Any] = {"act": act, "why": why, "who": who if who is not None else getpass.getuser()}
    return asked | ({"rows": names} if names else {"match": match})


def _decide(asked: dict[str, Any], config: Path | None, data: Path | None, *, as_json: bool) -> None:
    from tidewire.serve.quarantine import Ask

    deciding = _deciding(config, data)
    done = run(deciding.decide(msgspec.convert(asked, Ask)))
    if as_json:
        show_json(done)
    else:
        errors.print(deciding.how, style="dim", highlight=False, soft_wrap=True)
        _told(done, bulk="match" in asked)
    if done["refused"]:
        raise typer.Exit(FOUND_SOMETHING)


def _told(done: dict[str, Any], *, bulk: bool) -> None:
    for one in done["decisions"][:SHOWN_ROWS]:
        came = ", ".join(f"{count:,} {name}" for name, count in one["comes_to"].items()) or "no rows"
        place = f", frame {one['decision'].rpartition('/')[2]}" if one["decision"] else ""
        _print(f"{', '.join(one['rows'][:SHOWN_ROWS])}: {one['state']}, {came}{place}")
        for name in one["again"]:
            _print(f"  quarantined again: {name}")
    for one in done["refused"][:SHOWN_ROWS]:
        _print(f"{one['name']}: would fail again: {one['why']}")
    would = "would be " if done["dry_run"] else ""
    state = {"release": "released", "correct": "corrected", "reject": "rejected"}[done["act"]]
    end = "" if done["dry_run"] else ", stored" if done["stored"] else ", in the journal, not stored yet"
    refused, left = len(done["refused"]), done["left"]
    _print(f"{done['rows']:,} {would}{state}{end}; {refused:,} fail again; {left:,} left for later")
    if done["dry_run"] and bulk:
        _print("nothing is done yet: add --yes")


def _reasons(reasons: dict[str, Any]) -> str:
    return ", ".join(f"{rule} ({'null' if found is None else found})" for rule, found in reasons.items())


def _print(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)
