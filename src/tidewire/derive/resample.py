"""Bars from trades, and longer bars from shorter ones.

Pure functions of the rows: the result does not depend on the order or the splitting of the input. Prices and volumes
are exact. The turnover ``amount`` = Σ price × size is summed exactly at 20 decimals and rounded once, at the end, to
the 8 decimals of an `Amount`, half to even; a sum that does not fit 38 digits is an error, never a wrong number. In
bars made of bars every amount was rounded before, so it may differ from the bars made of trades by half a unit of
the eighth decimal for each part.

An interval without trades makes no bar. Missing is null: where one part has no volume, the longer bar has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from tidewire.errors import QueryError, nearest
from tidewire.records.market import INTERVALS, Kline

MICROS = 1_000_000
WIDE = pl.Decimal(38, 20)
"""Scale of a product of a `Price` and a `Size`: nothing is lost."""

MONDAY_US = 4 * 86_400 * MICROS
"""1970 began on a Thursday; weeks begin on Monday."""

SERIES = ("source", "instrument")
TRADE_ORDER = ("event_time", "sequence", "frame", "ordinal", "trade_id")
"""What comes first within a bar; a missing sequence comes last."""


@dataclass(frozen=True)
class Grid:
    """Intervals of one fixed length, UTC: ``[offset + n * step, offset + (n + 1) * step)``, microseconds."""

    name: str
    step_us: int
    offset_us: int

    def floor(self, moment: datetime) -> datetime:
        """Start of the interval the moment is in."""
        return _EPOCH + timedelta(microseconds=self._floor_us(moment))

    def ceil(self, moment: datetime) -> datetime:
        """The first start of an interval that is not before the moment."""
        start = self.floor(moment)
        return start if start == moment else start + timedelta(microseconds=self.step_us)

    def _floor_us(self, moment: datetime) -> int:
        micros = (moment - _EPOCH) // timedelta(microseconds=1)
        return (micros - self.offset_us) // self.step_us * self.step_us + self.offset_us

    def opens(self, column: str) -> pl.Expr:
        """Start of the interval each time is in."""
        micros = pl.col(column).to_physical()
        return ((micros - self.offset_us).floordiv(self.step_us) * self.step_us + self.offset_us).alias("open_us")


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def grid(interval: str) -> Grid:
    """The grid of a fixed interval; `QueryError` for an unknown one and for months, which differ in length."""
    fixed = [name for name, seconds in INTERVALS.items() if seconds]
    seconds = INTERVALS.get(interval)
    if not seconds:
        raise QueryError(f"Cannot make bars of {interval!r}.{nearest(interval, fixed)} Valid: {', '.join(fixed)}.")
    return Grid(interval, seconds * MICROS, MONDAY_US if interval == "1w" else 0)


def coarser(parts: str, whole: str) -> Grid:
    """The grid of ``whole``, after checking that bars of ``parts`` add up to it; `QueryError` if they do not."""
    fine, coarse = grid(parts), grid(whole)
    if coarse.step_us <= fine.step_us or coarse.step_us % fine.step_us:
        fits = [name for name, seconds in INTERVALS.items() if seconds and not coarse.step_us % (seconds * MICROS)]
        raise QueryError(
            f"Bars of {parts} do not add up to {whole}. Bars that do: {', '.join(n for n in fits if n != whole)}."
        )
    return coarse


def trades_to_klines(trades: pl.DataFrame, interval: str, until: datetime | None = None) -> pl.DataFrame:
    """Bars of a fixed interval from trades.

    Args:
        trades: rows of `Trade`, in any order, each trade once; what is `off_book` is left out.
        interval: a name in `INTERVALS` with a fixed length.
        until: up to when the trades are complete; bars that end later are marked as not final. ``None``: all are.

    Returns:
        Rows of `Kline`, ordered by (event_time, source, instrument). ``public_at`` is the close of the bar, or
        later if a trade became public later; lineage is that of the last trade. Taker sides: null where one is.
    """
    cells = grid(interval)
    bought = pl.col("side") == "buy"
    turnover = pl.col("price").cast(WIDE) * pl.col("size").cast(WIDE)
    bars = (
        trades.lazy()
        .filter(pl.col("off_book").is_null())
        .sort(TRADE_ORDER, nulls_last=True)
        .with_columns(
            cells.opens("event_time"), turnover.alias("_turnover"), pl.lit(value=1, dtype=pl.Int64).alias("_n")
        )
        .group_by(*SERIES, "open_us", maintain_order=True)
        .agg(
            pl.col("price").first().alias("open"),
            pl.col("price").max().alias("high"),
            pl.col("price").min().alias("low"),
            pl.col("price").last().alias("close"),
            pl.col("size").sum().alias("volume"),
            pl.col("_turnover").sum().alias("amount"),
            pl.col("_n").sum().alias("trades"),
            _all_known(pl.col("size").filter(bought).sum(), "side").alias("buy_volume"),
            _all_known(pl.col("_turnover").filter(bought).sum(), "side").alias("buy_amount"),
            *_lineage(),
        )
        .collect()
    )
    return finish(bars, cells, until)


def klines_to_klines(klines: pl.DataFrame, interval: str, until: datetime | None = None) -> pl.DataFrame:
    """Longer bars from shorter ones, which are all of one interval that divides ``interval``.

    Args, result and order as `trades_to_klines`. A bar is made of the parts there are: a part that is missing
    because nothing was traded and one that is a gap look the same here; gaps are listed as `Gap` rows.
    """
    if klines.is_empty():
        return Kline.type.empty()
    lengths = klines["interval"].unique().sort().to_list()
    if len(lengths) > 1:
        raise QueryError(f"Bars of {', '.join(lengths)} cannot be mixed; choose one interval.")
    cells = coarser(lengths[0], interval)
    bars = (
        klines.lazy()
        .sort("open_time", "frame", "ordinal")
        .with_columns(cells.opens("open_time"))
        .group_by(*SERIES, "open_us", maintain_order=True)
        .agg(
            pl.col("open").first(),
            _all_known(pl.col("high").max(), "high"),
            _all_known(pl.col("low").min(), "low"),
            pl.col("close").last(),
            *(_all_known(pl.col(name).sum(), name) for name in ("volume", "amount", "trades")),
            *(_all_known(pl.col(name).sum(), name) for name in ("buy_volume", "buy_amount")),
            *_lineage(),
        )
        .collect()
    )
    return finish(bars, cells, until)


def finish(bars: pl.DataFrame, cells: Grid, until: datetime | None) -> pl.DataFrame:
    """Rows of `Kline` from aggregates.

    Args:
        bars: source, instrument, ``open_us`` (start of the bar, Int64 microseconds), the aggregates (amounts at any
            scale) and lineage; ``public_at`` and ``ingested_at`` are the latest of the parts.
        cells: the grid the bars are on.
        until: up to when the parts are complete.
    """
    schema = Kline.type.schema
    time = schema["open_time"]
    opens = pl.col("open_us").cast(time)
    closes = (pl.col("open_us") + cells.step_us).cast(time)
    computed = bars.with_columns(
        pl.lit(cells.name).alias("interval"),
        opens.alias("event_time"),
        opens.alias("open_time"),
        closes.alias("close_time"),
        pl.max_horizontal("public_at", closes).alias("public_at"),
        (pl.lit(value=True) if until is None else closes <= until).alias("final"),
        *(half_even(name, schema[name]) for name in ("amount", "buy_amount")),
    )
    # Bars are born in groups of whatever order; this one does not depend on it.
    ordered = computed.sort("event_time", *SERIES)
    return ordered.select(pl.col(name).cast(dtype) for name, dtype in schema.items())


def half_even(column: str, dtype: pl.DataType) -> pl.Expr:
    """A decimal column at a smaller scale, rounded half to even."""
    scale = dtype.scale if isinstance(dtype, pl.Decimal) else 0
    return pl.col(column).round(scale, mode="half_to_even").cast(dtype).alias(column)


def _all_known(value: pl.Expr, column: str) -> pl.Expr:
    return pl.when(pl.col(column).null_count() == 0).then(value).alias(column)


def _lineage() -> list[pl.Expr]:
    return [pl.col("public_at").max(), pl.col("ingested_at").max(), pl.col("frame").last(), pl.col("ordinal").last()]
