"""The plugin directory: what runs follows its files, what does not load is told once and stops nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tidewire.collect import App, AppRegistry, Parser
from tidewire.collect.registry import parser_of
from tidewire.errors import ConfigError, ParseError
from tidewire.records.clock import ManualClock, SeededRng
from tidewire.records.instrument import InstrumentBook
from tidewire.records.record import forget, types
from tidewire.runtime.plugins import LOOK_S, Around, Plugins, check_files, files_of
from tidewire.runtime.running import Care, Sources
from unit.collect.kit import Place, place, until

CODE = """
from tidewire.collect import App, Outcome, read, Section
from tidewire.errors import ConfigError

class Options(Section, frozen=True):
    level: int = 1

class Nothing:
    def parse(self, frames):
        return Outcome(control=list(frames))

class {name}(App):
    name = "{name}"
    about = "{about}"

    @classmethod
    def make_parser(cls, config, instruments):
        return Nothing()

    @classmethod
    def check(cls, config):
        options = read(config.collectors.get("all", {{}}), Options, "collectors.all")
        if options.level > 8:
            raise ConfigError("collectors.all.level: at most 8.")

    async def initialize(self):
        if read(self.config.collectors.get("all", {{}}), Options, "collectors.all").level == 7:
            raise ConfigError("seven is no good")
"""
SOURCE = "source: {{type: market, name: {name}}}\ncollectors: {{all: {{level: {level}}}}}\n"
TYPE = '''
from tidewire.records.record import MarketRecord
from tidewire.records.roles import Sequence

class Whim(MarketRecord):
    """A whim."""

    number = Sequence("Counts them.", key=True)
'''


class NoGaps:
    """A ledger without gaps."""

    async def open_gaps(self, source: str, *, given_up: bool = False) -> list[Any]:
        return []

    async def missing(self, gap: Any) -> None:
        return None

    async def stored(self, sequence: int) -> None:
        return None


class Pipe:
    """Notes whose parsers it is given."""

    def __init__(self) -> None:
        self.adopted: list[str] = []
        self.refuses = ""

    async def try_out(self, source: str, parser: Parser) -> None:
        if source == self.refuses:
            raise ParseError("the state is not understood")

    async def adopt(self, source: str, make: Callable[[], Awaitable[Parser]]) -> None:
        await make()
        self.adopted.append(source)

    async def stored(self, sequence: int) -> None:
        return None


async def make_parser(name: str, app: type[App]) -> Parser:
    return parser_of(name, app, InstrumentBook())


class Trial:
    """A plugin directory, and what runs by it."""

    def __init__(self, folder: Path, here: Place, clock: ManualClock, fixed: dict[str, str]) -> None:
        self.folder = folder
        self.here = here
        self.clock = clock
        self.registry = AppRegistry()
        self.sources = Sources(here.context, Care(NoGaps(), 1.0, lambda _: {}))
        self.pipe = Pipe()
        around = Around(self.registry, self.sources, self.pipe, make_parser, here.bus, clock, SeededRng(), fixed)
        code = files_of(folder)
        self.registry.discover(folder)
        self.plugins = Plugins(folder, around)
        self.plugins.begin(code)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def code(self, name: str, about: str = "") -> Path:
        return self.write(f"{name}.py", CODE.format(name=name, about=about))

    def source(self, file: str, name: str, level: int = 1) -> Path:
        return self.write(file, SOURCE.format(name=name, level=level))

    async def look(self) -> dict[str, str]:
        await self.plugins.look()
        return {path.name: error for path, error in self.plugins.problems.items()}

    def running(self) -> dict[str, tuple[str, int]]:
        """What runs: the App's own words, and its level."""
        return {app.name: (app.about, app.config.collectors["all"]["level"]) for app in self.sources.apps}

    def notes(self, name: str) -> list[str]:
        return [s.rpartition(".")[2] for s in self.here.subjects() if s.startswith(f"app.{name}.")]


@asynccontextmanager
async def trial(tmp_path: Path, **fixed: str) -> AsyncGenerator[Trial]:
    folder = tmp_path / "plugins"
    folder.mkdir(exist_ok=True)
    clock = ManualClock()
    async with place(tmp_path, clock) as here:
        made = Trial(folder, here, clock, fixed)
        try:
            yield made
        finally:
            await made.sources.stop()


async def test_sources_and_code_come_change_and_go(tmp_path: Path) -> None:
    async with trial(tmp_path) as here:
        assert await here.look() == {}
        file = here.source("a.yaml", "toys")
        assert "no source 'toys'" in (await here.look())["a.yaml"]
        code = here.code("toys", "first")
        assert await here.look() == {}
        assert here.running() == {"toys": ("first", 1)}
        assert here.pipe.adopted == ["toys"]
        await until(lambda: here.notes("toys") == ["loaded", "started"])
        app = here.sources.apps[0]

        here.source("a.yaml", "toys", 2)
        assert await here.look() == {}
        assert here.running() == {"toys": ("first", 2)}
        assert here.pipe.adopted == ["toys"], "its frames are parsed as before"
        here.code("toys", "newer")
        assert await here.look() == {}
        assert here.running() == {"toys": ("newer", 2)}
        assert here.pipe.adopted == ["toys", "toys"]
        assert not app.health().problems
        assert app.health().state == "stopped"

        code.unlink()
        assert "no source 'toys'" in (await here.look())["a.yaml"]
        assert here.running() == {}
        assert "toys" in here.registry.parsers(InstrumentBook()), "the journal may have frames of it"
        here.code("toys", "back")
        assert await here.look() == {}
        assert here.running() == {"toys": ("back", 2)}
        file.unlink()
        assert await here.look() == {}
        assert here.running() == {}


async def test_what_does_not_load_is_told_once_and_what_ran_goes_on(tmp_path: Path) -> None:
    async with trial(tmp_path) as here:
        here.code("toys", "first")
        here.code("pets")
        here.source("a.yaml", "toys")
        here.source("b.yml", "pets", 3)
        assert await here.look() == {}
        before = here.sources.apps

        here.source("a.yaml", "toys", 9)
        assert (await here.look())["a.yaml"].endswith("collectors.all.level: at most 8. The version before goes on.")
        here.write("a.yaml", "source: [")
        assert "a.yaml:1: not YAML" in (await here.look())["a.yaml"]
        here.write("toys.py", "1 / 0")
        problems = await here.look()
        assert problems["toys.py"].endswith("ZeroDivisionError: division by zero. The version before goes on.")
        here.code("toys").write_text(CODE.format(name="toys", about="").replace("at most 8", "x").replace("> 8", "> 0"))
        assert "collectors.all.level: x" in (await here.look())["toys.py"]
        here.pipe.refuses = "toys"
        here.code("toys", "cannot")
        assert "the state is not understood" in (await here.look())["toys.py"]
        here.source("c.yaml", "pets")
        assert "'pets' is in" in (await here.look())["c.yaml"]
        assert here.sources.apps == before
        await until(lambda: len(here.here.said("plugins.failed")) == 6, "each is told once")
        here.source("d.yaml", "nobody")
        await here.look()
        await until(lambda: here.here.said("plugins.failed")[-1]["file"].endswith("d.yaml"))
        assert len(here.here.said("plugins.failed")) == 7, "the others were told already"

        here.pipe.refuses = ""
        here.source("a.yaml", "toys", 4)
        problems = await here.look()
        assert problems.keys() == {"c.yaml", "d.yaml"}
        assert here.running() == {"pets": ("", 3), "toys": ("cannot", 4)}
        # The first one goes: the other file has its turn.
        (here.folder / "b.yml").unlink()
        assert (await here.look()).keys() == {"d.yaml"}
        assert here.running() == {"toys": ("cannot", 4), "pets": ("", 1)}


async def test_code_that_changed_starts_a_source_again_whose_file_is_broken(tmp_path: Path) -> None:
    async with trial(tmp_path) as here:
        here.code("toys", "first")
        here.source("a.yaml", "toys", 5)
        await here.look()
        here.write("a.yaml", "nonsense")
        here.code("toys", "newer")
        assert (await here.look()).keys() == {"a.yaml"}
        assert here.running() == {"toys": ("newer", 5)}


async def test_a_source_that_cannot_be_initialized_is_told(tmp_path: Path) -> None:
    async with trial(tmp_path) as here:
        here.code("toys")
        file = here.source("a.yaml", "toys", 7)
        await here.look()
        await until(lambda: file in here.plugins.problems)
        assert here.plugins.problems[file].endswith("app toys: seven is no good")
        assert here.sources.apps[0].health().state == "down"
        here.source("a.yaml", "toys", 6)
        assert await here.look() == {}
        await until(lambda: here.sources.apps[0].health().state == "ok")


async def test_sources_of_the_platform_file_and_their_code_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "toys.py").write_text(CODE.format(name="toys", about="first"))
    async with trial(tmp_path, toys="tidewire.yaml: sources[0]") as here:
        assert await here.look() == {}
        here.source("a.yaml", "toys")
        assert "'toys' is in tidewire.yaml: sources[0] already" in (await here.look())["a.yaml"]
        code = here.code("toys", "newer")
        assert "restart the platform" in (await here.look())["toys.py"]
        assert here.registry.get("toys").about == "first"
        here.code("other").write_text(CODE.format(name="toys", about="taken"))
        assert "restart the platform" in (await here.look())["other.py"]
        code.unlink()
        await here.look()
        assert here.registry.get("toys").about == "first"


async def test_names_are_taken_once(tmp_path: Path) -> None:
    async with trial(tmp_path) as here:
        here.code("toys", "mine")
        await here.look()
        here.write("other.py", CODE.format(name="toys", about="taken"))
        assert "'toys' is in" in (await here.look())["other.py"]
        here.code("toys").write_text(CODE.format(name="games", about="renamed"))
        assert await here.look() == {}
        assert (here.registry.get("games").about, here.registry.get("toys").about) == ("renamed", "taken")
        # A plugin may take the name of an installed source, which is back when it goes.
        here.write("own.py", CODE.format(name="binance", about="mine"))
        assert await here.look() == {}
        assert here.registry.get("binance").about == "mine"
        (here.folder / "own.py").unlink()
        await here.look()
        assert here.registry.get("binance").about.startswith("Binance spot")


async def test_a_record_type_needs_a_restart(tmp_path: Path) -> None:
    async with trial(tmp_path) as here:
        before = types()
        text = TYPE + CODE.format(name="whim", about="")
        path = here.write("whim.py", text)
        said = "it defines the record type whim; types are loaded at the start: restart the platform"
        assert said in (await here.look())["whim.py"]
        assert types() == before
        # One that was loaded at the start is not taken anew either, whatever changed in it.
        try:
            here.registry.load(path)
            here.write("whim.py", text + "# changed")
            assert said in (await here.look())["whim.py"]
        finally:
            forget("whim")


async def test_what_failed_at_the_start_is_known_and_can_be_repaired(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "toys.py").write_text("def (")
    async with trial(tmp_path) as here:
        assert (await here.look())["toys.py"].startswith("SyntaxError")
        here.write("toys.py", CODE.format(name="games", about=""))
        assert await here.look() == {}
        assert [entry.name for entry in here.registry.of(here.folder / "toys.py")] == ["games"]


async def test_a_file_counts_once_it_rests(tmp_path: Path) -> None:
    async with trial(tmp_path) as here:
        here.code("toys")
        await here.look()
        file = here.source("a.yaml", "toys", 1)
        await here.plugins.look(at_rest=True)
        assert here.running() == {}
        here.source("a.yaml", "toys", 10)  # still being written
        await here.plugins.look(at_rest=True)
        assert here.plugins.problems == {}
        here.source("a.yaml", "toys", 2)
        await here.plugins.look(at_rest=True)
        await here.plugins.look(at_rest=True)
        assert here.running() == {"toys": ("", 2)}
        app = here.sources.apps[0]
        # Gone for a moment, as when an editor writes a new file in its place.
        file.rename(here.folder / "a.bak")
        await here.plugins.look(at_rest=True)
        (here.folder / "a.bak").rename(file)
        os.utime(file)
        await here.plugins.look(at_rest=True)
        await here.plugins.look(at_rest=True)
        assert here.sources.apps == [app], "nothing in it changed"


async def test_it_looks_every_second_and_when_it_is_asked(tmp_path: Path) -> None:
    async with trial(tmp_path) as here:
        task = asyncio.create_task(here.plugins.run())
        here.code("toys")
        here.source("a.yaml", "toys")
        await here.plugins.reload()
        assert here.running() == {"toys": ("", 1)}
        here.source("a.yaml", "toys", 2)
        async with asyncio.timeout(20):
            while here.running() != {"toys": ("", 2)}:
                await here.clock.advance(LOOK_S)
        last = asyncio.create_task(here.plugins.reload())
        await asyncio.sleep(0)
        task.cancel()
        await last
        await asyncio.gather(task, return_exceptions=True)


async def test_a_directory_that_is_missing_or_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with trial(tmp_path) as here:
        here.code("toys")
        here.source("a.yaml", "toys")
        await here.look()

        def refuse(path: Path) -> Any:
            raise PermissionError("not yours")

        with monkeypatch.context() as patch:
            patch.setattr("tidewire.runtime.plugins.files_of", refuse)
            assert "not yours" in (await here.look())["plugins"]
        assert here.running() == {"toys": ("", 1)}
        assert await here.look() == {}
        here.folder.rename(tmp_path / "elsewhere")
        assert await here.look() == {}
        assert here.running() == {}


def test_hidden_and_other_files_mean_nothing(tmp_path: Path) -> None:
    for name in (".#a.py", ".a.yaml", "a.yaml~", "notes.txt", "b.yml"):
        (tmp_path / name).write_text("")
    (tmp_path / "c.yaml").mkdir()
    assert [path.name for path in files_of(tmp_path)] == ["b.yml"]
    assert files_of(tmp_path / "nowhere") == {}


def test_files_are_checked_without_running(tmp_path: Path) -> None:
    (tmp_path / "toys.py").write_text(CODE.format(name="toys", about=""))
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "a.yaml").write_text(SOURCE.format(name="toys", level=1))
    (tmp_path / "b.yaml").write_text(SOURCE.format(name="toys", level=1))
    (tmp_path / "c.yaml").write_text(SOURCE.format(name="binance", level=1))
    (tmp_path / "d.yaml").write_text(SOURCE.format(name="broken", level=1))
    registry = AppRegistry()
    registry.discover(tmp_path)
    found = {
        path.name: (list(names), error) for path, names, error, *_ in check_files(tmp_path, registry, {"binance": "x"})
    }
    assert (found["toys.py"], found["a.yaml"]) == ((["toys"], ""), (["toys"], ""))
    assert "SyntaxError" in found["broken.py"][1]
    assert f"is in {tmp_path / 'a.yaml'} already" in found["b.yaml"][1]
    assert "'binance' is in x already" in found["c.yaml"][1]
    assert "did not load" in found["d.yaml"][1]


async def test_what_ran_before_goes_on_when_its_app_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trial(tmp_path) as here:
        here.code("toys")
        here.source("a.yaml", "toys")
        await here.look()

        def refuse(*_: Any) -> Any:
            raise ConfigError("not today")

        here.source("a.yaml", "toys", 2)
        monkeypatch.setattr(here.sources, "make", refuse)
        assert (await here.look())["a.yaml"].endswith("not today The version before goes on.")
        assert here.running() == {"toys": ("", 1)}
