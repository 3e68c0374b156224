"""Checks of tickers that remember: the rows before of each series, the last round of each source.

All of it is bounded and a function of rows in the order of their frames, not of how these were batched. What is
remembered begins anew with the process, beside what the warm-up shows; so these checks flag and never reject.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import polars as pl

from tidewire.process.checks.alone import FOUND, PLACE, Found, told
from tidewire.process.checks.known import SETTLED, Known, early, settled
from tidewire.process.checks.past import MAX_ROWS, Chains
from tidewire.process.checks.rules import Rule
from tidewire.records import china

LEAST_LIMIT = 0.045
"""No limit is closer to the close before."""

_SERIES = ("source", "instrument")
_BEFORE = ("last", "pre_close", "volume", "event_time", "day", "second")
_CLOSED = 54_000
"""15:00 as a second of the day."""


class Tickers:
    """Remembers the last two rows of each series, and the instruments of each source's running stretch."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = rules
        self._last: pl.DataFrame | None = None
        self._stretch: dict[str, tuple[int, set[str]]] = {}
        self._before: dict[str, int] = {}

    def look(self, rows: pl.DataFrame, known: Known) -> Iterator[Found]:
        """What these prepared rows, in the order of their frames, show; ``known`` is what instruments say."""
        if not self._rules:
            return
        past = 0 if self._last is None else self._last.height
        new = rows.with_columns(seen=pl.lit(0, pl.Int64))
        every = new if self._last is None else pl.concat([self._last, new], rechunk=True)
        chains = Chains.of(every, _SERIES)
        every = self._counted(every, chains)
        self._last = every.filter(pl.Series(chains.ends(2))).tail(MAX_ROWS)
        whole = pl.concat(
            [every, chains.beside(every, _BEFORE), chains.beside(every, _BEFORE, 2)], how="horizontal"
        ).slice(past)
        yield from _by_neighbours(self._rules, known.beside(whole), known)
        if (rule := self._rules.get("rows")) is not None:
            yield from self._rounds(rule, rows)
        if (rule := self._rules.get("sources")) is not None and every["source"].min() != every["source"].max():
            yield _sources(rule, every, past)

    @staticmethod
    def _counted(every: pl.DataFrame, chains: Chains) -> pl.DataFrame:
        """``seen``: in how many sessions before its own the series was."""
        day = every["day"].cast(pl.Int32).fill_null(0).to_numpy()
        later = (chains.before >= 0) & (day > day[chains.before])
        return every.with_columns(seen=pl.Series(chains.running(every["seen"].to_numpy(), later)))

    def _rounds(self, rule: Rule, rows: pl.DataFrame) -> Iterator[Found]:
        """Stretches of a session that brought fewer instruments than the ones before them."""
        length = round(rule.numbers["seconds"])
        second = rows["ingested_at"].to_numpy().view(np.int64) // 1_000_000 + china.UTC_OFFSET_S
        stretches = rows.with_columns(stretch=pl.Series(second // length), at=pl.Series(second % 86_400))
        stretches = stretches.filter(china.in_session(pl.col("at")))
        for (source, stretch), part in stretches.partition_by(
            "source", "stretch", as_dict=True, maintain_order=True
        ).items():
            name = str(source)
            running, names = self._stretch.get(name, (int(stretch), set[str]()))
            if int(stretch) != running:
                before, now = self._before.get(name, 0), len(names)
                if before >= rule.numbers["least"] and now < rule.numbers["share"] * before:
                    yield _fewer(rule, part.head(1), (before, now), running * length - china.UTC_OFFSET_S)
                self._before[name] = now
                names = set[str]()
            names.update(part["instrument"].to_list())
            self._stretch[name] = (int(stretch), names)


def _fewer(rule: Rule, row: pl.DataFrame, counts: tuple[int, int], since_s: int) -> Found:
    began = pl.from_epoch(pl.lit(since_s)).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    shown = row.with_columns(instrument=pl.lit(None, pl.String), event_time=began)
    before, now = counts
    return told(shown, rule, pl.lit(f"{now} instruments"), pl.lit(f"near {before}, as in the stretch before"))


def _by_neighbours(rules: Mapping[str, Rule], rows: pl.DataFrame, known: Known) -> Iterator[Found]:
    """What the rows before in each series show: all rules are asked at once, and told where they find something."""
    tell: dict[str, Callable[[Rule, pl.DataFrame], Found]] = {
        "limit": lambda rule, some: _limit(rule, some, known),
        "listing": listing,
        "pre_close": _pre_close,
        "spike": lambda rule, some: spikes(rule, some, "last"),
        "frozen": lambda rule, _: _frozen(rule, rows),
    }
    asked = [(rule, _FAILS[short](rule)) for short, rule in rules.items() if short in tell]
    if not asked or rows.is_empty():
        return
    verdicts = rows.select(fails.sum().alias(rule.short) for rule, fails in asked).row(0)
    for (rule, fails), count in zip(asked, verdicts, strict=True):
        if count and (rule.short != "frozen" or count >= rule.numbers["least"] * rule.numbers["share"]):
            found = tell[rule.short](rule, rows.filter(fails))
            if found.height:
                yield found


def _far(rule: Rule) -> pl.Expr:
    """Far enough from the close before that a limit may be broken; only where a stock was seen in enough sessions."""
    ratio = LEAST_LIMIT
    most, least = pl.max_horizontal("last", "high"), pl.min_horizontal("last", "low")
    before = pl.col("pre_close")
    return settled() & ((most > before * (1 + ratio)) | (least < before * (1 - ratio)))


def _limit(rule: Rule, rows: pl.DataFrame, known: Known) -> Found:
    """Prices beyond the limits of the day."""
    rows = with_limits(rows, known, "pre_close")
    slack = rule.numbers["ticks"] * pl.col("tick") + 1e-9
    most, least = pl.max_horizontal("last", "high"), pl.min_horizontal("last", "low")
    bad = rows.filter((most > pl.col("upper") + slack) | (least < pl.col("lower") - slack))
    return told(bad, rule, pl.format("{} to {}", least, most), pl.format("{} to {}", "lower", "upper"))


def with_limits(rows: pl.DataFrame, known: Known, before: str) -> pl.DataFrame:
    """With ``lower`` and ``upper``, the limits that follow from the close before; null where none are known."""
    names = {one: known.names.get(one) for one in rows["instrument"].unique().to_list()}
    risky = [one for one, name in names.items() if china.is_st(name)]
    free = [one for one, name in names.items() if china.is_unlimited(name)]
    instrument = pl.col("instrument")
    ratio = china.ratios(pl.col("board"), pl.col("day"), instrument.is_in(risky), pl.lit(SETTLED))
    lower, upper = china.limits(pl.col(before), pl.when(~instrument.is_in(free)).then(ratio), pl.col("tick"))
    return rows.with_columns(lower=lower.round(3), upper=upper.round(3))


def listing(rule: Rule, rows: pl.DataFrame) -> Found:
    """Rows of days before the listing."""
    return told(rows, rule, pl.format("a row of {}", "day"), pl.format("none before {}", "listed"))


def _close_before() -> pl.Expr:
    """What the close before must be by the row before; null where it does not say.

    A session later it is the last price of that one, if it was still looked at after its close.
    """
    next_one = pl.business_day_count("day_1", "day") == 1
    ended = pl.col("second_1") >= _CLOSED
    same = pl.col("day") == pl.col("day_1")
    return pl.when(same).then(pl.col("pre_close_1")).when(next_one & ended).then(pl.col("last_1"))


def _other_close(rule: Rule) -> pl.Expr:
    step = pl.col("tick").fill_null(0.01) * 0.501
    return (pl.col("pre_close") - _close_before()).abs() > step


def _pre_close(rule: Rule, rows: pl.DataFrame) -> Found:
    """A close before that does not fit the row before."""
    why = (
        pl.when(pl.col("day") == pl.col("day_1"))
        .then(pl.lit("changed during the session"))
        .when(pl.col("pre_close") < _close_before())
        .then(pl.lit("as on an ex-date"))
        .otherwise(pl.lit("above the last price: no dividend explains it"))
    )
    return told(rows, rule, pl.format("pre_close {}", "pre_close"), pl.format("{}", _close_before()), why)


def _spiked(rule: Rule) -> pl.Expr:
    near = (pl.col("event_time") - pl.col("event_time_2")).dt.total_seconds() <= rule.numbers["seconds"]
    return spiked(rule, "last") & near


def spiked(rule: Rule, price: str) -> pl.Expr:
    """Whether the row before jumped and this one is back where the one before that was."""
    now, then, before = pl.col(price), pl.col(f"{price}_1"), pl.col(f"{price}_2")
    away = (then / before - 1).abs() > rule.numbers["jump"]
    return away & ((now / before - 1).abs() <= rule.numbers["back"]) & (pl.col("day") == pl.col("day_2"))


def spikes(rule: Rule, rows: pl.DataFrame, price: str) -> Found:
    """The rows before these, which stand out from their neighbours; shown by the rows that came back."""
    bad = rows.with_columns(event_time="event_time_1")
    near = pl.format("near {} and {}", f"{price}_2", price)
    return told(bad, rule, pl.format(f"{price} {{}}", f"{price}_1"), near)


def _comparable(rule: Rule) -> pl.Expr:
    later = (pl.col("event_time") - pl.col("event_time_1")).dt.total_microseconds() >= rule.numbers["seconds"] * 1e6
    inside = china.in_session(pl.col("second")) & china.in_session(pl.col("second_1"))
    return later & inside & (pl.col("volume") > 0) & (pl.col("day") == pl.col("day_1"))


def _still(rule: Rule) -> pl.Expr:
    same = pl.all_horizontal(pl.col(name) == pl.col(f"{name}_1") for name in ("last", "volume"))
    return _comparable(rule) & same


_FAILS: Mapping[str, Callable[[Rule], pl.Expr]] = {
    "limit": _far,
    "listing": lambda _: early(),
    "pre_close": _other_close,
    "spike": _spiked,
    "frozen": _still,
}
"""What a row looks like that a rule has something to say about."""


def _frozen(rule: Rule, rows: pl.DataFrame) -> Found:
    """Frames in which hardly anything moved though it is said to be of a later time."""
    numbers = rule.numbers
    frames = (
        rows.filter(_comparable(rule))
        .group_by("source", "frame", maintain_order=True)
        .agg(
            pl.len(),
            _still(rule).sum().alias("still"),
            pl.col("event_time", "ingested_at", "ordinal").first(),
            pl.lit(None, pl.String).alias("instrument"),
        )
    )
    bad = frames.filter((pl.col("len") >= numbers["least"]) & (pl.col("still") >= numbers["share"] * pl.col("len")))
    said = pl.format("{} of {} rows with the price and volume of the ones before", "still", "len")
    return told(bad, rule, said, pl.lit("prices that move in continuous trading"))


def _sources(rule: Rule, every: pl.DataFrame, past: int) -> Found:
    """Rows that differ from what another source said just before of the same instrument."""
    kept = ("source", "last", "pre_close", "volume", "amount", "event_time", "day", "second")
    rows = every.select(*PLACE, "tick", *kept[1:5], "day", "second")
    both = pl.concat([rows, Chains.of(rows, ["instrument"]).beside(rows, kept)], how="horizontal").slice(past)
    both = both.filter((pl.col("source") != pl.col("source_1")) & (pl.col("day") == pl.col("day_1")))
    apart = (pl.col("event_time") - pl.col("event_time_1")).dt.total_microseconds().abs() / 1e6
    closed = pl.min_horizontal("second", "second_1") >= _CLOSED
    numbers = rule.numbers
    near = pl.when(closed).then(numbers["closed"]).when(apart <= numbers["seconds"]).then(numbers["price"])
    differ = {
        "pre_close": (pl.col("pre_close") - pl.col("pre_close_1")).abs() > pl.col("tick").fill_null(0.01) * 1.001,
        "last": _apart("last") > near,
        "volume": (closed & (_apart("volume") > numbers["closed"])) | (_times("volume") > numbers["factor"]),
        "amount": closed & (_apart("amount") > numbers["closed"]),
    }
    return differing(rule, both, differ, pl.format("{} said so at {}", "source_1", "event_time_1"))


def differing(rule: Rule, both: pl.DataFrame, differ: Mapping[str, pl.Expr], detail: pl.Expr) -> Found:
    """Rows in which some column is not what the other source says, with both values of these columns."""
    wrong = both.filter(pl.any_horizontal(fails.fill_null(value=False) for fails in differ.values()))
    if wrong.is_empty():
        return pl.DataFrame(schema=FOUND)

    def said(suffix: str) -> pl.Expr:
        parts = [pl.when(fails).then(pl.format(f"{name} {{}}", name + suffix)) for name, fails in differ.items()]
        return pl.concat_str(parts, separator=", ", ignore_nulls=True)

    return told(wrong, rule, said(""), said("_1"), detail)


def _apart(name: str) -> pl.Expr:
    """Relative difference from the other row."""
    return (pl.col(name) / pl.col(f"{name}_1") - 1).abs()


def _times(name: str) -> pl.Expr:
    """How many times one is the other; null where one is 0."""
    mine, theirs = pl.col(name), pl.col(f"{name}_1")
    return pl.when((mine > 0) & (theirs > 0)).then(pl.max_horizontal(mine / theirs, theirs / mine))
