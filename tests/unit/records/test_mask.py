"""The precompiled mask and the slow path say the same, for every record type."""

from __future__ import annotations

from random import Random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.records.record import RecordType
from unit.records.kit import KINDS, frame_of, good_row, random_rows

EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def names_in(kind: RecordType, mask: int) -> set[str]:
    return {name for place, name in enumerate(kind.rules) if mask >> place & 1}


@EVERY_KIND
@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_bit_i_is_set_where_the_slow_path_names_rule_i(kind: RecordType, seed: int) -> None:
    rows = random_rows(kind, Random(seed), broken=True)
    mask = kind.check(rows)
    assert (mask.dtype, mask.len()) == (pl.UInt64, rows.height)
    bad = rows.filter(mask != 0)
    reasons = kind.reasons(bad)
    assert [names_in(kind, bits) for bits in mask.filter(mask != 0)] == [set(names) for names in reasons]
    assert all(len(set(names)) == len(names) for names in reasons)
    good, _ = kind.record.filter(rows.select(kind.record.column_names()))
    assert good.height == rows.height - bad.height


@EVERY_KIND
def test_random_rows_break_every_rule_sometime(kind: RecordType) -> None:
    seen = 0
    for seed in range(120):
        for bits in kind.check(random_rows(kind, Random(seed), broken=True)).unique():
            seen |= bits
    assert names_in(kind, seen) == set(kind.rules)


@EVERY_KIND
def test_a_rows_mask_does_not_depend_on_the_rows_beside_it(kind: RecordType) -> None:
    rows = pl.concat([random_rows(kind, Random(seed), broken=True) for seed in range(8)])
    alone = [kind.check(rows[place])[0] for place in range(rows.height)]
    assert kind.check(rows).to_list() == alone


@EVERY_KIND
def test_the_documented_examples_make_a_good_row(kind: RecordType) -> None:
    assert kind.check(frame_of(kind, [good_row(kind)])).to_list() == [0]


@EVERY_KIND
def test_no_rows_have_no_mask_and_no_reasons(kind: RecordType) -> None:
    assert kind.check(kind.empty()).to_list() == []
    assert kind.reasons(kind.empty()) == []


def test_asking_why_a_good_row_failed_is_an_error() -> None:
    kind = KINDS[0]
    with pytest.raises(ValueError, match="1 rows were said to fail, 0 do"):
        kind.reasons(frame_of(kind, [good_row(kind)]))
