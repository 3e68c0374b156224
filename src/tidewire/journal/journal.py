"""The journal: the write-ahead log of frames of one node.

A frame is appended (it has its place), then accepted (it is as durable as its source asks). Readers never see a frame
that is not accepted. A failed write or sync ends acceptance for good: the process must stop and recover. A full disk
does not: frames wait, and are accepted once there is room.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from tidewire import telemetry
from tidewire.errors import JournalError, JournalFailed
from tidewire.journal.catalog import Catalog, Place, SegmentFile, SegmentInfo, open_segments
from tidewire.journal.commit import Committer, Group
from tidewire.journal.config import MIB, Durability, JournalConfig
from tidewire.journal.files import Files, OsFiles
from tidewire.journal.frame import Frame, Kind, Origin
from tidewire.journal.lock import lock_directory
from tidewire.journal.recent import Recent
from tidewire.journal.recovery import inspect, repair, sweep
from tidewire.journal.segment import FRAME_BYTES, MAX_CHUNKS, Limits
from tidewire.journal.stamp import Stamper
from tidewire.journal.trim import Mark, begin_of, keep_spare, read_mark, remove, write_mark
from tidewire.journal.writer import SegmentWriter
from tidewire.records.clock import Clock, Rng, SystemRng

__all__ = ["Durability", "Journal", "JournalConfig"]

PENDING = telemetry.gauge("journal_pending_bytes", "Bytes appended to the journal but not accepted yet")
LAG = telemetry.gauge("journal_accepted_lag_frames", "Frames appended to the journal but not accepted yet")

# About what a frame costs beside payload and cursor: its header and the names of its origin.
_BESIDE = FRAME_BYTES + 60

_log = telemetry.log("journal")


@dataclass(frozen=True, slots=True)
class _Opened:
    """What recovery found; ``lock`` is the descriptor that holds the directory."""

    uuid: str
    last: int
    wall_ns: int
    catalog: Catalog
    writer: SegmentWriter
    lock: int


class Journal:
    """The journal of one directory; made by `open`, used from one event loop."""

    committer: type[Committer] = Committer

    def __init__(self, directory: Path, clock: Clock, config: JournalConfig, opened: _Opened, files: Files) -> None:
        self.directory = directory
        self.uuid = opened.uuid
        self.head = opened.last
        """The last sequence assigned; 0 while there is none."""
        self.accepted = opened.last
        """The last sequence accepted."""
        self.failed: JournalFailed | None = None
        """Why nothing is accepted any more, if so."""
        self._config = config
        self._files = files
        self._most_payload = config.max_frame * MAX_CHUNKS
        self._stamper = Stamper(clock, opened.wall_ns)
        self._catalog = opened.catalog
        self._lock: int | None = opened.lock
        self._recent = Recent(config.recent_bytes)
        self._pending = 0
        self._place = opened.writer.place
        self._trimming: asyncio.Task[int] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._closed = False
        self._order = itertools.count()
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._paused: list[asyncio.Future[None]] = []
        self._loop = asyncio.get_running_loop()
        self._committer = self.committer(
            directory, opened.writer, config, clock, self._from_thread, self._fail_from_thread
        )
        self._committer.start()

    @classmethod
    async def open(
        cls,
        directory: Path,
        clock: Clock,
        config: JournalConfig | None = None,
        *,
        files: Files | None = None,
        rng: Rng | None = None,
    ) -> Journal:
        """Open or create the journal in a directory, recovering what its last writer left.

        `JournalLocked` if a process has it; `JournalCorrupt` if files in it are no journal's, do not fit together or
        need a later version; `JournalFailed` if the file system refuses.
        """
        config = config or JournalConfig()
        files = files or OsFiles()
        opened = await asyncio.to_thread(_open, directory, config, files, rng or SystemRng())
        journal = cls(directory, clock, config, opened, files)
        _log.info("journal_open", directory=str(directory), journal=journal.uuid, head=journal.head)
        return journal

    def append(
        self,
        origin: Origin,
        payload: bytes,
        *,
        kind: Kind = Kind.DATA,
        cursor: bytes = b"",
        wall_ns: int | None = None,
    ) -> int:
        """Give a frame its sequence and times; it is committed with the next group. Returns the sequence.

        ``wall_ns`` is for callers whose upstream tells the time; stamps still never go back. Appending always takes
        the frame, for it was received already: callers look at `full` and pause. `JournalFailed` after a failure.
        """
        if self.failed is not None:
            raise JournalFailed(str(self.failed)) from self.failed
        if self._closing is not None:
            raise JournalError(f"The journal {self.directory} is closed. Stop the collectors before the journal.")
        if len(payload) > self._most_payload:
            raise ValueError(f"The payload has {len(payload):,} bytes; at most {self._most_payload:,} fit in a frame.")
        wall, mono = self._stamper.stamp(wall_ns)
        sequence = self.head + 1
        self.head = sequence
        size = len(payload) + len(cursor) + _BESIDE
        self._pending += size
        self._committer.put(Frame(sequence, wall, mono, kind, origin, cursor, payload), size)
        return sequence

    @property
    def first(self) -> int:
        """The oldest sequence that is there; 1 in a journal that was never trimmed."""
        return self._catalog.first

    @property
    def blocked(self) -> str | None:
        """Why nothing can be accepted for now (a full disk), if so; what was appended waits."""
        return self._committer.blocked

    def retry(self) -> None:
        """There may be room on the disk again: do not wait for the next try."""
        self._committer.retry()

    def horizon(self) -> int:
        """UTC nanoseconds that no frame appended from now on is stamped before.

        Past the last frame, so that whoever has all frames up to `head` also has everything up to this time.
        """
        return self._stamper.horizon()

    @property
    def full(self) -> bool:
        """Whether more is pending than allowed: pause what can be paused, then await `ready`."""
        return self._pending > self._config.pending_bytes

    async def ready(self) -> None:
        """Return when the journal is not `full`; after a wait, when half of what is allowed is free."""
        if self.failed is not None:
            raise JournalFailed(str(self.failed)) from self.failed
        if not self.full:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._paused.append(future)
        await future

    async def accept(self, sequence: int) -> None:
        """Return when that frame is accepted; `JournalFailed` if it never will be by this process."""
        if sequence > self.head:
            raise ValueError(f"Frame {sequence} was not appended; the last is {self.head}.")
        await self._reach(sequence)

    async def wait(self, after: int) -> int:
        """Return the last accepted sequence once it is past ``after``; `JournalError` if the journal closes first."""
        await self._reach(after + 1)
        return self.accepted

    async def _reach(self, sequence: int) -> None:
        if sequence <= self.accepted:
            return
        if self.failed is not None:
            raise JournalFailed(str(self.failed)) from self.failed
        if self._closed:
            raise JournalError(f"The journal {self.directory} is closed; its last frame is {self.accepted}.")
        future: asyncio.Future[None] = self._loop.create_future()
        heapq.heappush(self._waiters, (sequence, next(self._order), future))
        await future

    def read(self, after: int, *, frames: int = 4096, bytes_: int = 8 * MIB) -> list[Frame]:
        """Accepted frames after ``after``, in order; from memory when recent, else from disk.

        At most ``frames`` of them; stops behind the frame that reaches ``bytes_`` of payload. Empty at the end.
        `JournalCorrupt` names file and offset of damage, `JournalTrimmed` the oldest frame that is there.
        """
        if after >= self.accepted:
            return []
        near = self._recent.read(after, frames, bytes_)
        if near is not None:
            return near
        return self._catalog.read(Limits(after, self.accepted, frames, bytes_))

    def scan(
        self,
        *,
        after: int = 0,
        source: str | None = None,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> Iterator[Frame]:
        """Frames accepted by now, in order: after a sequence, of a source, with wall time in ``[start_ns, end_ns)``."""
        return self._catalog.scan(Limits(after, self.accepted), source, start_ns, end_ns)

    async def tail(self, after: int, *, frames: int = 4096, bytes_: int = 8 * MIB) -> AsyncIterator[list[Frame]]:
        """Frames after ``after`` as they are accepted, each once, in order; ends when the journal is closed.

        `JournalFailed` when it fails, after all that was accepted.
        """
        while True:
            found = self.read(after, frames=frames, bytes_=bytes_)
            if found:
                after = found[-1].sequence
                yield found
            elif self._closed and self.failed is None:
                return
            else:
                try:
                    await self._reach(after + 1)
                except JournalError:
                    if self.failed is not None:
                        raise

    def segments(self) -> list[SegmentInfo]:
        """The segments with accepted frames, oldest first."""
        return self._catalog.infos(self.accepted, self._place)

    async def trim(self, first: int) -> int:
        """Remove the segments before the one that begins with frame ``first``; returns how many.

        Whether anybody still needs them is the caller's business. `JournalFailed` if the mark cannot be written, and
        then nothing is removed.
        """
        if self._trimming is not None:
            await asyncio.wait((self._trimming,))
        if self._closing is not None:
            return 0
        # Shielded: a mark that was written is followed by the removal.
        self._trimming = asyncio.ensure_future(self._trim(first))
        return await asyncio.shield(self._trimming)

    async def _trim(self, first: int) -> int:
        segments = self.segments()
        if not any(segment.first == first and segment.last >= first for segment in segments):
            raise ValueError(f"Frame {first} begins no segment with accepted frames; nothing was trimmed.")
        old = self._catalog.below(first)
        if not old:
            return 0
        try:
            await asyncio.to_thread(write_mark, self.directory, Mark(self.uuid, first), self._files)
        except OSError as error:
            raise JournalFailed(
                f"The journal {self.directory} cannot be trimmed: {error}. Nothing was removed."
            ) from error
        self._catalog.drop(old)
        await asyncio.to_thread(self._remove, old)
        return len(old)

    def _remove(self, old: list[SegmentFile]) -> None:
        remove(old, self._files)
        self.retry()

    async def drain(self) -> None:
        """Accept all that was appended so far, without waiting for the group to fill."""
        if self.accepted < self.head:
            self._committer.hurry()
            await self.accept(self.head)

    async def close(self) -> None:
        """Accept all that was appended, then stop; may be called again.

        `JournalFailed` if the journal failed, after everything is released.
        """
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)
        if self.failed is not None:
            raise JournalFailed(str(self.failed)) from self.failed

    async def _close(self) -> None:
        if self._trimming is not None:
            await asyncio.wait((self._trimming,))
        await asyncio.to_thread(self._committer.stop)
        self._closed = True
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._wake(JournalError(f"The journal {self.directory} is closed; its last frame is {self.accepted}."))
        _log.info("journal_closed", directory=str(self.directory), journal=self.uuid, head=self.accepted)

    def _from_thread(self, group: Group, place: Place) -> None:
        try:
            self._loop.call_soon_threadsafe(self._announce, group, place)
        except RuntimeError:  # the loop is closed: nobody waits any more
            _log.warning("journal_loop_closed", directory=str(self.directory))

    def _fail_from_thread(self, failed: JournalFailed) -> None:
        self.failed = failed
        try:
            self._loop.call_soon_threadsafe(self._wake, failed)
        except RuntimeError:
            _log.warning("journal_loop_closed", directory=str(self.directory))

    def _announce(self, group: Group, place: Place) -> None:
        """A group is durable: move `accepted` and wake who waited for it."""
        self.accepted = group.frames[-1].sequence
        self._place = place
        self._pending -= group.size
        self._recent.add(group.frames, group.size)
        PENDING.set(self._pending)
        LAG.set(self.head - self.accepted)
        waiters = self._waiters
        while waiters and waiters[0][0] <= self.accepted:
            _settle(heapq.heappop(waiters)[2], None)
        if self._paused and self._pending <= self._config.pending_bytes // 2:
            paused, self._paused = self._paused, []
            for future in paused:
                _settle(future, None)

    def _wake(self, error: JournalError) -> None:
        """Nothing more will be accepted: tell everybody who waits."""
        waiters, self._waiters = self._waiters, []
        paused, self._paused = self._paused, []
        for future in [*(waiter[2] for waiter in waiters), *paused]:
            _settle(future, error)


def _settle(future: asyncio.Future[None], error: JournalError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(type(error)(str(error)))


def _open(directory: Path, config: JournalConfig, files: Files, rng: Rng) -> _Opened:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = lock_directory(directory)
    except OSError as error:
        raise JournalFailed(
            f"The journal directory {directory} cannot be used: {error}. Choose one that this user may write to."
        ) from error
    try:
        return _recover(directory, config, files, rng, lock)
    except OSError as error:
        os.close(lock)
        raise JournalFailed(
            f"The journal {directory} cannot be recovered: {error}. Nothing accepted was removed. Check the disk, "
            "then start again."
        ) from error
    except BaseException:
        os.close(lock)
        raise


def _recover(directory: Path, config: JournalConfig, files: Files, rng: Rng, lock: int) -> _Opened:
    sweep(directory, files)
    segments = open_segments(directory)
    below = begin_of(directory, segments, read_mark(directory))
    remove(segments[:below], files)
    del segments[:below]
    keep_spare(directory, files)
    catalog = Catalog(segments)
    if not segments:
        name = str(uuid.UUID(hex=rng.token(16), version=4))
        return _Opened(name, 0, 0, catalog, SegmentWriter(directory, name, files, config, catalog), lock)
    newest = segments[-1]
    name = newest.header.uuid
    writer = SegmentWriter(directory, name, files, config, catalog)
    tail = inspect(newest)
    writer.resume(repair(newest, tail, files, config.segment_bytes), newest.first, tail.end)
    return _Opened(name, tail.last, tail.wall_ns, catalog, writer, lock)
