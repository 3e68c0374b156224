"""Asking for gaps to be filled over HTTP: who is asked, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tidewire.errors import NotFound
from unit.serve.harness import serving

PATH = "/v1/gaps/fill"


class Sources:
    """Remembers who was asked."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    def __call__(self, source: str | None) -> Sequence[str]:
        if source == "binanec":
            raise NotFound("No source 'binanec' runs here. Did you mean 'binance'?")
        self.asked.append(source)
        return ["binance"] if source is None else [source]


async def test_one_or_all_sources_are_asked() -> None:
    sources = Sources()
    async with serving(refill=sources) as served:
        one = await served.http.post(PATH, json={"source": "binance"})
        every = await served.http.post(PATH, json={})
        assert (await served.http.get("/v1/gaps")).status_code == 200, "gaps are read where they were"
    assert (one.status_code, one.json()) == (202, {"data": {"asked": ["binance"]}})
    assert every.status_code == 202
    assert sources.asked == ["binance", None]


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"json": {"source": "binanec"}}, 404, "not_found"),
        ({"json": {"sourec": "binance"}}, 400, "invalid_body"),
        ({"content": b"{}", "headers": {"content-type": "text/plain"}}, 415, "unsupported_media_type"),
        ({"json": {}, "params": {"source": "binance"}}, 400, "unknown_parameter"),
    ],
)
async def test_what_is_refused(request_: dict[str, Any], status: int, code: str) -> None:
    sources = Sources()
    async with serving(refill=sources) as served:
        answer = await served.http.post(PATH, **request_)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert sources.asked == []
