"""Checks that look at a row, or at the rows of one frame, alone.

Rows are prepared once a batch: prices as floats (a check compares, it does not reckon), the board of the code, the
local day and second. All rules of a type are then one expression set; what each found is looked at for rows that fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from tidewire.process.checks.rules import Rule
from tidewire.records import china
from tidewire.records.market import INTERVALS

PLACE = ("source", "instrument", "event_time", "ingested_at", "frame", "ordinal")

_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "ticker": ("last", "open", "high", "low", "pre_close", "volume", "amount", "bid_price", "ask_price"),
    "kline": ("open", "high", "low", "close", "volume", "amount"),
}
_KEPT: Mapping[str, tuple[str, ...]] = {"ticker": (), "kline": ("interval", "open_time")}
TYPES = tuple(_NUMBERS)
"""Record types that have checks."""

_EPSILON = 1e-9
_INTRADAY = {name: seconds for name, seconds in INTERVALS.items() if 60 <= seconds <= 7_200}

Found = pl.DataFrame
"""Rows that a rule found: `PLACE`, ``rule``, ``observed``, ``expected`` and ``detail`` (text), ``count``."""

FOUND: Mapping[str, pl.DataType] = {
    "source": pl.String(),
    "instrument": pl.String(),
    "event_time": pl.Datetime("us", "UTC"),
    "ingested_at": pl.Datetime("us", "UTC"),
    "frame": pl.Int64(),
    "ordinal": pl.Int32(),
    "rule": pl.String(),
    "observed": pl.String(),
    "expected": pl.String(),
    "detail": pl.String(),
    "count": pl.Int64(),
}


def told(
    rows: pl.DataFrame,
    rule: Rule,
    observed: pl.Expr,
    expected: pl.Expr,
    detail: pl.Expr | None = None,
    count: pl.Expr | None = None,
) -> Found:
    """What a rule found about these rows."""
    said = rows.with_columns(
        rule=pl.lit(rule.short),
        observed=observed,
        expected=expected,
        detail=pl.lit(None, pl.String) if detail is None else detail,
        count=pl.lit(1) if count is None else count,
    )
    return said.select(pl.col(name).cast(dtype) for name, dtype in FOUND.items())


def boards(instruments: Iterable[str | None]) -> list[china.Board | None] | None:
    """The board of each instrument; ``None`` when none is of these exchanges, as in almost every batch of others."""
    found: list[china.Board | None] = [china.board(one) for one in instruments]
    return found if any(found) else None


def prepare(kind: str, rows: pl.DataFrame, found: Sequence[str | None]) -> pl.DataFrame:
    """Rows of these exchanges, with ``place`` (row in the batch), numbers as floats, board, tick, day and second."""
    known = pl.Series("board", found, dtype=pl.String)
    frame = rows.select(*PLACE, *_KEPT[kind], *(pl.col(name).cast(pl.Float64) for name in _NUMBERS[kind])).with_columns(
        known, place=pl.int_range(pl.len(), dtype=pl.Int64)
    )
    if known.null_count():
        frame = frame.filter(pl.col("board").is_not_null())
    moment = pl.col("open_time" if kind == "kline" else "event_time")
    return frame.with_columns(
        tick=pl.col("board").replace_strict(china.TICKS, default=None, return_dtype=pl.Float64),
        day=china.local_day(moment),
        second=china.second_of_day(moment),
    )


@dataclass(frozen=True)
class Test:
    """A rule as expressions on prepared rows: which fail, and what to say of one that does."""

    rule: Rule
    fails: pl.Expr
    observed: pl.Expr
    expected: pl.Expr


def tests(kind: str, rules: Iterable[Rule]) -> list[Test]:
    """The rules of a type that look at rows alone."""
    made = [test for rule in rules for test in _test(kind, rule)]
    return [
        Test(t.rule, (t.fails & (pl.col("day") >= t.rule.since)) if t.rule.since else t.fails, t.observed, t.expected)
        for t in made
    ]


def failing(rows: pl.DataFrame, made: Sequence[Test]) -> Iterator[tuple[Test, pl.DataFrame]]:
    """Each test that fails somewhere, and the prepared rows that fail it."""
    if not made or rows.is_empty():
        return
    verdicts = rows.select(test.fails.any().alias(test.rule.name) for test in made).row(0)
    for test, bad in zip(made, verdicts, strict=True):
        if bad:
            yield test, rows.filter(test.fails)


def _test(kind: str, rule: Rule) -> Iterator[Test]:
    made = {
        "range": _range,
        "scale": _scale,
        "unit": _unit,
        "vwap": _vwap,
        "zero_volume": _zero_volume,
        "tick": _tick,
        "crossed": _crossed,
        "session": _session,
    }
    yield made[rule.short](kind, rule)


def _among(names: Sequence[china.Board]) -> pl.Expr:
    return pl.col("board").is_in(list(names))


def _span() -> pl.Expr:
    return pl.format("{} to {}", "low", "high")


def _range(kind: str, rule: Rule) -> Test:
    def outside(name: str) -> pl.Expr:
        price = pl.col(name)
        return ((price > pl.col("high") + _EPSILON) | (price < pl.col("low") - _EPSILON)).fill_null(value=False)

    said = pl.format("last {}, open {}", pl.col("last"), pl.col("open").cast(pl.String).fill_null("null"))
    return Test(rule, outside("last") | outside("open"), said, _span())


def _scale(kind: str, rule: Rule) -> Test:
    factor = rule.numbers["factor"]
    off = pl.max_horizontal(pl.col("last") / pl.col("pre_close"), pl.col("pre_close") / pl.col("last"))
    near = pl.format("within a factor of {} of {}", pl.lit(factor), pl.col("pre_close"))
    return Test(rule, off > factor, pl.format("last {}", "last"), near)


def _off() -> pl.Expr:
    """By which factor amount / volume lies outside low and high; null where that says nothing."""
    there = _among(china.PRICED) & (pl.col("volume") > 0) & (pl.col("amount") > 0) & (pl.col("low") > 0)
    price = pl.col("amount") / pl.col("volume")
    return pl.when(there).then(pl.max_horizontal(price / pl.col("high"), pl.col("low") / price))


def _price() -> pl.Expr:
    return pl.format("amount / volume {}", (pl.col("amount") / pl.col("volume")).round_sig_figs(6))


def _unit(kind: str, rule: Rule) -> Test:
    wrong = _off() >= rule.numbers["factor"]
    group = ("source", "frame", "board")
    share = wrong.sum().over(group) / wrong.count().over(group)
    return Test(rule, wrong & (share >= rule.numbers["share"]), _price(), _span())


def _vwap(kind: str, rule: Rule) -> Test:
    enough = pl.col("amount") >= rule.numbers["least"]
    return Test(rule, enough & (_off() > 1 + rule.numbers["tolerance"]), _price(), _span())


def _zero_volume(kind: str, rule: Rule) -> Test:
    if kind == "kline":
        moved = (pl.col("high") > pl.col("low")) | (pl.col("open") != pl.col("close"))
    else:  # before the first trade some sources show the price of the auction that is running
        moved = (pl.col("last") != pl.col("pre_close")) & (pl.col("second") >= 34_200)
    wrong = moved.fill_null(value=False) | (pl.col("amount") > 0).fill_null(value=False)
    close = pl.col("last" if kind == "ticker" else "close")
    observed = pl.format("price {}, amount {}", close, pl.col("amount").cast(pl.String).fill_null("null"))
    fails = _among(china.PRICED) & (pl.col("volume") == 0) & wrong
    return Test(rule, fails, observed, pl.lit("no move without volume"))


def _tick(kind: str, rule: Rule) -> Test:
    names = ("last", "open", "high", "low") if kind == "ticker" else ("open", "high", "low", "close")

    def between(name: str) -> pl.Expr:
        steps = pl.col(name) / pl.col("tick")
        return ((steps - steps.round()).abs() > 1e-3).fill_null(value=False)

    observed = pl.format(
        ", ".join(f"{name} {{}}" for name in names), *(pl.col(n).cast(pl.String).fill_null("null") for n in names)
    )
    return Test(rule, pl.any_horizontal(map(between, names)), observed, pl.format("a multiple of {}", "tick"))


def _crossed(kind: str, rule: Rule) -> Test:
    fails = (pl.col("bid_price") >= pl.col("ask_price")) & china.in_session(pl.col("second"))
    # The closing auction: both sides stand at the price that would clear.
    auction = pl.col("second") >= 53_820
    return Test(rule, fails & ~auction, pl.format("bid {}, ask {}", "bid_price", "ask_price"), pl.lit("bid below ask"))


def _session(kind: str, rule: Rule) -> Test:
    step = pl.col("interval").replace_strict(_INTRADAY, default=None, return_dtype=pl.Int64)
    second = pl.col("second")
    inside = china.in_session(second) & (china.since_open(second) % step == 0)
    weekend = pl.col("day").dt.weekday() > 5
    fails = (weekend & pl.col("interval").is_in(["1d", *_INTRADAY])) | (step.is_not_null() & ~inside)
    observed = pl.format("a bar of {} at {}", "interval", pl.col("open_time").dt.offset_by("8h").dt.strftime("%F %T"))
    return Test(rule, fails, observed, pl.lit("09:30 to 11:30, 13:00 to 15:00 on weekdays, on the grid"))
