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
from tidewire.collect.timer import within
from tidewire.errors import ConfigError
from tidewire.records.event import Event
from tidewire.sources.binance.collectors import SILENCE, BinanceCollector, checked_silence
from tidewire.sources.binance.depth import SNAPSHOT

INTERVAL_S_MIN = 0.1
SNAPSHOTS = (100, 500, 1_000, 5_000)
"""How many levels a snapshot may have."""

AT_ONCE_NS = 1_000_000_000
"""A book that asks again this soon after its snapshot could not use it."""
FIRST_WAIT_NS = 100_000_000
LONGEST_WAIT_NS = 10_000_000_000


class SnapshotLine:
    """Symbols that wait for a snapshot, each with the time when it may be fetched (monotonic ns).

    A book that asks again as soon as its snapshot came was given one older than its updates, which a venue's cache may
    go on to give: from the second time on it waits, each time twice as long.
    """

    def __init__(self) -> None:
        self._due: dict[str, int] = {}
        self._fetched: dict[str, tuple[int, int]] = {}  # when, and how long it waited before

    def __len__(self) -> int:
        return len(self._due)

    def want(self, symbol: str, now_ns: int) -> None:
        """Queue a symbol; the line is as long as there are symbols at most."""
        at_ns, waited_ns = self._fetched.get(symbol, (-AT_ONCE_NS, 0))
        again = now_ns - at_ns < AT_ONCE_NS
        wait_ns = min(2 * waited_ns or FIRST_WAIT_NS, LONGEST_WAIT_NS) if again else 0
        self._fetched[symbol] = at_ns, wait_ns
        self._due.setdefault(symbol, now_ns + wait_ns)

    def next(self) -> tuple[str, int]:
        """Whose turn comes first, and when."""
        return min(self._due.items(), key=lambda each: each[1])

    def done(self, symbol: str, now_ns: int) -> None:
        """It was fetched, or could not be."""
        self._due.pop(symbol, None)
        self._fetched[symbol] = now_ns, self._fetched.get(symbol, (0, 0))[1]


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
        self._line = SnapshotLine()
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
        if event.facts.get("source") == self.app.name and (symbol := event.facts["symbol"]) in self.native():
            self._line.want(symbol, self.app.context.clock.mono_ns())
            self._asked.set()

    async def _fetch(self) -> None:
        """Fetch what is wanted under the budget; what fails is asked for again by the book itself."""
        clock = self.app.context.clock
        while True:
            if not self._line:
                await self._asked.wait()
            self._asked.clear()
            symbol, due_ns = self._line.next()
            if (wait_ns := due_ns - clock.mono_ns()) > 0:
                await within(clock, wait_ns / 1e9, self._asked)  # another book may have to wait less
                continue
            try:
                await self.snapshot(symbol)
            except Exception as error:
                self.report(error, f"snapshot of {symbol}")
            self._line.done(symbol, clock.mono_ns())

    async def snapshot(self, symbol: str) -> bytes:
        """One snapshot, kept; its body."""
        params = {"symbol": symbol, "limit": str(self.config.snapshot)}
        reply = await self.binance.ask("depth", params)
        await self.keep(reply)
        return reply.body
