"""A site of stocks in pages, for tests of declared sources: at times short, broken, wrong or closed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from integration.kit import served

FILE = """
version: 1
source: example.list
emits: ticker@1
schedule: {{every: 300ms, jitter: 0%}}
request: {{get: "{url}/list"}}
paginate: {{page: pn, start: 1, size: {{pz: 100}}, total: data.total, parallel: 2}}
select: data.items
where: "kind != 'test'"
fields:
  instrument: "${{row.code}}.${{row.code | cn_exchange}}"
  last: {price}
  volume: lots | int | scale(2)
  event_time: at | epoch_ms
limits: {{rate: 1000/s, concurrency: 8}}
errors:
  - {{when: {{content_type: text/html}}, do: retry}}
expect: {{rows: data.total}}
"""
STOCKS = 250
TESTS = 3


@dataclass
class Site:
    """Stocks in pages of 100, whatever is asked for; at times short, broken, wrong or closed."""

    url: str = ""
    rounds: int = 0
    missing: int = 0
    garbage: bool = False
    blocked: bool = False
    wrong: bool = False
    sent: list[int] = field(default_factory=list[int])

    async def answer(self, request: web.Request) -> web.Response:
        if self.blocked:
            return web.Response(text="<html>verify</html>", content_type="text/html")
        page = int(request.query["pn"])
        self.rounds += page == 1
        begin = (page - 1) * 100
        rows = [self._row(number) for number in range(begin, min(begin + 100, STOCKS - self.missing))]
        if self.garbage and page == 1:
            rows[5]["lots"] = "many"
        return web.json_response({"data": {"total": STOCKS, "items": rows}})

    def _row(self, number: int) -> dict[str, Any]:
        if number < TESTS:
            return {"code": "999999", "kind": "test"}
        at = 1_783_044_809_000 + self.rounds * 1_000
        price: Any = "-" if number % 50 == 7 else round(5 + number / 100, 2)
        if self.wrong and price != "-":
            price = -price
        return {"code": f"{number:06d}", "price": price, "lots": number, "at": at}


@asynccontextmanager
async def site() -> AsyncGenerator[Site]:
    here = Site()
    application = web.Application()
    application.router.add_get("/list", here.answer)
    async with served(application) as here.url:
        yield here
