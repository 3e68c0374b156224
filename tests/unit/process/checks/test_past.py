"""Chains of rows against the same in plain Python."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from tidewire.process.checks.past import Chains

ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.booleans()), max_size=30)


@given(ROWS)
def test_as_in_plain_python(rows: list[tuple[str, int, bool]]) -> None:
    table = pl.DataFrame(
        {"name": [r[0] for r in rows], "value": [r[1] for r in rows]}, schema={"name": pl.String, "value": pl.Int64}
    )
    chains = Chains.of(table, ["name"])
    before: list[int] = []
    chain: defaultdict[str, list[int]] = defaultdict(list)
    steps, stretches = list[int](), list[int]()
    for place, (name, _, flag) in enumerate(rows):
        mine = chain[name]
        before.append(mine[-1] if mine else -1)
        steps.append(steps[mine[-1]] + flag if mine else rows[place][1])
        stretches.append(rows[place][1] if not mine else 1 if flag else stretches[mine[-1]] + 1)
        mine.append(place)
    values, flags = table["value"].to_numpy(), np.array([r[2] for r in rows], dtype=np.bool_)
    assert chains.before.tolist() == before
    assert chains.back(2).tolist() == [-1 if one < 0 else before[one] for one in before]
    assert chains.running(values, flags).tolist() == steps
    assert chains.since_break(values, flags).tolist() == stretches
    assert chains.ends(2).tolist() == [place in chain[name][-2:] for place, (name, _, _) in enumerate(rows)]
    beside = chains.beside(table, ["value"])["value_1"].to_list()
    assert beside == [None if one < 0 else rows[one][1] for one in before]
