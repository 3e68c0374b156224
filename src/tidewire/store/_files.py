"""Sealed files as files of this machine: where they are, or a bounded copy of those that are elsewhere."""

from __future__ import annotations

import threading
from pathlib import Path

from tidewire import telemetry
from tidewire.errors import StoreError
from tidewire.journal.objects import FileObjects
from tidewire.records.clock import Clock
from tidewire.store._sealed import SealedFile

IN_USE_S = 120.0
"""How long after it was asked for a copy may still be read: longer than any read may take."""

_fetched = telemetry.counter("cold_fetched_bytes", "Bytes of sealed files copied from the object store to be read")
_cached = telemetry.gauge("cold_cache_bytes", "Bytes of sealed files kept on this machine as copies")


class LocalFiles:
    """Paths of sealed files. Copies of remote ones take ``limit`` bytes; those asked for longest ago go first.

    A copy that may still be read is not removed, so a burst of large reads can go beyond the limit for two minutes.
    """

    def __init__(self, objects: FileObjects, directory: Path, limit: int, clock: Clock) -> None:
        self._objects = objects
        self._directory = directory
        self._limit = limit
        self._clock = clock
        self._turn = threading.Lock()
        self._used: dict[Path, tuple[int, int]] = {}

    def open(self) -> None:
        """Take over the copies there are, the oldest first; what is half fetched is removed."""
        if not self._directory.is_dir():
            return
        found = sorted((path.stat().st_mtime_ns, path) for path in self._directory.iterdir() if path.is_file())
        for _, path in found:
            if path.suffix == ".parquet":
                self._used[path] = (-(2**62), path.stat().st_size)
            else:
                path.unlink()

    def path(self, file: SealedFile) -> Path:
        """Where a file can be read; copied from the object store when it is not here.

        Raises:
            StoreError: it is not in the object store, or has another length there.
            ArchiveFailed: the object store cannot be reached.
        """
        local = self._objects.local(file.name)
        if local is not None:
            return local
        # One at a time: two reads of one file must not copy it twice, and the network is the limit anyway.
        with self._turn:
            path = self._directory / f"{file.sha256}.parquet"
            if path not in self._used:
                self._fetch(file, path)
            self._used.pop(path, None)
            self._used[path] = (self._clock.mono_ns(), file.bytes)
            self._shrink()
            return path

    def _fetch(self, file: SealedFile, path: Path) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        there = self._objects.get_file(file.name, unfinished)
        size = unfinished.stat().st_size if there else None
        if size != file.bytes:
            unfinished.unlink(missing_ok=True)
            what = "is missing" if size is None else f"has {size:,} bytes instead of {file.bytes:,}"
            raise StoreError(f"The sealed file {file.name} {what} in {self._objects}; restore it from a copy.")
        unfinished.rename(path)
        _fetched.inc(file.bytes)

    def _shrink(self) -> None:
        total = sum(size for _, size in self._used.values())
        before = self._clock.mono_ns() - int(IN_USE_S * 1e9)
        for path, (used, size) in list(self._used.items()):
            if total <= self._limit or used > before:
                break
            path.unlink(missing_ok=True)
            del self._used[path]
            total -= size
        _cached.set(total)
