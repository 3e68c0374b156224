"""Wiring: what a platform refuses to start with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import pytest

from tidewire.bus import Bus, MemoryBus
from tidewire.bus.config import NatsConfig
from tidewire.bus.nats import NatsBus
from tidewire.errors import ConfigError, StoreBusy, StoreError
from tidewire.records.clock import ManualClock, SeededRng
from tidewire.records.event import Event
from tidewire.runtime.config import AuditSection, BusSection, Config, Listen, Loaded, PipeSection, StoreSection, load
from tidewire.runtime.platform import Tidewire, make_bus, make_store
from tidewire.serve.params import AuditRequest
from tidewire.store.duckdb import DuckDBStore
from unit.collect.kit import until


def loaded(folder: Path, lanes: int = 1, **settings: Any) -> Loaded:
    config = Config(data_dir="data", listen=Listen(port=0), pipe=PipeSection(lanes=lanes), **settings)
    return Loaded(config, [], folder, "test")


async def filled(folder: Path) -> None:
    """A data directory with a few frames stored."""
    from tidewire.journal import Origin

    platform = Tidewire(loaded(folder))
    await platform.start()
    for _ in range(5):
        platform.journal.append(Origin("nobody", "stream", "wss://here#1"), b"not read by anyone")
    await platform.journal.drain()
    await until(lambda: platform.pipe.in_flight() == 0)
    await platform.stop()


async def test_other_lanes_than_the_store_was_filled_with_are_refused(tmp_path: Path) -> None:
    await filled(tmp_path)
    with pytest.raises(ConfigError, match=r"pipe\.lanes is 4, the store was filled with 1"):
        await Tidewire(loaded(tmp_path, lanes=4)).start()
    again = Tidewire(loaded(tmp_path))
    await again.start()
    await again.stop()


async def test_a_store_ahead_of_its_journal_is_refused_and_what_it_says_helps(tmp_path: Path) -> None:
    await filled(tmp_path)
    (segment,) = (tmp_path / "data/journal").glob("*.seg")
    whole = segment.read_bytes()
    segment.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "data/journal/SYNCED").unlink()  # else the journal itself knows, and says so first
    with pytest.raises(StoreError, match="frames were lost"):
        await Tidewire(loaded(tmp_path)).start()
    # As the message says: move the journal away; the rows stay and new ones are seen at once.
    (tmp_path / "data/journal").rename(tmp_path / "data/old-journal")
    await filled(tmp_path)


class Deleting:
    """Deletes a row behind the platform's back, through the connection the platform itself has open."""

    def __init__(self, platform: Tidewire) -> None:
        self._store = cast("DuckDBStore", platform.store)

    async def __call__(self, statement: str) -> None:
        connection = self._store._connection
        assert connection is not None
        await self._store._in_thread(lambda: connection.execute(statement))


async def test_a_running_platform_audits_itself_and_names_what_differs(tmp_path: Path) -> None:
    await filled(tmp_path)
    configuration = loaded(tmp_path, audit=AuditSection(interval="20ms"))
    platform = Tidewire(configuration)
    heard: list[Event] = []
    await platform.start()
    try:
        platform.bus.subscribe("control.audit.*", heard.append)
        await until(lambda: platform.health().checks["audit"] == "ok" and platform.self_audit.difference == 0)
        await Deleting(platform)("DELETE FROM quarantined_v1 WHERE frame = 3")
        await until(lambda: platform.health().checks["audit"] == "difference 1")
        assert platform.health().ready
        await until(lambda: len(heard) == 1)
        books = await platform.audit(AuditRequest(frames="differing"))
        assert (books["difference"], books["sound"]) == (1, False)
        (traced,) = books["frames"]
        # Nobody's frames have no parser: what they came to cannot be told.
        assert traced["unread"] == ["no parser for source 'nobody' is loaded"]
        assert (await platform.audit(AuditRequest()))["frames"] is None
        platform.auditing._naming = True
        with pytest.raises(StoreBusy, match="one at a time"):
            await platform.audit(AuditRequest(frames="all"))
    finally:
        await platform.stop()


async def test_the_audit_of_itself_can_be_off(tmp_path: Path) -> None:
    platform = Tidewire(loaded(tmp_path, audit=AuditSection(interval=0)))
    await platform.start()
    assert "audit" not in platform.health().checks
    await platform.stop()
    for wrong in ("soon", 5, "-1s"):
        with pytest.raises(ConfigError, match=r"audit\.interval: .* is not a duration"):
            _ = Config(audit=AuditSection(interval=wrong)).audit_interval_s


def test_a_store_nobody_installed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no store 'duckdbb'. Did you mean 'duckdb'"):
        make_store(Config(store=StoreSection(type="duckdbb")), tmp_path)


def bus_of(folder: Path, **settings: Any) -> Bus:
    return make_bus(Loaded(Config(bus=BusSection(**settings)), [], folder, "test"), ManualClock(), SeededRng())


def test_the_bus_is_the_configured_one(tmp_path: Path) -> None:
    assert isinstance(bus_of(tmp_path), MemoryBus)
    (tmp_path / "tidewire.yaml").write_text(
        'bus: {type: nats, servers: ["nats://here:1"], prefix: desk, token: "${T}", max_age: 5m, tls_ca: ca.pem}\n'
    )
    bus = make_bus(load(tmp_path / "tidewire.yaml", {"T": "s3cret"}), ManualClock(), SeededRng())
    assert isinstance(bus, NatsBus)
    assert bus._config == NatsConfig(
        servers=("nats://here:1",), prefix="desk", token="s3cret", max_age_s=300.0, ca=tmp_path / "ca.pem"
    )
    assert "s3cret" not in repr(bus._config)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"servers": ["here:4222"]}, "bus.servers"),
        ({"max_age": "5 fortnights"}, "bus.max_age"),
        ({"timeout": "0s"}, "bus.timeout"),
        ({"prefix": "a b"}, "bus.prefix"),
    ],
)
def test_a_bus_that_cannot_be_is_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        bus_of(tmp_path, type="nats", **settings)


def test_a_missing_client_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "nats" or name.startswith("tidewire.bus.")]:
        if "nats" in name:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nats", None)
    with pytest.raises(ConfigError, match=r"pip install 'tidewire\[nats\]'"):
        bus_of(tmp_path, type="nats")
