"""Order within each series: repeats found, holes found, at the cost of one aggregation a batch.

A record type's ``order`` column grows within a series (a trade's sequence, a bar's open time). While it does, nothing
can be a repeat, and neighbours show whether something is missing. Only series that step back or jump are looked at
row by row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from tidewire.records.market import INTERVALS
from tidewire.records.record import RecordType

HISTORY_ROWS = 50_000
MAX_OPEN_HOLES = 1_000

Series = tuple[Any, ...]
"""The values of the columns that name a series."""


@dataclass(frozen=True)
class Hole:
    """Order values ``first`` to ``last`` (inclusive) that are missing from a series.

    ``shown`` is the frame, ordinal and receive time (µs) of the row that revealed or filled it: the gap row takes
    its place in the journal, so that it does not depend on how the frames were batched.
    """

    series: Series
    first: int
    last: int
    after_us: int
    before_us: int
    shown: tuple[int, int, int]
    state: str = "open"


@dataclass
class _Mark:
    """The highest order value seen in a series, and the event time of its row."""

    order: int
    event_us: int


@dataclass
class Sorted:
    """Rows of a batch after repeats were taken out."""

    rows: pl.DataFrame
    duplicates: pl.DataFrame | None
    holes: list[Hole]


class SeriesWatch:
    """Remembers, for one record type, how far each series has come."""

    def __init__(self, kind: RecordType) -> None:
        self.kind = kind
        self._order = kind.order or ""
        self._marks: dict[Series, _Mark] = {}
        self._open: dict[Series, list[tuple[int, int, Hole]]] = {}
        self._history: deque[pl.DataFrame] = deque()
        self._history_rows = 0

    def seed(self, marks: pl.DataFrame) -> None:
        """Continue from what is stored: columns of the series, ``order`` and ``event_time``, as a store's `marks`."""
        for row in marks.iter_rows(named=True):
            series = tuple(row[name] for name in self.kind.series)
            self._marks[series] = _Mark(_whole(row["order"]), _whole(row["event_time"]))

    def seed_hole(self, hole: Hole, came: Collection[int] = ()) -> None:
        """Continue waiting for what an open gap misses; ``came`` are order values of it that are stored already."""
        parts = self._open.setdefault(hole.series, [])
        parts.append((hole.first, hole.last, hole))
        for order in sorted(came):
            self._fill(hole.series, order, hole.shown)
        del parts[:-MAX_OPEN_HOLES]

    def sort(self, rows: pl.DataFrame) -> Sorted:
        """Take out repeats and find holes; ``rows`` are in frame order."""
        if not self._order or rows.is_empty():
            return self._without_order(rows)
        holes: list[Hole] = []
        again: list[Series] = []
        for series, group in self._groups(rows):
            mark = self._marks.get(series)
            if group.nulls or not group.grows or (mark is not None and group.first <= mark.order):
                again.append(series)
            elif not self._is_contiguous(series, mark, group):
                holes += self._holes_of(series, self._rows_of(rows, series))
            elif mark is None:
                self._marks[series] = _Mark(group.last, group.event_us)
            else:
                mark.order, mark.event_us = group.last, group.event_us
        if not again:
            self.remember(rows)
            return Sorted(rows, None, holes)
        return self._sort_slowly(rows, again, holes)

    # -- fast way ---------------------------------------------------------------------------------------------

    def _groups(self, rows: pl.DataFrame) -> Iterator[tuple[Series, _Group]]:
        names = self.kind.series
        columns = [rows.get_column(name) for name in names]
        if all((column == column[0]).all() for column in columns):
            yield tuple(column[0] for column in columns), _group_of(rows, self._order)
            return
        width = len(names)
        for row in rows.group_by(names, maintain_order=True).agg(*_summary(pl.col(self._order))).iter_rows():
            yield row[:width], _Group(*row[width:])

    def _is_contiguous(self, series: Series, mark: _Mark | None, group: _Group) -> bool:
        step = self._step(series)
        if not step:
            return True
        whole = (group.last - group.first) // step + 1 == group.count
        return whole and (mark is None or group.first == mark.order + step)

    def _step(self, series: Series) -> int:
        """By how much the order grows from row to row where nothing is missing; 0 where that is not known."""
        if self.kind.contiguous:
            return 1
        if "interval" in self.kind.series:
            return INTERVALS[series[self.kind.series.index("interval")]] * 1_000_000
        return 0

    # -- slow way: series that jump or step back --------------------------------------------------------------

    def _rows_of(self, rows: pl.DataFrame, series: Series) -> pl.DataFrame:
        return rows.filter(self._belongs([series]))

    def _belongs(self, which: list[Series]) -> pl.Expr:
        return pl.any_horizontal(
            pl.all_horizontal(pl.col(name) == value for name, value in zip(self.kind.series, series, strict=True))
            for series in which
        )

    def _holes_of(self, series: Series, rows: pl.DataFrame) -> list[Hole]:
        """Holes between the rows of a series, in the order they came; late rows close holes."""
        step = self._step(series)
        holes: list[Hole] = []
        columns = rows.select(self._order, "event_time", "frame", "ordinal", "ingested_at").with_columns(
            pl.col(self._order, "event_time", "ingested_at").to_physical()
        )
        for order, event_us, *shown in columns.iter_rows():
            if order is None:
                continue
            mark = self._marks.setdefault(series, _Mark(order, event_us))
            if order <= mark.order:
                holes += self._fill(series, order, tuple(shown))
                continue
            if step and order > mark.order + step:
                hole = Hole(series, mark.order + step, order - step, mark.event_us, event_us, tuple(shown))
                holes.append(hole)
                self.seed_hole(hole)
            mark.order, mark.event_us = order, event_us
        return holes

    def _fill(self, series: Series, order: int, shown: tuple[int, int, int]) -> list[Hole]:
        """A late row: the hole it was the last missing one of, if any."""
        parts = self._open.get(series, [])
        for place, (first, last, hole) in enumerate(parts):
            if first <= order <= last:
                step = self._step(series)
                left = [(first, order - step, hole)] if order > first else []
                left += [(order + step, last, hole)] if order < last else []
                parts[place : place + 1] = left
                if any(other is hole for _, _, other in parts):
                    return []
                return [replace(hole, shown=shown, state="filled")]
        return []

    def _sort_slowly(self, rows: pl.DataFrame, again: list[Series], holes: list[Hole]) -> Sorted:
        suspect = rows.select(self._belongs(again)).to_series()
        repeated = self._repeats(rows, suspect)
        kept = rows.filter(~repeated)
        for series in again:
            holes += self._holes_of(series, self._rows_of(kept, series))
        self.remember(kept)
        return Sorted(kept, rows.filter(repeated) if repeated.any() else None, holes)

    def _without_order(self, rows: pl.DataFrame) -> Sorted:
        if rows.is_empty():
            return Sorted(rows, None, [])
        repeated = self._repeats(rows, pl.Series([True] * rows.height))
        kept = rows.filter(~repeated)
        self.remember(kept)
        return Sorted(kept, rows.filter(repeated) if repeated.any() else None, [])

    def _repeats(self, rows: pl.DataFrame, suspect: pl.Series) -> pl.Series:
        """Which suspects say of their key just what the row before them said; what came lately is remembered.

        Only the last word counts: a definition that changes back is news, not a repeat.
        """
        past = pl.concat([*self._history, rows.clear()])
        self._history = deque([past] if past.height else [])
        keys = rows.filter(suspect).select(self.kind.key).unique()
        known = past.join(keys, on=self.kind.key, how="semi").unique(self.kind.key, keep="last", maintain_order=True)
        both = pl.concat([known.select(rows.columns), rows]).with_columns(_moment())
        said = pl.struct([*(name for name in self.kind.payload if name != "event_time"), "_moment"])
        before = said.shift(1).over(self.kind.key)
        first = pl.int_range(pl.len()).over(self.kind.key) == 0
        same = both.select((said.eq_missing(before) & ~first).alias("same")).to_series().tail(rows.height)
        return same & suspect

    def remember(self, rows: pl.DataFrame) -> None:
        """Keep rows for comparing repeats with; the oldest are forgotten."""
        if rows.is_empty():
            return
        self._history.append(rows)
        self._history_rows += rows.height
        while self._history_rows - self._history[0].height >= HISTORY_ROWS:
            self._history_rows -= self._history.popleft().height


def _moment() -> pl.Expr:
    """The row's own time; null where it is only the receive time, which differs in a repeat."""
    own = pl.col("event_time") != pl.col("ingested_at")
    return pl.when(own).then(pl.col("event_time")).alias("_moment")


@dataclass(frozen=True, slots=True)
class _Group:
    first: int
    last: int
    count: int
    nulls: int
    grows: bool
    event_us: int


def _group_of(rows: pl.DataFrame, name: str) -> _Group:
    """The summary of rows that are all of one series, without starting the query engine."""
    order = rows.get_column(name).to_physical()
    event_us = int(rows.get_column("event_time").to_physical()[-1])
    nulls = order.null_count()
    if nulls:
        return _Group(0, 0, len(order), nulls, grows=False, event_us=event_us)
    numbers = order.to_numpy()
    grows = bool((numbers[1:] > numbers[:-1]).all())
    return _Group(int(numbers[0]), int(numbers[-1]), len(order), 0, grows, event_us)


def _summary(order: pl.Expr) -> list[pl.Expr]:
    number = order.to_physical()
    return [
        number.first().fill_null(0).alias("_first"),
        number.last().fill_null(0).alias("_last"),
        pl.len().alias("_count"),
        order.null_count().alias("_nulls"),
        (number.diff().min().fill_null(1) > 0).alias("_grows"),
        pl.col("event_time").last().to_physical().alias("_event"),
    ]


def _whole(value: int | datetime) -> int:
    """Datetimes as UTC microseconds, numbers as they are."""
    return (
        (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        if isinstance(value, datetime)
        else value
    )


def describe(kind: RecordType, hole: Hole) -> Mapping[str, Any]:
    """The columns of a `Gap` row that follow from a hole."""
    names = dict(zip(kind.series, hole.series, strict=True))
    by_sequence = kind.order == "sequence"
    interval = names.get("interval")
    step = INTERVALS[interval] * 1_000_000 if interval else 0
    return {
        "source": names["source"],
        "instrument": names["instrument"],
        "record_type": kind.name,
        "series": interval,
        "gap_id": f"{interval + ':' if interval else ''}{hole.first}",
        "event_time": hole.after_us if by_sequence else hole.first,
        "until_time": hole.before_us if by_sequence else hole.last + step,
        "first_sequence": hole.first if by_sequence else None,
        "last_sequence": hole.last if by_sequence else None,
        "missing": (hole.last - hole.first) // (step or 1) + 1 if hole.state == "open" else 0,
        "cause": "sequence" if by_sequence else "grid",
        "state": hole.state,
        "public_at": hole.shown[2],
        "ingested_at": hole.shown[2],
        "frame": hole.shown[0],
        "ordinal": hole.shown[1],
    }


def hole_of(kind: RecordType, gap: Mapping[str, Any]) -> Hole | None:
    """The hole an open `Gap` row tells of; ``None`` for gaps that no sequence or grid can close."""
    if gap["cause"] not in {"sequence", "grid"}:
        return None
    named = {"source": gap["source"], "instrument": gap["instrument"], "interval": gap["series"]}
    series = tuple(named.get(name) for name in kind.series)
    after, before = _whole(gap["event_time"]), _whole(gap["until_time"])
    shown = (gap["frame"], gap["ordinal"], _whole(gap["ingested_at"]))
    if gap["first_sequence"] is not None:
        return Hole(series, gap["first_sequence"], gap["last_sequence"], after, before, shown)
    step = INTERVALS.get(gap["series"] or "", 0) * 1_000_000
    return Hole(series, after, before - step, after, before, shown)
