"""The archive in the running product: what it may trim, what a replay of a trimmed journal gives, what is told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from tidewire.collect import Cursors
from tidewire.errors import ConfigError, JournalFailed, JournalTrimmed
from tidewire.journal import Journal, JournalReader, Origin
from tidewire.journal import commit as commit_module
from tidewire.journal.files import OsFiles
from tidewire.records.clock import SystemClock
from tidewire.records.record import types
from tidewire.replay import Replay
from tidewire.runtime import archiving
from tidewire.runtime.archiving import history_of, keeper_config, make_keeper, objects_of, passed_by
from tidewire.runtime.config import (
    ArchiveSection,
    Config,
    JournalSection,
    KeepSection,
    Listen,
    Loaded,
    RetentionSection,
    StoreSection,
    load,
    size,
)
from tidewire.runtime.platform import Tidewire
from tidewire.sources.binance import BinanceParser
from tidewire.store.config import StoreConfig
from tidewire.store.duckdb import DuckDBStore
from tidewire.store.protocol import Store
from unit.collect.kit import until
from unit.runtime.kit import Run, Stepping, fill, messages, opened, tables

EAGER = JournalSection(min_free="0", keep=KeepSection(days=0, bytes="1"))
SEGMENT = 30_000


async def replayed(source: object) -> dict[str, object]:
    store = DuckDBStore(":memory:", StoreConfig())
    await store.open()
    async for _ in Replay(source, {"binance": BinanceParser()}).into(store):  # type: ignore[arg-type]
        pass
    found = await tables(store)
    await store.close()
    return dict(found)


async def trimmed(journal: Journal, store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Archive and trim as far as the store lets; the oldest frame that is left."""
    monkeypatch.setattr(archiving, "WARM_UP_FRAMES", 0)
    cursors = Cursors()
    keeper = make_keeper(Config(journal=EAGER), folder, journal, store, cursors, SystemClock())
    assert keeper is not None
    monkeypatch.setattr(cursors, "needed_from", lambda accepted: accepted)
    await keeper.archive()
    await keeper.trim()
    return journal.first


async def test_a_replay_of_a_trimmed_journal_gives_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, segment_bytes=SEGMENT) as (journal, store):
        run = Run(journal, store)
        await run.start()
        await fill(journal, messages(400), run.now)
        await run.drained()
        live, before = await tables(store), await replayed(journal)
        assert await trimmed(journal, store, tmp_path, monkeypatch) > 100
        history = history_of(Config(), tmp_path)
        assert (history.first, history.expired, history.accepted) == (1, 0, 400)
        after = await replayed(history)
        with pytest.raises(JournalTrimmed):
            JournalReader(tmp_path / "journal").read(0)
        await run.stop()
    assert live.keys() == before.keys() == after.keys()
    for name, rows in live.items():
        assert_frame_equal(rows, after[name])  # type: ignore[arg-type]
    # The directory is lost: the archive alone still has what was sealed.
    for path in (tmp_path / "journal").iterdir():
        path.unlink()
    rest = history_of(Config(), tmp_path)
    assert rest.first == 1
    assert len(list(rest.scan())) == rest.accepted > 300


async def test_the_store_holds_segments_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path, segment_bytes=SEGMENT) as (journal, store):
        await fill(journal, messages(400), Stepping())
        assert passed_by(store, journal.uuid, 1) == 0
        assert await trimmed(journal, store, tmp_path, monkeypatch) == 1
        run = Run(journal, store)
        await run.start()
        await run.drained()
        assert passed_by(store, journal.uuid, 1) == 400
        assert passed_by(store, journal.uuid, 2) == 0, "a lane that has nothing yet needs everything"
        assert passed_by(store, "another journal", 1) == 0
        monkeypatch.setattr(archiving, "WARM_UP_FRAMES", 150)
        assert passed_by(store, journal.uuid, 1) == 250
        await run.stop()


async def test_cursors_hold_segments_back_until_they_are_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "WARM_UP_FRAMES", 0)
    async with opened(tmp_path, segment_bytes=SEGMENT) as (journal, store):
        cursors = Cursors()
        origin = Origin("binance", "rest", "GET https://x")
        journal.append(origin, b"{}", cursor=cursors.move(origin, {"BTC": "7"}))
        run = Run(journal, store)
        await run.start()
        await fill(journal, messages(300), run.now)
        await run.drained()
        keeper = make_keeper(Config(journal=EAGER), tmp_path, journal, store, cursors, SystemClock())
        assert keeper is not None
        await keeper.archive()
        assert await keeper.trim() == 0, "the only frame that tells the cursor would go"
        cursors.checkpoint(journal)
        assert await keeper.trim() == 0, "it is not accepted yet"
        await journal.drain()
        await fill(journal, messages(200, seed=2, first=9_000), run.now)
        await run.drained()
        await keeper.archive()
        assert await keeper.trim() > 0
        assert journal.first <= cursors.needed_from(journal.accepted) == 302
        again = Cursors()
        again.load(journal)
        assert again.get("binance", "rest", "BTC") == "7"
        await run.stop()


async def test_a_store_in_memory_needs_the_whole_journal(tmp_path: Path) -> None:
    config = Config(journal=EAGER, store=StoreSection(path=":memory:"))
    async with opened(tmp_path, segment_bytes=SEGMENT) as (journal, store):
        run = Run(journal, store)
        await run.start()
        await fill(journal, messages(400), run.now)
        await run.drained()
        keeper = make_keeper(config, tmp_path, journal, store, Cursors(), SystemClock())
        assert keeper is not None
        assert await keeper.archive() > 0
        assert await keeper.trim() == 0
        await run.stop()


async def test_a_restart_on_a_trimmed_journal_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = Stepping()
    async with opened(tmp_path, segment_bytes=SEGMENT) as (journal, store):
        run = Run(journal, store, stepping=now)
        await run.start()
        await fill(journal, messages(400), now)
        await run.drained()
        await run.stop()
        first = await trimmed(journal, store, tmp_path, monkeypatch)
        assert first > 100
        # The real thing keeps what the warm-up reads; here it begins where the journal does.
        monkeypatch.setattr("tidewire.runtime.pipe.WINDOW_FRAMES", 8)
        run = Run(journal, store, stepping=now)
        await run.start()
        await fill(journal, messages(50, seed=2, first=9_000), now)
        await run.drained()
        assert run.made == 2
        await run.stop()


async def test_a_type_that_is_new_begins_with_the_oldest_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = Stepping()
    async with opened(tmp_path / "a", segment_bytes=SEGMENT) as (journal, store):
        run = Run(journal, store, stepping=now)
        await run.start()
        await fill(journal, messages(400), now)
        await run.drained()
        await run.stop()
        first = await trimmed(journal, store, tmp_path / "a", monkeypatch)
        await fill(journal, messages(60, seed=2, first=9_000), now)  # lists the instruments again
        # Another store, which has never seen any of the types.
        empty = DuckDBStore(str(tmp_path / "b.duckdb"), StoreConfig())
        await empty.open()
        run = Run(journal, empty, stepping=now)
        await run.start()
        await run.drained()
        found = await tables(empty)
        assert found["trade"].height > 20
        assert found["trade"]["frame"].to_list() > [400]
        assert found["quarantined"]["frame"].min() == first, "instruments are known only where they are listed"
        assert set(empty.positions().values()) == {460}
        assert len(empty.positions()) == len(types())
        assert run.made == 2
        await run.stop()
        await empty.close()


async def test_a_store_behind_the_oldest_frame_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = Stepping()
    async with opened(tmp_path, segment_bytes=SEGMENT, recent_bytes=0) as (journal, store):
        run = Run(journal, store, stepping=now)
        await run.start()
        await fill(journal, messages(60), now)
        await run.drained()
        await run.stop()
        await fill(journal, messages(340, first=5_000), now)
        await journal.trim(journal.segments()[-1].first)
        run = Run(journal, store, stepping=now)
        await run.start()
        assert run.task is not None
        with pytest.raises(JournalTrimmed, match=r"tidewire journal restore"):
            await asyncio.wait_for(run.task, 20)
        await run.stop()


def platform_of(folder: Path, **journal: object) -> Tidewire:
    config = Config(data_dir="data", listen=Listen(port=0), journal=JournalSection(**journal))  # type: ignore[arg-type]
    return Tidewire(Loaded(config, [], folder, "test"))


async def test_a_running_platform_archives_by_itself(tmp_path: Path) -> None:
    platform = platform_of(tmp_path, segment_bytes=4_096, min_free="0")
    await platform.start()
    for number in range(60):
        platform.journal.append(Origin("nobody", "stream", "wss://here#1"), b"%d" % number * 100)
    await platform.journal.drain()
    sealed = len(platform.journal.segments()) - 1
    assert sealed > 2
    manifests = tmp_path / "data/archive" / platform.journal.uuid / "segments"
    await until(lambda: manifests.is_dir() and len(list(manifests.glob("*.json"))) == sealed)
    assert platform.health().checks["archive"] == "ok"
    assert platform.health().ready
    await platform.stop()
    assert history_of(platform.config, tmp_path / "data").archive is not None


async def test_it_can_be_switched_off(tmp_path: Path) -> None:
    platform = platform_of(tmp_path, archive=ArchiveSection(enabled=False))
    await platform.start()
    assert platform.health().checks["archive"] == "off"
    await platform.stop()
    assert not (tmp_path / "data/archive").exists()


async def test_an_archive_out_of_reach_leaves_it_ready(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    url = (tmp_path / "file" / "archive").as_uri()
    platform = platform_of(tmp_path, segment_bytes=4_096, min_free="0", archive=ArchiveSection(url=url))
    await platform.start()
    for number in range(60):
        platform.journal.append(Origin("nobody", "stream", "wss://here#1"), b"%d" % number * 100)
    await platform.journal.drain()
    await until(lambda: platform.health().checks["archive"].startswith("The archive"))
    assert platform.health().ready
    await platform.stop()


async def test_a_full_disk_is_not_ready_and_the_end_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_module, "RETRY_S", 0.01)
    platform = platform_of(tmp_path, min_free="1KB")
    await platform.start()
    monkeypatch.setattr(OsFiles, "free", lambda self, path: 0)
    platform.journal.append(Origin("nobody", "stream", "wss://here#1"), b"waits")
    await until(lambda: platform.journal.blocked is not None)
    health = platform.health()
    assert not health.ready
    assert health.checks["journal"].startswith("disk full: less than journal.min_free (1,000 bytes) is free")
    monkeypatch.setattr(OsFiles, "allocate", _no_room)
    async with asyncio.timeout(60):
        with pytest.raises(JournalFailed, match="1 frames that had been received were not accepted"):
            await platform.stop()


def _no_room(_self: OsFiles, _descriptor: int, _size: int) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0", 0),
        ("512", 512),
        ("1KB", 1_000),
        ("1 KiB", 1_024),
        ("1.5MB", 1_500_000),
        ("2TiB", 2 << 40),
    ],
)
def test_sizes(text: str, found: int) -> None:
    assert size(text, "x") == found


def test_a_size_may_be_a_number(tmp_path: Path) -> None:
    (tmp_path / "tidewire.yaml").write_text("journal: {min_free: 1000, keep: {bytes: 3GB, days: 1}}\n")
    config = load(tmp_path / "tidewire.yaml", {}).config
    assert config.journal_config().min_free == 1_000
    assert (keeper_config(config).keep.bytes, keeper_config(config).keep.days) == (3 * 10**9, 1)


@pytest.mark.parametrize("text", ["", "GB", "-1", "1 gb", "1e9", "1PB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"journal\.min_free: .* is no size\. Valid: .*B, KB, MB, GB, TB, KiB"):
        Config(journal=JournalSection(min_free=text)).journal_config()


def test_what_is_configured_is_what_is_kept() -> None:
    section = JournalSection(
        keep=KeepSection(days=2, bytes="1GB"),
        archive=ArchiveSection(retention={"default": RetentionSection(days=30), "rss": RetentionSection(bytes="5MB")}),
    )
    config = keeper_config(Config(journal=section))
    assert (config.keep.days, config.keep.bytes) == (2, 10**9)
    assert {name: (kept.days, kept.bytes) for name, kept in config.retention.items()} == {
        "default": (30, 0),
        "rss": (0, 5_000_000),
    }
    assert keeper_config(Config()).retention == {}
    with pytest.raises(ConfigError, match=r"journal\.keep\.days is -1; valid is 0"):
        keeper_config(Config(journal=JournalSection(keep=KeepSection(days=-1))))


def test_where_the_archive_is(tmp_path: Path) -> None:
    assert str(objects_of(ArchiveSection(), tmp_path)) == str(tmp_path / "archive")
    keys = {"access_key_id": "${KEY}", "secret_access_key": "hush"}
    section = ArchiveSection(url="s3://raw/frames", endpoint="http://127.0.0.1:1", region="x", **keys)
    assert str(objects_of(section, tmp_path)) == "s3://raw/frames"
