"""What a filter is: a pure function from a column of values to a column of values, and the list of all of them.

A value is what a site wrote: text, a whole number, true, false, or nothing (null). Numbers with a point stay text until
they become exact decimals. Every filter leaves null as it is, and raises `ValueError` for a value it cannot read: that
row is quarantined, the others go on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from inspect import Parameter, signature
from typing import Any

from tidewire.errors import ConfigError, InputError, nearest

Value = Any
"""Text, int, bool or None; lists and mappings on their way to a filter that takes them apart."""

Step = Callable[[Value], Value]

REMEMBERED = 50_000
"""Texts a step remembers: a year of minutes, or the symbols and the prices of a market."""

FILTERS: dict[str, Callable[..., Step]] = {}
"""Name → what makes the step from the arguments in the file."""

PAIRS: dict[str, Callable[[Value, Value], Value]] = {}
"""Filters that look at a second value beside the first: another path of the row, or a name."""


def listed(make: Callable[..., Step]) -> Callable[..., Step]:
    """Put a filter into the list, under its name."""
    FILTERS[make.__name__.strip("_")] = make
    return make


def pair(of_both: Callable[[Value, Value], Value]) -> Callable[[Value, Value], Value]:
    """The same for one that looks at two values."""
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
class Quick:
    """A step with a quicker way for whole columns: a call for each value is most of what a step costs.

    ``many`` gets a column without nulls and gives what ``one`` gives of each value; null: it cannot say, ask ``one``.
    """

    one: Step
    many: Callable[[Sequence[Value]], list[Value] | None]

    def __call__(self, value: Value) -> Value:
        return self.one(value)


def remembered(step: Step) -> Quick:
    """A step that reads each text once, as long as there are not too many: columns say the same again and again."""
    known: dict[Value, Value] = {}

    def many(values: Sequence[Value]) -> list[Value] | None:
        if set(map(type, values)) != {str}:  # to a dict, 1 and true are the same
            return None
        new = set(values).difference(known)
        if len(known) + len(new) > REMEMBERED:
            known.clear()
            new = set(values)
        known.update([(value, step(value)) for value in new])
        return [known[value] for value in values]

    return Quick(step, many)


def applied(step: Step, values: Sequence[Value]) -> list[Value]:
    """A column after a step; nulls stay."""
    if isinstance(step, Quick):
        if None not in values:
            made = step.many(values)
            if made is not None:
                return made
        elif (made := step.many([value for value in values if value is not None])) is not None:
            there = iter(made)
            return [None if value is None else next(there) for value in values]
    return [None if value is None else step(value) for value in values]


def text_of(value: Value) -> str:
    """A value as a site writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


def exact(text: str) -> Decimal:
    """A number; `ValueError` for what is none."""
    try:
        found = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text[:40]!r} is not a number") from None
    if not found.is_finite():
        raise ValueError(f"{text[:40]!r} is not a number")
    return found
