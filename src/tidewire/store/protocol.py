"""What a sink and a store promise; every store is of this shape and inherits the same conformance suite."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple, Protocol

import polars as pl

from tidewire.records.batch import Batch, Fate, Stream
from tidewire.records.record import RecordType

Order = Literal["asc", "desc"]

EVERYTHING = datetime(2100, 1, 1, tzinfo=UTC)
"""The snapshot of a read that must see all that is committed, the watermark's own moment included."""

JOURNAL = "_journal"
"""The extra column of every table: which journal the row's frame is in. An id of `_journals`; its uuid in answers."""

REVISION = "_revision"
"""The extra column of versions: whether the row is a later version of a stored one."""


class Stretch(NamedTuple):
    """The frames ``(after, last]`` of a journal, as far as they are of one source."""

    journal: str
    source: str
    after: int
    last: int


@dataclass(frozen=True)
class Query:
    """A read of one record type.

    ``where`` maps column names to accepted values; a value with ``*`` is a pattern. ``start`` and ``end`` bound
    ``event_time``, half-open. ``as_of`` keeps what was public by then, ``snapshot`` what had been ingested by then
    (default: the store's watermark). ``after`` is the position a previous page ended at: ask for the next page with
    the ``snapshot`` of the first. ``interval`` resamples trades or klines to bars of that length; klines then need
    exactly one ``interval`` in ``where``, ``start`` and ``end`` are moved up to the next start of a bar, ``as_of``
    leaves out bars that were not closed by then, and bars that end after the snapshot are marked as not final.
    ``revisions="all"`` gives every version of a row, else only the latest that ``as_of`` and ``snapshot`` let through.
    ``prefer`` names sources, the preferred one first: of rows that say the same of several (the same key but for
    ``source``) only that of the first is given, of sources that are not named after all others; not for ``latest``.
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
    prefer: Sequence[str] = ()


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
    """What a commit made of one batch.

    ``stored`` rows are in the store because of it, ``revisions`` of them as another version of a stored row;
    ``stored + duplicates`` is the height of ``batch.rows``.
    """

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

        Calls take turns: a sink that is slow holds up its callers, it keeps no queue of its own.

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
        """Everything of this type received up to here is stored; an answer for an earlier snapshot never changes.

        It is that of the slowest stream of the type; of all types for gaps and quarantined rows, which come with any.
        A read of these two that names no snapshot shows all that is committed: a stream at rest must not hide a gap.
        """
        ...

    async def set_live(self, journals: Collection[str]) -> None:
        """Say which journals still get frames; streams of the others no longer hold watermarks back. Durable."""
        ...

    async def read(self, query: Query) -> Result:
        """Rows in a time range, a page at a time.

        Raises:
            QueryError: the query names something that is not there, or cannot be answered as asked.
            StoreBusy: too many reads wait already.
            StatementTimeout: it took too long.
        """
        ...

    async def latest(self, query: Query) -> Result:
        """The last row of each series, in the order of a read and paged like one; raises what a read raises."""
        ...

    async def marks(self, kind: RecordType) -> pl.DataFrame:
        """Per series the highest stored ``order`` value and its event time; columns: series, order, event_time."""
        ...

    async def fates(self) -> Mapping[tuple[str, Fate], int]:
        """How many rows came to which fate, by (record type, `Fate`); ``received`` included."""
        ...

    async def counts(
        self, start: datetime | None = None, end: datetime | None = None
    ) -> Mapping[tuple[str, str, int], int]:
        """Rows actually in the tables, revisions included: what the fates must agree with.

        By (record type, source, hour of ``ingested_at`` as UTC microseconds of its start); of rows ingested in
        ``[start, end)``.
        """
        ...

    async def of_frames(self, kind: RecordType, stretch: Stretch) -> pl.DataFrame:
        """Every version stored under these frames: the type's columns, ``_journal`` (a uuid) and ``_revision``."""
        ...

    async def strays(
        self, kind: RecordType, source: str, hour: datetime, known: Sequence[Stretch], limit: int
    ) -> pl.DataFrame:
        """Versions ingested in an hour that are of none of the frames ``known``, in the form of `of_frames`.

        At most ``limit``. ``_journal`` is null where the store knows no such journal.
        """
        ...

    async def versions(
        self, kind: RecordType, keys: pl.DataFrame, start: datetime | None = None, end: datetime | None = None
    ) -> pl.DataFrame:
        """Every version of these keys, in the form of `of_frames`; with bounds of ``event_time``, which is quicker.

        ``keys`` has the type's key columns; its others are not looked at.
        """
        ...
