from __future__ import annotations

import re

import pytest

from tidewire import errors
from tidewire.errors import (
    AmbiguousInstrument,
    InputError,
    InstrumentError,
    PositionMismatch,
    RateLimited,
    SourceError,
    TidewireError,
    TransientError,
    nearest,
)

ALL = [
    found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, TidewireError)
]  # fmt: skip


def drawn() -> dict[str, str]:
    """Error → parent, as the tree at the top of the module shows it."""
    parents: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([\s│├└─]*)([A-Z]\w+)(\s{2,}|$)", line)
        if not match:
            continue
        depth = len(match[1])
        while path and path[-1][0] >= depth:
            path.pop()
        if path:
            parents[match[2]] = path[-1][1]
        path.append((depth, match[2]))
    return parents


def test_the_tree_at_the_top_is_the_tree() -> None:
    actual = {found.__name__: found.__mro__[1].__name__ for found in ALL if found is not TidewireError}
    assert drawn() == actual


def test_every_error_has_its_own_code() -> None:
    codes = [found.code for found in ALL]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z_]+", code) for code in codes)


def test_the_codes_clients_switch_on_do_not_change() -> None:
    assert {found.__name__: found.code for found in ALL}.items() >= {
        "InputError": "invalid_input",
        "ConfigError": "invalid_config",
        "InstrumentError": "unknown_instrument",
        "AmbiguousInstrument": "ambiguous_instrument",
        "QueryError": "invalid_query",
        "NotFound": "not_found",
        "StoreBusy": "store_busy",
        "StatementTimeout": "statement_timeout",
    }.items()


def test_every_error_is_documented() -> None:
    assert [found.__name__ for found in ALL if not found.__doc__] == []


def test_an_ambiguous_symbol_names_its_candidates_in_order() -> None:
    error = AmbiguousInstrument("ethusdt", {"ETH-USDT.OKX", "ETH-USDT.BINANCE"})
    assert error.candidates == ("ETH-USDT.BINANCE", "ETH-USDT.OKX")
    assert str(error) == "'ethusdt' could mean any of ETH-USDT.BINANCE, ETH-USDT.OKX; write one of these."
    assert isinstance(error, InstrumentError)
    assert isinstance(error, InputError)


def test_a_rate_limit_says_how_long_to_wait() -> None:
    error = RateLimited("slow down", 2.5)
    assert (str(error), error.retry_after) == ("slow down", 2.5)
    assert isinstance(error, TransientError)
    assert isinstance(error, SourceError)


def test_a_mismatch_says_where_to_read_on() -> None:
    error = PositionMismatch("j/trade/0", 7, 9)
    assert (error.stream, error.position, error.prev) == ("j/trade/0", 7, 9)
    assert "the sink is at 7, the batch continues 9" in str(error)


@pytest.mark.parametrize(
    ("found", "answer"),
    [("trades", " Did you mean 'trade'?"), ("klin", " Did you mean 'kline'?"), ("xyzzy", ""), ("", "")],
)
def test_the_nearest_valid_name(found: str, answer: str) -> None:
    assert nearest(found, ["quote", "trade", "kline"]) == answer


def test_nothing_is_near_nothing() -> None:
    assert nearest("trade", []) == ""
    assert nearest("trade", (name for name in ["trade"])) == " Did you mean 'trade'?"
