"""What a store has committed beside rows: positions, journals, fates. In memory, and in the transaction's tables."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import duckdb

from tidewire.errors import PositionMismatch, StoreError
from tidewire.records.batch import Batch, Fate, Stream

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MAX_JOURNALS = 65_535
KNOWN_FATES = 50_000
"""How many counters are known to have their row; of others the table is asked."""

FateCounts = Mapping[tuple[str, Fate], int]


class Position(NamedTuple):
    """The last frame committed of a stream, and its receive time in UTC microseconds."""

    last: int
    until_us: int


class Book:
    """What is committed, and what the running transaction would add. Used in the writer's thread."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self.positions: dict[Stream, Position] = {}
        self.retired: frozenset[str] = frozenset()
        self._journals: dict[str, int] = {}
        self._fates: set[tuple[str, Fate]] = set()
        self.load()

    def load(self) -> None:
        """Read from the file what is committed."""
        ask = self._connection.execute
        journals: dict[str, int] = {uuid: id_ for id_, uuid in ask("SELECT id, uuid FROM _journals").fetchall()}
        rows = ask(
            "SELECT j.uuid, p.type, p.lane, p.last, p.until_us FROM _positions p JOIN _journals j ON j.id = p.journal"
        ).fetchall()
        self._journals = journals
        self.retired = frozenset(uuid for (uuid,) in ask("SELECT uuid FROM _journals WHERE NOT live").fetchall())
        self._fates = set()
        self.positions = {Stream(uuid, kind, lane): Position(last, until) for uuid, kind, lane, last, until in rows}

    def moves(self, batches: Sequence[Batch]) -> dict[Stream, Position]:
        """Where the batches move the positions to, one continuing the other.

        Raises:
            PositionMismatch: one does not continue its stream.
        """
        moved: dict[Stream, Position] = {}
        for batch in batches:
            stream, line = batch.stream, batch.lineage
            at = moved.get(stream) or self.positions.get(stream) or Position(0, 0)
            if at.last != line.prev:
                raise PositionMismatch(str(stream), at.last, line.prev)
            moved[stream] = Position(line.last, max(at.until_us, line.until_us))
        return moved

    def journal(self, uuid: str) -> int:
        """The id of a journal; a new one is added in the running transaction."""
        known = self._journals.get(uuid)
        if known is not None:
            return known
        new = max(self._journals.values(), default=0) + 1
        if new > MAX_JOURNALS:
            raise StoreError(f"This file holds rows of {MAX_JOURNALS} journals, no more fit. Begin a new file.")
        self._connection.execute("INSERT INTO _journals VALUES (?, ?, TRUE)", [new, uuid])
        self._journals[uuid] = new
        return new

    def set_live(self, journals: Collection[str]) -> None:
        """Say which journals still get frames; in a transaction of its own."""
        self._connection.execute("UPDATE _journals SET live = list_contains(?, uuid)", [list(journals)])
        self.retired = frozenset(self._journals) - frozenset(journals)

    def write(self, moves: Mapping[Stream, Position], fates: Counter[tuple[str, Fate]]) -> None:
        """Put the new positions and the fates into the running transaction."""
        self._write_positions(moves)
        if fates:
            self._write_fates(fates)

    def adopt(self, moves: Mapping[Stream, Position], fates: FateCounts) -> None:
        """The transaction is committed."""
        self.positions = {**self.positions, **moves}
        if len(self._fates) > KNOWN_FATES:
            self._fates.clear()
        self._fates.update(fates)

    def forget_journals(self) -> None:
        """The transaction was rolled back: ids it gave out are free."""
        found = self._connection.execute("SELECT uuid, id FROM _journals").fetchall()
        self._journals = dict(found)

    def _write_positions(self, moves: Mapping[Stream, Position]) -> None:
        rows = [(self.journal(stream.journal), stream.type, stream.lane, *at) for stream, at in moves.items()]
        old = [row for row, stream in zip(rows, moves, strict=True) if stream in self.positions]
        new = [row for row, stream in zip(rows, moves, strict=True) if stream not in self.positions]
        if old:
            self._run(
                "UPDATE _positions AS p SET last = s.last, until_us = s.until_us FROM given AS s"
                " WHERE p.journal = s.journal AND p.type = s.type AND p.lane = s.lane",
                _POSITION,
                old,
            )
        if new:
            self._run("INSERT INTO _positions SELECT * FROM given", _POSITION, new)

    def _write_fates(self, fates: Counter[tuple[str, Fate]]) -> None:
        rows = {name: (name[0], *name[1], n) for name, n in fates.items()}
        first_hour = min(fate.hour_us for _, fate in fates)
        same = "f.type = s.type AND f.source = s.source AND f.hour_us = s.hour_us AND f.fate = s.fate"
        # Bounded by the hour: the table grows for years, a commit touches its end.
        bound = f"{same} AND f.hour_us >= {first_hour:d}"
        self._run(f"UPDATE _fates AS f SET n = f.n + s.n FROM given AS s WHERE {bound}", _FATE, rows.values())
        new = [row for name, row in rows.items() if name not in self._fates]
        if new:
            self._run(
                "INSERT INTO _fates SELECT * FROM given AS s"
                f" WHERE NOT EXISTS (SELECT 1 FROM _fates AS f WHERE {bound})",
                _FATE,
                new,
            )

    def _run(self, statement: str, columns: Mapping[str, str], rows: Collection[tuple[Any, ...]]) -> None:
        """Run a statement on a few rows, called ``given``. Bound values: half the cost of a registered frame."""
        row = "(" + ", ".join(f"?::{type_}" for type_ in columns.values()) + ")"
        given = f"given({', '.join(columns)}) AS (VALUES {', '.join([row] * len(rows))})"
        self._connection.execute(f"WITH {given} {statement}", list(itertools.chain.from_iterable(rows)))


_POSITION = {"journal": "USMALLINT", "type": "VARCHAR", "lane": "INTEGER", "last": "BIGINT", "until_us": "BIGINT"}
_FATE = {"type": "VARCHAR", "source": "VARCHAR", "hour_us": "BIGINT", "fate": "VARCHAR", "n": "BIGINT"}


def watermark(positions: Mapping[Stream, Position], kind: str | None, retired: Collection[str] = ()) -> datetime:
    """The receive time up to which all streams of a type are committed (of all types, if ``None``).

    Streams of retired journals get no frames any more and hold nothing back, unless there are no others.
    """
    mine = {stream: at for stream, at in positions.items() if kind is None or stream.type == kind}
    live = [at.until_us for stream, at in mine.items() if stream.journal not in retired]
    untils = live or [at.until_us for at in mine.values()]
    # Another frame may have come in the very microsecond of the last one.
    return EPOCH + timedelta(microseconds=min(untils)) - MICROSECOND if untils and min(untils) else EPOCH
