"""Writes the reference pages that follow from the code: record types, commands, metrics.

``python docs/generate.py`` writes them (``make docs``); with ``--check`` it only says which are stale and exits 1.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import tidewire
from tidewire import telemetry
from tidewire.records import market, ops
from tidewire.records import reference as reference_family
from tidewire.records.forms import reference
from tidewire.records.record import types
from tidewire.runtime import cli

HERE = Path(__file__).parent
FAMILIES = (market, reference_family, ops)
NOTE = "<!-- Written by docs/generate.py (make docs); edit the code, not this page. -->"
WORDS = {bool: "flag", int: "integer", float: "number", str: "text", Path: "path", list[str]: "text, repeatable"}


def record_types() -> str:
    """The reference page of every built-in record type, by family."""
    lines = [
        NOTE,
        "",
        "# Record types",
        "",
        "Each is one class; tables, JSON, OpenAPI, channels and this page follow from it. Roles and units are told in",
        "[data-model.md](data-model.md). The last four columns of every type are its lineage.",
        "",
    ]
    for family in FAMILIES:
        name = family.__name__.rpartition(".")[2]
        kinds = [kind for kind in types().values() if kind.record.__module__ == family.__name__]
        links = ", ".join(f"[`{kind.name}`](#{kind.name})" for kind in kinds)
        lines += [f"**{name}**: {links}", ""]
    for family in FAMILIES:
        lines += [reference(kind) for kind in types().values() if kind.record.__module__ == family.__name__]
    return "\n".join(lines)


def commands() -> str:
    """The help of every command."""
    lines = [
        NOTE,
        "",
        "# Commands",
        "",
        "`tidewire --help` and `tidewire COMMAND --help` say the same. Exit codes: 0 done, 1 failed, 2 wrong usage or",
        "configuration, 3 differences or damage found, 130 ended at once by a second signal.",
        "",
    ]
    for path, command in _walk(typer.main.get_command(cli.app), "tidewire"):
        lines += _command(path, command)
    return "\n".join(lines)


def _walk(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _walk(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _command(path: str, command: Any) -> list[str]:
    shown = [parameter for parameter in command.params if not parameter.hidden and parameter.name != "help"]
    arguments = [_argument(parameter) for parameter in shown if not parameter.opts[0].startswith("-")]
    usage = " ".join([path, *(["[OPTIONS]"] if len(shown) > len(arguments) else []), *arguments])
    lines = [f"## {path}", "", " ".join(command.help.split()), "", "```text", usage, "```", ""]
    if shown:
        lines += ["| | | default | |", "|---|---|---|---|"]
        lines += [
            f"| {_names(parameter)} | {_word(parameter)} | {_default(parameter)} | {parameter.help} |"
            for parameter in shown
        ]
        lines.append("")
    return lines


def _argument(parameter: Any) -> str:
    return parameter.name.upper() if parameter.required else f"[{parameter.name.upper()}]"


def _names(parameter: Any) -> str:
    named = parameter.opts[0].startswith("-")
    return ", ".join(f"`{name}`" for name in parameter.opts) if named else f"`{parameter.name.upper()}`"


def _word(parameter: Any) -> str:
    annotation = parameter.type_descriptor.annotation
    return WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    return "" if parameter.default in (None, False) else f"`{parameter.default}`"


def metrics() -> str:
    """Every metric the process can show."""
    for module in pkgutil.walk_packages(tidewire.__path__, "tidewire."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    lines = [
        NOTE,
        "",
        "# Metrics",
        "",
        "`GET /metrics` shows them in the Prometheus text format. Counters end in `_total`; times are in seconds.",
        "A metric with labels appears when it first counts something.",
        "",
        "| metric | kind | labels | about |",
        "|---|---|---|---|",
    ]
    known = {id(collector): collector for collector in telemetry.REGISTRY._names_to_collectors.values()}
    for collector in sorted(known.values(), key=lambda each: each._name):
        suffix = "_total" if collector._type == "counter" else ""
        labels = ", ".join(f"`{label}`" for label in collector._labelnames)
        about = collector._documentation.rstrip(".")
        lines.append(f"| `{collector._name}{suffix}` | {collector._type} | {labels} | {about} |")
    return "\n".join([*lines, ""])


def pages() -> dict[Path, str]:
    """Every generated page and what it should say."""
    return {
        HERE / "record-types.md": record_types(),
        HERE / "cli.md": commands(),
        HERE / "metrics.md": metrics(),
    }


def main(arguments: list[str]) -> int:
    """Write the pages, or compare them."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in arguments:
        for path in stale:
            sys.stderr.write(f"{path.name} is stale: run make docs\n")
        return bool(stale)
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
