"""Looking into quarantine: rows by name or by rule, the frame behind them, what was decided, counts by rule."""

from __future__ import annotations

import base64
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

import msgspec
import polars as pl

from tidewire.collect import decision
from tidewire.errors import InputError, NotFound, ParseError
from tidewire.journal import Frame, Kind
from tidewire.records.clock import Clock, utc
from tidewire.records.ops import Quarantined
from tidewire.serve.params import time_of
from tidewire.serve.quarantine import Match
from tidewire.store.protocol import EVERYTHING, Query, Store

SHOWN_BYTES = 1 << 20
"""Bytes of a frame that are shown."""

MAX_ROWS = 10_000
"""Rows of one frame that are looked at."""

COUNTED_ROWS = 500_000
"""Rows that are counted by rule, the newest; reasons are JSON, each is read."""

PAGE_ROWS = 50_000

GRAMMAR = "FRAME, JOURNAL/FRAME, FRAME/TYPE/ROW or JOURNAL/FRAME/TYPE/ROW; a journal may be cut short"

_JOURNAL = re.compile(r"[0-9a-f-]{1,36}")
_NUMBER = re.compile(r"\d{1,18}")


class Name(NamedTuple):
    """What a name like ``fb00ac44/1024/trade/0`` stands for; empty and ``None`` where it leaves something open."""

    journal: str
    frame: int
    record_type: str = ""
    row: int | None = None

    @classmethod
    def of(cls, text: str) -> Name:
        """Read a name; `InputError` with the grammar."""
        parts = text.strip().split("/")
        place = parts[-2:] if len(parts) > 2 else ["", ""]
        *journal, frame = parts[:-2] if len(parts) > 2 else parts
        good = len(journal) <= 1 and _NUMBER.fullmatch(frame) and (not place[1] or _NUMBER.fullmatch(place[1]))
        if not good or (journal and not _JOURNAL.fullmatch(journal[0])) or (len(parts) > 2 and not all(place)):
            raise InputError(f"{text!r} does not name anything in quarantine. Write {GRAMMAR}.")
        return cls(journal[0] if journal else "", int(frame), place[0], int(place[1]) if place[1] else None)

    def __str__(self) -> str:
        parts = [self.journal, str(self.frame), self.record_type, "" if self.row is None else str(self.row)]
        return "/".join(part for part in parts if part)


def name_of(row: Mapping[str, Any]) -> str:
    """The whole name of a `Quarantined` row."""
    return f"{row['journal']}/{row['frame']}/{row['record_type']}/{row['row']}"


class Frames(Protocol):
    """What gives back the bytes behind a row: a journal, its reader, an archive."""

    @property
    def uuid(self) -> str:
        """Which journal."""
        ...

    def read(self, after: int, *, frames: int = 4_096) -> Sequence[Frame]:
        """The frames after one."""
        ...


class Cases:
    """Reads what is in quarantine. ``frames`` gives back the bytes: a journal, its reader, an archive."""

    def __init__(self, store: Store, frames: Frames | None, clock: Clock) -> None:
        self._store = store
        self._frames = frames
        self._clock = clock

    async def named(self, name: Name) -> list[dict[str, Any]]:
        """The rows of a name as they are now; `NotFound` if there are none, `InputError` if it could mean several."""
        rows = await self._rows(name, Query(Quarantined.type, snapshot=EVERYTHING, limit=MAX_ROWS))
        journals = sorted({row["journal"] for row in rows})
        if len(journals) > 1:
            raise InputError(f"{name} could be in any of the journals {', '.join(journals)}; write JOURNAL/FRAME.")
        if not rows:
            raise NotFound(f"Nothing called {name} is or was in quarantine. `tidewire quarantine ls` lists what is.")
        return rows

    async def matching(self, match: Match, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Open rows that match, oldest first, and how many more there are."""
        where: dict[str, Sequence[str]] = {"state": ["open"]}
        where |= {column: [value] for column, value in (("source", match.source), ("record_type", match.type)) if value}
        times = {name: [value] for name, value in (("start", match.start), ("end", match.end)) if value}
        query = Query(
            Quarantined.type,
            where,
            start=time_of(times, "start"),
            end=time_of(times, "end"),
            snapshot=EVERYTHING,
            limit=PAGE_ROWS,
        )
        found: list[dict[str, Any]] = []
        left = 0
        async for page in self._pages(query):
            for row in page.iter_rows(named=True):
                if match.rule is None or match.rule in msgspec.json.decode(row["reasons"]):
                    left += len(found) >= limit
                    if len(found) < limit:
                        found.append(row)
        return found, left

    async def again(self, journal: str, frames: Sequence[int], start: datetime, end: datetime) -> list[dict[str, Any]]:
        """Rows that went into quarantine from these frames, received in ``[start, end)``."""
        query = Query(Quarantined.type, {"journal": [journal]}, start, end, snapshot=EVERYTHING)
        rows = (await self._store.read(replace(query, limit=PAGE_ROWS, order="desc"))).rows
        return rows.filter(pl.col("frame").is_in(list(frames))).to_dicts()

    def original(self, journal: str, sequence: int) -> Frame:
        """The frame itself; `NotFound` says where it went."""
        if self._frames is None or journal != self._frames.uuid:
            raise NotFound(
                f"Frame {sequence} is in journal {journal}, which is not the one of this data directory. Without its "
                "bytes a row can only be rejected."
            )
        found = self._frames.read(sequence - 1, frames=1)
        if not found or found[0].sequence != sequence:
            raise NotFound(
                f"Frame {sequence} is not in the journal any more: it was trimmed. Restore its segment to release what "
                "came of it; without its bytes it can only be rejected."
            )
        return found[0]

    async def show(self, journal: str, frame: int) -> dict[str, Any]:
        """Everything known of a frame with rows in quarantine; ``-`` is the one journal that has it."""
        journal = "" if journal == "-" else journal
        if journal and not _JOURNAL.fullmatch(journal):
            raise InputError(f"{journal!r} is not the name of a journal, nor the beginning of one.")
        rows = await self.named(Name(journal, frame))
        every = Query(Quarantined.type, snapshot=EVERYTHING, limit=MAX_ROWS, revisions="all")
        versions = await self._rows(Name(rows[0]["journal"], frame), every)
        shown: dict[str, Any] = {"journal": rows[0]["journal"], "frame": frame, "source": rows[0]["source"]}
        shown |= {"received_at": _moment(rows[0]["event_time"])}
        try:
            shown |= _bytes_of(self.original(rows[0]["journal"], frame))
        except NotFound as error:
            shown |= {"bytes": None, "note": str(error)}
        return shown | {"rows": [_described(row, versions) for row in rows]}

    async def rules(self) -> dict[str, Any]:
        """Rows by source, type, rule and state: of the last hour, the last day, and all; and the oldest open one."""
        now = utc(self._clock.wall_ns())
        counts: defaultdict[tuple[str, str, str, str], Counter[str]] = defaultdict(Counter)
        oldest: dict[tuple[str, str, str], datetime] = {}
        seen = left = 0
        fields = ("source", "record_type", "state", "reasons", "event_time")
        query = Query(Quarantined.type, snapshot=EVERYTHING, limit=PAGE_ROWS, order="desc", fields=fields)
        async for page in self._pages(query):
            if seen >= COUNTED_ROWS:
                left += page.height
                continue
            seen += page.height
            for source, kind, state, reasons, at in page.select(fields).iter_rows():
                spans = [span for span, length in _SPANS.items() if now - at < length]
                for rule in msgspec.json.decode(reasons):
                    counts[source, kind, rule, state].update([*spans, "all"])
                    if state == "open":
                        oldest[source, kind, rule] = at
        lines = [
            {
                **dict(zip(("source", "type", "rule", "state"), key, strict=True)),
                **{span: counted[span] for span in (*_SPANS, "all")},
                "oldest_open": _moment(oldest[key[:3]]) if key[3] == "open" else None,
            }
            for key, counted in sorted(counts.items())
        ]
        return {"rules": lines, "rows_left_out": left}

    async def _rows(self, name: Name, query: Query) -> list[dict[str, Any]]:
        where: dict[str, Sequence[str]] = {"frame": [str(name.frame)]}
        if name.journal:
            where["journal"] = [f"{name.journal}*"]
        if name.record_type:
            where |= {"record_type": [name.record_type], "row": [str(name.row)]}
        return (await self._store.read(replace(query, where=where))).rows.to_dicts()

    async def _pages(self, query: Query) -> AsyncIterator[pl.DataFrame]:
        while True:
            result = await self._store.read(query)
            yield result.rows
            if result.next is None:
                return
            query = replace(query, after=result.next)


_SPANS = {"hour": timedelta(hours=1), "day": timedelta(days=1)}


def _moment(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _bytes_of(frame: Frame) -> dict[str, Any]:
    """A frame for people and programs; of a decision, the frame it carries a copy of, and who decided what."""
    shown: dict[str, Any] = {
        "kind": frame.kind.name.lower(),
        "collector": frame.origin.collector,
        "request": frame.origin.request,
        "cursor": _text(frame.cursor),
        "bytes": len(frame.payload),
    }
    payload = frame.payload
    if frame.kind is Kind.OPERATOR:
        try:
            decided = decision.decode(frame)
        except ParseError:
            decided = None
        if decided is not None and decided.copied is not None:
            payload = decided.copied.payload
            shown |= {"bytes": len(payload), "request": decided.copied.request, "collector": decided.copied.collector}
            shown["decision"] = {
                "act": decided.act,
                "who": decided.who,
                "why": decided.why,
                "about": f"{decided.journal}/{decided.frame}",
                "values": dict(decided.values),
            }
    cut = payload[:SHOWN_BYTES]
    return shown | _payload(cut) | ({"cut": True} if len(payload) > len(cut) else {})


def _payload(payload: bytes) -> dict[str, str]:
    try:
        return {"text": payload.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(payload).decode()}


def _text(cursor: bytes) -> str | None:
    return cursor.decode("utf-8", "backslashreplace") if cursor else None


def _described(row: Mapping[str, Any], versions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    mine = sorted((one for one in versions if name_of(one) == name_of(row)), key=lambda one: one["ingested_at"])
    content = row["content"]
    return {
        "name": name_of(row),
        "record_type": row["record_type"],
        "row": row["row"],
        "instrument": row["instrument"],
        "state": row["state"],
        "reasons": msgspec.json.decode(row["reasons"]),
        "content": None if content is None else msgspec.json.decode(content),
        "history": [
            {
                "state": one["state"],
                "at": _moment(one["ingested_at"]),
                "by": one["decided_by"],
                "decision": f"{one['decision_journal']}/{one['decision_frame']}" if one["decision_frame"] else None,
            }
            for one in mine
        ],
    }
