"""Checks of bars that remember: the bars before of each series, and what other sources said of the same bar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

from tidewire.process.checks.alone import FOUND, Found, told
from tidewire.process.checks.rules import Rule
from tidewire.process.checks.tickers import SETTLED, _bounded, _split, spikes, with_limits
from tidewire.records.market import INTERVALS

RING = 20_000
"""Bars of all sources that are kept to compare another source's with."""
NEAR_DAYS = 15
"""Bars further apart, in weekdays, are no neighbours: a suspension, or history that is loaded from its end."""

_SERIES = ["source", "instrument", "interval"]
_BAR = ("open", "high", "low", "close", "volume")
_SHORT = [name for name, seconds in INTERVALS.items() if 0 < seconds < 86_400]


class Bars:
    """Remembers the last two bars of each series, and the bars that came last."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = {rule.short: rule for rule in rules.values()}
        self._last: pl.DataFrame | None = None
        self._ring: pl.DataFrame | None = None

    def look(self, rows: pl.DataFrame, names: Mapping[str, str]) -> Iterator[Found]:
        """What these prepared rows, in the order of their frames, show; ``names`` by instrument as far as known."""
        whole = self._with_past(rows)
        made = {
            "jump": lambda rule: _jump(rule, whole, names),
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
        new = rows.with_columns(seen=pl.lit(0, pl.Int32), run=pl.lit(1, pl.Int32), new=pl.lit(value=True))
        past, rest = _split(self._last, rows, _SERIES)
        every = new if past is None else pl.concat([past, new])
        same = pl.all_horizontal(
            (pl.col(name) == pl.col(name).shift(1).over(_SERIES)).fill_null(value=False) for name in _BAR
        )
        first = pl.int_range(pl.len()).over(_SERIES) == 0
        every = every.with_columns(
            *(
                pl.col(name).shift(back).over(_SERIES).alias(f"{name}_{back}")
                for back in (1, 2)
                for name in ("close", "event_time", "open_time", "day")
            ),
            seen=pl.col("seen").first().over(_SERIES) + pl.int_range(pl.len(), dtype=pl.Int32).over(_SERIES),
            stretch=(~same & ~first).cast(pl.Int32).cum_sum().over(_SERIES),
        )
        place = pl.int_range(pl.len(), dtype=pl.Int32).over([*_SERIES, "stretch"])
        begun = pl.when(pl.col("stretch") == 0).then(pl.col("run").first().over(_SERIES)).otherwise(pl.lit(1, pl.Int32))
        every = every.with_columns(run=(place + begun).cast(pl.Int32))
        last = every.select(new.columns).group_by(_SERIES, maintain_order=True).tail(2).select(new.columns)
        last = last.with_columns(new=pl.lit(value=False))
        self._last = _bounded(last if rest is None else pl.concat([rest, last]))
        return every.filter("new")

    def _sources(self, rule: Rule, rows: pl.DataFrame) -> Found:
        """Bars that differ from what another source said of them."""
        key = ["instrument", "interval", "open_time"]
        columns = [*_SERIES, "open_time", "event_time", "ingested_at", "frame", "ordinal", "tick", *_BAR, "amount"]
        mine = rows.select(columns).with_columns(new=pl.lit(value=True))
        past, _ = _split(self._ring, rows, key)
        kept = mine.with_columns(new=pl.lit(value=False))
        self._ring = (kept if self._ring is None else pl.concat([self._ring, kept])).tail(RING)
        every = mine if past is None else pl.concat([past, mine])
        if every["source"].n_unique() < 2:
            return pl.DataFrame(schema=FOUND)
        prices, amounts = _BAR[:4], ("volume", "amount")
        both = every.with_columns(pl.col("source", *_BAR, "amount").shift(1).over(key).name.suffix("_1"))
        both = both.filter(pl.col("new") & (pl.col("source") != pl.col("source_1")))
        differ = {
            name: (pl.col(name) - pl.col(f"{name}_1")).abs()
            > pl.max_horizontal(
                pl.col(f"{name}_1") * rule.numbers["price" if name in prices else "volume"],
                pl.col("tick").fill_null(0.01) * 0.501 if name in prices else pl.lit(0.0),
            )
            for name in (*prices, *amounts)
        }
        wrong = both.filter(pl.any_horizontal(fails.fill_null(value=False) for fails in differ.values()))

        def said(suffix: str) -> pl.Expr:
            parts = [pl.when(fails).then(pl.format(f"{name} {{}}", name + suffix)) for name, fails in differ.items()]
            return pl.concat_str(parts, separator=", ", ignore_nulls=True)

        return told(wrong, rule, said(""), said("_1"), pl.format("{} said so", "source_1"))


def _jump(rule: Rule, rows: pl.DataFrame, names: Mapping[str, str]) -> Found:
    """Daily closes beyond the limits that follow from the close before."""
    near = (pl.col("open_time") > pl.col("open_time_1")) & (pl.business_day_count("day_1", "day") <= NEAR_DAYS)
    rows = rows.filter((pl.col("interval") == "1d") & (pl.col("seen") >= SETTLED) & near)
    if rows.is_empty():
        return pl.DataFrame(schema=FOUND)
    rows = with_limits(rows, names, "close_1")
    slack = rule.numbers["ticks"] * pl.col("tick") + 1e-9
    close = pl.col("close")
    bad = rows.filter((close > pl.col("upper") + slack) | (close < pl.col("lower") - slack))
    why = pl.format("{} after a close of {}", (close / pl.col("close_1") - 1).round(4), "close_1")
    return told(bad, rule, pl.format("close {}", close), pl.format("{} to {}", "lower", "upper"), why)


def _spike(rule: Rule, rows: pl.DataFrame) -> Found:
    """A close that stands out from its neighbours; shown by the bar that came back."""
    rising = (pl.col("open_time") > pl.col("open_time_1")) & (pl.col("open_time_1") > pl.col("open_time_2"))
    return spikes(rule, rows, "close", rising & pl.col("interval").is_in(_SHORT))


def _frozen(rule: Rule, rows: pl.DataFrame) -> Found:
    """The bar that makes so many the same; told once for a run."""
    bars = round(rule.numbers["bars"])
    bad = rows.filter((pl.col("run") == bars) & (pl.col("volume") > 0))
    return told(
        bad,
        rule,
        pl.format("{} bars with close {} and volume {}", "run", "close", "volume"),
        pl.lit("bars that differ"),
    )
