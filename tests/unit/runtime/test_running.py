"""Sources that run: started and stopped one by one, and what is remembered of one that was away."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tidewire import telemetry
from tidewire.collect import Context, Cursors, SourceConfig, SourceInfo
from tidewire.errors import ConfigError, SourceError
from tidewire.records.clock import ManualClock
from tidewire.runtime import running
from tidewire.runtime.running import RETRY_S, Care, RunningSource, Sources
from unit.collect.kit import ToyApp, place, until
from unit.runtime.test_plugins import NoGaps

CONFIG = SourceConfig(source=SourceInfo(type="test", name="toy"))
CARE = Care(NoGaps(), 1.0, lambda _: {})


class Shy(ToyApp):
    """Cannot reach its upstream twice."""

    tries = 0

    async def initialize(self) -> None:
        self.tries += 1
        if self.tries < 3:
            raise SourceError("nobody answers")


class Picky(ToyApp):
    async def initialize(self) -> None:
        raise ConfigError("no good")


class Stuck(ToyApp):
    async def stop(self) -> None:
        await asyncio.Event().wait()


async def test_what_cannot_be_reached_is_tried_again(tmp_path: Path) -> None:
    clock = ManualClock()
    async with place(tmp_path, clock) as here:
        failed: list[str] = []
        source = RunningSource(Shy(CONFIG, here.context), CARE)
        source.start(lambda part, _: failed.append(part))
        await until(lambda: source.app.health().problems == ("cannot start: nobody answers",))
        await clock.advance(4 * RETRY_S)
        await until(lambda: source.app.health().state == "ok")
        await until(lambda: clock.sleepers > 0, "gaps and streams are watched")
        await source.stop()
        assert (source.app.health().state, failed) == ("stopped", [])
        assert telemetry.value("tidewire_streams_silent", source="toy") == 0


async def test_a_configuration_that_is_no_good_is_not_tried_again(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        failed: list[tuple[str, str]] = []
        source = RunningSource(Picky(CONFIG, here.context), CARE)
        source.start(lambda part, error: failed.append((part, str(error))))
        await until(lambda: failed == [("app toy", "no good")])
        assert source.app.health().problems == ("cannot start: no good",)
        await source.stop()


async def test_one_that_does_not_stop_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "STOP_S", 0.01)
    async with place(tmp_path) as here:
        await RunningSource(Stuck(CONFIG, here.context), CARE).stop()


def ignored(part: str, error: BaseException) -> None:
    raise AssertionError(part)


async def test_one_that_was_away_goes_on_from_when_it_was_unloaded(tmp_path: Path) -> None:
    async with place(tmp_path, down_since_ns=5) as here:
        context: Context = here.context
        sources = Sources(context, CARE)
        assert sources.get("toy") is None
        facts: dict[str, Any] = {"origin": "toy.yaml"}
        sources.load(sources.make(CONFIG, ToyApp), ignored, facts)
        assert sources.apps[0].context.down_since_ns == 5, "the platform was down, as far as we know"
        before = context.clock.wall_ns()
        last = await sources.unload("toy", {"why": "a test"})
        assert sources.apps == []
        assert telemetry.REGISTRY.get_sample_value("tidewire_source_up", {"source": "toy"}) is None
        await here.journal.accept(last)
        assert here.frames()[-1].sequence == last
        assert here.subjects()[-1] == "app.toy.unloaded"

        # The next run knows it too, from the journal; once it is back, it forgets.
        cursors = Cursors()
        cursors.load(here.journal)
        again = Sources(replace(context, cursors=cursors), CARE)
        again.add(again.make(CONFIG, ToyApp))
        again.start(ignored)
        since = again.apps[0].context.down_since_ns
        assert since is not None
        assert since >= before
        await here.journal.drain()
        await again.stop()
        cursors = Cursors()
        cursors.load(here.journal)
        third = Sources(replace(context, cursors=cursors), CARE)
        third.add(third.make(CONFIG, ToyApp))
        third.start(ignored)
        assert third.apps[0].context.down_since_ns == 5
        await third.stop()


async def test_a_journal_that_takes_nothing_any_more_stops_no_unloading(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        sources = Sources(here.context, CARE)
        sources.load(sources.make(CONFIG, ToyApp), ignored, {})
        await here.journal.close()
        assert await sources.unload("toy", {}) == 0
