"""A virtual environment for each peer, made once in a cache directory; the project's own stays as it is."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
LEAST = (3, 13)  # cryptofeed's


class Missing(Exception):
    """Why an environment cannot be had."""


def cache() -> Path:
    """Where environments are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidewire-peers"


def _version(python: str) -> tuple[int, ...]:
    try:
        said = subprocess.run(
            [python, "-c", "import sys; print(*sys.version_info[:3])"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ()
    return tuple(int(part) for part in said.stdout.split())


def find_python(wanted: str | None) -> str:
    """An interpreter that is new enough: the one asked for, or one found on this machine."""
    if wanted:
        candidates = [wanted]
    else:
        names = [f"python3.{minor}" for minor in range(LEAST[1], LEAST[1] + 4)]
        pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
        candidates = [sys.executable, *(found for name in names if (found := shutil.which(name)))]
        candidates += [str(path) for name in names for path in sorted(pyenv.glob(f"*/bin/{name}"))]
    for candidate in candidates:
        if _version(candidate)[:2] >= LEAST:
            return candidate
    least = ".".join(map(str, LEAST))
    raise Missing(f"no Python >= {least} among {', '.join(candidates)}; name one with --python")


def environment(name: str, python: str) -> Path:
    """The interpreter of the environment with the requirements of ``<name>.txt``; makes it where there is none."""
    wanted = (HERE / f"{name}.txt").read_bytes()
    version = ".".join(map(str, _version(python)))
    folder = cache() / f"{name}-{version}-{hashlib.sha256(wanted).hexdigest()[:8]}"
    inside = folder / "bin/python"
    if not (folder / ".ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        print(f"making the environment of {name} (once)", file=sys.stderr, flush=True)
        install = [str(inside), "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
        for command in ([python, "-m", "venv", str(folder)], [*install, "-r", str(HERE / f"{name}.txt")]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["no word why"]
                raise Missing(f"{name} cannot be installed: {last[0]}")
        (folder / ".ready").touch()
    return inside
