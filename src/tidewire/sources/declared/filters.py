"""The filters of numbers, text and choices; those of times are in `times`, and what a filter is in `steps`."""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Sequence

from tidewire.records.instrument import stock_venue
from tidewire.records.instrument import uid as stable
from tidewire.sources.declared.steps import Quick, Step, Value, exact, listed, pair, remembered, text_of

MISSING = frozenset({"", "-", "--", "—", "N/A", "null", "None"})
"""How sites write that there is no number."""

_NOT_ZERO = "123456789"
_TAG = re.compile(r"<[^>]*>")
_NOT_PLAIN = re.compile(r"[^0-9.eE+-]")
"""What a column of plain numbers does not hold; a missing one looks like them, and is looked for by itself."""


def _plain(values: Sequence[Value]) -> list[Value] | None:
    """A column of numbers and of how sites write that there is none, as text; null where it holds anything else."""
    kinds = set(map(type, values))
    if kinds == {int}:
        return list(map(str, values))
    if not kinds <= {int, str}:
        return None
    texts = list(values) if kinds == {str} else [value if value.__class__ is str else str(value) for value in values]
    # All of them searched at once.
    return None if _NOT_PLAIN.search("".join(texts)) else texts


# -- numbers ------------------------------------------------------------------------------------------------------


@listed
def decimal() -> Step:
    """An exact number; how sites write "no number" becomes null, commas between digits go."""

    def step(value: Value) -> Value:
        text = text_of(value).strip()
        if text in MISSING:
            return None
        return text.replace(",", "") if "," in text else text

    def many(values: Sequence[Value]) -> list[Value] | None:
        texts = _plain(values)
        if texts is None or MISSING.isdisjoint(texts):
            return texts
        return [None if text in MISSING else text for text in texts]

    return Quick(step, many)


@listed
def int_() -> Step:
    """A whole number; missing as in ``decimal``."""
    number = decimal()

    def step(value: Value) -> Value:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        text = number(value)
        if text is None:
            return None
        found = exact(text)
        if found != found.to_integral_value():
            raise ValueError(f"{value!r} is not a whole number")
        return int(found)

    def many(values: Sequence[Value]) -> list[Value] | None:
        if set(map(type, values)) == {int}:
            return list(values)
        texts = _plain(values)
        if texts is None:
            return None
        numbers = [None if text in MISSING else text for text in texts]
        digits = "".join(text for text in numbers if text is not None)
        return [text and int(text) for text in numbers] if digits.isdecimal() or not digits else None

    return Quick(step, many)


@listed
def scale(power: str) -> Step:
    """Times ten to the ``power``: lots of 100 shares are ``scale(2)``, percent is ``scale(-2)``. Exact."""
    places = int(power)
    factor = 10**places if places > 0 else 1

    def step(value: Value) -> Value:
        if isinstance(value, int) and places >= 0:
            return value * factor
        return f"{exact(text_of(value)).scaleb(places):f}"

    texts = remembered(step)

    def many(values: Sequence[Value]) -> list[Value] | None:
        if places >= 0 and set(map(type, values)) == {int}:
            return [value * factor for value in values]
        return texts.many(values)

    return Quick(step, many)


@listed
def times(factor: str) -> Step:
    """Times a number. Exact."""
    by = exact(factor)

    def step(value: Value) -> Value:
        return f"{exact(text_of(value)) * by:f}"

    return step


@listed
def positive() -> Step:
    """Null where a number is zero: how sites write "no price"."""

    def step(value: Value) -> Value:
        return value if text_of(value).strip("0.+-") else None

    def many(values: Sequence[Value]) -> list[Value] | None:
        return [value if value.strip("0.+-") else None for value in values] if set(map(type, values)) == {str} else None

    return Quick(step, many)


@listed
def levels(place: str, power: str = "0") -> Step:
    """A side of a book from ``[price, size, price, size, …]``: ``levels(0)`` its prices, ``levels(1)`` its sizes.

    Levels without a price are left out of both. ``levels(1, 2)``: the sizes times ten to that power.
    """
    if place not in ("0", "1"):
        raise ValueError("write 0 for prices or 1 for sizes")
    scaled = scale(power) if power != "0" else text_of

    def step(value: Value) -> Value:
        if not isinstance(value, list) or len(value) % 2:
            raise TypeError(f"{text_of(value)[:40]!r} is not a list of prices and sizes in turn")
        prices = value[::2]
        if set(map(type, value)) == {str} and all(map(_is_price, prices)):
            if place == "0":
                return prices
            return value[1::2] if scaled is text_of else [text_of(scaled(each)) for each in value[1::2]]
        there = [at for at in range(0, len(value), 2) if _is_price(value[at])]
        if place == "0":
            return [text_of(value[at]) for at in there]
        return [text_of(scaled(value[at + 1])) for at in there]

    return step


@functools.lru_cache(maxsize=65_536)  # the prices of a market, which are the same again and again
def _is_price(value: Value) -> bool:
    text = value if isinstance(value, str) else "" if value is None else str(value)
    if text[:1] in _NOT_ZERO:  # almost all are, and a book of five levels has ten
        return bool(text)
    return text.strip() not in MISSING and bool(text.strip(" 0."))


@pair
def cn_shares(volume: Value, code: Value) -> Value:
    """Lots of 100 as shares; what a site counts in shares already, of codes that begin with 688 or 689, stays."""
    star = re.match(r"(?:sh)?68[89]", text_of(code), re.IGNORECASE)
    return volume if star else f"{exact(text_of(volume)).scaleb(2):f}"


# -- text ---------------------------------------------------------------------------------------------------------


@listed
def str_() -> Step:
    """As text."""
    return text_of


@listed
def strip(characters: str = "") -> Step:
    """Without spaces (full-width ones too), or without ``characters``, at both ends."""
    return lambda value: text_of(value).strip(characters or None)


@listed
def squeeze() -> Step:
    """Without any spaces, full-width ones included: ``万  科Ａ`` is ``万科Ａ``."""
    return lambda value: "".join(text_of(value).split())


@listed
def strip_tags() -> Step:
    """Without HTML tags, entities resolved."""
    return lambda value: html.unescape(_TAG.sub("", text_of(value))).strip()


@listed
def lower() -> Step:
    """In small letters."""
    return lambda value: text_of(value).lower()


@listed
def upper() -> Step:
    """In capital letters."""
    return lambda value: text_of(value).upper()


@listed
def replace(old: str, new: str) -> Step:
    """``old`` replaced by ``new``, everywhere."""
    return lambda value: text_of(value).replace(old, new)


@listed
def regex(pattern: str) -> Step:
    """What the pattern's first group finds (the whole of it without a group); null where it finds nothing."""
    found = re.compile(pattern)

    def step(value: Value) -> Value:
        match = found.search(text_of(value))
        return None if match is None else match[found.groups and 1]

    return step


@listed
def part(separator: str, place: str) -> Step:
    """One part of text cut at ``separator``, counted from 0; null where there are fewer."""
    at = int(place)

    def step(value: Value) -> Value:
        parts = text_of(value).split(separator)
        return parts[at] if -len(parts) <= at < len(parts) else None

    return step


@listed
def cut(start: str, end: str = "") -> Step:
    """The characters from ``start`` to before ``end``, counted from 0; negative ones from the end."""
    first, last = int(start), int(end) if end else None
    return lambda value: text_of(value)[first:last]


@listed
def prefix(text: str) -> Step:
    """``text`` before it."""
    return remembered(lambda value: text + text_of(value))


@listed
def suffix(text: str) -> Step:
    """``text`` behind it."""
    return remembered(lambda value: text_of(value) + text)


@listed
def join(separator: str = ",") -> Step:
    """The values of a list as one text."""

    def step(value: Value) -> Value:
        if not isinstance(value, list):
            raise TypeError(f"{text_of(value)[:40]!r} is not a list")
        return separator.join(map(text_of, value))

    return step


# -- choices ------------------------------------------------------------------------------------------------------


@listed
def map_(*pairs: str) -> Step:
    """Other words for words: ``map('0=SZ', '1=SH', '*=BJ')``; ``*`` is everything else, without it that is an error."""
    if not pairs:
        raise ValueError("write at least one 'from=to'")
    table: dict[str, str] = {}
    for each in pairs:
        left, equals, right = each.partition("=")
        if not equals:
            raise ValueError(f"{each!r}: write 'from=to'")
        table[left] = right
    other = table.pop("*", None)

    def step(value: Value) -> Value:
        found = table.get(text_of(value), other)
        if found is None:
            raise ValueError(f"{text_of(value)[:40]!r} is not among {', '.join(table)}")
        return found

    return remembered(step)


@listed
def null_if(*texts: str) -> Step:
    """Null where it is one of these texts."""
    return lambda value: None if text_of(value) in texts else value


@listed
def cn_exchange() -> Step:
    """The mainland exchange of a six-digit **stock** code: ``600000`` → SH, ``000001`` → SZ, ``920002`` → BJ.

    Only for lists that hold stocks alone: 000001 is also an index of Shanghai.
    """

    def step(value: Value) -> Value:
        code = text_of(value)
        if not re.fullmatch(r"\d{6}", code, re.ASCII):
            raise ValueError(f"{code[:40]!r} is not a code of six digits")
        venue = stock_venue(code)
        if venue is None:
            raise ValueError(f"no exchange has codes like {code!r}")
        return venue

    return remembered(step)


@listed
def uid() -> Step:
    """The stable id of an instrument from its canonical one: ``920047.BJ`` has that of ``430047.BJ``."""

    def step(value: Value) -> Value:
        symbol, _, venue = text_of(value).rpartition(".")
        if not symbol or not venue:
            raise ValueError(f"{text_of(value)[:40]!r} is not SYMBOL.VENUE")
        return stable(venue, symbol)

    return step


_MARKETS = {"SH": "1", "SZ": "0", "BJ": "0"}
_SPELLINGS = (
    (re.compile(r"(?P<code>\d{6})\.(?P<at>SH|SS|SZ|BJ)", re.ASCII | re.IGNORECASE), "{code}.{at}"),
    (re.compile(r"(?P<at>sh|sz|bj)\.(?P<code>\d{6})", re.ASCII), "{low}.{code}"),
    (re.compile(r"(?P<at>sh|sz|bj)(?P<code>\d{6})", re.ASCII), "{low}{code}"),
    (re.compile(r"(?P<at>SH|SZ|BJ)(?P<code>\d{6})", re.ASCII), "{at}{code}"),
    (re.compile(r"(?P<at>[01])\.(?P<code>\d{6})", re.ASCII), "{market}.{code}"),
    (re.compile(r"(?P<code>\d{6})", re.ASCII), "{code}"),
)
"""How sites spell mainland symbols, and how such a spelling is made."""


@listed
def cn_symbol(like: str = "600000.SH") -> Step:
    """A mainland symbol, however it is spelt, spelt like an example.

    Examples: ``600000.SH``, ``sh600000``, ``SH600000``, ``sh.600000``, ``1.600000`` (market 0 is Shenzhen and Beijing)
    and ``600000``, which can be made but not read: it names no exchange.
    """
    spelling = next((made for pattern, made in _SPELLINGS if pattern.fullmatch(like)), None)
    if spelling is None:
        raise ValueError("write an example such as 600000.SH, sh600000, 1.600000 or 600000")

    def step(value: Value) -> Value:
        text = text_of(value)
        match = next((found for pattern, _ in _SPELLINGS[:-1] if (found := pattern.fullmatch(text))), None)
        if match is None:
            raise ValueError(f"{text[:40]!r} is no symbol of a mainland exchange, such as 600000.SH or sh600000")
        code, at = match["code"], match["at"].upper()
        if at in "01":
            is_beijing = code[0] in "48" or code.startswith("92")
            at = "SH" if at == "1" else "BJ" if is_beijing else "SZ"
        at = "SH" if at == "SS" else at
        return spelling.format(code=code, at=at, low=at.lower(), market=_MARKETS[at])

    return remembered(step)
