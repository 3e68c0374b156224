"""The journal: segments, group commit, recovery, the archive and reading back. Knows bytes, not records."""

from __future__ import annotations

from tidewire.journal.archive import Archive, Retention
from tidewire.journal.archive_reader import ArchiveReader
from tidewire.journal.config import Durability, JournalConfig
from tidewire.journal.frame import Frame, Kind, Origin
from tidewire.journal.history import History
from tidewire.journal.journal import Journal
from tidewire.journal.keeper import Keep, Keeper, KeeperConfig
from tidewire.journal.objects import Objects, open_objects
from tidewire.journal.reader import Finding, JournalReader

__all__ = [
    "Archive",
    "ArchiveReader",
    "Durability",
    "Finding",
    "Frame",
    "History",
    "Journal",
    "JournalConfig",
    "JournalReader",
    "Keep",
    "Keeper",
    "KeeperConfig",
    "Kind",
    "Objects",
    "Origin",
    "Retention",
    "open_objects",
]
