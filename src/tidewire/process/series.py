"""Order within each series: repeats found, holes found, at the cost of one aggregation a batch.

A record type's ``order`` column grows within a series (a trade's sequence, a bar's open time). While it does, nothing
can be a repeat, and neighbours show whether something is missing. Only series that step back or jump are looked at
row by row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tidewire.process.steps import Series, missing, step_of, stretches
from tidewire.records.market import INTERVALS
from tidewire.records.record import RecordType

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

HISTORY_ROWS = 50_000
HISTORY_FRAMES = 256
MAX_OPEN_HOLES = 1_000
FEW_SERIES = 4
"""Up to so many, rows are looked for series by series."""
MANY_ROWS = 256
"""From here on a query is quicker than Python, where rows are of several series."""

Shown = tuple[int, int, int]
"""Frame, ordinal and receive time (µs) of a row."""


@dataclass(frozen=True)
class Hole:
    """Order values ``first`` to ``last`` (inclusive) that are missing from a series.

    ``shown`` is the row that revealed or filled it: the gap row takes its place in the journal, so that it does not
    depend on how the frames were batched.
    """

    series: Series
    first: int
    last: int
    after_us: int
    before_us: int
    shown: Shown
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
        # Of types whose key says more, one message brings several rows with the same order value.
        self._shared = not set(kind.key) <= {*kind.series, self._order}
        self._has_steps = kind.contiguous or "interval" in kind.series
        self._marks: dict[Series, _Mark] = {}
        self._open: dict[Series, list[tuple[int, int, Hole]]] = {}
        self._history: deque[tuple[pl.DataFrame, pl.Series | None]] = deque()
        """Rows that came lately, and hashes of their keys once these were asked for."""
        self._history_rows = 0

    def seed(self, marks: pl.DataFrame) -> None:
        """Continue from what is stored: columns of the series, ``order`` and ``event_time``, as a store's `marks`."""
        for row in marks.iter_rows(named=True):
            series = tuple(row[name] for name in self.kind.series)
            self._marks[series] = _Mark(_whole(row["order"]), _whole(row["event_time"]))

    def seed_hole(self, hole: Hole, came: npt.ArrayLike = ()) -> None:
        """Continue waiting for what an open gap misses; ``came`` are order values of it that are stored already."""
        parts = self._open.setdefault(hole.series, [])
        parts.append((hole.first, hole.last, hole))
        for first, last in stretches(came, step_of(self.kind, hole.series)):
            self._fill(hole.series, first, last, lambda _: hole.shown)
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
        """The rows of each series; counted in Python, for a query costs more than a batch of a few thousand rows."""
        columns = [rows.get_column(name) for name in self.kind.series]
        summary = _Summary(rows, self._order, shared=self._shared)
        if all(not column.null_count() and column.min() == column.max() for column in columns):
            yield tuple(column[0] for column in columns), summary.of(slice(None))
            return
        if rows.height >= MANY_ROWS:
            yield from summary.of_each(rows, self.kind.series)
            return
        places: dict[Series, list[int]] = {}
        for place, series in enumerate(zip(*(column.to_list() for column in columns), strict=True)):
            places.setdefault(series, []).append(place)
        for series, mine in places.items():
            yield series, summary.of(np.array(mine))

    def _is_contiguous(self, series: Series, mark: _Mark | None, group: _Group) -> bool:
        step = step_of(self.kind, series)
        if not step:
            return True
        whole = (group.last - group.first) // step + 1 == group.count
        if not whole or mark is None or group.first == mark.order + step:
            return whole
        return not missing(self.kind, series, mark.order, group.first)

    # -- slow way: series that jump or step back --------------------------------------------------------------

    def _rows_of(self, rows: pl.DataFrame, series: Series) -> pl.DataFrame:
        return rows.filter(self._belongs([series]))

    def _belongs(self, which: list[Series]) -> pl.Expr:
        return pl.any_horizontal(
            pl.all_horizontal(pl.col(name) == value for name, value in zip(self.kind.series, series, strict=True))
            for series in which
        )

    def _among(self, rows: pl.DataFrame, which: list[Series]) -> pl.Series:
        """Which rows are of these series."""
        if len(which) <= FEW_SERIES:
            return rows.select(self._belongs(which)).to_series()
        names = list(self.kind.series)
        schema = {name: rows.schema[name] for name in names}
        wanted = pl.DataFrame(which, schema=schema, orient="row").with_columns(_wanted=True)
        found = rows.select(names).join(wanted, on=names, how="left", nulls_equal=True, maintain_order="left")
        return found["_wanted"].is_not_null()

    def _parts(self, rows: pl.DataFrame, which: list[Series]) -> Iterator[tuple[Series, pl.DataFrame]]:
        """The rows of each of these series."""
        if len(which) <= FEW_SERIES:
            yield from ((series, self._rows_of(rows, series)) for series in which)
            return
        parts = rows.filter(self._among(rows, which)).partition_by(self.kind.series, as_dict=True)
        yield from ((series, parts[series]) for series in which if series in parts)

    def _move_marks(self, rows: pl.DataFrame) -> None:
        """Of series that count nothing only how far they are matters, and no row is missing between two."""
        order = pl.col(self._order).cast(pl.Int64)
        newest = pl.col("event_time").cast(pl.Int64).get(order.arg_max())
        found = rows.lazy().filter(order.is_not_null()).group_by(self.kind.series).agg(last=order.max(), event=newest)
        for *names, last, event_us in found.collect().iter_rows():
            mark = self._marks.get(series := tuple(names))
            if mark is None:
                self._marks[series] = _Mark(last, event_us)
            elif last > mark.order:
                mark.order, mark.event_us = last, event_us

    def _holes_of(self, series: Series, rows: pl.DataFrame) -> list[Hole]:
        """Holes between the rows of a series, in the order they came; late rows close holes.

        Rows that count up without a step missing are taken as one run: a hole of a million trades that was asked for
        again is closed run by run, not row by row.
        """
        step = step_of(self.kind, series)
        holes: list[Hole] = []
        for run in _runs(rows, self._order, step):
            mark = self._marks.get(series)
            if mark is None:
                mark = self._marks[series] = _Mark(run.first, run.event_us(run.first))
            if run.first <= mark.order:
                holes += self._fill(series, run.first, min(run.last, mark.order), run.shown)
            if run.last <= mark.order:
                continue
            if step and run.first > mark.order + step:
                before_us, shown = run.event_us(run.first), run.shown(run.first)
                for first, last in missing(self.kind, series, mark.order, run.first):
                    hole = Hole(series, first, last, mark.event_us, before_us, shown)
                    holes.append(hole)
                    self.seed_hole(hole)
            mark.order, mark.event_us = run.last, run.event_us(run.last)
        return holes

    def _fill(self, series: Series, first: int, last: int, shown: Callable[[int], Shown]) -> list[Hole]:
        """Late rows, ``first`` to ``last`` without a step missing: the holes they were the last missing ones of."""
        parts = self._open.get(series, [])
        step = step_of(self.kind, series)
        left: list[tuple[int, int, Hole]] = []
        touched: dict[int, tuple[int, Hole]] = {}
        for low, high, hole in parts:
            if last < low or first > high:
                left.append((low, high, hole))
                continue
            touched[id(hole)] = (min(high, last), hole)
            left += [(low, first - step, hole)] if first > low else []
            left += [(last + step, high, hole)] if last < high else []
        if not touched:
            return []
        parts[:] = left
        waiting = {id(hole) for _, _, hole in left}
        closed = [(order, hole) for name, (order, hole) in touched.items() if name not in waiting]
        return [replace(hole, shown=shown(order), state="filled") for order, hole in closed]

    def _sort_slowly(self, rows: pl.DataFrame, again: list[Series], holes: list[Hole]) -> Sorted:
        suspect = self._among(rows, again)
        repeated = self._repeats(rows, suspect)
        kept = rows.filter(~repeated)
        if self._has_steps:
            for series, part in self._parts(kept, again):
                holes += self._holes_of(series, part)
        else:
            self._move_marks(kept)
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

        Only the last word counts: a definition that changes back is news, not a repeat. Keys that come once are told
        by their hashes: of history that is loaded no row is a repeat, and nothing else needs to be looked at.
        """
        names = rows.select(self.kind.key).hash_rows().filter(suspect)
        known = names.is_in(self._known_names().implode())
        places = np.flatnonzero(suspect.to_numpy())[(known | names.is_duplicated()).to_numpy()]
        repeated = np.zeros(rows.height, dtype=np.bool_)
        if places.size:
            repeated[places] = self._say_the_same(rows[places], remembered=known.any())
        return pl.Series(repeated)

    def _say_the_same(self, rows: pl.DataFrame, *, remembered: bool) -> npt.NDArray[np.bool_]:
        """Which rows repeat the last word on their key; ``remembered``: it may be one of a batch before."""
        past = pl.concat([frame for frame, _ in self._history]) if remembered else rows.clear()
        known = past.join(rows.select(self.kind.key).unique(), on=self.kind.key, how="semi")
        known = known.unique(self.kind.key, keep="last", maintain_order=True)
        both = pl.concat([known.select(rows.columns), rows]).with_columns(_moment())
        said = pl.struct([*(name for name in self.kind.payload if name != "event_time"), "_moment"])
        before = said.shift(1).over(self.kind.key)
        first = pl.int_range(pl.len()).over(self.kind.key) == 0
        same = both.select((said.eq_missing(before) & ~first).alias("same")).to_series().tail(rows.height)
        return same.to_numpy()

    def _known_names(self) -> pl.Series:
        """Hashes of the keys that are remembered; frames are put together when there are many."""
        if len(self._history) > HISTORY_FRAMES:
            whole = pl.concat([frame for frame, _ in self._history]).tail(HISTORY_ROWS).rechunk()
            self._history = deque([(whole, None)])
            self._history_rows = whole.height
        for place, (frame, names) in enumerate(self._history):
            if names is None:
                self._history[place] = frame, frame.select(self.kind.key).hash_rows()
        none = pl.Series(dtype=pl.UInt64)
        return pl.concat([none, *(names for _, names in self._history if names is not None)])

    def remember(self, rows: pl.DataFrame) -> None:
        """Keep rows for comparing repeats with; the oldest are forgotten."""
        if rows.is_empty():
            return
        self._history.append((rows, None))
        self._history_rows += rows.height
        while self._history_rows - self._history[0][0].height >= HISTORY_ROWS:
            self._history_rows -= self._history.popleft()[0].height


def _moment() -> pl.Expr:
    """The row's own time; null where it is only the receive time, which differs in a repeat."""
    own = pl.col("event_time") != pl.col("ingested_at")
    return pl.when(own).then(pl.col("event_time")).alias("_moment")


@dataclass(frozen=True, slots=True)
class _Run:
    """Rows of one series, one behind the other, whose order values have no step missing between them."""

    first: int
    last: int
    step: int
    begin: int
    columns: tuple[npt.NDArray[np.int64], ...]

    def _place(self, order: int) -> int:
        return self.begin + ((order - self.first) // self.step if self.step else 0)

    def event_us(self, order: int) -> int:
        """Event time of the row with this order value."""
        return int(self.columns[0][self._place(order)])

    def shown(self, order: int) -> Shown:
        """Where the row with this order value is."""
        place = self._place(order)
        _, frames, ordinals, received = self.columns
        return int(frames[place]), int(ordinals[place]), int(received[place])


def _runs(rows: pl.DataFrame, order: str, step: int) -> Iterator[_Run]:
    """The runs of a series' rows, in the order they came; rows without an order value are in none.

    Where no step is known every row is a run of its own, and only those that go beyond all before them matter.
    """
    numbers = rows.get_column(order).cast(pl.Int64)
    if numbers.null_count():
        present = numbers.is_not_null()
        rows, numbers = rows.filter(present), numbers.filter(present)
    orders = numbers.to_numpy()
    if not orders.size:
        return
    names = ("event_time", "frame", "ordinal", "ingested_at")
    columns = tuple(rows.get_column(name).cast(pl.Int64).to_numpy() for name in names)
    if step:
        begins = np.flatnonzero(np.diff(orders, prepend=orders[0] - 2 * step) != step)
    else:
        begins = np.flatnonzero(np.diff(np.maximum.accumulate(orders), prepend=orders[0] - 1))
    ends = np.append(begins[1:], orders.size) - 1 if step else begins
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        yield _Run(int(orders[begin]), int(orders[end]), step, begin, columns)


@dataclass(frozen=True, slots=True)
class _Group:
    first: int
    last: int
    count: int
    nulls: int
    grows: bool
    event_us: int


class _Summary:
    """What `_Group` tells, of any rows of a batch."""

    def __init__(self, rows: pl.DataFrame, order: str, *, shared: bool) -> None:
        self._order, self._shared = order, shared
        column = rows.get_column(order)
        self._missing = column.is_null().to_numpy() if column.null_count() else None
        numbers = column.cast(pl.Int64)
        # With nulls it would become an array of floats.
        self._orders = (numbers if self._missing is None else numbers.fill_null(0)).to_numpy()
        self._events = rows.get_column("event_time")
        self._frames = rows.get_column("frame").to_numpy() if shared else None

    def of(self, places: slice | npt.NDArray[np.int64]) -> _Group:
        """The group of these rows, which are all of one series."""
        orders = self._orders[places]
        last = len(self._events) - 1 if isinstance(places, slice) else int(places[-1])
        event_us = int(self._events.slice(last, 1).cast(pl.Int64)[0])
        nulls = 0 if self._missing is None else int(self._missing[places].sum())
        if nulls:
            return _Group(0, 0, orders.size, nulls, grows=False, event_us=event_us)
        steps = np.diff(orders)
        grows = bool((steps > 0).all())
        if not grows and self._frames is not None:
            within = np.diff(self._frames[places]) == 0
            grows = bool(((steps > 0) | (within & (steps == 0))).all())
        return _Group(int(orders[0]), int(orders[-1]), orders.size, 0, grows, event_us)

    def of_each(self, rows: pl.DataFrame, series: Sequence[str]) -> Iterator[tuple[Series, _Group]]:
        """The groups of all series of the batch, from one query."""
        order = pl.col(self._order).cast(pl.Int64)
        steps = order.diff()
        grows = steps > 0
        if self._shared:
            grows |= (steps == 0) & (pl.col("frame").diff() == 0)
        found = rows.lazy().group_by(series, maintain_order=True).agg(
            first=order.first(),
            last=order.last(),
            count=pl.len(),
            nulls=order.null_count(),
            grows=grows.all(),
            event=pl.col("event_time").last().cast(pl.Int64),
        )  # fmt: skip
        for *names, first, last, count, nulls, up, event in found.collect().iter_rows():
            yield tuple(names), _Group(first or 0, last or 0, count, nulls, grows=up and not nulls, event_us=event)


def _whole(value: int | datetime) -> int:
    """Datetimes as UTC microseconds, numbers as they are."""
    return (value - _EPOCH) // timedelta(microseconds=1) if isinstance(value, datetime) else value


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
