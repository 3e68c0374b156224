"""What the routes of the API share: problem documents for errors, JSON answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidewire import telemetry
from tidewire.errors import TidewireError
from tidewire.serve.problems import Refused, problem

Endpoint = Callable[[Request], Awaitable[Response]]

METHODS = ("GET", "HEAD")
_LOG = telemetry.log("serve")


def endpoint(path: str, answer: Endpoint, methods: Sequence[str] = METHODS) -> Route:
    """A route whose errors are problem documents."""

    async def answered(request: Request) -> Response:
        state = request.scope["state"]
        state["route"] = path
        try:
            return await answer(request)
        except TidewireError as error:
            found = problem(error, request.url.path, state["request_id"], state["trace_id"])
            if found.status_code == 500:
                _LOG.error("request failed", request_id=state["request_id"], path=path, exc_info=error)
            return found
        except Exception as error:
            _LOG.error("request failed", request_id=state["request_id"], path=path, exc_info=error)
            return problem(error, request.url.path, state["request_id"], state["trace_id"])

    return Route(path, answered, methods=list(methods))


def json_answer(content: Any, status: int = 200) -> Response:
    """Plain values as JSON."""
    return Response(msgspec.json.encode(content), status, {"cache-control": "no-store"}, "application/json")


def without_parameters(request: Request) -> None:
    """Refuse any parameter."""
    for name in request.query_params:
        raise Refused("unknown_parameter", f"{request.url.path} has no parameters, found {name!r}.")
