"""Copies of sealed files that are elsewhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tidewire.errors import StoreError
from tidewire.journal.objects import Directory
from tidewire.records.clock import ManualClock
from tidewire.store._files import IN_USE_S, LocalFiles
from tidewire.store._sealed import SealedFile


class Elsewhere(Directory):
    """As an object store that is on no disk of this machine."""

    def local(self, name: str) -> Path | None:
        return None


def put(objects: Directory, name: str, content: bytes) -> SealedFile:
    objects.put(name, content)
    digest = hashlib.sha256(content).hexdigest()
    return SealedFile(name, "a", "hour", 0, 1, 1, len(content), digest, (), (), 0, 0, 0, 0, 0, 0)


def test_what_is_here_is_read_where_it_is(tmp_path: Path) -> None:
    objects = Directory(tmp_path / "o")
    file = put(objects, "cold/a", b"a")
    files = LocalFiles(objects, tmp_path / "cache", 10, ManualClock())
    files.open()
    assert files.path(file) == tmp_path / "o" / "cold" / "a"
    assert not (tmp_path / "cache").exists()


async def test_copies_take_no_more_than_the_limit_once_nobody_reads_them(tmp_path: Path) -> None:
    objects, clock = Elsewhere(tmp_path / "o"), ManualClock()
    kept = [put(objects, f"cold/{n}", bytes([n]) * 4) for n in range(3)]
    files = LocalFiles(objects, tmp_path / "cache", 8, clock)
    paths = [files.path(file) for file in kept]
    assert [path.read_bytes() for path in paths] == [bytes([n]) * 4 for n in range(3)]
    await clock.advance(IN_USE_S + 1)
    assert files.path(kept[2]) == paths[2]
    assert [path.exists() for path in paths] == [False, True, True]
    again = LocalFiles(objects, tmp_path / "cache", 8, clock)
    (tmp_path / "cache" / "half.tmp").write_bytes(b"x")
    again.open()
    assert not (tmp_path / "cache" / "half.tmp").exists()
    objects.delete(kept[1].name)
    assert again.path(kept[1]).read_bytes() == b"\x01" * 4  # a copy is enough


def test_files_that_are_missing_or_cut_are_said(tmp_path: Path) -> None:
    objects = Elsewhere(tmp_path / "o")
    file = put(objects, "cold/a", b"abc")
    files = LocalFiles(objects, tmp_path / "cache", 10, ManualClock())
    objects.put("cold/a", b"ab")
    with pytest.raises(StoreError, match="has 2 bytes instead of 3"):
        files.path(file)
    objects.delete("cold/a")
    with pytest.raises(StoreError, match="is missing"):
        files.path(file)
