"""The envelope that everything on the bus travels in.

Subjects in use: ``data.<type>.collected|processed|stored|quarantined``, ``app.<name>.started|stopped``,
``collector.<app>.error``, ``analysis.anomaly.<what>``, ``analysis.signal.<what>``, ``control.<what>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
import xxhash

from tidewire.records.clock import Clock, Rng

if TYPE_CHECKING:
    from tidewire.records.batch import Batch

Payload = Mapping[str, Any]

STAGES = ("collected", "processed", "stored", "quarantined")


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    ``time_ns`` is UTC nanoseconds; ``version`` the schema version of the payload; ``payload`` a `Batch` or a small
    mapping of plain values.
    """

    id: str
    subject: str
    source: str
    time_ns: int
    version: int
    trace_id: str
    payload: Batch | Payload

    @cached_property
    def payload_bytes(self) -> bytes:
        """The payload as it travels between processes: Arrow IPC for a batch, JSON for the rest."""
        if isinstance(self.payload, Mapping):
            return msgspec.json.encode(self.payload, order="sorted")
        return self.payload.to_bytes()

    @cached_property
    def payload_hash(self) -> str:
        """xxh3-128 of `payload_bytes`, hexadecimal; computed when first asked for."""
        return xxhash.xxh3_128_hexdigest(self.payload_bytes)

    @property
    def batch(self) -> Batch:
        """The payload of a data event; `TypeError` for any other."""
        if isinstance(self.payload, Mapping):
            raise TypeError(f"{self.subject} carries no batch")
        return self.payload

    @property
    def facts(self) -> Payload:
        """The payload of an event that carries plain values; `TypeError` for a data event."""
        if isinstance(self.payload, Mapping):
            return self.payload
        raise TypeError(f"{self.subject} carries a batch")


def data_event(stage: str, batch: Batch, time_ns: int) -> Event:
    """``data.<type>.<stage>``; its id is a function of what the batch covers, so a repeat is recognisable."""
    line = batch.lineage
    name = batch.type.name
    return Event(
        id=f"{line.journal}.{name}.{stage}.{line.lane}.{line.last}",
        subject=f"data.{name}.{stage}",
        source=line.journal,
        time_ns=time_ns,
        version=batch.type.version,
        trace_id=line.trace_id,
        payload=batch,
    )


def notice(subject: str, source: str, facts: Payload, clock: Clock, rng: Rng) -> Event:
    """An event that carries plain values: something started, stopped, failed, was noticed."""
    token = rng.token(16)
    return Event(
        id=token, subject=subject, source=source, time_ns=clock.wall_ns(), version=1, trace_id=token, payload=facts
    )
