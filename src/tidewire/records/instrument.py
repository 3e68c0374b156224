"""Instruments: one canonical id, a stable uid behind it, and every common spelling at the edges.

The canonical id is ``SYMBOL.VENUE``: ``600000.SH``, ``BTC-USDT.BINANCE``, ``BTC-USDT-SWAP.OKX``. `InstrumentBook`
accepts what people and other tools write (``btcusdt``, ``BTC/USDT``, ``binance:BTCUSDT``, ``sh600000``,
``600000.XSHG``, ``1.600000``) and refuses, with the candidates, what could mean several.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.resources import files

import xxhash

from tidewire.errors import AmbiguousInstrument, InstrumentError, nearest

CHINA = {
    "SH": "SH", "SS": "SH", "XSHG": "SH", "SSE": "SH", "SHSE": "SH", "1": "SH",
    "SZ": "SZ", "XSHE": "SZ", "SZSE": "SZ", "0": "SZ",
    "BJ": "BJ", "XBSE": "BJ", "XBEI": "BJ", "BSE": "BJ",
}  # fmt: skip
"""Spellings of the mainland exchanges, Eastmoney's market numbers included."""

_CODE = re.compile(r"\d{6}", re.ASCII)
_PREFIXED = re.compile(r"(sh|sz|bj)[.\-_]?(\d{6})", re.IGNORECASE)
_DOTTED = re.compile(r"([0-9A-Za-z]+)\.(\d{6})")
_SEPARATORS = re.compile(r"[-/_:\s]")


_TRADED = {
    "5": "SH", "6": "SH", "10": "SH", "11": "SH", "90": "SH",
    "0": "SZ", "1": "SZ", "2": "SZ", "3": "SZ",
    "4": "BJ", "8": "BJ", "92": "BJ",
}  # fmt: skip
"""First digits of the codes of stocks, funds and bonds → their exchange; the longest that fits counts."""

_INDICES = {"000": "SH"} | {f"9{digit}": "SH" for digit in "13456789"}
"""First digits of the codes of indices and of whatever else is not traded; 000 is also of stocks of Shenzhen."""


@dataclass(frozen=True)
class Recode:
    """A stock that goes by another code from a day on: ``430047.BJ`` is ``920047.BJ`` since 2025-10-09."""

    old: str
    new: str
    since: date


@functools.cache
def recodes() -> tuple[Recode, ...]:
    """Every change of a code that is known (``data/recodes.txt``)."""
    text = files("tidewire.records").joinpath("data", "recodes.txt").read_text(encoding="ascii")
    found: list[Recode] = []
    since = date.min
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if words[:1] == ["since"]:
            since = date.fromisoformat(words[1])
            continue
        for old, _, new in (word.partition("=") for word in words):
            found.append(Recode(f"{old}.BJ", f"{new}.BJ", since))
    return tuple(found)


@functools.cache
def _first_names() -> dict[str, str]:
    return {recode.new: recode.old for recode in recodes()}


def uid(venue: str, native: str) -> str:
    """The stable id an instrument gets when it is first seen; renames and recodes keep it."""
    first = _first_names().get(f"{native}.{venue}", "").partition(".")[0]
    return "u" + xxhash.xxh3_64_hexdigest(f"{venue}:{first or native}".encode())


def canonical(symbol: str, venue: str) -> str:
    """``SYMBOL.VENUE`` in upper case."""
    return f"{symbol}.{venue}".upper()


def china_venues(code: str) -> tuple[str, ...]:
    """The exchanges on which a six-digit code can exist, by the published code ranges.

    ``000001`` is a Shenzhen stock and a Shanghai index; such codes are never guessed.
    """
    venues = {_longest(_TRADED, code), _longest(_INDICES, code)}
    return tuple(sorted(venue for venue in venues if venue is not None))


def _longest(ranges: Mapping[str, str], code: str) -> str | None:
    return next((ranges[code[:digits]] for digits in (3, 2, 1) if code[:digits] in ranges), None)


def stock_venue(code: str) -> str | None:
    """The exchange on which a six-digit code of a **stock** is, by the same ranges; None where none has such codes.

    Only for what is known to be a stock: 000001 is also an index of Shanghai.
    """
    return _longest(_TRADED, code) if _CODE.fullmatch(code) else None


@dataclass(frozen=True)
class Alias:
    """A spelling that meant an instrument from a day on (``since``), until a later alias took it over."""

    spelling: str
    instrument: str
    since: date


class InstrumentBook:
    """Knows instruments and resolves spellings. Lookups cost a dictionary access; adding is rare."""

    def __init__(self) -> None:
        self._by_spelling: defaultdict[str, set[str]] = defaultdict(set)
        self._native: dict[tuple[str, str], str] = {}
        self._uid: dict[str, str] = {}
        self._aliases: defaultdict[str, list[Alias]] = defaultdict(list)
        for recode in recodes():
            self.alias(recode.old, recode.new, recode.since)

    def __len__(self) -> int:
        return len(self._uid)

    def __contains__(self, instrument: str) -> bool:
        return instrument in self._uid

    def add(self, instrument: str, native: str, stable: str | None = None) -> None:
        """Make an instrument known under its canonical id, the venue's own spelling and the common ones."""
        symbol, _, venue = instrument.rpartition(".")
        if not symbol or not venue:
            raise InstrumentError(f"{instrument!r} is not a canonical id; it is SYMBOL.VENUE, e.g. BTC-USDT.BINANCE.")
        self._uid[instrument] = stable or self._uid.get(instrument) or uid(venue, native)
        self._native[venue, native] = instrument
        for name in {symbol, native}:
            bare = _bare(name)
            for spelling in (bare, f"{bare}.{venue}", f"{venue}{bare}"):
                self._by_spelling[spelling].add(instrument)

    def alias(self, spelling: str, instrument: str, since: date) -> None:
        """From ``since`` on, ``spelling`` means ``instrument`` (a rename or recode); earlier meanings are kept."""
        entries = self._aliases[_bare(spelling)]
        entries.append(Alias(spelling, instrument, since))
        entries.sort(key=lambda entry: entry.since)

    def native(self, venue: str, native: str) -> str | None:
        """The canonical id of a venue's own spelling, or ``None``."""
        return self._native.get((venue, native))

    def natives(self, venue: str) -> dict[str, str]:
        """The venue's own spellings and the canonical ids they mean."""
        return {native: name for (at, native), name in self._native.items() if at == venue}

    def uid(self, instrument: str) -> str:
        """The stable id behind a canonical id."""
        try:
            return self._uid[instrument]
        except KeyError:
            raise InstrumentError(f"No instrument {instrument!r}.{nearest(instrument, self._uid)}") from None

    def instruments(self, venue: str | None = None) -> list[str]:
        """Known canonical ids, sorted."""
        return sorted(name for name in self._uid if venue is None or name.endswith(f".{venue}"))

    def resolve(self, spelling: str, on: date | None = None) -> str:
        """The canonical id a spelling means: on a day, or now.

        What was recoded goes by its new code from that day on, however it is spelled; an old id that is known itself,
        because rows were collected under it, stays what it is.

        Raises:
            AmbiguousInstrument: it could mean several; all are named.
            InstrumentError: nothing known is spelled like this.
        """
        text = spelling.strip()
        if text.upper() in self._uid:
            return text.upper()
        if text in self._uid:
            return text
        bare = _bare(text)
        if (alias := self._alias(bare, on)) is not None:
            return alias
        found = self._by_spelling.get(bare) or self._by_spelling.get(_joined_venue(text)) or set()
        china = set(_china(text))
        # A code that exists on two exchanges stays ambiguous when the book happens to know only one of them.
        candidates = found | china if len(china) > 1 else found or china
        if len(candidates) == 1:
            (only,) = candidates
            return self._alias(only, on) or only
        if candidates:
            raise AmbiguousInstrument(spelling, candidates)
        raise InstrumentError(
            f"No instrument that was collected is spelled {spelling!r}.{nearest(text.upper(), self._uid)} "
            "Write SYMBOL.VENUE, e.g. BTC-USDT.BINANCE or 600000.SH."
        )

    def _alias(self, spelling: str, on: date | None) -> str | None:
        """What a spelling was given to, on a day or now; None where it was not, or not yet."""
        entries = self._aliases.get(spelling, ())
        place = len(entries) if on is None else bisect_right([entry.since for entry in entries], on)
        return entries[place - 1].instrument if place else None


def _bare(text: str) -> str:
    """Upper case without separators: ``BTC/USDT`` and ``btc-usdt`` are the same spelling."""
    return _SEPARATORS.sub("", text).upper()


def _joined_venue(text: str) -> str:
    """``binance:BTCUSDT`` as it is kept: venue first, no separator."""
    venue, colon, symbol = text.partition(":")
    return f"{venue.upper()}{_bare(symbol)}" if colon else ""


def _china(text: str) -> Iterable[str]:
    """Mainland spellings that need no book: prefixes, suffixes, market numbers, bare codes."""
    if match := _PREFIXED.fullmatch(text):
        return [f"{match[2]}.{match[1].upper()}"]
    head, dot, tail = text.upper().rpartition(".")
    if dot and _CODE.fullmatch(head) and tail in CHINA:
        return [f"{head}.{CHINA[tail]}"]
    if (match := _DOTTED.fullmatch(text.upper())) and match[1] in CHINA:
        # Eastmoney's market 0 is Shenzhen and Beijing.
        beijing = match[1] == "0" and china_venues(match[2]) == ("BJ",)
        return [f"{match[2]}.{'BJ' if beijing else CHINA[match[1]]}"]
    if _CODE.fullmatch(text):
        return [f"{text}.{venue}" for venue in china_venues(text)]
    return []
