"""Quarantine over HTTP: one frame with its bytes and its history, counts by rule, and decisions.

Like all requests they are answered on loopback and under loopback names only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tidewire.errors import NotFound
from tidewire.serve.answers import endpoint, json_answer, json_body, without_parameters

MAX_DECIDED = 1_000
"""Rows that one request decides about."""


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Open rows by rule, type, source and time of receipt (``[start, end)``); what is not named is not looked at."""

    rule: str | None = None
    type: str | None = None
    source: str | None = None
    start: str | None = None
    end: str | None = None


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to decide, about which rows, who says so and why.

    ``rows`` are names as `Desk.show` gives them: ``FRAME``, ``JOURNAL/FRAME``, ``FRAME/TYPE/ROW`` or
    ``JOURNAL/FRAME/TYPE/ROW``; or ``match`` takes up to ``limit`` open ones. ``values`` are those of a correction, by
    column. ``dry_run`` only says what would happen; ``force`` releases what fails again.
    """

    act: Literal["release", "correct", "reject"]
    who: str
    why: str
    rows: Sequence[str] = ()
    match: Match | None = None
    values: Mapping[str, Any] = {}
    force: bool = False
    dry_run: bool = False
    limit: int = MAX_DECIDED


class Desk(Protocol):
    """Where quarantined rows are looked at and decided about."""

    async def show(self, journal: str, frame: int) -> dict[str, Any]:
        """A frame with rows in quarantine: its bytes, the rows, all that was decided.

        ``journal`` may be cut short; ``-`` is the one journal that has the frame.

        `NotFound` where nothing of the frame ever was in quarantine.
        """
        ...

    async def rules(self) -> dict[str, Any]:
        """How many rows each rule sent into quarantine, and what became of them."""
        ...

    async def decide(self, ask: Ask) -> dict[str, Any]:
        """Decide, and return what came of it once it is stored; `DecisionRefused` where nothing was decided."""
        ...


class NoDesk:
    """Nothing was ever in quarantine."""

    async def show(self, journal: str, frame: int) -> dict[str, Any]:
        """`NotFound`."""
        raise NotFound(f"Nothing of frame {frame} of journal {journal!r} is in quarantine.")

    async def rules(self) -> dict[str, Any]:
        """None."""
        return {"rules": [], "rows_left_out": 0}

    async def decide(self, ask: Ask) -> dict[str, Any]:
        """`NotFound`."""
        raise NotFound("Nothing is in quarantine.")


class QuarantineRoutes:
    """The routes under ``/v1/quarantine/``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        return [
            endpoint("/v1/quarantine/rules", self._rules),
            endpoint("/v1/quarantine/decide", self._decide, ("POST",)),
            endpoint("/v1/quarantine/{journal}/{frame:int}", self._show),
        ]

    async def _rules(self, request: Request) -> Response:
        without_parameters(request)
        return json_answer({"data": await self._desk.rules()})

    async def _show(self, request: Request) -> Response:
        without_parameters(request)
        found = await self._desk.show(request.path_params["journal"], request.path_params["frame"])
        return json_answer({"data": found})

    async def _decide(self, request: Request) -> Response:
        without_parameters(request)
        return json_answer({"data": await self._desk.decide(await json_body(request, Ask, "a decision"))})
