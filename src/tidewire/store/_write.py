"""The writer: one connection, one thread, one transaction for everything a call brings."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
import polars as pl

from tidewire import telemetry
from tidewire.errors import StoreError
from tidewire.records.batch import Batch, Fate, Stream, fates_of
from tidewire.records.clock import Clock
from tidewire.records.ops import Finding, Gap, Quarantined
from tidewire.records.record import RecordType, types
from tidewire.store._book import Book, Position
from tidewire.store._cold import Cold, is_sealed
from tidewire.store._once import DUPLICATE, REVISION, Judge, Key, Marks
from tidewire.store._schema import Tables, columns_of, quoted, registered, revisions_table
from tidewire.store.protocol import JOURNAL, Written

RIDERS = (Gap.type, Quarantined.type, Finding.type)
"""Types whose rows come with batches of other types."""

_log = telemetry.log("store")
_commits = telemetry.counter("store_commits", "Transactions, by how they ended", ("outcome",))
_seconds = telemetry.histogram("store_commit_seconds", "From the first insert to the end of the commit")
_rows = telemetry.counter("store_rows", "Rows by what became of them", ("type", "outcome"))


@dataclass
class _Part:
    """Rows of one type out of one batch; ``place`` is the batch's, or -1 for rows that ride on it."""

    rows: pl.DataFrame
    journal: int
    place: int


@dataclass
class _Outcome:
    """What the running transaction did, for when it is committed."""

    written: list[Written]
    fates: Counter[tuple[str, Fate]] = field(default_factory=Counter[tuple[str, Fate]])
    marks: list[tuple[RecordType, Key, int]] = field(default_factory=list[tuple[RecordType, Key, int]])
    revised: Counter[str] = field(default_factory=Counter[str])
    newest_us: dict[str, int] = field(default_factory=dict[str, int])
    counts: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])


@dataclass(frozen=True)
class Unsure:
    """A commit that failed, or seemed to."""

    before: Mapping[Stream, Position]
    moves: Mapping[Stream, Position]
    written: list[Written]

    def happened(self, now: Mapping[Stream, Position]) -> bool:
        """Whether the positions read back from the file say that it was committed after all."""
        moved = {stream: at for stream, at in self.moves.items() if at != self.before.get(stream)}
        return bool(moved) and all(now.get(stream) == at for stream, at in moved.items())


class Writer:
    """Writes batches; every method runs in the writer's thread.

    ``book`` and ``newest_us`` may be read from other threads: what they refer to is replaced, never changed.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, max_series: int, clock: Clock, cold: Cold | None = None
    ) -> None:
        self._connection = connection
        self._cold = cold
        self._clock = clock
        self._max_series = max_series
        self.tables = Tables(connection)
        self.book = Book(connection)
        self._marks = Marks(max_series)
        self.revised: dict[str, int] = {}
        """Rows in the ``_revisions`` table of each type's table."""
        self.newest_us: dict[str, int] = {}
        """Latest ``ingested_at`` of the types that ride on others, by table."""
        self.doubt = False
        """Whether the end of the last transaction is unknown."""
        self.unsure: Unsure | None = None
        """The commit whose end is unknown."""
        self.ensure(types().values())

    def ensure(self, kinds: Iterable[RecordType]) -> None:
        """Bring the tables of types into being, and know what is in them."""
        missing = [kind for kind in kinds if not self.tables.ready(kind)]
        if not missing:
            return
        self._connection.begin()
        try:
            for kind in missing:
                self.tables.ensure(kind, sealed=self._cold is not None and is_sealed(kind))
            self._connection.commit()
        except BaseException:
            self.tables.forget(missing)
            with contextlib.suppress(duckdb.Error):
                self._connection.rollback()
            raise
        for kind in missing:
            self._look_into(kind)

    def _look_into(self, kind: RecordType) -> None:
        ask = self._connection.execute
        (count,) = ask(f"SELECT count(*) FROM {quoted(revisions_table(kind))}").fetchall()[0]
        self.revised = {**self.revised, kind.table: count}
        if kind in RIDERS:
            both = " UNION ALL ".join(
                f"SELECT max(ingested_at) AS _last FROM {quoted(table)}"
                for table in (kind.table, revisions_table(kind))
            )
            (newest,) = ask(f"SELECT coalesce(epoch_us(max(_last)), 0) FROM ({both})").fetchall()[0]
            self.newest_us = {**self.newest_us, kind.table: newest}
        self._marks.load(self._connection, kind, sealed=self._cold is not None and self._cold.reach(kind) is not None)

    def read_back(self) -> None:
        """After a commit whose end is unknown: take everything known in memory from the file again."""
        with contextlib.suppress(duckdb.Error):  # there may be no transaction left to end
            self._connection.rollback()
        self.book.load()
        self._marks = Marks(self._max_series)
        for kind in types().values():
            if self.tables.ready(kind):
                self._look_into(kind)
        self.doubt = False
        self.unsure = None

    def write(self, batches: Sequence[Batch]) -> list[Written]:
        """Commit the batches, all or none.

        Raises:
            PositionMismatch: one does not continue its stream.
            StoreError: the transaction failed; ``doubt`` tells whether its end is unknown.
        """
        started = self._clock.mono_ns()
        moves = self.book.moves(batches)
        for batch in batches:
            _check_shape(batch)
        try:
            self.ensure({batch.type.name: batch.type for batch in batches}.values())
            self._connection.begin()
        except duckdb.Error as error:
            _commits.labels("failed").inc()
            raise StoreError(f"The store cannot begin a transaction: {error}") from error
        try:
            outcome = self._insert(batches)
            self.book.write(moves, outcome.fates)
        except BaseException as error:
            self._undo()
            _commits.labels("failed").inc()
            if isinstance(error, (duckdb.Error, pl.exceptions.PolarsError)):
                raise StoreError(f"Nothing was stored, the transaction failed: {error}") from error
            raise
        self._end(moves, outcome)
        # A reader looks at the positions first: what they promise must be known by then.
        self._adopt(outcome)
        self.book.adopt(moves, outcome.fates)
        _commits.labels("committed").inc()
        _seconds.observe((self._clock.mono_ns() - started) / 1e9)
        return outcome.written

    def _commit(self) -> None:
        self._connection.commit()

    def _end(self, moves: Mapping[Stream, Position], outcome: _Outcome) -> None:
        try:
            self._commit()
        except duckdb.Error as error:
            self.doubt = True
            self.unsure = Unsure(self.book.positions, moves, outcome.written)
            _commits.labels("unknown").inc()
            raise StoreError(f"The commit of {len(outcome.written)} batches failed: {error}") from error

    def _undo(self) -> None:
        try:
            self._connection.rollback()
            self.book.forget_journals()
        except duckdb.Error as error:
            # A transaction the engine has already ended, or an engine that is broken: the file decides.
            _log.warning("rollback_failed", error=str(error))
            self.doubt = True

    def _insert(self, batches: Sequence[Batch]) -> _Outcome:
        parts: dict[RecordType, list[_Part]] = {}
        outcome = _Outcome([Written(batch, 0, 0, 0, batch.rows.clear()) for batch in batches])
        for place, batch in enumerate(batches):
            journal = self.book.journal(batch.lineage.journal)
            if batch.rows.height:
                parts.setdefault(batch.type, []).append(_Part(batch.rows, journal, place))
            for kind, rows in _riding(batch):
                if rows is not None and rows.height:
                    parts.setdefault(kind, []).append(_Part(rows, journal, -1))
            outcome.fates.update({(batch.type.name, fate): count for fate, count in batch.fates.items()})
        judge = Judge(self._connection, self._marks, self.revised, self._cold)
        for kind, some in parts.items():
            self._insert_type(judge, kind, some, outcome)
        return outcome

    def _insert_type(self, judge: Judge, kind: RecordType, parts: list[_Part], outcome: _Outcome) -> None:
        rows = pl.concat([_with_journal(kind, part) for part in parts])
        verdict, raised = _in_order(judge, kind, rows)
        outcome.marks += [(kind, series, mark) for series, mark in raised.items()]
        if verdict is None:
            self._append(kind, kind.table, rows)
        else:
            self._append(kind, kind.table, rows.filter(verdict < DUPLICATE))
            revisions = rows.filter(verdict == REVISION)
            self._append(kind, revisions_table(kind), revisions)
            outcome.revised[kind.table] += revisions.height
        if kind in RIDERS:
            newest = rows["ingested_at"].to_physical().max()
            outcome.newest_us[kind.table] = newest if isinstance(newest, int) else 0
        start = 0
        for part in parts:
            own = None if verdict is None else verdict.slice(start, part.rows.height)
            self._account(kind, part, own, outcome)
            start += part.rows.height

    def _append(self, kind: RecordType, table: str, rows: pl.DataFrame) -> None:
        if rows.is_empty():
            return
        names = columns_of([*kind.schema, JOURNAL])
        with registered(self._connection, "_rows", rows):
            self._connection.execute(f"INSERT INTO {quoted(table)} ({names}) SELECT {names} FROM _rows")

    def _account(self, kind: RecordType, part: _Part, verdict: pl.Series | None, outcome: _Outcome) -> None:
        duplicates = 0 if verdict is None else int((verdict == DUPLICATE).sum())
        revisions = 0 if verdict is None else int((verdict == REVISION).sum())
        stored = part.rows.height - duplicates
        outcome.counts.update(
            {
                (kind.name, "stored"): stored - revisions,
                (kind.name, "revision"): revisions,
                (kind.name, "duplicate"): duplicates,
            }
        )
        if part.place < 0:
            return
        fresh = part.rows if verdict is None or not duplicates else part.rows.filter(verdict != DUPLICATE)
        outcome.fates.update({(kind.name, fate): n for fate, n in fates_of(fresh, "stored").items()})
        if verdict is not None and duplicates:
            again = part.rows.filter(verdict == DUPLICATE)
            outcome.fates.update({(kind.name, fate): n for fate, n in fates_of(again, "duplicate").items()})
        batch = outcome.written[part.place].batch
        outcome.written[part.place] = Written(batch, stored, duplicates, revisions, fresh)

    def _adopt(self, outcome: _Outcome) -> None:
        for kind, series, mark in outcome.marks:
            self._marks.raise_to(kind, series, mark)
        if outcome.revised:
            self.revised = {**self.revised, **Counter(self.revised) + outcome.revised}
        if outcome.newest_us:
            newest = {table: max(at, self.newest_us.get(table, 0)) for table, at in outcome.newest_us.items()}
            self.newest_us = {**self.newest_us, **newest}
        for (kind, what), count in outcome.counts.items():
            if count:
                _rows.labels(kind, what).inc(count)


def _riding(batch: Batch) -> Iterable[tuple[RecordType, pl.DataFrame | None]]:
    return zip(RIDERS, (batch.gaps, batch.rejected, batch.findings), strict=True)


def _check_shape(batch: Batch) -> None:
    """A frame of another shape would be an engine's error about a column nobody named."""
    for kind, rows in ((batch.type, batch.rows), *_riding(batch)):
        if rows is None or rows.schema == kind.schema:
            continue
        wrong = sorted(set(rows.schema.items()) ^ set(kind.schema.items()), key=str)
        names = ", ".join(dict.fromkeys(name for name, _ in wrong)) or "their order"
        raise StoreError(f"A batch of {batch.stream} carries rows that are not {kind.name} rows: see {names}.")


def _in_order(judge: Judge, kind: RecordType, rows: pl.DataFrame) -> tuple[pl.Series | None, dict[Key, int]]:
    """What each row is. Rows that ride on others come in the order of those; their own order is that of their frames.

    By receipt first: a decision about a quarantined row bears the frame and place of the row itself.
    """
    if kind not in RIDERS or rows.height < 2:
        return judge.classify(kind, rows)
    order = rows.select(pl.arg_sort_by("ingested_at", "frame", "ordinal", JOURNAL, maintain_order=True)).to_series()
    verdict, raised = judge.classify(kind, rows[order])
    return None if verdict is None else verdict[order.arg_sort()], raised


def _with_journal(kind: RecordType, part: _Part) -> pl.DataFrame:
    journal = pl.Series(JOURNAL, [part.journal], dtype=pl.UInt16).new_from_index(0, part.rows.height)
    return part.rows.with_columns(journal)
