"""The checks beside the rules of the record types: what each is called, how severe it is, what its numbers are.

A rule of a record type says what a row must be anywhere; a check says what it must be on a market whose rules are
known, beside its neighbours, or beside what another source says. The table is what a configuration may change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, cast

from tidewire.errors import ConfigError, nearest

SEVERITIES = ("reject", "flag", "off")
SHOWN = 20
"""Findings of one rule, source and minute that are shown one by one; the rest is counted."""


@dataclass(frozen=True)
class Rule:
    """One check of one record type.

    ``severity``: ``reject`` puts the row into quarantine, ``flag`` stores it and records a finding. Only rules that
    look at the row and its frame alone (``own``) may reject: what is stored must not depend on what is remembered.
    ``numbers`` are thresholds by name; ``since`` is the first local day the rule is applied to.
    """

    name: str
    severity: str
    catches: str
    own: bool = True
    numbers: Mapping[str, float] = field(default_factory=dict[str, float])
    since: date | None = None

    @property
    def type(self) -> str:
        """The record type it is of."""
        return self.name.partition(".")[0]

    @property
    def short(self) -> str:
        """Its name without the type."""
        return self.name.partition(".")[2]


RULES: tuple[Rule, ...] = (
    Rule("ticker.range", "reject", "last or open outside the day's low and high: shifted or swapped columns"),
    Rule(
        "ticker.scale",
        "reject",
        "prices so many times the close before, or less than its part: scaled integers read as they are",
        numbers={"factor": 50.0},
    ),
    Rule(
        "ticker.unit",
        "reject",
        "amount / volume so many times off the prices in at least this share of a frame's rows of one board: lots "
        "for shares, or amounts in another unit",
        numbers={"factor": 30.0, "share": 0.5},
    ),
    Rule("kline.unit", "reject", "the same in bars", numbers={"factor": 30.0, "share": 0.5}),
    Rule(
        "ticker.vwap",
        "flag",
        "amount / volume outside low and high by more than the tolerance, from an amount on in yuan",
        numbers={"tolerance": 0.01, "least": 100_000.0},
    ),
    Rule(
        "kline.vwap",
        "flag",
        "the same in bars: adjusted prices beside raw volumes",
        numbers={"tolerance": 0.01, "least": 100_000.0},
    ),
    Rule("ticker.zero_volume", "flag", "a price that moved, or turnover, without volume"),
    Rule("kline.zero_volume", "flag", "the same in bars"),
    Rule("ticker.tick", "flag", "a price between two ticks: adjusted or averaged prices"),
    Rule("kline.tick", "flag", "the same in bars"),
    Rule("ticker.crossed", "flag", "best bid not below best ask in continuous trading"),
    Rule("ticker.limit", "flag", "a price beyond the day's limits", own=False, numbers={"ticks": 1.0}),
    Rule("ticker.listing", "flag", "a day before the listing", own=False),
    Rule(
        "ticker.pre_close",
        "flag",
        "the close before is not what the session before ended with, or changes during a session; on an ex-date it is",
        own=False,
    ),
    Rule(
        "ticker.spike",
        "flag",
        "a price that jumps and comes back with the next row, inside so many seconds",
        own=False,
        numbers={"jump": 0.03, "back": 0.005, "seconds": 600.0},
    ),
    Rule(
        "ticker.frozen",
        "flag",
        "of a frame with at least so many rows, this share did not move though its time did",
        own=False,
        numbers={"share": 0.98, "least": 50.0, "seconds": 3.0},
    ),
    Rule(
        "ticker.rows",
        "flag",
        "fewer instruments in a stretch of the session than this share of the one before",
        own=False,
        numbers={"share": 0.9, "least": 100.0, "seconds": 600.0},
    ),
    Rule(
        "ticker.sources",
        "flag",
        "two sources differ: close before by more than a tick, price by more than `price` in rows at most so many "
        "seconds apart; after the close price, volume or amount by more than `closed`; volume ever by the factor",
        own=False,
        numbers={"price": 0.01, "closed": 0.001, "seconds": 3.0, "factor": 10.0},
    ),
    Rule(
        "kline.session", "flag", "a bar outside the session, in the lunch break or off the grid", since=date(2000, 1, 1)
    ),
    Rule(
        "kline.jump",
        "flag",
        "a daily close beyond the limit from the close before: a corporate action, or a missing or adjusted bar",
        own=False,
        numbers={"ticks": 1.0},
    ),
    Rule("kline.listing", "flag", "a day before the listing", own=False),
    Rule(
        "kline.spike",
        "flag",
        "a close that jumps and comes back with the next bar; bars shorter than a day",
        own=False,
        numbers={"jump": 0.05, "back": 0.005},
    ),
    Rule(
        "kline.frozen",
        "flag",
        "so many bars in a row with the same prices and volume",
        own=False,
        numbers={"bars": 5.0},
    ),
    Rule(
        "kline.sources",
        "flag",
        "two sources differ about one bar: prices by more than `price`, volume or amount by more than `volume`",
        own=False,
        numbers={"price": 0.0002, "volume": 0.001},
    ),
)
"""Every check, in the order of docs/data-model.md."""

_BY_NAME = {rule.name: rule for rule in RULES}


@dataclass(frozen=True)
class CheckConfig:
    """The rules that run, with their numbers, and how many findings of one rule, source and minute are shown."""

    rules: Mapping[str, Rule] = field(default_factory=lambda: dict(_BY_NAME))
    shown: int = SHOWN

    def of(self, kind: str, *, own: bool) -> Iterator[Rule]:
        """The rules of a record type that look at rows alone, or those that remember."""
        return (rule for rule in self.rules.values() if rule.type == kind and rule.own == own)


def read_checks(section: Mapping[str, Any], where: str = "checks") -> CheckConfig:
    """The table with what a configuration changes: by rule, ``off``, or ``severity``, ``since`` and its numbers.

    Raises:
        ConfigError: for names and values that are none, with the nearest that is.
    """
    rules = dict(_BY_NAME)
    shown = SHOWN
    for name, said in section.items():
        at = f"{where}.{name}"
        if name == "shown":
            shown = _whole(said, at)
            continue
        rule = rules.get(name)
        if rule is None:
            raise ConfigError(
                f"{where}: no check {name!r}.{nearest(name, _BY_NAME)} Valid: shown, {', '.join(_BY_NAME)}."
            )
        changed = _changed(rule, said, at)
        if changed is None:
            del rules[name]
        else:
            rules[name] = changed
    return CheckConfig(rules, shown)


def _changed(rule: Rule, said: Any, at: str) -> Rule | None:
    if isinstance(said, str):
        said = {"severity": said}
    if not isinstance(said, Mapping):
        raise ConfigError(f"{at}: expected {', '.join(SEVERITIES)} or a mapping, found {said!r}.")
    options = dict(cast("Mapping[str, Any]", said))
    severity = options.pop("severity", rule.severity)
    if severity not in SEVERITIES:
        raise ConfigError(
            f"{at}: severity is {severity!r}.{nearest(str(severity), SEVERITIES)} Valid: {', '.join(SEVERITIES)}."
        )
    if severity == "reject" and not rule.own:
        raise ConfigError(
            f"{at}: this check rests on what was seen before, so it cannot reject: what is stored must not depend on "
            "what is remembered. Valid: flag, off."
        )
    since = _day(options.pop("since"), f"{at}.since") if "since" in options else rule.since
    for key, value in options.items():
        if key not in rule.numbers:
            valid = ("severity", "since", *rule.numbers)
            raise ConfigError(f"{at}: no key {key!r}.{nearest(key, valid)} Valid: {', '.join(valid)}.")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
            raise ConfigError(f"{at}.{key} is {value!r}; valid is a number from 0 on.")
    if severity == "off":
        return None
    # Thresholds: what is compared with them is stored exactly, whatever they are.
    numbers = {**rule.numbers, **{key: float(value) for key, value in options.items()}}
    return Rule(rule.name, severity, rule.catches, rule.own, numbers, since)


def _day(said: Any, at: str) -> date:
    try:
        return date.fromisoformat(str(said))
    except ValueError:
        raise ConfigError(f"{at} is {said!r}; valid is a day such as 2020-08-24.") from None


def _whole(said: Any, at: str) -> int:
    if isinstance(said, bool) or not isinstance(said, int) or not 1 <= said <= 10_000:
        raise ConfigError(f"{at} is {said!r}; valid is a whole number from 1 to 10000.")
    return said
