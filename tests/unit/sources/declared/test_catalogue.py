"""The declared sources that come with the program: each passes its own tests and leaves its site alone."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

import pytest

from tidewire.collect import parse_duration
from tidewire.sources.declared import Declared, catalogue, load_declared, run_tests
from tidewire.sources.declared.grammar import Ref
from tidewire.sources.declared.reading import per_second

LIMITS_PER_S = {
    "bse.cn": 1.0,
    "eastmoney.com": 2.0,
    "gtimg.cn": 5.0,
    "sina.com.cn": 5.0,
    "sse.com.cn": 1.0,
    "szse.cn": 1.0,
}
"""What a family of sites may be asked, by what people who were blocked have measured."""

SHARES = 5_600
"""A-shares and indices there are, about."""
DAY_S = 86_400.0

FILES = catalogue()


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_file_passes_its_own_tests(path: Path) -> None:
    source = load_declared(path)
    verdicts = list(run_tests(source))
    assert verdicts
    assert [(each.name, each.problems) for each in verdicts if each.problems] == []
    assert source.declared.about
    assert source.declared.limits.share in LIMITS_PER_S


def combinations(declared: Declared) -> int:
    """How many there are in a round."""
    counts = [
        math.ceil(SHARES / (said.chunk or 1)) if isinstance(said, Ref) else len(said)
        for said in declared.for_each.values()
    ]
    return math.prod(counts)


def test_no_family_is_asked_more_than_it_bears() -> None:
    asked: dict[str, float] = defaultdict(float)
    for path in FILES:
        declared = load_declared(path).declared
        pages = 1 if declared.paginate is None else declared.paginate.max
        period_s = parse_duration(declared.schedule.every) if declared.schedule.every else DAY_S
        # At most its own limit while it asks, and on average no more than its pages in its period.
        rate = per_second(declared.limits.rate, path.stem)
        assert rate <= LIMITS_PER_S[declared.limits.share], path
        asked[declared.limits.share] += min(rate, pages * combinations(declared) / period_s)
    assert {family: rate for family, rate in asked.items() if rate > LIMITS_PER_S[family]} == {}
