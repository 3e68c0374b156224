"""Deciding about quarantined rows: looked up, tried by today's parser and rules, written into the journal, stored."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import polars as pl

from tidewire import telemetry
from tidewire.collect import Parser, decision
from tidewire.collect.assemble import Place, Reading, redo
from tidewire.collect.decision import FIXED, FRAME, Copied, Decision, Target
from tidewire.errors import (
    AlreadyDecided,
    DecisionRefused,
    FailsAgain,
    InputError,
    NotFound,
    ParseError,
    StoreBusy,
    nearest,
)
from tidewire.journal import Frame, Journal, Kind
from tidewire.process.checks import CheckConfig
from tidewire.process.processor import Processor
from tidewire.records.clock import Clock, utc
from tidewire.records.record import RecordType, types
from tidewire.runtime.quarantine_cases import Cases, Name, name_of
from tidewire.serve.quarantine import MAX_DECIDED, Ask

STORED_S = 30.0
"""How long a decision is waited for until it is stored."""

MAX_BYTES = 64 << 20
"""Bytes of frames that one call copies; what is beyond is left for the next."""

MAX_WHO, MAX_WHY = 200, 2_000

SHOWN_FAILURES = 5

_log = telemetry.log("quarantine")
_decided = telemetry.counter("quarantine_decisions", "Quarantined rows decided about", ("source", "type", "act"))


@dataclass
class _Plan:
    """A decision about rows of one frame, and what it comes to by today's parser and rules."""

    source: str
    rows: list[dict[str, Any]]
    decision: Decision
    comes_to: Counter[str] = field(default_factory=Counter[str])
    failing: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    frame: int | None = None

    @property
    def size(self) -> int:
        """Bytes of the frame it copies."""
        return 0 if self.decision.copied is None else len(self.decision.copied.payload)

    def failing_rows(self) -> list[dict[str, Any]]:
        """The quarantined rows that would fail again: all of them where the frame itself cannot be read."""
        bad = {(one["record_type"], one["row"]) for one in self.failing}
        whole = bad and ((FRAME, 0) in bad or self.rows[0]["record_type"] == FRAME)
        return self.rows if whole else [row for row in self.rows if (row["record_type"], row["row"]) in bad]

    def without(self, rows: Sequence[Mapping[str, Any]]) -> _Plan | None:
        """The same about fewer rows; ``None`` if none is left."""
        kept = [row for row in self.rows if row not in rows]
        if not kept:
            return None
        take = [(row["record_type"], row["row"]) for row in kept]
        fewer = msgspec.structs.replace(self.decision, targets=[_target(row) for row in kept], take=take)
        return _Plan(self.source, kept, fewer)


class Quarantine:
    """The desk of a platform: what it decides is a frame of the journal, and done when the pipe has stored it.

    ``stored`` returns when everything up to a frame is stored.
    """

    def __init__(
        self,
        cases: Cases,
        journal: Journal,
        clock: Clock,
        parsers: Callable[[], Awaitable[Mapping[str, Parser]]],
        stored: Callable[[int], Awaitable[None]],
        checks: CheckConfig | None = None,
    ) -> None:
        self._cases = cases
        self._journal = journal
        self._clock = clock
        self._parsers = parsers
        self._stored = stored
        self._checks = checks
        self._turn = asyncio.Lock()

    async def show(self, journal: str, frame: int) -> dict[str, Any]:
        """A frame with rows in quarantine: its bytes, the rows, all that was decided."""
        return await self._cases.show(journal, frame)

    async def rules(self) -> dict[str, Any]:
        """How many rows each rule sent into quarantine, and what became of them."""
        return await self._cases.rules()

    async def decide(self, ask: Ask) -> dict[str, Any]:
        """Decide, and return what came of it once it is stored.

        Raises:
            InputError: what is asked makes no sense: names, values, who or why.
            NotFound: nothing of that name is in quarantine, or the bytes of its frame are gone.
            AlreadyDecided, FailsAgain, DecisionRefused: nothing was decided.
            StoreBusy: the store is behind; what is in quarantine is not known.
        """
        _check(ask)
        async with self._turn:
            if not await self._is_stored(self._journal.accepted):
                raise StoreBusy("The store has not caught up with the journal; ask again when it has.")
            if ask.match is not None:
                rows, left = await self._cases.matching(ask.match, ask.limit)
            else:
                rows, left = await self._named(ask.rows), 0
            plans, refused, more = self._plan(ask, rows, await self._parsers())
            if not ask.dry_run:
                await self._write(ask, plans)
        outcome = {"act": ask.act, "dry_run": ask.dry_run, "left": left + more, "refused": refused}
        return outcome | await self._outcome(plans, decided=not ask.dry_run)

    async def _named(self, names: Iterable[str]) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for text in names:
            name = Name.of(text)
            rows = await self._cases.named(name)
            undecided = [row for row in rows if row["state"] == "open"]
            if not undecided:
                row = rows[0]
                raise AlreadyDecided(
                    f"{name_of(row)} is {row['state']} since {row['ingested_at'].isoformat()} ({row['decided_by']}), "
                    f"by frame {row['decision_frame']}. A decision is not taken back; what came of it can be revised."
                )
            found |= {name_of(row): row for row in undecided}
        if len(found) > MAX_DECIDED:
            raise InputError(f"rows: these are {len(found):,}; one request decides about {MAX_DECIDED:,} at most.")
        return list(found.values())

    def _plan(
        self, ask: Ask, rows: list[dict[str, Any]], parsers: Mapping[str, Parser]
    ) -> tuple[list[_Plan], list[dict[str, Any]], int]:
        """Decisions frame by frame; rows that were refused; how many are left because there are too many bytes."""
        if ask.act == "correct" and len(rows) != 1:
            names = ", ".join(name_of(row) for row in rows[:SHOWN_FAILURES])
            raise InputError(f"rows: a correction is about one row, found {len(rows)}: {names}. Name one of them.")
        groups: dict[tuple[str, int, str, bool], list[dict[str, Any]]] = {}
        for row in rows:
            whole = row["record_type"] == FRAME
            groups.setdefault((row["journal"], row["frame"], row["source"], whole), []).append(row)
        plans: list[_Plan] = []
        refused: list[dict[str, Any]] = []
        copied = more = 0
        for group in groups.values():
            if copied >= MAX_BYTES:
                more += len(group)
                continue
            plan = self._try_group(ask, group, parsers, refused)
            if plan is not None:
                plans.append(plan)
                copied += plan.size
        if more and ask.match is None:
            raise InputError(f"rows: their frames have more than {MAX_BYTES:,} bytes together; name fewer.")
        return plans, refused, more

    def _try_group(
        self, ask: Ask, group: list[dict[str, Any]], parsers: Mapping[str, Parser], refused: list[dict[str, Any]]
    ) -> _Plan | None:
        """The decision about rows of one frame, without those that fail again; of a match these are only listed."""
        try:
            plan = self._tried(self._drafted(ask, group), parsers)
        except (NotFound, DecisionRefused) as error:
            if ask.match is None:
                raise
            refused += [{"name": name_of(row), "why": str(error)} for row in group]
            return None
        failing = plan.failing_rows() if plan.failing and not ask.force else []
        if not failing:
            return plan
        if ask.match is None:
            raise FailsAgain(
                f"{', '.join(name_of(row) for row in failing[:SHOWN_FAILURES])} would be quarantined again: "
                f"{_told(plan.failing)}. Fix the rule or the parser, correct the row, or force it."
            )
        refused += [{"name": name_of(row), "why": _told(plan.failing)} for row in failing]
        fewer = plan.without(failing)
        return None if fewer is None else self._tried(fewer, parsers)

    def _drafted(self, ask: Ask, rows: list[dict[str, Any]]) -> _Plan:
        first = rows[0]
        for row in rows:
            if row["record_type"] not in {FRAME, *types()}:
                raise DecisionRefused(
                    f"{name_of(row)}: no record type {row['record_type']!r} is loaded; load its plugin."
                )
        copied: Copied | None = None
        take: Sequence[tuple[str, int]] | None = None
        values: dict[str, Any] = {}
        if ask.act != "reject":
            copied, take, values = _material(self._cases.original(first["journal"], first["frame"]))
        if first["record_type"] != FRAME:
            take = [(row["record_type"], row["row"]) for row in rows]
        if ask.act == "correct":
            if first["record_type"] == FRAME:
                raise DecisionRefused(
                    f"{name_of(first)} is a whole frame that could not be read: there is no row to correct. Release it "
                    "once the parser reads it, or reject it."
                )
            values |= plain(types()[first["record_type"]], ask.values)
        made = Decision(
            act=ask.act,
            who=ask.who.strip(),
            why=ask.why.strip(),
            journal=first["journal"],
            frame=first["frame"],
            targets=[_target(row) for row in rows],
            copied=copied,
            take=take,
            values=values,
        )
        return _Plan(first["source"], rows, made)

    def _tried(self, plan: _Plan, parsers: Mapping[str, Parser]) -> _Plan:
        """What it comes to, by the code that the pipe runs."""
        if plan.decision.act == "reject":
            return plan
        origin = decision.origin_of(plan.source, plan.decision)
        payload = decision.encode(plan.decision)
        now, mono = self._clock.wall_ns(), self._clock.mono_ns()
        frame = Frame(self._journal.head + 1, now, mono, Kind.OPERATOR, origin, b"", payload)
        reading = redo(Place(self._journal.uuid, plan.source), frame, parsers.get(plan.source))
        plan.comes_to, plan.failing = _judged(self._journal.uuid, reading, Processor(checks=self._checks))
        return plan

    async def _write(self, ask: Ask, plans: list[_Plan]) -> None:
        for plan in plans:
            await self._journal.ready()
            origin = decision.origin_of(plan.source, plan.decision)
            plan.frame = self._journal.append(origin, decision.encode(plan.decision), kind=Kind.OPERATOR)
            for row in plan.rows:
                _decided.labels(plan.source, row["record_type"], ask.act).inc()
        if plans:
            await self._journal.drain()
            rows = sum(len(plan.rows) for plan in plans)
            _log.info("decided", act=ask.act, who=ask.who, why=ask.why, rows=rows, last_frame=plans[-1].frame)

    async def _outcome(self, plans: list[_Plan], *, decided: bool) -> dict[str, Any]:
        frames = [plan.frame for plan in plans if plan.frame is not None]
        stored = decided and await self._is_stored(max(frames, default=0))
        again: dict[int, list[str]] = {}
        if stored and frames:
            now = utc(self._clock.wall_ns()) + timedelta(days=1)
            for row in await self._cases.again(self._journal.uuid, frames, now - timedelta(days=2), now):
                again.setdefault(row["frame"], []).append(name_of(row))
        rows = Counter[str]()
        for plan in plans:
            rows.update(plan.comes_to)
        return {
            "stored": stored,
            "rows": sum(len(plan.rows) for plan in plans),
            "comes_to": dict(rows),
            "decisions": [
                {
                    "rows": [name_of(row) for row in plan.rows],
                    "state": plan.decision.state,
                    "decision": None if plan.frame is None else f"{self._journal.uuid}/{plan.frame}",
                    "comes_to": dict(plan.comes_to),
                    "fails": [_failure(one) for one in plan.failing],
                    "again": again.get(plan.frame or 0, []),
                }
                for plan in plans
            ],
        }

    async def _is_stored(self, frame: int) -> bool:
        try:
            async with asyncio.timeout(STORED_S):
                await self._stored(frame)
        except TimeoutError:
            return False
        return True


def plain(kind: RecordType, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a correction as a parser would give them; `InputError` for what cannot be one of its column.

    ``None``, or empty text where the column is no text, is null.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        valid = [column for column in kind.fields if column not in FIXED]
        if name not in valid:
            raise InputError(
                f"values: {name!r} of {kind.name} cannot be corrected.{nearest(name, valid)} Valid: {', '.join(valid)}."
            )
        found[name] = _plain(kind.name, name, kind.schema[name], value)
    return found


def _plain(kind: str, name: str, dtype: pl.DataType, value: Any) -> Any:
    text = isinstance(value, str)
    if value is None or (value == "" and not isinstance(dtype, pl.String)):
        return None
    try:
        if isinstance(dtype, pl.Boolean):
            return value if isinstance(value, bool) else {"true": True, "false": False}[value]
        if isinstance(value, bool):
            raise TypeError
        if isinstance(dtype, pl.Int32 | pl.Int64):
            return value if isinstance(value, int) else int(value)
        if isinstance(dtype, pl.Datetime):
            return _micros(value) if text else int(value)
        if isinstance(dtype, pl.Date):
            return date.fromisoformat(str(value)).isoformat()
        if isinstance(dtype, pl.List):
            listed = msgspec.json.decode(value) if text else value
            return [str(one) for one in listed] if isinstance(listed, list) else _no()
    except (ValueError, TypeError, KeyError, msgspec.MsgspecError):
        form = _FORMS.get(type(dtype), "a value")
        raise InputError(f"values: {value!r} is no value of {kind}.{name}; it takes {form}.") from None
    return str(value)


def _no() -> Any:
    raise TypeError


_FORMS: dict[Any, str] = {
    pl.Boolean: "true or false",
    pl.Int32: "a whole number",
    pl.Int64: "a whole number",
    pl.Datetime: "a time with zone (2026-01-05T01:30:00Z) or UTC microseconds",
    pl.Date: "a day (2026-01-05)",
    pl.List: 'a list of texts, ["1.5", "1.4"]',
}


def _micros(text: str) -> int:
    if text.lstrip("-").isdecimal():
        return int(text)
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(text)
    return (moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _check(ask: Ask) -> None:
    for name, text, most in (("who", ask.who, MAX_WHO), ("why", ask.why, MAX_WHY)):
        if not text.strip() or len(text) > most:
            raise InputError(f"{name}: say it in 1 to {most:,} characters, found {len(text)}.")
    if bool(ask.rows) == (ask.match is not None):
        raise InputError("Name rows, or give a match; exactly one of the two.")
    if ask.act == "correct" and (ask.match is not None or not ask.values):
        raise InputError("A correction names one row and has values, column by column.")
    if ask.act != "correct" and ask.values:
        raise InputError(f"values: only a correction has them, found {', '.join(ask.values)} with {ask.act}.")
    if not 1 <= ask.limit <= MAX_DECIDED:
        raise InputError(f"limit: {ask.limit} is not valid; 1 to {MAX_DECIDED:,}.")


def _target(row: Mapping[str, Any]) -> Target:
    event_us = (row["event_time"] - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    return Target(row["record_type"], row["row"], event_us, row["instrument"], row["reasons"], row["content"])


def _material(frame: Frame) -> tuple[Copied, Sequence[tuple[str, int]] | None, dict[str, Any]]:
    """What is parsed again: the frame; of a decision whose rows failed again, the one it carries, as it meant it."""
    if frame.kind is not Kind.OPERATOR:
        return decision.copy_of(frame), None, {}
    try:
        before = decision.decode(frame)
    except ParseError as error:
        raise DecisionRefused(f"Frame {frame.sequence} is {error}; it can only be rejected.") from None
    if before.copied is None:
        raise DecisionRefused(f"Frame {frame.sequence} is a decision without a copy; it can only be rejected.")
    return before.copied, before.take, dict(before.values)


def _judged(journal: str, reading: Reading, processor: Processor) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Rows that pass by type, and what fails: by parser, by exactness, by rule."""
    failing: list[dict[str, Any]] = [
        {"record_type": FRAME, "row": 0, "reasons": {"unreadable": why}} for _, why in reading.outcome.unreadable
    ]
    passed = Counter[str]()
    for part, rows in reading.built:
        _, rejections = processor.judge(journal, part.type, rows.rows, rows.connections)
        if rows.rows.height > len(rejections):
            passed[part.type.name] += rows.rows.height - len(rejections)
        failing += rejections
        failing += [] if rows.rejected is None else rows.rejected.to_dicts()
    return passed, failing


def _failure(one: Mapping[str, Any]) -> dict[str, Any]:
    reasons = one["reasons"]
    decoded = msgspec.json.decode(reasons) if isinstance(reasons, str) else reasons
    return {"type": one["record_type"], "row": one["row"], "reasons": decoded}


def _told(failing: Sequence[Mapping[str, Any]]) -> str:
    said = [
        f"{rule} (found {'null' if found is None else repr(found)})"
        for one in failing[:SHOWN_FAILURES]
        for rule, found in _failure(one)["reasons"].items()
    ]
    return "; ".join(dict.fromkeys(said))
