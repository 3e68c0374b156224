"""What a file asks for, one after the other: combinations of the values of ``for_each``, written down or stored."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import xxhash

from tidewire.collect import Known
from tidewire.errors import ConfigError, NotFound, TransientError, nearest
from tidewire.records.record import record_type
from tidewire.sources.declared.grammar import Declared, Ref
from tidewire.sources.declared.steps import text_of

NAME_MAX = 64
"""Longer names of combinations become a hash: a cursor stays small."""


def combinations(declared: Declared, instead: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of the values of ``for_each``; ``instead`` has other values, of stored ones all."""
    values: dict[str, Sequence[Any]] = {}
    for name, said in declared.for_each.items():
        found = instead.get(name)
        if not isinstance(said, Ref):
            values[name] = said if found is None else found
            continue
        stored = said.default if found is None else found
        chunk = said.chunk
        values[name] = [stored[at : at + chunk] for at in range(0, len(stored), chunk)] if chunk else stored
    for chosen in itertools.product(*values.values()):
        yield dict(zip(values, chosen, strict=True))


async def stored_values(
    declared: Declared, instead: Mapping[str, Sequence[Any]], known: Known
) -> dict[str, Sequence[Any]]:
    """``instead``, and what is stored for every other `Ref`; `TransientError` while that is nothing."""
    values = dict(instead)
    for name, said in declared.for_each.items():
        if not isinstance(said, Ref) or name in values:
            continue
        kind, _, column = said.ref.partition(".")
        found = await known(kind, column, wanted(said))
        if not found and not said.default:
            raise TransientError(_nothing(said, kind))
        values[name] = found or said.default
    return values


def wanted(said: Ref) -> dict[str, Sequence[str]]:
    """Its ``where``, a list for each column."""
    return {name: [value] if isinstance(value, str) else list(value) for name, value in said.where.items()}


def _nothing(said: Ref, kind: str) -> str:
    where = wanted(said)
    by = f"; is {' or '.join(where['source'])} running?" if "source" in where else "; is their source running?"
    rest = ", ".join(f"{name} {' or '.join(values)}" for name, values in where.items() if name != "source")
    return f"no {kind} rows{f' with {rest}' if rest else ''} are stored yet{by} Asked again at the next schedule."


def check_values(declared: Declared, where: str) -> None:
    """`ConfigError` for a reference to nothing, and for what cannot be resumed."""
    for name, said in declared.for_each.items():
        if not isinstance(said, Ref):
            continue
        at = f"{where}: for_each.{name}"
        kind_name, dot, column = said.ref.partition(".")
        try:
            kind = record_type(kind_name)
        except NotFound as error:
            raise ConfigError(f"{at}.ref: {error} Write type.column, such as instrument.instrument.") from None
        for key, each in (("ref", column), *(("where", each) for each in said.where)):
            if not dot or each not in kind.fields:
                valid = ", ".join(kind.fields)
                hint = nearest(each, kind.fields)
                raise ConfigError(f"{at}.{key}: {kind_name} has no column {each!r}.{hint} Valid: {valid}.")
        if said.chunk and declared.since is not None:
            raise ConfigError(
                f"{at}.chunk: with `since` each value has its own window of time, and lists change when a value comes: "
                "leave chunk out."
            )


def name_of(names: Mapping[str, Any], place: int) -> str:
    """What a combination is known by, the same in every run; ``place``: its number, where it holds lists."""
    if not names:
        return ""
    if any(isinstance(value, list) for value in names.values()):
        return f"#{place}"
    text = ",".join(text_of(value) for value in names.values())
    return text if len(text) <= NAME_MAX else xxhash.xxh3_64_hexdigest(text.encode())


def said_of(names: Mapping[str, Any]) -> str:
    """A combination for people."""
    return ", ".join(f"{name} {_short(value)}" for name, value in names.items())


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"{value[0]} to {value[-1]} ({len(value)})" if value else "none"
    return text_of(value)
