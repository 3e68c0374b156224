"""The history of bars and aggregated trades: which requests load a shard, from new to old."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import msgspec

from tidewire.collect import DAY_US, Backfill, Part, Shard, Wanted, history_start
from tidewire.errors import TransientError
from tidewire.records.market import INTERVALS
from tidewire.sources.binance import wire
from tidewire.sources.binance.markets import MOST_ROWS
from tidewire.sources.binance.parse import is_over

if TYPE_CHECKING:
    from tidewire.collect import Missing, Reply
    from tidewire.sources.binance.app import BinanceApp
    from tidewire.sources.binance.collectors import BinanceCollector

LIVE_POLL_S = 1.0
LIVE_S = 5.0
"""How long after the feed came up every stream has surely begun, clocks that differ a little included."""
MONDAY_US = 4 * DAY_US
"""1970-01-05, the first Monday."""

_BARS = msgspec.json.Decoder(list[msgspec.Raw])
_BAR = msgspec.json.Decoder(wire.KlineRow)
_TRADES = msgspec.json.Decoder(list[wire.PastAggTrade])

Ask = Callable[[str, dict[str, str]], Awaitable["Reply"]]


def bar_open(interval: str, at_us: int) -> int:
    """When the bar that holds a time opened; weeks begin on Monday, months on the first, all UTC."""
    if interval == "1M":
        at = datetime.fromtimestamp(at_us // 1_000_000, UTC)
        return int(datetime(at.year, at.month, 1, tzinfo=UTC).timestamp()) * 1_000_000
    step_us = _step_us(interval)
    shift_us = MONDAY_US if interval == "1w" else 0
    return (at_us - shift_us) // step_us * step_us + shift_us


def _step_us(interval: str) -> int:
    """The length of a bar; the shortest month for those of a month."""
    return INTERVALS[interval] * 1_000_000 or 28 * DAY_US


def bars_wanted(instrument: str, interval: str, start_us: int) -> Wanted:
    """All bars that open at ``start_us`` or later; a shard is what one request brings."""
    step_us = _step_us(interval)
    opened = bar_open(interval, start_us)
    first_us = opened if opened == start_us else bar_open(interval, opened + step_us + 3 * DAY_US * (interval == "1M"))
    # The last row of a reply may still be forming and is not taken: one row less than it may have.
    shard_us = (MOST_ROWS - 1) * step_us
    row_us = step_us if INTERVALS[interval] else None
    return Wanted(instrument, interval, first_us, shard_us, row_us, lambda at_us: bar_open(interval, at_us))


def trades_wanted(instrument: str, start_us: int) -> Wanted:
    """All aggregates since ``start_us``; a shard is a day."""
    return Wanted(instrument, None, start_us, DAY_US)


class BinanceHistory:
    """The backfill of one collector: bars (``kline``) or aggregated trades (``agg_trade``)."""

    def __init__(
        self,
        collector: BinanceCollector,
        since: tuple[int | None, date | None],
        workers: int,
        wanted: Callable[[str, int], Sequence[Wanted]],
    ) -> None:
        """``since``: days, or a date, or neither; ``wanted`` says what series an instrument has, given the start."""
        self._app: BinanceApp = collector.binance
        load = self.bars if collector.kind == "kline" else self.agg_trades
        self.backfill = Backfill(collector, collector.kind, load, workers)
        self._since = since
        self._wanted = wanted
        self._started = False
        self._task: asyncio.Task[None] | None = None

    def start(self, symbols: Sequence[str]) -> None:
        """Begin, where history is wanted at all."""
        self._started = history_start(*self._since, self._now_us()) is not None
        if self._started:
            self.want(symbols)
            self.backfill.start()

    def want(self, symbols: Sequence[str]) -> None:
        """Load the history of these symbols (Binance's spelling) too."""
        start_us = history_start(*self._since, self._now_us())
        if not self._started or start_us is None:
            return
        instruments = [self._app.instrument(symbol) for symbol in symbols]
        self.backfill.want([each for instrument in instruments for each in self._wanted(instrument, start_us)])
        self.backfill.reach(self._now_us())
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(self._follow(), name="binance history")

    async def stop(self) -> None:
        """Stop loading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        await self.backfill.stop()

    def loads(self, missing: Missing) -> bool:
        """Whether what is missing comes with history anyway."""
        name = missing.instrument, missing.series
        return self.backfill.loads(*name, missing.start_us, missing.end_us + 1)

    async def _follow(self) -> None:
        """What came between the start and the first message of the feed is history too.

        A row of the past opens no gap, so one that the feed was too late for would not be missed.
        """
        clock = self._app.context.clock
        while not self._app.is_live():
            await clock.sleep(LIVE_POLL_S)
        await clock.sleep(LIVE_S)
        self.backfill.reach(self._now_us())

    def _now_us(self) -> int:
        return self._app.context.clock.wall_ns() // 1_000

    async def bars(self, shard: Shard) -> AsyncGenerator[Part]:
        """One request brings a shard; one more says what an empty or broken off answer means."""
        interval = shard.series or "1m"
        asked = {"symbol": self._app.listing.native_of(shard.instrument), "interval": interval}
        bounds = {"startTime": _millis(shard.start_us), "endTime": _millis(shard.end_us), "limit": str(MOST_ROWS)}
        reply = await self._klines(asked | bounds)
        rows = _BARS.decode(reply.body)
        last_us = _opened_us(rows[-1]) if rows else 0
        if rows and last_us >= shard.end_us:
            yield Part(reply, shard.start_us, shard.end_us, len(rows) - 1)
        elif rows:
            yield Part(reply, shard.start_us, last_us, len(rows) - 1)
            reply = await self._klines(asked | {"startTime": _millis(last_us), "limit": "2"})
            rows = _BARS.decode(reply.body)
            if len(rows) < 2 and not (rows and is_over(_BAR.decode(rows[0]), reply.received_ns)):
                raise TransientError(f"the bar {interval} of {shard.instrument} is not over yet")
            yield Part(reply, last_us, shard.end_us, 1)
        else:
            reply = await self._klines(asked | {"startTime": _millis(shard.oldest_us), "limit": "1"})
            first = _BARS.decode(reply.body)
            none_before = not first or _opened_us(first[0]) >= shard.end_us
            yield Part(reply, shard.oldest_us if none_before else shard.start_us, shard.end_us)

    async def agg_trades(self, shard: Shard) -> AsyncGenerator[Part]:
        """The first aggregate after the shard is found by its time; from there it goes down by id."""
        symbol = self._app.listing.native_of(shard.instrument)
        reply = await self._agg_trades({"symbol": symbol, "startTime": _millis(shard.end_us), "limit": "1"})
        rows = _TRADES.decode(reply.body)
        if rows:
            low = rows[0].a
        else:
            reply = await self._agg_trades({"symbol": symbol, "limit": "1"})
            rows = _TRADES.decode(reply.body)
            low = rows[0].a + 1 if rows else 0
        top_us = shard.end_us if low else shard.oldest_us
        yield Part(reply, top_us, shard.end_us)
        top_us = shard.end_us
        while low and top_us > shard.start_us:
            first = max(0, low - MOST_ROWS)
            reply = await self._agg_trades({"symbol": symbol, "fromId": str(first), "limit": str(low - first)})
            rows = [row for row in _TRADES.decode(reply.body) if row.a < low]
            # Others of the same millisecond may stand before the first row. Before the venue's first there is nothing.
            ends = not rows or rows[0].a > first or first == 0
            begin_us = shard.oldest_us if ends else (rows[0].T + 1) * 1_000
            begin_us = min(begin_us, top_us)
            yield Part(reply, begin_us, top_us, len(rows))
            top_us, low = begin_us, 0 if ends else first

    async def _klines(self, params: dict[str, str]) -> Reply:
        return await self._app.ask("klines", params, background=True)

    async def _agg_trades(self, params: dict[str, str]) -> Reply:
        return await self._app.ask("aggTrades", params, background=True)


def _opened_us(bar: msgspec.Raw) -> int:
    return _BAR.decode(bar)[0] * 1_000


def _millis(at_us: int) -> str:
    return str(at_us // 1_000)
