"""The bus of one process: subscribers' queues are filled as an event is published, and nothing lies in between."""

from __future__ import annotations

import asyncio

from tidewire.bus.delivery import CROWDED, REFUSED, Receiver
from tidewire.bus.hub import PUBLISHED, WAITED, Hub, State
from tidewire.bus.protocol import check_subject
from tidewire.records.clock import Clock
from tidewire.records.event import Event
from tidewire.records.subject import matches

# Subjects whose receivers are remembered. Subjects in use are far fewer; beyond it the memory starts anew.
_ROUTES = 4096


class MemoryBus(Hub):
    """A bus for rooms that share one event loop. ``grace`` is in seconds of the clock."""

    def __init__(self, clock: Clock, *, grace: float = 5.0) -> None:
        super().__init__(clock, grace=grace)
        self._routes: dict[str, tuple[Receiver, ...]] = {}

    async def publish(self, event: Event) -> None:
        if self._state is not State.OPEN:
            self._check_draining()
        crowded = False
        waiting: list[Receiver] | None = None
        route = self._routes.get(event.subject)
        if route is None:
            route = self._route(event.subject)
        for receiver in route:
            outcome = receiver.put(event)
            if outcome == CROWDED:
                crowded = True
            elif outcome == REFUSED:
                waiting = [receiver] if waiting is None else [*waiting, receiver]
        self._published += 1
        PUBLISHED.inc()
        if waiting is not None:
            await self._push(waiting, event)
        elif crowded:
            # A publisher that never waits would fill the queues of handlers that only need their turn.
            await asyncio.sleep(0)

    def offer(self, event: Event) -> bool:
        if self._state is not State.OPEN:
            self._check_draining()
        taken = True
        route = self._routes.get(event.subject)
        if route is None:
            route = self._route(event.subject)
        for receiver in route:
            if receiver.put(event) == REFUSED:
                receiver.refuse()
                taken = False
        self._published += 1
        PUBLISHED.inc()
        return taken

    def _joined(self, receiver: Receiver) -> None:
        self._routes.clear()

    def _left(self, receiver: Receiver) -> None:
        self._routes.clear()

    def _route(self, subject: str) -> tuple[Receiver, ...]:
        """Who gets this subject, in the order of subscription."""
        check_subject(subject)
        if len(self._routes) >= _ROUTES:
            self._routes.clear()
        route = tuple(each for each in self._receivers if matches(each.pattern, subject))
        self._routes[subject] = route
        return route

    async def _push(self, receivers: list[Receiver], event: Event) -> None:
        began = self._clock.mono_ns()
        try:
            for receiver in receivers:
                await receiver.push(event)
        finally:
            WAITED.observe((self._clock.mono_ns() - began) / 1e9)
