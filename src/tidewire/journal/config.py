"""What can be set about a journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tidewire.errors import ConfigError

KIB = 1024
MIB = 1024 * KIB


class Durability(StrEnum):
    """When a frame counts as accepted.

    ``disk``: after fdatasync; survives a power cut. ``os``: after write, with fdatasync right behind it; survives the
    death of the process, a power cut costs at most the last group. ``none``: after write, synced only when the
    segment ends; survives the death of the process, a power cut can cost a segment.
    """

    DISK = "disk"
    OS = "os"
    NONE = "none"


@dataclass(frozen=True)
class JournalConfig:
    """Sizes in bytes, times in milliseconds. `ConfigError` for values that cannot work."""

    segment_bytes: int = 64 * MIB
    commit_ms: float = 10.0
    commit_bytes: int = MIB
    pending_bytes: int = 64 * MIB
    """Above this much appended but not accepted, the journal is `full`."""
    recent_bytes: int = 64 * MIB
    """Accepted frames kept in memory for readers near the head."""
    max_frame: int = 16 * MIB
    """Larger payloads are stored in chunks of this size."""
    min_free: int = 0
    """Below this much free on its disk the journal counts as full, so that its neighbours keep some room."""
    durability: Mapping[str, Durability] = field(default_factory=dict[str, Durability])
    """By source; ``disk`` where nothing is said."""

    def __post_init__(self) -> None:
        limits: tuple[tuple[str, float, float, float], ...] = (
            ("segment_bytes", self.segment_bytes, 256, 4096 * MIB),
            ("commit_ms", self.commit_ms, 0, 60_000),
            ("commit_bytes", self.commit_bytes, 1, 1024 * MIB),
            ("pending_bytes", self.pending_bytes, 1, 1 << 40),
            ("recent_bytes", self.recent_bytes, 0, 1 << 40),
            ("max_frame", self.max_frame, 1, 1024 * MIB),
            ("min_free", self.min_free, 0, 1 << 50),
        )
        for name, found, least, most in limits:
            if not least <= found <= most:
                raise ConfigError(f"journal {name} is {found}; valid is {least:,} to {most:,}. Set it in that range.")
