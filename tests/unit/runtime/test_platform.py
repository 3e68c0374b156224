"""Wiring: what a platform refuses to start with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidewire.errors import ConfigError, StoreError
from tidewire.runtime.config import Config, Listen, Loaded, PipeSection, StoreSection
from tidewire.runtime.platform import Tidewire, make_store
from unit.collect.kit import until


def loaded(folder: Path, lanes: int = 1) -> Loaded:
    config = Config(data_dir="data", listen=Listen(port=0), pipe=PipeSection(lanes=lanes))
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
    with pytest.raises(StoreError, match="frames were lost"):
        await Tidewire(loaded(tmp_path)).start()
    # As the message says: move the journal away; the rows stay and new ones are seen at once.
    (tmp_path / "data/journal").rename(tmp_path / "data/old-journal")
    await filled(tmp_path)


def test_a_store_nobody_installed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no store 'duckdbb'. Did you mean 'duckdb'"):
        make_store(Config(store=StoreSection(type="duckdbb")), tmp_path)
