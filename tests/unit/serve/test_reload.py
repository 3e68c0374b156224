"""Asking for the plugin directory to be looked at over HTTP: what is answered, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from unit.serve.harness import serving

PATH = "/v1/sources/reload"
FOUND = {"sources": ["binance"], "problems": [{"file": "plugins/a.yaml", "error": "a.yaml: not YAML"}]}


class Directory:
    """Counts the looks."""

    def __init__(self) -> None:
        self.looks = 0

    async def __call__(self) -> dict[str, Any]:
        self.looks += 1
        return FOUND


async def test_what_runs_and_what_does_not_load_is_answered() -> None:
    directory = Directory()
    async with serving(reload=directory) as served:
        answer = await served.http.post(PATH, json={})
        assert (await served.http.get("/v1/sources")).status_code == 200
    assert (answer.status_code, answer.json()) == (200, {"data": FOUND})
    assert directory.looks == 1


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"json": {"source": "binance"}}, 400, "invalid_body"),
        ({"content": b"{}", "headers": {"content-type": "text/plain"}}, 415, "unsupported_media_type"),
        ({"json": {}, "params": {"source": "binance"}}, 400, "unknown_parameter"),
    ],
)
async def test_what_is_refused(request_: dict[str, Any], status: int, code: str) -> None:
    directory = Directory()
    async with serving(reload=directory) as served:
        answer = await served.http.post(PATH, **request_)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert directory.looks == 0
