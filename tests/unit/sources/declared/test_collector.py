"""A declared source asks a real server, over real HTTP."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from tidewire.collect import Context, Frame, SourceConfig, read
from tidewire.errors import ConfigError, RateLimited, TerminalError
from tidewire.records.clock import SystemClock, utc
from tidewire.sources.declared import DeclaredApp, app_of
from tidewire.sources.declared.outages import WHOLE
from tidewire.sources.declared.parse import names_of
from unit.collect.kit import Place, place
from unit.sources.declared.samples import FIRST, LINES, LIST, file_of, page

ROWS = 250


@asynccontextmanager
async def site(answer: Callable[[web.Request], web.StreamResponse]) -> AsyncGenerator[str]:
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
async def asking(folder: Path, url: str, text: str = LIST) -> AsyncGenerator[tuple[DeclaredApp, Place]]:
    async with place(folder) as here, app_at(folder, url, text, here.context) as app:
        yield app, here


@asynccontextmanager
async def app_at(folder: Path, url: str, text: str, context: Context) -> AsyncGenerator[DeclaredApp]:
    path = file_of(folder, text)
    config = {"source": {"type": "declared", "name": path.stem}, "api": {"base_url": url}}
    app = app_of(path)(read(config, SourceConfig, "test"), context)
    await app.initialize()
    try:
        yield app
    finally:
        await app.stop()


async def fetched(app: DeclaredApp) -> None:
    collector: Any = app.get("rows")
    await collector.fetch()


def told_by(frame: Frame) -> dict[str, Any]:
    return msgspec.json.decode(frame.payload)


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


async def test_what_is_asked_for_by_the_day_stands_in_the_frame_as_it_was(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(request: web.Request) -> web.Response:
        asked.append(request.query["day"])
        return web.json_response({"rc": 0, "data": None})

    text = LIST.replace("request:", "for_each: {day: [\"${now | date('%Y-%m-%d')}\"]}\nrequest:")
    text = text.replace("fid: f12}", 'fid: f12, day: "${day}"}')
    async with site(answer) as url, asking(tmp_path, url, text) as (app, here):
        await fetched(app)
        (frame,) = here.frames()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", asked[0])
    assert names_of(frame.origin.request)["day"] == asked[0]


async def test_a_source_keeps_the_calendar_that_its_file_names(tmp_path: Path) -> None:
    text = LIST.replace("request:", "schedule: {every: 5s, calendar: XSHG, between: session}\nrequest:")
    async with asking(tmp_path, "http://127.0.0.1:9", text) as (app, _):
        assert app.calendars() == {"XSHG"}
        window = app.get("rows").get_timer("ask").window
        assert str(window) == "session (XSHG, Asia/Shanghai)"


@pytest.mark.parametrize("schedule", ["every: 5s", "every: 5s, between: '09:15-15:05'"])
async def test_without_one_every_day_counts(tmp_path: Path, schedule: str) -> None:
    text = LIST.replace("request:", f"schedule: {{{schedule}}}\nrequest:")
    async with asking(tmp_path, "http://127.0.0.1:9", text) as (app, _):
        assert app.calendars() == set()


async def test_a_calendar_without_a_window_is_the_whole_of_its_sessions(tmp_path: Path) -> None:
    text = LIST.replace("request:", "schedule: {cron: '30 8 * * *', calendar: XSHG}\nrequest:")
    async with asking(tmp_path, "http://127.0.0.1:9", text) as (app, _):
        window = app.get("rows").get_timer("ask").window
        assert window is not None
        saturday, monday = (round(datetime(2026, 11, day, 0, 30, tzinfo=UTC).timestamp() * 1e9) for day in (28, 30))
        assert (window.contains(saturday), window.contains(monday)) == (False, True)


async def test_a_list_that_is_short_is_a_gap(tmp_path: Path) -> None:
    answers = {"rows": 180}
    async with site(lambda request: listed(request, rows=answers["rows"])) as url, asking(tmp_path, url) as (app, here):
        await fetched(app)
        await here.journal.drain()
        short = here.frames()[-1].payload
        answers["rows"] = ROWS
        await fetched(app)
        await fetched(app)
        await here.journal.drain()
        told = [told_by(frame) for frame in here.frames() if frame.origin.request == ""]
    assert WHOLE.encode() in short
    assert [(each["state"], each["cause"]) for each in told] == [("open", "total"), ("unfillable", "total")]
    assert told[0]["detail"] == "180 of 250 rows came"
    assert (told[0]["gap_id"], told[0]["event_time"]) == (told[1]["gap_id"], told[1]["event_time"])
    assert told[1]["until_time"] > told[0]["until_time"]


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


CODES = """
version: 1
source: eastmoney.some
emits: ticker@1
for_each: {codes: [[000001.SZ, 000002.SZ], [000003.SZ]]}
request:
  get: https://push2.eastmoney.com/api/qt/ulist.np/get
  params: {secids: "${codes | cn_symbol('1.600000') | join(',')}"}
select: data.diff
fields:
  instrument: "${row.f12}.${row.f12 | cn_exchange}"
  last: f2 | decimal
  event_time: f124 | epoch_s
limits: {rate: 100/s, share: eastmoney.com}
expect: {all_of: codes}
"""


async def test_what_is_asked_for_and_not_in_the_answer_has_a_gap_until_it_is(tmp_path: Path) -> None:
    unknown = {"0.000002"}
    asked: list[str] = []

    def answer(request: web.Request) -> web.Response:
        asked.append(request.query["secids"])
        known = [each for each in request.query["secids"].split(",") if each not in unknown]
        return web.json_response(page([{**FIRST, "f12": each[2:]} for each in known], len(known)))

    async with site(answer) as url, asking(tmp_path, url, CODES) as (app, here):
        for _ in range(2):
            await fetched(app)
        assert asked[:2] == ["0.000001,0.000002", "0.000003"]
        assert app.get("rows").metrics["errors"] == 1  # told once, not at each round
        unknown.clear()
        await fetched(app)
        await here.journal.drain()
        told = [told_by(each) for each in here.frames() if each.origin.request == ""]
    states = [(each["instrument"], each["state"]) for each in told]
    assert states == [("000002.SZ", "open"), ("000002.SZ", "unfillable")]


async def test_a_list_that_lacks_many_is_a_round_that_failed(tmp_path: Path) -> None:
    known = 40

    def answer(request: web.Request) -> web.Response:
        there = request.query["secids"].split(",")[:known]
        return web.json_response(page([{**FIRST, "f12": each[2:]} for each in there], len(there)))

    codes = ", ".join(f"{number:06d}.SZ" for number in range(1, 81))
    text = CODES.replace("[[000001.SZ, 000002.SZ], [000003.SZ]]", f"[[{codes}]]")
    async with site(answer) as url, asking(tmp_path, url, text) as (app, _):
        told: list[str] = []
        for known in (80, 60, 59):  # noqa: B007 - what the site knows
            await fetched(app)
            await fetched(app)
            told.append(vars(app.get("rows"))["_last_trouble"])
    assert told[0] == ""
    assert told[1].startswith("expect.all_of: not in the answer: 000061.SZ")  # told once, and no matter of the round
    assert told[2] == "21 of 80 instruments are not in the answer"


async def test_a_list_to_compare_with_must_be_one_that_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expect\.all_of: write a name of for_each.*valid: codes"):
        app_of(file_of(tmp_path, CODES.replace("all_of: codes", "all_of: code")))


def fresh_text(**schedule: str) -> str:
    said = ", ".join(f"{name}: '{value}'" for name, value in schedule.items())
    text = LIST.replace("unique: [instrument]", "fresh: 15s").replace(
        "request:\n", f"schedule: {{{said}}}\nrequest:\n", 1
    )
    return text.replace("epoch_s", "epoch_us")


async def test_a_site_that_answers_with_what_is_old_is_silent(tmp_path: Path) -> None:
    age_s = 60

    def answer(request: web.Request) -> web.Response:
        at = SystemClock().wall_ns() // 1_000 - age_s * 1_000_000
        return web.json_response(page([{**stock(1), "f124": at}], 1))

    text = fresh_text(between="00:00-24:00")
    async with site(answer) as url, asking(tmp_path, url, text) as (app, here):
        await fetched(app)
        await fetched(app)
        assert "old; 15s expected" in app.get("rows").status.last_error
        age_s = 1
        await fetched(app)
        assert app.get("rows").status.last_error == ""
        await here.journal.drain()
        told = [told_by(frame) for frame in here.frames() if not frame.origin.request]
    assert [(each["state"], each["cause"]) for each in told] == [("open", "silence"), ("unfillable", "silence")]
    assert told[0]["event_time"] < told[0]["until_time"] - 59_000_000


async def test_outside_its_session_a_site_need_not_be_fresh(tmp_path: Path) -> None:
    now = utc(SystemClock().wall_ns())
    begins, ends = now + timedelta(hours=2), now + timedelta(hours=3)
    text = fresh_text(tz="UTC").replace("fresh: 15s", f"fresh: 15s, session: ['{begins:%H:%M}-{ends:%H:%M}']")
    old = [{**stock(1), "f124": 1_783_409_697_000_000}]
    async with (
        site(lambda request: web.json_response(page(old, 1))) as url,
        asking(tmp_path, url, text) as (app, _),
    ):
        await fetched(app)
        assert app.get("rows").status.last_error == ""


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


async def test_a_page_in_a_charset_the_file_does_not_say_is_a_refusal(tmp_path: Path) -> None:
    source = app_of(file_of(tmp_path, LINES)).source
    page_of = "<!DOCTYPE html><html><body>您的访问过于频繁，请稍后再试。</body></html>"
    assert source.blocked(200, "text/html", page_of.encode()) == "rotate"
    assert source.blocked(200, "text/html", page_of.encode("gbk")) is None  # a rule of the file may know it
    assert source.blocked(200, "text/html", b"v_sh600000=\xff") is None


async def test_what_is_not_stored_yet_does_not_wait_for_tomorrow(tmp_path: Path) -> None:
    text = CODES.replace(
        "for_each: {codes: [[000001.SZ, 000002.SZ], [000003.SZ]]}",
        "schedule: {cron: '40 15 * * *'}\nfor_each: {codes: {ref: instrument.instrument, chunk: 10}}",
    )
    stored: list[str] = []
    asked: list[str] = []

    async def known(kind: str, column: str, where: Mapping[str, Sequence[str]]) -> Sequence[str]:
        return stored

    def answer(request: web.Request) -> web.Response:
        asked.append(request.query["secids"])
        return web.json_response(page([{**FIRST, "f12": "000001"}], 1))

    async with (
        site(answer) as url,
        place(tmp_path) as here,
        app_at(tmp_path, url, text, replace(here.context, known=known)) as app,
    ):
        collector: Any = app.get("rows")
        assert set(collector.timers) == {"ask", "again"}
        await collector.fetch()
        assert asked == []
        stored.append("000001.SZ")
        for _ in range(2):  # the second time nothing is waited for
            await collector._again()
        assert asked == ["0.000001"]
    async with site(answer) as url, asking(tmp_path, url, CODES) as (app, _):
        assert set(app.get("rows").timers) == {"ask"}
