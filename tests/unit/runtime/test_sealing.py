"""The cold tier as it is configured, and a sealer that fails."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from tidewire.errors import ArchiveFailed, ConfigError, InputError
from tidewire.records.clock import ManualClock
from tidewire.runtime.config import ColdSection, Config, Loaded, StoreSection
from tidewire.runtime.reading import Reading
from tidewire.runtime.sealing import Sealing, tier_of
from tidewire.runtime.supervise import RUN_FILE, Running
from tidewire.store.protocol import Store


class Failing:
    """Seals the second time it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def seal(self) -> list[Any]:
        self.asked += 1
        if self.asked == 1:
            raise ArchiveFailed("cannot be reached")
        return []


def test_off_is_no_tier(tmp_path: Path) -> None:
    assert tier_of(Config(), tmp_path) is None


def test_what_is_configured_is_used(tmp_path: Path) -> None:
    tier = tier_of(Config(cold=ColdSection(enabled=True, after="3h", cache="5MB", unit_rows=7)), tmp_path)
    assert tier is not None
    assert (tier.config.after_s, tier.config.cache_bytes, tier.config.unit_rows) == (10_800.0, 5_000_000, 7)
    assert tier.objects.local("cold/a") == tmp_path / "cold" / "a"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Config(cold=ColdSection(enabled=True), store=StoreSection(path=":memory:")), "a store in memory"),
        (Config(cold=ColdSection(enabled=True), store=StoreSection(type="other")), "store.type other"),
        (Config(cold=ColdSection(enabled=True, url="http://here")), "cold.url is 'http://here'"),
        (Config(cold=ColdSection(after="soon")), "cold.after"),
        (Config(cold=ColdSection(cache="much")), "cold.cache"),
    ],
)
def test_what_cannot_be_is_said(config: Config, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        tier_of(config, tmp_path)


async def test_a_failure_is_told_and_tried_again() -> None:
    sealing = Sealing(cast("Store", Failing()), ManualClock(), enabled=True)
    await sealing.once()
    assert sealing.checks == {"cold": "cannot be reached"}
    await sealing.once()
    assert sealing.checks == {"cold": "ok"}


async def test_a_store_that_seals_nothing_is_said() -> None:
    sealing = Sealing(cast("Store", object()), ManualClock(), enabled=True)
    await sealing.once()
    assert "seals nothing" in sealing.checks["cold"]


async def test_off_runs_and_tells_nothing() -> None:
    sealing = Sealing(cast("Store", Failing()), ManualClock(), enabled=False)
    await sealing.run()
    assert sealing.checks == {}


async def test_a_running_platform_is_not_sealed_behind_its_back(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_bytes(msgspec.json.encode(Running(os.getpid(), "http://127.0.0.1:1")))
    with pytest.raises(InputError, match="it seals by itself"):
        await Reading(tmp_path, Loaded(Config(), [], tmp_path, "test")).seal()
