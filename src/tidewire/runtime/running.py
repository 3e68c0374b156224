"""Sources that run: each is started and stopped by itself, with the platform or in the middle of its life."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from tidewire import telemetry
from tidewire.collect import App, Context, Filler, GapLedger, SourceConfig, StreamWatch, control
from tidewire.collect.app import unlisted
from tidewire.collect.silence import Seen
from tidewire.errors import ConfigError, JournalError
from tidewire.journal import Kind, Origin

RETRY_S = 5.0
RETRY_S_MAX = 300.0
STOP_S = 30.0
"""How long a source may take to stop; then it is told, and nothing waits for it any more."""

COLLECTOR = "platform"
STOPPED = "stopped"
"""The cursor that says when a source was unloaded, UTC nanoseconds; empty while it is loaded."""

_log = telemetry.log("runtime")

Failed = Callable[[str, BaseException], None]
"""Hears which part of a source failed and is not tried again."""


@dataclass(frozen=True)
class Care:
    """What every running source gets beside its App. ``settle_s`` is None where gaps are not filled."""

    ledger: GapLedger
    settle_s: float | None
    seen: Seen


class RunningSource:
    """A source that runs: its App, what fills its gaps, and what watches its streams."""

    def __init__(self, app: App, care: Care) -> None:
        self.app = app
        self._care = care
        self._tasks: list[asyncio.Task[None]] = []
        self._failed: Failed = _unheard

    def start(self, failed: Failed) -> None:
        """Bring it up in the background, however long its upstream cannot be reached."""
        self._failed = failed
        self._spawn("", self._bring_up())

    async def stop(self) -> None:
        """Stop it: nothing of it is collected, filled or watched after this returns."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        try:
            async with asyncio.timeout(STOP_S):
                await self.app.stop()
        except Exception:
            _log.exception("source did not stop cleanly", source=self.app.name)

    async def _bring_up(self) -> None:
        """Initialize and start it; what cannot reach its upstream is tried again, the rest of the platform runs."""
        app, context = self.app, self.app.context
        wait_s = RETRY_S
        while True:
            try:
                await app.initialize()
                break
            except ConfigError as error:
                await app.forget(f"cannot start: {error}")
                raise
            except Exception as error:
                problem = f"cannot start: {error}"
                _log.error("source cannot start; trying again", source=app.name, error=str(error), wait_s=wait_s)
                app.tell(f"collector.{app.name}.error", {"what": "initialize", "error": str(error)})
            await app.forget(problem)
            await context.clock.sleep(context.rng.uniform(wait_s / 2, wait_s))
            wait_s = min(2 * wait_s, RETRY_S_MAX)
        await app.start()
        if self._care.settle_s is not None:
            self._spawn(" gaps", Filler(app, self._care.ledger, self._care.settle_s).run())
        self._spawn(" streams", StreamWatch(app, self._care.seen).run())
        _log.info("source started", source=app.name, collectors=[collector.name for collector in app.list()])

    def _spawn(self, part: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"app {self.app.name}{part}")
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(task.get_name(), error)


def _unheard(part: str, error: BaseException) -> None:
    _log.error("part failed", part=part, error=str(error))


class Sources:
    """The sources that run, by name, in the order they were added."""

    def __init__(self, context: Context, care: Care) -> None:
        self._context = context
        self._care = care
        self._running: dict[str, RunningSource] = {}

    def make(self, config: SourceConfig, app: type[App]) -> RunningSource:
        """A source that is not started yet, and runs under its name only once it was added."""
        return RunningSource(app(config, self._context), self._care)

    def add(self, source: RunningSource) -> None:
        """Know it by its name."""
        self._running[source.app.name] = source

    def get(self, name: str) -> RunningSource | None:
        """The source of that name, if it runs."""
        return self._running.get(name)

    @property
    def apps(self) -> list[App]:
        """The Apps of all."""
        return [source.app for source in self._running.values()]

    def start(self, failed: Failed) -> None:
        """Start all that were added at the start of the platform."""
        for source in self._running.values():
            if self._go_on(source.app):
                self._write(source.app, "loaded", {}, "")
            source.start(failed)

    def load(self, source: RunningSource, failed: Failed, facts: dict[str, Any]) -> None:
        """Add and start a source while the platform runs."""
        self.add(source)
        self._go_on(source.app)
        self._write(source.app, "loaded", facts, "")
        source.start(failed)

    async def unload(self, name: str, facts: dict[str, Any]) -> int:
        """Stop a source and forget it; returns its last frame. Where it is put back, it goes on from there."""
        source = self._running[name]
        since_ns = self._context.clock.wall_ns()
        await source.stop()
        del self._running[name]
        unlisted(name)
        return self._write(source.app, "unloaded", facts, str(since_ns))

    async def stop(self) -> None:
        """Stop all."""
        await asyncio.gather(*(source.stop() for source in self._running.values()))

    def _go_on(self, app: App) -> bool:
        """Whether it was unloaded once; then that is since when it was away, not since the platform was down."""
        said = self._context.cursors.get(app.name, COLLECTOR, STOPPED)
        if said:
            app.context = replace(app.context, down_since_ns=int(said))
        return bool(said)

    def _write(self, app: App, what: str, facts: dict[str, Any], stopped: str) -> int:
        """Into the journal and on the bus."""
        _log.info(f"source {what}", source=app.name, **facts)
        app.tell(f"app.{app.name}.{what}", facts)
        journal, origin = self._context.journal, Origin(app.name, COLLECTOR, "")
        cursor = self._context.cursors.move(origin, {STOPPED: stopped})
        act = control.encode(control.Noted(f"source {what}", facts))
        try:
            return journal.append(origin, act, kind=Kind.CONTROL, cursor=cursor)
        except JournalError as error:
            _log.warning("not written down", source=app.name, what=what, error=str(error))
            return 0
