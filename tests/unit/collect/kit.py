"""What an App needs to run in a test: a bus, a journal, clocks; and a small App."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tidewire.bus import MemoryBus
from tidewire.collect import App, Collector, Context, Outcome, SourceConfig, SourceInfo, WsClient
from tidewire.journal import Frame, Journal, JournalConfig
from tidewire.records.clock import Clock, SeededRng, SystemClock
from tidewire.records.event import Event
from tidewire.records.instrument import InstrumentBook

DEADLINE_S = 20.0


async def until(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Return when the condition is true, looked at each turn of the loop; fail after the deadline."""
    loop = asyncio.get_running_loop()
    end = loop.time() + DEADLINE_S
    while not condition():
        assert loop.time() < end, f"not in time: {what}"
        await asyncio.sleep(0.002)


@dataclass
class Place:
    """A context, and everything that was said on its bus."""

    context: Context
    bus: MemoryBus
    journal: Journal
    heard: list[Event] = field(default_factory=list)

    def subjects(self) -> list[str]:
        return [event.subject for event in self.heard]

    def said(self, subject: str) -> list[dict[str, Any]]:
        return [dict(event.facts) for event in self.heard if event.subject == subject]

    def frames(self) -> list[Frame]:
        return self.journal.read(0)


@asynccontextmanager
async def place(
    directory: Path,
    clock: Clock | None = None,
    journal_config: JournalConfig | None = None,
    down_since_ns: int | None = None,
    **more: Any,
) -> AsyncIterator[Place]:
    clock = clock or SystemClock()
    bus = MemoryBus(SystemClock())
    await bus.start()
    journal = await Journal.open(directory / "journal", SystemClock(), journal_config or JournalConfig(commit_ms=0))
    context = Context(clock, SeededRng(1), bus, journal, InstrumentBook(), down_since_ns, **more)
    here = Place(context, bus, journal)
    bus.subscribe(">", here.heard.append)
    try:
        yield here
    finally:
        await bus.close()
        await journal.close()


class Requests:
    """How the sandbox is asked for streams."""

    def subscribe(self, client: WsClient, streams: Sequence[str]) -> None:
        self._say(client, "SUBSCRIBE", streams)

    def unsubscribe(self, client: WsClient, streams: Sequence[str]) -> None:
        self._say(client, "UNSUBSCRIBE", streams)

    def _say(self, client: WsClient, method: str, streams: Sequence[str]) -> None:
        client.send_text(msgspec.json.encode({"method": method, "params": streams, "id": 1}).decode())


class ToyParser:
    """Reads nothing."""

    def parse(self, frames: Any) -> Outcome:
        return Outcome(control=list(frames))


class ToyApp(App):
    """Has no collectors but those a test registers."""

    name = "toy"
    about = "For tests."

    @classmethod
    def make_parser(cls, config: SourceConfig, instruments: InstrumentBook) -> ToyParser:
        return ToyParser()

    @classmethod
    def check(cls, config: SourceConfig) -> None:
        """Anything goes."""


def toy(here: Place) -> ToyApp:
    return ToyApp(SourceConfig(source=SourceInfo(type="test", name="toy", display_name="A toy")), here.context)


class Noting(Collector):
    """Writes down what happens to it; fails where told to."""

    def __init__(self, name: str, app: App, fails: str = "") -> None:
        super().__init__(name, app)
        self.fails = fails
        self.log: list[str] = []

    async def _note(self, what: str) -> None:
        self.log.append(what)
        if self.fails == what:
            raise RuntimeError(f"cannot {what}")

    async def initialize(self) -> None:
        await self._note("initialize")

    async def start(self) -> None:
        await super().start()
        await self._note("start")

    async def stop(self) -> None:
        await super().stop()
        await self._note("stop")
