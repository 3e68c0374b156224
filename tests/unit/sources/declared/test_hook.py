"""Python beside a file: other requests, other rows, and errors that name the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tidewire.errors import ConfigError, ParseError
from tidewire.records.clock import SeededRng, SystemClock
from tidewire.runtime.plugins import files_of
from tidewire.sources.declared import app_of, beside, load_declared, run_tests
from tidewire.sources.declared.trying import Wish, try_source
from unit.collect.kit import place
from unit.sources.declared.samples import file_of
from unit.sources.declared.test_collector import app_at, fetched, site

FILE = """
version: 1
source: example.tree
emits: ticker@1
use: python
for_each: {board: [main]}
request: {get: "https://example.com/list", params: {board: "${board}"}}
fields: {instrument: code | cn_symbol, last: price | decimal}
limits: {rate: 1000/s}
tests:
  - name: a tree, in two parts
    responses: [{token: t2, tree: {sh600000: 8.75}}, {tree: {sz000001: 10.47}}]
    requests: ["https://example.com/list?board=main", "https://example.com/list?board=main&after=t2"]
    rows: [{instrument: 600000.SH, last: 8.75}, {instrument: 000001.SZ, last: 10.47}]
"""
CODE = '''
from tidewire.sources.declared import DeclaredSource


class Source(DeclaredSource):
    """A tree, asked for in parts."""

    def requests(self, names):
        document = yield self.request(names)
        while document.get("token"):
            document = yield self.request(names, after=document["token"])

    def rows(self, document):
        return [{"code": code, "price": price} for code, price in document["tree"].items()]
'''
PARTS: dict[str | None, Any] = {
    None: {"token": "a", "tree": {"sh600000": 8.75}},
    "a": {"token": "b", "tree": {"sz000001": 10.47}},
    "b": {"tree": {"bj920002": 1.5}},
}


def written(folder: Path, code: str = CODE, text: str = FILE) -> Path:
    path = file_of(folder, text)
    path.with_suffix(".py").write_text(code, encoding="utf-8")
    return path


def parts(request: web.Request) -> web.Response:
    return web.json_response(PARTS[request.query.get("after")])


def test_its_tests_run_through_the_code(tmp_path: Path) -> None:
    verdicts = list(run_tests(load_declared(written(tmp_path))))
    assert [(each.problems, each.rows) for each in verdicts] == [([], 2)]
    text = FILE.replace('after=t2"', 'after=t2", "https://example.com/list"')
    (verdict,) = run_tests(load_declared(written(tmp_path, text=text)))
    assert verdict.problems == ["3 requests expected, 2 asked for"]


async def test_what_comes_next_may_follow_from_what_came(tmp_path: Path) -> None:
    path = written(tmp_path)
    async with site(parts) as url:
        tried = await try_source(app_of(path), SystemClock(), SeededRng(1), Wish(pages=9, base_url=url))
        assert [row["last"] for row in tried.made.rows] == ["8.75", "10.47", "1.5"]
        async with place(tmp_path) as here, app_at(tmp_path, url, FILE, here.context) as app:
            await fetched(app)
            frames = here.frames()
            parsed = app.make_parser(app.config, app.context.instruments).parse(frames)
    codes = [code for part in parsed.parsed for code in part.columns["instrument"]]  # type: ignore[union-attr] - lists
    assert codes == ["600000.SH", "000001.SZ", "920002.BJ"]


async def test_code_that_asks_for_ever_is_stopped(tmp_path: Path) -> None:
    code = CODE.replace('document.get("token")', "True").replace('document["token"]', '"a"')
    text = FILE.replace("limits:", "paginate: {page: p, max: 4}\nlimits:")
    written(tmp_path, code)
    async with site(parts) as url, place(tmp_path) as here, app_at(tmp_path, url, text, here.context) as app:
        await fetched(app)
        assert "more than 4 pages" in app.get("rows").status.last_error
        await here.journal.drain()
        assert len([each for each in here.frames() if each.origin.request]) == 4


async def test_requests_that_fail_are_told_with_their_line(tmp_path: Path) -> None:
    written(tmp_path, CODE.replace("yield self.request(names)\n", "yield self.request(names, x=names['y'])\n", 1))
    async with site(parts) as url, place(tmp_path) as here, app_at(tmp_path, url, FILE, here.context) as app:
        with pytest.raises(Exception, match=r"example\.tree\.py:9: KeyError: 'y'"):
            await fetched(app)
    written(tmp_path, CODE.replace("yield self.request(names)\n", "yield 'https://example.com'\n", 1))
    async with site(parts) as url, place(tmp_path) as here, app_at(tmp_path, url, FILE, here.context) as app:
        with pytest.raises(Exception, match=r"requests gave str, not a Request"):
            await fetched(app)


def test_rows_that_fail_quarantine_their_reply(tmp_path: Path) -> None:
    source = load_declared(written(tmp_path))
    with pytest.raises(ParseError, match=r"example\.tree\.py:14: KeyError: 'tree'"):
        source.read(b"{}", {}, 0)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = (", "example.tree.py:1: SyntaxError"),
        ("\nx = 1 / 0", "example.tree.py:2: ZeroDivisionError"),
        ("class Source: ...", "write class Source(DeclaredSource)"),
        ("", "write class Source(DeclaredSource)"),
    ],
)
def test_code_that_does_not_load_is_told(tmp_path: Path, code: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_declared(written(tmp_path, code))
    assert said in str(error.value)


def test_code_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no .*example\.tree\.py beside it"):
        load_declared(file_of(tmp_path, FILE))


def test_both_files_are_one(tmp_path: Path) -> None:
    path = written(tmp_path)
    code = path.with_suffix(".py")
    assert beside(code)
    assert not beside(path)
    (seen,) = files_of(tmp_path).items()
    assert seen[0] == path
    code.write_text(CODE + "\n# other\n", encoding="utf-8")
    assert files_of(tmp_path) != dict([seen])
    file_of(tmp_path, FILE.replace("use: python", "about: without code"))
    assert not beside(code)
    assert set(files_of(tmp_path)) == {path, code}
