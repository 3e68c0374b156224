"""What sources may ask the store: values that other sources brought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from tidewire.records.record import record_type
from tidewire.store.protocol import EVERYTHING, Query, Store

MOST = 1_000_000
"""So many series are looked at."""


class StoredValues:
    """Reads the latest rows of a store, as `tidewire.collect.Known`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def __call__(self, kind: str, column: str, where: Mapping[str, Sequence[str]]) -> Sequence[str]:
        """The values of a column in the latest rows of a record type, each once, sorted.

        What does not name a series is looked at in its latest row: an instrument that is no longer traded was so once.
        """
        found = record_type(kind)
        names = {name: tuple(values) for name, values in where.items() if name in found.series}
        fields = tuple(dict.fromkeys((column, *where)))
        rows = (await self._store.latest(Query(found, names, snapshot=EVERYTHING, fields=fields, limit=MOST))).rows
        for name, values in where.items():
            rows = rows.filter(pl.col(name).cast(pl.String).is_in(list(values)))
        return rows.get_column(column).drop_nulls().cast(pl.String).unique().sort().to_list()
