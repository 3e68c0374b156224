"""A plugin that pages through a numbered list, as a stranger would write it: each reply says where to go on."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tidewire.collect import App, Collector, Context, Every, Frame, HttpClient, Outcome, Parsed, SourceConfig
from tidewire.records.instrument import InstrumentBook
from tidewire.records.market import Trade

SYMBOL, INSTRUMENT = "BTCUSDT", "BTC-USDT.PAGES"
PAGE = 7


class Entry(msgspec.Struct):
    """One entry of a page."""

    id: int
    price: str
    qty: str
    time: int


class PageParser:
    """A row for each entry."""

    def parse(self, frames: Sequence[Frame]) -> Outcome:
        """Frames are lists of entries."""
        outcome = Outcome()
        for frame in frames:
            entries = msgspec.json.decode(frame.payload, type=list[Entry])
            count = len(entries)
            columns = {
                "instrument": [INSTRUMENT] * count,
                "event_time": [entry.time * 1_000 for entry in entries],
                "public_at": [entry.time * 1_000 for entry in entries],
                "trade_id": [str(entry.id) for entry in entries],
                "sequence": [entry.id for entry in entries],
                "price": [entry.price for entry in entries],
                "size": [entry.qty for entry in entries],
            }
            outcome.parsed.append(Parsed(Trade.type, columns, [frame] * count, list(range(count)), past=True))
        return outcome


class PageCollector(Collector):
    """Asks for the page after the last one that was accepted."""

    app: PagesApp

    async def initialize(self) -> None:
        """Ask all the time."""
        self.add_timer("next", Every(0.005), self.fetch, run_at_start=True)

    async def fetch(self) -> None:
        """One page."""
        begin = self.cursor(SYMBOL) or self.app.config.api.key
        url = f"{self.app.config.api.base_url}/api/v3/historicalTrades"
        reply = await self.app.http.get(url, {"symbol": SYMBOL, "fromId": begin, "limit": str(PAGE)})
        entries = msgspec.json.decode(reply.body, type=list[Entry])
        if entries:
            await self.keep(reply, {SYMBOL: str(entries[-1].id + 1)})


class PagesApp(App):
    """Found by its name."""

    name = "pages"
    about = "A numbered list, page by page."

    def __init__(self, config: SourceConfig, context: Context) -> None:
        super().__init__(config, context)
        self.http = HttpClient(context.clock, context.rng)

    @classmethod
    def make_parser(cls, config: SourceConfig, instruments: InstrumentBook) -> PageParser:
        """The parser."""
        return PageParser()

    @classmethod
    def check(cls, config: SourceConfig) -> None:
        """Anything goes."""

    async def initialize(self) -> None:
        """One collector."""
        self.register(PageCollector("page", self))
        await super().initialize()

    async def stop(self) -> None:
        """Collectors first."""
        await super().stop()
        await self.http.close()
