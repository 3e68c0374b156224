"""A bounded queue of events, with waiting on both sides."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from tidewire.errors import BusClosed, BusError
from tidewire.records.event import Event


class Inbox:
    """A bounded queue with one reader. Writers that wait for room are served in the order they came."""

    __slots__ = ("_idle", "_settling", "_writers", "error", "limit", "pending")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.pending: deque[Event] = deque()
        self.error: BusClosed | None = None
        """Why writers are turned away, once they are."""
        self._writers: deque[tuple[asyncio.Future[None], Event]] = deque()
        self._idle: asyncio.Future[None] | None = None
        self._settling: list[asyncio.Future[None]] = []

    @property
    def full(self) -> bool:
        """No room, or somebody waits for room already."""
        return len(self.pending) >= self.limit or bool(self._writers)

    @property
    def writers(self) -> int:
        """How many wait for room."""
        return len(self._writers)

    @property
    def idle(self) -> bool:
        """The reader waits and has no reason not to."""
        return self._idle is not None and not self._idle.done()

    def add(self, event: Event) -> None:
        """Append; the caller has seen that there is room."""
        self.pending.append(event)
        self.wake()

    def wake(self) -> None:
        """Something changed: the reader looks again."""
        idle = self._idle
        if idle is not None and not idle.done():
            idle.set_result(None)

    async def push(self, event: Event) -> None:
        """Append, waiting for room."""
        if self.error is not None:
            raise self.error
        if not self.full:
            self.add(event)
            return
        entry = (asyncio.get_running_loop().create_future(), event)
        self._writers.append(entry)
        try:
            await entry[0]
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):
                self._writers.remove(entry)
            raise

    def pop(self) -> Event:
        """The oldest event; its place goes to the first writer that waits."""
        event = self.pending.popleft()
        while self._writers and len(self.pending) < self.limit:
            future, waiting = self._writers.popleft()
            if not future.done():
                self.pending.append(waiting)
                future.set_result(None)
        if self._settling and not self._writers:
            self._settle()
        return event

    async def change(self) -> None:
        """Wait until something is added or `wake` is called; only for the reader."""
        if self._idle is not None:
            raise BusError("two tasks read from one consumer; give each task a consumer of its own.")
        self._idle = asyncio.get_running_loop().create_future()
        self._settle()
        try:
            await self._idle
        finally:
            self._idle = None

    async def settled(self) -> None:
        """Wait until the reader waits, or has gone, or no writer is left."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settling.append(future)
        await future

    def release(self, error: BusClosed | None = None) -> None:
        """Let every writer go, with the error or as if its event had been taken; wake everybody."""
        self.error = error
        writers, self._writers = self._writers, deque()
        for future, _ in writers:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        self._settle()
        self.wake()

    def _settle(self) -> None:
        for future in self._settling:
            if not future.done():
                future.set_result(None)
        self._settling.clear()
