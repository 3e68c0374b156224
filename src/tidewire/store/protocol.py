"""What a sink and a store promise; every store is of this shape and inherits the same conformance suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

import polars as pl

from tidewire.records.batch import Batch, Fate, Stream
from tidewire.records.record import RecordType

Order = Literal["asc", "desc"]


@dataclass(frozen=True)
class Query:
    """A read of one record type.

    ``where`` maps column names to accepted values; a value with ``*`` is a pattern. ``start`` and ``end`` bound
    ``event_time``, half-open. ``as_of`` keeps what was public by then, ``snapshot`` what had been ingested by then
    (default: the store's watermark). ``after`` is the position a previous page ended at. ``interval`` resamples
    trades or klines to bars of that length.
    """

    type: RecordType
    where: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    start: datetime | None = None
    end: datetime | None = None
    as_of: datetime | None = None
    snapshot: datetime | None = None
    fields: Sequence[str] = ()
    order: Order = "asc"
    limit: int = 1_000
    after: tuple[int, ...] | None = None
    interval: str | None = None
    revisions: Literal["latest", "all"] = "latest"


@dataclass(frozen=True)
class Result:
    """What a read found.

    ``rows`` are in the order of (event_time, frame, ordinal), in the record type's schema (or the fields asked for).
    ``snapshot`` is the one the read used: asking again with it gives the same answer. ``next`` is where the next
    page begins, ``None`` after the last.
    """

    rows: pl.DataFrame
    snapshot: datetime
    watermark: datetime
    next: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Written:
    """What a commit made of one batch."""

    batch: Batch
    stored: int
    duplicates: int
    revisions: int
    fresh: pl.DataFrame
    """The rows that were new or revised: what ``data.<type>.stored`` carries."""


class Sink(Protocol):
    """Consumes processed batches; its positions are part of its own transactions."""

    def positions(self) -> Mapping[Stream, int]:
        """The last frame durably committed for each stream; a stream not listed is at 0."""
        ...

    async def write(self, batches: Sequence[Batch]) -> list[Written]:
        """Commit batches of any types in one transaction, with rows, rejects, gaps, fates and positions.

        Raises:
            PositionMismatch: a batch does not continue the position of its stream; nothing was committed.
            StoreError: the commit failed; nothing was committed.
        """
        ...


class Store(Sink, Protocol):
    """A sink that also answers reads, concurrently with writes."""

    async def open(self) -> None:
        """Open or create; brings tables of known record types into being."""
        ...

    async def close(self) -> None:
        """Finish the running commit and let go of the file."""
        ...

    def watermark(self, kind: RecordType) -> datetime:
        """Everything of this type received up to here is stored; an answer for an earlier snapshot never changes."""
        ...

    async def read(self, query: Query) -> Result:
        """Rows in a time range, a page at a time."""
        ...

    async def latest(self, query: Query) -> Result:
        """The last row of each series."""
        ...

    async def marks(self, kind: RecordType) -> pl.DataFrame:
        """Per series the highest stored ``order`` value and its event time; columns: series, ``order``, ``event_time``."""
        ...

    async def fates(self) -> Mapping[tuple[str, Fate], int]:
        """How many rows came to which fate, by (record type, `Fate`); ``received`` included."""
        ...

    async def counts(self) -> Mapping[tuple[str, str], int]:
        """Rows actually in the tables, revisions included, by (record type, source): what the fates must agree with."""
        ...
