"""The market at any moment: quotes, books and bars, all from `paths`, so that they agree with each other.

A day of the market: from 09:00 in Shanghai the new day's close before and no trades, at 09:25 the opening auction,
trading from 09:30 to 11:30 and from 13:00 to 15:00, a tick every three seconds; then, and on other days, the close.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

import numpy as np

from tidewire.records.clock import Clock
from tidewire.sandbox.china.listing import Listing
from tidewire.sandbox.china.noise import Flags, Ints, below
from tidewire.sandbox.china.paths import MINUTES, TICKS, Days, Paths, Walk

SECOND_NS = 1_000_000_000
DAY_S = 86_400
_SHANGHAI_S = 8 * 3_600
_EPOCH = date(1970, 1, 1).toordinal()

NEW_DAY_S = 9 * 3_600
AUCTION_S = 9 * 3_600 + 25 * 60
MORNING_S = 9 * 3_600 + 30 * 60
AFTERNOON_S = 13 * 3_600
TICK_S = 3
LAST_TICK = MINUTES * TICKS
BEFORE = -1
"""The tick before the opening auction."""

LEVELS = 5


@dataclass(frozen=True)
class Moment:
    """A session and a tick of it: -1 before the auction, 0 after it, 1 to 4,800 in trading."""

    day: int
    tick: int

    @property
    def second(self) -> int:
        """Seconds after midnight in Shanghai."""
        if self.tick < 0:
            return NEW_DAY_S
        if self.tick == 0:
            return AUCTION_S
        half = LAST_TICK // 2
        start = MORNING_S if self.tick <= half else AFTERNOON_S - half * TICK_S
        return start + self.tick * TICK_S

    @property
    def epoch_s(self) -> int:
        """Seconds since 1970, UTC."""
        return (self.day - _EPOCH) * DAY_S + self.second - _SHANGHAI_S

    @property
    def date(self) -> date:
        """The session's date."""
        return date.fromordinal(self.day)

    @property
    def clock(self) -> str:
        """``HH:MM:SS`` in Shanghai."""
        return clock_text(self.second)


def clock_text(second: int) -> str:
    """``HH:MM:SS`` of seconds after midnight."""
    return f"{second // 3_600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"


def minute_end_s(minute: int) -> int:
    """When a minute of trading (0 to 239) ends, in seconds after midnight."""
    return (MORNING_S if minute < MINUTES // 2 else AFTERNOON_S - MINUTES // 2 * 60) + (minute + 1) * 60


def shanghai_day(at_ns: int) -> int:
    """The ordinal of the day it is in Shanghai."""
    return _EPOCH + (at_ns // SECOND_NS + _SHANGHAI_S) // DAY_S


def moment_at(at_ns: int, days: Days) -> Moment:
    """Which session and tick a time is shown as: outside of trading the last there was."""
    second = at_ns // SECOND_NS + _SHANGHAI_S
    day, of_day = _EPOCH + second // DAY_S, second % DAY_S
    if not days.is_session(day) or of_day < NEW_DAY_S:
        return Moment(int(days.before(np.array([day]))[0]), LAST_TICK)
    if of_day < MORNING_S:
        return Moment(day, BEFORE if of_day < AUCTION_S else 0)
    half = LAST_TICK // 2
    morning = min((of_day - MORNING_S) // TICK_S, half)
    afternoon = min(max((of_day - AFTERNOON_S) // TICK_S, 0), half)
    return Moment(day, morning + afternoon)


@dataclass(frozen=True)
class Quotes:
    """The whole market at a moment, a row for each of the listing; prices and ``amount`` in 1/100 yuan, shares.

    ``traded``: there was a trade today; without one ``last`` is the close before, ``open``, ``high``, ``low``,
    ``volume`` and ``amount`` are 0. ``halted``: suspended. ``up`` and ``down`` are the price limits, 0 without.
    """

    moment: Moment
    last: Ints
    open: Ints
    high: Ints
    low: Ints
    pre_close: Ints
    up: Ints
    down: Ints
    volume: Ints
    amount: Ints
    traded: Flags
    halted: Flags
    bid_prices: Ints
    """Five rows, the best first; 0 where nobody bids."""
    bid_volumes: Ints
    ask_prices: Ints
    ask_volumes: Ints


@dataclass(frozen=True)
class Bars:
    """Bars of one stock, ascending: the end of each as day and seconds after midnight; units as of `Quotes`."""

    day: Ints
    second: Ints
    open: Ints
    close: Ints
    high: Ints
    low: Ints
    volume: Ints
    amount: Ints

    def __len__(self) -> int:
        return len(self.day)

    def last(self, count: int) -> Bars:
        """The last of them."""
        return self.where(slice(max(len(self) - count, 0), None))

    def where(self, chosen: slice | Flags | Ints) -> Bars:
        """Some of them."""
        return Bars(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def grouped(self, starts: Ints) -> Bars:
        """Each run of bars that begins at one of ``starts`` as one bar."""
        ends = np.append(starts[1:], len(self)) - 1
        return Bars(
            day=self.day[ends],
            second=self.second[ends],
            open=self.open[starts],
            close=self.close[ends],
            high=np.maximum.reduceat(self.high, starts),
            low=np.minimum.reduceat(self.low, starts),
            volume=np.add.reduceat(self.volume, starts),
            amount=np.add.reduceat(self.amount, starts),
        )


_NO = np.zeros(0, np.int64)
NO_BARS = Bars(_NO, _NO, _NO, _NO, _NO, _NO, _NO, _NO)


class ChinaMarket:
    """A listing on a clock."""

    def __init__(self, listing: Listing, clock: Clock, days: Days, history_days: int = 250) -> None:
        self.listing = listing
        self.days = days
        self.history_days = history_days
        self._clock = clock
        self._walk = Walk(listing, days)
        self._every = np.arange(len(listing))
        self._day: Paths | None = None
        self._quotes: Quotes | None = None

    def now_ns(self) -> int:
        """The market's time."""
        return self._clock.wall_ns()

    def moment(self, at_ns: int | None = None) -> Moment:
        """What is shown now, or at a time."""
        return moment_at(self.now_ns() if at_ns is None else at_ns, self.days)

    def quotes(self, moment: Moment | None = None) -> Quotes:
        """The quotes of now, or of any moment."""
        moment = moment or self.moment()
        if self._quotes is None or self._quotes.moment != moment:
            self._quotes = self._make(moment)
        return self._quotes

    def _paths(self, day: int) -> Paths:
        """The whole market's paths of a day; the last one asked for is kept."""
        if self._day is None or self._day.days[0] != day:
            self._day = None  # never two in memory
            self._day = self._walk.of(self._every, np.full(len(self._every), day))
        return self._day

    def _make(self, moment: Moment) -> Quotes:
        paths = self._paths(moment.day)
        traded = paths.active & (moment.tick >= 0)
        last, high, low, volume, amount = self._at(paths, max(moment.tick, 0))
        last = np.where(traded, last, paths.pre_close)
        none = np.int64(0)
        bids, bid_volumes, asks, ask_volumes = self._book(moment, last, paths, traded)
        return Quotes(
            moment=moment,
            last=last,
            open=np.where(traded, paths.price[0], none),
            high=np.where(traded, high, none),
            low=np.where(traded, low, none),
            pre_close=paths.pre_close,
            up=paths.up,
            down=paths.down,
            volume=np.where(traded, volume, none),
            amount=np.where(traded, amount, none),
            traded=traded,
            halted=self._walk.halted(paths.rows, paths.days),
            bid_prices=bids,
            bid_volumes=bid_volumes,
            ask_prices=asks,
            ask_volumes=ask_volumes,
        )

    def _at(self, paths: Paths, tick: int) -> tuple[Ints, Ints, Ints, Ints, Ints]:
        """Last, high, low, volume and amount after a tick."""
        minute, step = divmod(tick, TICKS)
        if minute == MINUTES:
            return paths.price[-1], paths.high[-1], paths.low[-1], paths.volume[-1], paths.amount[-1]
        pace = self.listing.pace[paths.rows]
        step = step // pace * pace
        begin, end = paths.price[minute], paths.price[minute + 1]
        straight = begin + (end - begin) * step // TICKS
        at_top, at_bottom = self._walk.extremes(paths.rows, paths.days, minute)
        top, bottom = paths.top[minute], paths.bottom[minute]
        last = np.where(step == at_top, top, np.where(step == at_bottom, bottom, straight))
        high = np.maximum(paths.high[minute], np.where(step >= at_top, top, straight))
        low = np.minimum(paths.low[minute], np.where(step >= at_bottom, bottom, straight))
        volume = (paths.volume[minute + 1] - paths.volume[minute]) * step // TICKS
        whole = paths.amount[minute + 1] - paths.amount[minute]
        stocks = paths.rows < self.listing.stocks
        amount = np.where(stocks, volume * (begin + straight) // 2, whole * step // TICKS)
        return last, high, low, paths.volume[minute] + volume, paths.amount[minute] + amount

    def _book(self, moment: Moment, last: Ints, paths: Paths, traded: Flags) -> tuple[Ints, Ints, Ints, Ints]:
        seed, rows, ident = self.listing.seed, paths.rows, self.listing.ident
        levels = np.arange(LEVELS)[:, None]
        step = moment.tick // self.listing.pace
        above = below(2, seed, "side", ident, step)  # whether the last trade was at the bid or at the ask
        bids = last - levels - above
        asks = last + 1 + levels - above
        sizes = below(600, seed, "book", ident, np.full(1, moment.day), step, np.arange(2 * LEVELS)[:, None]) + 1
        limited = paths.up > 0
        traded = traded & (rows < self.listing.stocks)  # nobody trades an index
        bid_there = traded & (bids > 0) & (~limited | (bids >= paths.down))
        ask_there = traded & (~limited | (asks <= paths.up))
        none = np.int64(0)
        return (
            np.where(bid_there, bids, none),
            np.where(bid_there, sizes[:LEVELS] * 100, none),
            np.where(ask_there, asks, none),
            np.where(ask_there, sizes[LEVELS:] * 100, none),
        )

    def pre_close(self, row: int, day: int) -> int:
        """The close before a session, in 1/100 yuan."""
        return int(self._walk.pre_closes(np.array([row]), np.array([day]))[0])

    # --- bars

    def minute_bars(self, row: int, count_days: int, moment: Moment | None = None, *, auction: bool = False) -> Bars:
        """One-minute bars of a stock's last days, up to the minute that is forming.

        The opening auction is part of the first minute, or, with ``auction``, a bar of its own that ends at 09:30.
        """
        moment = moment or self.moment()
        days = self.days.back(moment.day, count_days)
        paths = self._walk.of(np.full(len(days), row), days)
        parts = [self._minutes(paths.column(at), moment, auction=auction) for at in range(len(days))]
        return _joined([part for part in parts if len(part)])

    def _minutes(self, paths: Paths, moment: Moment, *, auction: bool) -> Bars:
        day = int(paths.days[0])
        tick = moment.tick if day == moment.day else LAST_TICK
        if not paths.active[0] or tick < 0:
            return NO_BARS
        price, volume, amount = paths.price[:, 0], paths.volume[:, 0], paths.amount[:, 0]
        bars = Bars(
            day=np.full(MINUTES, day),
            second=np.array([minute_end_s(minute) for minute in range(MINUTES)]),
            open=price[:-1],
            close=price[1:].copy(),
            high=paths.top[:, 0].copy(),
            low=paths.bottom[:, 0].copy(),
            volume=np.diff(volume),
            amount=np.diff(amount),
        )
        minute, step = divmod(tick, TICKS)
        if step:
            self._cut(bars, paths, tick)
        bars = bars.where(slice(0, minute + (step > 0)))
        at = (np.array([day]), np.array([MORNING_S]))
        opening = Bars(*at, price[:1], price[:1], price[:1], price[:1], volume[:1], amount[:1])
        if auction:
            return _joined([opening, bars])
        if not len(bars):
            return NO_BARS if tick == 0 else bars
        bars.volume[0] += volume[0]
        bars.amount[0] += amount[0]
        return bars

    def _cut(self, bars: Bars, paths: Paths, tick: int) -> None:
        """Let the bar that is forming end now."""
        minute = tick // TICKS
        last, _, _, volume, amount = (int(column[0]) for column in self._at(paths, tick))
        begin = int(paths.price[minute, 0])
        step = tick % TICKS // int(self.listing.pace[paths.rows[0]]) * int(self.listing.pace[paths.rows[0]])
        top, bottom = (int(at[0]) for at in self._walk.extremes(paths.rows, paths.days, minute))
        straight = begin + (int(paths.price[minute + 1, 0]) - begin) * step // TICKS
        bars.close[minute] = last
        bars.high[minute] = bars.high[minute] if step >= top else max(begin, straight)
        bars.low[minute] = bars.low[minute] if step >= bottom else min(begin, straight)
        bars.volume[minute] = volume - int(paths.volume[minute, 0])
        bars.amount[minute] = amount - int(paths.amount[minute, 0])

    def day_bars(self, row: int, count: int | None = None, moment: Moment | None = None) -> Bars:
        """Daily bars of a stock, as far back as history goes, today's as it is now; none of days without trading."""
        moment = moment or self.moment()
        days = self.days.back(moment.day, min(count or self.history_days, self.history_days))
        paths = self._walk.of(np.full(len(days), row), days)
        bars = Bars(
            day=days,
            second=np.full(len(days), minute_end_s(MINUTES - 1)),
            open=paths.price[0],
            close=paths.price[-1].copy(),
            high=paths.high[-1].copy(),
            low=paths.low[-1].copy(),
            volume=paths.volume[-1].copy(),
            amount=paths.amount[-1].copy(),
        )
        there = paths.active.copy()
        if moment.tick < 0:
            there[-1] = False
        now = self._walk.of(np.array([row]), np.array([moment.day]))
        today = self._at(now, max(moment.tick, 0))
        for column, value in zip((bars.close, bars.high, bars.low, bars.volume, bars.amount), today, strict=True):
            column[-1] = value[0]
        return bars.where(there)

    def resampled(self, row: int, minutes: int, count_days: int, moment: Moment | None = None) -> Bars:
        """Bars of several minutes, ending at whole multiples counted from the open of each half of the day."""
        bars = self.minute_bars(row, count_days, moment)
        if not len(bars):
            return bars
        slot = bars.day * MINUTES + _minute_of(bars.second) // minutes
        starts = np.flatnonzero(np.diff(slot, prepend=-1))
        grouped = bars.grouped(starts)
        place = _minute_of(grouped.second) // minutes
        ends = np.array([minute_end_s(at) for at in ((place + 1) * minutes - 1).tolist()])
        return Bars(grouped.day, ends, *(getattr(grouped, name) for name in list(Bars.__dataclass_fields__)[2:]))


def _minute_of(second: Ints) -> Ints:
    """Which minute of trading (0 to 239) ends at a second."""
    minute = second // 60 - 1
    first, half = MORNING_S // 60, MINUTES // 2
    return np.where(minute < first + half, minute - first, minute - AFTERNOON_S // 60 + half)


def _joined(parts: Iterable[Bars]) -> Bars:
    parts = list(parts)
    if not parts:
        return NO_BARS
    return Bars(*(np.concatenate([getattr(part, name) for part in parts]) for name in Bars.__dataclass_fields__))
