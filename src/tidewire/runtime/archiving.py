"""The archive as it is configured, and what the store still needs of the journal."""

from __future__ import annotations

from pathlib import Path

from tidewire.collect import Cursors
from tidewire.collect.control import Noted, encode
from tidewire.collect.state import LOOK_BACK_FRAMES
from tidewire.errors import ConfigError, JournalTrimmed, NotFound
from tidewire.journal import (
    Archive,
    ArchiveReader,
    Frame,
    History,
    Journal,
    JournalReader,
    Keep,
    Keeper,
    KeeperConfig,
    Objects,
    Retention,
    open_objects,
)
from tidewire.journal.manifest import Manifest
from tidewire.process.skew import WINDOW_FRAMES
from tidewire.records.clock import Clock
from tidewire.records.record import types
from tidewire.runtime.config import ArchiveSection, Config, size
from tidewire.store.protocol import Store

WARM_UP_FRAMES = 2 * WINDOW_FRAMES + LOOK_BACK_FRAMES
"""What the pipe may read again before its positions, when it begins."""


def objects_of(section: ArchiveSection, data: Path) -> Objects:
    """Where the archive of a data directory is; asks nobody yet."""
    options = {
        "endpoint": section.endpoint,
        "region": section.region,
        "access_key_id": section.access_key_id,
        "secret_access_key": section.secret_access_key,
    }
    url = section.url or (data.absolute() / "archive").as_uri()
    return open_objects(url, {name: value for name, value in options.items() if value})


def keeper_config(config: Config) -> KeeperConfig:
    """What is kept, and where."""
    journal = config.journal
    retention = {
        source: Retention(_days(kept.days, where := f"journal.archive.retention.{source}"), size(kept.bytes, where))
        for source, kept in journal.archive.retention.items()
    }
    keep = Keep(_days(journal.keep.days, "journal.keep"), size(journal.keep.bytes, "journal.keep.bytes"))
    return KeeperConfig(keep, retention)


def _days(days: float, where: str) -> float:
    if days < 0:
        raise ConfigError(f"{where}.days is {days:g}; valid is 0 (no limit) or more.")
    return days


def make_keeper(
    config: Config, data: Path, journal: Journal, store: Store, cursors: Cursors, clock: Clock
) -> Keeper | None:
    """What archives and trims a journal; None where that is switched off."""
    section = config.journal.archive
    if not section.enabled:
        return None
    durable = config.store.path != ":memory:"
    archive = Archive(objects_of(section, data), journal.uuid)

    def passed() -> int:
        if not durable:
            return 0
        return min(passed_by(store, journal.uuid, config.pipe.lanes), cursors.needed_from(journal.accepted) - 1)

    return Keeper(journal, archive, clock, passed, keeper_config(config))


def passed_by(store: Store, journal: str, lanes: int) -> int:
    """Up to which frame the store will never ask for anything again, its warm-up included.

    Types that are not loaded any more count too: they go on where they were when they come back.
    """
    positions = {stream: at for stream, at in store.positions().items() if stream.journal == journal}
    known = {(stream.type, stream.lane) for stream in positions}
    if any((name, lane) not in known for name in types() for lane in range(lanes)):
        return 0
    return max(0, min(positions.values(), default=0) - WARM_UP_FRAMES)


def archive_of(config: Config, data: Path, journal: str | None = None) -> ArchiveReader | None:
    """What is archived of a journal; None if nothing is, or nothing is configured."""
    if not config.journal.archive.enabled:
        return None
    try:
        return ArchiveReader(objects_of(config.journal.archive, data), journal)
    except NotFound:
        return None


def local_of(data: Path) -> JournalReader | None:
    """What is in the journal's directory; None if there is no journal."""
    try:
        return JournalReader(data / "journal")
    except NotFound:
        return None


def history_of(config: Config, data: Path, journal: str | None = None) -> History:
    """Every frame there is of a data directory's journal: those in the directory, before them those in the archive."""
    local = local_of(data)
    archive = archive_of(config, data, local.uuid if local is not None else journal)
    if local is None and archive is None:
        JournalReader(data / "journal")  # says what is missing
    return History(local, archive)


class FramesAnywhere:
    """Frames of a running journal: those that were trimmed come from the archive."""

    def __init__(self, journal: Journal, config: Config, data: Path) -> None:
        self._journal = journal
        self._config = config
        self._data = data

    @property
    def uuid(self) -> str:
        """Which journal."""
        return self._journal.uuid

    def read(self, after: int, *, frames: int = 4_096, bytes_: int = 8 << 20) -> list[Frame]:
        """The frames after one."""
        try:
            return self._journal.read(after, frames=frames, bytes_=bytes_)
        except JournalTrimmed:
            return history_of(self._config, self._data, self.uuid).read(after, frames=frames, bytes_=bytes_)


def expired_note(manifest: Manifest) -> bytes:
    """What stands in a restored segment in the place of frames that have expired: a control frame that says so."""
    gone = sorted({part.source for part in manifest.parts if part.expired})
    return encode(Noted(what="expired", detail={"sources": gone, "segment": manifest.first}))
