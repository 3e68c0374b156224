"""Browsers to pass for: whole ones, kept for a while, changed after refusals."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from tidewire.collect.identity import BROWSERS, KEEP_S, WORN_MAX, Identities, own
from tidewire.records.clock import ManualClock, SeededRng


def test_every_browser_is_one_of_a_piece() -> None:
    assert len({each.name for each in BROWSERS}) == len(BROWSERS) >= 5
    for each in BROWSERS:
        headers = each.dressed(page=False)
        agent = headers["User-Agent"]
        assert headers["Accept-Language"].startswith("zh-CN")
        assert ("sec-ch-ua" in headers) == ("Chrome/" in agent), each.name
        if "sec-ch-ua" in headers:
            (version,) = re.findall(r"Chrome/(\d+)", agent)
            assert f'"Chromium";v="{version}"' in headers["sec-ch-ua"]
            assert ('"Microsoft Edge"' in headers["sec-ch-ua"]) == ("Edg/" in agent)
            assert headers["sec-ch-ua-platform"] == ('"macOS"' if "Mac OS X" in agent else '"Windows"')
        assert own([headers])[0].tls == each.tls


def test_a_page_is_asked_for_as_a_person_opens_it_and_data_as_a_page_asks_for_it() -> None:
    for each in BROWSERS:
        page, data = each.dressed(page=True), each.dressed(page=False)
        assert page["Accept"].startswith("text/html")
        assert (page["Sec-Fetch-Dest"], page["Sec-Fetch-Mode"]) == ("document", "navigate")
        assert (data["Accept"], data["Sec-Fetch-Dest"], data["Sec-Fetch-Mode"]) == ("*/*", "empty", "cors")


@given(st.integers())
def test_it_is_kept_for_a_while_and_chance_decides_which(seed: int) -> None:
    worn: list[list[str]] = []
    for _ in range(2):
        clock, rng, identities = ManualClock(), SeededRng(seed), Identities()
        first = identities.worn("a.com", "", clock, rng)
        names = [first.name if first else ""]
        assert identities.worn("a.com", "", clock, rng) is first
        clock._mono_ns += round(KEEP_S * 1e9)
        second = identities.worn("a.com", "", clock, rng)
        assert second is not None
        assert second is not first
        worn.append([*names, second.name])
    assert worn[0] == worn[1]


@given(st.integers())
def test_after_a_refusal_it_is_another_one_there_and_nowhere_else(seed: int) -> None:
    clock, rng, identities = ManualClock(), SeededRng(seed), Identities()
    here, there = identities.worn("a.com", "p1", clock, rng), identities.worn("a.com", "p2", clock, rng)
    assert identities.change("a.com", "p1", clock, rng) is not here
    assert identities.worn("a.com", "p2", clock, rng) is there


def test_who_is_given_alone_stays_and_with_nobody_nobody_is_passed_for() -> None:
    clock, rng = ManualClock(), SeededRng(1)
    mine = own([{"User-Agent": "mine"}])
    identities = Identities(mine)
    assert identities.worn("a.com", "", clock, rng) is mine[0]
    assert identities.change("a.com", "", clock, rng) is mine[0]
    assert mine[0].dressed(page=True) == {"User-Agent": "mine"}
    assert Identities(()).worn("a.com", "", clock, rng) is None


def test_what_is_remembered_is_bounded() -> None:
    clock, rng, identities = ManualClock(), SeededRng(1), Identities()
    for number in range(WORN_MAX + 10):
        identities.worn("a.com", f"p{number}", clock, rng)
    assert len(identities._worn) == WORN_MAX
