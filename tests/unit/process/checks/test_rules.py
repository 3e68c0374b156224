"""The table of checks, and what a configuration may change of it."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import pytest

from tidewire.errors import ConfigError
from tidewire.process.checks import RULES, read_checks
from tidewire.records.record import types


def test_each_rule_is_of_a_record_type_and_says_what_it_catches() -> None:
    for rule in RULES:
        assert rule.type in types()
        assert rule.catches
        assert rule.severity in {"reject", "flag"}
        assert rule.own or rule.severity == "flag"


def test_nothing_said_changes_nothing() -> None:
    assert list(read_checks({}).rules.values()) == list(RULES)


def test_what_is_said_changes_one_rule() -> None:
    read = read_checks(
        {"ticker.unit": {"severity": "flag", "factor": 50}, "kline.jump": "off", "ticker.vwap": "reject", "shown": 5}
    )
    assert (read.rules["ticker.unit"].severity, read.rules["ticker.unit"].numbers) == (
        "flag",
        {"factor": 50.0, "share": 0.5},
    )
    assert "kline.jump" not in read.rules
    assert read.rules["ticker.vwap"].severity == "reject"
    assert read.shown == 5
    assert len(read.rules) == len(RULES) - 1
    assert read_checks({"kline.session": {"since": "2005-01-01"}}).rules["kline.session"].since == date(2005, 1, 1)


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"ticker.units": "off"}, "checks: no check 'ticker.units'. Did you mean 'ticker.unit'?"),
        ({"ticker.unit": "of"}, "checks.ticker.unit: severity is 'of'. Did you mean 'off'? Valid: reject, flag, off."),
        ({"ticker.unit": {"faktor": 3}}, "checks.ticker.unit: no key 'faktor'. Did you mean 'factor'?"),
        ({"ticker.unit": {"factor": "much"}}, "checks.ticker.unit.factor is 'much'; valid is a number from 0 on."),
        ({"ticker.unit": {"factor": True}}, "checks.ticker.unit.factor is True"),
        ({"ticker.unit": {"factor": float("nan")}}, "checks.ticker.unit.factor is nan"),
        ({"ticker.unit": {"since": "soon"}}, "checks.ticker.unit.since is 'soon'; valid is a day such as 2020-08-24."),
        ({"ticker.unit": 3}, "checks.ticker.unit: expected reject, flag, off or a mapping, found 3."),
        ({"kline.jump": "reject"}, "checks.kline.jump: this check rests on what was seen before, so it cannot reject"),
        ({"shown": 0}, "checks.shown is 0; valid is a whole number from 1 to 10000."),
    ],
)
def test_what_is_none_is_refused(section: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        read_checks(section)
