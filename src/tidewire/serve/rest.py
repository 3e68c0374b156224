"""The web application: versions of the API side by side, health, metrics, OpenAPI and two pages for people."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import WebSocketRoute

import tidewire
from tidewire import telemetry
from tidewire.serve import openapi, pages
from tidewire.serve.answers import endpoint, json_answer
from tidewire.serve.middleware import Around
from tidewire.serve.platform import Platform, ServeConfig
from tidewire.serve.problems import document
from tidewire.serve.service import Service
from tidewire.serve.stream import Hub
from tidewire.serve.v1 import V1


class Application:
    """The web application ``api`` with the ``hub`` that feeds its streams, and whether it is ``draining``."""

    def __init__(self, platform: Platform, config: ServeConfig) -> None:
        self.platform = platform
        self.service = Service(platform, config.cursor_key)
        self.hub = Hub(platform, config)
        self.draining = False
        self.api = FastAPI(
            title="Tidewire",
            version=tidewire.__version__,
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            # Our own metrics and ids; the framework's would need an exporter to be of use.
            telemetry={"tracing": False, "metrics": False, "logs": False},
        )
        self.api.router.routes.extend(
            [
                endpoint("/", self._landing),
                endpoint("/livez", self._livez),
                endpoint("/readyz", self._readyz),
                endpoint("/metrics", self._metrics),
                endpoint("/openapi.json", self._openapi),
                endpoint("/docs", self._docs),
                WebSocketRoute("/v1/stream", self.hub.serve),
                *V1(self.service, config.renders).routes(),
            ]
        )
        self.api.add_exception_handler(HTTPException, _no_route)
        self.api.add_middleware(Around, clock=platform.clock, rng=platform.rng, hosts=config.hosts)

    async def _landing(self, request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(pages.landing(tidewire.__version__))
        return json_answer({"name": "tidewire", "version": tidewire.__version__, "links": pages.LINKS})

    async def _livez(self, _request: Request) -> Response:
        return json_answer({"live": True})

    async def _readyz(self, _request: Request) -> Response:
        health = self.platform.health()
        checks = dict(health.checks) | ({"gateway": "draining"} if self.draining else {})
        ready = health.ready and not self.draining
        return json_answer({"ready": ready, "checks": checks}, 200 if ready else 503)

    async def _metrics(self, _request: Request) -> Response:
        return Response(telemetry.exposition(), 200, {"cache-control": "no-store"}, "text/plain; version=0.0.4")

    async def _openapi(self, _request: Request) -> Response:
        return json_answer(openapi.document())

    async def _docs(self, _request: Request) -> Response:
        return HTMLResponse(pages.reference(openapi.document()))


def build(platform: Platform, config: ServeConfig | None = None) -> FastAPI:
    """The ASGI application of a platform, for a server of your own; `Gateway` also feeds its streams."""
    return Application(platform, config or ServeConfig()).api


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    state = request.scope["state"]
    where = (request.url.path, state["request_id"], state["trace_id"])
    if error.status_code == 405:
        valid = ", ".join(sorted((error.headers or {}).get("Allow", "GET, HEAD").split(", ")))
        answer = document(405, "method_not_allowed", f"{request.method} is not allowed here. Valid: {valid}.", where)
        answer.headers["allow"] = valid
        return answer
    detail = f"Nothing at {request.url.path}. Valid: {', '.join(pages.LINKS.values())}, /v1/<type>, /v1/<type>/latest."
    return document(error.status_code, "not_found", detail, where)
