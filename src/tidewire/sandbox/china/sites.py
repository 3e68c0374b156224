"""The Chinese sites together: one market, its sites, what was asked of them, and what is true."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from aiohttp import web

from tidewire.errors import InputError
from tidewire.records.clock import Clock
from tidewire.sandbox.china.eastmoney import Eastmoney
from tidewire.sandbox.china.listing import EXCHANGES, make_listing
from tidewire.sandbox.china.official import Official
from tidewire.sandbox.china.paths import Days
from tidewire.sandbox.china.session import ChinaMarket, Quotes, shanghai_day
from tidewire.sandbox.china.sina import Sina
from tidewire.sandbox.china.tencent import Tencent
from tidewire.sandbox.config import Faults, SandboxConfig, session_ns


class China:
    """The market of a configuration with `SandboxConfig.china_stocks` stocks, and its sites."""

    def __init__(self, config: SandboxConfig, clock: Clock) -> None:
        days = Days()
        listing = make_listing(config.seed, config.china_stocks, date.fromordinal(shanghai_day(clock.wall_ns())))
        self.market = ChinaMarket(listing, clock, days, config.china_history_days)
        self.eastmoney = Eastmoney(self.market, clock)
        self.sina = Sina(self.market, clock)
        self.tencent = Tencent(self.market, clock)
        self.official = Official(self.market, clock)
        self.sites = (self.eastmoney, self.sina, self.tencent, self.official)
        self.set_faults(config.faults)

    def route(self, router: web.UrlDispatcher) -> None:
        """Serve the sites, each below its name, and the ledger."""
        for site in self.sites:
            site.route(router)
        router.add_get("/sandbox/china", self._get_ledger)

    async def start(self) -> None:
        """Work out today before anybody asks."""
        await asyncio.to_thread(self.market.quotes)

    async def stop(self) -> None:
        """Close what is open."""
        await self.sina.stop()

    def set_faults(self, faults: Faults) -> None:
        """New switches for each site."""
        for site in self.sites:
            site.set_faults(getattr(faults.china, site.name), faults.seed, faults.slow_body)

    def truth(self, at_ns: int | None = None) -> dict[str, list[Any]]:
        """The quotes of now, or of a time in UTC ns, as columns: prices and ``amount`` in yuan, ``volume`` in shares.

        ``status`` is trading, suspended, delisted or unlisted. Where there was no trade ``last`` is the close before
        and ``open``, ``high`` and ``low`` are None; of an unlisted stock all are.
        """
        return _columns(self.market, self.market.quotes(self.market.moment(at_ns)))

    def facts(self, at_ns: int | None = None) -> dict[str, Any]:
        """For ``GET /sandbox/china``: the moment, requests of each site, and the true quotes."""
        moment = self.market.moment(at_ns)
        return {
            "day": str(moment.date),
            "time": moment.clock,
            "tick": moment.tick,
            "requests": {site.name: dict(site.requests) for site in self.sites},
            "quotes": self.truth(at_ns),
        }

    async def _get_ledger(self, request: web.Request) -> web.Response:
        at = request.query.get("at")
        try:
            body, status = self.facts(None if at is None else session_ns(at)), 200
        except InputError as error:
            body, status = {"error": str(error)}, 400
        return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")


Column = npt.NDArray[Any]


def _columns(market: ChinaMarket, quotes: Quotes) -> dict[str, list[Any]]:
    listing = market.listing
    known, traded = ~listing.unlisted, quotes.traded

    def money(column: Column, there: Column) -> list[float | None]:
        return [value if known else None for value, known in zip((column / 100).tolist(), there.tolist(), strict=True)]

    status = np.where(quotes.halted, "suspended", "trading")
    status = np.where(listing.gone, "delisted", np.where(listing.unlisted, "unlisted", status))
    return {
        "code": list(listing.codes),
        "exchange": [EXCHANGES[at] for at in listing.exchange.tolist()],
        "last": money(quotes.last, known),
        "open": money(quotes.open, traded),
        "high": money(quotes.high, traded),
        "low": money(quotes.low, traded),
        "pre_close": money(quotes.pre_close, known),
        "volume": quotes.volume.tolist(),
        "amount": (quotes.amount / 100).tolist(),
        "status": status.tolist(),
    }
