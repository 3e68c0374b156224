"""``tidewire source``: writing, checking, trying and recording files that declare a source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidewire.errors import InputError
from tidewire.runtime.config import secret
from tidewire.runtime.console import JsonOpt, console, run, show_json, show_rows

if TYPE_CHECKING:
    from tidewire.sources.declared.trying import Tried

app = typer.Typer(help="Files that declare a source: write, check, try and record them.", no_args_is_help=True)

FileArg = Annotated[Path, typer.Argument(help="The file, named after its source: site.name.yaml.")]
PagesOpt = Annotated[int, typer.Option(help="At most so many pages.")]
GivenOpt = Annotated[list[str] | None, typer.Option("--given", help="A name for ${...}, name=value.")]
UrlOpt = Annotated[str, typer.Option(help="Ask here instead, e.g. a local sandbox.")]

NEW = """\
# A source in a file. Every key: docs/declared-sources.md. Check it: tidewire source check {name}.yaml
version: 1
source: {name}
about: Last prices. What a person would open - https://example.com/prices
emits: ticker@1
schedule: {{every: 10s}}

request:
  get: https://example.com/api/prices
  params: {{list: "${{board}}"}}

for_each: {{board: [main]}}
decode: json
select: data.items

fields:
  instrument: "${{row.code}}.${{row.code | cn_exchange}}"
  last: price | decimal
  volume: lots | int | scale(2)      # lots of 100 shares
  event_time: time | epoch_s

limits: {{rate: 1/s}}
errors:
  - {{when: {{content_type: text/html}}, do: back_off}}      # a block page that answers 200
expect: {{rows: data.total}}

tests:
  - name: two stocks, one suspended
    responses:
      - data:
          total: 2
          items:
            - {{code: "600000", price: 8.75, lots: 229102, time: 1783044809}}
            - {{code: "000003", price: "-", lots: "-", time: 1783044809}}
    requests: ["https://example.com/api/prices?list=main"]
    rows:
      - {{instrument: 600000.SH, last: 8.75, volume: 22910200, event_time: "2026-07-03T02:13:29Z"}}
      - {{instrument: 000003.SZ, last: null, volume: null}}
"""


@app.command()
def check(files: Annotated[list[Path], typer.Argument(help="Files to check.")], as_json: JsonOpt = False) -> None:
    """Read files that declare sources and run the tests in them. Needs no network."""
    from tidewire.sources.declared import load_declared, run_tests

    found: list[dict[str, Any]] = []
    for path in files:
        source = load_declared(path)
        found += [
            {"source": source.name, "test": each.name, "rows": each.rows, "problems": list(each.problems)}
            for each in run_tests(source)
        ]
        if not source.declared.tests:
            found.append({"source": source.name, "test": "none in the file", "rows": 0, "problems": []})
    if as_json:
        show_json(found)
    else:
        for each in found:
            state = "[red]failed[/red]" if each["problems"] else "[green]good[/green]"
            said = f"{state} {each['source']}: {each['test']} ({each['rows']} rows)"
            console.print(said, highlight=False, soft_wrap=True)
            for problem in each["problems"]:
                console.print(f"       {problem}", highlight=False, markup=False, soft_wrap=True)
    if any(each["problems"] for each in found):
        raise typer.Exit(3)


@app.command("try")
def try_(
    file: FileArg,
    pages: PagesOpt = 1,
    given: GivenOpt = None,
    base_url: UrlOpt = "",
    as_json: JsonOpt = False,
) -> None:
    """Ask the site once and show the rows that come of it; nothing is kept."""
    tried = run(_tried(file, pages, given or (), base_url))
    if as_json:
        show_json({"rows": tried.made.rows, "not_taken": tried.made.wrong, "total": tried.total})
        return
    _show(tried)


def _show(tried: Tried) -> None:
    show_rows(tried.made.rows)
    left = f", {tried.made.skipped} left out by `where`" if tried.made.skipped else ""
    total = f" of {tried.total}" if tried.total is not None else ""
    console.print(f"{len(tried.made.rows)} rows{total} in {len(tried.replies)} pages{left}", highlight=False)
    for why in dict.fromkeys(tried.made.wrong):
        console.print(f"[red]not taken[/red] {why} ({tried.made.wrong.count(why)} times)", highlight=False)


async def _tried(file: Path, pages: int, given: Sequence[str], base_url: str) -> Tried:
    from tidewire.records.clock import SystemClock, SystemRng
    from tidewire.sources.declared.app import app_of
    from tidewire.sources.declared.trying import Wish, try_source

    names: dict[str, str] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--given {pair!r}: write name=value.")
        names[name] = value
    wish = Wish(pages, names, base_url, secret)
    return await try_source(app_of(file), SystemClock(), SystemRng(), wish)


@app.command()
def record(
    file: FileArg,
    pages: PagesOpt = 1,
    given: GivenOpt = None,
    base_url: UrlOpt = "",
    out: Annotated[Path | None, typer.Option(help="Write the test there, not into the file.")] = None,
) -> None:
    """Ask the site and write its reply down as a test of the file; a person checks its rows."""
    from tidewire.sources.declared import load_declared
    from tidewire.sources.declared.recording import record as recorded

    tried = run(_tried(file, pages, given or (), base_url))
    written = recorded(load_declared(file), tried, file, out)
    _show(tried)
    names = ", ".join(map(str, written))
    console.print(f"written: {names}. Check the rows, then `tidewire source check {file}`", highlight=False)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="site.name, such as example.prices.")],
    directory: Annotated[Path, typer.Option("--dir", help="Where to write it.")] = Path("plugins"),
) -> None:
    """Write a file to begin with; it is good as it is, and its test passes."""
    path = directory / f"{name}.yaml"
    site, dot, rest = name.partition(".")
    if not (site and dot and rest):
        raise InputError(f"{name!r}: write site.name, such as example.prices.")
    if path.exists():
        raise InputError(f"{path} is there already; give the source another name, or remove the file.")
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(NEW.format(name=name), encoding="utf-8")
    then = f"edit it, then `tidewire source check {path}` and `tidewire source try {path}`"
    console.print(f"{path}: {then}", highlight=False, soft_wrap=True)


@app.command()
def schema() -> None:
    """Print the JSON Schema of such files, for editors."""
    import msgspec

    from tidewire.sources.declared import Declared

    show_json(msgspec.json.schema(Declared))
