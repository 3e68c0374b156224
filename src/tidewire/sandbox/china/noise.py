"""Chance that can be asked for at any place: the same seed, salt and keys give the same bits, in any order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bits = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

_MASK = (1 << 64) - 1
_STEP = np.uint64(0x9E3779B97F4A7C15)


def bits(seed: int, salt: str, *keys: Ints) -> Bits:
    """64 bits for each combination of keys, which are broadcast against each other."""
    start = int.from_bytes(salt.encode()[:8].ljust(8, b"\0"), "little") ^ (seed * 0xD6E8FEB86659FD93)
    found = np.full(1, start & _MASK, np.uint64)
    for key in keys:
        found = _mixed(found + (np.atleast_1d(key).astype(np.uint64) + np.uint64(1)) * _STEP)
    return found


def unit(seed: int, salt: str, *keys: Ints) -> Floats:
    """Numbers in ``[0, 1)``."""
    return (bits(seed, salt, *keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def swing(seed: int, salt: str, *keys: Ints) -> Floats:
    """Numbers in ``[-1, 1)``."""
    return 2.0 * unit(seed, salt, *keys) - 1.0


def below(most: Ints | int, seed: int, salt: str, *keys: Ints) -> Ints:
    """Whole numbers from 0 to ``most - 1``."""
    return np.floor(unit(seed, salt, *keys) * most).astype(np.int64)


def _mixed(value: Bits) -> Bits:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
