"""The cold tier as it is configured, and the sealing of finished rows while the platform runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tidewire import telemetry
from tidewire.collect.config import seconds
from tidewire.errors import ConfigError, TidewireError
from tidewire.journal.objects import FileObjects, open_objects
from tidewire.records.clock import Clock
from tidewire.runtime.config import Config, size
from tidewire.store.config import ColdConfig, Tier
from tidewire.store.protocol import Store

LOOK_S = 60.0
"""How often it is looked whether a span is over, and how soon a failed step is tried again."""

_log = telemetry.log("runtime")
_errors = telemetry.counter("cold_errors", "Runs of the sealer that failed; each is tried again")


@runtime_checkable
class Sealable(Protocol):
    """A store whose finished rows can be sealed."""

    async def seal(self) -> list[Any]:
        """Seal what is finished; what each step did."""
        ...


def sealable(store: Store) -> Sealable:
    """The store as one that seals; `ConfigError` where it does not."""
    if not isinstance(store, Sealable):
        raise ConfigError("This store seals nothing. Use store.type duckdb, or set cold.enabled to false.")
    return store


def objects_of(config: Config, data: Path) -> FileObjects:
    """Where the sealed files of a data directory are; asks nobody yet."""
    section = config.cold
    options = {
        "endpoint": section.endpoint,
        "region": section.region,
        "access_key_id": section.access_key_id,
        "secret_access_key": section.secret_access_key,
    }
    url = section.url or data.absolute().as_uri()
    return open_objects(url, {name: value for name, value in options.items() if value}, section="cold")


def tier_of(config: Config, data: Path) -> Tier | None:
    """The cold tier of a data directory; None where it is switched off, `ConfigError` where it cannot be."""
    section = config.cold
    after_s = seconds(section.after, "cold.after")
    cache = size(section.cache, "cold.cache")
    if not section.enabled:
        return None
    if config.store.type != "duckdb" or config.store.path == ":memory:":
        what = f"store.type {config.store.type}" if config.store.type != "duckdb" else "a store in memory"
        raise ConfigError(
            f"cold.enabled: {what} has no rows to seal. Use store.type duckdb with a file, or leave it off."
        )
    settings = ColdConfig(after_s=after_s, unit_rows=section.unit_rows, cache_bytes=cache)
    return Tier(objects_of(config, data), data / "cold-work", settings)


class Sealing:
    """Seals what is finished, a step at a time, beside everything else; a failure is told and tried again."""

    def __init__(self, store: Store, clock: Clock, *, enabled: bool) -> None:
        self._store = store
        self._clock = clock
        self._enabled = enabled
        self.problem = ""

    @property
    def checks(self) -> dict[str, str]:
        """What the platform's health says; nothing where it is off."""
        return {"cold": self.problem or "ok"} if self._enabled else {}

    async def run(self) -> None:
        """Until cancelled; the running step ends first."""
        while self._enabled:
            await self._clock.sleep(LOOK_S)
            await self.once()

    async def once(self) -> None:
        """Seal what is finished now."""
        try:
            await sealable(self._store).seal()
        except TidewireError as error:
            self.problem = str(error)
            _errors.inc()
            _log.warning("sealing failed, it is tried again", error=str(error))
        else:
            self.problem = ""
