"""A file system that is watched: what a power cut may leave is judged by the syncs alone."""

from __future__ import annotations

import errno
import random
import threading
from dataclasses import dataclass, field
from pathlib import Path

from tidewire.journal.files import OsFiles


@dataclass
class Op:
    """A write, or (``data`` is None) a change of size to ``offset``."""

    offset: int
    data: bytes | None

    def apply(self, content: bytearray) -> None:
        if self.data is None:
            size = len(content)
            if self.offset < size:
                del content[self.offset :]
            else:
                content.extend(bytes(self.offset - size))
            return
        end = self.offset + len(self.data)
        if end > len(content):
            content.extend(bytes(end - len(content)))
        content[self.offset : end] = self.data


@dataclass
class Inode:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Op] = field(default_factory=list)


class SpyFiles(OsFiles):
    """Passes everything on, remembers what is durable, breaks on demand.

    ``gate``: while cleared, a datasync waits there; ``reached`` is set when one does.
    """

    def __init__(self) -> None:
        self._mutex = threading.RLock()
        self._open: dict[int, Inode] = {}
        self._now: dict[Path, Inode] = {}
        self._durable: dict[Path, Inode] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()
        self.fail_sync: OSError | None = None
        self.fail_write: OSError | None = None
        self.syncs = 0

    def open(self, path: Path, *, create: bool = False) -> int:
        with self._mutex:
            present = path.exists()
            descriptor = super().open(path, create=create)
            if create and path not in self._now:
                self._now[path] = Inode()
            elif path not in self._now:
                assert present
                # It was there before we watched: the image of an earlier power cut.
                self._now[path] = self._durable[path] = Inode(bytearray(path.read_bytes()))
            self._open[descriptor] = self._now[path]
            return descriptor

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        if self.fail_write is not None:
            assert self.gate.wait(20)
            raise self.fail_write
        with self._mutex:
            super().write(descriptor, data, offset)
            self._open[descriptor].pending.append(Op(offset, data))

    def datasync(self, descriptor: int) -> None:
        if not self.gate.is_set():
            self.reached.set()
            assert self.gate.wait(20)
        self._settle(descriptor)

    def sync(self, descriptor: int) -> None:
        self._settle(descriptor)

    def _settle(self, descriptor: int) -> None:
        with self._mutex:
            inode = self._open[descriptor]
            self.syncs += 1
            if self.fail_sync is not None:
                # As kernels do: the pages are marked clean, so that the next sync succeeds and writes nothing.
                inode.pending.clear()
                raise self.fail_sync
            for op in inode.pending:
                op.apply(inode.durable)
            inode.pending.clear()

    def allocate(self, descriptor: int, size: int) -> None:
        with self._mutex:
            super().allocate(descriptor, size)
            self._open[descriptor].pending.append(Op(size, None))

    def truncate(self, descriptor: int, size: int) -> None:
        with self._mutex:
            super().truncate(descriptor, size)
            self._open[descriptor].pending.append(Op(size, None))

    def close(self, descriptor: int) -> None:
        with self._mutex:
            super().close(descriptor)
            del self._open[descriptor]

    def rename(self, old: Path, new: Path) -> None:
        with self._mutex:
            super().rename(old, new)
            self._now[new] = self._now.pop(old)

    def remove(self, path: Path) -> None:
        with self._mutex:
            super().remove(path)
            self._now.pop(path, None)

    def sync_directory(self, path: Path) -> None:
        with self._mutex:
            self._durable = dict(self._now)

    def image(self, directory: Path, target: Path, chance: random.Random) -> Path:
        """Write into ``target`` what the disk may hold if the power goes now."""
        target.mkdir(parents=True)
        with self._mutex:
            for path in directory.iterdir():
                if path.name != "LOCK" and path not in self._now:  # never opened for writing: sealed long ago
                    (target / path.name).write_bytes(path.read_bytes())
            names = dict(self._durable)
            if chance.random() < 0.5:  # the directory may have been written without being asked
                names = dict(self._now)
            for path, inode in names.items():
                (target / path.name).write_bytes(_damaged(inode, chance))
        return target


def _damaged(inode: Inode, chance: random.Random) -> bytes:
    content = bytearray(inode.durable)
    for op in inode.pending:
        fate = chance.random()
        if fate < 0.3:
            continue
        if op.data is not None and fate < 0.6:
            Op(op.offset, op.data[: chance.randrange(len(op.data) + 1)]).apply(content)
        elif op.data and fate < 0.8:
            broken = bytearray(op.data)
            broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
            Op(op.offset, bytes(broken)).apply(content)
        else:
            op.apply(content)
    return bytes(content)


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def broken_disk() -> OSError:
    return OSError(errno.EIO, "Input/output error")
