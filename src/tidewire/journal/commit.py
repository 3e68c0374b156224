"""Group commit: a thread that takes everything pending, writes it once, syncs it once, then says so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tidewire import telemetry
from tidewire.errors import JournalFailed
from tidewire.journal.catalog import Place
from tidewire.journal.config import Durability, JournalConfig
from tidewire.journal.frame import Frame
from tidewire.journal.writer import DiskFull, SegmentWriter
from tidewire.records.clock import Clock

FRAMES = telemetry.counter("journal_frames", "Frames written to the journal", ["source"])
BYTES = telemetry.counter("journal_payload_bytes", "Payload bytes written to the journal", ["source"])
COMMITS = telemetry.counter("journal_commits", "Groups of frames committed")
COMMIT_SECONDS = telemetry.histogram("journal_commit_seconds", "Time to write and sync a group of frames")
BLOCKED = telemetry.counter(
    "journal_blocked_seconds", "Time the journal could accept nothing because its disk was full"
)

RETRY_S = 1.0
"""How often a full disk is tried again."""

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

    A full disk is no failure: the group waits, with all that comes behind it, and is written again each second until
    there is room, or until the committer is stopped. ``blocked`` says why meanwhile.
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
        self.blocked: str | None = None
        """Why nothing can be accepted now, if so."""
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

    def retry(self) -> None:
        """There may be room again: try now."""
        with self._changed:
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
            self._let_go()
        except Exception as error:
            failed = error if isinstance(error, JournalFailed) else JournalFailed(_explain(error, self._directory))
            if failed is not error:
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
        self._write(group.frames)
        if wanted is Durability.DISK:
            self._writer.sync()
        self._announce(group, self._writer.place)
        if wanted is Durability.OS:
            self._writer.sync()
        COMMITS.inc()
        COMMIT_SECONDS.observe((self._clock.mono_ns() - start) / 1e9)

    def _write(self, frames: list[Frame]) -> None:
        """Hand frames to the operating system, however long its disk is full; `JournalFailed` if stopped meanwhile."""
        last = False
        while True:
            try:
                self._writer.write(frames, to_the_brim=self._stopping)
            except DiskFull as full:
                self._block(str(full))
                if last:
                    raise self._give_up(len(frames)) from full
            else:
                self._unblock()
                return
            tried = self._clock.mono_ns()
            with self._changed:
                if not self._stopping:
                    self._changed.wait(RETRY_S)
                last = self._stopping  # one more try, then no more
            BLOCKED.inc((self._clock.mono_ns() - tried) / 1e9)

    def _block(self, why: str) -> None:
        if self.blocked is None:
            _log.error("journal_disk_full", directory=str(self._directory), why=why)
        self.blocked = f"disk full: {why}. Nothing is accepted until there is room"

    def _unblock(self) -> None:
        if self.blocked is not None:
            self.blocked = None
            _log.warning("journal_disk_has_room", directory=str(self._directory))

    def _give_up(self, taken: int) -> JournalFailed:
        self._writer.seal()  # what was accepted; takes no room
        with self._mutex:
            lost = taken + len(self._frames)
        return JournalFailed(
            f"The disk of the journal {self._directory} was still full when it was closed: {lost:,} frames that had "
            "been received were not accepted. All that was accepted is safe. Free space, then start again."
        )

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
    if isinstance(error, OSError):
        return f"Writing the journal {directory} failed: {error}. {after} Check the disk, then start again."
    return f"Writing the journal {directory} failed: {error!r}. {after}"
