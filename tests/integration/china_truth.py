"""What the Chinese sites of a sandbox should have made a store hold, worked out from what is true there."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Any

import numpy.typing as npt
import polars as pl

from tidewire.sandbox.china.sites import China
from tidewire.sandbox.config import session_ns

PRICES = ("last", "open", "high", "low", "pre_close")
INDEX = r"^(000\d{3}\.SH|399\d{3}\.SZ|899\d{3}\.BJ)$"
STAR = r"^68[89]"
EPOCH = date(1970, 1, 1).toordinal()
SHOWN = 3


def key(code: str, exchange: str) -> str:
    """The id of an instrument."""
    return f"{code}.{exchange}"


def moments(rows: pl.DataFrame) -> Iterable[Any]:
    """The different times of rows, one after the other."""
    return sorted(rows["event_time"].unique())


def truth(china: China, rows: pl.DataFrame) -> pl.DataFrame:
    """What is true of every instrument at each time that rows are of."""
    found: list[pl.DataFrame] = []
    for at in moments(rows):
        columns = pl.DataFrame(china.truth(session_ns(at.isoformat())), infer_schema_length=None)
        found.append(
            columns.select(
                pl.format("{}.{}", "code", "exchange").alias("instrument"),
                pl.lit(at).cast(rows.schema["event_time"]).alias("event_time"),
                *(pl.col(name).cast(pl.Float64).alias(f"true_{name}") for name in (*PRICES, "volume", "amount")),
                pl.col("open").is_not_null().alias("traded"),
                pl.col("status").alias("true_status"),
            )
        )
    return pl.concat(found)


def beside(china: China, rows: pl.DataFrame) -> pl.DataFrame:
    """Ticker rows with what is true of them; each must be of an instrument that there is."""
    assert rows.height
    numbers = [pl.col(name).cast(pl.Float64) for name in (*PRICES, "volume", "amount", "change_ratio")]
    both = rows.with_columns(numbers).join(truth(china, rows), on=["instrument", "event_time"], how="left")
    unknown = both.filter(pl.col("true_status").is_null())
    assert unknown.is_empty(), unknown.head(SHOWN).to_dicts()
    return both


def _same(name: str, said: pl.Expr) -> pl.Expr:
    """Whether a column is what it should be, null where that is null."""
    return pl.col(name).eq_missing(said)


def wrong_tickers(china: China, rows: pl.DataFrame) -> pl.DataFrame:
    """Ticker rows that are not what is true: to the last digit, or as far as the site tells it."""
    site, index, star = pl.col("source").str.extract(r"^(\w+)"), _is(INDEX), _is(STAR)
    traded, shares, amount = pl.col("traded"), pl.col("true_volume"), pl.col("true_amount")
    lots = ((shares + 50) // 100) * 100
    # Eastmoney writes '-' where nothing was traded; the unit of an index is not taken from Sina and Tencent.
    volume = (
        pl.when(site == "eastmoney")
        .then(pl.when(traded).then(lots))
        .when(~index)
        .then(pl.when((site == "sina") | star).then(shares).otherwise(lots))
    )
    money = (
        pl.when(site == "eastmoney")
        .then(pl.when(traded).then(amount))
        .otherwise(pl.when(site == "tencent").then((amount + 1e-6).floor()).otherwise(amount))
    )
    ratio = pl.when(traded & (site != "sina")).then(pl.col("last") / pl.col("pre_close") - 1)
    right = [
        *(_same(name, pl.col(f"true_{name}")) for name in ("open", "high", "low", "pre_close")),
        _same("last", pl.when(traded).then(pl.col("true_last"))),
        _same("volume", volume),
        pl.when(money.is_null()).then(pl.col("amount").is_null()).otherwise((pl.col("amount") - money).abs() < 1e-3),
        _same("status", pl.when(traded).then(pl.lit("trading")).otherwise(pl.lit("suspended"))),
        pl.when(ratio.is_null())
        .then(pl.col("change_ratio").is_null())
        .otherwise((pl.col("change_ratio") - ratio).abs() < 5.1e-5),
    ]
    return beside(china, rows).filter(~pl.all_horizontal(each.fill_null(value=False) for each in right))


def _is(pattern: str) -> pl.Expr:
    return pl.col("instrument").str.contains(pattern)


def wrong_books(china: China, quotes: pl.DataFrame, books: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Best prices and books that are not the true ones; sizes where the site tells them."""
    listing = china.market.listing
    place = {key(symbol[2:], symbol[:2].upper()): row for symbol, row in listing.rows.items()}
    wrong: list[tuple[Any, ...]] = []
    for at in sorted({*moments(quotes), *moments(books)}):
        true = china.market.quotes(china.market.moment(session_ns(at.isoformat())))
        prices = {side: getattr(true, f"{side}_prices") / 100 for side in ("bid", "ask")}
        sizes = {side: getattr(true, f"{side}_volumes") for side in ("bid", "ask")}
        for row in quotes.filter(event_time=at).iter_rows(named=True):
            wrong += _wrong_quote(row, place[row["instrument"]], prices, sizes)
        for row in books.filter(event_time=at).iter_rows(named=True):
            wrong += _wrong_book(row, place[row["instrument"]], prices, sizes)
    return wrong


Sides = dict[str, npt.NDArray[Any]]


def _wrong_quote(row: dict[str, Any], at: int, prices: Sides, sizes: Sides) -> list[tuple[Any, ...]]:
    wrong: list[tuple[Any, ...]] = []
    for side in ("bid", "ask"):
        price = float(prices[side][0, at]) or None
        size: float | None = float(sizes[side][0, at])
        if price is None or (row["source"].startswith("tencent") and row["instrument"].startswith(("688", "689"))):
            size = None
        found = tuple(
            None if row[f"{side}_{what}"] is None else float(row[f"{side}_{what}"]) for what in ("price", "size")
        )
        if found != (price, size):
            wrong.append((row["source"], row["instrument"], row["event_time"], side, found, (price, size)))
    return wrong


def _wrong_book(row: dict[str, Any], at: int, prices: Sides, sizes: Sides) -> list[tuple[Any, ...]]:
    wrong: list[tuple[Any, ...]] = []
    for side in ("bid", "ask"):
        there = prices[side][:, at] > 0
        true = [prices[side][there, at].tolist(), sizes[side][there, at].astype(float).tolist()]
        found = [[float(each) for each in row[f"{side}_{what}"]] for what in ("prices", "sizes")]
        if found != true:
            wrong.append((row["source"], row["instrument"], row["event_time"], side, found, true))
    return wrong


def wrong_bars(china: China, bars: pl.DataFrame) -> pl.DataFrame:
    """One-minute bars that are not the true ones, with volumes to the lot."""
    places = {key(symbol[2:], symbol[:2].upper()): row for symbol, row in china.market.listing.rows.items()}
    found: list[pl.DataFrame] = []
    for instrument in bars["instrument"].unique().sort():
        true = china.market.minute_bars(places[instrument], 6)
        # Days are counted from year 1; Shanghai is eight hours ahead.
        ends = (true.day - EPOCH) * 86_400 + true.second - 8 * 3_600
        prices = {f"true_{name}": getattr(true, name) / 100 for name in ("open", "close", "high", "low", "amount")}
        volume = (true.volume + 50) // 100 * 100.0
        at = pl.from_epoch(pl.Series("open_time", ends - 60)).dt.cast_time_unit("us").dt.replace_time_zone("UTC")
        frame = pl.DataFrame({**prices, "true_volume": volume}).with_columns(at, instrument=pl.lit(instrument))
        found.append(frame)
    names = ("open", "close", "high", "low", "amount", "volume")
    both = bars.with_columns(pl.col(name).cast(pl.Float64) for name in names)
    both = both.join(pl.concat(found), on=["instrument", "open_time"], how="left")
    right = ((pl.col(name) - pl.col(f"true_{name}")).abs() < 1e-6 for name in names)
    return both.filter(~pl.all_horizontal(each.fill_null(value=False) for each in right))
