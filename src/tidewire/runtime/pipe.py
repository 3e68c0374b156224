"""The pipe: pump → process → store, in one process or several, restarted from the store's positions when it breaks.

There is one way to begin, after a clean stop, a crash or a failure inside: read the sink's positions, seed what the
processor remembers from what is stored, and continue the journal from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from tidewire import telemetry
from tidewire.bus import Bus, Consumer
from tidewire.bus import Hole as Skipped
from tidewire.collect import Assembler, Parser, Pump, PumpConfig
from tidewire.collect.state import follow, restore, stateful
from tidewire.errors import JournalError, PositionMismatch, TidewireError
from tidewire.journal import Frame, Journal
from tidewire.process.breaker import BreakerConfig
from tidewire.process.checks import CheckConfig
from tidewire.process.processor import Processor, ProcessStage
from tidewire.process.skew import WINDOW_FRAMES
from tidewire.records.batch import Stream
from tidewire.records.clock import Clock, utc
from tidewire.records.event import Event, data_event
from tidewire.records.ops import Quarantined
from tidewire.records.record import types
from tidewire.runtime.gaps import seed
from tidewire.runtime.warming import Needed
from tidewire.store.protocol import EVERYTHING, Query, Store

RESTART_S = 1.0
RESTART_S_MAX = 30.0

_log = telemetry.log("runtime")
_restarts = telemetry.counter("pipe_restarts", "Times the pipe began again after a failure")
_in_flight = telemetry.gauge("pipe_in_flight_frames", "Accepted frames that are not stored yet")
_heartbeat = telemetry.gauge("stage_heartbeat_timestamp_seconds", "When a stage last finished something", ("stage",))


class _Broken(TidewireError):
    """A stream did not continue: begin again from the store's positions."""

    code = "pipe_broken"


@dataclass(frozen=True)
class PipeConfig:
    """Stored after ``store_ms`` or ``store_rows``, whichever comes first."""

    pump: PumpConfig = field(default_factory=PumpConfig)
    lanes: int = 1
    store_ms: float = 250.0
    store_rows: int = 5_000
    queue: int = 256
    breaker: BreakerConfig = field(default_factory=BreakerConfig)
    checks: CheckConfig = field(default_factory=CheckConfig)


class Pipe:
    """Brings every accepted frame into the store, once."""

    def __init__(
        self,
        journal: Journal,
        bus: Bus,
        store: Store,
        parsers: Callable[[], Awaitable[Mapping[str, Parser]]],
        clock: Clock,
        config: PipeConfig | None = None,
        heard: Callable[[], bool] = lambda: True,
    ) -> None:
        self._heard = heard
        self._journal = journal
        self._bus = bus
        self._store = store
        self._parsers = parsers
        self._clock = clock
        self._config = config or PipeConfig()
        self._committed = asyncio.Event()
        self.processor = Processor(self._config.breaker, self._config.checks)
        self.rows = 0
        self._life: tuple[Pump, Assembler] | None = None
        self._outdated = False

    async def run(self) -> None:
        """Run until cancelled. A failure begins again after a back-off; a failed journal ends it."""
        wait_s = RESTART_S
        while True:
            before = self.rows
            ended: list[JournalError] = []
            try:
                await self._once()
            except* JournalError as group:
                ended += [error for error in group.exceptions if isinstance(error, JournalError)]
            except* Exception as group:
                _log.error("pipe broke; beginning again from the store", errors=[repr(e) for e in group.exceptions])
            if ended:  # raised in there it would leave inside a group
                raise ended[0]
            _restarts.inc()
            wait_s = RESTART_S if self.rows > before else min(2 * wait_s, RESTART_S_MAX)
            await self._clock.sleep(wait_s)

    async def try_out(self, source: str, parser: Parser) -> None:
        """Show a new parser what it will have to know of the frames so far; raises what it raises."""
        if self._life is not None:
            await asyncio.to_thread(restore, self._journal, {source: parser}, self._life[0].position)

    async def adopt(self, source: str, make: Callable[[], Awaitable[Parser]]) -> None:
        """Parse the frames of a source by a new parser from now on; it is shown first what it has to know.

        A life of the pipe that is beginning just now may have an older one: it begins again. Later ones have new ones.
        """
        while (life := self._life) is not None:
            pump, assembler = life
            parsers = {source: await make()}
            at = pump.position
            await asyncio.to_thread(restore, self._journal, parsers, at)
            near = pump.position
            await asyncio.to_thread(follow, self._journal, parsers, at, near)
            if self._life is life:
                follow(self._journal, parsers, near, pump.position)
                assembler.adopt(source, parsers[source])
                return
        self._outdated = True

    async def stored(self, sequence: int) -> None:
        """Return when everything up to this frame is committed for every stream."""
        while self.in_flight(sequence):
            await self._commits()

    async def drained(self) -> None:
        """Return when everything accepted so far is stored, and known to be complete, so that every read shows it."""
        target = self._journal.accepted
        last = self._journal.read(target - 1, frames=1) if target else []
        while self.in_flight(target) or (last and not self._is_complete(last[0])):
            await self._commits()

    async def _commits(self) -> None:
        self._committed.clear()
        await self._committed.wait()

    def _is_complete(self, frame: Frame) -> bool:
        """Whether no stream can get anything any more that was received up to this frame."""
        return min(self._store.watermark(kind) for kind in types().values()) >= utc(frame.wall_ns)

    def in_flight(self, target: int | None = None) -> int:
        """Accepted frames (up to ``target``) that are not committed for every stream."""
        positions = self._own_positions()
        streams = len(types()) * self._config.lanes
        slowest = min(positions.values()) if len(positions) >= streams else 0
        return max(0, (self._journal.accepted if target is None else target) - slowest)

    def _own_positions(self) -> dict[Stream, int]:
        """Positions in this journal; those of a type that is not loaded wait until it is back."""
        known, own = types(), self._journal.uuid
        found = self._store.positions().items()
        return {stream: at for stream, at in found if stream.journal == own and stream.type in known}

    # -- one life of the pipe ---------------------------------------------------------------------------------

    async def _once(self) -> None:
        self._outdated = False
        positions = self._own_positions()
        self.processor = Processor(self._config.breaker, self._config.checks)
        await seed(self.processor, self._store)
        parsers = await self._parsers()
        await self._warm(positions, parsers)
        if stateful(parsers):  # what they learned there is past what is parsed next
            parsers = await self._parsers()
        assembler = Assembler(self._journal.uuid, parsers, self._config.lanes)
        after = assembler.start(positions, self._journal.first)
        await asyncio.to_thread(restore, self._journal, parsers, after)
        if self._outdated:
            raise _Broken("a source was loaded meanwhile; its parser is missing here")
        pump = Pump(self._journal, assembler, self._bus, self._clock, self._config.pump, self._heard)
        pump.position = after
        stage = ProcessStage(self._bus, self.processor, self._clock)
        queue = self._config.queue
        collected = self._bus.consume("process", "data.*.collected", positions=positions, queue=queue)
        processed = self._bus.consume("store", "data.*.processed", positions=positions, queue=queue)
        self._life = pump, assembler
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._process(collected, stage), name="process")
                group.create_task(self._write(processed), name="store")
                group.create_task(pump.run(positions), name="pump")
        finally:
            self._life = None
            collected.close()
            processed.close()

    async def _warm(self, positions: Mapping[Stream, int], parsers: Mapping[str, Parser]) -> None:
        """Show the processor the frames before its positions: what it forgets of older ones cannot matter."""
        last = max(positions.values(), default=0)
        assembler = Assembler(self._journal.uuid, parsers, self._config.lanes)
        after = max(0, (last // WINDOW_FRAMES - 1) * WINDOW_FRAMES)
        await asyncio.to_thread(restore, self._journal, parsers, after)
        if after >= last:
            return
        needed = await asyncio.to_thread(Needed, self._journal, after, last)
        while after < last:
            read = [frame for frame in self._journal.read(after, frames=4_096) if frame.sequence <= last]
            if not read:
                return
            after = read[-1].sequence
            frames = [frame for frame in read if needed.of(frame)]
            if not frames:
                continue
            held = await self._held(frames)
            for batch in assembler.step(frames):
                self.processor.warm(batch, positions.get(batch.stream, 0), held)

    async def _held(self, frames: Sequence[Frame]) -> pl.DataFrame:
        """What went into quarantine from these frames."""
        query = Query(
            Quarantined.type,
            {"journal": [self._journal.uuid]},
            start=utc(frames[0].wall_ns),
            end=utc(frames[-1].wall_ns + 1_000),
            snapshot=EVERYTHING,
            fields=("record_type", "frame", "row"),
            limit=1_000_000,
        )
        return (await self._store.read(query)).rows

    async def _process(self, consumer: Consumer, stage: ProcessStage) -> None:
        async for item in consumer:
            event = _continued(item)
            await stage.take(event)
            consumer.done(event)
            _heartbeat.labels("process").set(self._clock.wall_ns() / 1e9)

    async def _write(self, consumer: Consumer) -> None:
        while True:
            events = await self._gather(consumer)
            if not events:
                return
            try:
                written = await self._store.write([event.batch for event in events])
            except PositionMismatch as error:
                raise _Broken(str(error)) from error
            for event in events:
                consumer.done(event)
            now = self._clock.wall_ns()
            for outcome in written:
                self.rows += outcome.stored
                if outcome.fresh.height:
                    self._bus.offer(data_event("stored", outcome.batch.with_(rows=outcome.fresh), now))
            self._committed.set()
            _in_flight.set(self.in_flight())
            _heartbeat.labels("store").set(now / 1e9)

    async def _gather(self, consumer: Consumer) -> Sequence[Event]:
        """The events of one commit: those of ``store_ms``, or fewer if they bring ``store_rows`` rows."""
        events: list[Event] = []
        rows = 0
        try:
            async with asyncio.timeout(None) as limit:
                async for item in consumer:
                    events.append(_continued(item))
                    rows += events[-1].batch.rows.height
                    if len(events) == 1:
                        limit.reschedule(asyncio.get_running_loop().time() + self._config.store_ms / 1e3)
                    if rows >= self._config.store_rows or len(events) >= self._config.queue:
                        break
        except TimeoutError:
            pass
        return events


def _continued(item: Event | Skipped) -> Event:
    if isinstance(item, Skipped):
        raise _Broken(f"{item.stream} is at {item.position}, the next batch continues {item.prev}")
    return item
