"""The bus over a real NATS server keeps every promise, and the suite notices when it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest

from conformance.bus import BusConformance
from conformance.bus_kit import FAULTS, data, new_stream, survives
from nats_server import NatsServer, config, served
from tidewire.bus import START, Bus
from tidewire.bus.delivery import Subscriber
from tidewire.bus.inbox import Inbox
from tidewire.bus.nats import NatsBus
from tidewire.records.clock import ManualClock, SeededRng
from tidewire.records.event import Event

_serial = count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with served(tmp_path_factory.mktemp("nats")) as server:
        yield server


def made(server: NatsServer, clock: ManualClock) -> NatsBus:
    number = next(_serial)
    return NatsBus(clock, SeededRng(number), config(server, f"test{number}"), grace=5.0)


@asynccontextmanager
async def opened(server: NatsServer, clock: ManualClock) -> AsyncIterator[Bus]:
    bus = made(server, clock)
    await bus.start()
    yield bus
    closing = asyncio.create_task(bus.close())
    while not closing.done():
        await clock.advance(5.0)


class TestNatsBus(BusConformance):
    backpressure = False

    @pytest.fixture
    async def bus(self, server: NatsServer, clock: ManualClock) -> AsyncIterator[Bus]:
        async with opened(server, clock) as bus:
            yield bus

    @pytest.fixture
    def unstarted(self, server: NatsServer, clock: ManualClock) -> Bus:
        return made(server, clock)


async def returns_at_once(_: NatsBus) -> None:
    return


async def drops(_: Inbox, event: Event) -> None:
    return


def newest_first(self: Inbox) -> Event:
    return self.pending.pop()


MUTANTS: dict[str, tuple[type, str, Callable[..., Any], str]] = {
    "queues are stacks": (Inbox, "pop", newest_first, "test_drop_oldest_keeps_the_latest"),
    "unsubscribing is forgotten": (Subscriber, "cancel", lambda _: None, "test_nothing_is_delivered_after_unsubscribe"),
    "closing does not wait": (NatsBus, "_drain", returns_at_once, "test_close_lets_handlers_finish_what_is_queued"),
    "waiting events are dropped": (Inbox, "push", drops, "test_block_loses_nothing"),
    "queues have no end": (Inbox, "full", property(lambda _: False), "test_drop_oldest_keeps_the_latest"),
}


class TestSuite:
    """Each promise broken on purpose turns the suite red; positions are those of the memory bus and tried there."""

    @pytest.fixture
    async def bus(self, server: NatsServer) -> AsyncIterator[Bus]:
        async with opened(server, ManualClock()) as bus:
            yield bus

    @pytest.mark.parametrize("name", MUTANTS)
    async def test_a_broken_bus_is_found_out(self, name: str, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
        where, what, broken, caught_by = MUTANTS[name]
        monkeypatch.setattr("conformance.bus_kit.PATIENCE", 0.5)
        monkeypatch.setattr(where, what, broken)
        with pytest.raises((AssertionError, TimeoutError)):
            await getattr(TestNatsBus(), caught_by)(bus)

    async def test_the_sound_bus_passes_the_same(self, bus: Bus) -> None:
        await survives(bus, [*FAULTS, *FAULTS, "ok"])
        stream = new_stream()
        consumer = bus.consume("sound", "data.trade.processed", positions={stream: START})
        await bus.publish(data(stream, 0, 1))
        assert isinstance(await anext(consumer), Event)
