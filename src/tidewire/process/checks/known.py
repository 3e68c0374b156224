"""What is known of instruments, from their own rows: names tell risk warnings, the day of the listing tells limits."""

from __future__ import annotations

from datetime import date

import polars as pl

from tidewire.records import china

MAX_INSTRUMENTS = 100_000
"""Instruments that are remembered; later ones beyond it stay unknown."""
FIELDS = ("instrument", "name", "listed_on")
SETTLED = 6
"""Sessions a series was seen in before its stock counts as listed long enough for limits to hold."""
SETTLED_WEEKDAYS = SETTLED + 7
"""Weekdays since a known listing that hold so many sessions, whatever holidays there were."""


class Known:
    """Names and listing days by instrument, as far as they were told."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self._listed: dict[str, date] = {}

    def learn(self, rows: pl.DataFrame) -> None:
        """Take over what `Instrument` rows, or some columns of them, say of the mainland exchanges."""
        there = [name for name in FIELDS if name in rows.columns]
        for told in rows.select(there).iter_rows(named=True):
            instrument, name, listed = told["instrument"], told.get("name"), told.get("listed_on")
            if china.board(instrument) is None:
                continue
            for known, value in ((self.names, name), (self._listed, listed)):
                if value is not None and (instrument in known or len(known) < MAX_INSTRUMENTS):
                    known[instrument] = value

    def beside(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows with ``listed``: the first day of trading, null where it is not known."""
        if not self._listed:
            return rows.with_columns(listed=pl.lit(None, pl.Date))
        days = [self._listed.get(name) for name in rows.get_column("instrument").to_list()]
        return rows.with_columns(pl.Series("listed", days, dtype=pl.Date))


def settled() -> pl.Expr:
    """Whether a stock is not new: by the day of its listing, or by the sessions (``seen``) it was seen in."""
    since = pl.business_day_count("listed", "day")
    return (pl.col("seen") >= SETTLED) | (since >= SETTLED_WEEKDAYS).fill_null(value=False)


def early() -> pl.Expr:
    """Whether a row is of a day before the listing."""
    return pl.col("day") < pl.col("listed")
