"""The page about declared sources: its file works, and it names every key, filter and decoder there is."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from docs.kit import ROOT, Block, blocks, text_of
from tidewire.runtime import cli
from tidewire.sources.declared import Declared, load_declared, run_tests
from tidewire.sources.declared.decode import DECODERS
from tidewire.sources.declared.grammar import Action
from tidewire.sources.declared.steps import FILTERS, PAIRS

PAGE = "docs/declared-sources.md"
FILES = [block for block in blocks("yaml", page=ROOT / PAGE) if block.name.startswith("plugins/")]


@pytest.mark.parametrize("block", FILES, ids=str)
def test_the_files_on_the_page_pass_their_tests(tmp_path: Path, block: Block) -> None:
    for each in blocks("python", "yaml", page=ROOT / PAGE):
        (tmp_path / Path(each.name).name).write_text(each.text, encoding="utf-8")
    verdicts = list(run_tests(load_declared(tmp_path / Path(block.name).name)))
    assert verdicts
    assert [each.problems for each in verdicts] == [[]] * len(verdicts)
    assert all(each.rows for each in verdicts)


def test_every_key_filter_decoder_and_action_is_told() -> None:
    text = text_of(PAGE)
    named = set(re.findall(r"`([a-z_0-9]+)", text))
    keys = {field.encode_name for field in msgspec.structs.fields(Declared)}
    assert keys | set(FILTERS) | set(PAIRS) | set(DECODERS) | set(Action.__args__) <= named


def test_a_new_file_is_good_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    made = runner.invoke(cli.app, ["source", "new", "example.prices"])
    assert made.exit_code == 0, made.output
    checked = runner.invoke(cli.app, ["source", "check", "plugins/example.prices.yaml"])
    assert checked.exit_code == 0, checked.output
    assert "good example.prices: two stocks, one suspended (2 rows)" in checked.output
