"""Channels: what a row is streamed under, and the patterns a client may ask for.

A row's channel is ``<type>[.<interval>].<SYMBOL>.<VENUE>``: ``trade.BTC-USDT.BINANCE``,
``kline.1m.BTC-USDT.BINANCE``. Types that are not about an instrument have ``<type>.<source>``.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from tidewire.errors import QueryError, nearest
from tidewire.records.record import RecordType
from tidewire.records.subject import check_pattern
from tidewire.serve.params import type_named

STATE = frozenset({"quote", "ticker", "order_book"})
"""Types of which a slow reader wants the latest row, not every row. Forming bars are of this kind too."""

_WILD = ("*", ">")


def channels_of(kind: RecordType, rows: pl.DataFrame) -> list[str]:
    """The channel of each row."""
    ends = rows[_end(kind)].to_list()
    if _has_interval(kind):
        return [f"{kind.name}.{span}.{end}" for span, end in zip(rows["interval"].to_list(), ends, strict=True)]
    return [f"{kind.name}.{end}" for end in ends]


def _end(kind: RecordType) -> str:
    return "instrument" if _is_market(kind) else "source"


def _is_market(kind: RecordType) -> bool:
    field = kind.fields.get("instrument")
    return field is not None and field.role == "symbol" and not field.nullable


def _has_interval(kind: RecordType) -> bool:
    return "interval" in kind.key


def pattern_of(text: str, resolve: Callable[[str], str]) -> str:
    """The pattern a client means: plurals of types and any spelling of a symbol are accepted.

    Raises `InputError` or `NotFound` where nothing could ever match, saying what is valid.
    """
    first, _, rest = check_pattern(text).partition(".")
    if first in _WILD:
        return text
    kind = type_named(first)
    tokens = rest.split(".") if rest else []
    form = _form(kind)
    head = [kind.name]
    if not tokens:
        raise QueryError(f"{text!r} is not a channel: write {form}, or {kind.name}.> for all.")
    if _has_interval(kind) and tokens[0] != ">":
        head.append(_interval(kind, tokens.pop(0), form))
    if tokens and all(token not in _WILD for token in tokens):
        return ".".join([*head, resolve(".".join(tokens)) if _is_market(kind) else ".".join(tokens)])
    wanted = 2 if _is_market(kind) else 1
    if not tokens or (tokens[-1] != ">" and len(tokens) != wanted):
        raise QueryError(f"{text!r} would match nothing: write {form}; '*' stands for one part, '>' for the rest.")
    return ".".join([*head, *tokens])


def _form(kind: RecordType) -> str:
    end = "<SYMBOL>.<VENUE>" if _is_market(kind) else "<source>"
    return f"{kind.name}.<interval>.{end}" if _has_interval(kind) else f"{kind.name}.{end}"


def _interval(kind: RecordType, span: str, form: str) -> str:
    choices = kind.fields["interval"].choices
    if span == "*" or span in choices or not choices:
        return span
    raise QueryError(
        f"{span!r} is not an interval of {kind.name}.{nearest(span, choices)} Write {form}; "
        f"valid intervals: {', '.join(choices)}."
    )


def concerns(pattern: str, kind: RecordType) -> bool:
    """Whether the pattern could match a channel of the type."""
    return pattern.partition(".")[0] in {kind.name, *_WILD}
