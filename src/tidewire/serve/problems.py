"""Errors as answers: RFC 9457 problem documents with stable codes."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from tidewire.errors import (
    DecisionRefused,
    InputError,
    NotFound,
    QueryError,
    RateLimited,
    StatementTimeout,
    StoreBusy,
    StoreError,
    TidewireError,
)

MEDIA = "application/problem+json"


class Refused(QueryError):
    """A request refused with a code and a status of its own."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        self.code = code
        self.status = status
        super().__init__(message)


_TITLES = {
    "invalid_query": "The request cannot be answered as asked",
    "unknown_parameter": "A parameter is not known",
    "cursor_invalid": "The cursor cannot be used",
    "cursor_mismatch": "The cursor belongs to another request",
    "not_acceptable": "No such format",
    "not_found": "There is no such thing",
    "invalid_input": "What was asked makes no sense",
    "invalid_body": "The body cannot be used",
    "body_too_large": "The body is too large",
    "unsupported_media_type": "The body is of another type",
    "decision_refused": "Nothing was decided",
    "already_decided": "It is decided already",
    "fails_again": "It would be quarantined again",
    "method_not_allowed": "The method is not allowed here",
    "upgrade_required": "This is a WebSocket",
    "host_not_allowed": "The host name is not one of ours",
    "too_many_connections": "Too many connections",
    "unknown_instrument": "The symbol is not known",
    "ambiguous_instrument": "The symbol could mean several instruments",
    "store_busy": "The store is busy",
    "statement_timeout": "The read took too long",
    "store_error": "The store could not answer",
    "internal": "Something went wrong here",
}
CODES = tuple(_TITLES)
"""Every code a problem document of this API can carry."""

_RETRY_AFTER = {"store_busy": 1, "statement_timeout": 5, "too_many_connections": 5}


def status_of(error: Exception) -> int:
    """The HTTP status of an error."""
    match error:
        case Refused():
            return error.status
        case InputError():
            return 400
        case NotFound():
            return 404
        case DecisionRefused():
            return 409
        case StoreBusy() | RateLimited():
            return 503
        case StatementTimeout():
            return 504
        case _:
            return 500


def problem(error: Exception, instance: str, request_id: str, trace_id: str) -> Response:
    """The problem document of an error; what is not ours to tell stays in the log."""
    known = isinstance(error, TidewireError)
    inside = isinstance(error, StoreError) and not isinstance(error, StoreBusy | StatementTimeout)
    code = error.code if isinstance(error, TidewireError) else "internal"
    detail = str(error) if known and not inside else "The cause is in the server's log, under this request_id."
    return document(status_of(error), code, detail, (instance, request_id, trace_id))


def document(status: int, code: str, detail: str, where: tuple[str, str, str]) -> Response:
    """A problem document; ``where`` is the instance, the request id and the trace id."""
    instance, request_id, trace_id = where
    body: dict[str, Any] = {
        "type": f"urn:tidewire:problem:{code}",
        "title": _TITLES.get(code, HTTPStatus(status).phrase),
        "status": status,
        "detail": detail,
        "instance": instance,
        "code": code,
        "request_id": request_id,
        "trace_id": trace_id,
        "retryable": status in {429, 503, 504},
    }
    headers = {"cache-control": "no-store"}
    if body["retryable"]:
        headers["retry-after"] = str(_RETRY_AFTER.get(code, 1))
    return Response(msgspec.json.encode(body), status, headers, MEDIA)


PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457 problem document. `code` is stable; switch on it, not on `title` or `detail`.",
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "code": {"type": "string", "examples": ["unknown_parameter"]},
        "request_id": {"type": "string"},
        "trace_id": {"type": "string"},
        "retryable": {"type": "boolean", "description": "Whether the same request may succeed later."},
    },
    "required": ["type", "title", "status", "detail", "instance", "code", "request_id", "trace_id", "retryable"],
}
