"""The code, commands and files shown in the pages work as they are printed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from typer.testing import CliRunner

from docs.kit import ROOT, Block, Running, blocks, commands
from tidewire.runtime import cli, installed
from tidewire.runtime.config import load
from tidewire.runtime.platform import make_store
from tidewire.sources.declared import declares, load_declared

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PLUGINS = "plugins/"
TIMEOUT_S = 30

# Commands that install, run until Ctrl-C, or need a file of the reader's; what they are is checked, not what they do.
NOT_RUN = re.compile(
    r"make |python3 -m venv |\.venv/bin/python -m pip |bash \.ci/run$"
    r"|\.venv/bin/tidewire up \S+$|\.venv/bin/tidewire sandbox --port 8701( --(recording|china) .*)?$"
    r"|\.venv/bin/tidewire source check plugins/\S+$"
    r"|\.venv/bin/tidewire check tidewire\.yaml$|\.venv/bin/tidewire check binance\.yaml$"
)
PLUGIN_PAGE = ROOT / "docs" / "add-a-source.md"

CONSOLE = [block for block in blocks("console") if block.page != PLUGIN_PAGE]
RUN = {c: block for block in CONSOLE for c in commands(block) if not NOT_RUN.match(c)}
PYTHON = {block.text: block for block in blocks("python") if not block.name}
DEFINES = re.compile(r"^class .*\((Market)?Record\b", re.MULTILINE)


def fetched(command: str, platform: Running) -> str:
    """What a curl command would print; a refusal raises. Without curl itself, which a machine may lack."""
    words = iter(shlex.split(platform.here(command))[1:])
    method, body, url = "GET", None, ""
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-d":
            body = next(words).encode()
        else:
            assert not word.startswith("-"), f"{command}: {word}"
            url = word
    with urlopen(Request(url, data=body, method=method), timeout=TIMEOUT_S) as answer:
        return answer.read().decode(answer.headers.get_content_charset("utf-8"))


def process(command: list[str], platform: Running, directory: Path) -> str:
    """The output of a process that must succeed."""
    done = subprocess.run(
        command, cwd=directory, env=platform.environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tidewire(command: str, platform: Running) -> str:
    """The output of one of our commands, run in this process: starting another takes seconds."""
    words = shlex.split(platform.here(command.replace(".venv/bin/tidewire ", "")))
    done = CliRunner().invoke(cli.app, words)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, f"{command}\n{done.output}"
    return done.output


@pytest.mark.parametrize("command", RUN)
def test_command(command: str, platform: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ours = command.startswith(".venv/bin/tidewire ")
    assert (tidewire if ours else fetched)(command, platform).strip()


@pytest.mark.parametrize("block", CONSOLE, ids=str)
def test_console_blocks_hold_commands_we_know(block: Block) -> None:
    found = commands(block)
    assert found, f"{block}: no line begins with '$ '"
    for command in found:
        if command.startswith("make "):
            words = [word for word in command.split()[1:] if "=" not in word]
            assert set(words) <= TARGETS, f"{block}: {command}"
        else:
            assert command.startswith(("curl ", ".venv/bin/", "python3 -m venv ", "bash ")), f"{block}: {command}"


@pytest.mark.parametrize("block", PYTHON.values(), ids=str)
def test_python(block: Block, platform: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if DEFINES.search(block.text):  # a record type would stay defined in this process
        assert process([sys.executable, "-c", block.text], platform, tmp_path).strip()
        return
    exec(compile(platform.here(block.text), str(block), "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip(), f"{block} prints nothing"


@pytest.mark.parametrize(
    "page", sorted({block.page for block in blocks("yaml", "json") if block.name}), ids=lambda p: p.name
)
def test_configurations(page: Path, tmp_path: Path) -> None:
    files = [block for block in blocks("yaml", "json", "python", page=page) if block.name]
    for block in files:
        path = tmp_path / block.name
        path.parent.mkdir(exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
    if not (tmp_path / "binance.yaml").exists():
        (tmp_path / "binance.yaml").write_text("source: {type: market, name: binance}\n")
    for block in files:
        if block.language == "python":
            continue
        if declares(tmp_path / block.name):
            load_declared(tmp_path / block.name)
            continue
        loaded = load(tmp_path / block.name, {})
        registry = installed.registry()
        registry.discover(loaded.plugins)
        for source in loaded.sources:
            registry.get(source.source.name).check(source)
        make_store(loaded.config, loaded.data_dir)


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_blocks_are_named_so_that_they_are_checked(block: Block) -> None:
    assert block.name.endswith(".yaml")


@pytest.mark.parametrize("block", blocks("json", "ndjson", "toml"), ids=str)
def test_data_parses(block: Block) -> None:
    if block.language == "toml":
        assert tomllib.loads(block.text)
    for text in [block.text] if block.language == "json" else block.text.splitlines():
        if block.language != "toml":
            json.loads(text)


def test_the_plugin_runs(platform: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page on plugins from its first to its last block."""
    monkeypatch.chdir(tmp_path)
    for block in blocks("python", "yaml", page=PLUGIN_PAGE):
        path = tmp_path / block.name
        path.parent.mkdir(exist_ok=True)
        path.write_text(platform.here(block.text), encoding="utf-8")
    said: dict[str, str] = {}
    for block in blocks("console", page=PLUGIN_PAGE):
        for command in commands(block):
            word = command.split()[1]
            # The page waits six seconds so that a reader sees something; two are enough for rows.
            if word == "up":
                quicker = platform.here(command.replace("--seconds 6", "--seconds 2"))
                said[word] = process(shlex.split(quicker), platform, tmp_path)
            else:
                said[word] = tidewire(command, platform)
    assert "prices" in said["check"]
    assert "BTCUSDT.PRICES" in said["query"]
    assert "ETHUSDT.PRICES" in said["query"]
    assert "difference 0" in said["audit"]
    stored = re.search(r"([\d,]+) rows stored", said["replay"])
    assert stored is not None
    assert int(stored[1]) >= 2
