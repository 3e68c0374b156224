"""A declared source asks a real server, over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from tidewire.collect import SourceConfig, read
from tidewire.errors import RateLimited, TerminalError
from tidewire.sources.declared import DeclaredApp, app_of
from tidewire.sources.declared.collector import WHOLE
from tidewire.sources.declared.parse import names_of
from unit.collect.kit import Place, place
from unit.sources.declared.samples import FIRST, LIST, file_of, page

ROWS = 250


@asynccontextmanager
async def site(answer: Callable[[web.Request], web.StreamResponse]) -> AsyncIterator[str]:
    """A site on a port of its own."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return answer(request)

    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def asking(folder: Path, url: str, text: str = LIST) -> AsyncIterator[tuple[DeclaredApp, Place]]:
    config = {"source": {"type": "declared", "name": "eastmoney.list"}, "api": {"base_url": url}}
    async with place(folder) as here:
        app = app_of(file_of(folder, text))(read(config, SourceConfig, "test"), here.context)
        await app.initialize()
        try:
            yield app, here
        finally:
            await app.stop()


async def fetched(app: DeclaredApp) -> None:
    collector: Any = app.get("rows")
    await collector.fetch()


def stock(number: int) -> dict[str, Any]:
    return {**FIRST, "f12": f"{number:06d}"}


def listed(request: web.Request, *, cap: int = 100, rows: int = ROWS) -> web.Response:
    at = int(request.query["pn"])
    size = min(cap, int(request.query["pz"]))
    found = [stock(number) for number in range(rows)][(at - 1) * size : at * size]
    return web.json_response(page(found, ROWS) if found else {"rc": 0, "data": None})


@pytest.mark.parametrize("cap", [100, 30])
async def test_every_page_of_a_list_is_asked_for_whatever_the_site_cuts_it_to(tmp_path: Path, cap: int) -> None:
    asked: list[int] = []

    def answer(request: web.Request) -> web.Response:
        asked.append(int(request.query["pn"]))
        return listed(request, cap=cap)

    async with site(answer) as url, asking(tmp_path, url) as (app, here):
        await fetched(app)
        frames = here.frames()
    assert sorted(asked) == list(range(1, -(-ROWS // cap) + 1))
    assert sorted(names_of(frame.origin.request)["page"] for frame in frames) == sorted(asked)
    parsed = app.make_parser(app.config, app.context.instruments).parse(frames)
    assert sum(len(part.frames) for part in parsed.parsed) == ROWS


async def test_a_list_that_is_short_is_a_gap(tmp_path: Path) -> None:
    async with site(lambda request: listed(request, rows=180)) as url, asking(tmp_path, url) as (app, here):
        await fetched(app)
        await here.journal.drain()
        told = here.frames()[-1]
    assert WHOLE.encode() in told.payload
    assert b"180 of 250 rows came" in told.payload


@pytest.mark.parametrize(
    ("status", "kind", "body", "does"),
    [(200, "text/html", "<html>verify</html>", "back_off"), (403, "application/json", "{}", "rotate")],
)
async def test_a_refusal_is_kept_as_one_and_the_whole_family_waits(
    tmp_path: Path, status: int, kind: str, body: str, does: str
) -> None:
    def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, text=body, content_type=kind)

    async with site(answer) as url, asking(tmp_path, url) as (app, here):
        with pytest.raises(RateLimited):
            await fetched(app)
        assert app.family.of("any").paused_s > 25
        (frame,) = here.frames()
        parsed = app.make_parser(app.config, app.context.instruments).parse([frame])
    assert names_of(frame.origin.request)["refused"] == does
    assert (len(parsed.control), parsed.parsed, parsed.unreadable) == (1, [], [])


async def test_a_file_may_say_that_asking_again_cannot_help(tmp_path: Path) -> None:
    text = LIST.replace("do: retry", "do: fail")
    async with (
        site(lambda request: web.json_response({"rc": 102})) as url,
        asking(tmp_path, url, text) as (app, _),
    ):
        with pytest.raises(TerminalError, match="answered 200"):
            await fetched(app)


async def test_bytes_that_are_not_what_the_file_says_are_kept_and_reported(tmp_path: Path) -> None:
    async with site(lambda request: web.Response(text="oops")) as url, asking(tmp_path, url) as (app, here):
        await fetched(app)
        assert "expected JSON" in app.get("rows").status.last_error
        assert [frame.payload for frame in here.frames()] == [b"oops"]


async def test_rows_that_hop_between_pages_are_told(tmp_path: Path) -> None:
    def answer(request: web.Request) -> web.Response:
        at = int(request.query["pn"])
        found = [stock(number) for number in range(ROWS)]
        begin = (at - 1) * 100 - (at > 1) * 5  # five rows moved up while the second page was asked for
        return web.json_response(page(found[begin : begin + 100], ROWS))

    async with site(answer) as url, asking(tmp_path, url) as (app, _):
        await fetched(app)
        assert "rows came twice by instrument" in app.get("rows").status.last_error


async def test_a_column_that_went_empty_is_told(tmp_path: Path) -> None:
    text = LIST.replace("unique: [instrument]", "null_share: {last: 1%}")

    def answer(request: web.Request) -> web.Response:
        return web.json_response(page([{**stock(1), "f2": "-"}, stock(2)], 2))

    async with site(answer) as url, asking(tmp_path, url, text) as (app, _):
        await fetched(app)
        assert "last is null in 1 of 2 rows, 1% expected" in app.get("rows").status.last_error


async def test_a_status_that_means_the_end_is_no_data(tmp_path: Path) -> None:
    text = LIST.replace("errors:\n", "errors:\n  - {when: {status: [404]}, do: stop}\n").replace(
        "total: data.total, ", ""
    )

    def answer(request: web.Request) -> web.Response:
        at = int(request.query["pn"])
        if at > 2:
            return web.json_response(page([stock(999)], 1), status=404)
        return web.json_response(page([stock(at * 100 + number) for number in range(100)], ROWS))

    async with site(answer) as url, asking(tmp_path, url, text) as (app, here):
        await fetched(app)
        frames = [frame for frame in here.frames() if frame.origin.request]
    parsed = app.make_parser(app.config, app.context.instruments).parse(frames)
    assert sum(len(part.frames) for part in parsed.parsed) == 200
    assert parsed.control


# -- block pages that answer 200 ------------------------------------------------------------------------------------

BARE = LIST[: LIST.index("errors:")] + LIST[LIST.index("expect:") :]
"""A file that says nothing about refusals."""
TABLE = """
version: 1
source: a.table
emits: ticker@1
decode: csv
request: {get: "https://a.com/prices.csv"}
fields: {instrument: code, last: price | decimal}
limits: {rate: 100/s, share: a.com}
"""
CHALLENGE = "<script>var _0x4c='cookie';document[_0x4c]='k=1';location.reload()</script>"
LOOSE = "var _0x4c=['\\x63'];(function(){document.cookie='k=1';location.reload()})();"
PAGES = {
    "html": ("<!DOCTYPE html><html><title>403</title></html>", "text/html"),
    "html that says it is json": ("\n <HTML><body>verify</body></HTML>", "application/json"),
    "empty": ("", "application/json"),
    "blank": (" \r\n", "text/html"),
    "challenge": (CHALLENGE, "text/html"),
    "challenge without a page": (LOOSE, "text/html; charset=utf-8"),
}


async def outcome(folder: Path, text: str, body: str, kind: str) -> tuple[DeclaredApp, Any, BaseException | None]:
    """What a source makes of an answer with 200: the App, what its parser sees, and the error of the round."""
    response = {"body": body.encode(), "headers": {"Content-Type": kind}}
    async with site(lambda request: web.Response(**response)) as url, asking(folder, url, text) as (app, here):
        error = None
        try:
            await fetched(app)
        except (RateLimited, TerminalError) as raised:
            error = raised
        await here.journal.drain()
        frames = [frame for frame in here.frames() if frame.origin.request]
        return app, app.make_parser(app.config, app.context.instruments).parse(frames), error


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("text", [LIST, BARE, BARE + "decode: jsonp\n", TABLE], ids=["rules", "bare", "jsonp", "csv"])
async def test_a_page_that_blocks_is_a_refusal_with_and_without_rules(tmp_path: Path, text: str, name: str) -> None:
    body, kind = PAGES[name]
    app, parsed, error = await outcome(tmp_path, text, body, kind)
    assert isinstance(error, RateLimited)
    assert (parsed.parsed, parsed.unreadable, parsed.filtered, len(parsed.control)) == ([], [], [], 1)
    assert app.family.refusals == 1
    assert app.family.of("any").paused_s > 25


@pytest.mark.parametrize("kind", ["application/json", "text/html"])
@pytest.mark.parametrize("rule", ["", "errors: [{when: 'rc != `0`', do: back_off}]\n"], ids=["bare", "rule"])
async def test_an_error_in_json_is_no_row(tmp_path: Path, kind: str, rule: str) -> None:
    body = '{"rc": 9501, "message": "busy", "data": null}'
    app, parsed, error = await outcome(tmp_path, BARE + rule, body, kind)
    assert (parsed.parsed, parsed.unreadable, len(parsed.control)) == ([], [], 1)
    assert isinstance(error, RateLimited) == bool(rule) == bool(app.family.refusals)


async def test_json_that_says_it_is_html_is_data(tmp_path: Path) -> None:
    body = msgspec.json.encode(page([FIRST], 1)).decode()
    app, parsed, error = await outcome(tmp_path, BARE, body, "text/html; charset=utf-8")
    assert error is None
    assert sum(len(part.frames) for part in parsed.parsed) == 1
    assert app.family.refusals == 0


async def test_nothing_is_good_where_the_site_says_so(tmp_path: Path) -> None:
    source = app_of(file_of(tmp_path, TABLE)).source
    assert source.blocked(204, "", b"") is None
    assert source.blocked(200, "text/csv", b"code,price\n600000.SH,1.5\n") is None
    assert source.blocked(200, "text/html", b"code,price\n600000.SH,1.5\n") == "rotate"
