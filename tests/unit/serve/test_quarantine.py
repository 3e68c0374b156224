"""Quarantine over HTTP: what reaches the desk, what is refused before, what the desk's refusals come to."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tidewire.errors import AlreadyDecided, FailsAgain, InputError, NotFound, StoreBusy
from tidewire.serve.answers import MAX_BODY
from tidewire.serve.problems import CODES
from tidewire.serve.quarantine import Ask, Match
from unit.serve.harness import serving

ASK = {"act": "release", "who": "me", "why": "tested", "rows": ["12"]}
PATH = "/v1/quarantine/decide"


class Desk:
    """Remembers what it was asked; raises what it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[Any] = []
        self.error = error

    def _say(self, *asked: Any) -> dict[str, Any]:
        self.asked.append(asked if len(asked) > 1 else asked[0])
        if self.error is not None:
            raise self.error
        return {"rows": 1}

    async def show(self, journal: str, frame: int) -> dict[str, Any]:
        return self._say(journal, frame)

    async def rules(self) -> dict[str, Any]:
        return self._say("rules")

    async def decide(self, ask: Ask) -> dict[str, Any]:
        return self._say(ask)


async def test_what_is_asked_reaches_the_desk() -> None:
    desk = Desk()
    async with serving(quarantine=desk) as served:
        for path in ("/v1/quarantine/fb00ac44/12", "/v1/quarantine/rules"):
            assert (await served.http.get(path)).json() == {"data": {"rows": 1}}
        answer = await served.http.post(PATH, json={**ASK, "rows": [], "match": {"rule": "x"}, "dry_run": True})
        assert (answer.status_code, answer.json()) == (200, {"data": {"rows": 1}})
        assert desk.asked[:2] == [("fb00ac44", 12), "rules"]
        assert desk.asked[2] == Ask("release", "me", "tested", match=Match(rule="x"), dry_run=True, rows=[])
        # The type's own routes are where they were.
        assert (await served.http.get("/v1/quarantine")).status_code == 200
        assert (await served.http.get("/v1/quarantine/latest")).status_code == 200


@pytest.mark.parametrize(
    ("body", "media", "status", "code", "says"),
    [
        (msgspec.json.encode(ASK), "text/plain", 415, "unsupported_media_type", "found 'text/plain'"),
        (msgspec.json.encode(ASK), "", 415, "unsupported_media_type", "valid: application/json"),
        (b"{", "application/json", 400, "invalid_body", "Valid keys: act, who, why"),
        (b"\xff", "application/json", 400, "invalid_body", "not a decision"),
        (msgspec.json.encode({**ASK, "act": "free"}), "application/json", 400, "invalid_body", "free"),
        (msgspec.json.encode({**ASK, "forec": True}), "application/json", 400, "invalid_body", "forec"),
        (msgspec.json.encode({"act": "reject"}), "application/json", 400, "invalid_body", "who"),
        (b" " * (MAX_BODY + 1), "application/json; charset=utf-8", 413, "body_too_large", "1,048,576"),
    ],
)
async def test_bodies_that_cannot_be_used(body: bytes, media: str, status: int, code: str, says: str) -> None:
    desk = Desk()
    async with serving(quarantine=desk) as served:
        answer = await served.http.post(PATH, content=body, headers={"content-type": media} if media else {})
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert says in answer.json()["detail"]
        assert answer.headers["content-type"] == "application/problem+json"
        assert code in CODES
        assert desk.asked == []


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (AlreadyDecided("since then"), 409, "already_decided"),
        (FailsAgain("price"), 409, "fails_again"),
        (NotFound("no such row"), 404, "not_found"),
        (InputError("why"), 400, "invalid_input"),
        (StoreBusy("behind"), 503, "store_busy"),
    ],
)
async def test_refusals_of_the_desk(error: Exception, status: int, code: str) -> None:
    async with serving(quarantine=Desk(error)) as served:
        answer = await served.http.post(PATH, json=ASK)
        assert (answer.status_code, answer.json()["code"], answer.json()["detail"]) == (status, code, str(error))


async def test_a_page_of_another_site_decides_nothing() -> None:
    desk = Desk()
    async with serving(quarantine=desk) as served:
        for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}):
            answer = await served.http.post(PATH, json=ASK, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "host_not_allowed")
        assert desk.asked == []


async def test_methods_and_paths() -> None:
    async with serving() as served:
        answer = await served.http.get(PATH)
        assert (answer.status_code, answer.headers["allow"], answer.json()["code"]) == (
            405,
            "POST",
            "method_not_allowed",
        )
        assert (await served.http.post("/v1/quarantine/rules")).status_code == 405
        assert (await served.http.get("/v1/quarantine/rules")).json()["data"]["rules"] == []
        for path in ("/v1/quarantine/a/12", "/v1/quarantine/a/x"):
            assert (await served.http.get(path)).json()["code"] == "not_found"
        assert (await served.http.post(PATH, json=ASK)).status_code == 404
