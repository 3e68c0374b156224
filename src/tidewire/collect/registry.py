"""Finding Apps: entry points and the plugin directory. What fails to load is reported; the rest runs."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Protocol

from tidewire import telemetry
from tidewire.collect.app import App
from tidewire.collect.config import SourceConfig, SourceInfo
from tidewire.collect.parser import Parser
from tidewire.errors import ConfigError, PluginError, nearest
from tidewire.records.instrument import InstrumentBook
from tidewire.records.record import noted

GROUP = "tidewire.apps"
_POINT = "entry point "

_log = telemetry.log("collect")


@dataclass(frozen=True)
class Found:
    """One App that was looked for: where, and what came of it."""

    name: str
    origin: str
    app: type[App] | None
    error: str = ""


class Declared(Protocol):
    """Makes Apps of files that declare a source."""

    def declares(self, path: Path) -> bool:
        """Whether a file is one."""
        ...

    def beside(self, path: Path) -> bool:
        """Whether Python is part of one."""
        ...

    def app_of(self, path: Path) -> type[App]:
        """Its App; `ConfigError` says what is wrong with it."""
        ...

    def catalogue(self) -> Sequence[Path]:
        """The files that come with the program."""
        ...


class AppRegistry:
    """Knows the Apps that can be run, by name."""

    def __init__(self, declared: Declared | None = None) -> None:
        self._declared = declared
        self._found: dict[str, Found] = {}
        self._gone: dict[str, type[App]] = {}
        self._reads = 0

    def discover(self, plugins: Path | None = None) -> None:
        """Load every App of the entry point group and, if given, of the plugin directory."""
        for point in entry_points(group=GROUP):
            self._add(point.name, f"{_POINT}{point.value}", functools.partial(_from_entry_point, point))
        for path in () if self._declared is None else self._declared.catalogue():
            self.load(path)
        if plugins is not None and plugins.is_dir():
            for path in sorted(plugins.glob("[!.]*")):
                if self.is_code(path):
                    self.load(path)

    def is_code(self, path: Path) -> bool:
        """Whether a plugin file holds Apps: Python that is not part of another file, or one that declares a source."""
        if path.suffix == ".py":
            return self._declared is None or not self._declared.beside(path)
        return self._declared is not None and self._declared.declares(path)

    def load(self, path: Path) -> Found:
        """Load (again) the Apps of one plugin file; each `App` subclass in it is registered under its ``name``."""
        kept = [self._keep(found) for found in self._in(path, _module(path))]
        return kept[0]

    def _in(self, path: Path, module: str) -> list[Found]:
        if path.suffix == ".py" or self._declared is None:
            return _found_in(path, module)
        try:
            app = self._declared.app_of(path)
        except Exception as error:
            return [Found(path.stem, str(path), None, f"{type(error).__name__}: {error}")]
        return [Found(app.name, str(path), app)]

    def read(self, path: Path) -> list[Found]:
        """What a plugin file holds now, without registering it: what runs of an older version is not touched.

        A new record type would need a table and a position in everything that runs: such a file is refused.
        """
        self._reads += 1
        with noted() as kinds:
            found = self._in(path, f"{_module(path)}_{self._reads}")
        if not kinds:
            return found
        why = f"it defines the record type {', '.join(kinds)}; types are loaded at the start: restart the platform"
        return [Found(path.stem, str(path), None, why)]

    def replace(self, path: Path, found: Sequence[Found]) -> None:
        """Take what `read` gave in place of all that was registered of that file."""
        names = {each.name for each in found}
        for old in self.of(path):
            if old.name not in names:
                self.unload(old.name)
        for each in found:
            self._keep(each)

    def of(self, path: Path) -> list[Found]:
        """What is registered of a plugin file."""
        return [found for found in self.list() if found.origin == str(path)]

    def unload(self, name: str) -> None:
        """Forget an App; instances that run are not touched, and its frames in the journal are still parsed by it.

        An installed one that the plugin directory had taken the name of is back.
        """
        old = self._found.pop(name, None)
        if old is not None and old.app is not None:
            self._gone[name] = old.app
        for point in entry_points(group=GROUP):
            if point.name == name and old is not None and not old.origin.startswith(_POINT):
                self._add(point.name, f"{_POINT}{point.value}", functools.partial(_from_entry_point, point))

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
        """The parser of every installed source; none is started. ``instruments`` holds what is known already.

        Those that were unloaded have one too: the journal may hold frames of theirs that are not stored yet.
        """
        apps = self._gone | {name: found.app for name, found in self._found.items() if found.app is not None}
        return {name: parser_of(name, app, instruments) for name, app in apps.items()}

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
        if found.app is not None:
            self._gone.pop(found.name, None)
        return found


def parser_of(name: str, app: type[App], instruments: InstrumentBook) -> Parser:
    """A parser as a replay makes it, without a source file."""
    return app.make_parser(SourceConfig(source=SourceInfo(type="replay", name=name)), instruments)


def _from_entry_point(point: EntryPoint) -> type[App]:
    loaded = point.load()
    if not (isinstance(loaded, type) and issubclass(loaded, App)):
        raise PluginError(f"{point.value} is not a subclass of tidewire.collect.App")
    return loaded


def _module(path: Path) -> str:
    return f"tidewire_plugin_{path.stem}"


def _found_in(path: Path, module: str) -> list[Found]:
    """The Apps of a file, at least one entry: what went wrong, if there is none."""
    try:
        apps = _from_file(path, module)
    except Exception as error:
        return [Found(path.stem, str(path), None, f"{type(error).__name__}: {error}")]
    if not apps:
        return [Found(path.stem, str(path), None, "no subclass of tidewire.collect.App with a name in it")]
    return [Found(app.name, str(path), app) for app in apps]


def _from_file(path: Path, name: str) -> list[type[App]]:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # From its text: compiled files are told apart by second and size, and two changes may share both.
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))  # noqa: S102 - a plugin is code
    except BaseException:
        del sys.modules[name]
        raise
    members = vars(module).values()
    return [
        member
        for member in members
        if isinstance(member, type) and issubclass(member, App) and member.__module__ == name and member.name
    ]
