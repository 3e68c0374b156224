"""What every bus must do. A bus inherits `BusConformance` and overrides the fixtures `bus` and `unstarted`.

Nothing here assumes that an event arrives before control returns to the publisher: tests wait for conditions.
Events are compared by value, so they may travel as bytes.
"""

from __future__ import annotations

import asyncio

import pytest

from conformance.bus_consumers import ConsumerConformance
from conformance.bus_kit import Recorder, eventually, note, soon
from conformance.bus_life import LifeConformance
from tidewire import telemetry
from tidewire.bus import CLOSED, Bus, Full
from tidewire.errors import InputError
from tidewire.records.clock import ManualClock
from tidewire.records.event import Event


class BusConformance(LifeConformance, ConsumerConformance):
    """The suite. ``bus`` is started, uses ``clock`` and has a grace time of 5 s."""

    backpressure = True
    """`publish` waits for a full ``BLOCK`` subscription or consumer; False where a broker holds what does not fit."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def bus(self, clock: ManualClock) -> Bus:
        """A started bus; an override closes it afterwards."""
        raise NotImplementedError

    @pytest.fixture
    def unstarted(self, clock: ManualClock) -> Bus:
        """A bus that was not started."""
        raise NotImplementedError

    # Subscriptions

    async def test_events_of_one_publisher_arrive_in_order(self, bus: Bus) -> None:
        seen = Recorder()
        bus.subscribe("data.*.collected", seen, queue=500)
        sent = [note(f"data.{'trade' if n % 2 else 'quote'}.collected", n=n) for n in range(300)]
        for event in sent:
            await soon(bus.publish(event))
        await seen.has(300)
        assert seen.ids == [event.id for event in sent]
        assert seen.events[7].facts == {"n": 7}
        assert seen.events[7] == sent[7]

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("data.*.collected", ["data.trade.collected", "data.quote.collected"]),
            ("data.trade.*", ["data.trade.collected", "data.trade.stored"]),
            ("collector.*.error", ["collector.binance.error"]),
            ("*.error", ["collector.binance.error", "app.error", "store.duckdb.write.error"]),
            ("app.*.started", ["app.binance.started"]),
            ("analysis.>", ["analysis.anomaly.price", "analysis.signal.cross"]),
            ("analysis.anomaly.*", ["analysis.anomaly.price"]),
            ("data.trade.stored", ["data.trade.stored"]),
            (">", None),
        ],
    )
    async def test_a_pattern_gets_what_a_reader_expects(
        self, bus: Bus, pattern: str, expected: list[str] | None
    ) -> None:
        subjects = [
            "data.trade.collected",
            "data.quote.collected",
            "data.trade.stored",
            "collector.binance.error",
            "app.error",
            "store.duckdb.write.error",
            "collector.binance.errors",
            "app.binance.started",
            "analysis.anomaly.price",
            "analysis.signal.cross",
            "analysis",
        ]
        seen, last = Recorder(), Recorder()
        bus.subscribe(pattern, seen)
        bus.subscribe(">", last)
        for subject in subjects:
            await bus.publish(note(subject))
        await last.has(len(subjects))
        wanted = subjects if expected is None else expected
        await seen.has(len(wanted))
        assert [event.subject for event in seen.events] == wanted

    async def test_every_matching_subscription_gets_each_event(self, bus: Bus) -> None:
        seen = [Recorder() for _ in range(5)]
        for each in seen:
            bus.subscribe("app.*.started", each)
        sent = [note("app.binance.started").id, note("app.okx.started").id]
        for name in sent:
            await bus.publish(Event(name, "app.x.started", "test", 0, 1, "t", {}))
        for each in seen:
            await each.has(2)
            assert each.ids == sent

    async def test_a_handler_runs_one_call_at_a_time_and_may_be_plain(self, bus: Bus) -> None:
        running, most = 0, 0

        async def handler(_: Event) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

        plain: list[str] = []
        subscription = bus.subscribe("a.b", handler)
        bus.subscribe("a.b", lambda event: plain.append(event.id))
        for _ in range(20):
            await bus.publish(note("a.b"))
        await eventually(lambda: subscription.stats().delivered == 20 and len(plain) == 20)
        assert most == 1

    async def test_a_failing_handler_is_counted_and_goes_on(self, bus: Bus) -> None:
        seen: list[int] = []

        async def handler(event: Event) -> None:
            seen.append(event.facts["n"])
            if event.facts["n"] == 1:
                raise RuntimeError("bad luck")
            if event.facts["n"] == 2:
                raise asyncio.CancelledError

        before = telemetry.value("tidewire_bus_handler_errors_total", subscription="failing")
        other = Recorder()
        subscription = bus.subscribe("a.b", handler, name="failing")
        bus.subscribe("a.b", other)
        for n in range(5):
            await bus.publish(note("a.b", n=n))
        await eventually(lambda: subscription.stats().delivered == 5)
        await other.has(5)
        assert seen == [0, 1, 2, 3, 4]
        assert subscription.stats().errors == 2
        assert telemetry.value("tidewire_bus_handler_errors_total", subscription="failing") == before + 2

    async def test_handlers_subscribe_and_publish(self, bus: Bus) -> None:
        late = Recorder()

        async def handler(event: Event) -> None:
            if event.facts["n"] == 0:
                bus.subscribe("a.later", late)
            await bus.publish(note("a.later", n=event.facts["n"]))

        bus.subscribe("a.b", handler)
        for n in range(3):
            await bus.publish(note("a.b", n=n))
        await late.has(3)
        assert [event.facts["n"] for event in late.events] == [0, 1, 2]

    async def test_concurrent_publishers_keep_their_own_order(self, bus: Bus) -> None:
        seen = Recorder()
        bus.subscribe("a.*", seen, queue=8, full=Full.BLOCK)

        async def publisher(name: str) -> None:
            for n in range(50):
                await bus.publish(note(f"a.{name}", n=n))

        await soon(asyncio.gather(*(publisher(f"p{number}") for number in range(6))))
        await seen.has(300)
        for number in range(6):
            own = [event.facts["n"] for event in seen.events if event.subject == f"a.p{number}"]
            assert own == list(range(50))

    # Unsubscribing

    async def test_nothing_is_delivered_after_unsubscribe(self, bus: Bus) -> None:
        held, other = Recorder(held=True), Recorder()
        subscription = bus.subscribe("a.b", held)
        bus.subscribe("a.b", other)
        for _ in range(5):
            await bus.publish(note("a.b"))
        await held.has(1)
        await eventually(lambda: subscription.stats().queued == 4)
        bus.unsubscribe(subscription)
        bus.unsubscribe(subscription)
        assert subscription.closed
        held.gate.set()
        await bus.publish(note("a.b"))
        await other.has(6)
        await eventually(lambda: not subscription.stats().busy)
        assert len(held.events) == 1
        assert subscription.stats().queued == 0

    async def test_a_handler_unsubscribes_itself(self, bus: Bus) -> None:
        seen: list[str] = []

        def handler(event: Event) -> None:
            seen.append(event.id)
            bus.unsubscribe(subscription)

        subscription, other = bus.subscribe("a.b", handler), Recorder()
        bus.subscribe("a.b", other)
        for _ in range(3):
            await bus.publish(note("a.b"))
        await other.has(3)
        assert len(seen) == 1

    async def test_unsubscribing_frees_a_waiting_publisher(self, bus: Bus) -> None:
        held = Recorder(held=True)
        subscription = bus.subscribe("a.b", held, queue=1, full=Full.BLOCK)
        for _ in range(2):
            await soon(bus.publish(note("a.b")))
            await held.has(1)
        waiting = asyncio.create_task(bus.publish(note("a.b")))
        await asyncio.sleep(0)
        bus.unsubscribe(subscription)
        await soon(waiting)
        held.gate.set()

    # Once

    async def test_once_gives_the_first_event_only(self, bus: Bus) -> None:
        calls = Recorder()
        future, handled = bus.once("a.*"), bus.once("a.*", calls)
        first = note("a.b")
        await bus.publish(note("b.b"))
        await bus.publish(first)
        await bus.publish(note("a.c"))
        assert (await soon(future)).id == first.id
        assert (await soon(handled)).id == first.id
        assert calls.ids == [first.id]
        await eventually(lambda: bus.stats().once == 0)

    async def test_once_passes_on_the_handlers_exception(self, bus: Bus) -> None:
        def handler(_: Event) -> None:
            raise RuntimeError("bad luck")

        future = bus.once("a.b", handler)
        await bus.publish(note("a.b"))
        with pytest.raises(RuntimeError, match="bad luck"):
            await soon(future)

    async def test_cancelling_once_unsubscribes(self, bus: Bus) -> None:
        future = bus.once("a.b")
        assert bus.stats().once == 1
        future.cancel()
        await eventually(lambda: bus.stats().once == 0)
        await bus.publish(note("a.b"))

    # Full queues

    async def test_drop_oldest_keeps_the_latest(self, bus: Bus) -> None:
        held = Recorder(held=True)
        subscription = bus.subscribe("a.b", held, queue=3, full=Full.DROP_OLDEST, name="dropping")
        before = telemetry.value("tidewire_bus_dropped_total", subscription="dropping", policy="drop_oldest")
        sent = [note("a.b") for _ in range(11)]
        await bus.publish(sent[0])
        await held.has(1)
        for event in sent[1:]:
            await soon(bus.publish(event))
        await eventually(lambda: subscription.stats().dropped == 7)
        stats = subscription.stats()
        assert (stats.queued, stats.busy, stats.delivered, stats.dropped) == (3, True, 0, 7)
        held.gate.set()
        await held.has(4)
        assert held.ids == [event.id for event in (sent[0], *sent[8:])]
        assert (
            telemetry.value("tidewire_bus_dropped_total", subscription="dropping", policy="drop_oldest") == before + 7
        )
        assert not subscription.closed

    async def test_conflate_keeps_the_latest_of_each_key(self, bus: Bus) -> None:
        held = Recorder(held=True)
        subscription = bus.subscribe("a.b", held, queue=4, full=Full.CONFLATE, key=lambda event: event.facts["key"])
        sent = [note("a.b", key=key) for key in "xaabacb"]
        await bus.publish(sent[0])
        await held.has(1)
        for event in sent[1:]:
            await soon(bus.publish(event))
        await eventually(lambda: subscription.stats().conflated == 3)
        held.gate.set()
        await held.has(4)
        await eventually(lambda: subscription.stats().delivered == 4)
        assert held.ids == [sent[0].id, sent[4].id, sent[6].id, sent[5].id]
        assert subscription.stats().dropped == 0

    async def test_conflate_is_bounded_by_dropping_the_oldest_key(self, bus: Bus) -> None:
        held = Recorder(held=True)
        subscription = bus.subscribe("a.b", held, queue=2, full=Full.CONFLATE, key=lambda event: event.facts["key"])
        sent = [note("a.b", key=key) for key in "xabc"]
        await bus.publish(sent[0])
        await held.has(1)
        for event in sent[1:]:
            await soon(bus.publish(event))
        await eventually(lambda: subscription.stats().dropped == 1)
        assert subscription.stats().queued == 2
        held.gate.set()
        await held.has(3)
        assert held.ids == [sent[0].id, sent[2].id, sent[3].id]

    async def test_a_failing_key_harms_nobody_else(self, bus: Bus) -> None:
        seen, other = Recorder(), Recorder()
        subscription = bus.subscribe("a.b", seen, full=Full.CONFLATE, key=lambda event: event.facts["key"])
        bus.subscribe("a.b", other)
        await bus.publish(note("a.b"))
        await bus.publish(note("a.b", key=1))
        await seen.has(1)
        await other.has(2)
        assert (subscription.stats().errors, subscription.stats().dropped) == (1, 1)

    async def test_close_ends_with_a_mark_of_the_gap(self, bus: Bus) -> None:
        held, other = Recorder(held=True), Recorder()
        subscription = bus.subscribe("a.b", held, queue=2, full=Full.CLOSE, name="strict")
        bus.subscribe("a.b", other)
        sent = [note("a.b") for _ in range(6)]
        await bus.publish(sent[0])
        await held.has(1)
        for event in sent[1:]:
            await soon(bus.publish(event))
        await other.has(6)
        await eventually(lambda: subscription.closed)
        assert (subscription.stats().queued, subscription.stats().dropped) == (2, 1)
        held.gate.set()
        await held.has(4)
        await bus.publish(note("a.b"))
        await other.has(7)
        assert held.ids[:3] == [event.id for event in sent[:3]]
        assert len(held.events) == 4
        farewell = held.events[3]
        assert farewell.subject == CLOSED
        assert farewell.facts["lost_id"] == sent[3].id
        assert farewell.facts["lost_subject"] == "a.b"
        assert (farewell.facts["name"], farewell.facts["pattern"]) == ("strict", "a.b")
        assert subscription.stats().delivered == 3
        assert bus.stats().closed == 1
        assert [each.pattern for each in bus.stats().subscriptions] == ["a.b"]

    async def test_block_loses_nothing(self, bus: Bus) -> None:
        held = Recorder(held=True)
        bus.subscribe("a.b", held, queue=2, full=Full.BLOCK)
        sent = [note("a.b") for _ in range(20)]

        async def publish() -> None:
            for event in sent:
                await bus.publish(event)

        publishing = asyncio.create_task(publish())
        await held.has(1)
        if not self.backpressure:
            await soon(publishing)
        held.gate.set()
        await soon(publishing)
        await held.has(20)
        assert held.ids == [event.id for event in sent]

    async def test_publish_waits_and_offer_does_not(self, bus: Bus) -> None:
        if not self.backpressure:
            pytest.skip("a broker holds what does not fit")
        held, free = Recorder(held=True), Recorder()
        subscription = bus.subscribe("a.b", held, queue=2, full=Full.BLOCK)
        bus.subscribe("a.b", free)
        sent = [note("a.b") for _ in range(6)]
        await soon(bus.publish(sent[0]))
        await held.has(1)
        assert bus.offer(sent[1])
        await soon(bus.publish(sent[2]))
        waiting = [asyncio.create_task(bus.publish(event)) for event in sent[3:5]]
        await free.has(5)
        assert not any(task.done() for task in waiting)
        assert not bus.offer(sent[5])
        await free.has(6)
        assert subscription.stats().refused == 1
        assert subscription.stats().queued == 2
        held.gate.set()
        await soon(asyncio.gather(*waiting))
        await held.has(5)
        assert held.ids == [event.id for event in sent[:5]]

    async def test_a_cancelled_publisher_leaves_the_line(self, bus: Bus) -> None:
        if not self.backpressure:
            pytest.skip("a broker holds what does not fit")
        held = Recorder(held=True)
        bus.subscribe("a.b", held, queue=1, full=Full.BLOCK)
        sent = [note("a.b") for _ in range(4)]
        await bus.publish(sent[0])
        await held.has(1)
        await bus.publish(sent[1])
        waiting = [asyncio.create_task(bus.publish(event)) for event in sent[2:]]
        await asyncio.sleep(0)
        waiting[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        held.gate.set()
        await soon(waiting[1])
        await held.has(3)
        assert held.ids == [sent[0].id, sent[1].id, sent[3].id]

    async def test_a_slow_subscriber_slows_nobody(self, bus: Bus) -> None:
        fast = Recorder()
        for full in (Full.DROP_OLDEST, Full.CLOSE):
            bus.subscribe("a.b", Recorder(held=True), queue=1, full=full)
        bus.subscribe("a.b", Recorder(held=True), queue=1, full=Full.CONFLATE, key=lambda event: event.id)
        bus.subscribe("a.b", fast, queue=300)
        for _ in range(200):
            await soon(bus.publish(note("a.b")))
        await fast.has(200)

    # Bad input

    async def test_bad_arguments_are_refused(self, bus: Bus) -> None:
        with pytest.raises(InputError, match="token 'b>' at place 2"):
            bus.subscribe("a.b>", Recorder())
        with pytest.raises(InputError, match="smallest is 1"):
            bus.subscribe("a.b", Recorder(), queue=0)
        with pytest.raises(InputError, match="without a key"):
            bus.subscribe("a.b", Recorder(), full=Full.CONFLATE)
        with pytest.raises(InputError, match="with a key"):
            bus.subscribe("a.b", Recorder(), key=lambda event: event.id)
        with pytest.raises(InputError, match="token '' at place 1"):
            bus.once("")
        with pytest.raises(InputError, match="is a pattern"):
            await bus.publish(note("a.*"))
        with pytest.raises(InputError, match="is a pattern"):
            bus.offer(note("a.>"))
        with pytest.raises(InputError, match="smallest is 1"):
            bus.consume("sink", "data.trade.stored", positions={}, queue=0)
        for pattern in ("data.>", ">", "data.*.*", "data.trade.store", "app.x.stored"):
            with pytest.raises(InputError, match="cannot be consumed"):
                bus.consume("sink", pattern, positions={})
        assert bus.stats().subscriptions == ()
        assert bus.stats().consumers == ()

    async def test_stats_say_what_is_there(self, bus: Bus) -> None:
        bus.subscribe("a.*", Recorder(), name="first")
        bus.consume("sink", "data.*.stored", positions={})
        bus.once("x.y")
        before = bus.stats()
        await bus.publish(note("a.b"))
        bus.offer(note("a.c"))
        await eventually(lambda: bus.stats().subscriptions[0].delivered == 2)
        stats = bus.stats()
        assert stats.published == before.published + 2
        assert [(each.name, each.pattern) for each in stats.subscriptions] == [("first", "a.*")]
        assert [(each.name, each.pattern) for each in stats.consumers] == [("sink", "data.*.stored")]
        assert stats.once == 1
