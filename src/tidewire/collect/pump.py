"""The pump: reads accepted frames from the journal, assembles batches and publishes them.

Three rules set its pace: a step begins with the first frames that are accepted, ``parse_ms`` after the previous one
began or when ``parse_frames`` wait; a step takes at most ``step_frames``; streams without rows get a progress mark
every ``mark_ms``. While nobody waits for rows, steps are ``unheard_ms`` apart, or as far as half of ``step_frames``: a
step costs much the same whether it is of ten frames or of a hundred.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tidewire import telemetry
from tidewire.bus import Bus
from tidewire.collect import state
from tidewire.collect.assemble import Assembler
from tidewire.journal import Frame, Journal
from tidewire.records.batch import Batch, Stream
from tidewire.records.clock import Clock
from tidewire.records.event import Event, data_event

_lag = telemetry.gauge("pump_lag_frames", "Accepted frames that are not parsed yet")
_seconds = telemetry.histogram("pump_step_seconds", "Time to parse one step and have its batches accepted")


@dataclass(frozen=True)
class PumpConfig:
    """Times in milliseconds. `step_frames` bounds how long one step can hold up everything else."""

    parse_ms: float = 10.0
    parse_frames: int = 512
    unheard_ms: float = 100.0
    step_frames: int = 4_096
    mark_ms: float = 200.0


class Pump:
    """Publishes ``data.<type>.collected`` for everything in the journal, in order."""

    def __init__(
        self,
        journal: Journal,
        assembler: Assembler,
        bus: Bus,
        clock: Clock,
        config: PumpConfig | None = None,
        heard: Callable[[], bool] = lambda: True,
    ) -> None:
        self._journal = journal
        self._assembler = assembler
        self._bus = bus
        self._clock = clock
        self._config = config or PumpConfig()
        self._heard = heard
        self._marked_ns = 0
        self._began_ns = 0
        self._state_at: int | None = None
        self.position = 0

    async def run(self, positions: Mapping[Stream, int]) -> None:
        """Continue from the sink's positions until cancelled, or until the journal closes."""
        oldest = self._journal.first
        self.position = self._assembler.start(positions, oldest)
        before = self._journal.read(self.position - 1, frames=1) if self.position >= oldest else []
        last: Frame | None = before[0] if before else None
        while True:
            if self._journal.accepted == self.position:
                await self._rest(last)
                last = None
            await self._pace()
            frames = self._journal.read(self.position, frames=self._config.step_frames)
            if frames:
                await self._step(frames)
                last = frames[-1]

    async def _pace(self) -> None:
        """Wait for the time of the next step, unless enough frames wait: what comes meanwhile goes with it."""
        config = self._config
        wait_ms, enough = config.parse_ms, config.parse_frames
        if not self._heard():
            wait_ms, enough = max(wait_ms, config.unheard_ms), max(enough, config.step_frames // 2)
        while self._journal.accepted - self.position < enough:
            left_ms = wait_ms - (self._clock.mono_ns() - self._began_ns) / 1e6
            if left_ms <= 0:
                return
            # In pieces: somebody may begin to listen, and many frames may come.
            await self._clock.sleep(min(left_ms, config.parse_ms or left_ms) / 1e3)
            if self._heard():
                wait_ms, enough = config.parse_ms, config.parse_frames

    async def _rest(self, last: Frame | None) -> None:
        """Wait for frames. When none came for ``mark_ms``, say that everything until now is complete."""
        frames = asyncio.ensure_future(self._journal.wait(self.position))
        quiet = asyncio.ensure_future(self._clock.sleep(self._config.mark_ms / 1e3))
        try:
            if last is not None:
                await asyncio.wait((frames, quiet), return_when=asyncio.FIRST_COMPLETED)
                if not frames.done():
                    # Frames that are appended and not accepted yet may be stamped before the horizon.
                    until_ns = self._journal.horizon() if self._journal.head == self.position else 0
                    await self._publish(self._assembler.marks(last, until_ns))
            quiet.cancel()
            await frames
        finally:
            frames.cancel()
            quiet.cancel()

    async def _step(self, frames: list[Frame]) -> None:
        began = self._began_ns = self._clock.mono_ns()
        batches = self._assembler.step(frames)
        self.position = frames[-1].sequence
        if began - self._marked_ns >= self._config.mark_ms * 1e6:
            batches += self._assembler.marks(frames[-1])
            self._marked_ns = began
        self._ask(frames[-1])
        if self._state_at is None or self.position - self._state_at >= state.CHECKPOINT_FRAMES:
            state.write(self._journal, self._assembler.parsers, frames[-1])
            self._state_at = self.position
        await self._publish(batches)
        _lag.set(self._journal.accepted - self.position)
        _seconds.observe((self._clock.mono_ns() - began) / 1e9)

    def _ask(self, last: Frame) -> None:
        """Tell the sources what their parsers want; who does not hear it is asked again."""
        for number, (source, ask) in enumerate(self._assembler.asks()):
            subject = f"control.{ask.what}"
            trace = f"{self._journal.uuid[:8]}-{last.sequence:x}"
            name = f"{subject}.{source}.{trace}.{number}"
            facts = {"source": source, **ask.facts}
            self._bus.offer(Event(name, subject, source, self._clock.wall_ns(), 1, trace, facts))

    async def _publish(self, batches: list[Batch]) -> None:
        now = self._clock.wall_ns()
        for batch in batches:
            await self._bus.publish(data_event("collected", batch, now))
