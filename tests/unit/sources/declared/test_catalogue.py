"""The declared sources that come with the program: each passes its own tests and leaves its site alone."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import pytest

from tidewire.collect import Cron, parse_duration
from tidewire.sources.declared import Declared, catalogue, load_declared, run_tests
from tidewire.sources.declared.grammar import Schedule
from tidewire.sources.declared.reading import per_second, share

INSTRUMENTS = 5_900
"""What is listed on the mainland, with what the sites count beside: for sources that ask for each."""
ROWS = {"eastmoney.a_share_quotes": INSTRUMENTS}
"""Rows of a list, where it is known; of others every page that the file allows counts."""

MONDAY_NS = 1_767_571_200_000_000_000
WEEK_NS = 7 * 86_400 * 1_000_000_000

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


def period_s(declared: Declared) -> float:
    """Seconds between two rounds; of a cron line the fewest there are in a week."""
    schedule = declared.schedule
    if not schedule.cron:
        return parse_duration(schedule.every or "1m")
    cron = Cron(schedule.cron, schedule.tz)
    due = [MONDAY_NS]
    while due[-1] < MONDAY_NS + WEEK_NS:
        due.append(cron.next_after(due[-1]))
    return min(after - before for before, after in itertools.pairwise(due[1:])) / 1e9


def requests_a_round(declared: Declared) -> int:
    """Pages of every combination: as many as its rows fill, or else as many as the file allows."""
    combinations = math.prod(
        len(said) if isinstance(said, Sequence) else math.ceil(INSTRUMENTS / (said.chunk or 1))
        for said in declared.for_each.values()
    )
    paginate = declared.paginate
    if paginate is None:
        return combinations
    size = next(iter(paginate.size.values()), 0)
    rows = ROWS.get(declared.source)
    return combinations * (math.ceil(rows / size) if rows and size else paginate.max)


def pace(declared: Declared) -> float:
    """Requests per second while it asks, with the mean of its jitter."""
    return per_second(declared.limits.rate, declared.source) / (1 + share(declared.limits.jitter) / 2)


def over(files: Iterable[Declared]) -> dict[str, float]:
    """The families that are asked more than they bear, and how much, in requests per second."""
    asked: dict[str, float] = defaultdict(float)
    for declared in files:
        asked[declared.limits.share] += requests_a_round(declared) / period_s(declared)
    return {family: rate for family, rate in asked.items() if rate > LIMITS_PER_S[family]}


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_file_keeps_to_its_site(path: Path) -> None:
    declared = load_declared(path).declared
    assert per_second(declared.limits.rate, path.stem) <= LIMITS_PER_S[declared.limits.share]
    assert requests_a_round(declared) / pace(declared) <= period_s(declared), "a round takes longer than its period"


def test_no_family_is_asked_more_than_it_bears() -> None:
    assert over(load_declared(path).declared for path in FILES) == {}


def test_too_much_would_be_seen() -> None:
    (declared,) = (load_declared(path).declared for path in FILES if path.stem == "eastmoney.a_share_quotes")
    assert requests_a_round(declared) == 59
    often = msgspec.structs.replace(declared, schedule=Schedule(every="20s"))
    both = msgspec.structs.replace(declared, for_each={"board": ["a", "b"], "kind": ["x", "y"]})
    longer = msgspec.structs.replace(declared, source="a.other", schedule=Schedule(cron="*/2 * * * *"))
    assert over([often]) == {"eastmoney.com": 59 / 20}
    assert requests_a_round(both) == 4 * 59
    assert (requests_a_round(longer), period_s(longer)) == (declared.paginate.max if declared.paginate else 0, 120.0)
    assert over([declared, declared, declared]) == {"eastmoney.com": pytest.approx(3 * 59 / 60)}
    assert over([declared, longer]) == {}
