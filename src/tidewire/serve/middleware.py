"""What happens around every request: ids, the host check, metrics and one log line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidewire import telemetry
from tidewire.records.clock import Clock, Rng
from tidewire.serve.problems import document

_LOG = telemetry.log("serve")
_SECONDS = telemetry.histogram(
    "http_request_duration_seconds", "Time to answer a request.", ("route", "method", "status")
)

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Around:
    """ASGI middleware; gives each request ``state["request_id"]`` and ``state["trace_id"]``.

    Only loopback names (and ``hosts``) are accepted in ``Host`` and ``Origin``: a web page whose name was made to
    point at this machine must not read from here.
    """

    def __init__(self, app: ASGIApp, clock: Clock, rng: Rng, hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._clock = clock
        self._rng = rng
        self._hosts = frozenset({*_LOOPBACK, *(name.lower() for name in hosts)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = self._request_id(headers.get("x-request-id", ""))
        state["trace_id"] = self._trace_id(headers.get("traceparent", ""))
        state["route"] = "none"
        refused = self._refused(headers)
        if refused:
            where = (scope["path"], state["request_id"], state["trace_id"])
            await document(403, "host_not_allowed", refused, where)(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._app(scope, receive, send)
        else:
            await self._observed(scope, receive, send)

    async def _observed(self, scope: Scope, receive: Receive, send: Send) -> None:
        state, began = scope["state"], self._clock.mono_ns()
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", state["request_id"].encode())]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            took = (self._clock.mono_ns() - began) / 1e9
            method = scope["method"] if scope["method"] in _METHODS else "other"
            _SECONDS.labels(state["route"], method, str(status)).observe(took)
            _LOG.debug(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status,
                seconds=round(took, 6),
                request_id=state["request_id"],
                trace_id=state["trace_id"],
            )

    def _request_id(self, given: str) -> str:
        return given if _REQUEST_ID.fullmatch(given) else self._rng.token(8)

    def _trace_id(self, given: str) -> str:
        found = _TRACEPARENT.fullmatch(given)
        return found[1] if found else self._rng.token(16)

    def _refused(self, headers: dict[str, str]) -> str:
        host = _name_of("//" + headers.get("host", ""))
        origin = headers.get("origin")
        for what, name in (("Host", host), ("Origin", host if origin is None else _name_of(origin))):
            if name not in self._hosts:
                return (
                    f"{what}: {name!r} is not a name of this server. Valid: {', '.join(sorted(self._hosts))}. "
                    "Ask under one of these."
                )
        return ""


def _name_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""
