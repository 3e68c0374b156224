"""What the Chinese sites have in common: they count requests, break on purpose, and tell the time they live in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler

from tidewire.records.clock import Clock, SeededRng
from tidewire.sandbox.binance import respond
from tidewire.sandbox.china.session import ChinaMarket, Moment, Quotes
from tidewire.sandbox.config import SiteFaults

JSON, SCRIPT, TEXT, HTML = (
    "application/json; charset=UTF-8",
    "application/javascript; charset=GB18030",
    "text/html; charset=GBK",
    "text/html; charset=utf-8",
)
GARBAGE = b"\xff\xfe"
"""Bytes that are neither UTF-8 nor GBK."""

_BLOCKED = "<!DOCTYPE html><html><head><title>访问验证</title></head><body>您的访问过于频繁，请稍后再试。</body></html>"


@dataclass(frozen=True)
class Answer:
    """A body and what it is."""

    body: bytes
    kind: str = JSON
    status: int = 200


class Site:
    """One site over the market."""

    def __init__(self, name: str, market: ChinaMarket, clock: Clock) -> None:
        self.name = name
        self.market = market
        self.requests: Counter[str] = Counter()
        self._clock = clock
        self._quotes: Quotes | None = None
        self.set_faults(SiteFaults(), 7, 0)

    def set_faults(self, faults: SiteFaults, seed: int, slow_body: int) -> None:
        """New switches; windows are counted, and quotes stand still, from now."""
        self.faults = faults
        self._shown: Quotes | None = None  # what was made of quotes was made under the old switches
        self._slow_body = slow_body
        self._set_ns = self._clock.mono_ns()
        self._frozen = self.market.moment() if faults.stale else None
        every = faults.drop_windows[1] if faults.drop_windows else 0.0
        self._shift_s = SeededRng(f"window:{seed}:{self.name}").uniform(0.0, every)

    def moment(self) -> Moment:
        """What the site takes for now."""
        return self._frozen or self.market.moment()

    def quotes(self) -> Quotes:
        """The quotes the site shows; its own, so that one that stands still costs the others nothing."""
        moment = self.moment()
        if self._quotes is None or self._quotes.moment != moment:
            self._quotes = self.market.quotes(moment)
        return self._quotes

    @property
    def dropping(self) -> bool:
        """Whether connections are broken just now."""
        windows = self.faults.drop_windows
        if windows is None:
            return False
        passed_s = (self._clock.mono_ns() - self._set_ns) / 1e9 + self._shift_s
        return passed_s % windows[1] < windows[0]

    def serve(self, what: str, answer: Callable[[web.Request], Answer]) -> Handler:
        """A handler that counts the request as ``what``, breaks it where a switch says so, and answers it."""

        async def handle(request: web.Request) -> web.StreamResponse:
            self.requests[what] += 1
            if self.dropping and request.transport is not None:
                self.requests["dropped"] += 1
                request.transport.abort()
                return web.Response(status=503)  # reaches nobody
            found = Answer(_BLOCKED.encode(), HTML) if self.faults.block_page else answer(request)
            headers = {"Content-Type": found.kind}
            if not self._slow_body:
                return web.Response(status=found.status, body=found.body, headers=headers)
            return await respond(request, (found.status, found.body, headers), self._slow_body, self._clock)

        return handle


def whole(request: web.Request, name: str, usual: int, least: int = 0, most: int = 1_000_000) -> int:
    """A parameter as a whole number in bounds; what is none is as if it were not there, as the sites have it."""
    text = request.query.get(name, "")
    return min(max(int(text), least), most) if text.isdecimal() and len(text) < 10 else usual
