"""The filters of declared sources: a closed list of pure functions from a column of values to a column of values.

A value is what a site wrote: text, a whole number, true, false, or nothing (null). Numbers with a point stay text until
they become exact decimals. Every filter leaves null as it is, and raises `ValueError` for a value it cannot read: that
row is quarantined, the others go on.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from inspect import Parameter, signature
from typing import Any

from tidewire.collect.schedule import parse_duration, zone
from tidewire.errors import ConfigError, InputError, nearest
from tidewire.records.instrument import stock_venue
from tidewire.records.instrument import uid as stable

Value = Any
"""Text, int, bool or None; lists and mappings on their way to a filter that takes them apart."""

MISSING = frozenset({"", "-", "--", "—", "N/A", "null", "None"})
"""How sites write that there is no number."""

_NOT_ZERO = "123456789"

SHANGHAI = "Asia/Shanghai"

_TAG = re.compile(r"<[^>]*>")
_NOT_PLAIN = re.compile(r"[^0-9.eE+-]")
"""What a column of plain numbers does not hold; a missing one looks like them, and is looked for by itself."""
_REMEMBERED = 50_000
"""Texts of times that are remembered: a year of minutes of a market."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Step = Callable[[Value], Value]

FILTERS: dict[str, Callable[..., Step]] = {}
"""Name → what makes the step from the arguments in the file."""

PAIRS: dict[str, Callable[[Value, Value], Value]] = {}
"""Filters that look at a second value beside the first: another path of the row, or a name."""


def _filter(make: Callable[..., Step]) -> Callable[..., Step]:
    FILTERS[make.__name__.strip("_")] = make
    return make


def _pair(of_both: Callable[[Value, Value], Value]) -> Callable[[Value, Value], Value]:
    PAIRS[of_both.__name__] = of_both
    return of_both


def compiled(name: str, arguments: Sequence[str], where: str, tz: str = "") -> Step:
    """The step of a filter; `ConfigError` for one that is not in the list, or arguments it does not take.

    ``tz``: the time zone of filters of time that name none.
    """
    make = FILTERS.get(name)
    if make is None:
        hint = nearest(name, [*FILTERS, *PAIRS])
        raise ConfigError(f"{where}: no filter {name!r}.{hint} Valid: {', '.join(sorted({*FILTERS, *PAIRS}))}.")
    wanted = signature(make).parameters.values()
    least = sum(each.default is Parameter.empty and each.kind is not Parameter.VAR_POSITIONAL for each in wanted)
    most = None if any(each.kind is Parameter.VAR_POSITIONAL for each in wanted) else len(wanted)
    if len(arguments) < least or (most is not None and len(arguments) > most):
        takes = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
        raise ConfigError(f"{where}: the filter {name!r} takes {takes} arguments, found {len(arguments)}.")
    try:
        own = {"tz": tz} if tz and "tz" in list(signature(make).parameters)[len(arguments) :] else {}
        return make(*arguments, **own)
    except (ValueError, InputError, re.error) as error:
        raise ConfigError(f"{where}: {name}({', '.join(arguments)}): {error}") from None


@dataclass(frozen=True)
class _Quick:
    """A step with a quicker way for whole columns: a call for each value is most of what a step costs.

    ``many`` gets a column without nulls and gives what ``one`` gives of each value; null: it cannot say, ask ``one``.
    """

    one: Step
    many: Callable[[Sequence[Value]], list[Value] | None]

    def __call__(self, value: Value) -> Value:
        return self.one(value)


def applied(step: Step, values: Sequence[Value]) -> list[Value]:
    """A column after a step; nulls stay."""
    if isinstance(step, _Quick) and None not in values and (made := step.many(values)) is not None:
        return made
    return [None if value is None else step(value) for value in values]


def _joined(values: Sequence[Value]) -> str | None:
    """A column of text as one text, to be searched at once; null where not all of it is text."""
    try:
        return "".join(values)
    except TypeError:
        return None


def text_of(value: Value) -> str:
    """A value as a site writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


# -- numbers ------------------------------------------------------------------------------------------------------


@_filter
def decimal() -> Step:
    """An exact number; how sites write "no number" becomes null, commas between digits go."""

    def step(value: Value) -> Value:
        text = text_of(value).strip()
        if text in MISSING:
            return None
        return text.replace(",", "") if "," in text else text

    def many(values: Sequence[Value]) -> list[Value] | None:
        text = _joined(values)
        if text is None or _NOT_PLAIN.search(text) or not MISSING.isdisjoint(values):
            return None
        return list(values)

    return _Quick(step, many)


@_filter
def int_() -> Step:
    """A whole number; missing as in ``decimal``."""
    number = decimal()

    def step(value: Value) -> Value:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        text = number(value)
        if text is None:
            return None
        found = _exact(text)
        if found != found.to_integral_value():
            raise ValueError(f"{value!r} is not a whole number")
        return int(found)

    def many(values: Sequence[Value]) -> list[Value] | None:
        text = _joined(values)
        whole = text is not None and text.isascii() and text.isdecimal() and "" not in values
        return list(map(int, values)) if whole else None

    return _Quick(step, many)


@_filter
def scale(power: str) -> Step:
    """Times ten to the ``power``: lots of 100 shares are ``scale(2)``, percent is ``scale(-2)``. Exact."""
    places = int(power)
    factor = 10**places if places > 0 else 1

    def step(value: Value) -> Value:
        if isinstance(value, int) and places >= 0:
            return value * factor
        return f"{_exact(text_of(value)).scaleb(places):f}"

    def many(values: Sequence[Value]) -> list[Value] | None:
        return [value * factor for value in values] if places >= 0 and set(map(type, values)) == {int} else None

    return _Quick(step, many)


@_filter
def times(factor: str) -> Step:
    """Times a number. Exact."""
    by = _exact(factor)

    def step(value: Value) -> Value:
        return f"{_exact(text_of(value)) * by:f}"

    return step


@_filter
def positive() -> Step:
    """Null where a number is zero: how sites write "no price"."""

    def step(value: Value) -> Value:
        return value if text_of(value).strip("0.+-") else None

    return step


@_filter
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
        there = [at for at in range(0, len(value), 2) if _is_price(value[at])]
        if place == "0":
            return [text_of(value[at]) for at in there]
        return [text_of(scaled(value[at + 1])) for at in there]

    return step


def _is_price(value: Value) -> bool:
    text = value if isinstance(value, str) else "" if value is None else str(value)
    if text[:1] in _NOT_ZERO:  # almost all are, and a book of five levels has ten
        return bool(text)
    return text.strip() not in MISSING and bool(text.strip(" 0."))


@_pair
def cn_shares(volume: Value, code: Value) -> Value:
    """Lots of 100 as shares; what a site counts in shares already, of codes that begin with 688 or 689, stays."""
    star = re.match(r"(?:sh)?68[89]", text_of(code), re.IGNORECASE)
    return volume if star else f"{_exact(text_of(volume)).scaleb(2):f}"


def _exact(text: str) -> Decimal:
    try:
        found = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text[:40]!r} is not a number") from None
    if not found.is_finite():
        raise ValueError(f"{text[:40]!r} is not a number")
    return found


# -- text ---------------------------------------------------------------------------------------------------------


@_filter
def str_() -> Step:
    """As text."""
    return text_of


@_filter
def strip(characters: str = "") -> Step:
    """Without spaces (full-width ones too), or without ``characters``, at both ends."""
    return lambda value: text_of(value).strip(characters or None)


@_filter
def squeeze() -> Step:
    """Without any spaces, full-width ones included: ``万  科Ａ`` is ``万科Ａ``."""
    return lambda value: "".join(text_of(value).split())


@_filter
def strip_tags() -> Step:
    """Without HTML tags, entities resolved."""
    return lambda value: html.unescape(_TAG.sub("", text_of(value))).strip()


@_filter
def lower() -> Step:
    """In small letters."""
    return lambda value: text_of(value).lower()


@_filter
def upper() -> Step:
    """In capital letters."""
    return lambda value: text_of(value).upper()


@_filter
def replace(old: str, new: str) -> Step:
    """``old`` replaced by ``new``, everywhere."""
    return lambda value: text_of(value).replace(old, new)


@_filter
def regex(pattern: str) -> Step:
    """What the pattern's first group finds (the whole of it without a group); null where it finds nothing."""
    found = re.compile(pattern)

    def step(value: Value) -> Value:
        match = found.search(text_of(value))
        return None if match is None else match[found.groups and 1]

    return step


@_filter
def part(separator: str, place: str) -> Step:
    """One part of text cut at ``separator``, counted from 0; null where there are fewer."""
    at = int(place)

    def step(value: Value) -> Value:
        parts = text_of(value).split(separator)
        return parts[at] if -len(parts) <= at < len(parts) else None

    return step


@_filter
def cut(start: str, end: str = "") -> Step:
    """The characters from ``start`` to before ``end``, counted from 0; negative ones from the end."""
    first, last = int(start), int(end) if end else None
    return lambda value: text_of(value)[first:last]


@_filter
def prefix(text: str) -> Step:
    """``text`` before it."""
    return lambda value: text + text_of(value)


@_filter
def suffix(text: str) -> Step:
    """``text`` behind it."""
    return lambda value: text_of(value) + text


@_filter
def join(separator: str = ",") -> Step:
    """The values of a list as one text."""

    def step(value: Value) -> Value:
        if not isinstance(value, list):
            raise TypeError(f"{text_of(value)[:40]!r} is not a list")
        return separator.join(map(text_of, value))

    return step


# -- choices ------------------------------------------------------------------------------------------------------


@_filter
def map_(*pairs: str) -> Step:
    """Other words for words: ``map('0=SZ', '1=SH', '*=BJ')``; ``*`` is everything else, without it that is an error."""
    if not pairs:
        raise ValueError("write at least one 'from=to'")
    table: dict[str, str] = {}
    for pair in pairs:
        left, equals, right = pair.partition("=")
        if not equals:
            raise ValueError(f"{pair!r}: write 'from=to'")
        table[left] = right
    other = table.pop("*", None)

    def step(value: Value) -> Value:
        found = table.get(text_of(value), other)
        if found is None:
            raise ValueError(f"{text_of(value)[:40]!r} is not among {', '.join(table)}")
        return found

    return step


@_filter
def null_if(*texts: str) -> Step:
    """Null where it is one of these texts."""
    return lambda value: None if text_of(value) in texts else value


@_filter
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

    return step


@_filter
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


@_filter
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

    return step


# -- times: UTC microseconds --------------------------------------------------------------------------------------


def _epoch(factor: int) -> Step:
    def step(value: Value) -> Value:
        return round(_exact(text_of(value)) * factor)

    return step


@_filter
def epoch_s() -> Step:
    """Seconds since 1970 as a time."""
    return _epoch(1_000_000)


@_filter
def epoch_ms() -> Step:
    """Milliseconds since 1970 as a time."""
    return _epoch(1_000)


@_filter
def epoch_us() -> Step:
    """Microseconds since 1970 as a time."""
    return _epoch(1)


@_filter
def time(form: str, tz: str = SHANGHAI) -> Step:
    """Local time by a form such as ``%Y-%m-%d %H:%M:%S``, read in a time zone (Shanghai unless another is named)."""
    at = zone(tz)

    def step(value: Value) -> Value:
        return micros_of(datetime.strptime(text_of(value).strip(), form), at)  # noqa: DTZ007 - the zone is put in next

    return _Quick(step, _remembering(step))


def _remembering(step: Step) -> Callable[[Sequence[Value]], list[Value]]:
    """Bars of all stocks say the same times: each text is read once, as long as there are not too many."""
    known: dict[Value, Value] = {}

    def many(values: Sequence[Value]) -> list[Value]:
        new = set(values).difference(known)
        if len(known) + len(new) > _REMEMBERED:
            known.clear()
            new = set(values)
        known.update((value, step(value)) for value in new)
        return [known[value] for value in values]

    return many


@_filter
def iso(tz: str = SHANGHAI) -> Step:
    """A date or time as ISO 8601 writes it; read in a time zone where it names none."""
    at = zone(tz)
    return lambda value: micros_of(datetime.fromisoformat(text_of(value).strip()), at)


@_filter
def shift(by: str) -> Step:
    """A time moved by a duration such as ``30m``, or ``-5m``: a bar that is stamped with its end began before."""
    moved = round(parse_duration(by.removeprefix("-")) * 1_000_000)
    step_us = -moved if by.startswith("-") else moved
    return _Quick(lambda value: value + step_us, lambda values: [value + step_us for value in values])


@_pair
def before(moment: Value, other: Value) -> Value:
    """Whether a time is not after another: ``before(received)``, whether a bar was over when the reply came."""
    return moment <= other


@_filter
def rfc822() -> Step:
    """A time as mails and RSS write it."""
    return lambda value: micros_of(parsedate_to_datetime(text_of(value)), UTC)


def micros_of(moment: datetime, at: tzinfo) -> int:
    """UTC microseconds of a moment; ``at`` is its time zone where it has none."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=at)
    return (aware - _EPOCH) // _MICROSECOND


@_filter
def months(later: str, tz: str = SHANGHAI) -> Step:
    """The beginning of a month, so many months later; of this one with 0."""
    ahead, at = int(later), zone(tz)

    def step(value: Value) -> Value:
        now = (_EPOCH + value * _MICROSECOND).astimezone(at)
        year, month = divmod(now.year * 12 + now.month - 1 + ahead, 12)
        return micros_of(datetime(year, month + 1, 1, tzinfo=at), at)

    return step


@_filter
def date(form: str, tz: str = SHANGHAI) -> Step:
    """A time (UTC microseconds) written as local time by a form: for requests."""
    at = zone(tz)
    return lambda value: (_EPOCH + value * _MICROSECOND).astimezone(at).strftime(form)
