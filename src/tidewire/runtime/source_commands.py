"""``tidewire sources`` and ``tidewire reload``: what is installed, what runs, and the plugin directory."""

from __future__ import annotations

from typing import Any

from tidewire.runtime.console import (
    ConfigOpt,
    DataOpt,
    JsonOpt,
    configured,
    console,
    reading_of,
    run,
    show_json,
    show_rows,
)


def sources(config: ConfigOpt = None, data: DataOpt = None, as_json: JsonOpt = False) -> None:
    """List the sources that are installed, the source files of the plugin directory, and how those that run are."""
    from tidewire.runtime import installed
    from tidewire.runtime.plugins import check_files

    reading, loaded = reading_of(config, data), configured(config)
    registry = installed.registry()
    registry.discover(loaded.plugins)
    status = {entry["name"]: entry for entry in run(reading.sources())}
    found: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "about": entry.app.about if entry.app else f"did not load: {entry.error}",
            "origin": entry.origin,
            "status": status.get(entry.name, {}).get("health", "not running"),
        }
        for entry in registry.list()
    ]
    for path, names, error, code, _ in check_files(loaded.plugins, registry, loaded.places):
        if not code:
            about = f"did not load: {error}" if error else f"source file of {names[0]}"
            state = "failed" if error else status.get(names[0], {}).get("health", "not running")
            found.append({"name": path.name, "about": about, "origin": str(path), "status": state})
    if as_json:
        show_json({"installed": found, "running": list(status.values())})
        return
    show_rows(found)


def reload(config: ConfigOpt = None, data: DataOpt = None, as_json: JsonOpt = False) -> None:
    """Have the running platform look at its plugin directory now; it does so every second by itself."""
    done = run(reading_of(config, data).reload())
    if as_json:
        show_json(done)
        return
    console.print(f"sources: {', '.join(done['sources']) or 'none'}", highlight=False)
    for problem in done["problems"]:
        console.print(f"[red]did not load[/red] {problem['error']}", highlight=False, soft_wrap=True)
