"""Keeps a journal's directory small: archives what is sealed, trims what is archived and needed by nobody.

Both run beside collecting and never stop it. A segment goes from the directory only when, in this order: it is archived
and was read back; every consumer is past it, durably; and either what is kept here allows it or the disk is full; then
the mark moves, on disk, and only then the files are removed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

from tidewire import telemetry
from tidewire.errors import JournalCorrupt, TidewireError
from tidewire.journal.archive import DAY_NS, Archive, Retention
from tidewire.journal.catalog import SegmentInfo
from tidewire.journal.journal import Journal
from tidewire.records.clock import Clock

LOOK_S = 1.0
RETRY_S = 5.0
RETRY_S_MAX = 300.0
EXPIRE_S = 3600.0

T = TypeVar("T")

_log = telemetry.log("journal")
_waiting = telemetry.gauge("journal_archive_lag_segments", "Sealed segments that are not archived yet")
_errors = telemetry.counter("journal_archive_errors", "Tries to archive or to trim that failed")
_segments = telemetry.counter("journal_archived_segments", "Segments archived")
_trimmed = telemetry.counter("journal_trimmed_segments", "Segments removed from the directory after they were archived")
_local = telemetry.gauge("journal_local_bytes", "Bytes of the segments in the journal's directory")


@dataclass(frozen=True)
class Keep:
    """What stays in the directory though it is archived: so many days, at most so many bytes; 0 = no limit by that."""

    days: float = 7.0
    bytes: int = 20_000_000_000


@dataclass(frozen=True)
class KeeperConfig:
    """What to keep where; ``retention`` is that of the archive, by source."""

    keep: Keep = field(default_factory=Keep)
    retention: Mapping[str, Retention] = field(default_factory=dict[str, Retention])


class Keeper:
    """The task of one journal. ``passed`` says up to which frame nobody will ask the directory again."""

    def __init__(
        self, journal: Journal, archive: Archive, clock: Clock, passed: Callable[[], int], config: KeeperConfig
    ) -> None:
        self._journal = journal
        self._archive = archive
        self._clock = clock
        self._passed = passed
        self._config = config
        self._damaged: dict[int, str] = {}
        self._expired_ns: int | None = None
        self._loaded = False
        self._problems: dict[str, str] = {}

    @property
    def problem(self) -> str | None:
        """What does not work now, if something does not."""
        return "; ".join([*self._problems.values(), *self._damaged.values()]) or None

    async def run(self) -> None:
        """Archive and trim until cancelled."""
        await asyncio.gather(self._loop("archive", self.archive), self._loop("trim", self.trim))

    async def _loop(self, what: str, step: Callable[[], object]) -> None:
        """Do a thing again and again; after an error with growing pauses."""
        wait_s = RETRY_S
        while True:
            try:
                await step()  # type: ignore[misc]
            except Exception as error:
                _errors.inc()
                self._problems[what] = str(error) if isinstance(error, TidewireError) else repr(error)
                _log.error("journal_keeping_failed", part=what, error=self._problems[what], wait_s=wait_s)
                await self._clock.sleep(wait_s)
                wait_s = min(2 * wait_s, RETRY_S_MAX)
            else:
                self._problems.pop(what, None)
                wait_s = RETRY_S
                await self._clock.sleep(LOOK_S)

    async def archive(self) -> int:
        """Archive every sealed segment that is not; how many were. Then let go of what has expired, once an hour.

        A segment that is damaged is left where it is and told about; the others go on.
        """
        if not self._loaded:
            await in_thread(self._archive.load)
            self._loaded = True
        done = 0
        waiting = [info for info in self._sealed() if not self._archive.has(info) and info.first not in self._damaged]
        for left, info in zip(range(len(waiting), 0, -1), waiting, strict=True):
            _waiting.set(left)
            try:
                made = await in_thread(lambda info=info: self._archive.add(info))
            except JournalCorrupt as error:
                self._damaged[info.first] = str(error)
                _log.error("journal_segment_not_archived", segment=info.path.name, error=str(error))
                continue
            done += 1
            _segments.inc()
            _log.info("journal_archived", segment=info.path.name, parts=len(made.parts), sha256=made.sha256)
        _waiting.set(len(self._damaged))
        await self._expire()
        return done

    async def _expire(self) -> None:
        now = self._clock.mono_ns()
        if self._config.retention and (self._expired_ns is None or now - self._expired_ns >= EXPIRE_S * 1e9):
            wall = self._clock.wall_ns()
            await in_thread(lambda: self._archive.expire(self._config.retention, wall))
            self._expired_ns = now

    async def trim(self) -> int:
        """Remove the oldest segments that may go; how many went."""
        infos = self._journal.segments()
        size = sum(info.bytes for info in infos)
        _local.set(size)
        first = await self._keep_from(infos, size)
        if first is None:
            return 0
        went = await self._journal.trim(first)
        _trimmed.inc(went)
        return went

    async def _keep_from(self, infos: list[SegmentInfo], size: int) -> int | None:
        """The frame to keep the directory from; None if nothing may go."""
        passed = self._passed()
        now = self._clock.wall_ns()
        keep = self._config.keep
        first: int | None = None
        for info, follower in pairwise(infos):
            aged = keep.days > 0 and now - follower.created_ns > keep.days * DAY_NS
            heavy = keep.bytes > 0 and size > keep.bytes
            if info.last > passed or not (aged or heavy or self._journal.blocked):
                break
            # Asked again now: an archive may have been moved away since.
            if not self._archive.has(info) or not await in_thread(lambda info=info: self._archive.holds(info)):
                break
            first, size = follower.first, size - info.bytes
        return first

    def _sealed(self) -> list[SegmentInfo]:
        return self._journal.segments()[:-1]


async def in_thread(work: Callable[[], T]) -> T:
    """Run something that blocks, maybe for minutes, in a thread that nobody has to wait for at the end.

    The archive may be cut off at any moment, so a process that stops does not have to see it through.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        if not future.done():
            outcome()

    def run() -> None:
        try:
            found = work()
        except BaseException as error:
            outcome = lambda error=error: future.set_exception(error)  # noqa: E731
        else:
            outcome = lambda: future.set_result(found)  # noqa: E731
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, name="journal-archive", daemon=True).start()
    return await future
