"""What the numbers of Eastmoney's fields mean, made from the quotes of a moment, column by column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from tidewire.sandbox.china.listing import SH, Listing
from tidewire.sandbox.china.noise import Flags, Floats, Ints, below, swing, unit
from tidewire.sandbox.china.session import Quotes

MISSING = "-"
INDUSTRIES = (
    "银行",
    "酿酒行业",
    "半导体",
    "电池",
    "软件开发",
    "化学制药",
    "汽车零部件",
    "电力行业",
    "航运港口",
    "通信设备",
)
REGIONS = ("上海板块", "北京板块", "广东板块", "浙江板块", "江苏板块", "湖北板块")


@dataclass(frozen=True)
class Sheet:
    """A listing with its quotes; what does not move is worked out once."""

    listing: Listing
    quotes: Quotes

    @cached_property
    def traded(self) -> Flags:
        """Where there is a price of today."""
        return self.quotes.traded

    @cached_property
    def there(self) -> Flags:
        """Stocks that are neither delisted nor without a first day."""
        return ~self.listing.gone & ~self.listing.unlisted

    @cached_property
    def priced(self) -> Flags:
        """Where there is a close before."""
        return ~self.listing.unlisted

    @cached_property
    def limited(self) -> Flags:
        """Where there are price limits."""
        return self.quotes.up > 0

    def chance(self, salt: str, low: float, high: float) -> Floats:
        """Figures of a company, which the market does not know: the same at all times."""
        return low + (high - low) * unit(self.listing.seed, salt, self.listing.ident)

    def mood(self, salt: str, reach: float) -> Floats:
        """Figures of a moment which do not follow from the quotes."""
        return reach * swing(self.listing.seed, salt, self.listing.ident, np.array([self.quotes.moment.tick // 20]))


Values = npt.NDArray[np.int64] | Floats | list[str]


@dataclass(frozen=True)
class Field:
    """A column: ``kind`` is how its numbers are written (price, percent, lots, money, plain, text), ``where`` it is
    missing, in words of `Sheet`: ``traded``, ``there``, ``priced``, or nowhere.
    """

    kind: str
    make: Callable[[Sheet], Values]
    where: str = ""


class Columns:
    """Columns in the numbers that were asked for: floats, or integers of 1/100."""

    def __init__(self, sheet: Sheet, *, floats: bool, in_shares: bool, row: int | None = None) -> None:
        self._sheet = sheet
        self._floats = floats
        self._lot = 1 if in_shares else 100
        self._row = row

    def of(self, field: Field) -> list[object]:
        """All values of a field, or that of the row."""
        made = field.make(self._sheet)
        chosen = slice(None) if self._row is None else slice(self._row, self._row + 1)
        if isinstance(made, list):
            values = cast("list[object]", made[chosen])
        else:
            values = cast("list[object]", self._written(field.kind, made[chosen]).tolist())
        if field.where:
            known: Flags = getattr(self._sheet, field.where)[chosen]
            for row in np.flatnonzero(~known).tolist():
                values[row] = MISSING
        return values

    def _written(self, kind: str, made: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if kind == "price":
            return made / 100.0 if self._floats else made
        if kind == "percent":
            return np.round(made, 2) if self._floats else np.rint(made * 100).astype(np.int64)
        if kind == "lots":
            return (made.astype(np.int64) + self._lot // 2) // self._lot
        if kind == "money":
            return made / 100.0
        return made


def _of(name: str) -> Callable[[Sheet], Values]:
    return lambda sheet: getattr(sheet.quotes, name)


def _level(name: str, level: int) -> Callable[[Sheet], Values]:
    return lambda sheet: getattr(sheet.quotes, name)[level]


def _chance(salt: str, low: float, high: float) -> Callable[[Sheet], Values]:
    return lambda sheet: sheet.chance(salt, low, high)


def _mood(salt: str, reach: float) -> Callable[[Sheet], Values]:
    return lambda sheet: sheet.mood(salt, reach)


def _change(sheet: Sheet) -> Ints:
    return sheet.quotes.last - sheet.quotes.pre_close


def _percent(sheet: Sheet) -> Floats:
    return _change(sheet) / sheet.quotes.pre_close * 100


def _amplitude(sheet: Sheet) -> Floats:
    return (sheet.quotes.high - sheet.quotes.low) / sheet.quotes.pre_close * 100


def _turnover(sheet: Sheet) -> Floats:
    return sheet.quotes.volume / sheet.listing.float_shares * 100


def _average(sheet: Sheet) -> Ints:
    return np.rint(sheet.quotes.amount / np.maximum(sheet.quotes.volume, 1)).astype(np.int64)


def _worth(shares: str) -> Callable[[Sheet], Values]:
    return lambda sheet: sheet.quotes.last * getattr(sheet.listing, shares)


def _whole(value: int) -> Callable[[Sheet], Values]:
    return lambda sheet: np.full(len(sheet.listing), value, np.int64)


def _text(value: str) -> Callable[[Sheet], Values]:
    return lambda sheet: [value] * len(sheet.listing)


def _pick(salt: str, words: tuple[str, ...]) -> Callable[[Sheet], Values]:
    return lambda sheet: [words[at] for at in below(len(words), sheet.listing.seed, salt, sheet.listing.ident).tolist()]


def _market(sheet: Sheet) -> Ints:
    return (sheet.listing.exchange == SH).astype(np.int64)


def _time(sheet: Sheet) -> Ints:
    return np.full(len(sheet.listing), sheet.quotes.moment.epoch_s, np.int64)


def day_number(day: int) -> int:
    """An ordinal as the number ``20260105``."""
    at = date.fromordinal(day)
    return at.year * 10_000 + at.month * 100 + at.day


def _listed(sheet: Sheet) -> Values:
    return np.array([day_number(day) for day in sheet.listing.listed.tolist()], np.int64)


def _day(sheet: Sheet) -> Ints:
    return np.full(len(sheet.listing), day_number(sheet.quotes.moment.day), np.int64)


def _main_net(sheet: Sheet) -> Values:
    return np.rint(sheet.quotes.amount * sheet.mood("net", 0.1))


LIST_FIELDS = {
    "f1": Field("plain", _whole(2)),
    "f2": Field("price", _of("last"), "traded"),
    "f3": Field("percent", _percent, "traded"),
    "f4": Field("price", _change, "traded"),
    "f5": Field("lots", _of("volume"), "traded"),
    "f6": Field("money", _of("amount"), "traded"),
    "f7": Field("percent", _amplitude, "traded"),
    "f8": Field("percent", _turnover),
    "f9": Field("percent", _chance("pe", 5, 90), "there"),
    "f10": Field("percent", _chance("ratio", 0.4, 2.5), "traded"),
    "f11": Field("percent", _mood("five", 1.0), "traded"),
    "f12": Field("text", lambda sheet: list(sheet.listing.codes)),
    "f13": Field("plain", _market),
    "f14": Field("text", lambda sheet: list(sheet.listing.names)),
    "f15": Field("price", _of("high"), "traded"),
    "f16": Field("price", _of("low"), "traded"),
    "f17": Field("price", _of("open"), "traded"),
    "f18": Field("price", _of("pre_close"), "priced"),
    "f20": Field("money", _worth("total_shares"), "there"),
    "f21": Field("money", _worth("float_shares"), "there"),
    "f22": Field("percent", _mood("speed", 0.4), "traded"),
    "f23": Field("percent", _chance("pb", 0.5, 9), "there"),
    "f24": Field("percent", _chance("sixty", -20, 30), "there"),
    "f25": Field("percent", _chance("year", -40, 60), "there"),
    "f26": Field("plain", _listed, "priced"),
    "f62": Field("money", _main_net, "traded"),
    "f100": Field("text", _pick("industry", INDUSTRIES)),
    "f104": Field("plain", _whole(0)),
    "f105": Field("plain", _whole(0)),
    "f115": Field("percent", _chance("ttm", 5, 90), "there"),
    "f124": Field("plain", _time),
    "f128": Field("text", _text(MISSING)),
    "f136": Field("text", _text(MISSING)),
    "f140": Field("text", _text(MISSING)),
    "f141": Field("text", _text(MISSING)),
    "f152": Field("plain", _whole(2)),
    "f297": Field("plain", _day),
}
"""Fields of ``clist`` and ``ulist``."""

SINGLE_FIELDS = {
    "f43": Field("price", _of("last"), "traded"),
    "f44": Field("price", _of("high"), "traded"),
    "f45": Field("price", _of("low"), "traded"),
    "f46": Field("price", _of("open"), "traded"),
    "f47": Field("lots", _of("volume"), "traded"),
    "f48": Field("money", _of("amount"), "traded"),
    "f49": Field("lots", lambda sheet: sheet.quotes.volume * 52 // 100, "traded"),
    "f50": LIST_FIELDS["f10"],
    "f51": Field("price", _of("up"), "limited"),
    "f52": Field("price", _of("down"), "limited"),
    "f55": Field("percent", _chance("eps", -0.5, 9), "there"),
    "f57": LIST_FIELDS["f12"],
    "f58": LIST_FIELDS["f14"],
    "f59": Field("plain", _whole(2)),
    "f60": LIST_FIELDS["f18"],
    "f71": Field("price", _average, "traded"),
    "f84": Field("plain", lambda sheet: sheet.listing.total_shares.astype(np.float64), "there"),
    "f85": Field("plain", lambda sheet: sheet.listing.float_shares.astype(np.float64), "there"),
    "f86": Field("plain", _time),
    "f92": Field("plain", _chance("bvps", 1, 30), "there"),
    "f107": LIST_FIELDS["f13"],
    "f116": LIST_FIELDS["f20"],
    "f117": LIST_FIELDS["f21"],
    "f127": LIST_FIELDS["f100"],
    "f128": Field("text", _pick("region", REGIONS)),
    "f161": Field("lots", lambda sheet: sheet.quotes.volume - sheet.quotes.volume * 52 // 100, "traded"),
    "f162": LIST_FIELDS["f9"],
    "f163": Field("percent", _chance("static", 5, 90), "there"),
    "f164": LIST_FIELDS["f115"],
    "f167": LIST_FIELDS["f23"],
    "f168": LIST_FIELDS["f8"],
    "f169": LIST_FIELDS["f4"],
    "f170": LIST_FIELDS["f3"],
    "f189": LIST_FIELDS["f26"],
    **{f"f{19 - 2 * level}": Field("price", _level("bid_prices", level), "traded") for level in range(5)},
    **{f"f{20 - 2 * level}": Field("lots", _level("bid_volumes", level), "traded") for level in range(5)},
    **{f"f{39 - 2 * level}": Field("price", _level("ask_prices", level), "traded") for level in range(5)},
    **{f"f{40 - 2 * level}": Field("lots", _level("ask_volumes", level), "traded") for level in range(5)},
}
"""Fields of ``stock/get``, which has numbers of its own."""
