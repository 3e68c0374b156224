"""Many streams over few connections: none carries more than its venue allows, and each is replaced before it is cut.

Venues end a connection when it is old (Binance: after a day), or say shortly before that they will. A replacement is
connected first and the old one closed some seconds after: both bring the same for that time, repeats are recognised
behind the journal, and nothing is missed. New connections stand in line under the venue's limit, whatever the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from tidewire import telemetry
from tidewire.collect.budget import Budget, Limits
from tidewire.collect.control import Carried
from tidewire.collect.feed import Feed, Lost
from tidewire.collect.timer import within
from tidewire.collect.ws import WsClient
from tidewire.collect.ws_config import WsConfig, WsState

if TYPE_CHECKING:
    from tidewire.collect.app import Context

_log = telemetry.log("collect")
_lanes = telemetry.gauge("collect_pool_connections", "Connections a source spreads its streams over", ("source",))
_streams = telemetry.gauge("collect_pool_streams", "Streams a source is subscribed to", ("source",))
_replaced = telemetry.counter(
    "collect_pool_replacements",
    "Connections replaced while they were up, by cause (age, farewell) and outcome (done, failed)",
    ("source", "cause", "outcome"),
)


class Dialect(Protocol):
    """How a venue is asked for streams on a connection."""

    def subscribe(self, client: WsClient, streams: Sequence[str]) -> None:
        """Send what brings the streams; `TransientError` when there is no connection."""
        ...

    def unsubscribe(self, client: WsClient, streams: Sequence[str]) -> None:
        """Send what ends them."""
        ...


@dataclass(frozen=True)
class PoolConfig:
    """What the venue allows.

    A connection carries up to ``streams_max`` streams and is replaced when it is ``age_s`` old, less up to a tenth of
    that by chance, so that not all are at once; also when a message begins with one of ``farewells``. ``connects`` is
    the limit of new connections. Old and new run side by side for ``overlap_s`` after the new one brought its first
    message: longer than it takes to ask for all streams, and than one lags behind the other. A replacement that brings
    nothing for ``patience_s`` is given up, and tried again after the same time. Ages are looked at each ``look_s``.
    """

    streams_max: int = 1_024
    age_s: float = 23 * 3_600.0
    farewells: tuple[bytes, ...] = ()
    connects: Limits = field(default_factory=lambda: Limits(requests_per_second=0.8, burst=40))
    overlap_s: float = 5.0
    patience_s: float = 60.0
    look_s: float = 5.0


class _Lane:
    """One connection's share of the streams.

    It has two feeds while the second is to replace the first, which alone counts until then.
    """

    def __init__(self, age_s: float, lost: Lost | None) -> None:
        self.streams: dict[str, None] = {}
        self.feeds: list[Feed] = []
        self.age_s = age_s
        self.lost = lost
        self.farewell = False
        self.not_before_ns = 0

    @property
    def due(self) -> str:
        """Why it is to be replaced, or ""; not again while it is."""
        if len(self.feeds) > 1:
            return ""
        if self.farewell:
            return "farewell"
        return "age" if self.feeds[0].client.age_s >= self.age_s else ""


class FeedPool:
    """The streams of one address. ``lost(streams)`` is called when the connection of these broke.

    ``carried(streams)`` says which of these only a connection's break can show the gaps of. ``label`` is how frames
    name the address: each holds it, so an address that lists hundreds of streams needs a short one.
    """

    def __init__(
        self,
        source: str,
        url: str,
        context: Context,
        dialect: Dialect,
        *,
        ws: WsConfig | None = None,
        config: PoolConfig | None = None,
        carried: Callable[[Sequence[str]], Sequence[Carried]] = lambda _: (),
        lost: Callable[[Sequence[str]], None] = lambda _: None,
        label: str = "",
    ) -> None:
        self._source = source
        self._url = url
        self._label = label
        self._context = context
        self._dialect = dialect
        self._config = config or PoolConfig()
        self._connects = Budget(context.clock, self._config.connects, f"{source} streams")
        self._ws = replace(ws or WsConfig(), gate=self._connects.spend)
        self._carried = carried
        self._lost = lost
        self._lanes: list[_Lane] = []
        self._numbers = 0
        self._started = False
        self._opened = 0
        self._look = asyncio.Event()
        self._tending: asyncio.Task[None] | None = None

    # -- life -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect, and stay connected."""
        self._started = True
        for feed in self.feeds:
            feed.start()
        self._tending = asyncio.create_task(self._tend(), name=f"{self._source} connections")

    async def stop(self) -> None:
        """Close all; no message is taken after this returned."""
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.wait((self._tending,))
        await asyncio.gather(*(feed.stop() for feed in self.feeds))

    def want(self, streams: Iterable[str]) -> None:
        """Have just these streams from now on: the new ones are asked for, the others given up."""
        wanted = dict.fromkeys(streams)
        have = {stream for lane in self._lanes for stream in lane.streams}
        for lane in self._lanes:
            self._give_up(lane, [stream for stream in lane.streams if stream not in wanted])
        # What is there before the start may have missed something while the platform was down.
        down_ns = None if self._started else self._context.down_since_ns
        self._spread([stream for stream in wanted if stream not in have], down_ns)
        _streams.labels(self._source).set(len(wanted))
        _lanes.labels(self._source).set(len(self._lanes))

    def _give_up(self, lane: _Lane, streams: list[str]) -> None:
        for stream in streams:
            del lane.streams[stream]
        for feed in lane.feeds:
            if streams and feed.connected:
                self._dialect.unsubscribe(feed.client, streams)

    def _spread(self, streams: list[str], down_ns: int | None) -> None:
        """Fill the connections that have room, then open others."""
        most = self._config.streams_max
        place = 0
        while streams:
            if place == len(self._lanes):
                self._lanes.append(self._lane(down_ns))
            lane = self._lanes[place]
            place += 1
            room = max(0, most - len(lane.streams))
            some, streams = streams[:room], streams[room:]
            lane.streams.update(dict.fromkeys(some))
            for feed in lane.feeds:
                if some and feed.connected:
                    self._dialect.subscribe(feed.client, some)

    def reconnect(self, reason: str, streams: Sequence[str] = ()) -> None:
        """Make the connections anew that carry any of these streams; of all when none are named."""
        wanted = set(streams)
        for lane in self._lanes:
            if not wanted or wanted & lane.streams.keys():
                for feed in lane.feeds:
                    feed.reconnect(reason)

    # -- what it looks like -----------------------------------------------------------------------------------

    @property
    def feeds(self) -> list[Feed]:
        """Its connections."""
        return [feed for lane in self._lanes for feed in lane.feeds]

    @property
    def connected(self) -> bool:
        """Whether every stream has a connection that is up."""
        return all(any(feed.connected for feed in lane.feeds) for lane in self._lanes)

    @property
    def last_error(self) -> str:
        """Why one is not up, as far as it is known."""
        return next((feed.last_error for feed in self.feeds if not feed.connected and feed.last_error), "")

    @property
    def last_frame_ns(self) -> int | None:
        """When the last message came."""
        return max((feed.last_frame_ns or 0 for feed in self.feeds), default=0) or None

    @property
    def connects(self) -> int:
        """How many connections were opened so far."""
        return self._opened

    @property
    def sizes(self) -> list[int]:
        """How many streams each connection carries."""
        return [len(lane.streams) for lane in self._lanes]

    # -- connections ------------------------------------------------------------------------------------------

    def _lane(self, down_ns: int | None) -> _Lane:
        lost = None if down_ns is None else Lost(down_ns, "down")
        lane = _Lane(self._config.age_s * self._context.rng.uniform(0.9, 1.0), lost)
        feed = self._feed(lane)
        lane.feeds.append(feed)
        if self._started:
            feed.start()
        return lane

    def _feed(self, lane: _Lane) -> Feed:
        def opened(feed: Feed, state: WsState) -> None:
            self._opened += 1
            if feed is lane.feeds[0]:
                self._tell_lost(lane, feed, state.since_ns)
            if lane.streams:
                self._dialect.subscribe(feed.client, list(lane.streams))

        def ended(feed: Feed, state: WsState) -> None:
            if feed is not lane.feeds[0]:
                return
            if lane.lost is None:
                because = "silence" if "silence" in state.reason else "disconnect"
                lane.lost = Lost(feed.last_frame_ns or state.since_ns, because)
            self._lost(list(lane.streams))

        def farewell() -> None:
            lane.farewell = True
            self._look.set()

        return Feed(
            self._source,
            self._url,
            self._context,
            self._ws,
            opened=opened,
            ended=ended,
            farewell=(self._config.farewells, farewell),
            number=self._number,
            label=self._label,
        )

    def _tell_lost(self, lane: _Lane, feed: Feed, wall_ns: int) -> None:
        carried = self._carried(list(lane.streams))
        if lane.lost is not None and carried:
            feed.mark(lane.lost, carried, wall_ns)
        lane.lost = None

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    # -- replacing --------------------------------------------------------------------------------------------

    async def _tend(self) -> None:
        """Close what carries nothing, replace what is old or said goodbye."""
        async with asyncio.TaskGroup() as replacing:
            await self._look_at(replacing)

    async def _look_at(self, replacing: asyncio.TaskGroup) -> None:
        clock = self._context.clock
        while True:
            await within(clock, self._config.look_s, self._look)
            self._look.clear()
            for lane in [lane for lane in self._lanes if not lane.streams and len(lane.feeds) == 1]:
                self._lanes.remove(lane)
                for feed in lane.feeds:
                    await feed.stop()
            now_ns = clock.mono_ns()
            due = [(lane, lane.due) for lane in self._lanes if lane.due and now_ns >= lane.not_before_ns]
            for lane, cause in due:
                # Each by itself: the goodbyes of several connections come one after the other.
                replacing.create_task(self._replace(lane, cause), name=f"{self._source} replaces a connection")
            await asyncio.sleep(0)  # they begin before anybody looks again

    async def _replace(self, lane: _Lane, cause: str) -> None:
        """The new one first; the old one goes once the new one has brought something for a while."""
        old = lane.feeds[0]
        fresh = self._feed(lane)
        lane.feeds.append(fresh)
        fresh.start()
        lane.farewell = brought = False
        try:
            brought = await self._brings(fresh)
        finally:
            # Whatever happens to this task, one feed stays.
            lane.feeds.remove(old if brought else fresh)
            _replaced.labels(self._source, cause, "done" if brought else "failed").inc()
            _log.info("connection replaced", source=self._source, cause=cause, done=brought)
            if brought:
                self._tell_lost(lane, fresh, self._context.clock.wall_ns())
            else:
                lane.farewell = lane.farewell or cause == "farewell"
                lane.not_before_ns = self._context.clock.mono_ns() + round(self._config.patience_s * 1e9)
            await (old if brought else fresh).stop()
            self._look.set()  # it may have been told goodbye meanwhile, or carry nothing any more

    async def _brings(self, fresh: Feed) -> bool:
        """Whether a connection is up and has been bringing messages for the overlap, within our patience."""
        clock, config = self._context.clock, self._config
        overlap_ns = round(config.overlap_s * 1e9)
        until_ns = clock.mono_ns() + round(config.patience_s * 1e9) + overlap_ns
        since_ns: int | None = None
        while clock.mono_ns() < until_ns:
            await clock.sleep(min(0.5, config.overlap_s / 2))
            if not fresh.client.frames:
                since_ns = None
            elif since_ns is None:
                since_ns = clock.mono_ns()
            elif clock.mono_ns() - since_ns >= overlap_ns:
                return True
        return False
