"""The product broken on purpose, and its surroundings: what `crash.spied` installs when a request says so.

Nothing of this is in the product: each switch replaces a method from outside, in the process that is killed. A fault
is something the sound product must stand; a mutant is a rule broken, which a run must find.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb

from tidewire.records import clock as clocks

Patch = Callable[[], None]


class SkewedClock:
    """The wall clock of a machine that somebody sets: ``jumps`` are (seconds after the start, by how much)."""

    def __init__(self, jumps: Sequence[tuple[float, float]]) -> None:
        self._jumps = jumps
        self._began = time.monotonic()

    def age_s(self) -> float:
        return time.monotonic() - self._began

    def offset_ns(self) -> int:
        age = self.age_s()
        return round(sum(by for at, by in self._jumps if at <= age) * 1e9)


def skew(clock: SkewedClock) -> None:
    """Every reading of the wall clock is off by what the clock says."""
    real = clocks.SystemClock.wall_ns
    clocks.SystemClock.wall_ns = lambda self: real(self) + clock.offset_ns()  # type: ignore[method-assign]


# -- faults -----------------------------------------------------------------------------------------------------------


def replies_lost(seed: int) -> None:
    """Every few commits are done, and the writer hears that they failed."""
    from tidewire.store._write import Writer

    chance = random.Random(seed)
    real = Writer._commit

    def commit(self: Any) -> None:
        real(self)
        if chance.random() < 0.4:
            raise duckdb.IOException("the reply was lost")

    Writer._commit = commit  # type: ignore[method-assign]


def bus_loses(seed: int) -> None:
    """Now and then a batch with rows is lost between two stages."""
    _bus(random.Random(seed), lambda chance: 0 if chance.random() < 0.06 else 1)


def bus_repeats(seed: int) -> None:
    """Now and then a batch with rows is delivered twice."""
    _bus(random.Random(seed), lambda chance: 2 if chance.random() < 0.1 else 1)


def _bus(chance: random.Random, times: Callable[[random.Random], int]) -> None:
    from tidewire.bus.memory import MemoryBus
    from tidewire.runtime import pipe

    real = MemoryBus.publish

    async def publish(self: Any, event: Any) -> None:
        rows = event.batch.rows.height if event.subject.startswith("data.") else 0
        for _ in range(times(chance) if rows else 1):
            await real(self, event)

    MemoryBus.publish = publish  # type: ignore[method-assign]
    pipe.RESTART_S = 0.02


def impatient(_seed: int) -> None:
    """A feed that takes two seconds without a message for silence, and does not wait long before it connects again."""
    from tidewire.collect import feed

    real = feed.WsClient

    def client(url: str, on_frame: Any, on_state: Any, clock: Any, rng: Any, config: Any) -> Any:
        hasty = replace(config, silence_s=2.0, backoff_s_max=1.0)
        return real(url, on_frame, on_state, clock, rng, hasty)

    feed.WsClient = client  # type: ignore[assignment, misc]


def queues_short(_seed: int) -> None:
    """The queues between the stages have room for six batches: those of a step hardly fit."""
    from tidewire.bus.delivery import QueuedConsumer

    real = QueuedConsumer.__init__

    def short(self: Any, *given: Any, **more: Any) -> None:
        real(self, *given, **{**more, "queue": 6})

    QueuedConsumer.__init__ = short  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[int], None]] = {
    "replies_lost": replies_lost,
    "bus_loses": bus_loses,
    "bus_repeats": bus_repeats,
    "queues_short": queues_short,
    "impatient": impatient,
}


# -- mutants ----------------------------------------------------------------------------------------------------------


def accepted_before_sync() -> None:
    from tidewire.journal.commit import Committer

    def commit(self: Any, group: Any) -> None:
        self._tally(group.frames)
        self._writer.write(group.frames)
        self._announce(group, self._writer.place)
        self._writer.sync()

    Committer._commit = commit  # type: ignore[method-assign]


def torn_tail_kept() -> None:
    import os

    from tidewire.journal import journal
    from tidewire.journal.segment import HEADER_BYTES
    from tidewire.journal.writer import SegmentWriter

    def repair(file: Any, tail: Any, files: Any, segment_bytes: int) -> int:
        return files.open(file.path)

    resume = SegmentWriter.resume

    def at_the_end(self: Any, descriptor: int, first: int, end: int) -> None:
        content = os.pread(descriptor, 1 << 26, 0)
        resume(self, descriptor, first, max(HEADER_BYTES, len(content.rstrip(b"\0")), end))

    journal.repair = repair  # type: ignore[assignment]
    SegmentWriter.resume = at_the_end  # type: ignore[method-assign]


def failed_sync_ignored() -> None:
    from tidewire.journal.writer import SegmentWriter

    def sync(self: Any) -> None:
        for _ in range(2):  # the second try succeeds, as it does on a kernel that marked the pages clean
            try:
                self._files.datasync(self._descriptor)
            except OSError:
                continue
            return

    SegmentWriter.sync = sync  # type: ignore[method-assign]


def position_before_rows() -> None:
    from tidewire.store._book import Book
    from tidewire.store._write import Writer

    real = Writer._insert

    def insert(self: Any, batches: Any) -> Any:
        # The positions first, in a transaction of their own; then, in another, what they promise.
        moves = self.book.moves(batches)
        for batch in batches:
            self.book.journal(batch.lineage.journal)
        self.book._write_positions(moves)
        self._connection.commit()
        # The fault's own width, in the store's thread; nothing is timed by it. Most of a life passes here, so that
        # most kills come here.
        time.sleep(0.4)
        self._connection.begin()
        return real(self, batches)

    def write(self: Any, moves: Any, fates: Any) -> None:
        if fates:
            self._write_fates(fates)

    Writer._insert = insert  # type: ignore[method-assign]
    Book.write = write  # type: ignore[method-assign]


def keys_not_compared() -> None:
    from tidewire.store._once import Judge

    Judge.classify = lambda self, kind, rows: (None, {})  # type: ignore[assignment, method-assign]


def holes_jumped() -> None:
    """A consumer goes on behind a hole; and so does the store, which would refuse it."""
    from tidewire.bus.progress import Progress

    real = Progress.take

    def take(self: Any, event: Any) -> Any:
        line = self._line(event.batch.stream)
        if event.batch.lineage.last > line.reached:
            line.reached = event.batch.lineage.prev
        return real(self, event)

    Progress.take = take  # type: ignore[method-assign]
    _takes_what_comes()


def repeats_taken() -> None:
    """A consumer hands out what it had already; and the store takes it."""
    from tidewire.bus.progress import Progress

    real = Progress.take

    def take(self: Any, event: Any) -> Any:
        found = real(self, event)
        return event if found is None else found

    Progress.take = take  # type: ignore[method-assign]
    _takes_what_comes()


def _takes_what_comes() -> None:
    from tidewire.store._book import Book, Position

    def moves(self: Any, batches: Any) -> Any:
        moved: dict[Any, Any] = {}
        for batch in batches:
            at = moved.get(batch.stream) or self.positions.get(batch.stream) or Position(0, 0)
            line = batch.lineage
            moved[batch.stream] = Position(max(at.last, line.last), max(at.until_us, line.until_us))
        return moved

    Book.moves = moves  # type: ignore[method-assign]


def unknown_taken_for_failed() -> None:
    """A commit whose reply was lost is done once more, without a look at how it ended."""
    from tidewire.store.duckdb import DuckDBStore

    async def write(self: Any, batches: Any) -> Any:
        writer = self._open_writer
        try:
            return await self._in_thread(lambda: writer.write(batches))
        except Exception:
            writer.doubt = False
            writer.unsure = None
            with contextlib.suppress(duckdb.Error):
                await self._in_thread(writer._connection.rollback)
            return await self._in_thread(lambda: writer.write(batches))

    DuckDBStore._write = write  # type: ignore[method-assign]


def directory_not_synced() -> None:
    from crash.disk import SpiedFiles

    def sync_directory(self: Any, path: Path) -> None:
        return

    SpiedFiles.sync_directory = sync_directory  # type: ignore[method-assign]


def parsed_before_durable() -> None:
    """Frames are read as soon as they are appended."""
    from tidewire.journal.commit import Group
    from tidewire.journal.journal import Journal
    from tidewire.runtime import platform

    append, announce = Journal.append, Journal._announce

    def early(self: Any, *given: Any, **more: Any) -> int:
        sequence = append(self, *given, **more)
        frame = self._committer._frames[-1] if self._committer._frames else None
        if frame is not None and frame.sequence == sequence:
            self._early = sequence
            announce(self, Group([frame], 0), self._place)
        return sequence

    def late(self: Any, group: Any, place: Any) -> None:
        frames = [frame for frame in group.frames if frame.sequence > self.accepted]
        if frames:
            announce(self, Group(frames, group.size), place)
        else:
            self._pending -= group.size
            self._place = place

    platform.DRAIN_S = 1.0  # a pipe that broke does not drain
    Journal.append = early  # type: ignore[method-assign]
    Journal._announce = late  # type: ignore[method-assign]


def breaks_not_told() -> None:
    """A connection that comes back says nothing of the time it was away."""
    from tidewire.collect.feed import Feed

    def mark(_self: Any, _lost: Any, _streams: Any, _wall_ns: int) -> None:
        """Write nothing."""

    Feed.mark = mark  # type: ignore[method-assign] - replacing the method is the mutation


def holes_not_told() -> None:
    """A jump in the sequence of a series is passed over."""
    from tidewire.process.series import SeriesWatch

    real = SeriesWatch._holes_of

    def holes_of(self: Any, series: Any, rows: Any) -> list[Any]:
        real(self, series, rows)
        return []

    SeriesWatch._holes_of = holes_of  # type: ignore[method-assign]


def queue_drops() -> None:
    """The queues between the stages throw the oldest away when they are full, and nobody looks at positions."""
    from tidewire.bus.inbox import Inbox

    async def push(self: Any, event: Any) -> None:
        if self.error is not None:
            raise self.error
        if self.full:
            self.pending.popleft()
        self.add(event)

    Inbox.push = push  # type: ignore[method-assign]
    holes_jumped()


@dataclass(frozen=True)
class Mutant:
    """One rule, broken.

    ``caught_by``: what the run then says, as a regular expression. ``faults``: what must go wrong around it for the
    rule to matter. ``plan``: how the run is aimed at it; the sound product stands the same.
    """

    rule: str
    install: Patch
    caught_by: str
    faults: tuple[str, ...] = ()
    plan: Mapping[str, Any] = field(default_factory=dict[str, Any])


STARTS_AHEAD = "the product ended by itself(.|\n)*frames were lost"
NOT_STORED = "accepted rows are not stored"
MISSING = f"{NOT_STORED}|a replay gives other rows"
SLOW_DISK = {"sync_ms": 6_000.0, "rest": 1.0, "early": 0.0, "linger_s": 0.3}
ALWAYS_CUT = {"cut": 1.0, "flip": 0.0}

MUTANTS: dict[str, Mutant] = {
    "accepted_before_sync": Mutant(
        "a frame is accepted when it is synced",
        accepted_before_sync,
        f"{STARTS_AHEAD}|{NOT_STORED}|the API showed",
        plan={**SLOW_DISK, **ALWAYS_CUT},
    ),
    "torn_tail_kept": Mutant(
        "recovery cuts off what is not whole",
        torn_tail_kept,
        f"is no frame|were on disk|cannot be read|{STARTS_AHEAD}",
        plan={"cut": 0.0, "flip": 1.0, "rest": 0.0, "sync_ms": 400.0, "early": 0.0},
    ),
    "failed_sync_ignored": Mutant(
        "a sync that failed is never tried again",
        failed_sync_ignored,
        "the end of a product whose sync failed",
        plan={"broken": 1.0, "end_s": 20.0},
    ),
    "position_before_rows": Mutant(
        "a position is committed with the rows it covers",
        position_before_rows,
        NOT_STORED,
        plan={"kills": 8, "messages": (6_000, 16_000), "cut": 0.0, "flip": 0.0, "early": 0.0, "rest": 0.0},
    ),
    "keys_not_compared": Mutant(
        "a row is stored once for each key",
        keys_not_compared,
        "rows are stored twice",
        # So far apart that the processor no longer remembers the instruments of the last start.
        plan={"kills": 3, "messages": (45_000, 46_000), "early": 0.0},
    ),
    "holes_jumped": Mutant(
        "a consumer does not jump a hole",
        holes_jumped,
        f"{MISSING}|everything sent is stored",
        ("bus_loses",),
        plan={"patience_s": 30.0},
    ),
    "repeats_taken": Mutant(
        "a consumer leaves out what it had", repeats_taken, "a replay gives other rows|books", ("bus_repeats",)
    ),
    "unknown_taken_for_failed": Mutant(
        "a commit whose end is unknown is looked up before it is done again",
        unknown_taken_for_failed,
        "rows are stored twice",
        ("replies_lost",),
    ),
    "directory_not_synced": Mutant(
        "the directory is synced after a segment is created",
        directory_not_synced,
        f"{STARTS_AHEAD}|stored rows are in no frame",
        plan={**ALWAYS_CUT, "segment_bytes": 1 << 17, "rest": 1.0},
    ),
    "parsed_before_durable": Mutant(
        "nothing is parsed that is not durable",
        parsed_before_durable,
        f"{STARTS_AHEAD}|{NOT_STORED}|the API showed|cannot be read: nothing more is written",
        plan={**SLOW_DISK, **ALWAYS_CUT},
    ),
    "breaks_not_told": Mutant("a break leaves a gap", breaks_not_told, "began without a word"),
    "holes_not_told": Mutant("a hole in a sequence is a gap", holes_not_told, "trades are nowhere"),
    "queue_drops": Mutant(
        "a full queue makes its writers wait",
        queue_drops,
        f"{MISSING}|the API shows what came|everything sent is stored",
        ("queues_short",),
        plan={"patience_s": 15.0},
    ),
}
