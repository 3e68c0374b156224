"""`Batch`: rows of one record type with their lineage, the unit that travels the pipe.

A batch on (journal, type, lane) covers the frames ``(prev, last]``. It carries everything those frames came to for
its type: good rows, forming rows, rows that failed, gaps found, and the count of each fate, so that a sink can
commit all of it with one position in one transaction. A batch without rows only moves the position (a progress
mark).
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec
import polars as pl
import pyarrow as pa
import xxhash

from tidewire.errors import NotFound, ParseError
from tidewire.records.ops import Finding, Gap, Quarantined
from tidewire.records.record import RecordType, record_type

FORMAT = 1
_CHECKSUM = 16

FATES = ("stored", "quarantined", "duplicate", "folded", "superseded", "filtered", "control")
"""What can become of a parsed row; ``received`` counts them all before their fate is known."""

HOUR_US = 3_600_000_000


class Stream(NamedTuple):
    """What a position belongs to."""

    journal: str
    type: str
    lane: int

    def __str__(self) -> str:
        return f"{self.journal[:8]}/{self.type}/{self.lane}"


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a batch comes from: the frames ``(prev, last]`` of one journal, as far as they concern one lane.

    ``until_us`` is the receive time of frame ``last``, UTC microseconds.
    """

    journal: str
    lane: int
    prev: int
    last: int
    until_us: int
    trace_id: str

    def __post_init__(self) -> None:
        if not 0 <= self.prev <= self.last:
            raise ValueError(f"a batch covers (prev, last], found ({self.prev}, {self.last}]")


class Fate(NamedTuple):
    """What is counted: rows of a source in an hour (UTC microseconds of its start) that came to the same end."""

    source: str
    hour_us: int
    fate: str


def fates_of(rows: pl.DataFrame, fate: str) -> Counter[Fate]:
    """Count rows by source and hour of receipt under one fate."""
    if rows.is_empty():
        return Counter()
    source, at = rows["source"], rows["ingested_at"].cast(pl.Int64)
    first, last = int(at.min() or 0) // HOUR_US, int(at.max() or 0) // HOUR_US  # pyright: ignore[reportArgumentType]
    if first == last and source.min() == source.max():  # almost every batch
        return Counter({Fate(str(source[0]), first * HOUR_US, fate): rows.height})
    hours = pl.DataFrame([source, (at // HOUR_US * HOUR_US).alias("hour")]).group_by("source", "hour").len()
    return Counter({Fate(name, hour, fate): count for name, hour, count in hours.iter_rows()})


@dataclass(frozen=True)
class Batch:
    """Rows of one type from the frames ``(prev, last]``, and what became of those that are not among them.

    ``rows``: good rows, in the order of (frame, ordinal). ``forming``: rows that are not final yet; for the bus and
    the cache, never stored. ``rejected``: `Quarantined` rows, decisions about earlier ones among them. ``gaps``: `Gap`
    rows. ``findings``: `Finding` rows. ``fates``: counts so far; one may be negative, where a row's fate moves to
    another. ``connections``: for freshly parsed batches, which connection each row came over (same height as
    ``rows``); null: a decision's.
    """

    type: RecordType
    rows: pl.DataFrame
    lineage: Lineage
    forming: pl.DataFrame | None = None
    rejected: pl.DataFrame | None = None
    gaps: pl.DataFrame | None = None
    findings: pl.DataFrame | None = None
    fates: Mapping[Fate, int] = field(default_factory=dict[Fate, int])
    connections: pl.Series | None = None

    @property
    def stream(self) -> Stream:
        """What the position of this batch belongs to."""
        return Stream(self.lineage.journal, self.type.name, self.lineage.lane)

    @property
    def is_mark(self) -> bool:
        """Whether this batch only moves the position."""
        return not self.fates and all(part is None or part.is_empty() for _, part in self._parts())

    def with_(self, **changes: Any) -> Batch:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def _parts(self) -> Iterable[tuple[str, pl.DataFrame | None]]:
        return (
            ("rows", self.rows),
            ("forming", self.forming),
            ("rejected", self.rejected),
            ("gaps", self.gaps),
            ("findings", self.findings),
        )

    def to_bytes(self) -> bytes:
        """Arrow IPC stream, zstd: the rows, for any Arrow library; all else is JSON in its metadata, ``tidewire``.

        After the end of the stream, where Arrow libraries stop reading, stand the 16 bytes of an xxh3-128 of it.
        """
        line = self.lineage
        parts = {
            name: _ipc(part, {})
            for name, part in self._parts()
            if name != "rows" and part is not None and not part.is_empty()
        }
        if self.connections is not None:
            parts["connections"] = _ipc(self.connections.alias("connection").to_frame(), {})
        wire = _Wire(
            format=FORMAT,
            type=self.type.name,
            version=self.type.version,
            lineage=(line.journal, line.lane, line.prev, line.last, line.until_us, line.trace_id),
            fates=[(fate.source, fate.hour_us, fate.fate, count) for fate, count in self.fates.items()],
            parts=parts,
        )
        data = _ipc(self.rows, {b"tidewire": msgspec.json.encode(wire)})
        return data + xxhash.xxh3_128_digest(data)

    @classmethod
    def from_bytes(cls, data: bytes) -> Batch:
        """The batch that `to_bytes` wrote, exactly; `ParseError` for anything else."""
        body = memoryview(data)[:-_CHECKSUM]
        # Checked first: an Arrow stream may end anywhere between its messages, and damaged ones crash the reader.
        if xxhash.xxh3_128_digest(body) != data[-_CHECKSUM:]:
            raise ParseError(f"These {len(data)} bytes are not a whole batch: the checksum at their end is wrong.")
        try:
            return cls._read(body)
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, msgspec.DecodeError, NotFound) as error:
            raise ParseError(f"These {len(data)} bytes are not a batch: {error}") from error

    @classmethod
    def _read(cls, body: memoryview) -> Batch:
        table = pa.ipc.open_stream(pa.py_buffer(body)).read_all()
        wire = msgspec.json.decode((table.schema.metadata or {})[b"tidewire"], type=_Wire)
        kind = record_type(wire.type)
        if (wire.format, wire.version) != (FORMAT, kind.version):
            raise ParseError(
                f"A batch of {wire.type}@{wire.version} in format {wire.format}; this process reads "
                f"{kind.name}@{kind.version} in format {FORMAT}. Upgrade the older of the two."
            )
        parts = {name: _frame(pa.ipc.open_stream(io.BytesIO(part)).read_all()) for name, part in wire.parts.items()}
        connections = parts.pop("connections", None)
        return cls(
            type=kind,
            rows=_frame(table),
            lineage=Lineage(*wire.lineage),
            fates={Fate(source, hour, fate): count for source, hour, fate, count in wire.fates},
            connections=None if connections is None else connections.to_series(),
            **parts,
        )


class _Wire(msgspec.Struct, array_like=True):
    format: int
    type: str
    version: int
    lineage: tuple[str, int, int, int, int, str]
    fates: list[tuple[str, int, str, int]]
    parts: dict[str, bytes]


def _ipc(frame: pl.DataFrame, metadata: dict[bytes, bytes]) -> bytes:
    # Without string views: every Arrow library can read the plain layout.
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest()).replace_schema_metadata(metadata or None)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table.replace_schema_metadata(None))
    assert isinstance(frame, pl.DataFrame)
    return frame


def fresh(rejected: pl.DataFrame | None) -> pl.DataFrame | None:
    """The rows that went into quarantine, without decisions about earlier ones."""
    return None if rejected is None else rejected.filter(pl.col("decision_frame").is_null())


def moved(rejected: pl.DataFrame) -> Counter[Fate]:
    """What decisions do to the books: a row taken out of quarantine is superseded by the one that came of it."""
    out = rejected.filter(pl.col("decision_frame").is_not_null() & (pl.col("state") != "rejected"))
    out = out.with_columns(ingested_at="event_time")  # booked in the hour it was received
    counted = fates_of(out, "superseded")
    counted.subtract(fates_of(out, "quarantined"))
    return counted


MAX_CONTENT = 4_000
"""Characters of a quarantined row that are shown; the bytes themselves stay in the journal."""


def rejection(
    journal: str, record_type_name: str, row: Mapping[str, Any], reasons: Mapping[str, Any]
) -> dict[str, Any]:
    """One `Quarantined` row as plain values.

    ``row`` is what was parsed; it gives source, frame, ordinal and receive time. ``reasons`` maps the names of the
    failed rules to what was found. A row longer than `MAX_CONTENT` is shown as ``{"cut": its beginning}``.
    """
    content = {name: value for name, value in row.items() if name not in {"source", "frame", "ordinal", "ingested_at"}}
    return {
        "source": row["source"],
        "event_time": row["ingested_at"],
        "public_at": row["ingested_at"],
        "ingested_at": row["ingested_at"],
        "frame": row["frame"],
        "ordinal": row["ordinal"],
        "row": row["ordinal"],
        "journal": journal,
        "record_type": record_type_name,
        "instrument": row.get("instrument"),
        "reasons": msgspec.json.encode(reasons, enc_hook=str).decode(),
        "content": _shown(content),
        "state": "open",
    }


def _shown(content: Mapping[str, Any]) -> str:
    text = msgspec.json.encode(content, enc_hook=str).decode()
    return text if len(text) <= MAX_CONTENT else msgspec.json.encode({"cut": text[:MAX_CONTENT]}).decode()


def quarantined(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """`Quarantined` rows from plain values."""
    return pl.DataFrame(rows, schema=Quarantined.type.schema)


def gaps(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """`Gap` rows from plain values."""
    return pl.DataFrame(rows, schema=Gap.type.schema)


def findings(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """`Finding` rows from plain values."""
    return pl.DataFrame(rows, schema=Finding.type.schema)


def joined(*frames: pl.DataFrame | None) -> pl.DataFrame | None:
    """The frames one after the other; ``None`` when there are no rows at all."""
    present = [frame for frame in frames if frame is not None and not frame.is_empty()]
    return pl.concat(present) if present else None
