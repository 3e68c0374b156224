"""Reading configuration: YAML without guesses, ``${VAR:-default}`` from the environment, errors with file and key."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec

from tidewire.collect import PumpConfig, Section, SourceConfig
from tidewire.collect.config import kind_of, read, seconds
from tidewire.collect.document import read_document
from tidewire.errors import ConfigError, InputError
from tidewire.journal import Durability, JournalConfig
from tidewire.process.breaker import BreakerConfig
from tidewire.process.checks import CheckConfig, read_checks
from tidewire.records.calendar import tell

DEFAULT_FILE = "tidewire.yaml"
_NO_FILE = "Give the path of a configuration, or begin with `tidewire demo`; docs/configuration.md shows one to copy."
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


_SIZE = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[A-Za-z]*)")
_UNITS = (
    {"B": 1}
    | {f"{letter}B": 1_000**power for power, letter in enumerate("KMGT", 1)}
    | {f"{letter}iB": 1_024**power for power, letter in enumerate("KMGT", 1)}
)


def size(text: str | int, where: str) -> int:
    """A size such as ``20GB`` or ``512MiB`` in bytes; a bare number is bytes."""
    match = _SIZE.fullmatch(str(text).strip())
    unit = (match["unit"] or "B") if match is not None else ""
    if match is None or unit not in _UNITS:
        raise ConfigError(
            f"{where}: {text!r} is no size. Valid: a number of bytes, or with a unit: {', '.join(_UNITS)}."
        )
    return round(float(match["number"]) * _UNITS[unit])


class Listen(Section, frozen=True):
    """Where the API is served. Only loopback until keys and TLS exist."""

    host: str = "127.0.0.1"
    port: int = 8700


class Log(Section, frozen=True):
    """How to log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    form: Literal["console", "json"] = "console"


class KeepSection(Section, frozen=True):
    """What stays in the journal's directory though it is archived; 0 sets no limit."""

    days: float = 7.0
    bytes: str | int = "20GB"


class RetentionSection(Section, frozen=True):
    """How long frames stay in the archive; 0 sets no limit."""

    days: float = 0.0
    bytes: str | int = "0"


class ArchiveSection(Section, frozen=True):
    """Where sealed segments go. ``url`` is empty for the directory ``archive`` beside the journal. Write keys as
    ``${VARIABLE}``, not into the file.
    """

    enabled: bool = True
    url: str = ""
    endpoint: str = ""
    region: str = ""
    access_key_id: str = ""
    secret_access_key: str = ""
    retention: Mapping[str, RetentionSection] = {}


class JournalSection(Section, frozen=True):
    """The write-ahead log. ``durability`` by source: disk (default), os or none."""

    commit_ms: float = 10.0
    commit_bytes: int = 1 << 20
    segment_bytes: int = 64 << 20
    durability: Mapping[str, Literal["disk", "os", "none"]] = {}
    min_free: str | int = "512MB"
    keep: KeepSection = KeepSection()
    archive: ArchiveSection = ArchiveSection()


class BreakerSection(Section, frozen=True):
    """When a source counts as broken: more than ``share`` of its last rows were quarantined. 1 switches it off."""

    share: float = 0.5
    rows: int = 1_000
    window: str = "5m"
    least: int = 50


class PipeSection(Section, frozen=True):
    """The pace of the pipe: see the three clocks in ARCHITECTURE.md."""

    parse_ms: float = 10.0
    unheard_ms: float = 100.0
    parse_frames: int = 512
    store_ms: float = 250.0
    store_rows: int = 5_000
    lanes: int = 1
    breaker: BreakerSection = BreakerSection()


class GapsSection(Section, frozen=True):
    """Whether what is missing is asked for again, and how long a hole may close by itself before that."""

    fill: bool = True
    settle: str = "1s"


class BusSection(Section, frozen=True):
    """What carries events. All but ``type`` is for ``nats``; write ``password`` and ``token`` as ``${VARIABLE}``."""

    type: Literal["memory", "nats"] = "memory"
    servers: Sequence[str] = ("nats://127.0.0.1:4222",)
    prefix: str = "tidewire"
    stream: str = ""
    max_bytes: int = 1 << 30
    max_age: str = "1h"
    user: str = ""
    password: str = ""
    token: str = ""
    tls_ca: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    timeout: str = "5s"
    patience: str = "30s"
    in_flight: int = 256


class StoreSection(Section, frozen=True):
    """Where rows go. ``type`` names an installed store; ``path`` is relative to the data directory."""

    type: str = "duckdb"
    path: str = "tidewire.duckdb"
    memory_limit: str = "512MB"
    threads: int = 2
    readers: int = 4
    statement_timeout: str = "30s"


class ColdSection(Section, frozen=True):
    """Where rows go that are finished. ``url`` is empty for the directory ``cold`` beside the store."""

    enabled: bool = False
    after: str = "2d"
    unit_rows: Annotated[int, msgspec.Meta(ge=1)] = 2_000_000
    cache: str | int = "20GB"
    url: str = ""
    endpoint: str = ""
    region: str = ""
    access_key_id: str = ""
    secret_access_key: str = ""


class CalendarSection(Section, frozen=True):
    """What the program does not know yet of a trading calendar: days without a session, and until when all are told."""

    closed: Sequence[date] = ()
    until: date | None = None


class AuditSection(Section, frozen=True):
    """How often the platform audits itself; 0: never."""

    interval: str | int = "5m"


class FailoverSection(Section, frozen=True):
    """Sources that stand in for each other, the preferred one first."""

    order: Sequence[str]
    after: int = 2
    retry: str = "1m"


class PoolSection(Section, frozen=True):
    """Where a pool's proxies come from: one of ``list``, ``file``, ``url``. ``direct``: without one if need be."""

    list: Sequence[str] = ()
    file: str = ""
    url: str = ""
    refresh: str = "5m"
    timeout: str = "10s"
    direct: bool = False


class IdentitiesSection(Section, frozen=True):
    """The browsers that declared sources pass for; ``list``: own ones, each as its headers."""

    enabled: bool = True
    keep: str = "1h"
    list: Sequence[Mapping[str, str]] = ()


class BrowserSection(Section, frozen=True):
    """The real browser of sources that need one. ``executable`` is empty for the one that playwright installs."""

    executable: str = ""
    pages: Annotated[int, msgspec.Meta(ge=1, le=32)] = 2


class Config(Section, frozen=True):
    """One platform. ``sources`` are source files (relative to this file) or their content."""

    data_dir: str = "tidewire-data"
    listen: Listen = Listen()
    log: Log = Log()
    clock: Literal["system", "upstream"] = "system"
    journal: JournalSection = JournalSection()
    pipe: PipeSection = PipeSection()
    checks: Mapping[str, Any] = {}
    gaps: GapsSection = GapsSection()
    bus: BusSection = BusSection()
    store: StoreSection = StoreSection()
    cold: ColdSection = ColdSection()
    audit: AuditSection = AuditSection()
    calendars: Mapping[str, CalendarSection] = {}
    proxies: Mapping[str, PoolSection] = {}
    identities: IdentitiesSection = IdentitiesSection()
    browser: BrowserSection = BrowserSection()
    plugins: str = "plugins"
    failover: Mapping[str, FailoverSection] = {}
    sources: Sequence[Any] = ()

    def journal_config(self) -> JournalConfig:
        """The journal's own configuration."""
        section = self.journal
        durability = {name: Durability(level) for name, level in section.durability.items()}
        return JournalConfig(
            segment_bytes=section.segment_bytes,
            commit_ms=section.commit_ms,
            commit_bytes=section.commit_bytes,
            durability=durability,
            min_free=size(section.min_free, "journal.min_free"),
        )

    @property
    def audit_interval_s(self) -> float:
        """Seconds between two audits of itself; 0: none. `ConfigError` for what is no duration."""
        text = str(self.audit.interval)
        return 0.0 if text == "0" else seconds(text, "audit.interval")

    def pump_config(self) -> PumpConfig:
        """The pump's own configuration."""
        section = self.pipe
        return PumpConfig(parse_ms=section.parse_ms, parse_frames=section.parse_frames, unheard_ms=section.unheard_ms)

    def check_config(self) -> CheckConfig:
        """The checks that run; `ConfigError` for names and numbers that are none."""
        return read_checks(self.checks)

    def breaker_config(self) -> BreakerConfig:
        """The circuit breaker's own configuration."""
        section = self.pipe.breaker
        window_s = seconds(section.window, "pipe.breaker.window")
        return BreakerConfig(section.share, section.rows, window_s, section.least)


class Loaded:
    """A configuration with its sources, and where it came from."""

    def __init__(
        self, config: Config, sources: list[SourceConfig], base: Path, origin: str, origins: Sequence[str] = ()
    ) -> None:
        self.config = config
        self.origins = list(origins) or [origin] * len(sources)
        self.sources = sources
        self.base = base
        self.origin = origin

    @property
    def places(self) -> dict[str, str]:
        """Where each source stands, by its name."""
        return {source.source.name: place for source, place in zip(self.sources, self.origins, strict=True)}

    @property
    def data_dir(self) -> Path:
        """The data directory, absolute."""
        return (self.base / self.config.data_dir).absolute()

    @property
    def plugins(self) -> Path:
        """The plugin directory, absolute; need not exist."""
        return (self.base / self.config.plugins).absolute()


def load(path: Path | None, environ: Mapping[str, str] | None = None) -> Loaded:
    """Read a platform file, or a single source file, or (without a path) ``tidewire.yaml`` of this directory.

    What it tells of trading calendars holds for the process from then on, until another file is read.

    Raises:
        ConfigError: with file, key, what was found, what is valid and what to do.
    """
    environ = os.environ if environ is None else environ
    path = path or Path(DEFAULT_FILE)
    data = _mapping(path, environ)
    if "source" in data:
        tell({})
        return Loaded(Config(), [_source(data, str(path))], path.parent, str(path))
    config = read(data, Config, str(path))
    _tell_calendars(config, path)
    sources = [_listed(entry, path, place, environ) for place, entry in enumerate(config.sources)]
    names = [source.source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path}: sources: {name!r} is listed {names.count(name)} times; list it once.")
    origins = [
        str(path.parent / entry) if isinstance(entry, str) else f"{path}: sources[{place}]"
        for place, entry in enumerate(config.sources)
    ]
    return Loaded(config, sources, path.parent, str(path), origins)


def _tell_calendars(config: Config, path: Path) -> None:
    """Calendars are one for all that asks in this process, as record types are."""
    try:
        tell({name: (section.closed, section.until) for name, section in config.calendars.items()})
    except InputError as error:
        raise ConfigError(f"{path}: calendars: {error}") from None


def load_source(path: Path, environ: Mapping[str, str] | None = None) -> SourceConfig:
    """Read a source file; `ConfigError` as for a platform file."""
    return _source(_mapping(path, os.environ if environ is None else environ), str(path))


def secret(name: str) -> str | None:
    """A key that a declared source names, of the environment."""
    return os.environ.get(name)


def _listed(entry: Any, path: Path, place: int, environ: Mapping[str, str]) -> SourceConfig:
    if isinstance(entry, str):
        file = path.parent / entry
        return _source(_mapping(file, environ), str(file))
    return _source(entry, f"{path}: sources[{place}]")


def _source(data: Any, where: str) -> SourceConfig:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected a source (source:, api:, collectors:), found {kind_of(data)}.")
    return read(cast("Mapping[str, Any]", data), SourceConfig, where)


def _mapping(path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    data = read_document(path, _NO_FILE)
    return cast("dict[str, Any]", _expand(data, str(path), environ))


def _expand(value: Any, where: str, environ: Mapping[str, str]) -> Any:
    """Replace ``${VAR}`` and ``${VAR:-default}`` in every text."""
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return {str(key): _expand(inner, f"{where}: {key}", environ) for key, inner in items}
    if isinstance(value, list):
        return [_expand(inner, where, environ) for inner in cast("list[Any]", value)]
    if not isinstance(value, str):
        return value

    def one(match: re.Match[str]) -> str:
        default = cast("str | None", match["default"])
        found = environ.get(match["name"], default)
        if found is None:
            raise ConfigError(
                f"{where}: the environment has no {match['name']}. Set it, or write ${{{match['name']}:-}} if it "
                "may be empty."
            )
        return found

    return _VARIABLE.sub(one, value)
