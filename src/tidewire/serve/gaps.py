"""Gaps over HTTP: they are read like any other type; here they are asked to be filled, given-up ones too."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tidewire.serve.answers import endpoint, json_answer, json_body, without_parameters

Refill = Callable[[str | None], Sequence[str]]
"""Asks a source (``None``: all) to look at its gaps again; returns which were asked. `NotFound` for an unknown one."""


class FillAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which source should look at its gaps again, also at those it gave up; all if none is named."""

    source: str | None = None


class GapRoutes:
    """The routes under ``/v1/gaps/``."""

    def __init__(self, refill: Refill) -> None:
        self._refill = refill

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        return [endpoint("/v1/gaps/fill", self._fill, ("POST",))]

    async def _fill(self, request: Request) -> Response:
        without_parameters(request)
        ask = await json_body(request, FillAsk, "a request to fill gaps")
        return json_answer({"data": {"asked": list(self._refill(ask.source))}}, 202)
