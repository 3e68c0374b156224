"""A reply of a site becomes a test of its file."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web
from typer.testing import CliRunner

from tidewire.errors import ConfigError, InputError
from tidewire.records.clock import SeededRng, SystemClock
from tidewire.runtime import cli
from tidewire.sources.declared import app_of, load_declared, run_tests
from tidewire.sources.declared.recording import SUFFIX, record
from tidewire.sources.declared.trying import Wish, try_source
from unit.sources.declared.samples import FIRST, LIST, SUSPENDED, file_of, page
from unit.sources.declared.test_collector import site

CASES = """
tests:   # of which the first is old
  - name: nothing
    responses: [{rc: 0, data: null}]
    rows: []
"""
ROWS = [FIRST, SUSPENDED, {**FIRST, "f12": "000002", "f2": "ten"}]


async def recorded(folder: Path, text: str, out: Path | None = None) -> list[Path]:
    path = file_of(folder, text)
    async with site(lambda request: web.json_response(page(ROWS, 3))) as url:
        tried = await try_source(app_of(path), SystemClock(), SeededRng(1), Wish(base_url=url))
    return record(load_declared(path), tried, path, out)


@pytest.mark.parametrize("cases", ["", CASES, CASES.replace("\n  ", "\n")])
async def test_a_recorded_case_stands_in_the_file_and_passes(tmp_path: Path, cases: str) -> None:
    path, body = await recorded(tmp_path, LIST + cases)
    assert body.suffix == SUFFIX
    assert LIST.strip() in path.read_text(encoding="utf-8")
    verdicts = list(run_tests(load_declared(path)))
    assert [(each.problems, each.rows) for each in verdicts] == [([], 2)] + [([], 0)] * bool(cases)
    body.write_bytes(body.read_bytes().replace(b"10.47", b"10.48"))
    assert any(
        "rows[0].last: '10.47' expected, '10.48' came" in each for each in next(run_tests(load_declared(path))).problems
    )
    body.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        list(run_tests(load_declared(path)))


async def test_rows_of_other_types_are_recorded_too(tmp_path: Path) -> None:
    also = """
also:
  - emits: instrument@1
    where: f12 != '000002'
    fields: {instrument: "${row.f12}.SZ", native: f12, kind: = stock, status: = trading}
  - emits: quote@1
    where: f12 == 'none'
    fields: {instrument: "${row.f12}.SZ", sequence: f124}
"""
    path, _ = await recorded(tmp_path, LIST + also)
    (verdict,) = run_tests(load_declared(path))
    assert verdict.problems == []
    text = path.read_text(encoding="utf-8")
    assert text.count('"native": "000001"') == 1
    assert "    quote: []" in text


async def test_a_case_may_be_written_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    out, body = await recorded(tmp_path, LIST, tmp_path / "out" / "case.yaml")
    assert (tmp_path / "eastmoney.list.yaml").read_text(encoding="utf-8") == LIST
    assert out.read_text(encoding="utf-8").startswith("tests:\n  - name:")
    assert body.parent == out.parent


async def test_a_file_whose_tests_cannot_be_added_to_stays_as_it_is(tmp_path: Path) -> None:
    text = LIST + "tests: [{name: nothing, responses: [{rc: 0, data: null}], rows: []}]\n"
    with pytest.raises(InputError, match="give --out FILE"):
        await recorded(tmp_path, text)
    assert (tmp_path / "eastmoney.list.yaml").read_text(encoding="utf-8") == text


def test_a_case_has_responses_or_the_file_of_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tests\[0\]: write responses, or the file of one"):
        load_declared(file_of(tmp_path, LIST + "tests: [{name: empty}]\n"))


async def test_the_command(tmp_path: Path) -> None:
    import asyncio

    path = file_of(tmp_path, LIST)
    async with site(lambda request: web.json_response(page(ROWS, 3))) as url:
        arguments = ["source", "record", str(path), "--base-url", url]
        done = await asyncio.to_thread(CliRunner().invoke, cli.app, arguments)
    assert done.exit_code == 0, done.output
    assert "2 rows of 3 in 1 pages" in done.output
    checked = CliRunner().invoke(cli.app, ["source", "check", str(path)])
    assert checked.exit_code == 0, checked.output
