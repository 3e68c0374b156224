"""One process: everything wired together, started in the order the data flows and stopped the same way."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Coroutine
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from tidewire import telemetry
from tidewire.bus import Bus, Full, MemoryBus
from tidewire.bus.config import NatsConfig
from tidewire.collect import (
    App,
    AppRegistry,
    Context,
    Cursors,
    Parser,
    SourceConfig,
    Successions,
)
from tidewire.collect import Health as SourceHealth
from tidewire.collect.config import seconds
from tidewire.collect.fill import REQUEST as FILL_REQUEST
from tidewire.collect.registry import parser_of
from tidewire.errors import ConfigError, NotFound, StoreError, TidewireError, nearest
from tidewire.journal import Journal, Keeper
from tidewire.records.clock import Clock, Rng, SystemClock, SystemRng, UpstreamClock
from tidewire.records.event import Event, notice
from tidewire.records.instrument import InstrumentBook
from tidewire.records.market import Instrument
from tidewire.runtime import installed
from tidewire.runtime.archiving import FramesAnywhere, make_keeper
from tidewire.runtime.auditing import Auditing, journals_at
from tidewire.runtime.config import Config, Loaded, secret
from tidewire.runtime.failover import Failover, successions_of
from tidewire.runtime.gaps import StoreLedger, last_rows
from tidewire.runtime.knowing import StoredValues
from tidewire.runtime.pipe import Pipe, PipeConfig
from tidewire.runtime.plugins import Around, Plugins, files_of
from tidewire.runtime.quarantine import Quarantine
from tidewire.runtime.quarantine_cases import Cases
from tidewire.runtime.reach import families_of
from tidewire.runtime.running import Care, Sources
from tidewire.runtime.sealing import Sealing, tier_of
from tidewire.serve.params import AuditRequest
from tidewire.serve.platform import Health, Platform, ServeConfig
from tidewire.serve.server import Gateway
from tidewire.store.cache import LatestCache
from tidewire.store.config import StoreConfig, Tier
from tidewire.store.protocol import EVERYTHING, Query, Store
from tidewire.watch.audit import Accepted
from tidewire.watch.calendars import CalendarWatch
from tidewire.watch.selfaudit import SelfAudit

STORES = "tidewire.stores"
DRAIN_S = 20.0
DRAINS = 5
"""Storing the last frames may write others, once or twice; not for ever."""
CHECKPOINT_S = 30.0

_log = telemetry.log("runtime")


class Tidewire:
    """A running platform: `start`, `stop`, and the parts in between for whoever looks.

    With ``collect`` off nothing is collected or served: it only stores what is in the journal, for a command that has
    something to add to it.
    """

    def __init__(
        self, loaded: Loaded, clock: Clock | None = None, rng: Rng | None = None, *, collect: bool = True
    ) -> None:
        self.loaded = loaded
        self.config: Config = loaded.config
        self.clock: Clock = clock or (UpstreamClock() if self.config.clock == "upstream" else SystemClock())
        self.rng: Rng = rng or SystemRng()
        self.bus: Bus = make_bus(loaded, self.clock, self.rng)
        self.instruments = InstrumentBook()
        self.registry = installed.registry()
        self.cache = LatestCache()
        self.cursors = Cursors()
        self.collect = collect
        self.failed: asyncio.Event = asyncio.Event()
        self.failure: BaseException | None = None
        self.running: Sources | None = None
        self.failover = Failover(Successions())
        self.plugins: Plugins
        self.journal: Journal
        self.store: Store
        self.pipe: Pipe
        self.auditing: Auditing
        self.self_audit: SelfAudit
        self.sealing: Sealing
        self.calendars = CalendarWatch(self.clock, lambda: {name for app in self.apps for name in app.calendars()})
        self.keeper: Keeper | None = None
        self.quarantine: Quarantine
        self.gateway: Gateway
        self._tasks: list[asyncio.Task[None]] = []
        self._started: list[str] = []

    @property
    def url(self) -> str:
        """Where the API is."""
        return self.gateway.url

    @property
    def apps(self) -> list[App]:
        """The sources that run now."""
        return [] if self.running is None else self.running.apps

    async def start(self) -> None:
        """Open, recover, serve, and begin to collect. What cannot start is cleaned up before the error leaves."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        config, data = self.config, self.loaded.data_dir
        code = files_of(self.loaded.plugins)
        self.registry.discover(self.loaded.plugins)
        chosen = chosen_apps(self.loaded, self.registry)
        self.failover = Failover(successions_of(self.loaded, self.registry))
        data.mkdir(parents=True, exist_ok=True)
        self.journal = await Journal.open(data / "journal", self.clock, config.journal_config())
        self._started.append("journal")
        self.store = make_store(config, data, tier_of(config, data))
        await self.store.open()
        self._started.append("store")
        self.sealing = Sealing(self.store, self.clock, enabled=config.cold.enabled)
        await self.bus.start()
        self._started.append("bus")
        self._check_positions()
        await self.store.set_live({self.journal.uuid})
        await load_instruments(self.instruments, self.store)
        self.bus.subscribe("data.*.processed", self._remember, queue=4_096, full=Full.DROP_OLDEST, name="cache")
        down_since_ns = self._down_since()
        await asyncio.to_thread(self.cursors.load, self.journal)
        context = Context(
            self.clock,
            self.rng,
            self.bus,
            self.journal,
            self.instruments,
            down_since_ns,
            self.cursors,
            families_of(self.loaded, self.clock, self.rng),
            successions=self.failover.successions,
            known=StoredValues(self.store),
            secret=secret,
        )
        self.pipe = Pipe(
            self.journal, self.bus, self.store, self._parsers, self.clock, pipe_config(config), self._is_heard
        )
        self.running = Sources(context, self._care())
        self.failover.begin(self.running, self.bus, self.clock, self.rng)
        for source, app in chosen:
            self.running.add(self.running.make(source, app))
        self.plugins = Plugins(self.loaded.plugins, self._around(self.running))
        self.plugins.begin(code)
        cases = Cases(self.store, FramesAnywhere(self.journal, config, data), self.clock)
        self.quarantine = Quarantine(
            cases, self.journal, self.clock, self._parsers, self.pipe.stored, config.check_config()
        )
        self._spawn("pipe", self.pipe.run())
        if self.collect:
            await self._serve_and_collect(self.running)

    def _is_heard(self) -> bool:
        """Whether anybody waits for rows; who else is on a broker cannot be seen from here."""
        return self.config.bus.type != "memory" or ("gateway" in self._started and self.gateway.is_heard)

    async def _serve_and_collect(self, running: Sources) -> None:
        config, data = self.config, self.loaded.data_dir
        self.auditing = Auditing(self.store, self._parsers, lambda: journals_at(config, data))
        self.self_audit = SelfAudit(self.store, self.bus, self.clock, self.rng, config.audit_interval_s)
        self._spawn("audit", self.self_audit.run())
        self.keeper = make_keeper(config, data, self.journal, self.store, self.cursors, self.clock)
        if self.keeper is not None:
            self._spawn("archive", self.keeper.run())
        self._spawn("sealing", self.sealing.run())
        self._spawn("cursors", self._keep_cursors())
        self.gateway = Gateway(self._platform(), ServeConfig(host=config.listen.host, port=config.listen.port))
        await self.gateway.start()
        self._started.append("gateway")
        running.start(self._part_failed)
        self._spawn("calendars", self.calendars.run())
        self._spawn("plugins", self.plugins.run())

    def _care(self) -> Care:
        gaps = self.config.gaps
        settle_s = seconds(gaps.settle, "gaps.settle") if gaps.fill else None
        return Care(StoreLedger(self.store, self.pipe.stored), settle_s, functools.partial(last_rows, self.cache))

    def _around(self, running: Sources) -> Around:
        return Around(
            registry=self.registry,
            sources=running,
            pipe=self.pipe,
            make_parser=self._parser,
            bus=self.bus,
            clock=self.clock,
            rng=self.rng,
            fixed=self.loaded.places,
        )

    async def stop(self) -> None:
        """Stop collecting, bring everything accepted into the store, close. Nothing accepted is lost."""
        watching = [task for task in self._tasks if task.get_name() == "plugins"]
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        if self.running is not None:
            await self.running.stop()
        if "journal" in self._started and self.journal.failed is None:
            await self._drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if "gateway" in self._started:
            await self.gateway.stop()
        if "bus" in self._started:
            await self.bus.close()
        if "store" in self._started:
            await self.store.close()
        if "journal" in self._started:
            await self.journal.close()
        self._started.clear()

    async def _drain(self) -> None:
        """Store everything, also what parsers and the filler write down while they see the last of it."""
        for _ in range(DRAINS):
            head = self.journal.head
            await self._drain_journal()
            await self._drain_pipe()
            if self.journal.head == head:
                return

    async def _drain_journal(self) -> None:
        """Accept what waits. Behind a full disk that may never end: closing then says how much was not accepted."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0 if self.journal.blocked else DRAIN_S):
                await self.journal.drain()

    async def _drain_pipe(self) -> None:
        if "bus" not in self._started or not any(task.get_name() == "pipe" for task in self._tasks):
            return
        try:
            async with asyncio.timeout(DRAIN_S):
                await self.pipe.drained()
        except TimeoutError:
            _log.warning("not everything was stored in time; the next start continues", frames=self.pipe.in_flight())

    async def _keep_cursors(self) -> None:
        """Write all cursors down once a segment, so that the next start finds them quickly."""
        while True:
            self.cursors.checkpoint(self.journal)
            await self.clock.sleep(CHECKPOINT_S)

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._part_failed(task.get_name(), error)

    def _part_failed(self, part: str, error: BaseException) -> None:
        self.failure = error
        _log.error("part failed", part=part, error=str(error))
        self.failed.set()

    async def _parsers(self) -> dict[str, Parser]:
        """New parsers that know what is stored: a pipe that begins again must not know more than that.

        Of every source that is installed: the journal may hold frames of one that is not collected any more.
        """
        book = InstrumentBook()
        await load_instruments(book, self.store)
        return self.registry.parsers(book) | {app.name: app.make_parser(app.config, book) for app in self.apps}

    async def _parser(self, name: str, app: type[App]) -> Parser:
        """A new parser of one source, as `_parsers` makes it."""
        book = InstrumentBook()
        await load_instruments(book, self.store)
        return parser_of(name, app, book)

    def _check_positions(self) -> None:
        """A store ahead of its journal has rows of frames that were lost; going on would number frames twice."""
        for stream, at in self.store.positions().items():
            if stream.journal == self.journal.uuid and at > self.journal.head:
                raise StoreError(
                    f"The store has {stream.type} up to frame {at:,}, the journal ends at {self.journal.head:,}: "
                    f"frames were lost (durability below 'disk', or an older copy). Move {self.journal.directory} "
                    "away to begin a new journal; what is stored stays."
                )
        lanes = {stream.lane for stream in self.store.positions() if stream.journal == self.journal.uuid}
        if lanes and len(lanes) != self.config.pipe.lanes:
            raise ConfigError(
                f"pipe.lanes is {self.config.pipe.lanes}, the store was filled with {len(lanes)}: rows would change "
                f"lanes while their positions stay. Set it back to {len(lanes)}, or replay into a new data directory."
            )

    def _remember(self, event: Event) -> None:
        self.cache.update(event.batch)

    def _down_since(self) -> int | None:
        """When the last frame of the run before this one came."""
        last = self.journal.read(self.journal.accepted - 1) if self.journal.accepted else []
        return last[-1].wall_ns if last else None

    # -- what is served ---------------------------------------------------------------------------------------

    def _platform(self) -> Platform:
        return Platform(
            store=self.store,
            cache=self.cache,
            bus=self.bus,
            clock=self.clock,
            rng=self.rng,
            resolve=self.instruments.resolve,
            sources=self.sources,
            health=self.health,
            audit=self.audit,
            refill=self.refill,
            reload=self.reload,
            quarantine=self.quarantine,
        )

    def refill(self, source: str | None) -> list[str]:
        """Have a source (all, if none is named) look at its gaps again, also at those it gave up."""
        names = [app.name for app in self.apps]
        if source is not None and source not in names:
            valid = ", ".join(names) or "none"
            raise NotFound(f"No source {source!r} runs here.{nearest(source, names)} Valid: {valid}.")
        self.bus.offer(notice(FILL_REQUEST, "platform", {"source": source}, self.clock, self.rng))
        return [source] if source is not None else names

    async def reload(self) -> dict[str, Any]:
        """Look at the plugin directory now; which sources run then, and what did not load."""
        await self.plugins.reload()
        problems = [{"file": str(path), "error": error} for path, error in self.plugins.problems.items()]
        return {"sources": [app.name for app in self.apps], "problems": problems}

    def sources(self) -> list[dict[str, Any]]:
        """Status of every source, with the clock skew measured on its feeds and what the breaker says of its rows."""
        skews = self.pipe.processor.skew.seconds
        found: list[dict[str, Any]] = []
        for app in self.apps:
            skew = {kind: value for (source, kind), value in skews.items() if source == app.name}
            health = self.health_of(app)
            problems = {"health": health.state, "problems": list(health.problems)}
            found.append({**app.status(), **problems, "clock_skew_seconds": skew})
        problems = {str(path): error for path, error in self.plugins.problems.items()}
        listed = [each for each in self.registry.list() if each.app is None and each.origin not in problems]
        failed = [(each.name, each.origin, each.error) for each in listed]
        failed += [(Path(origin).name, origin, error) for origin, error in problems.items()]
        return found + [
            {"name": name, "origin": origin, "health": "failed", "problems": [error]} for name, origin, error in failed
        ]

    def health(self) -> Health:
        """Ready when the journal accepts and the pipe runs.

        A difference in the books, an archive that cannot be reached or a calendar that ends is told and stops nothing.
        """
        keeper = self.keeper
        checks = {
            "journal": str(self.journal.failed or self.journal.blocked or "ok"),
            "archive": "off" if keeper is None else keeper.problem or "ok",
            "pipe": "ok" if self.failure is None else str(self.failure),
            **({"audit": self.self_audit.check} if self.config.audit_interval_s else {}),
            **self.failover.checks,
            **self.calendars.checks,
            **self.sealing.checks,
            **{f"source {app.name}": self.health_of(app).state for app in self.apps},
        }
        return Health(checks["journal"] == checks["pipe"] == "ok", checks)

    def health_of(self, app: App) -> SourceHealth:
        """How a source is; degraded while most of one of its streams is quarantined."""
        health = app.health()
        broken = tuple(turn.why for (source, _), turn in self.pipe.processor.breaker.open.items() if source == app.name)
        if not broken:
            waits = health.state == "starting" and self.failover.waits_for(app.name)
            return SourceHealth("standby") if waits else health
        state = "degraded" if health.state in {"ok", "starting"} else health.state
        return SourceHealth(state, (*health.problems, *broken))

    async def audit(self, request: AuditRequest) -> dict[str, Any]:
        """The books, added up now."""
        return await self.auditing.answer(request, Accepted(self.journal.uuid, self.journal.accepted))


def chosen_apps(loaded: Loaded, registry: AppRegistry) -> list[tuple[SourceConfig, type[App]]]:
    """The configured sources and their Apps, checked; `ConfigError` with the file it is about."""
    chosen: list[tuple[SourceConfig, type[App]]] = []
    for source, where in zip(loaded.sources, loaded.origins, strict=True):
        try:
            app = registry.get(source.source.name)
            app.check(source)
            _check_pool(app.pool(source), loaded)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        chosen.append((source, app))
    return chosen


def _check_pool(name: str, loaded: Loaded) -> None:
    pools = loaded.config.proxies
    if name and name not in pools:
        valid = ", ".join(pools) or "none, see `proxies` of the platform file"
        raise ConfigError(f"proxy: no pool {name!r}.{nearest(name, pools)} Valid: {valid}.")


def make_bus(loaded: Loaded, clock: Clock, rng: Rng) -> Bus:
    """The configured bus, not started; `ConfigError` if it cannot be made."""
    section = loaded.config.bus
    if section.type == "memory":
        return MemoryBus(clock)
    try:
        from tidewire.bus.nats import NatsBus
    except ModuleNotFoundError as error:
        if error.name != "nats":
            raise
        raise ConfigError("bus.type: nats needs its client. Install it: pip install 'tidewire[nats]'.") from None

    def file(name: str) -> Path | None:
        return loaded.base / name if name else None

    config = NatsConfig(
        servers=tuple(section.servers),
        prefix=section.prefix,
        stream=section.stream,
        max_bytes=section.max_bytes,
        max_age_s=seconds(section.max_age, "bus.max_age"),
        user=section.user,
        password=section.password,
        token=section.token,
        ca=file(section.tls_ca),
        certificate=file(section.tls_certificate),
        key=file(section.tls_key),
        timeout_s=seconds(section.timeout, "bus.timeout"),
        patience_s=seconds(section.patience, "bus.patience"),
        in_flight=section.in_flight,
    )
    return NatsBus(clock, rng, config)


def make_store(config: Config, data: Path, tier: Tier | None = None) -> Store:
    """The configured store, ``tier`` being for its sealed rows; `ConfigError` for a name that is not installed."""
    section = config.store
    installed = {point.name: point for point in entry_points(group=STORES)}
    if section.type not in installed:
        valid = ", ".join(sorted(installed))
        raise ConfigError(f"store.type: no store {section.type!r}.{nearest(section.type, installed)} Valid: {valid}.")
    options = StoreConfig(
        threads=section.threads,
        memory_limit=section.memory_limit,
        readers=section.readers,
        statement_timeout_s=seconds(section.statement_timeout, "store.statement_timeout"),
    )
    path = section.path if section.path == ":memory:" else str(data / section.path)
    try:
        return installed[section.type].load()(path, options, **({} if tier is None else {"cold": tier}))
    except TidewireError:
        raise
    except Exception as error:
        raise StoreError(f"store {section.type!r} cannot be made: {error}") from error


async def load_instruments(book: InstrumentBook, store: Store) -> None:
    """Make the instruments of earlier runs known."""
    fields = ("instrument", "native", "uid")
    found = await store.read(Query(Instrument.type, snapshot=EVERYTHING, limit=1_000_000, fields=fields))
    for instrument, native, stable in found.rows.select("instrument", "native", "uid").iter_rows():
        book.add(instrument, native, stable)


def pipe_config(config: Config) -> PipeConfig:
    """The pipe's own configuration."""
    section = config.pipe
    return PipeConfig(
        pump=config.pump_config(),
        lanes=section.lanes,
        store_ms=section.store_ms,
        store_rows=section.store_rows,
        breaker=config.breaker_config(),
        checks=config.check_config(),
    )
