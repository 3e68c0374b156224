"""`LatestCache`: the latest value of each series, fed by processed batches; forming rows included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from tidewire import telemetry
from tidewire.records.batch import Batch
from tidewire.records.record import RecordType
from tidewire.store.where import conditions

_series = telemetry.gauge("cache_series", "Series with a latest value in memory", ("type",))
_evicted = telemetry.counter("cache_evictions", "Series dropped from memory, least recently updated first", ("type",))

MERGE_ROWS = 20_000
MERGE_BATCHES = 256
SMALL = 256

_TURN = "_turn"
_NEWEST = ("event_time", "ingested_at", "frame", "ordinal")


@dataclass
class _Latest:
    """Merged rows, and the last rows of batches not merged yet."""

    rows: pl.DataFrame
    waiting: list[pl.DataFrame] = field(default_factory=list[pl.DataFrame])
    height: int = 0


class LatestCache:
    """The latest row of each series of each type, in memory.

    At most ``max_series`` of each type; beyond that the series that was updated longest ago is dropped and counted:
    the store still knows it. A row whose event time is older than the one known does not replace it.
    """

    def __init__(self, max_series: int = 100_000) -> None:
        self._max_series = max_series
        self._types: dict[str, _Latest] = {}
        self._turn = 0

    def update(self, batch: Batch) -> None:
        """Take in a processed batch."""
        kind = batch.type
        for rows in (batch.rows, batch.forming):
            if rows is not None and rows.height:
                self._turn += 1
                turn = pl.Series(_TURN, [self._turn], dtype=pl.Int64)
                # Finding the ends of a small batch costs more than carrying its rows to the next merge.
                ends = _ends(kind, rows) if rows.height > SMALL else rows
                self._add(kind, ends.hstack([turn.new_from_index(0, ends.height)]))

    def get(self, kind: RecordType, where: Mapping[str, Sequence[str]] | None = None) -> pl.DataFrame:
        """The latest row of each series that fits, in the type's schema, ordered by series.

        Raises:
            QueryError: ``where`` names a column or value that cannot be.
        """
        tests = [condition.expression(kind.schema[condition.column]) for condition in conditions(kind, where or {})]
        known = self._types.get(kind.table)
        if known is None:
            return kind.empty()
        self._merge(kind, known)
        found = known.rows.filter(tests) if tests else known.rows
        return found.drop(_TURN).sort(kind.series)

    def _add(self, kind: RecordType, ends: pl.DataFrame) -> None:
        known = self._types.get(kind.table)
        if known is None or known.rows.schema != ends.schema:  # new, or the type was defined anew
            known = self._types[kind.table] = _Latest(ends.clear())
        known.waiting.append(ends)
        known.height += ends.height
        if known.height > MERGE_ROWS or len(known.waiting) > MERGE_BATCHES:
            self._merge(kind, known)

    def _merge(self, kind: RecordType, known: _Latest) -> None:
        if not known.waiting:
            return
        merged = _ends(kind, pl.concat([known.rows, *known.waiting]))
        if merged.height > self._max_series:
            _evicted.labels(kind.name).inc(merged.height - self._max_series)
            merged = merged.sort(_TURN).tail(self._max_series)
        known.rows, known.waiting, known.height = merged, [], 0
        _series.labels(kind.name).set(merged.height)


def _ends(kind: RecordType, rows: pl.DataFrame) -> pl.DataFrame:
    """The newest row of each series."""
    if rows.height == 1:
        return rows
    return rows.sort(_NEWEST).unique(kind.series, keep="last", maintain_order=True)
