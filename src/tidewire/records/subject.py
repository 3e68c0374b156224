"""Subjects and the patterns that match them.

A subject is a dotted name: ``data.trade.processed``, ``collector.binance.error``, ``kline.1m.BTC-USDT.BINANCE``.
In a pattern

- ``*`` stands for exactly one token: ``data.*.collected``;
- ``>`` at the end stands for one or more tokens: ``data.>``;
- a leading ``*`` stands for one *or more* tokens, so that ``*.error`` means what a reader expects: every error.
"""

from __future__ import annotations

import re
from functools import lru_cache

from tidewire.errors import InputError

_TOKEN = re.compile(r"[^\s.*>]+")


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    tokens = pattern.split(".")
    parts: list[str] = []
    for place, token in enumerate(tokens):
        if token == "*":
            parts.append(r"[^.]+(?:\.[^.]+)*" if place == 0 and len(tokens) > 1 else r"[^.]+")
        elif token == ">" and place == len(tokens) - 1:
            parts.append(r".+")
        elif _TOKEN.fullmatch(token):
            parts.append(re.escape(token))
        else:
            raise InputError(
                f"{pattern!r} is not a pattern: token {token!r} at place {place + 1} is not usable. Tokens are "
                "separated by dots; '*' stands for one token, '>' (last only) for the rest."
            )
    return re.compile(r"\.".join(parts))


def check_pattern(pattern: str) -> str:
    """Return the pattern, or raise `InputError` saying which token is wrong."""
    _compiled(pattern)
    return pattern


def matches(pattern: str, subject: str) -> bool:
    """Whether the pattern covers the subject."""
    return _compiled(pattern).fullmatch(subject) is not None
