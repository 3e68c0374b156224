"""Asking a site once, without keeping anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web

from tidewire.errors import ParseError, TerminalError
from tidewire.records.clock import SeededRng, SystemClock
from tidewire.sources.declared import app_of
from tidewire.sources.declared.trying import Tried, Wish, try_source
from unit.sources.declared.samples import FIRST, LIST, SUSPENDED, file_of, page
from unit.sources.declared.test_collector import listed, site


async def tried(folder: Path, url: str, pages: int = 1) -> Tried:
    return await try_source(app_of(file_of(folder, LIST)), SystemClock(), SeededRng(1), Wish(pages, base_url=url))


async def test_the_rows_of_the_first_pages_are_shown(tmp_path: Path) -> None:
    async with site(listed) as url:
        found = await tried(tmp_path, url, pages=2)
    assert (len(found.made.rows), len(found.replies), found.total) == (200, 2, 250)
    assert found.made.rows[0]["last"] == "10.47"


async def test_what_is_not_taken_is_shown_with_its_reason(tmp_path: Path) -> None:
    def answer(request: web.Request) -> web.Response:
        return web.json_response(page([FIRST, SUSPENDED, {**FIRST, "f2": "ten"}], 3))

    async with site(answer) as url:
        found = await tried(tmp_path, url)
    assert len(found.made.rows) == 2
    assert found.made.wrong == ["last: not exact"]


async def test_a_refusal_says_what_the_site_answered(tmp_path: Path) -> None:
    async with site(lambda request: web.Response(text="<html>verify", content_type="text/html")) as url:
        with pytest.raises(TerminalError, match=r"the file says back_off. It begins: <html>verify"):
            await tried(tmp_path, url)


async def test_bytes_that_are_not_what_the_file_says(tmp_path: Path) -> None:
    async with site(lambda request: web.Response(text="oops")) as url:
        with pytest.raises(ParseError, match="expected JSON, found b'oops'"):
            await tried(tmp_path, url)
