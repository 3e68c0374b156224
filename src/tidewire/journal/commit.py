"""Group commit: a thread that takes everything pending, writes it once, syncs it once, then says so."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tidewire import telemetry
from tidewire.errors import JournalFailed
from tidewire.journal.catalog import Place
from tidewire.journal.config import Durability, JournalConfig
from tidewire.journal.frame import Frame
from tidewire.journal.writer import SegmentWriter
from tidewire.records.clock import Clock

FRAMES = telemetry.counter("journal_frames", "Frames written to the journal", ["source"])
BYTES = telemetry.counter("journal_payload_bytes", "Payload bytes written to the journal", ["source"])
COMMITS = telemetry.counter("journal_commits", "Groups of frames committed")
COMMIT_SECONDS = telemetry.histogram("journal_commit_seconds", "Time to write and sync a group of frames")

_log = telemetry.log("journal")


@dataclass(frozen=True, slots=True)
class Group:
    """Frames that are committed together; ``size`` in bytes, about."""

    frames: list[Frame]
    size: int


class Committer:
    """The thread and what waits for it.

    ``announce`` and ``fail`` are called in that thread: ``announce`` for each group, in order, when it is as durable
    as its sources ask; ``fail`` at most once, after which nothing is announced any more.
    """

    def __init__(
        self,
        directory: Path,
        writer: SegmentWriter,
        config: JournalConfig,
        clock: Clock,
        announce: Callable[[Group, Place], None],
        fail: Callable[[JournalFailed], None],
    ) -> None:
        self._directory = directory
        self._writer = writer
        self._config = config
        self._clock = clock
        self._announce = announce
        self._fail = fail
        self._most = config.commit_bytes
        self._mutex = threading.Lock()
        self._changed = threading.Condition(self._mutex)
        self._frames: list[Frame] = []
        self._size = 0
        self._hurry = False
        self._stopping = False
        # A daemon: a process that forgets to close must still be able to end.
        self._thread = threading.Thread(target=self._run, name="journal-commit", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, frame: Frame, size: int) -> None:
        """Add a frame to the next group."""
        with self._mutex:
            before = self._size
            self._frames.append(frame)
            self._size = after = before + size
            if not before or before < self._most <= after:
                self._changed.notify()

    def hurry(self) -> None:
        """Commit what is pending now."""
        with self._changed:
            self._hurry = True
            self._changed.notify()

    def stop(self) -> None:
        """Commit what is pending, seal the segment, end the thread; returns when that is done. Blocks."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while (group := self._take()) is not None:
                self._commit(group)
            self._writer.seal()
        except Exception as error:
            failed = JournalFailed(_explain(error, self._directory))
            failed.__cause__ = error
            _log.error("journal_failed", directory=str(self._directory), error=str(failed))
            self._fail(failed)
            self._let_go()

    def _let_go(self) -> None:
        try:
            self._writer.abandon()
        except OSError as error:
            _log.warning("journal_close_failed", directory=str(self._directory), error=str(error))

    def _take(self) -> Group | None:
        """Wait for a group: the time is up, or enough bytes wait, or somebody is in a hurry. None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._stopping)
            self._changed.wait_for(
                lambda: self._hurry or self._stopping or self._size >= self._most, self._config.commit_ms / 1e3
            )
            if not self._frames:
                return None
            group = Group(self._frames, self._size)
            self._frames, self._size, self._hurry = [], 0, False
        return group

    def _commit(self, group: Group) -> None:
        start = self._clock.mono_ns()
        wanted = self._tally(group.frames)
        self._writer.write(group.frames)
        if wanted is Durability.DISK:
            self._writer.sync()
        self._announce(group, self._writer.place)
        if wanted is Durability.OS:
            self._writer.sync()
        COMMITS.inc()
        COMMIT_SECONDS.observe((self._clock.mono_ns() - start) / 1e9)

    def _tally(self, frames: list[Frame]) -> Durability:
        """Count the frames by source; the strongest durability among them."""
        counts: dict[str, list[int]] = {}
        origin = frames[0].origin
        count = counts.setdefault(origin.source, [0, 0])
        for frame in frames:
            if frame.origin is not origin:
                origin = frame.origin
                count = counts.setdefault(origin.source, [0, 0])
            count[0] += 1
            count[1] += len(frame.payload)
        for source, (number, size) in counts.items():
            FRAMES.labels(source).inc(number)
            BYTES.labels(source).inc(size)
        asked = {self._config.durability.get(source, Durability.DISK) for source in counts}
        return next(level for level in Durability if level in asked)


def _explain(error: Exception, directory: Path) -> str:
    after = "Nothing is accepted any more; all that was accepted is safe."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of the journal {directory} is full: {error}. {after} Free space, then start again."
    if isinstance(error, OSError):
        return f"Writing the journal {directory} failed: {error}. {after} Check the disk, then start again."
    return f"Writing the journal {directory} failed: {error!r}. {after}"
