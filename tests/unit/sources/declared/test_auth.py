"""Keys of a declared source: they reach the site, and nothing else."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from tidewire.collect import Api
from tidewire.errors import ConfigError, RateLimited
from tidewire.records.clock import SeededRng, SystemClock
from tidewire.sources.declared import app_of, load_declared
from tidewire.sources.declared.auth import HIDDEN, credentials
from tidewire.sources.declared.grammar import Auth
from tidewire.sources.declared.trying import Wish, try_source
from unit.collect.kit import place
from unit.sources.declared.samples import LIST, file_of, page
from unit.sources.declared.test_collector import app_at, fetched, listed, site, stock

KEY = "s3cr/t+key with=all"
VARIABLES = {"SITE_KEY": KEY, "SITE_USER": "me"}
BASIC = base64.b64encode(f"me:{KEY}".encode()).decode()


def with_auth(auth: str) -> str:
    return LIST.replace("request:\n", f"request:\n  auth: {auth}\n")


@pytest.mark.parametrize(
    ("auth", "header", "query"),
    [
        ("{bearer: '${SITE_KEY}'}", f"Bearer {KEY}", None),
        ("{basic: [me, '${SITE_KEY}']}", f"Basic {BASIC}", None),
        ("{basic: ['${SITE_USER}', '${SITE_KEY}']}", f"Basic {BASIC}", None),
        ("{query: {tok: '${SITE_KEY}'}}", None, KEY),
        ("{header: {Authorization: 'Key ${SITE_KEY}'}}", f"Key {KEY}", None),
    ],
)
async def test_a_key_reaches_the_site_and_nobody_else(
    tmp_path: Path, auth: str, header: str | None, query: str | None
) -> None:
    seen: list[tuple[str | None, str | None]] = []
    refuses = False

    def answer(request: web.Request) -> web.Response:
        seen.append((request.headers.get("Authorization"), request.query.get("tok")))
        if refuses:
            return web.Response(status=403, text=f"{KEY} and {header} may not")
        return listed(request)

    text = with_auth(auth)
    async with site(answer) as url, place(tmp_path, secret=VARIABLES.get) as here:
        async with app_at(tmp_path, url, text, here.context) as app:
            with capture_logs() as logs:
                await fetched(app)
                refuses = True
                with pytest.raises(RateLimited) as error:
                    await fetched(app)
            frames = here.frames()
        assert set(seen) == {(header, query)}
        told = [*(each.origin.request for each in frames), str(logs), str(error.value), repr(app.credentials)]
        told += [str(event.facts) for event in here.heard]
    for secret in (KEY, BASIC, "s3cr"):
        assert not [each for each in told if secret in each]
    assert (query is None) == (HIDDEN not in frames[0].origin.request)


async def test_a_try_needs_the_key_too_and_does_not_show_it(tmp_path: Path) -> None:
    app = app_of(file_of(tmp_path, with_auth("{query: {tok: '${SITE_KEY}'}}")))

    def answer(request: web.Request) -> web.Response:
        return web.json_response({"rc": 0, "data": {"total": 0, "diff": []}, "you": request.query["tok"]})

    async with site(answer) as url:
        with pytest.raises(ConfigError, match="the environment has no SITE_KEY: set it"):
            await try_source(app, SystemClock(), SeededRng(1), Wish(base_url=url))
        tried = await try_source(app, SystemClock(), SeededRng(1), Wish(base_url=url, secret=VARIABLES.get))
    assert KEY.encode() not in tried.replies[0].body
    assert f"tok={HIDDEN}" in tried.replies[0].url


def test_keys_of_a_platform_file() -> None:
    auth = Auth(header={"X-Key": "${api.key}", "X-Secret": "${api.secret}"})
    found = credentials(auth, Api(key="k1", secret="k2"), {}.get, "here")
    assert found.headers == {"X-Key": "k1", "X-Secret": "k2"}
    with pytest.raises(ConfigError, match=r"set api\.key in its platform file"):
        credentials(auth, Api(), {}.get, "here")


@pytest.mark.parametrize(
    ("auth", "said"),
    [
        ("{bearer: abc}", "a key does not stand in a file"),
        ("{basic: [me, secret]}", "a key does not stand in a file"),
        ("{basic: [me]}", "write a user and a password"),
        ("{bearer: '${X}', query: {a: '${X}'}}", "write one of bearer, basic, query and header"),
        ("{}", "write one of bearer, basic, query and header"),
        ("{bearer: '${api.token}'}", "write api.key or api.secret"),
        ("{bearer: '${X}', tokn: a}", "request.auth.tokn"),
    ],
)
def test_what_cannot_be_meant_is_told_without_the_key(tmp_path: Path, auth: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_declared(file_of(tmp_path, with_auth(auth)))
    assert said in str(error.value)
    assert "abc" not in str(error.value)


PAGES = "paginate: {page: pn, start: 1, size: {pz: 100}, total: data.total, parallel: 2, max: 100}\n"


async def test_a_reply_that_is_as_it_was_is_not_sent_again(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []
    version = 1

    def answer(request: web.Request) -> web.Response:
        asked.append({name: request.headers.get(name) for name in ("If-None-Match", "If-Modified-Since")})
        tag = f'"{version}"'
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304)
        return web.json_response(page([stock(1), stock(2)], 2), headers={"ETag": tag})

    text = LIST.replace("request:\n", "request:\n  cache: true\n").replace(PAGES, "")
    async with site(answer) as url, place(tmp_path) as here, app_at(tmp_path, url, text, here.context) as app:
        await fetched(app)
        await fetched(app)
        assert len(here.frames()) == 1
        assert [each["If-None-Match"] for each in asked] == [None, '"1"']
        assert app.health().problems == ()
        version = 2
        await fetched(app)
        assert len(here.frames()) == 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  get:", "  cache: true\n  post:", "only what is asked for with get"),
        ("  get:", "  cache: true\n  get:", "a page that"),
    ],
)
def test_what_cannot_be_as_it_was(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_declared(file_of(tmp_path, LIST.replace(old, new)))
