"""Collecting order books: depth streams, and the snapshots that the books ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from tidewire.collect import (
    BookSettings,
    Every,
    Expected,
    Section,
    doubt_note,
    seconds,
    settings_note,
    time_note,
)
from tidewire.errors import ConfigError
from tidewire.records.event import Event
from tidewire.sources.binance.collectors import SILENCE, BinanceCollector, checked_silence
from tidewire.sources.binance.depth import SNAPSHOT

INTERVAL_S_MIN = 0.1
SNAPSHOTS = (100, 500, 1_000, 5_000)
"""How many levels a snapshot may have."""


class OrderBookCollector(BinanceCollector):
    """Order books, kept from updates every 100 ms; a snapshot is fetched for each book that needs one, one by one."""

    class Config(Section, frozen=True):
        """``symbols`` in any spelling.

        ``depth`` levels a side become a row every ``update_interval``. ``snapshot`` is how many levels a book begins
        with (100, 500, 1000, 5000); what lies deeper is unknown until it changes. ``deltas``: every change of a level
        is a row as well. A stream silent for longer than ``silence`` is looked into.
        """

        symbols: list[str]
        enabled: bool = True
        depth: int = 20
        update_interval: str = "1s"
        snapshot: int = 1_000
        deltas: bool = False
        silence: str = SILENCE

        def __post_init__(self) -> None:
            if self.snapshot not in SNAPSHOTS:
                raise ConfigError(f"snapshot {self.snapshot}: valid are {', '.join(map(str, SNAPSHOTS))}.")
            if not 1 <= self.depth <= self.snapshot:
                raise ConfigError(f"depth {self.depth}: write 1 to {self.snapshot}, the levels of a snapshot.")
            if seconds(self.update_interval, "update_interval") < INTERVAL_S_MIN:
                raise ConfigError(
                    f"update_interval {self.update_interval!r}: write 100ms or more; updates come as often."
                )
            checked_silence(self.silence)

        @property
        def settings(self) -> BookSettings:
            """What the parser is told."""
            interval_ms = round(seconds(self.update_interval, "update_interval") * 1_000)
            return BookSettings(self.depth, interval_ms, self.deltas)

    kind = "order_book"
    config: Config

    def __init__(self, name: str, app: Any, config: Section) -> None:
        super().__init__(name, app, config)
        self._wanted: dict[str, None] = {}
        self._asked = asyncio.Event()
        self._fetching: asyncio.Task[None] | None = None
        self._noted_ns: int | None = None

    def symbols(self) -> Sequence[str]:
        return self.config.symbols

    def streams(self) -> Sequence[str]:
        return [f"{symbol.lower()}@depth@100ms" for symbol in self.native()]

    def expects(self) -> Sequence[Expected]:
        silence_s = checked_silence(self.config.silence)
        return [Expected("order_book", self.binance.instrument(symbol), None, silence_s) for symbol in self.native()]

    async def initialize(self) -> None:
        """Hear what the books want."""
        self.app.on_event(f"control.{SNAPSHOT}", self._want)
        every = seconds(self.config.update_interval, "update_interval")
        self.add_timer("time", Every(every), self._pass_time)

    async def start(self) -> None:
        """Tell the parser how books are served, before the first update comes."""
        await super().start()
        self.app.note(self.name, settings_note(self.config.settings))
        self._fetching = asyncio.create_task(self._fetch(), name=f"{self.app.name} snapshots")

    async def stop(self) -> None:
        """Fetch no more."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait((self._fetching,))
        await super().stop()

    def lost(self, symbols: Sequence[str]) -> None:
        """Until the next update nobody knows whether something was missed."""
        self.app.note(self.name, doubt_note(symbols))

    async def _pass_time(self) -> None:
        """Let the books of a market that fell quiet be told: no frame comes that would do it."""
        last_ns = self.binance.last_frame_ns
        now_ns = self.app.context.clock.wall_ns()
        if last_ns is None or last_ns == self._noted_ns:
            return
        if now_ns - last_ns >= self.config.settings.interval_ms * 1_000_000:
            self._noted_ns = last_ns
            self.app.note(self.name, time_note())

    def _want(self, event: Event) -> None:
        """Queue a snapshot; the line is as long as there are symbols at most."""
        if event.facts.get("source") == self.app.name and (symbol := event.facts["symbol"]) in self.native():
            self._wanted[symbol] = None
            self._asked.set()

    async def _fetch(self) -> None:
        """Fetch what is wanted under the budget; what fails is asked for again by the book itself."""
        while True:
            await self._asked.wait()
            while self._wanted:
                symbol = next(iter(self._wanted))
                try:
                    await self.snapshot(symbol)
                except Exception as error:
                    self.report(error, f"snapshot of {symbol}")
                self._wanted.pop(symbol, None)
            self._asked.clear()

    async def snapshot(self, symbol: str) -> bytes:
        """One snapshot, kept; its body."""
        params = {"symbol": symbol, "limit": str(self.config.snapshot)}
        reply = await self.binance.ask("depth", params)
        await self.keep(reply)
        return reply.body
