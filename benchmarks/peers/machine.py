"""What processes cost, from ``/proc``; and the machine in a few words."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


def measurable() -> bool:
    """Whether this system says what processes cost."""
    return (_PROC / "self/stat").exists()


def _stat(pid: int | str) -> list[str]:
    """The fields after the name: state, parent, ..."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    parents: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                parents.setdefault(int(_stat(entry.name)[1]), []).append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = [pid]
    for parent in found:
        found += parents.get(parent, [])
    return found


def cpu_s(pid: int) -> float:
    """User and system time of a process, all its threads."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS


def tree_cpu_s(pid: int) -> float:
    """The same of a process, all below it, and those below it that have ended."""
    total = 0
    for each in tree(pid):
        try:
            total += sum(int(field) for field in _stat(each)[11:15])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total / _TICKS


def peak_mb(pid: int) -> int:
    """The most memory a process had at once."""
    for line in (_PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1024)
    return 0


def resident_mb(pid: int) -> int:
    """What a process and all below it have now, without what they share."""
    pages = 0
    for each in tree(pid):
        try:
            fields = (_PROC / str(each) / "statm").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        pages += int(fields[1]) - int(fields[2])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


def filesystem(folder: str) -> str:
    """The kind of file system a folder is on; what is synced to one in memory costs nothing."""
    path, best = Path(folder).resolve(), ("", "unknown")
    for line in (_PROC / "mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if path.is_relative_to(place) and len(place) >= len(best[0]):
            best = place, kind
    return best[1]


def described(folder: str) -> dict[str, Any]:
    """Processor, cores, memory, system, and the file system that everything is written to."""
    models = [
        line.partition(":")[2].strip()
        for line in (_PROC / "cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "file_system": filesystem(folder),
        "load": round(os.getloadavg()[0], 2),
    }
