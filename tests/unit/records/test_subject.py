from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.errors import InputError
from tidewire.records.subject import check_pattern, matches

TOKENS = st.sampled_from(["data", "trade", "error", "a", "a+", "1m", "BTC-USDT", "(x", "币"])
SUBJECTS = st.lists(TOKENS, min_size=1, max_size=5)
PATTERNS = st.lists(TOKENS | st.just("*"), min_size=1, max_size=4).flatmap(
    lambda tokens: st.sampled_from([tokens, [*tokens, ">"], [">"]])
)


def naive(pattern: list[str], subject: list[str], *, first: bool = True) -> bool:
    if not pattern or not subject:
        return not pattern and not subject
    head, *rest = pattern
    if head == ">" and not rest:
        return True
    if head == "*" and first and rest:
        return any(naive(rest, subject[taken:], first=False) for taken in range(1, len(subject) + 1))
    return head in {"*", subject[0]} and naive(rest, subject[1:], first=False)


@given(PATTERNS, SUBJECTS)
@settings(deadline=None)
def test_matches_as_a_naive_matcher_does(pattern: list[str], subject: list[str]) -> None:
    assert matches(".".join(pattern), ".".join(subject)) is naive(pattern, subject)


@given(SUBJECTS)
@settings(deadline=None)
def test_a_subject_matches_itself_and_everything_matches_it(subject: list[str]) -> None:
    name = ".".join(subject)
    assert matches(name, name)
    assert matches(">", name)
    assert matches("*", name) is (len(subject) == 1)


@pytest.mark.parametrize(
    ("pattern", "covered", "not_covered"),
    [
        (
            "data.*.collected",
            ["data.trade.collected", "data.order_book.collected"],
            ["data.trade.stored", "data.collected", "data.a.b.collected", "x.data.trade.collected"],
        ),
        (
            "collector.*.error",
            ["collector.binance.error"],
            ["collector.error", "app.binance.error", "collector.binance.errors", "collector.binance.trade.error"],
        ),
        (
            "*.error",
            ["collector.binance.error", "app.error", "a.b.c.error"],
            ["error", "collector.binance.errors", "collector.error.x"],
        ),
        ("kline.1m.>", ["kline.1m.BTC-USDT.BINANCE", "kline.1m.x"], ["kline.1m", "kline.5m.x", "klinex1m.x"]),
    ],
)
def test_the_promised_patterns_mean_what_a_reader_expects(
    pattern: str, covered: list[str], not_covered: list[str]
) -> None:
    assert [name for name in covered if not matches(pattern, name)] == []
    assert [name for name in not_covered if matches(pattern, name)] == []


@pytest.mark.parametrize(
    ("pattern", "token", "place"),
    [
        ("", "''", 1),
        ("a..b", "''", 2),
        ("a.", "''", 2),
        ("a.>.b", "'>'", 2),
        ("a.b*", "'b*'", 2),
        ("a b.c", "'a b'", 1),
        (">.a", "'>'", 1),
        ("a.b.**", "'**'", 3),
    ],
)
def test_a_wrong_pattern_is_told_with_its_token(pattern: str, token: str, place: int) -> None:
    with pytest.raises(InputError) as caught:
        check_pattern(pattern)
    assert f"token {token} at place {place}" in str(caught.value)
    assert "'*' stands for one token" in str(caught.value)
    with pytest.raises(InputError):
        matches(pattern, "a.b")


def test_a_right_pattern_is_given_back() -> None:
    assert check_pattern("data.*.>") == "data.*.>"
