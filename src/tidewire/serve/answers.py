"""What the routes of the API share: problem documents for errors, JSON in answers and in what is asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tidewire import telemetry
from tidewire.errors import TidewireError
from tidewire.serve.problems import Refused, problem

M = TypeVar("M", bound=msgspec.Struct)
Endpoint = Callable[[Request], Awaitable[Response]]

METHODS = ("GET", "HEAD")
MEDIA = "application/json"
MAX_BODY = 1 << 20
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


async def json_body(request: Request, kind: type[M], what: str) -> M:
    """The body of a request that changes something.

    It must be JSON by its content type, which a page of another site cannot send without asking. ``what`` names it for
    people: ``"a decision"``.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != MEDIA:
        raise Refused("unsupported_media_type", f"Content-Type: found {media!r}; valid: {MEDIA}.", 415)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise Refused("body_too_large", f"The body has more than {MAX_BODY:,} bytes; ask for less.", 413)
    try:
        return msgspec.json.decode(bytes(body), type=kind)
    except (msgspec.MsgspecError, UnicodeError) as error:
        valid = ", ".join(kind.__struct_fields__)
        raise Refused("invalid_body", f"The body is not {what}: {error}. Valid keys: {valid}.") from None
