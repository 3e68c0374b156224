"""Apps are found through entry points and the plugin directory; one that is broken is told, the rest runs."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tidewire.collect import AppRegistry, registry
from tidewire.errors import ConfigError, PluginError
from tidewire.records.instrument import InstrumentBook
from tidewire.sources.binance import BinanceApp

PLUGIN = '''
from tidewire.collect import App, SourceConfig

class {name}(App):
    """A source of its own."""
    name = "{source}"
    about = "{about}"

    @classmethod
    def make_parser(cls, config, instruments):
        raise NotImplementedError

    @classmethod
    def check(cls, config):
        pass
'''


def write(folder: Path, file: str, text: str) -> Path:
    path = folder / file
    path.write_text(text)
    return path


def known(found: AppRegistry) -> dict[str, str]:
    return {entry.name: entry.error for entry in found.list()}


def test_the_entry_point_of_this_package() -> None:
    found = AppRegistry()
    found.discover()
    assert found.get("binance") is BinanceApp
    assert [entry.origin for entry in found.list() if entry.name == "binance"] == [
        "entry point tidewire.sources.binance:BinanceApp"
    ]


def test_a_plugin_file(tmp_path: Path) -> None:
    write(tmp_path, "weather.py", PLUGIN.format(name="Weather", source="weather", about="Rain."))
    found = AppRegistry()
    found.discover(tmp_path)
    assert found.get("weather").about == "Rain."
    assert {"binance", "weather"} <= set(known(found))
    # An imported App is not the file's own: binance still comes from where it is.
    write(
        tmp_path,
        "uses.py",
        "from tidewire.sources.binance import BinanceApp\n" + PLUGIN.format(name="U", source="u", about=""),
    )
    found.discover(tmp_path)
    assert next(entry for entry in found.list() if entry.name == "binance").origin.startswith("entry point")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("def (", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("x = 1", "no subclass of tidewire.collect.App with a name in it"),
        ("from tidewire.collect import App\nclass Nameless(App): pass", "no subclass of"),
    ],
)
def test_a_broken_plugin_is_told_and_the_rest_runs(tmp_path: Path, text: str, error: str) -> None:
    write(tmp_path, "broken.py", text)
    write(tmp_path, "good.py", PLUGIN.format(name="Good", source="good", about=""))
    found = AppRegistry()
    found.discover(tmp_path)
    assert known(found)["broken"].startswith(error)
    assert found.get("good").name == "good"
    assert found.get("binance") is BinanceApp
    with pytest.raises(PluginError, match=r"'broken' .*broken\.py\) did not load: "):
        found.get("broken")


def test_a_broken_plugin_leaves_no_module_behind(tmp_path: Path) -> None:
    AppRegistry().load(write(tmp_path, "half.py", "value = 1\nraise RuntimeError"))
    assert "tidewire_plugin_half" not in sys.modules


def test_a_broken_entry_point_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("gone", "no.such.module:App", "tidewire.apps"),
        EntryPoint("wrong", "tidewire.errors:TidewireError", "tidewire.apps"),
        EntryPoint("binance", "tidewire.sources.binance:BinanceApp", "tidewire.apps"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    found = AppRegistry()
    found.discover()
    assert known(found)["gone"].startswith("ModuleNotFoundError")
    assert "is not a subclass of tidewire.collect.App" in known(found)["wrong"]
    assert found.get("binance") is BinanceApp


def test_an_unknown_name_gives_the_nearest() -> None:
    found = AppRegistry()
    found.register(BinanceApp)
    with pytest.raises(ConfigError, match=r"no source 'binanse'\. Did you mean 'binance'\? Installed: binance\."):
        found.get("binanse")


def test_loading_again_and_unloading(tmp_path: Path) -> None:
    path = write(tmp_path, "weather.py", PLUGIN.format(name="Weather", source="weather", about="Rain."))
    found = AppRegistry()
    assert found.load(path).app is found.get("weather")
    write(tmp_path, "weather.py", PLUGIN.format(name="Weather", source="weather", about="Sunshine!"))
    found.load(path)
    assert found.get("weather").about == "Sunshine!"
    found.unload("weather")
    with pytest.raises(ConfigError):
        found.get("weather")
    found.unload("weather")


def test_repairing_a_plugin_clears_its_error(tmp_path: Path) -> None:
    path = write(tmp_path, "weather.py", "def (")
    found = AppRegistry()
    assert found.load(path).error
    write(tmp_path, "weather.py", PLUGIN.format(name="Weather", source="weather", about=""))
    assert found.load(path).error == ""
    assert known(found) == {"weather": ""}


def test_two_apps_in_one_file(tmp_path: Path) -> None:
    text = PLUGIN.format(name="One", source="one", about="") + PLUGIN.format(name="Two", source="two", about="")
    found = AppRegistry()
    found.load(write(tmp_path, "both.py", text))
    assert known(found) == {"one": "", "two": ""}


def test_no_plugin_directory() -> None:
    found = AppRegistry()
    found.discover(Path("/nowhere"))
    assert "binance" in known(found)


def test_reading_beside_what_runs(tmp_path: Path) -> None:
    text = PLUGIN.format(name="Weather", source="weather", about="Rain.")
    path = write(tmp_path, "weather.py", text)
    found = AppRegistry()
    found.discover(tmp_path)
    old = found.get("weather")
    # Of the same size and second: a compiled file would hide it.
    write(tmp_path, "weather.py", text.replace("Rain.", "Snow."))
    read = found.read(path)
    assert found.get("weather") is old, "nothing is registered by reading"
    assert sys.modules[old.__module__].__dict__["Weather"] is old
    found.replace(path, read)
    assert found.get("weather").about == "Snow."
    write(tmp_path, "weather.py", PLUGIN.format(name="Climate", source="climate", about=""))
    found.replace(path, found.read(path))
    assert [entry.name for entry in found.of(path)] == ["climate"]
    with pytest.raises(ConfigError):
        found.get("weather")
    assert not list(tmp_path.glob("__pycache__"))


def test_what_was_unloaded_is_still_parsed(tmp_path: Path) -> None:
    text = PLUGIN.format(name="Weather", source="weather", about="").replace("raise NotImplementedError", "return 1")
    found = AppRegistry()
    found.load(write(tmp_path, "weather.py", text))
    found.unload("weather")
    assert found.parsers(InstrumentBook()) == {"weather": 1}
    found.load(write(tmp_path, "weather.py", text.replace("return 1", "return 2")))
    assert found.parsers(InstrumentBook()) == {"weather": 2}
