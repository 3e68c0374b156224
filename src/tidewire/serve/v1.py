"""Version 1 of the REST API: a thin layer of HTTP over `Service`."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tidewire.records.forms import json_schema, reference
from tidewire.records.record import RecordType, types
from tidewire.serve.answers import endpoint, json_answer, without_parameters
from tidewire.serve.gaps import GapRoutes
from tidewire.serve.params import type_named, understand_audit
from tidewire.serve.problems import Refused
from tidewire.serve.quarantine import QuarantineRoutes
from tidewire.serve.reload import ReloadRoutes
from tidewire.serve.render import COLUMNAR, choose, render
from tidewire.serve.service import Answer, Service

# Smaller answers are rendered at once: handing them to a thread costs more than it frees.
_INLINE_ROWS = 2_000


class V1:
    """The routes under ``/v1``. At most ``renders`` answers are turned into bytes at the same time; more wait."""

    def __init__(self, service: Service, renders: int = 4) -> None:
        self._service = service
        self._platform = service.platform
        self._renders = asyncio.Semaphore(renders)

    def routes(self) -> list[BaseRoute]:
        """All of them; a record type is looked up in each request, so types may come and go."""
        return [
            endpoint("/v1/types", self._types),
            endpoint("/v1/types/{name}", self._type),
            endpoint("/v1/sources", self._sources),
            endpoint("/v1/backfill", self._backfill),
            endpoint("/v1/audit", self._audit),
            endpoint("/v1/stream", self._not_a_page),
            *ReloadRoutes(self._platform.reload).routes(),
            *GapRoutes(self._platform.refill).routes(),
            *QuarantineRoutes(self._platform.quarantine).routes(),
            endpoint("/v1/{name}", self._read),
            endpoint("/v1/{name}/latest", self._latest),
        ]

    async def _read(self, request: Request) -> Response:
        params, form = _params(request), _form(request)
        answer = await self._service.read(request.path_params["name"], params, columnar=form in COLUMNAR)
        return await self._rendered(request, answer, form)

    async def _latest(self, request: Request) -> Response:
        params, form = _params(request), _form(request)
        answer = await self._service.latest(request.path_params["name"], params, columnar=form in COLUMNAR)
        return await self._rendered(request, answer, form)

    async def _rendered(self, request: Request, answer: Answer, form: str) -> Response:
        if answer.rows.height <= _INLINE_ROWS:
            rendered = render(answer, form)
        else:
            async with self._renders:
                rendered = await asyncio.to_thread(render, answer, form)
        headers = dict(rendered.headers)
        if answer.next_cursor:
            headers["link"] = f'<{_next(request, answer.next_cursor)}>; rel="next"'
        return Response(rendered.body, 200, headers, rendered.media)

    async def _types(self, request: Request) -> Response:
        without_parameters(request)
        return json_answer({"data": [_type_facts(kind) for kind in types().values()]})

    async def _type(self, request: Request) -> Response:
        kind = type_named(request.path_params["name"])
        if "text/markdown" in request.headers.get("accept", ""):
            return Response(reference(kind), 200, {"vary": "accept"}, "text/markdown")
        without_parameters(request)
        return json_answer({"data": {**_type_facts(kind), "schema": json_schema(kind), "reference": reference(kind)}})

    async def _sources(self, request: Request) -> Response:
        without_parameters(request)
        return json_answer({"data": self._platform.sources()})

    async def _backfill(self, request: Request) -> Response:
        without_parameters(request)
        found = [each for source in self._platform.sources() for each in source.get("backfill", ())]
        return json_answer({"data": found})

    async def _audit(self, request: Request) -> Response:
        return json_answer({"data": await self._platform.audit(understand_audit(_params(request)))})

    async def _not_a_page(self, request: Request) -> Response:
        raise Refused(
            "upgrade_required",
            f"{request.url.path} is a WebSocket: connect with ws:// and sub-protocol tidewire.v1.json.",
            426,
        )


def _params(request: Request) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        found.setdefault(name, []).append(value)
    return found


def _form(request: Request) -> str:
    return choose(request.headers.get("accept"), request.query_params.get("format"))


def _next(request: Request, cursor: str) -> str:
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    return f"{request.url.path}?{urlencode([*kept, ('cursor', cursor)])}"


def _type_facts(kind: RecordType) -> dict[str, Any]:
    return {
        "name": kind.name,
        "version": kind.version,
        "family": kind.family,
        "about": kind.about,
        "key": kind.key,
        "series": kind.series,
        "order": kind.order,
        "columns": {
            name: {"role": field.role, "unit": field.unit, "nullable": field.nullable, "about": field.about}
            for name, field in kind.fields.items()
        },
    }
