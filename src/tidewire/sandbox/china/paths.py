"""How prices move: the way of each stock through each day, asked for in any order, without what came before.

A day has 240 minutes of trading; a path knows the price at each end of a minute and the extremes between, and between
them goes in a straight line of twenty ticks. Prices are 1/100 yuan, volumes shares, amounts 1/100 yuan.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt

from tidewire.sandbox.china.listing import FREE_DAYS, INDEX, Listing
from tidewire.sandbox.china.noise import Flags, Floats, Ints, bits, swing, unit

MINUTES = 240
TICKS = 20
"""Ticks of three seconds in a minute."""

_EPOCH = date(1970, 1, 1).toordinal()
_HALT_DAYS = 14
_HALTED = 0.012
_ON_INDEX = 1_200
"""What an index counts for a share, in 1/100 yuan: its value is no price."""


class Days:
    """Which days are sessions: weekdays without holidays. Days are ordinals, as `datetime.date.toordinal` counts."""

    def __init__(self, holidays: tuple[date, ...] = ()) -> None:
        self._calendar = np.busdaycalendar(holidays=np.array(holidays, "datetime64[D]"))

    def is_session(self, day: int) -> bool:
        """Whether there is trading."""
        return bool(np.is_busday(_dates(np.array([day])), busdaycal=self._calendar)[0])

    def before(self, days: Ints) -> Ints:
        """The last session before each day."""
        found = np.busday_offset(_dates(days) - 1, 0, roll="backward", busdaycal=self._calendar)
        return found.astype(np.int64) + _EPOCH

    def count(self, first: Ints, last: Ints) -> Ints:
        """Sessions from a day up to before another."""
        return np.busday_count(_dates(first), _dates(last), busdaycal=self._calendar).astype(np.int64)

    def back(self, day: int, count: int) -> Ints:
        """The last ``count`` sessions up to and with a day, ascending."""
        last = np.busday_offset(_dates(np.array([day])), 0, roll="backward", busdaycal=self._calendar)
        found = np.busday_offset(last, np.arange(1 - count, 1), busdaycal=self._calendar)
        return found.astype(np.int64) + _EPOCH


def _dates(days: Ints) -> npt.NDArray[np.datetime64]:
    return (days - _EPOCH).astype("datetime64[D]")


@dataclass(frozen=True)
class Paths:
    """Columns are stocks on days; rows of ``price``, ``high``, ``low``, ``volume`` and ``amount`` are the 241 ends of
    minutes, and all but ``price`` are of the day until then; ``top`` and ``bottom`` are extremes of each minute.
    """

    rows: Ints
    days: Ints
    pre_close: Ints
    up: Ints
    down: Ints
    """Price limits; 0 where there is none."""
    active: Flags
    """Listed and not halted on that day; what the others have is no trading."""
    price: Ints
    top: Ints
    bottom: Ints
    high: Ints
    low: Ints
    volume: Ints
    amount: Ints

    def column(self, at: int) -> Paths:
        """One stock on one day."""
        return Paths(*(getattr(self, name)[..., at : at + 1] for name in self.__dataclass_fields__))


class Walk:
    """The paths of a listing."""

    def __init__(self, listing: Listing, days: Days) -> None:
        self.listing = listing
        self.days = days
        limit = listing.limit_percent
        self._reach = np.choose(np.searchsorted([5, 10, 20], limit), [0.03, 0.06, 0.10, 0.10])
        self._jitter = np.choose(np.searchsorted([5, 10, 20], limit), [0.01, 0.02, 0.04, 0.04])
        self._reach[listing.board == INDEX], self._jitter[listing.board == INDEX] = 0.06, 0.008

    def halted(self, rows: Ints, days: Ints) -> Flags:
        """Whether trading in a stock is suspended; a suspension lasts two weeks."""
        known = self.listing.base[rows] % 7 == 0  # some stocks are never halted, whatever the seed
        drawn = unit(self.listing.seed, "halted", self.listing.ident[rows], days // _HALT_DAYS) < _HALTED
        return drawn & ~known & (self.listing.board[rows] != INDEX) & (days - self.listing.listed[rows] > 10)

    def active(self, rows: Ints, days: Ints) -> Flags:
        """Whether a stock is traded on a session."""
        listing = self.listing
        there = ~listing.gone[rows] & ~listing.unlisted[rows] & (listing.listed[rows] <= days)
        return there & ~self.halted(rows, days)

    def closes(self, rows: Ints, days: Ints) -> Ints:
        """The closing prices of days on which the stocks are traded."""
        listing, seed, ident = self.listing, self.listing.seed, self.listing.ident[rows]
        period = 250.0 + 250.0 * unit(seed, "period", ident)
        phase = 2 * np.pi * unit(seed, "phase", ident)
        level = self._reach[rows] * np.sin(2 * np.pi * days / period + phase)
        level = level + self._jitter[rows] * swing(seed, "close", ident, days)
        return np.rint(listing.base[rows] * (1.0 + level)).astype(np.int64)

    def pre_closes(self, rows: Ints, days: Ints) -> Ints:
        """The close before: of the last session on which it was traded, at first the price of its issue."""
        before = self.days.before(days)
        while (stopped := self.halted(rows, before)).any():
            start = before // _HALT_DAYS * _HALT_DAYS
            before = np.where(stopped, self.days.before(start), before)
        issue = self.listing.base[rows]
        return np.where(before < self.listing.listed[rows], issue, self.closes(rows, before))

    def limits(self, rows: Ints, days: Ints, pre_close: Ints) -> tuple[Ints, Ints]:
        """The highest and the lowest price allowed; 0 where there is no limit."""
        percent = self.listing.limit_percent[rows]
        free = (self.days.count(self.listing.listed[rows], days) < FREE_DAYS) | (percent == 0)
        up = (pre_close * (100 + percent) + 50) // 100
        down = (pre_close * (100 - percent) + 50) // 100
        return np.where(free, 0, up), np.where(free, 0, down)

    def of(self, rows: Ints, days: Ints) -> Paths:
        """The paths of stocks on days, which are columns of the same length."""
        pre = self.pre_closes(rows, days)
        up, down = self.limits(rows, days, pre)
        price = self._prices(rows, days, pre)
        price = np.clip(price, np.maximum(down, 1), np.where(up == 0, np.int64(1) << 40, up))
        upper, lower = np.maximum(price[1:], price[:-1]), np.minimum(price[1:], price[:-1])
        minutes, ident = np.arange(MINUTES)[:, None], self.listing.ident[rows]
        reach = np.where(self.slots(rows) > 0, 0.003 * pre, 0.0)
        top = upper + (reach * unit(self.listing.seed, "top", ident, days, minutes) ** 3).astype(np.int64)
        bottom = lower - (reach * unit(self.listing.seed, "bottom", ident, days, minutes) ** 3).astype(np.int64)
        top = np.where(up == 0, top, np.minimum(top, up))
        bottom = np.maximum(bottom, np.maximum(down, 1))
        traded = self._volumes(rows, days)
        volume = np.cumsum(traded, axis=0)
        worth = np.where(self.listing.board[rows] == INDEX, 2 * _ON_INDEX, price[1:] + price[:-1])
        first = np.where(self.listing.board[rows] == INDEX, _ON_INDEX, price[0])
        amount = np.cumsum(np.vstack([traded[:1] * first, traded[1:] * worth // 2]), axis=0)
        return Paths(
            rows=rows,
            days=days,
            pre_close=pre,
            up=up,
            down=down,
            active=self.active(rows, days),
            price=price,
            top=top,
            bottom=bottom,
            high=np.maximum.accumulate(np.vstack([price[:1], top]), axis=0),
            low=np.minimum.accumulate(np.vstack([price[:1], bottom]), axis=0),
            volume=volume,
            amount=amount,
        )

    def slots(self, rows: Ints) -> Ints:
        """How many ticks inside a minute a stock has on which an extreme can be."""
        return TICKS // self.listing.pace[rows] - 1

    def extremes(self, rows: Ints, days: Ints, minute: int) -> tuple[Ints, Ints]:
        """The ticks of a minute on which the highest and the lowest price are; 99 where there is none."""
        slots, pace, at = self.slots(rows), self.listing.pace[rows], np.array([minute])
        drawn = bits(self.listing.seed, "slot", self.listing.ident[rows], days, at)
        some = np.maximum(slots, 1).astype(np.uint64)
        high = pace * (1 + (drawn % some).astype(np.int64))
        low = pace * (1 + (drawn // np.uint64(64) % some).astype(np.int64))
        return np.where(slots > 0, high, 99), np.where(slots > 0, low, 99)

    def _prices(self, rows: Ints, days: Ints, pre: Ints) -> Ints:
        seed, ident = self.listing.seed, self.listing.ident[rows]
        close = self.closes(rows, days)
        opened = pre + 0.4 * (close - pre) + 0.4 * self._jitter[rows] * pre * swing(seed, "open", ident, days)
        opened = np.rint(opened)
        part = np.arange(MINUTES + 1)[:, None] / MINUTES
        wild = np.where(unit(seed, "wild", ident, days) < 0.02, 6.0, 1.0)
        found: Floats = opened + (close - opened) * part
        for wave in (1, 2, 3, 7):
            size = wild * self._jitter[rows] * pre * swing(seed, f"wave{wave}", ident, days) / wave
            found = found + size * np.sin(np.pi * wave * part)
        minutes = np.arange(MINUTES + 1)[:, None]
        small = 0.001 * pre * swing(seed, "minute", ident, days, minutes)
        small[0], small[-1] = 0.0, 0.0
        price = np.rint(found + small).astype(np.int64)
        price[-1] = close
        return price

    def _volumes(self, rows: Ints, days: Ints) -> Ints:
        """Shares traded in the opening auction and then in each minute."""
        seed, listing, ident = self.listing.seed, self.listing, self.listing.ident[rows]
        usual = listing.float_shares[rows] * listing.turnover[rows] * (0.5 + unit(seed, "busy", ident, days))
        minutes = np.arange(MINUTES + 1)[:, None]
        shape = 0.6 + 1.6 * np.exp(-minutes / 20.0) + 0.8 * np.exp((minutes - MINUTES) / 15.0)
        drawn = unit(seed, "volume", ident, days, minutes) ** 2
        return (usual * shape * (0.2 + 2.4 * drawn) / MINUTES).astype(np.int64) + 1
