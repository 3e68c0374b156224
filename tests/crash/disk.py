"""A disk that is watched from inside the product, and what a power cut may leave of it.

`SpiedFiles` lies under the journal of the product. It writes into a side file, one write for each sync, how far each
file was really synced, and which names the directory really had. `Disk` reads that after the process was killed and
damages the directory as a power cut may: bytes beyond the last sync are cut off, zeroed or flipped, names that were
not synced vanish, removed ones that were not synced come back. Nothing the product says about itself is believed.

Lines of the side file, ``ino`` being the number of the file, whatever its name:

====== ===================== ==================================================================
``C``  ino                   created, or emptied: nothing of it is on disk
``S``  ino end size          synced: its first ``end`` bytes and its size are on disk
``F``  ino end               a sync failed: what lies beyond ``end`` never gets there unless written again
``D``  name ino name ino …   the directory was synced: it has these names
====== ===================== ==================================================================
"""

from __future__ import annotations

import errno
import os
import random
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tidewire.journal.files import OsFiles

SELDOM_S = 0.05
"""How long the syncs of starting and of changing segments take at most, however slow the disk is otherwise."""

GRAVES = "graves"
"""Beside the side file: links to files the product removed, in case their removal was not synced."""


@dataclass
class Synced:
    """What is on disk of one file: its first ``end`` bytes, and its ``size``; ``lost``: where a failed sync began."""

    end: int = 0
    size: int = 0
    lost: int | None = None


@dataclass
class Known:
    """What the side file tells."""

    files: dict[int, Synced] = field(default_factory=dict[int, Synced])
    names: dict[str, int] = field(default_factory=dict[str, int])

    @classmethod
    def read(cls, side: Path) -> Known:
        known = cls()
        text = side.read_text() if side.exists() else ""
        for line in text.split("\n")[:-1]:  # a line without its end was not finished when the process was killed
            what, *rest = line.split(" ")
            if what == "D":
                known.names = {name: int(ino) for name, ino in zip(rest[::2], rest[1::2], strict=True)}
                continue
            ino, *numbers = map(int, rest)
            if what == "C":
                known.files[ino] = Synced()
            elif what == "S":
                known.files[ino] = Synced(numbers[0], numbers[1])
            else:
                known.files.setdefault(ino, Synced()).lost = numbers[0]
        return known

    def write(self, side: Path) -> None:
        """The same in as few lines as possible."""
        lines = [f"S {ino} {file.end} {file.size}" for ino, file in self.files.items()]
        lines += [f"F {ino} {file.lost}" for ino, file in self.files.items() if file.lost is not None]
        lines.append(" ".join(["D", *(f"{name} {ino}" for name, ino in self.names.items())]))
        side.write_text("\n".join(lines) + "\n")


def names_in(directory: Path) -> dict[str, int]:
    with os.scandir(directory) as entries:
        return {entry.name: entry.inode() for entry in entries if entry.is_file()}


@dataclass
class _Open:
    ino: int
    end: int
    synced: Synced


class SpiedFiles(OsFiles):
    """The operating system's files, watched. ``sync_ms``: how long a sync takes at most, as on a slow disk.

    ``fail_sync``: the so-manieth sync fails, as a broken disk does. ``full``: asked before each write; while true
    the disk is full.
    """

    def __init__(
        self,
        side: Path,
        *,
        sync_ms: float = 0.0,
        fail_sync: int | None = None,
        full: Callable[[], bool] = lambda: False,
        seed: int = 0,
    ) -> None:
        self._graves = side.with_name(GRAVES)
        self._known = Known.read(side)
        self._side = os.open(side, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._mutex = threading.RLock()
        # One after the other: what is said last must be what was seen last.
        self._syncing = threading.Lock()
        self._open: dict[int, _Open] = {}
        self._sync_s = sync_ms / 1e3
        self._fail_sync = fail_sync
        self._full = full
        self._chance = random.Random(seed)
        self._syncs = 0

    def _say(self, *words: object) -> None:
        os.write(self._side, (" ".join(map(str, words)) + "\n").encode())

    def open(self, path: Path, *, create: bool = False) -> int:
        with self._mutex:
            descriptor = super().open(path, create=create)
            found = os.fstat(descriptor)
            if create:
                self._say("C", found.st_ino)
                self._known.files[found.st_ino] = Synced()
            synced = self._known.files.setdefault(found.st_ino, Synced())
            self._open[descriptor] = _Open(found.st_ino, found.st_size, synced)
            return descriptor

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        with self._mutex:
            if self._full():
                # As systems do: what fits is written, and the rest is refused.
                super().write(descriptor, data[: len(data) // 2], offset)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().write(descriptor, data, offset)
            file, upto = self._open[descriptor], offset + len(data)
            if file.synced.lost is not None and offset <= file.synced.lost < upto:
                file.synced.lost = upto if upto < file.end else None
            file.end = max(file.end, upto)

    def allocate(self, descriptor: int, size: int) -> None:
        if self._full():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().allocate(descriptor, size)

    def truncate(self, descriptor: int, size: int) -> None:
        with self._mutex:
            super().truncate(descriptor, size)
            file = self._open[descriptor]
            file.end = min(file.end, size)
            if file.synced.lost is not None and size <= file.synced.lost:
                file.synced.lost = None

    def datasync(self, descriptor: int) -> None:
        self._settle(descriptor, super().datasync, self._sync_s)

    def sync(self, descriptor: int) -> None:
        self._settle(descriptor, super().sync, min(self._sync_s, SELDOM_S))

    def _settle(self, descriptor: int, sync: Callable[[int], None], most_s: float) -> None:
        self._syncs += 1
        if self._syncs == self._fail_sync:
            with self._mutex:
                file = self._open[descriptor]
                file.synced.lost = min(file.synced.end, file.synced.lost or file.synced.end)
                self._say("F", file.ino, file.synced.lost)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        with self._syncing:
            with self._mutex:
                file = self._open[descriptor]
                end, size = file.end, os.fstat(descriptor).st_size
            self._linger(most_s)
            sync(descriptor)
            with self._mutex:
                synced = file.synced
                synced.end = end if synced.lost is None else min(end, synced.lost)
                synced.size = size
                self._say("S", file.ino, synced.end, size)
                if synced.lost is not None:
                    self._say("F", file.ino, synced.lost)

    def _linger(self, most_s: float) -> None:
        if most_s:
            time.sleep(self._chance.uniform(0, most_s))

    def close(self, descriptor: int) -> None:
        with self._mutex:
            super().close(descriptor)
            del self._open[descriptor]

    def remove(self, path: Path) -> None:
        with self._mutex:
            self._graves.mkdir(exist_ok=True)
            grave = self._graves / str(path.stat().st_ino)
            if not grave.exists():
                os.link(path, grave)
            super().remove(path)

    def sync_directory(self, path: Path) -> None:
        with self._syncing:
            names = names_in(path)
            self._linger(min(self._sync_s, SELDOM_S))
            OsFiles().sync_directory(path)  # of this class it would sync a descriptor that is no watched file
            self._say("D", *(word for name, ino in names.items() for word in (name, ino)))


@dataclass
class Damage:
    """What power cuts did, counted."""

    cuts: int = 0
    """Times the power was cut."""
    torn: int = 0
    """Files that lost bytes."""
    flipped: int = 0
    """Files in which bits were flipped."""
    vanished: int = 0
    """Names that were gone, or back."""
    taken: int = 0
    """Bytes that were written and gone."""


class Disk:
    """A journal's directory between two lives of the product."""

    def __init__(self, directory: Path, side: Path, chance: random.Random) -> None:
        self.directory = directory
        self.side = side
        self.damage = Damage()
        self._chance = chance
        self._owed: dict[str, tuple[int, int]] = {}
        """Of each segment: how many bytes were synced, and their checksum."""

    def frames(self) -> int:
        """How many frames there are at least: those before the newest segment."""
        return max((int(name.removesuffix(".seg")) - 1 for name in self._owed), default=0)

    def died(self) -> None:
        """The process is dead: everything that was synced before is still there, and what is synced now is owed too."""
        self._known = Known.read(self.side)
        self.owes()
        for name, ino in self._known.names.items():
            synced = self._known.files.get(ino)
            path = self.directory / name
            if name.endswith(".seg") and synced is not None and path.exists() and path.stat().st_ino == ino:
                self._owed[name] = synced.end, _checksum(path, synced.end)
        self._known.write(self.side)

    def owes(self) -> None:
        """Fail unless all that was ever synced is there, byte for byte. Trimmed segments would be let off here."""
        for name, (end, checksum) in self._owed.items():
            path = self.directory / name
            assert path.exists(), f"{name} was on disk and is gone"
            assert path.stat().st_size >= end, f"{name} had {end:,} bytes on disk and has {path.stat().st_size:,}"
            assert _checksum(path, end) == checksum, f"{name}: of {end:,} bytes that were on disk some are changed"

    def cut(self, *, flip: bool) -> None:
        """The power goes: damage what was not synced. ``flip``: bits of it change; otherwise some of it is missing."""
        damage, chance = self.damage, self._chance
        damage.cuts += 1
        if chance.random() < 0.5:  # the directory may have been written without being asked
            damage.vanished += self._forget_names()
        for path in self.directory.iterdir():
            synced = self._known.files.get(path.stat().st_ino)
            if synced is None:
                continue
            with path.open("r+b") as file:
                size = os.fstat(file.fileno()).st_size
                end = min(synced.end, size)
                file.seek(end)
                tail = file.read().rstrip(b"\0")
                if tail and flip:
                    broken = bytearray(tail)
                    for _ in range(chance.randrange(1, 4)):
                        broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
                    file.seek(end)
                    file.write(broken)
                    damage.flipped += 1
                elif tail:
                    kept = self._torn(tail)
                    file.seek(end)
                    file.write(kept)
                    damage.torn += 1
                    damage.taken += len(tail) - len(kept.rstrip(b"\0"))
                if size < synced.size or (size > synced.size and not tail and chance.random() < 0.5):
                    file.truncate(max(end, synced.size))  # a change of size that was not synced

    def _torn(self, tail: bytes) -> bytes:
        """Written up to somewhere, or page by page in any order; as long as it was, zeros where nothing came."""
        chance = self._chance
        if chance.random() < 0.5:
            return tail[: chance.randrange(len(tail))].ljust(len(tail), b"\0")
        kept = bytearray(tail)
        pages = range(0, len(tail), 4096)
        for start in chance.sample(pages, chance.randrange(1, len(pages) + 1)):
            kept[start : start + 4096] = bytes(len(kept[start : start + 4096]))
        return bytes(kept)

    def _forget_names(self) -> int:
        """The directory as it was when it was last synced."""
        changed = 0
        durable = {ino: name for name, ino in self._known.names.items()}
        for name, ino in names_in(self.directory).items():
            if ino not in self._known.files or self._known.names.get(name) == ino:
                continue
            changed += 1
            if ino in durable:
                (self.directory / name).rename(self.directory / durable[ino])
            else:
                (self.directory / name).unlink()
        present = names_in(self.directory)
        for name, ino in self._known.names.items():
            grave = self.side.with_name(GRAVES) / str(ino)
            if name not in present and grave.exists():
                os.link(grave, self.directory / name)
                changed += 1
        return changed


def _checksum(path: Path, end: int) -> int:
    with path.open("rb") as file:
        return zlib.crc32(file.read(end))
