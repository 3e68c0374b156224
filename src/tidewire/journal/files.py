"""What the journal asks of the file system to write: small, so that tests can watch it and break it."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Protocol

UNFINISHED = ".tmp"
"""Behind the name of a file that does not have all its bytes yet."""


class Files(Protocol):
    """Writing to files. Every method raises `OSError`; none retries a sync."""

    def open(self, path: Path, *, create: bool = False) -> int:
        """A descriptor for reading and writing; ``create`` makes the file or empties it."""
        ...

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write all of it there."""
        ...

    def datasync(self, descriptor: int) -> None:
        """Return when the file's bytes, and what is needed to find them, are on disk."""
        ...

    def sync(self, descriptor: int) -> None:
        """Return when the file is on disk, with all that is known about it."""
        ...

    def allocate(self, descriptor: int, size: int) -> None:
        """Make the file ``size`` bytes long, the new part zeros, with the space reserved where the system can."""
        ...

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut the file."""
        ...

    def close(self, descriptor: int) -> None:
        """Give the descriptor back."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Rename within a directory."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Return when creations, renames and removals in the directory are on disk."""
        ...

    def free(self, path: Path) -> int:
        """Bytes that this user may still write on the disk of a directory."""
        ...


class OsFiles:
    """The operating system's own."""

    def open(self, path: Path, *, create: bool = False) -> int:
        return os.open(path, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if create else 0), 0o640)

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        written = os.pwrite(descriptor, data, offset)
        if written < len(data):
            rest = memoryview(data)
            while written < len(data):
                written += os.pwrite(descriptor, rest[written:], offset + written)

    def datasync(self, descriptor: int) -> None:
        if hasattr(os, "fdatasync"):
            os.fdatasync(descriptor)
        else:
            self.sync(descriptor)

    def sync(self, descriptor: int) -> None:
        # On macOS fsync leaves the bytes in the drive's cache; F_FULLFSYNC does not.
        full = getattr(fcntl, "F_FULLFSYNC", None)
        if full is None:
            os.fsync(descriptor)
        else:
            fcntl.fcntl(descriptor, full)

    def allocate(self, descriptor: int, size: int) -> None:
        present = os.fstat(descriptor).st_size
        if size <= present:
            return
        reserve = getattr(os, "posix_fallocate", None)
        if reserve is not None:
            try:
                reserve(descriptor, present, size - present)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
            else:
                return
        os.ftruncate(descriptor, size)

    def truncate(self, descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def remove(self, path: Path) -> None:
        path.unlink()

    def sync_directory(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.sync(descriptor)
        finally:
            os.close(descriptor)

    def free(self, path: Path) -> int:
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize


def write_whole(files: Files, path: Path, data: bytes) -> None:
    """Make a file that is there with all its bytes or not at all, whatever happens meanwhile; on disk on return."""
    unfinished = path.with_name(path.name + UNFINISHED)
    # What is there already is written over, not emptied first: on a full disk its room could not be had again.
    descriptor = files.open(unfinished, create=not unfinished.exists())
    try:
        files.write(descriptor, data, 0)
        files.truncate(descriptor, len(data))
        files.sync(descriptor)
    finally:
        files.close(descriptor)
    files.rename(unfinished, path)
    files.sync_directory(path.parent)
