"""Rows of a batch beside the rows before them: which row of the same series comes before which.

A window expression costs as much for each column as for all of them; here the order is found once, from hashes of the
series' names, and columns are gathered along it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

MAX_ROWS = 200_000
"""Rows that are remembered of a type; the oldest are forgotten."""

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Chains:
    """Rows chained by what they have in common, in the order they came.

    ``order`` sorts rows by chain, stably; ``begins`` says which of these begin one; ``before`` is the row before each
    in its own order, -1 where there is none.
    """

    order: Ints
    begins: Flags
    before: Ints

    @classmethod
    def of(cls, rows: pl.DataFrame, columns: Sequence[str]) -> Chains:
        """Chains of rows that agree in these columns."""
        names = rows.select(columns).hash_rows().to_numpy()
        order = np.argsort(names, kind="stable")
        along = names[order]
        begins = np.ones(len(along), dtype=np.bool_)
        begins[1:] = along[1:] != along[:-1]
        before = np.full(len(along), -1, dtype=np.int64)
        before[order[1:]] = np.where(begins[1:], -1, order[:-1])
        return cls(order, begins, before)

    def back(self, steps: int) -> Ints:
        """The row so many steps before each; -1 where there is none."""
        found = self.before
        for _ in range(steps - 1):
            found = np.where(found < 0, -1, self.before[found])
        return found

    def beside(self, rows: pl.DataFrame, names: Iterable[str], steps: int = 1) -> pl.DataFrame:
        """``names`` of the rows so many steps before, as ``<name>_<steps>``; null where there is none."""
        found = self.back(steps)
        place = pl.Series(np.maximum(found, 0))
        there = pl.Series(found >= 0)
        columns = [pl.col(name).gather(place).alias(f"{name}_{steps}") for name in names]
        taken = rows.select(columns)
        return taken.select(pl.when(there).then(pl.all())) if not there.all() else taken

    def ends(self, rows: int) -> Flags:
        """Which rows are among the last so many of their chain."""
        after = np.full(len(self.before), -1, dtype=np.int64)
        known = self.before >= 0
        after[self.before[known]] = np.flatnonzero(known)
        found = after
        for _ in range(rows - 1):
            found = np.where(found < 0, -1, after[found])
        return found < 0

    def running(self, begin: Ints, steps: Flags) -> Ints:
        """For each row: ``begin`` of the first of its chain, and how many of ``steps`` came since, with its own."""
        along = np.where(self.begins, 0, steps[self.order]).cumsum()
        first = np.flatnonzero(self.begins)
        chain = np.cumsum(self.begins) - 1
        total = np.empty(len(along), dtype=np.int64)
        total[self.order] = along - along[first][chain] + begin[self.order][first][chain]
        return total

    def since_break(self, begin: Ints, breaks: Flags) -> Ints:
        """For each row: the length of its stretch so far; one begins with a break, or a chain (there at ``begin``)."""
        ordered = breaks[self.order] | self.begins
        start = np.maximum.accumulate(np.where(ordered, np.arange(len(ordered)), 0))
        first = np.where(self.begins, begin[self.order], 1)[start]
        total = np.empty(len(ordered), dtype=np.int64)
        total[self.order] = np.arange(len(ordered)) - start + first
        return total
