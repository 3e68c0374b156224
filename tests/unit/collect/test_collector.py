"""A collector: its timers, its state, and the way of bytes into the journal."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tidewire import telemetry
from tidewire.collect import Collector, Every, Reply
from tidewire.errors import InputError, JournalError, NotFound, TransientError
from tidewire.journal import JournalConfig, Kind
from tidewire.records.clock import ManualClock
from unit.collect.kit import Noting, place, toy, until

NS = 1_767_600_000_000_000_000


def reply(body: bytes = b"{}", url: str = "https://x/y?a=1", received_ns: int = NS) -> Reply:
    return Reply(status=200, headers={}, body=body, url=url, received_ns=received_ns, elapsed_s=0.1)


async def test_life(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        collector = Noting("one", toy(here))
        assert (collector.is_running, collector.status.state) == (False, "stopped")
        await collector.initialize()
        await collector.start()
        assert (collector.is_running, collector.status.state) == (True, "running")
        await collector.stop()
        assert (collector.is_running, collector.status.state) == (False, "stopped")


async def test_timers_run_while_the_collector_does(tmp_path: Path) -> None:
    clock = ManualClock()
    async with place(tmp_path, clock) as here:
        collector = Collector("one", toy(here))
        runs: list[str] = []

        def action(name: str):
            async def run() -> None:
                runs.append(name)

            return run

        collector.add_timer("a", Every(1), action("a"))
        await clock.advance(5)
        assert runs == []
        await collector.start()
        await clock.advance(2)
        assert runs == ["a", "a"]
        collector.add_timer("b", Every(1), action("b"))  # runs at once, the collector does
        await clock.advance(1)
        assert sorted(runs[2:]) == ["a", "b"]
        assert list(collector.timers) == ["a", "b"]
        assert collector.get_timer("b").is_running
        await collector.remove_timer("a")
        await clock.advance(1)
        assert runs[4:] == ["b"]
        assert [timer.name for timer in collector.status.timers] == ["b"]
        assert collector.metrics == {"errors": 0, "timer_runs": 2, "timer_errors": 0}
        await collector.stop()
        await clock.advance(10)
        assert runs[5:] == []


async def test_names_of_timers(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        collector = Collector("one", toy(here))

        async def nothing() -> None:
            pass

        with pytest.raises(NotFound, match=r"No timer 'x'\. Valid: none\."):
            collector.get_timer("x")
        collector.add_timer("update", Every(1), nothing)
        with pytest.raises(InputError, match="has a timer 'update' already"):
            collector.add_timer("update", Every(1), nothing)
        with pytest.raises(NotFound, match=r"No timer 'updat'\. Did you mean 'update'\? Valid: update\."):
            await collector.remove_timer("updat")


async def test_a_timer_that_fails_is_reported(tmp_path: Path) -> None:
    clock = ManualClock()
    async with place(tmp_path, clock) as here:
        collector = Collector("one", toy(here))

        async def fail() -> None:
            raise TransientError("503 from upstream")

        collector.add_timer("update", Every(1), fail)
        await collector.start()
        await clock.advance(1)
        await collector.stop()
        assert collector.status.errors == 1
        assert collector.status.last_error == "timer update: 503 from upstream"
        assert collector.metrics["timer_errors"] == 1
        await until(lambda: bool(here.heard))
        (facts,) = here.said("collector.toy.error")
        assert facts == {
            "collector": "one",
            "what": "timer update",
            "code": "source_unavailable",
            "error": "503 from upstream",
        }


async def test_errors_end_when_data_comes(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        collector = Noting("one", toy(here))
        await collector.start()
        collector.report(ValueError("x"), "parsing")
        assert collector.status.state == "failing"
        collector.heard(NS)
        assert (collector.status.state, collector.status.errors, collector.status.last_data_ns) == ("running", 1, NS)
        assert telemetry.value("tidewire_collect_errors_total", source="toy", collector="one", code="ValueError") >= 1


async def test_a_reply_is_accepted_before_keep_returns(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        collector = Collector("one", toy(here))
        sequence = await collector.keep(reply(b"bytes"), cursor={"BTC": "next"})
        assert here.journal.accepted >= sequence
        (frame,) = here.frames()
        assert (frame.sequence, frame.payload, frame.cursor, frame.kind) == (
            sequence,
            b"bytes",
            b'{"BTC":"next"}',
            Kind.DATA,
        )
        assert (frame.origin.source, frame.origin.collector) == ("toy", "one")
        assert frame.origin.request == "GET https://x/y?a=1"
        assert frame.wall_ns == NS
        assert collector.last_data_ns == NS


async def test_keep_waits_while_the_journal_is_full(tmp_path: Path) -> None:
    async with place(tmp_path, journal_config=JournalConfig(commit_ms=60_000, pending_bytes=100)) as here:
        collector = Collector("one", toy(here))
        first = asyncio.create_task(collector.keep(reply(b"x" * 1_000)))
        await until(lambda: here.journal.full)
        second = asyncio.create_task(collector.keep(reply(b"y")))
        for _ in range(20):
            await asyncio.sleep(0)
        assert here.journal.head == 1
        await here.journal.drain()
        await until(lambda: here.journal.head == 2)
        await here.journal.drain()
        assert await asyncio.gather(first, second) == [1, 2]


async def test_keep_tells_when_the_journal_is_closed(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        collector = Collector("one", toy(here))
        await here.journal.close()
        with pytest.raises(JournalError):
            await collector.keep(reply())
        assert collector.last_data_ns is None
