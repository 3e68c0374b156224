"""Who is listed: codes, names, boards, shares and listing dates of a made-up market, the same for the same seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

import numpy as np

from tidewire.errors import InputError
from tidewire.sandbox.china.noise import Flags, Floats, Ints, below, unit

SH_MAIN, STAR, SZ_MAIN, CHINEXT, BSE, INDEX = range(6)
EXCHANGES = ("SH", "SZ", "BJ")
SH, SZ, BJ = range(3)

MOST = 6_000
"""As many stocks as the ranges of codes hold in their proportions."""

FREE_DAYS = 5
"""A stock has no price limit on its first so many sessions."""

_BOARDS = (SH_MAIN, STAR, SZ_MAIN, CHINEXT, BSE)
_SHARES = (0.31, 0.11, 0.28, 0.25, 0.05)
_RANGES = {
    SH_MAIN: ((600_000, 602_000), (603_000, 604_000), (605_000, 605_600)),
    STAR: ((688_001, 689_000),),
    SZ_MAIN: ((1, 1_000), (1_201, 2_000), (2_001, 3_000), (3_001, 3_050)),
    CHINEXT: ((300_001, 301_000), (301_001, 301_700)),
    BSE: ((920_002, 921_000),),
}
_LIMIT_PERCENT = np.array([10, 20, 10, 20, 30, 0])
_ST_LIMIT_PERCENT = 5
_OF_BOARD = np.array([SH, SH, SZ, SZ, BJ, SH])
_BEGAN = [date(*day).toordinal() for day in ((1995, 1, 3), (2019, 7, 22), (1995, 1, 3), (2009, 10, 30), (2021, 11, 15))]
_LATEST = date(2024, 9, 30).toordinal()
"""Ordinary stocks were listed until then."""

# Names of the first codes of each board, one with full-width letters and spaces as the sites have it.
_KNOWN = {
    SH_MAIN: {600_000: "浦发银行", 600_519: "贵州茅台", 601_398: "工商银行", 603_259: "药明康德"},
    STAR: {688_981: "中芯国际", 688_111: "金山办公"},
    SZ_MAIN: {1: "平安银行", 2: "万  科Ａ", 858: "五 粮 液", 2_594: "比亚迪"},
    CHINEXT: {300_750: "宁德时代", 300_059: "东方财富"},
    BSE: {920_002: "万达轴承"},
}
_KNOWN_PRICE = {600_519: 130_645, 600_000: 875, 1: 1_047, 2: 671, 300_750: 33_684}
_INDICES = (
    ("000001", SH, "上证指数", 325_000),
    ("000016", SH, "上证50", 275_000),
    ("000300", SH, "沪深300", 392_000),
    ("000688", SH, "科创50", 101_000),
    ("000852", SH, "中证1000", 611_000),
    ("000905", SH, "中证500", 588_000),
    ("399001", SZ, "深证成指", 1_050_000),
    ("399006", SZ, "创业板指", 210_000),
    ("899050", BJ, "北证50", 138_000),
)
_FIRST = "华中东南西北金新天海国长大永安泰恒康瑞宏"
_SECOND = "科达联创信宇源博盛丰明光力通诚正和兴邦凯"
_TRADES = (
    *("股份", "科技", "电子", "药业", "能源", "材料", "机械", "智能"),
    *("生物", "环保", "集团", "控股", "软件", "光电", "重工", "食品"),
)


@dataclass(frozen=True)
class Listing:
    """Columns of the same length, a row for each stock and then each index, ordered by code within a board.

    ``ident`` is a number of the stock's own, so that it moves the same whoever else is listed.
    ``base`` is the price around which a stock moves, in 1/100 yuan; ``total_shares`` and ``float_shares`` are shares;
    ``listed`` is the ordinal of the first session. ``gone``: delisted, still in the sites' lists; ``unlisted``: has a
    code and a name, and no first day yet. ``pace``: how many ticks of three seconds pass between two trades.
    """

    seed: int
    ident: Ints
    codes: tuple[str, ...]
    names: tuple[str, ...]
    board: Ints
    exchange: Ints
    base: Ints
    total_shares: Ints
    float_shares: Ints
    listed: Ints
    st: Flags
    gone: Flags
    unlisted: Flags
    pace: Ints
    turnover: Floats
    symbols: tuple[str, ...] = field(init=False)
    """As Sina and Tencent spell them: ``sh600000``."""
    rows: dict[str, int] = field(init=False)
    """Where a symbol stands."""

    def __post_init__(self) -> None:
        prefixes = [EXCHANGES[place].lower() for place in self.exchange.tolist()]
        symbols = tuple(prefix + code for prefix, code in zip(prefixes, self.codes, strict=True))
        object.__setattr__(self, "symbols", symbols)
        object.__setattr__(self, "rows", {symbol: row for row, symbol in enumerate(symbols)})

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def stocks(self) -> int:
        """How many rows are stocks; the rows after them are indices."""
        return len(self.codes) - len(_INDICES)

    @property
    def limit_percent(self) -> Ints:
        """How far a price may move from the close before, in percent; 0 is without limit."""
        main = (self.board == SH_MAIN) | (self.board == SZ_MAIN)
        return np.where(self.st & main, _ST_LIMIT_PERCENT, _LIMIT_PERCENT[self.board]).astype(np.int64)


def make_listing(seed: int, count: int, today: date) -> Listing:
    """``count`` stocks and nine indices as they stand on a day; `InputError` for a count that cannot be.

    About 2 in 100 are delisted, 4 in 100 ST, 3 in 1,000 without a first day; 4 in 1,000 were listed in the last days
    before ``today``, which is the only thing that depends on it.
    """
    if not 1 <= count <= MOST:
        raise InputError(f"{count} Chinese stocks cannot be made; valid is 1 to {MOST}.")
    sizes = _sizes(count)
    numbers = np.concatenate([_numbers(seed, board, size) for board, size in zip(_BOARDS, sizes, strict=True)])
    board = np.repeat(np.array(_BOARDS), sizes)
    known = {number for names in _KNOWN.values() for number in names}
    plain = np.array([number not in known for number in numbers.tolist()], np.bool_)
    fate = unit(seed, "fate", numbers)
    gone, unlisted = plain & (fate < 0.02), plain & (fate >= 0.02) & (fate < 0.023)
    fresh = plain & (fate >= 0.023) & (fate < 0.027)
    st = plain & (fate >= 0.03) & (fate < 0.07)
    if count >= 20:
        _at_least_one(plain, (gone, unlisted, fresh, st))
    base = (np.exp(5.6 + 3.2 * unit(seed, "base", numbers) ** 1.5)).astype(np.int64)
    for row, number in enumerate(numbers.tolist()):
        base[row] = _KNOWN_PRICE.get(number, int(base[row]))
    total = (np.exp(18.6 + 4.5 * unit(seed, "shares", numbers) ** 2) / 100).astype(np.int64) * 100
    floating = (total * (0.3 + 0.7 * unit(seed, "float", numbers)) / 100).astype(np.int64) * 100
    began = np.array(_BEGAN)[board]
    listed = began + below(_LATEST - began, seed, "listed", numbers)
    recent = np.datetime64(today, "D")
    steps = np.arange(len(numbers)) % FREE_DAYS
    newest = np.busday_offset(recent, -steps, roll="backward").astype(np.int64) + _EPOCH
    listed = np.where(fresh, newest, listed)
    pace = np.array([1, 1, 1, 2, 2, 4, 5, 10, 20])[below(9, seed, "pace", numbers)]
    names = _names(seed, numbers, st, gone, fresh)
    spare = len(_INDICES)
    marks = np.zeros(spare, np.bool_)
    return Listing(
        seed=seed,
        ident=np.concatenate([numbers, 1_000_000 + np.arange(spare)]),
        codes=(*(f"{number:06d}" for number in numbers.tolist()), *(row[0] for row in _INDICES)),
        names=(*names, *(row[2] for row in _INDICES)),
        board=np.concatenate([board, np.full(spare, INDEX)]),
        exchange=np.concatenate([_OF_BOARD[board], [row[1] for row in _INDICES]]),
        base=np.concatenate([base, [row[3] for row in _INDICES]]),
        total_shares=np.concatenate([total, np.full(spare, 4 * 10**12)]),
        float_shares=np.concatenate([floating, np.full(spare, 3 * 10**12)]),
        listed=np.concatenate([listed, np.full(spare, date(1995, 1, 1).toordinal())]),
        st=np.concatenate([st, marks]),
        gone=np.concatenate([gone, marks]),
        unlisted=np.concatenate([unlisted, marks]),
        pace=np.concatenate([pace, np.ones(spare, np.int64)]),
        turnover=np.concatenate([0.003 + 0.05 * unit(seed, "turn", numbers) ** 3, np.full(spare, 0.02)]),
    )


_EPOCH = date(1970, 1, 1).toordinal()


def _sizes(count: int) -> list[int]:
    sizes = [int(count * share) for share in _SHARES]
    sizes[0] += count - sum(sizes)
    return sizes


def _numbers(seed: int, board: int, size: int) -> Ints:
    """Codes of a board: the known ones first, the others by chance; in their order."""
    known = list(_KNOWN[board])[:size]
    every = np.concatenate([np.arange(first, end) for first, end in _RANGES[board]])
    every = every[~np.isin(every, known)]
    chosen = every[np.argsort(unit(seed, "codes", every), kind="stable")][: size - len(known)]
    return np.sort(np.concatenate([np.array(known, np.int64), chosen]))


def _at_least_one(plain: Flags, kinds: tuple[Flags, ...]) -> None:
    taken = np.logical_or.reduce(kinds)
    for kind in kinds:
        if not kind.any():
            row = int(np.flatnonzero(plain & ~taken)[0])
            kind[row] = taken[row] = True


def _names(seed: int, numbers: Ints, st: Flags, gone: Flags, fresh: Flags) -> list[str]:
    known = {number: name for names in _KNOWN.values() for number, name in names.items()}
    first, second = below(len(_FIRST), seed, "first", numbers), below(len(_SECOND), seed, "second", numbers)
    trade = below(len(_TRADES), seed, "trade", numbers)
    made: list[str] = []
    for row, number in enumerate(numbers.tolist()):
        short = _FIRST[int(first[row])] + _SECOND[int(second[row])]
        name = known.get(number, short + _TRADES[int(trade[row])])
        if gone[row]:
            name = short + "退"
        elif st[row]:
            name = ("*ST" if row % 2 else "ST") + short
        elif fresh[row]:
            name = "N" + short
        made.append(name)
    return made
