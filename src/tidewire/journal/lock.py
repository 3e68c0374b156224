"""One process at a time writes to a journal directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from tidewire.errors import JournalLocked

LOCK = "LOCK"


def lock_directory(directory: Path) -> int:
    """Take the lock; the descriptor holds it until it is closed, also by the death of the process.

    `JournalLocked` names the process that has it.
    """
    path = directory / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise JournalLocked(
            f"The journal {directory} is in use by process {owner}; one process at a time may write to it. "
            "Stop that process, or choose another directory."
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
