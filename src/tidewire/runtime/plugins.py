"""The plugin directory, while the platform runs: sources and code are loaded, changed and unloaded as its files are.

A `.py` file holds Apps, a file that declares a source is one and runs; any other `.yaml`, `.yml` or `.json` file is a
source of a platform. What does not load is told, once, and what ran before
goes on running: everything is checked before anything is stopped. Sources of the platform file are not touched, and
neither is the code they run by.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tidewire import telemetry
from tidewire.collect import App, AppRegistry, Found, Parser, SourceConfig, SourceInfo
from tidewire.collect.timer import within
from tidewire.errors import ConfigError, TidewireError
from tidewire.records.clock import Clock, Rng
from tidewire.records.event import notice
from tidewire.runtime.config import load_source
from tidewire.runtime.running import RunningSource, Sources
from tidewire.sources.declared import beside

LOOK_S = 1.0
"""A file counts once it was the same in two looks: an editor may be in the middle of writing it."""
PARSED_S = 20.0
"""How long new code waits for what the old one has collected to be stored; then it parses that too."""
SUFFIXES = frozenset({".py", ".yaml", ".yml", ".json"})

_GOES_ON = " The version before goes on."

_log = telemetry.log("runtime")
_changes = telemetry.counter(
    "plugin_changes", "Sources loaded and unloaded while running, files that failed", ("what",)
)
_failing = telemetry.gauge("plugin_files_failing", "Files of the plugin directory that do not load as they are")


class Stamp(NamedTuple):
    """What tells one version of a file from the next."""

    changed_ns: int
    size: int
    inode: int


@dataclass(frozen=True)
class Wanted:
    """A source as its file has it."""

    path: Path
    config: SourceConfig
    app: type[App]


class Bus(Protocol):
    """What is needed of a bus."""

    def offer(self, event: Any) -> Any: ...


class Parsing(Protocol):
    """What is needed of the pipe."""

    async def try_out(self, source: str, parser: Parser) -> None: ...
    async def adopt(self, source: str, make: Callable[[], Awaitable[Parser]]) -> None: ...
    async def stored(self, sequence: int) -> None: ...


class Parsers(Protocol):
    """Makes a parser that knows what is stored."""

    async def __call__(self, name: str, app: type[App]) -> Parser: ...


@dataclass(frozen=True)
class Around:
    """The parts of the platform that the plugin directory changes. ``fixed``: its own sources, and where they stand."""

    registry: AppRegistry
    sources: Sources
    pipe: Parsing
    make_parser: Parsers
    bus: Bus
    clock: Clock
    rng: Rng
    fixed: Mapping[str, str]


def files_of(directory: Path) -> dict[Path, Stamp]:
    """The files of a plugin directory that mean something; hidden ones do not."""
    found: dict[Path, Stamp] = {}
    if not directory.is_dir():
        return found
    for path in sorted(directory.iterdir()):
        if path.suffix in SUFFIXES and not path.name.startswith(".") and path.is_file():
            stat = path.stat()
            found[path] = Stamp(stat.st_mtime_ns, stat.st_size, stat.st_ino)
    for path in [path for path in found if beside(path)]:  # a change of one is a change of both
        part = found.pop(path)
        for file in (path.with_suffix(suffix) for suffix in SUFFIXES):
            if file in found:
                found[file] = Stamp(*(map(sum, zip(found[file], part, strict=True))))
    return found


def is_code(path: Path, registry: AppRegistry) -> bool:
    """Whether a plugin file holds Apps, or did when it was last understood."""
    return registry.is_code(path) or bool(registry.of(path))


def declared(path: Path, app: type[App]) -> Wanted:
    """A declared source, which needs no other file to run."""
    return Wanted(path, SourceConfig(source=SourceInfo(type="declared", name=app.name)), app)


def wanted(path: Path, registry: AppRegistry, fixed: Mapping[str, str], others: Mapping[str, Path]) -> Wanted:
    """The source of a file, checked; ``others`` are the files that have a name already. `ConfigError` with the file."""
    config = load_source(path)
    name = config.source.name
    place = fixed.get(name) or str(others.get(name, ""))
    if place:
        raise ConfigError(f"{path}: source.name: {name!r} is in {place} already and runs once; remove one of the two.")
    try:
        app = registry.get(name)
        app.check(config)
    except Exception as error:
        raise ConfigError(f"{path}: {_said(error)}") from None
    return Wanted(path, config, app)


class Checked(NamedTuple):
    """A file of a plugin directory: the sources in it, or what is wrong with it.

    ``code``: it holds Apps; ``runs``: what it names runs without being listed anywhere else.
    """

    path: Path
    names: Sequence[str]
    error: str
    code: bool = False
    runs: bool = True


def check_files(directory: Path, registry: AppRegistry, fixed: Mapping[str, str]) -> list[Checked]:
    """Every file of a plugin directory whose code is loaded; ``fixed`` as in `Around`."""
    found: list[Checked] = []
    others: dict[str, Path] = {}
    for path in files_of(directory):
        if is_code(path, registry):
            of = registry.of(path)
            errors = " ".join(f"{path}: did not load: {each.error}." for each in of if each.app is None)
            names = [each.name for each in of if each.app is not None]
            found.append(Checked(path, names, errors, code=True, runs=path.suffix != ".py"))
            continue
        try:
            name = wanted(path, registry, fixed, others).config.source.name
        except ConfigError as error:
            found.append(Checked(path, (), str(error)))
            continue
        others[name] = path
        found.append(Checked(path, (name,), ""))
    return found


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, TidewireError) else f"{type(error).__name__}: {error}"


class Plugins:
    """Keeps what runs like the plugin directory. ``problems``: what does not load, by file."""

    def __init__(self, directory: Path, around: Around) -> None:
        self._directory = directory
        self._around = around
        self._seen: dict[Path, Stamp] = {}
        self._done: dict[Path, Stamp] = {}
        self._followed = False
        self._running: dict[str, Wanted] = {}
        self._asked: list[asyncio.Future[None]] = []
        self._now = asyncio.Event()
        self.problems: dict[Path, str] = {}

    def begin(self, code: Mapping[Path, Stamp]) -> None:
        """Know the code that was loaded with the platform: the files as they were just before that."""
        self._done = {path: stamp for path, stamp in code.items() if is_code(path, self._around.registry)}
        for path in self._done:
            for found in self._around.registry.of(path):
                if found.app is None:
                    self.problems[path] = found.error
        _failing.set(len(self.problems))

    async def run(self) -> None:
        """Look at once, then again and again, until cancelled."""
        asked: list[asyncio.Future[None]] = []
        at_rest = False
        try:
            while True:
                await self.look(at_rest=at_rest)
                for each in asked:
                    _answer(each)
                at_rest = not await within(self._around.clock, LOOK_S, self._now)
                self._now.clear()
                asked, self._asked = self._asked, []
        finally:
            for each in (*asked, *self._asked):
                _answer(each)

    def hurry(self) -> None:
        """Have `run` look at once, without waiting for files to rest."""
        self._now.set()

    async def reload(self) -> None:
        """The same; returns when it has looked."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append(done)
        self.hurry()
        await done

    async def look(self, *, at_rest: bool = False) -> None:
        """Do what the files say; with ``at_rest`` only those that are as they were in the look before."""
        try:
            found = await asyncio.to_thread(files_of, self._directory)
        except OSError as error:
            self._problem(self._directory, f"{self._directory}: cannot be read: {error}. What runs goes on.")
            return
        self.problems.pop(self._directory, None)
        before, self._seen = self._seen, found
        target = dict(found)
        if at_rest:
            for path in found.keys() | before.keys() | self._done.keys():
                if found.get(path) != before.get(path):
                    _put(target, path, self._done.get(path))
        if target != self._done or not self._followed:
            old, self._done = self._done, target
            try:
                if target != old:
                    await self._follow(old, target)
                else:  # code that was there at the start may declare sources
                    await self._follow_sources(())
                self._followed = True
            except Exception as error:  # what goes wrong here must not end the platform
                _log.exception("plugin directory: not everything was done", error=str(error))
        _failing.set(len(self.problems))

    async def _follow(self, old: Mapping[Path, Stamp], new: Mapping[Path, Stamp]) -> None:
        for path in self.problems.keys() - new.keys():
            del self.problems[path]
        registry = self._around.registry
        code = [path for path in sorted(old.keys() | new.keys()) if await asyncio.to_thread(is_code, path, registry)]
        changed = [path for path in code if old.get(path) != new.get(path) or path in self.problems]
        for path in changed:
            if path not in new:
                await self._code_gone(path)
        todo = [path for path in changed if path in new]
        while todo:
            failed = [path for path in todo if not await self._code(path)]
            # What took a name from another, or needed it gone, may have changed with it.
            todo = failed if len(failed) < len(todo) else []
        await self._follow_sources([path for path in sorted(new) if path not in code])

    # -- code -------------------------------------------------------------------------------------------------

    async def _code(self, path: Path) -> bool:
        """A new or changed file: take it, if its Apps can do what the ones before did; whether they can."""
        registry = self._around.registry
        found = await asyncio.to_thread(registry.read, path)
        try:
            self._check_code(path, found)
            for each in found:
                if each.app is not None:
                    await self._around.pipe.try_out(each.name, await self._around.make_parser(each.name, each.app))
        except Exception as error:
            goes_on = any(each.app for each in registry.of(path))
            self._problem(path, f"{path}: {_said(error)}." + (_GOES_ON if goes_on else ""))
            return False
        self.problems.pop(path, None)
        apps = {each.name: each.app for each in found if each.app is not None}
        runs = {name: self._running[name] for name in apps if name in self._running}
        names = apps.keys() | {each.name for each in registry.of(path)}
        lasts = [await self._stop(name, f"its code, {path}, changed") for name in names]
        await self._stored(max(lasts))
        registry.replace(path, found)
        for name, app in apps.items():
            await self._around.pipe.adopt(name, functools.partial(self._around.make_parser, name, app))
            if name in runs:  # to be started again with its sources
                self._running[name] = replace(runs[name], app=app)
        _log.info("plugin code loaded", file=str(path), sources=sorted(apps))
        return True

    def _check_code(self, path: Path, found: Sequence[Found]) -> None:
        registry, fixed = self._around.registry, self._around.fixed
        names = {each.name for each in found} | {each.name for each in registry.of(path)}
        for name in sorted(names & fixed.keys()):
            raise ConfigError(f"source {name!r} of {fixed[name]} runs by it; restart the platform to load what changed")
        others = {each.name: each.origin for each in registry.list() if each.app is not None}
        for each in found:
            if each.app is None:
                raise ConfigError(each.error)
            origin = Path(others.get(each.name, path))
            if origin != path and origin in self._done:
                raise ConfigError(f"{each.name!r} is in {origin} already; give one of the two another name")
            if each.name in self._running:
                self._check_with(each.app, self._running[each.name])

    def _check_with(self, app: type[App], runs: Wanted) -> None:
        """Whether new code can run a source as its file is now, or as it was when it was last understood."""
        try:
            config = load_source(runs.path)
        except ConfigError:
            config = runs.config
        if runs.path in self._done and config.source.name == runs.config.source.name:
            self._around.sources.make(config, _checked(app, config))

    async def _code_gone(self, path: Path) -> None:
        registry, fixed = self._around.registry, self._around.fixed
        for found in registry.of(path):
            if found.name in fixed:
                _log.warning("the code of a running source is gone; it runs on until the restart", source=found.name)
                continue
            await self._stop(found.name, f"its code, {path}, was removed")
            registry.unload(found.name)
        _log.info("plugin code unloaded", file=str(path))

    # -- sources ----------------------------------------------------------------------------------------------

    async def _follow_sources(self, paths: Sequence[Path]) -> None:
        want = self._wanted(paths)
        made: dict[str, RunningSource] = {}
        for name, each in list(want.items()):
            runs = self._running.get(name)
            alive = self._around.sources.get(name) is not None
            if alive and runs is not None and (runs.config, runs.app) == (each.config, each.app):
                self._running[name] = each
                continue
            try:
                made[name] = self._around.sources.make(each.config, each.app)
            except Exception as error:
                self._problem(each.path, f"{each.path}: {_said(error)}" + (_GOES_ON if runs is not None else ""))
                if runs is not None:
                    want[name] = runs
        for name in list(self._running):
            if name not in want:
                why = self.problems.get(self._running[name].path, "")
                await self._stop(name, why or f"{self._running[name].path} was removed")
            elif name in made:
                await self._stop(name, f"{want[name].path} changed")
        for name, source in made.items():
            each = want[name]
            self._running[name] = each
            failed = functools.partial(self._failed, each)
            self._around.sources.load(source, failed, {"origin": str(each.path)})
            _changes.labels("loaded").inc()

    def _wanted(self, paths: Sequence[Path]) -> dict[str, Wanted]:
        """What should run: each name once, the file that has it first; what cannot be understood stays as it runs."""
        owners = {each.path: name for name, each in self._running.items()}
        found: dict[str, Wanted] = {}
        places: dict[str, Path] = {}
        for path in sorted(paths, key=lambda path: (path not in owners, path)):
            others = {name: place for name, place in places.items() if place != path}
            try:
                each = wanted(path, self._around.registry, self._around.fixed, others)
            except Exception as error:
                runs = self._running.get(owners.get(path, ""))
                goes_on = runs is not None and self._has(runs.app) and runs.config.source.name not in places
                self._problem(path, _said(error) + (_GOES_ON if goes_on else ""))
                if runs is None or not goes_on:
                    continue
                each = runs
            else:
                self.problems.pop(path, None)
            found[each.config.source.name] = each
            places[each.config.source.name] = path
        for app, path in self._declared():
            if app.name not in found and app.name not in self._around.fixed:
                found[app.name] = declared(path, app)
        return found

    def _declared(self) -> Iterator[tuple[type[App], Path]]:
        """What files of the directory declare."""
        for each in self._around.registry.list():
            path = Path(each.origin)
            if each.app is not None and path.parent == self._directory and path.suffix != ".py":
                yield each.app, path

    def _has(self, app: type[App]) -> bool:
        return any(found.app is app for found in self._around.registry.list())

    async def _stop(self, name: str, why: str) -> int:
        """Stop a source of the plugin directory, if it runs; its last frame, 0 if there is none."""
        runs = self._running.pop(name, None)
        if runs is None or self._around.sources.get(name) is None:
            return 0
        _changes.labels("unloaded").inc()
        return await self._around.sources.unload(name, {"origin": str(runs.path), "why": why})

    async def _stored(self, last: int) -> None:
        try:
            async with asyncio.timeout(PARSED_S):
                await self._around.pipe.stored(last)
        except TimeoutError:
            _log.warning("what a source brought is not stored yet; its new code will read it", frame=last)

    # -- what went wrong --------------------------------------------------------------------------------------

    def _failed(self, each: Wanted, part: str, error: BaseException) -> None:
        """A part of a source failed and is not tried again: it is told, the platform runs."""
        self._problem(each.path, f"{each.path}: {part}: {error}")

    def _problem(self, path: Path, error: str) -> None:
        if self.problems.get(path) == error:
            return
        self.problems[path] = error
        _failing.set(len(self.problems))
        _changes.labels("failed").inc()
        _log.error("plugin file does not load", file=str(path), error=error)
        around = self._around
        facts = {"file": str(path), "error": error}
        around.bus.offer(notice("plugins.failed", "platform", facts, around.clock, around.rng))


def _checked(app: type[App], config: SourceConfig) -> type[App]:
    app.check(config)
    return app


def _answer(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _put(target: dict[Path, Stamp], path: Path, stamp: Stamp | None) -> None:
    if stamp is None:
        target.pop(path, None)
    else:
        target[path] = stamp
