"""The trades of one symbol and the bars aggregated from them, exactly, in integers of 1e-8."""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from tidewire.records.clock import SeededRng
from tidewire.sandbox.config import E8, SymbolInfo
from tidewire.sandbox.deep import HISTORY_GAP_MS, Columns, DeepHistory, Ints, jitter, lattice, makers, steps

Trade = tuple[int, int, int, int, bool]
"""id, price in 1e-8, quantity in 1e-8, time in ms, whether the buyer is the maker."""

SECOND = 1_000
MINUTE = 60_000
DAY = 86_400_000
_AT_ONCE_MS = 30 * DAY
RECENT_HOURS = 168
"""How much of the history is held; what is older is made again whenever somebody asks."""

INTERVALS = {
    "1s": SECOND,
    "1m": MINUTE,
    "3m": 3 * MINUTE,
    "5m": 5 * MINUTE,
    "15m": 15 * MINUTE,
    "30m": 30 * MINUTE,
    "1h": 60 * MINUTE,
    "2h": 120 * MINUTE,
    "4h": 240 * MINUTE,
    "6h": 360 * MINUTE,
    "8h": 480 * MINUTE,
    "12h": 720 * MINUTE,
    "1d": DAY,
    "3d": 3 * DAY,
    "1w": 7 * DAY,
    "1M": 0,
}


def bar_open(interval: str, ms: int) -> int:
    """When the bar that holds ``ms`` opened; weeks begin on Monday, months on the first, all UTC."""
    if interval == "1M":
        at = datetime.fromtimestamp(ms // 1000, UTC)
        return int(datetime(at.year, at.month, 1, tzinfo=UTC).timestamp()) * 1000
    size = INTERVALS[interval]
    # 1970-01-05 was the first Monday.
    shift = 4 * DAY if interval == "1w" else 0
    return (ms - shift) // size * size + shift


def bar_end(interval: str, opened: int) -> int:
    """When the next bar opens."""
    if interval == "1M":
        at = datetime.fromtimestamp(opened // 1000, UTC)
        after = datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)
        return int(after.timestamp()) * 1000
    return opened + INTERVALS[interval]


def e8(value: int) -> str:
    """An integer of 1e-8 as the venue writes it: ``"61837.63000000"``."""
    if value < 0:
        return f"-{e8(-value)}"
    return f"{value // E8}.{value % E8:08d}"


class Bar:
    """Open, high, low, close, volumes, count and trade ids of a stretch of trades; prices and volumes in 1e-8."""

    __slots__ = ("close", "count", "first", "high", "last", "low", "open", "quote", "taker", "taker_quote", "volume")

    def __init__(self, price: int, ident: int = -1) -> None:
        self.open = self.high = self.low = self.close = price
        self.volume = self.quote = self.taker = self.taker_quote = self.count = 0
        self.first = self.last = ident

    def merge(self, later: Bar) -> None:
        """Add the bar that follows."""
        self.high = max(self.high, later.high)
        self.low = min(self.low, later.low)
        self.close = later.close
        self.volume += later.volume
        self.quote += later.quote
        self.taker += later.taker
        self.taker_quote += later.taker_quote
        self.count += later.count
        self.last = later.last

    def copy(self) -> Bar:
        """A bar of its own with the same values."""
        twin = Bar(self.open)
        for name in Bar.__slots__:
            setattr(twin, name, getattr(self, name))
        return twin


class History:
    """The trades before the market began: one each ten seconds, a function of seed, symbol and start alone.

    The last `RECENT_HOURS` are held as columns; those before are a `DeepHistory`. Places count from the oldest.
    """

    def __init__(self, info: SymbolInfo, seed: int, start_ms: int, hours: int, first_id: int) -> None:
        count = min(hours, RECENT_HOURS) * 3_600_000 // HISTORY_GAP_MS
        raw = bytes.fromhex(SeededRng(f"{seed}:history:{info.symbol}").token(count * 8))
        words = np.frombuffer(raw, dtype="<u8")
        self.first_id = first_id
        begin_ms = start_ms - count * HISTORY_GAP_MS
        self._times = begin_ms + np.arange(count, dtype=np.int64) * HISTORY_GAP_MS + jitter(words)
        self._steps, self._maker = steps(words), makers(words)
        moves = ((words >> np.uint64(33)) % np.uint64(21)).astype(np.int64) - 10
        walked: Ints = np.cumsum(moves)
        gap = lattice(info)
        levels = np.maximum(info.open_e8 // info.tick_e8 // gap + walked - walked[-1], 1)
        self._ticks = levels * gap + np.where(self._maker, 0, 1)
        older = (hours - min(hours, RECENT_HOURS)) * 3_600_000 // HISTORY_GAP_MS
        self._deep = DeepHistory(info, seed, begin_ms, older, int(levels[0]))
        self._info = info
        self._unit = info.tick_e8 * info.step_e8 // E8

    def __len__(self) -> int:
        return self._deep.count + len(self._times)

    @property
    def first_ms(self) -> int:
        """When the oldest trade happened."""
        return int(self.columns(0, 1).times[0])

    @property
    def last_ms(self) -> int:
        """When the newest trade happened."""
        return int(self._times[-1])

    def place(self, ms: int) -> int:
        """How many trades happened before ``ms``."""
        return self.places([ms])[0]

    def places(self, times: Sequence[int]) -> list[int]:
        """How many trades happened before each of these times."""
        ms = np.asarray(times, dtype=np.int64)
        old = self._deep.places(np.minimum(ms, self._deep.end_ms))
        return (old + np.searchsorted(self._times, ms)).tolist()

    def columns(self, low: int, high: int) -> Columns:
        """The trades at places ``low`` to ``high`` (exclusive)."""
        deep = self._deep.count
        begin, end = max(0, low - deep), max(0, high - deep)
        found = Columns(self._times[begin:end], self._ticks[begin:end], self._steps[begin:end], self._maker[begin:end])
        if low >= deep:
            return found
        older = self._deep.columns(low, min(high, deep))
        return older.then(found) if end else older

    def trades(self, low: int, high: int) -> list[Trade]:
        """The trades at places ``low`` to ``high`` (exclusive)."""
        if low >= high:
            return []
        found = self.columns(low, high)
        prices, sizes = found.ticks * self._info.tick_e8, found.steps * self._info.step_e8
        ids = range(self.first_id + low, self.first_id + high)
        columns = (prices.tolist(), sizes.tolist(), found.times.tolist(), found.maker.tolist())
        return list(zip(ids, *columns, strict=True))

    def trade(self, place: int) -> Trade:
        """The trade at a place; 0 is the oldest."""
        return self.trades(place, place + 1)[0]

    def bar(self, begin: int, end: int) -> Bar | None:
        """The bar of trades with ``begin <= time < end``; None when there is none."""
        found = self.bars([begin, end])
        return found[0] if found else None

    def bars(self, edges: Sequence[int]) -> list[Bar | None]:
        """The bars between neighbouring edges; None for one without a trade."""
        found: list[Bar | None] = []
        begin = 0
        while begin < len(edges) - 1:
            # Bars of a day have thousands of trades: a few of them at a time.
            end = begin + 1
            while end < len(edges) - 1 and edges[end + 1] - edges[begin] <= _AT_ONCE_MS:
                end += 1
            found += self._bars(self.places(edges[begin : end + 1]))
            begin = end
        return found

    def _bars(self, places: Sequence[int]) -> list[Bar | None]:
        """The bars between neighbouring places."""
        filled = [(low, high) for low, high in itertools.pairwise(places) if low < high]
        if not filled:
            return [None] * (len(places) - 1)
        low, high = filled[0][0], filled[-1][1]
        found = self.columns(low, high)
        cuts = np.array([begin - low for begin, _ in filled])
        ends = np.append(cuts[1:], high - low) - 1
        tick, step, unit = self._info.tick_e8, self._info.step_e8, self._unit
        value, taken = found.ticks * found.steps, ~found.maker
        columns = (
            found.ticks[cuts] * tick,
            np.maximum.reduceat(found.ticks, cuts) * tick,
            np.minimum.reduceat(found.ticks, cuts) * tick,
            found.ticks[ends] * tick,
            np.add.reduceat(found.steps, cuts) * step,
            np.add.reduceat(value, cuts) * unit,
            np.add.reduceat(found.steps * taken, cuts) * step,
            np.add.reduceat(value * taken, cuts) * unit,
        )
        made = iter(zip(*(column.tolist() for column in columns), strict=True))
        bars: list[Bar | None] = []
        for begin, end in itertools.pairwise(places):
            if begin == end:
                bars.append(None)
                continue
            bar = Bar(0, self.first_id + begin)
            bar.open, bar.high, bar.low, bar.close, bar.volume, bar.quote, bar.taker, bar.taker_quote = next(made)
            bar.count, bar.last = end - begin, self.first_id + end - 1
            bars.append(bar)
        return bars


class Series:
    """Trades and bars of one symbol: what happened before the start (history) and since.

    Holds between ``keep`` and twice ``keep`` trades since the start; older ones are forgotten, their bars are not.
    """

    SECONDS_KEPT = 7_200
    MINUTES_KEPT = 50_000

    def __init__(self, history: History | None, keep: int = 200_000) -> None:
        self.history = history
        self._keep = keep
        self._ids = array("q")
        self._prices = array("q")
        # A negative quantity means that the buyer is the maker.
        self._sizes = array("q")
        self._times = array("q")
        self._seconds: dict[int, Bar] = {}
        self._minutes: dict[int, Bar] = {}
        self._bar: Bar | None = None
        self._bar_second = 0

    def add(self, ident: int, price: int, size: int, ms: int, maker: bool) -> None:
        """A new trade; times never go back by more than the current second."""
        self._ids.append(ident)
        self._prices.append(price)
        self._sizes.append(-size if maker else size)
        self._times.append(ms)
        second = ms - ms % SECOND
        bar = self._bar
        if bar is None or second > self._bar_second:
            self._fold()
            bar = self._bar = Bar(price, ident)
            self._bar_second = second
        elif price > bar.high:
            bar.high = price
        elif price < bar.low:
            bar.low = price
        value = price * size // E8
        bar.close = price
        bar.volume += size
        bar.quote += value
        if not maker:
            bar.taker += size
            bar.taker_quote += value
        bar.count += 1
        bar.last = ident

    def _fold(self) -> None:
        bar = self._bar
        if bar is None:
            return
        second = self._bar_second
        self._seconds[second] = bar
        minute = second - second % MINUTE
        if minute in self._minutes:
            self._minutes[minute].merge(bar)
        else:
            self._minutes[minute] = bar.copy()
            if len(self._minutes) > self.MINUTES_KEPT:
                del self._minutes[next(iter(self._minutes))]
        if len(self._seconds) > self.SECONDS_KEPT:
            del self._seconds[next(iter(self._seconds))]
        if len(self._ids) >= 2 * self._keep:
            for column in (self._ids, self._prices, self._sizes, self._times):
                del column[: -self._keep]

    @property
    def first_ms(self) -> int | None:
        """When the first trade known happened; None before any."""
        if self.history is not None:
            return self.history.first_ms
        return next(iter(self._minutes), self._bar_second) if self._bar else None

    @property
    def first_id(self) -> int:
        """The id of the oldest trade; 0 before any."""
        if self.history is not None:
            return self.history.first_id
        return self._ids[0] if self._ids else 0

    def bars(self, edges: Sequence[int]) -> list[Bar | None]:
        """`bar` between neighbouring edges; those of the history are made all at once."""
        history = self.history
        old = 0 if history is None else max(0, bisect_right(edges, history.last_ms) - 1)
        found: list[Bar | None] = [] if history is None or not old else history.bars(edges[: old + 1])
        for place, bar in enumerate(found):
            if bar is None:  # flat at the last price before
                before = found[place - 1] if place else None
                price = self.price_before(edges[place]) if before is None else before.close
                found[place] = None if price is None else Bar(price)
        return found + [self.bar(begin, end) for begin, end in itertools.pairwise(edges[old:])]

    def bar(self, begin: int, end: int) -> Bar | None:
        """The bar of ``begin <= time < end``, both on whole seconds within a minute, else on whole minutes.

        Without a trade in it, it is flat at the last price before; None when there was none.
        """
        found = self.history.bar(begin, end) if self.history is not None else None
        for part in self._live(begin, end):
            if found is None:
                found = part.copy()
            else:
                found.merge(part)
        if found is not None:
            return found
        price = self.price_before(begin)
        return None if price is None else Bar(price)

    def _live(self, begin: int, end: int) -> list[Bar]:
        bars, step = (self._seconds, SECOND) if end - begin < MINUTE else (self._minutes, MINUTE)
        if (end - begin) // step < len(bars):
            parts = [bars[at] for at in range(begin - begin % step, end, step) if at in bars]
        else:
            parts = [bar for at, bar in bars.items() if begin <= at < end]
        if self._bar is not None and begin <= self._bar_second < end:
            parts.append(self._bar)
        return parts

    def price_before(self, ms: int) -> int | None:
        """The last price before a time, in 1e-8."""
        place = bisect_left(self._times, ms)
        if place:
            return self._prices[place - 1]
        if self.history is not None and (place := self.history.place(ms)):
            return self.history.trade(place - 1)[1]
        return None

    def _trade(self, place: int) -> Trade:
        size = self._sizes[place]
        return self._ids[place], self._prices[place], abs(size), self._times[place], size < 0

    def recent(self, limit: int) -> list[Trade]:
        """The last trades, oldest first."""
        count = len(self._ids)
        live = [self._trade(place) for place in range(max(0, count - limit), count)]
        missing = limit - len(live)
        if self.history is None or missing <= 0:
            return live
        older = len(self.history)
        return self.history.trades(max(0, older - missing), older) + live

    def from_id(self, ident: int, limit: int) -> list[Trade]:
        """Trades from an id on, oldest first."""
        found: list[Trade] = []
        if self.history is not None:
            begin = max(0, ident - self.history.first_id)
            found = self.history.trades(begin, min(begin + limit, len(self.history)))
        place = bisect_left(self._ids, ident)
        end = min(place + limit - len(found), len(self._ids))
        return found + [self._trade(at) for at in range(place, end)]

    def between(self, begin: int, end: int, limit: int) -> list[Trade]:
        """Trades with ``begin <= time <= end``, oldest first."""
        found: list[Trade] = []
        if self.history is not None:
            first, last = self.history.place(begin), self.history.place(end + 1)
            found = self.history.trades(first, min(first + limit, last))
        first, last = bisect_left(self._times, begin), bisect_left(self._times, end + 1)
        return found + [self._trade(at) for at in range(first, min(first + limit - len(found), last))]
