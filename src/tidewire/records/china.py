"""Trading rules of the mainland exchanges as dated data: boards by code, daily price limits, ticks, lots, hours.

To change a rule, add a row to `LIMITS` with the day from which it holds; nothing else has to be touched. What is not
known of an instrument (its name, since when it is listed) makes a limit wider, never narrower: a limit that is told
here is one that no trade of that day can have passed.

Sources: the trading rules of the three exchanges (交易规则) and their special provisions for STAR, ChiNext, the
registration reform of the main boards (2023-04-10) and risk warning stocks (2026-07-06). Of the last the notice
itself was not at hand; two public threads of trading tools (akfamily/akquant 249, simonlin1212/TradingAgents-astock 85)
name the same day.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from datetime import date, time
from typing import Literal

import polars as pl

Board = Literal["main", "star", "chinext", "bse", "b_share", "fund", "reit", "bond", "index", "other"]
"""What sort of thing a code names. The first five are stocks."""

STOCKS: tuple[Board, ...] = ("main", "star", "chinext", "bse", "b_share")
PRICED: tuple[Board, ...] = (*STOCKS, "fund", "reit")
"""Boards on which amount / volume is a price; an index has no such price, and bonds are counted in several units."""

UTC_OFFSET_S = 8 * 3_600
"""Local time is UTC+8; summer time, last kept in 1991, is left out."""

# First match wins; the venue is part of the pattern because the same digits mean other things elsewhere.
_CODES: tuple[tuple[str, Board], ...] = (
    (r"60[0135]\d{3}\.SH", "main"),
    (r"68[89]\d{3}\.SH", "star"),
    (r"900\d{3}\.SH", "b_share"),
    (r"508\d{3}\.SH", "reit"),
    (r"5[0-8]\d{4}\.SH", "fund"),
    (r"(000|95)\d+\.SH", "index"),
    (r"1[0-3]\d{4}\.SH", "bond"),
    (r"00[0-4]\d{3}\.SZ", "main"),
    (r"30[0-2]\d{3}\.SZ", "chinext"),
    (r"200\d{3}\.SZ", "b_share"),
    (r"180\d{3}\.SZ", "reit"),
    (r"1[568]\d{4}\.SZ", "fund"),
    (r"39\d{4}\.SZ", "index"),
    (r"1[0-3]\d{4}\.SZ", "bond"),
    (r"899\d{3}\.BJ", "index"),
    (r"(4|8)\d{5}\.BJ", "bse"),
    (r"92\d{4}\.BJ", "bse"),
)
_BOARDS: tuple[tuple[re.Pattern[str], Board], ...] = tuple((re.compile(pattern), board) for pattern, board in _CODES)
_VENUES = (".SH", ".SZ", ".BJ")


@functools.lru_cache(maxsize=65_536)
def board(instrument: str | None) -> Board | None:
    """The board of a canonical id (``600000.SH`` → ``main``); ``None`` for anything not of these exchanges."""
    if instrument is None or not instrument.endswith(_VENUES):
        return None
    for pattern, name in _BOARDS:
        if pattern.fullmatch(instrument):
            return name
    return "other"


@dataclass(frozen=True)
class Limit:
    """From ``since`` on, a stock of ``board`` moves at most by ``ratio`` a day, under risk warning by ``st``.

    Neither holds on the first ``free`` trading days of a listing. That first day had limits of its own between 2014
    and 2023 (+44 %, -36 %); they are left out, as the wider.
    """

    board: Board
    since: date
    ratio: float
    st: float
    free: int


LIMITS: tuple[Limit, ...] = (
    Limit("main", date(1996, 12, 16), 0.10, 0.10, 1),  # limits come back after 1992
    Limit("main", date(1998, 4, 22), 0.10, 0.05, 1),  # special treatment (ST) begins
    Limit("main", date(2023, 4, 10), 0.10, 0.05, 5),  # registration reform: five days without limits
    Limit("main", date(2026, 7, 6), 0.10, 0.10, 5),  # risk warning stocks as all others
    Limit("b_share", date(1996, 12, 16), 0.10, 0.10, 1),
    Limit("b_share", date(1998, 4, 22), 0.10, 0.05, 1),
    Limit("b_share", date(2026, 7, 6), 0.10, 0.10, 1),
    Limit("chinext", date(2009, 10, 30), 0.10, 0.10, 1),  # the board opens
    Limit("chinext", date(2020, 8, 24), 0.20, 0.20, 5),  # registration reform
    Limit("star", date(2019, 7, 22), 0.20, 0.20, 5),  # the board opens
    Limit("bse", date(2021, 11, 15), 0.30, 0.30, 1),  # the exchange opens
    # Most funds 10 %, those on STAR and ChiNext 20 %; the code does not say which: the wider.
    Limit("fund", date(1996, 12, 16), 0.10, 0.10, 1),
    Limit("fund", date(2020, 8, 24), 0.20, 0.20, 1),
    Limit("reit", date(2021, 6, 21), 0.10, 0.10, 1),  # 30 % on the first day
)

TICKS: dict[Board, float] = {
    "main": 0.01,
    "star": 0.01,
    "chinext": 0.01,
    "bse": 0.01,
    "b_share": 0.001,  # Shanghai's, in dollars; Shenzhen's 0.01 is a multiple of it
    "fund": 0.001,
    "reit": 0.001,
}
"""Smallest price difference, by board."""

LOTS: dict[Board, int] = {"main": 100, "star": 1, "chinext": 100, "bse": 1, "b_share": 100, "fund": 100, "reit": 100}
"""Shares by which an order to buy may grow (STAR from 200, BSE from 100). Volumes need not be multiples: what remains
of a holding is sold in one piece."""

MORNING = (time(9, 30), time(11, 30))
AFTERNOON = (time(13, 0), time(15, 0))


def is_st(name: str | None) -> bool | None:
    """Whether a name says risk warning (``ST``, ``*ST``, ``SST``, ``S*ST``); ``None`` where there is no name."""
    return None if name is None else re.match(r"S?\*?ST", _plain(name)) is not None


def is_unlimited(name: str | None) -> bool:
    """Whether a name says that no limit may hold: new (``N``, ``C``), or on its way out (``退``)."""
    if name is None:
        return False
    plain = _plain(name)
    return "退" in plain or re.match(r"[NC][^A-Za-z]", plain) is not None


def _plain(name: str) -> str:
    """A name in half-width capitals without spaces: vendors write ``＊ＳＴ`` and ``万  科Ａ``."""
    return "".join(chr(ord(c) - 0xFEE0) if 0xFF01 <= ord(c) <= 0xFF5E else c for c in name if not c.isspace()).upper()


def limit_ratio(
    board: Board | None, st: bool | None = None, day: date | None = None, listed_days: int | None = None
) -> float | None:
    """How far a price may be from the close before, 0.1 = 10 %; ``None``: no limit, or none is known.

    ``listed_days`` counts trading days with the first as 1; unknown, the stock may be new, and nothing limits it.
    ``st`` unknown: as if it were not. ``day`` unknown: the widest that ever held.
    """
    rows = [row for row in LIMITS if row.board == board and (day is None or row.since <= day)]
    if not rows or listed_days is None:
        return None
    free = max(row.free for row in rows) if day is None else rows[-1].free
    if listed_days <= free:
        return None
    return max(row.st if st else row.ratio for row in rows) if day is None else rows[-1].st if st else rows[-1].ratio


def ratios(board: pl.Expr, day: pl.Expr, st: pl.Expr, listed_days: pl.Expr) -> pl.Expr:
    """`limit_ratio` of whole columns: text, date, flag (null: unknown), whole number (null: unknown) → Float64."""
    found = pl.lit(None, dtype=pl.Float64)
    for row in LIMITS:  # later rows are of later days, so the last that holds wins
        ratio = pl.when(st.fill_null(value=False)).then(row.st).otherwise(row.ratio)
        told = pl.when(listed_days > row.free).then(ratio)
        found = pl.when((board == row.board) & (day >= row.since)).then(told).otherwise(found)
    return found


def limits(pre_close: pl.Expr, ratio: pl.Expr, tick: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Lower and upper limit price: the close before times 1 ∓ ratio, rounded half up to the tick (Float64)."""

    def rounded(price: pl.Expr) -> pl.Expr:
        # The small addend: 10.05 * 1.1 / 0.01 is 1105.4999… in binary, and 11.06 by the rules.
        return (price / tick + 0.5 + 1e-6).floor() * tick

    return rounded(pre_close * (1 - ratio)), rounded(pre_close * (1 + ratio))


def local_day(moment: pl.Expr) -> pl.Expr:
    """The local date of a UTC time."""
    return moment.dt.offset_by("8h").dt.date()


def second_of_day(moment: pl.Expr) -> pl.Expr:
    """Seconds since local midnight of a UTC time (Int64)."""
    return (moment.dt.epoch("s") + UTC_OFFSET_S) % 86_400


def in_session(second: pl.Expr) -> pl.Expr:
    """Whether a local second of the day is inside continuous trading, lunch left out."""
    (morning, noon), (afternoon, close) = (tuple(map(_second, half)) for half in (MORNING, AFTERNOON))
    return ((second >= morning) & (second < noon)) | ((second >= afternoon) & (second < close))


def since_open(second: pl.Expr) -> pl.Expr:
    """Seconds since the half of the session began that a local second of the day lies in."""
    return (
        pl.when(second < _second(AFTERNOON[0]))
        .then(second - _second(MORNING[0]))
        .otherwise(second - _second(AFTERNOON[0]))
    )


def _second(at: time) -> int:
    return at.hour * 3_600 + at.minute * 60
