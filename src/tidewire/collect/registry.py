"""Finding Apps: entry points and the plugin directory. What fails to load is reported; the rest runs."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from tidewire import telemetry
from tidewire.collect.app import App
from tidewire.collect.config import SourceConfig, SourceInfo
from tidewire.collect.parser import Parser
from tidewire.errors import ConfigError, PluginError, nearest
from tidewire.records.instrument import InstrumentBook

GROUP = "tidewire.apps"

_log = telemetry.log("collect")


@dataclass(frozen=True)
class Found:
    """One App that was looked for: where, and what came of it."""

    name: str
    origin: str
    app: type[App] | None
    error: str = ""


class AppRegistry:
    """Knows the Apps that can be run, by name."""

    def __init__(self) -> None:
        self._found: dict[str, Found] = {}

    def discover(self, plugins: Path | None = None) -> None:
        """Load every App of the entry point group and, if given, of the plugin directory."""
        for point in entry_points(group=GROUP):
            self._add(point.name, f"entry point {point.value}", functools.partial(_from_entry_point, point))
        if plugins is not None and plugins.is_dir():
            for path in sorted(plugins.glob("*.py")):
                self.load(path)

    def load(self, path: Path) -> Found:
        """Load (again) the Apps of one plugin file; each `App` subclass in it is registered under its ``name``."""
        name = f"tidewire_plugin_{path.stem}"
        try:
            apps = _from_file(path, name)
        except Exception as error:
            return self._keep(Found(path.stem, str(path), None, f"{type(error).__name__}: {error}"))
        kept = [self._keep(Found(app.name, str(path), app)) for app in apps]
        if not kept:
            return self._keep(
                Found(path.stem, str(path), None, "no subclass of tidewire.collect.App with a name in it")
            )
        return kept[0]

    def unload(self, name: str) -> None:
        """Forget an App; instances that run are not touched."""
        self._found.pop(name, None)

    def register(self, app: type[App], origin: str = "code") -> None:
        """Add an App by hand."""
        self._keep(Found(app.name, origin, app))

    def list(self) -> list[Found]:
        """Everything that was found, what failed to load included."""
        return [self._found[name] for name in sorted(self._found)]

    def get(self, name: str) -> type[App]:
        """The App of that name.

        Raises:
            PluginError: it was found but did not load.
            ConfigError: there is none; the nearest valid name is given.
        """
        found = self._found.get(name)
        if found is None:
            valid = sorted(known.name for known in self._found.values() if known.app is not None)
            raise ConfigError(f"source.name: no source {name!r}.{nearest(name, valid)} Installed: {', '.join(valid)}.")
        if found.app is None:
            raise PluginError(f"Source {name!r} ({found.origin}) did not load: {found.error}.")
        return found.app

    def parsers(self, instruments: InstrumentBook) -> dict[str, Parser]:
        """The parser of every installed source; none is started. ``instruments`` holds what is known already."""
        config = {name: SourceConfig(source=SourceInfo(type="replay", name=name)) for name in self._found}
        return {
            name: found.app.make_parser(config[name], instruments)
            for name, found in self._found.items()
            if found.app is not None
        }

    def _add(self, name: str, origin: str, load: Callable[[], type[App]]) -> None:
        try:
            app = load()
        except Exception as error:
            self._keep(Found(name, origin, None, f"{type(error).__name__}: {error}"))
            return
        self._keep(Found(name, origin, app))

    def _keep(self, found: Found) -> Found:
        if found.app is None:
            _log.error("plugin did not load", plugin=found.name, origin=found.origin, error=found.error)
        self._found[found.name] = found
        return found


def _from_entry_point(point: EntryPoint) -> type[App]:
    loaded = point.load()
    if not (isinstance(loaded, type) and issubclass(loaded, App)):
        raise PluginError(f"{point.value} is not a subclass of tidewire.collect.App")
    return loaded


def _from_file(path: Path, name: str) -> list[type[App]]:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    members = vars(module).values()
    return [
        member
        for member in members
        if isinstance(member, type) and issubclass(member, App) and member.__module__ == name and member.name
    ]
