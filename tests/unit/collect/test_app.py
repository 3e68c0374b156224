"""An App: its collectors, its life, its events."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidewire import telemetry
from tidewire.bus import Full
from tidewire.errors import InputError, NotFound
from tidewire.records.clock import ManualClock, SystemClock, UpstreamClock
from tidewire.records.event import Event, notice
from unit.collect.kit import Noting, place, toy, until


async def test_collectors_by_name(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        app = toy(here)
        trade, quote = app.register(Noting("trade", app)), app.register(Noting("quote", app))
        assert app.list() == [trade, quote]
        assert app.get("quote") is quote
        with pytest.raises(NotFound, match=r"No collector 'trades'\. Did you mean 'trade'\? Valid: trade, quote\."):
            app.get("trades")
        with pytest.raises(InputError, match="has a collector 'trade' already"):
            app.register(Noting("trade", app))


async def test_life_and_its_events(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        app = toy(here)
        one = Noting("one", app)
        app.register(one)
        assert app.health().state == "stopped"
        await app.initialize()
        await app.start()
        assert app.health().state == "starting"
        assert telemetry.value("tidewire_source_up", source="toy") == 1
        one.heard(1)
        assert app.health().state == "ok"
        await app.stop()
        assert one.log == ["initialize", "start", "stop"]
        assert app.health().state == "stopped"
        assert telemetry.value("tidewire_source_up", source="toy") == 0
        await app.stop()  # again: no second event
        await until(lambda: len(here.heard) >= 2)
        assert here.subjects() == ["app.toy.started", "app.toy.stopped"]
        assert here.said("app.toy.started") == [{"collectors": ["one"]}]


async def test_one_collector_failing_leaves_the_rest_running(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        app = toy(here)
        bad, good = Noting("bad", app, fails="start"), Noting("good", app)
        app.register(bad)
        app.register(good)
        await app.initialize()
        await app.start()
        assert good.is_running
        assert good.log == ["initialize", "start"]
        health = app.health()
        assert (health.state, health.problems) == ("degraded", ("bad: start: cannot start",))
        await until(lambda: "collector.toy.error" in here.subjects())
        (facts,) = here.said("collector.toy.error")
        assert (facts["collector"], facts["what"], facts["code"]) == ("bad", "start", "RuntimeError")
        await app.stop()


async def test_one_collector_that_does_not_stop_leaves_none_running(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        app = toy(here)
        bad, good = Noting("bad", app, fails="stop"), Noting("good", app)
        app.register(bad)
        app.register(good)
        await app.start()
        await app.stop()
        assert not good.is_running
        assert app.health().state == "stopped"
        await until(lambda: "app.toy.stopped" in here.subjects())
        (facts,) = here.said("collector.toy.error")
        assert facts["what"] == "stop"


async def test_health_is_that_of_the_collectors(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        app = toy(here)
        one, two = Noting("one", app), Noting("two", app)
        app.register(one)
        app.register(two)
        await app.start()
        one.report(ValueError("a"), "x")
        assert app.health().state == "degraded"
        two.report(ValueError("b"), "y")
        assert app.health().state == "down"
        assert app.health().problems == ("one: x: a", "two: y: b")
        one.heard(5)
        two.heard(6)
        assert app.health().state == "ok"
        status = app.status()
        assert (status["name"], status["display_name"], status["type"], status["health"]) == (
            "toy",
            "A toy",
            "test",
            "ok",
        )
        assert [found["errors"] for found in status["collectors"]] == [1, 1]
        assert app.metrics()["one_errors"] == 1
        await app.stop()


async def test_forgetting_lets_initialize_be_tried_again(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        app = toy(here)
        app.register(Noting("one", app, fails="initialize"))
        with pytest.raises(RuntimeError):
            await app.initialize()
        await app.forget("initialize: cannot initialize")
        assert app.list() == []
        assert (app.health().state, app.health().problems) == ("down", ("initialize: cannot initialize",))
        app.register(Noting("one", app))
        await app.initialize()
        await app.start()
        assert app.health().problems == ()
        await app.stop()


async def test_handlers_hear_until_the_app_stops(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        app = toy(here)
        heard: list[Event] = []
        subscription = app.on_event("control.*", heard.append)
        assert subscription.stats().full is Full.DROP_OLDEST
        clock = ManualClock()

        def say(subject: str) -> None:
            here.bus.offer(notice(subject, "test", {}, clock, here.context.rng))

        say("control.fill")
        say("app.other.started")
        await until(lambda: len(heard) == 1)
        await app.stop()
        say("control.fill")
        await until(lambda: here.subjects().count("control.fill") == 2)
        assert [event.subject for event in heard] == ["control.fill"]
        assert subscription.closed


async def test_an_event_after_the_bus_closed_is_no_error(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        app = toy(here)
        await here.bus.close()
        app.tell("collector.toy.error", {"error": "nobody hears"})


async def test_only_a_told_clock_is_the_upstreams(tmp_path: Path) -> None:
    for clock, expected in ((SystemClock(), False), (UpstreamClock(), True)):
        async with place(tmp_path, clock) as here:
            assert (here.context.upstream is not None) is expected
