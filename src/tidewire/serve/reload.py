"""The plugin directory over HTTP: it is looked at now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tidewire.serve.answers import endpoint, json_answer, json_body, without_parameters

Reload = Callable[[], Awaitable[dict[str, Any]]]
"""Loads what changed in the plugin directory; which ``sources`` run then, and the ``problems`` of its files."""


class ReloadAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Look at the plugin directory; says nothing more."""


class ReloadRoutes:
    """The route ``/v1/sources/reload``."""

    def __init__(self, reload: Reload) -> None:
        self._reload = reload

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        return [endpoint("/v1/sources/reload", self._ask, ("POST",))]

    async def _ask(self, request: Request) -> Response:
        without_parameters(request)
        await json_body(request, ReloadAsk, "a request to look at the plugin directory")
        return json_answer({"data": await self._reload()})
