"""Queries as SQL. Values are always bound, names always quoted; what a query names is checked against the type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import duckdb
import polars as pl

from tidewire.derive.resample import Grid, coarser, finish, grid
from tidewire.errors import QueryError
from tidewire.records.market import Kline, Trade
from tidewire.records.record import RecordType
from tidewire.store._book import EPOCH, MICROSECOND
from tidewire.store._cold import Bounds, Cold, is_sealed
from tidewire.store._once import RECEIPT_DRIFT_US
from tidewire.store._schema import (
    MARK,
    MARKED_AT,
    columns_of,
    fetch,
    last_table,
    quoted,
    revisions_table,
    shaped,
)
from tidewire.store.protocol import JOURNAL, Query
from tidewire.store.where import Condition, conditions, known_column

PLACE = ("event_time", "frame", "ordinal", JOURNAL, "_row")
"""What rows are ordered by, and what a page ends at. The last tells apart rows found at the same frame and place."""

_DRIFT = timedelta(microseconds=RECEIPT_DRIFT_US)


@dataclass(frozen=True)
class Page:
    """Rows, and where the next page begins."""

    rows: pl.DataFrame
    next: tuple[int, ...] | None


class _Values:
    """Values bound to a statement, by name."""

    def __init__(self) -> None:
        self.bound: dict[str, Any] = {}

    def __call__(self, value: Any) -> str:
        name = f"v{len(self.bound)}"
        self.bound[name] = value
        return f"${name}"


class Reading:
    """One query, checked, at a fixed snapshot; its methods run in a reader's thread.

    ``revised`` says whether the type has revisions at all.

    Raises:
        QueryError: something in the query that cannot be answered.
    """

    def __init__(self, query: Query, snapshot: datetime, *, revised: bool, cold: Cold | None = None) -> None:
        self._query = query
        self._cold = cold
        self._kind = query.type
        self._snapshot = snapshot
        self._revised = revised
        self._bars = _bars(query) if query.interval else None
        self._conditions = conditions(query.type, query.where)
        _check(query, 2 if self._bars else len(PLACE))
        if self._bars:
            for name in query.where:
                if name not in {*self._kind.series, "interval"}:
                    raise QueryError(
                        f"Bars are made of whole series; {name!r} does not name one. Filter by "
                        f"{', '.join(self._kind.series)}."
                    )

    def read(self, connection: duckdb.DuckDBPyConnection) -> Page:
        """The rows in order, one page."""
        if self._bars is not None:
            return self._read_bars(connection, self._bars)
        values = _Values()
        found = self._preferred(self._found(connection, values), values)
        return self._page(connection, f"WITH found AS ({found})", values)

    def latest(self, connection: duckdb.DuckDBPyConnection) -> Page:
        """The last row of each series, one page."""
        if self._bars is not None:
            raise QueryError("The latest row is not resampled; ask for a range with an interval instead.")
        values = _Values()
        series = columns_of(self._kind.series)
        same = " AND ".join(f"a.{quoted(n)} IS NOT DISTINCT FROM b.{quoted(n)}" for n in self._kind.series)
        # In two steps: the window looks at a few rows of each series, not at the whole table.
        text = (
            f"WITH whole AS ({self._found(connection, values, self._ends(connection))}),"
            f" ends AS (SELECT {series}, max(event_time) AS _end FROM whole GROUP BY ALL),"
            f" found AS (SELECT a.* FROM whole AS a JOIN ends AS b ON {same} AND a.event_time = b._end"
            f" QUALIFY row_number() OVER (PARTITION BY {columns_of(self._kind.series, 'a')}"
            f" ORDER BY a.frame DESC, a.ordinal DESC, a.{JOURNAL} DESC, a._row DESC) = 1)"
        )
        return self._page(connection, text, values)

    def _preferred(self, found: str, values: _Values) -> str:
        """Of rows that say the same of several sources, the one of the source that is preferred."""
        prefer = self._query.prefer
        if not prefer:
            return found
        ranks = " ".join(f"WHEN {values(source)} THEN {place}" for place, source in enumerate(prefer))
        same = columns_of(name for name in self._kind.key if name != "source") or "source"
        return (
            f"SELECT * FROM ({found}) QUALIFY row_number() OVER (PARTITION BY {same}"
            f" ORDER BY CASE source {ranks} ELSE {len(prefer)} END, source, frame DESC, ordinal DESC, _row DESC) = 1"
        )

    def _page(self, connection: duckdb.DuckDBPyConnection, found: str, values: _Values) -> Page:
        query = self._query
        names = list(query.fields) or list(self._kind.schema)
        extra = [name for name in ("event_time", "frame", "ordinal") if name not in names]
        down = " DESC" if query.order == "desc" else ""
        order = ", ".join(name + down for name in PLACE)
        rows = fetch(
            connection,
            f"{found} SELECT {columns_of([*names, *extra])}, {JOURNAL}, _row FROM found{self._beyond(values)}"
            f" ORDER BY {order} LIMIT {values(query.limit + 1)}",
            values.bound,
        )
        more = rows.height > query.limit
        rows = rows.head(query.limit)
        place = rows.select(pl.col(name).to_physical() for name in PLACE).row(-1) if more else None
        fitting = shaped(self._kind, rows).select(names)
        return Page(fitting, place)

    def _beyond(self, values: _Values) -> str:
        """Rows after the place the page before ended at."""
        after = self._query.after
        if after is None:
            return ""
        than = ">" if self._query.order == "asc" else "<"
        moment = values(EPOCH + after[0] * MICROSECOND)
        place = ", ".join(values(part) for part in after[1:])
        return (
            f" WHERE event_time {than}= {moment} AND (event_time {than} {moment}"
            f" OR row(frame, ordinal, {JOURNAL}::BIGINT, _row) {than} row({place}))"
        )

    def _found(self, connection: duckdb.DuckDBPyConnection, values: _Values, parts: Sequence[str] | None = None) -> str:
        """The statement for all rows the query means, before order and paging.

        ``parts`` are statements for the sealed rows among them; without it, those of all files that are needed.
        """
        kind, query = self._kind, self._query
        names = columns_of(kind.schema)
        visible = self._visible(values)
        wanted = [*visible, *_within("event_time", query.start, query.end, values), *self._matching(values)]
        if parts is None:
            parts = [] if self._cold is None else self._cold.parts(connection, kind, self._bounds())
        first = f"SELECT {names}, {JOURNAL}, {self._row(0)} AS _row FROM {quoted(kind.table)} AS t WHERE {_all(wanted)}"
        if parts:
            # One relation, so that what the query means is tested, and pushed down, in one place.
            hot = f"SELECT {names}, {JOURNAL} FROM {quoted(kind.table)}"
            both = " UNION ALL ".join([hot, *parts])
            first = f"SELECT {names}, {JOURNAL}, {self._row(0)} AS _row FROM ({both}) AS t WHERE {_all(wanted)}"
        if not self._any_revision(connection):
            return first
        table = quoted(revisions_table(kind))
        later = f"SELECT *, {self._row(1)} AS _row FROM {table} WHERE {_all(self._near(values))}"
        chosen = f"SELECT {names}, {JOURNAL}, _row"
        if query.revisions == "all":
            return f"{first} UNION ALL {chosen} FROM ({later}) WHERE {_all(wanted)}"
        same = " AND ".join(f"t.{quoted(name)} IS NOT DISTINCT FROM r.{quoted(name)}" for name in kind.key)
        newest = (
            f"{chosen} FROM ({later}) QUALIFY row_number() OVER (PARTITION BY {columns_of(kind.key)}"
            f" ORDER BY ingested_at DESC, frame DESC, ordinal DESC, {JOURNAL} DESC, _row DESC) = 1"
        )
        return (
            f"{first} AND NOT EXISTS (SELECT 1 FROM ({later}) AS r WHERE {same})"
            f" UNION ALL {chosen} FROM ({newest}) WHERE {_all(wanted)}"
        )

    def _row(self, revision: int) -> str:
        """SQL for what tells rows of one frame and place apart.

        Where rows may be sealed and removed from the table, their numbers there change between two pages.
        """
        if self._cold is None or not is_sealed(self._kind):
            return f"rowid * 2 + {revision:d}"
        return f"(hash({columns_of([*self._kind.key, 'ingested_at'])}) >> 2)::BIGINT * 2 + {revision:d}"

    def _bounds(self) -> Bounds:
        """What sealed files the query can need."""
        start, end = (
            None if at is None else (at - EPOCH) // MICROSECOND for at in (self._query.start, self._query.end)
        )
        sources = next((each for each in self._conditions if each.column == "source"), None)
        return Bounds(
            event=(start, end),
            ingested=(None, (self._snapshot - EPOCH) // MICROSECOND),
            sources=() if sources is None or sources.patterns else sources.values,
        )

    def _ends(self, connection: duckdb.DuckDBPyConnection) -> list[str] | None:
        """Sealed rows that are enough to find the last row of each series; None: all are needed.

        The last sealed row of each series is known. It is not enough where it is not among the rows the query means,
        so that one before it may be, or where a revision moved its fact to another time.
        """
        kind, cold = self._kind, self._cold
        if cold is None or cold.reach(kind) is None:
            return []
        values = _Values()
        last = quoted(last_table(kind))
        series = _all(_test(kind, each, values) for each in self._conditions if each.column in kind.series)
        begun = _all(_within("event_time", self._query.start, None, values))
        ended = _within("event_time", None, self._query.end, values)
        wanted = _all([*self._visible(values), *ended, *self._matching(values)])
        doubts = [f"SELECT 1 FROM {last} WHERE ({series}) AND {begun} AND ({wanted}) IS NOT TRUE"]
        if self._revised:
            same = " AND ".join(f"s.{quoted(name)} IS NOT DISTINCT FROM r.{quoted(name)}" for name in kind.key)
            moved = f"{same} AND s.event_time <> r.event_time"
            doubts.append(f"SELECT 1 FROM {last} AS s JOIN {quoted(revisions_table(kind))} AS r ON {moved}")
        text = f"SELECT 1 FROM ({' UNION ALL '.join(doubts)}) LIMIT 1"
        if connection.execute(text, values.bound).fetchall():
            return None
        return [f"SELECT {columns_of([*kind.schema, JOURNAL])} FROM {last}"]

    def _any_revision(self, connection: duckdb.DuckDBPyConnection) -> bool:
        """Whether a revision could show in the answer; normally none could, and the read is one plain scan."""
        if not self._revised:
            return False
        values = _Values()
        text = f"SELECT 1 FROM {quoted(revisions_table(self._kind))} WHERE {_all(self._near(values))} LIMIT 1"
        return bool(connection.execute(text, values.bound).fetchall())

    def _visible(self, values: _Values) -> list[str]:
        tests = [f"ingested_at <= {values(self._snapshot)}"]
        if self._query.as_of is not None:
            tests.append(f"public_at <= {values(self._query.as_of)}")
        return tests

    def _near(self, values: _Values) -> list[str]:
        """Visible revisions of rows in the range: their event times are at most a drift away from it."""
        if self._kind.reference:
            return self._visible(values)
        start, end = self._query.start, self._query.end
        low = None if start is None else start - _DRIFT
        high = None if end is None else end + _DRIFT
        return [*self._visible(values), *_within("event_time", low, high, values)]

    def _matching(self, values: _Values) -> list[str]:
        return [_test(self._kind, condition, values) for condition in self._conditions]

    def _read_bars(self, connection: duckdb.DuckDBPyConnection, cells: Grid) -> Page:
        query = self._query
        aligned = replace(
            query,
            start=None if query.start is None else cells.ceil(query.start),
            end=None if query.end is None else cells.ceil(query.end),
        )
        values = _Values()
        plain = replace(aligned, interval=None, after=None, fields=())
        inner = Reading(plain, self._snapshot, revised=self._revised, cold=self._cold)
        found = inner._found(connection, values)
        opens = f"(epoch_us({'event_time' if self._kind is Trade.type else 'open_time'}) - {cells.offset_us})"
        opens = f"({opens} // {cells.step_us}) * {cells.step_us} + {cells.offset_us}"
        columns = _TRADE_BARS if self._kind is Trade.type else _KLINE_BARS
        counted = " WHERE off_book IS NULL" if self._kind is Trade.type else ""
        limits: list[str] = []
        if query.as_of is not None:
            limits.append(f"greatest(max(public_at), {_time('open_us', cells.step_us)}) <= {values(query.as_of)}")
        skip, beyond = 0, ""
        if query.after is not None:
            than = ">=" if query.order == "asc" else "<="
            beyond = f" WHERE open_us {than} {values(query.after[0])}"
            skip = query.after[1]
        down = " DESC" if query.order == "desc" else ""
        bars = fetch(
            connection,
            f"WITH found AS ({found}), cut AS (SELECT *, {opens} AS open_us FROM found{counted})"
            f" SELECT source, instrument, open_us, {columns} FROM cut{beyond}"
            f" GROUP BY source, instrument, open_us{' HAVING ' + limits[0] if limits else ''}"
            f" ORDER BY open_us{down}, source{down}, instrument{down} LIMIT {values(query.limit + 1)}"
            f" OFFSET {values(skip)}",
            values.bound,
        )
        more = bars.height > query.limit
        bars = bars.head(query.limit)
        rows = finish(bars, cells, self._snapshot)
        if query.order == "desc":
            rows = rows.reverse()
        place = _bar_place(bars, query.after) if more else None
        return Page(rows.select(list(query.fields) or list(Kline.type.schema)), place)


def marks(connection: duckdb.DuckDBPyConnection, kind: RecordType, *, sealed: bool) -> pl.DataFrame:
    """Per series the highest stored order and its event time; ``sealed``: some rows are in files."""
    series = columns_of(kind.series)
    order = quoted(kind.order or "event_time")
    tables = " UNION ALL ".join(
        f"SELECT {series}, {order} AS _mark, event_time AS _at FROM {quoted(table)}"
        for table in (kind.table, revisions_table(kind))
    )
    if sealed:
        tables += f" UNION ALL SELECT {series}, {MARK}, {MARKED_AT} FROM {quoted(last_table(kind))}"
    found = fetch(
        connection,
        f"SELECT {series}, max(_mark) AS _mark, max_by(_at, _mark) AS _at FROM ({tables})"
        f" WHERE _mark IS NOT NULL GROUP BY ALL ORDER BY ALL",
        {},
    )
    types = [*(kind.schema[name] for name in kind.series), kind.schema[kind.order or "event_time"]]
    shape = dict(zip([*kind.series, "order", "event_time"], [*types, kind.schema["event_time"]], strict=True))
    columns = [
        column.cast(dtype).alias(name) for column, (name, dtype) in zip(found.get_columns(), shape.items(), strict=True)
    ]
    return pl.DataFrame(columns)


_TRADE_FIRST = "row(event_time, coalesce(sequence, 9223372036854775807), frame, ordinal, trade_id)"
_TRADE_BARS = f"""
  min_by(price, {_TRADE_FIRST}) AS open, max(price) AS high, min(price) AS low, max_by(price, {_TRADE_FIRST}) AS close,
  sum(size) AS volume, sum(price * size) AS amount, count(*) AS trades,
  CASE WHEN count(side) = count(*) THEN coalesce(sum(size) FILTER (side = 'buy'), 0) END AS buy_volume,
  CASE WHEN count(side) = count(*) THEN coalesce(sum(price * size) FILTER (side = 'buy'), 0) END AS buy_amount,
  max(public_at) AS public_at, max(ingested_at) AS ingested_at,
  max_by(frame, {_TRADE_FIRST}) AS frame, max_by(ordinal, {_TRADE_FIRST}) AS ordinal
"""

_KLINE_FIRST = "row(open_time, frame, ordinal)"
_KLINE_BARS = f"""
  arg_min_null(open, {_KLINE_FIRST}) AS open, arg_max_null(close, {_KLINE_FIRST}) AS close,
  CASE WHEN count(high) = count(*) THEN max(high) END AS high,
  CASE WHEN count(low) = count(*) THEN min(low) END AS low,
  {
    ", ".join(
        f"CASE WHEN count({name}) = count(*) THEN sum({name}) END AS {name}"
        for name in ("volume", "amount", "trades", "buy_volume", "buy_amount")
    )
},
  max(public_at) AS public_at, max(ingested_at) AS ingested_at,
  max_by(frame, {_KLINE_FIRST}) AS frame, max_by(ordinal, {_KLINE_FIRST}) AS ordinal
"""


def _bar_place(bars: pl.DataFrame, after: tuple[int, ...] | None) -> tuple[int, ...]:
    """The start of the last bar of the page, and how many bars of that start were given out."""
    last = int(bars["open_us"][-1])
    given = int((bars["open_us"] == last).sum())
    return (last, given + (after[1] if after is not None and after[0] == last else 0))


def _time(micros: str, plus: int) -> str:
    return f"make_timestamptz({micros} + {plus})"


def _bars(query: Query) -> Grid:
    assert query.interval is not None
    if query.type is Trade.type:
        return grid(query.interval)
    if query.type is not Kline.type:
        raise QueryError(f"Only trades and klines make bars; {query.type.name} has no interval to change.")
    parts = query.where.get("interval", ())
    if len(parts) != 1 or "*" in parts[0]:
        raise QueryError("Say which klines the longer ones are made of: filter by one interval, such as '1m'.")
    return coarser(parts[0], query.interval)


def _check(query: Query, places: int) -> None:
    shown = Kline.type if query.interval else query.type
    for name in query.fields:
        known_column(shown, name)
    if query.prefer and (query.interval or query.revisions == "all"):
        what = "bars that are made of others" if query.interval else "revisions=all"
        raise QueryError(f"prefer cannot be had with {what}: name one source instead.")
    if query.limit < 1:
        raise QueryError(f"A limit of {query.limit} gives no rows; valid: 1 and up.")
    if query.after is not None and len(query.after) != places:
        raise QueryError("This position belongs to another kind of query; begin at the first page.")
    for name in ("start", "end", "as_of", "snapshot"):
        moment: datetime | None = getattr(query, name)
        if moment is not None and moment.tzinfo is None:
            raise QueryError(f"{name}={moment.isoformat()} has no time zone; add one, such as 'Z' for UTC.")


def _test(kind: RecordType, condition: Condition, values: _Values) -> str:
    column = quoted(condition.column)
    dtype = kind.schema[condition.column]
    cast = f"::DECIMAL({dtype.precision}, {dtype.scale})" if isinstance(dtype, pl.Decimal) else ""
    found = [str(value) if cast else value for value in condition.values]
    tests = [f"{column} = {values(value)}{cast}" for value in found]
    tests += [f"{column} LIKE {values(like)} ESCAPE '\\'" for like in condition.likes()]
    return f"({' OR '.join(tests)})"


def _within(column: str, start: datetime | None, end: datetime | None, values: _Values) -> list[str]:
    tests = [] if start is None else [f"{column} >= {values(start)}"]
    return tests if end is None else [*tests, f"{column} < {values(end)}"]


def _all(tests: Iterable[str]) -> str:
    return " AND ".join(tests) or "true"
