"""A plugin as a stranger would write it: one record type, which is one class, and a source that brings it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from tidewire.collect import App, Collector, Every, Outcome, Parsed, SourceConfig
from tidewire.journal import Frame, Origin
from tidewire.records.instrument import InstrumentBook
from tidewire.records.record import MarketRecord
from tidewire.records.roles import Price, Ratio, Text
from tidewire.records.roles import Sequence as Number


class Mood(MarketRecord, order="sequence", contiguous=True, series=("source", "instrument")):
    """How the crowd feels about an instrument."""

    sequence = Number("Counts the surveys.", key=True)
    score = Ratio("From -1, fear, to 1, greed.")
    target = Price("Where the crowd sees the price.", unit="quote asset", above=0)
    word = Text("In one word.", choices=("fear", "greed"))


class MoodParser:
    """One row a frame."""

    def parse(self, frames: Sequence[Frame]) -> Outcome:
        """Frames are JSON objects."""
        said: list[dict[str, Any]] = [msgspec.json.decode(frame.payload) for frame in frames]
        at = [frame.wall_ns // 1_000 for frame in frames]
        columns = {
            "instrument": ["BTC-USDT.BINANCE"] * len(frames),
            "event_time": at,
            "public_at": at,
            "sequence": [one["n"] for one in said],
            "score": [one["score"] for one in said],
            "target": [one["target"] for one in said],
            "word": [one["word"] for one in said],
        }
        return Outcome(parsed=[Parsed(Mood.type, columns, frames)])


class MoodApp(App):
    """Asks nobody."""

    name: ClassVar[str] = "mood"
    about: ClassVar[str] = "Moods, made up."
    asked = 0

    @classmethod
    def make_parser(cls, config: SourceConfig, instruments: InstrumentBook) -> MoodParser:
        return MoodParser()

    @classmethod
    def check(cls, config: SourceConfig) -> None:
        """Anything goes."""

    async def initialize(self) -> None:
        self.context.instruments.add("BTC-USDT.BINANCE", "BTCUSDT")
        collector = self.register(Collector("survey", self))
        collector.add_timer("ask", Every(0.02), self.ask, run_at_start=True)
        await super().initialize()

    async def ask(self) -> None:
        """One survey; every tenth is lost on the way, every seventh has a target that cannot be."""
        self.asked += 1
        if self.asked % 10 == 0:
            return
        target = "-1" if self.asked % 7 == 0 else f"{61_000 + self.asked}.123456789012"
        answer = {"n": self.asked, "score": 0.25, "target": target, "word": "greed"}
        context = self.context
        context.journal.append(Origin(self.name, "survey", "GET mood://survey"), msgspec.json.encode(answer))
        self.get("survey").heard(context.clock.wall_ns())
