"""Frames of a journal → batches → processed batches → a sink, by the code that runs live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Protocol

from tidewire.collect import Assembler, Parser
from tidewire.journal import Frame
from tidewire.process.checks import CheckConfig
from tidewire.process.processor import Processor
from tidewire.records.batch import Batch
from tidewire.replay.clock import ReplayClock
from tidewire.store.protocol import Sink

STEP_FRAMES = 4_096
COMMIT_ROWS = 50_000


class Frames(Protocol):
    """Where frames come from: a journal, its reader, an archive."""

    @property
    def uuid(self) -> str:
        """Which journal."""
        ...

    @property
    def first(self) -> int:
        """Its oldest frame."""
        ...

    def read(self, after: int, *, frames: int = 4_096, bytes_: int = 8 << 20) -> list[Frame]:
        """The next frames."""
        ...


class Replay:
    """Runs a journal through today's code. ``cut`` says how many frames each step takes (default: 4,096)."""

    def __init__(
        self,
        source: Frames,
        parsers: Mapping[str, Parser],
        *,
        lanes: int = 1,
        cut: Callable[[], int] | None = None,
        checks: CheckConfig | None = None,
    ) -> None:
        self._source = source
        self._assembler = Assembler(source.uuid, parsers, lanes)
        self._processor = Processor(checks=checks)
        self._cut = cut or (lambda: STEP_FRAMES)
        self.clock = ReplayClock()
        self.frames = 0

    def steps(self) -> Iterator[Sequence[Batch]]:
        """Processed batches, step by step, from the first frame on; progress marks at the end."""
        after = self._assembler.start({}, self._source.first)
        last: Frame | None = None
        while frames := self._source.read(after, frames=self._cut()):
            last = frames[-1]
            after = last.sequence
            self.clock.follow(last)
            self.frames += len(frames)
            yield [self._processor.process(batch) for batch in self._assembler.step(frames)]
        if last is not None:
            # The journal ends here: everything up to and with its last frame is complete.
            yield self._assembler.marks(last, last.wall_ns + 1_000)

    async def into(self, sink: Sink) -> AsyncIterator[int]:
        """Fill an empty sink; yields the number of frames done after each commit.

        One commit is under way, in the sink's thread, while the next batches are made.
        """
        waiting: list[Batch] = []
        rows = 0
        writing: asyncio.Future[int] | None = None
        try:
            for batches in self.steps():
                waiting += batches
                rows += sum(batch.rows.height for batch in batches)
                if rows < COMMIT_ROWS:
                    continue
                if writing is not None:
                    yield await writing
                writing = asyncio.ensure_future(_written(sink, waiting, self.frames))
                waiting, rows = [], 0
                await asyncio.sleep(0)  # lets it begin: making batches does not give way
        finally:
            if writing is not None:
                await writing
        if writing is not None:
            yield await writing
        if waiting:
            await sink.write(waiting)
        yield self.frames


async def _written(sink: Sink, batches: Sequence[Batch], frames: int) -> int:
    await sink.write(batches)
    return frames
