"""The archive in a real object store: what a platform puts there comes back, also when its disk is lost."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.kit import loaded, until
from integration.s3 import BUCKET, KEY, SECRET, s3_server
from tidewire.errors import ArchiveFailed
from tidewire.journal import ArchiveReader, JournalReader, Objects, Origin, Retention, open_objects
from tidewire.journal.archive import DAY_NS
from tidewire.journal.restore import restore
from tidewire.runtime.archiving import history_of
from tidewire.runtime.config import ArchiveSection, JournalSection
from tidewire.runtime.platform import Tidewire
from unit.journal.archive_kit import START_NS, archived, filled, sealed


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


def objects(endpoint: str, prefix: str, secret: str = SECRET) -> Objects:
    options = {"endpoint": endpoint, "region": "x", "access_key_id": KEY, "secret_access_key": secret}
    return open_objects(f"s3://{BUCKET}/{prefix}", options)


def test_what_an_object_store_must_do(endpoint: str) -> None:
    store = objects(endpoint, "must")
    assert (store.get("a/x"), store.size("a/x"), store.list("a")) == (None, None, [])
    assert store.create("a/x", b"1")
    assert not store.create("a/x", b"2")
    assert (store.get("a/x"), store.size("a/x")) == (b"1", 1)
    store.put("a/x", b"22")
    store.put("a/y/z", bytes(6 << 20))
    store.put("ab", b"")
    assert (store.get("a/x"), store.size("a/y/z"), store.list("a")) == (b"22", 6 << 20, ["a/x", "a/y/z"])
    assert store.list("") == ["a/x", "a/y/z", "ab"]
    store.delete("a/x")
    store.delete("a/x")
    assert store.list("a") == ["a/y/z"]


def test_a_wrong_key_is_told_without_the_key(endpoint: str) -> None:
    with pytest.raises(ArchiveFailed, match=r"Check journal\.archive") as caught:
        objects(endpoint, "secret", "not-the-secret").put("x", b"")
    assert "not-the-secret" not in str(caught.value)


async def test_there_and_back(endpoint: str, tmp_path: Path) -> None:
    await filled(tmp_path / "journal", 150)
    store = objects(endpoint, "there")
    archive = archived(tmp_path / "journal", store)  # type: ignore[arg-type]
    assert all(archive.holds(segment) for segment in sealed(tmp_path / "journal"))
    reader = ArchiveReader(store)
    assert list(reader.verify()) == []
    list(restore(reader, reader.manifests, tmp_path / "again"))
    for segment in sealed(tmp_path / "journal"):
        assert (tmp_path / "again" / segment.path.name).read_bytes() == segment.path.read_bytes()
    assert archive.expire({"rss": Retention(days=1)}, START_NS + 2 * DAY_NS) > 3
    left = ArchiveReader(store)
    assert list(left.verify()) == []
    assert len(left.read(0)) + left.expired() == left.accepted


async def test_a_platform_whose_disk_is_lost(endpoint: str, tmp_path: Path) -> None:
    section = ArchiveSection(
        url=f"s3://{BUCKET}/platform", endpoint=endpoint, region="x", access_key_id=KEY, secret_access_key=SECRET
    )
    configuration = loaded(tmp_path, [], journal=JournalSection(segment_bytes=8_192, min_free="0", archive=section))
    platform = Tidewire(configuration)
    await platform.start()
    for number in range(300):
        platform.journal.append(Origin("nobody", "stream", "wss://here#1"), b"%d." % number * 30)
        if number % 50 == 0:
            await platform.journal.drain()
    await platform.journal.drain()
    sealed_now = platform.journal.segments()[:-1]
    assert len(sealed_now) > 3

    async def all_there() -> bool:
        history = await asyncio.to_thread(history_of, configuration.config, tmp_path / "data")
        return history.archive is not None and history.archive.accepted == sealed_now[-1].last

    await until(all_there, "everything sealed is archived")
    assert platform.health().checks["archive"] == "ok"
    await platform.stop()
    expected = [
        frame for frame in JournalReader(tmp_path / "data/journal").scan() if frame.sequence <= sealed_now[-1].last
    ]
    shutil.rmtree(tmp_path / "data")
    history = history_of(configuration.config, tmp_path / "data")
    assert list(history.scan()) == expected
    assert history.archive is not None
    list(restore(history.archive, history.archive.manifests, tmp_path / "back"))
    assert list(JournalReader(tmp_path / "back").scan()) == expected
