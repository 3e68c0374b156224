"""Windows of time over real HTTP: history and now are one road, whole before it moves on, and known after a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tidewire.collect import Cursors
from tidewire.errors import RateLimited, TerminalError
from tidewire.journal import Origin
from tidewire.records.clock import SystemClock, utc
from tidewire.sources.declared.app import PAUSE
from tidewire.sources.declared.collector import ANSWERS, SINCE
from unit.collect.kit import place
from unit.sources.declared.test_collector import app_at, fetched, site, told_by

HISTORY = """
version: 1
source: example.history
emits: ticker@1
for_each: {symbol: [600000.SH, 000001.SZ]}
since: {field: event_time, start: 3d, step: 1d, lookback: 1h, tz: UTC}
request:
  get: https://example.com/history
  params: {from: "${since}", to: "${until}", symbol: "${symbol | cn_symbol('sh600000')}"}
paginate: {page: pn, size: {n: 2}, total: total}
select: rows
fields:
  instrument: symbol | cn_symbol
  last: price | decimal
  event_time: at | epoch_us
limits: {rate: 1000/s, concurrency: 4}
expect: {rows: total}
"""
HOUR = 3_600_000_000
DAY = 24 * HOUR

Spoilt = Callable[[str, int, int], web.Response | None]


class History:
    """Has a row every eight hours of each symbol; ``spoilt`` may answer instead."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []
        self.spoilt: Spoilt = lambda symbol, begin, page: None

    def answer(self, request: web.Request) -> web.Response:
        query = request.query
        begin, end, page = int(query["from"]), int(query["to"]), int(query["pn"])
        if page == 1:
            self.asked.append((query["symbol"], begin, end))
        spoilt = self.spoilt(query["symbol"], begin, page)
        if spoilt is not None:
            return spoilt
        step = 8 * HOUR
        times = range(-(-begin // step) * step, end, step)
        rows = [{"symbol": query["symbol"], "price": "8.75", "at": at} for at in times]
        return web.json_response({"total": len(rows), "rows": rows[(page - 1) * 2 : page * 2]})

    def of(self, symbol: str) -> list[tuple[int, int]]:
        return [(begin, end) for asked, begin, end in self.asked if asked == symbol]


def until(app: Any, symbol: str) -> int:
    said = app.get("rows").cursor(SINCE + symbol)
    return int(said) if said else 0


async def test_history_and_now_are_one_road(tmp_path: Path) -> None:
    history = History()
    async with (
        site(history.answer) as url,
        place(tmp_path) as here,
        app_at(tmp_path, url, HISTORY, here.context) as app,
    ):
        await fetched(app)
        first = history.of("sh600000")
        frames = here.frames()
        await fetched(app)
        second = history.of("sh600000")[len(first) :]
        last = until(app, "600000.SH")
    assert len(first) == len(history.of("sz000001")) - 1 == 3
    assert [end - begin for begin, end in first] == [DAY, DAY, DAY]
    assert [begin for begin, _ in first[1:]] == [end for _, end in first[:-1]]
    ((begin, end),) = second
    assert begin == first[-1][1] - HOUR
    assert end == last > first[-1][1]
    parsed = app.make_parser(app.config, app.context.instruments).parse([each for each in frames if not each.cursor])
    assert sum(len(part.frames) for part in parsed.parsed) == 2 * 9
    assert all(part.past for part in parsed.parsed)
    assert {code for part in parsed.parsed for code in part.columns["instrument"]} == {"600000.SH", "000001.SZ"}  # type: ignore[union-attr] - columns are lists here


async def test_a_window_that_fails_is_asked_again_and_the_others_go_on(tmp_path: Path) -> None:
    history = History()
    async with (
        site(history.answer) as url,
        place(tmp_path) as here,
        app_at(tmp_path, url, HISTORY, here.context) as app,
    ):
        second: list[int] = []

        def spoilt(symbol: str, begin: int, page: int) -> web.Response | None:
            if symbol == "sh600000" and len(history.of(symbol)) >= 2 and page == 2:
                second.append(begin)
                return web.Response(text="oops")
            return None

        history.spoilt = spoilt
        await fetched(app)
        stuck = until(app, "600000.SH")
        assert history.of("sh600000")[0][1] == stuck == second[0]
        assert until(app, "000001.SZ") > stuck + DAY
        assert "expected JSON" in app.get("rows").status.last_error
        history.spoilt = lambda symbol, begin, page: None
        await fetched(app)
        assert until(app, "600000.SH") > stuck + DAY
        await here.journal.drain()
        told = [told_by(each) for each in here.frames() if b'"event":"gap"' in each.payload]
    assert [(each["instrument"], each["state"]) for each in told] == [("600000.SH", "open"), ("600000.SH", "filled")]
    assert told[0]["event_time"] == told[1]["event_time"] == stuck
    assert told[0]["gap_id"] == told[1]["gap_id"]


async def test_a_run_after_a_kill_goes_on_where_windows_were_whole(tmp_path: Path) -> None:
    history = History()
    # One at a time: what is in flight beside a refusal would wait until the pause after it is over.
    text = HISTORY.replace("concurrency: 4", "concurrency: 1")
    async with site(history.answer) as url:
        async with place(tmp_path) as here, app_at(tmp_path, url, text, here.context) as app:
            history.spoilt = lambda symbol, begin, page: web.Response(status=403) if len(history.asked) > 3 else None
            with pytest.raises(RateLimited):
                await fetched(app)
            known = {symbol: until(app, symbol) for symbol in ("600000.SH", "000001.SZ")}
            await here.journal.drain()
        history.spoilt = lambda symbol, begin, page: None
        history.asked.clear()
        async with place(tmp_path) as here:
            cursors: Cursors = here.context.cursors
            cursors.load(here.journal)
            cursors.move(Origin(app.name, "rows", ""), {PAUSE: ""})  # which is over by then
            async with app_at(tmp_path, url, text, here.context) as app:
                assert {symbol: until(app, symbol) for symbol in known} == known
                await fetched(app)
                await here.journal.drain()
                told = [told_by(each) for each in here.frames() if b'"event":"gap"' in each.payload]
    assert all(known.values())
    for symbol, asked in (("600000.SH", "sh600000"), ("000001.SZ", "sz000001")):
        assert history.of(asked)[0][0] == known[symbol] - HOUR
    assert [(each["instrument"], each["state"]) for each in told] == [("*.*", "open"), ("*.*", "filled")]


async def test_a_window_that_stays_short_is_a_gap_and_left_behind(tmp_path: Path) -> None:
    history = History()
    start = SystemClock().wall_ns() // 1_000 - 3 * DAY
    text = HISTORY.replace("[600000.SH, 000001.SZ]", "[600000.SH]")
    text = text.replace("start: 3d", f"start: '{utc(start * 1_000).isoformat()}'")
    async with (
        site(history.answer) as url,
        place(tmp_path) as here,
        app_at(tmp_path, url, text, here.context) as app,
    ):
        history.spoilt = lambda symbol, begin, page: (
            web.json_response({"total": 9, "rows": []}) if begin == start else None
        )
        for _ in range(ANSWERS):
            assert not until(app, "600000.SH")
            await fetched(app)
        assert until(app, "600000.SH") > start + 2 * DAY
        await here.journal.drain()
        told = [told_by(each) for each in here.frames() if b'"event":"gap"' in each.payload]
    assert [each["state"] for each in told] == ["open", "unfillable"]
    assert told[1]["detail"] == "the site answered 3 times so: 0 of 9 rows came"


async def test_one_the_site_refuses_does_not_end_the_round_but_many_do(tmp_path: Path) -> None:
    history = History()
    symbols = ", ".join(f"{number:06d}.SZ" for number in range(1, 12))
    text = HISTORY.replace("600000.SH, 000001.SZ", symbols)
    async with (
        site(history.answer) as url,
        place(tmp_path) as here,
        app_at(tmp_path, url, text, here.context) as app,
    ):
        history.spoilt = lambda symbol, begin, page: web.Response(status=404) if symbol == "sz000001" else None
        await fetched(app)
        assert len({symbol for symbol, *_ in history.asked}) == 11
        history.asked.clear()
        history.spoilt = lambda symbol, begin, page: web.Response(status=401)
        with pytest.raises(TerminalError):
            await fetched(app)
        assert 5 <= len(history.asked) <= 8  # four at once


async def test_rows_that_show_that_the_window_is_ignored_are_told_once(tmp_path: Path) -> None:
    rows = {"total": 1, "rows": [{"symbol": "sh600000", "price": "1", "at": 5 * DAY}]}
    async with (
        site(lambda request: web.json_response(rows)) as url,
        place(tmp_path) as here,
        app_at(tmp_path, url, HISTORY, here.context) as app,
    ):
        await fetched(app)
        await here.journal.drain()
        told = [each for each in here.said("collector.example.history.error") if each["what"] == "since.field"]
        assert len(told) == 1
        assert "the site may not keep to it" in told[0]["error"]
