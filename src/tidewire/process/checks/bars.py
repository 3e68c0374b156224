"""Checks of bars that remember: the bars before of each series, and what other sources said of the same bar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

from tidewire.process.checks.alone import FOUND, PLACE, Found, told
from tidewire.process.checks.known import Known, early, settled
from tidewire.process.checks.past import MAX_ROWS, Chains
from tidewire.process.checks.rules import Rule
from tidewire.process.checks.tickers import differing, listing, spiked, spikes, with_limits
from tidewire.records.market import INTERVALS

RING = 20_000
"""Bars of all sources that are kept to compare another source's with."""
NEAR_DAYS = 15
"""Bars further apart, in weekdays, are no neighbours: a suspension, or history that is loaded from its end."""

_SERIES = ("source", "instrument", "interval")
_PRICES = ("open", "high", "low", "close")
_BEFORE = ("close", "event_time", "open_time", "day")
_KEY = ("instrument", "interval", "open_time")
_SHORT = [name for name, seconds in INTERVALS.items() if 0 < seconds < 86_400]


class Bars:
    """Remembers the last two bars of each series, and the bars that came last."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = rules
        self._last: pl.DataFrame | None = None
        self._ring: pl.DataFrame | None = None

    def look(self, rows: pl.DataFrame, known: Known) -> Iterator[Found]:
        """What these prepared rows, in the order of their frames, show; ``known`` is what instruments say."""
        if not self._rules or rows.is_empty():
            return
        whole = known.beside(self._with_past(rows))
        made = {
            "jump": lambda rule: _jump(rule, whole, known),
            "listing": lambda rule: listing(rule, whole.filter(early())),
            "spike": lambda rule: _spike(rule, whole),
            "frozen": lambda rule: _frozen(rule, whole),
            "sources": lambda rule: self._sources(rule, rows),
        }
        for short, rule in self._rules.items():
            found = made[short](rule)
            if found.height:
                yield found

    def _with_past(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Each bar with the two before it in its series (``_1``, ``_2``).

        ``seen``: how many bars of the series came before; ``run``: how many in a row, with this one, are the same.
        """
        past = 0 if self._last is None else self._last.height
        new = rows.with_columns(seen=pl.lit(0, pl.Int64), run=pl.lit(1, pl.Int64))
        every = new if self._last is None else pl.concat([self._last, new], rechunk=True)
        chains = Chains.of(every, _SERIES)
        bar = [*_PRICES, "volume"]
        before = chains.beside(every, bar)
        same = pl.concat([every.select(bar), before], how="horizontal").select(
            pl.all_horizontal((pl.col(name) == pl.col(f"{name}_1")).fill_null(value=False) for name in bar)
        )
        breaks = ~same.to_series().to_numpy()
        every = every.with_columns(
            seen=pl.Series(chains.running(every["seen"].to_numpy(), chains.before >= 0)),
            run=pl.Series(chains.since_break(every["run"].to_numpy(), breaks)),
        )
        self._last = every.filter(pl.Series(chains.ends(2))).tail(MAX_ROWS)
        parts = [every, chains.beside(every, _BEFORE), chains.beside(every, _BEFORE, 2)]
        return pl.concat(parts, how="horizontal").slice(past)

    def _sources(self, rule: Rule, rows: pl.DataFrame) -> Found:
        """Bars that differ from what another source said of them."""
        mine = rows.select(*PLACE, "interval", "open_time", "tick", *_PRICES, "volume", "amount")
        past = 0 if self._ring is None else self._ring.height
        every = mine if self._ring is None else pl.concat([self._ring, mine], rechunk=True)
        self._ring = every.tail(RING)
        if every["source"].min() == every["source"].max():
            return pl.DataFrame(schema=FOUND)
        amounts = ("volume", "amount")
        beside = Chains.of(every, _KEY).beside(every, ["source", *_PRICES, *amounts])
        both = pl.concat([every, beside], how="horizontal").slice(past)
        both = both.filter(pl.col("source") != pl.col("source_1"))
        differ = {
            name: _differs(name, rule.numbers["price"], pl.col("tick").fill_null(0.01) * 0.501) for name in _PRICES
        }
        differ |= {name: _differs(name, rule.numbers["volume"], pl.lit(0.0)) for name in amounts}
        return differing(rule, both, differ, pl.format("{} said so", "source_1"))


def _differs(name: str, ratio: float, least: pl.Expr) -> pl.Expr:
    mine, theirs = pl.col(name), pl.col(f"{name}_1")
    return (mine - theirs).abs() > pl.max_horizontal(theirs * ratio, least)


def _jump(rule: Rule, rows: pl.DataFrame, known: Known) -> Found:
    """Daily closes beyond the limits that follow from the close before."""
    near = (pl.col("open_time") > pl.col("open_time_1")) & (pl.business_day_count("day_1", "day") <= NEAR_DAYS)
    rows = rows.filter((pl.col("interval") == "1d") & settled() & near)
    if rows.is_empty():
        return pl.DataFrame(schema=FOUND)
    rows = with_limits(rows, known, "close_1")
    slack = rule.numbers["ticks"] * pl.col("tick") + 1e-9
    close = pl.col("close")
    bad = rows.filter((close > pl.col("upper") + slack) | (close < pl.col("lower") - slack))
    why = pl.format("{} after a close of {}", (close / pl.col("close_1") - 1).round(4), "close_1")
    return told(bad, rule, pl.format("close {}", close), pl.format("{} to {}", "lower", "upper"), why)


def _spike(rule: Rule, rows: pl.DataFrame) -> Found:
    """A close that stands out from its neighbours; shown by the bar that came back."""
    rising = (pl.col("open_time") > pl.col("open_time_1")) & (pl.col("open_time_1") > pl.col("open_time_2"))
    return spikes(rule, rows.filter(rising & pl.col("interval").is_in(_SHORT) & spiked(rule, "close")), "close")


def _frozen(rule: Rule, rows: pl.DataFrame) -> Found:
    """The bar that makes so many the same; told once for a run."""
    bad = rows.filter((pl.col("run") == round(rule.numbers["bars"])) & (pl.col("volume") > 0))
    said = pl.format("{} bars with close {} and volume {}", "run", "close", "volume")
    return told(bad, rule, said, pl.lit("bars that differ"))
