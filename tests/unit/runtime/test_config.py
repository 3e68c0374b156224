"""Configuration files: text stays text, variables come from the environment, mistakes are told so that one can act."""

from __future__ import annotations

import re
import traceback
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tidewire.errors import ConfigError
from tidewire.records.calendar import calendar
from tidewire.runtime.config import load

SOURCE = """
source: {type: market, name: binance, display_name: 币安}
api:
  base_url: "https://api.binance.com"
  key: "${BINANCE_API_KEY:-}"
  rate_limit: {requests_per_second: 20, burst: 50}
collectors:
  kline: {enabled: true, symbols: [BTCUSDT, ETHUSDT], intervals: [1m, 5m, 1h]}
  ticker: {enabled: true, update_interval: "5s"}
  trade: {enabled: true, symbols: [BTCUSDT, ETHUSDT]}
"""


def write(folder: Path, text: str, name: str = "tidewire.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    assert str(path.name) in str(caught.value)
    return str(caught.value)


def section(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> dict[str, Any]:
    """A collector's section as it is read; its values are left as they are."""
    path = write(tmp_path, f"source: {{type: market, name: x}}\ncollectors:\n  c:\n    value: {text}\n")
    return load(path, environ or {}).sources[0].collectors["c"]["value"]


def test_a_single_source_file(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, SOURCE, "binance.yaml"), {})
    (source,) = loaded.sources
    assert source.source.name == "binance"
    assert source.api.key == ""
    assert source.collectors["kline"]["intervals"] == ["1m", "5m", "1h"]
    assert loaded.data_dir.is_absolute()
    assert loaded.data_dir.parent == tmp_path


def test_a_calendar_is_told_what_the_release_does_not_know(tmp_path: Path) -> None:
    """Holidays of next year; reading another file takes it back."""
    text = "calendars:\n  XSHG: {closed: [2027-01-01, 2027-02-08], until: 2027-12-31}\n"
    config = load(write(tmp_path, text), {}).config
    assert config.calendars["XSHG"].until == date(2027, 12, 31)
    assert calendar("XSHG").next(date(2026, 12, 31)) == date(2027, 1, 4)
    assert not calendar("XSHG").is_provisional(date(2027, 12, 31))
    load(write(tmp_path, SOURCE, "binance.yaml"), {})
    assert calendar("XSHG").is_provisional(date(2027, 1, 1))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{XSGH: {closed: [2027-01-01]}}", r"calendars: No calendar 'XSGH'\. Did you mean 'XSHG'"),
        ("{24/7: {closed: [2027-01-01]}}", "24/7 never closes"),
        ("{XSHG: {closed: [2028-01-03], until: 2027-12-31}}", "2028-01-03 is closed, but"),
        ("{XSHG: {closed: [01.01.2027]}}", r"calendars\[\.\.\.\]\.closed\[0\]"),
        ("{XSHG: {close: [2027-01-01]}}", r"calendars\.XSHG\.close: no such key\. Did you mean 'closed'"),
    ],
)
def test_a_calendar_that_cannot_be(tmp_path: Path, text: str, what: str) -> None:
    assert re.search(what, refused(write(tmp_path, f"calendars: {text}\n")))


def test_a_platform_file_names_source_files_and_holds_sources(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    write(tmp_path / "sources", SOURCE, "binance.yaml")
    main = "data_dir: here\nsources:\n  - sources/binance.yaml\n  - source: {type: news, name: rss}\n"
    loaded = load(write(tmp_path, main), {})
    assert [source.source.name for source in loaded.sources] == ["binance", "rss"]
    assert loaded.data_dir == tmp_path / "here"


@pytest.mark.parametrize(
    "text", ["no", "yes", "on", "off", "No", "1:30", "000001", "2024-01-01", "0x10", "1_000", "0o7", ".5"]
)
def test_scalars_that_stay_text(tmp_path: Path, text: str) -> None:
    assert section(tmp_path, text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("12", 12),
        ("-3", -3),
        ("1.5", 1.5),
        ("1.0e3", 1000.0),
        ('"12"', "12"),
        ("[a, 600000]", ["a", 600000]),
    ],
)
def test_scalars_with_a_type(tmp_path: Path, text: str, value: Any) -> None:
    found = section(tmp_path, text)
    assert found == value
    assert type(found) is type(value)


def test_json_works_as_well(tmp_path: Path) -> None:
    text = '{"source": {"type": "market", "name": "binance"}, "api": {"rate_limit": {"burst": 7}}}'
    assert load(write(tmp_path, text, "binance.json"), {}).sources[0].api.rate_limit.burst == 7


def test_variables(tmp_path: Path) -> None:
    environ = {"A": "one", "EMPTY": ""}
    assert section(tmp_path, '"${A}"', environ) == "one"
    assert section(tmp_path, '"x${A}y${B:-two}z"', environ) == "xoneytwoz"
    assert section(tmp_path, '"${EMPTY:-default}"', environ) == ""
    assert section(tmp_path, '"${B:-}"', environ) == ""
    assert section(tmp_path, '["${A}", {deep: "${A}"}]', environ) == ["one", {"deep": "one"}]
    assert section(tmp_path, '"$A and ${not a name}"', environ) == "$A and ${not a name}"
    # What a variable holds is not looked through again.
    assert section(tmp_path, '"${A}"', {"A": "${B}"}) == "${B}"


def test_a_variable_that_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path, 'source: {type: market, name: x}\napi: {key: "${NOT_THERE}"}\n')
    message = refused(path)
    assert "api: key: the environment has no NOT_THERE" in message
    assert "${NOT_THERE:-}" in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("journall: {}\n", ["journall: no such key. Did you mean 'journal'?", "Valid: "]),
        (
            "journal: {archive: {retention: {rss: {day: 3}}}}\n",
            ["journal.archive.retention.rss.day: no such key. Did you mean 'days'? Valid: days, bytes."],
        ),
        ("journal: {archive: {retention: {rss: 3}}}\n", ["retention.rss: expected keys and values", "found a number"]),
        ("journal: {comit_ms: 3}\n", ["journal.comit_ms: no such key. Did you mean 'commit_ms'?"]),
        ("store: {readers: many}\n", ["store.readers: Expected `int`, got `str`"]),
        ("listen: 8700\n", ["listen: expected keys and values (host, port), found a number"]),
        ("- a\n- b\n", ["expected keys and values, found a list"]),
        ("", ["expected keys and values, found nothing"]),
        ("a: [1, 2\nb: 3\n", [":2: not YAML: "]),
        ("a: b: c\n", [":1: not YAML: mapping values are not allowed here"]),
        ("x: \x01\n", ["not YAML: a character that is not allowed"]),
        ("sources: [missing.yaml]\n", ["missing.yaml: no such file"]),
        ("sources: [3]\n", ["sources[0]: expected a source (source:, api:, collectors:), found a number"]),
        ("sources: [{source: {type: t, name: n}, apy: {}}]\n", ["sources[0].apy: no such key. Did you mean 'api'?"]),
        (
            "sources: [{source: {type: t, name: n}}, {source: {type: t, name: n}}]\n",
            ["'n' is listed 2 times; list it once"],
        ),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = tmp_path / "tidewire.yaml"
    path.write_bytes(text.encode())
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    for part in parts:
        assert part in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_mistake_in_a_listed_file_names_that_file(tmp_path: Path) -> None:
    write(tmp_path, "source: {type: market, nam: x}\n", "one.yaml")
    path = write(tmp_path, "sources: [one.yaml]\n")
    with pytest.raises(ConfigError, match=r"one\.yaml\.source\.nam: no such key\. Did you mean 'name'\?"):
        load(path, {})


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "nowhere.yaml")


def test_a_directory_and_other_bytes(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    assert "cannot be read" in refused(tmp_path / "folder.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\n")
    assert "cannot be read" in refused(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "api: ${SECRET}\nsource: {type: t, name: n}\n",
        "api: {secret: {x: '${SECRET}'}}\nsource: {type: t, name: n}\n",
        "api: {rate_limit: {burst: '${SECRET}'}}\nsource: {type: t, name: n}\n",
        "api: {secret: 'hunter2\nsource: {type: t, name: n}\n",
        "api: {secret: hunter2: x}\n",
        "source: ${SECRET}\n",
        "sources: [[hunter2]]\n",
        "listen: hunter2\n",
    ],
)
def test_secrets_are_never_shown(tmp_path: Path, text: str) -> None:
    environ = {"SECRET": "hunter2"}
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path, environ)
    assert "hunter2" not in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in shown


def test_a_key_that_stands_twice_is_told(tmp_path: Path) -> None:
    path = tmp_path / "tidewire.yaml"
    path.write_text("data_dir: one\nlisten: {port: 8700}\ndata_dir: two\n")
    with pytest.raises(ConfigError, match=r"tidewire\.yaml:3: .*'data_dir' stands twice"):
        load(path)
