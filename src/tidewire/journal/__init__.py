"""The journal: segments, group commit, recovery and reading back. Knows bytes, not records."""

from __future__ import annotations

from tidewire.journal.config import Durability, JournalConfig
from tidewire.journal.frame import Frame, Kind, Origin
from tidewire.journal.journal import Journal
from tidewire.journal.reader import Finding, JournalReader

__all__ = ["Durability", "Finding", "Frame", "Journal", "JournalConfig", "JournalReader", "Kind", "Origin"]
