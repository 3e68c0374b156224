from __future__ import annotations

from typing import Any

import pytest

from tidewire.records.ops import CAUSES, STATES, Gap, Quarantined
from tidewire.records.record import RecordType
from unit.records.kit import frame_of, good_row


def is_good(kind: RecordType, **changes: Any) -> bool:
    return kind.check(frame_of(kind, [good_row(kind) | changes]))[0] == 0


def test_a_gap_is_named_by_source_instrument_type_and_hole() -> None:
    assert set(Gap.type.key) == {"source", "instrument", "record_type", "gap_id"}


def test_a_quarantined_row_is_named_by_where_its_bytes_are() -> None:
    assert set(Quarantined.type.key) == {"source", "journal", "frame", "record_type", "row"}


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_of_a_gap_is_known(cause: str) -> None:
    assert is_good(Gap.type, cause=cause)


@pytest.mark.parametrize("state", STATES)
def test_every_state_of_a_gap_is_known(state: str) -> None:
    assert is_good(Gap.type, state=state)


@pytest.mark.parametrize("state", ["open", "released", "corrected", "rejected"])
def test_every_state_of_a_quarantined_row_is_known(state: str) -> None:
    assert is_good(Quarantined.type, state=state)


@pytest.mark.parametrize(("kind", "state"), [(Gap.type, "released"), (Quarantined.type, "filled"), (Gap.type, None)])
def test_other_states_are_refused(kind: RecordType, state: str | None) -> None:
    assert not is_good(kind, state=state)


def test_a_gap_without_a_sequence_and_a_row_without_an_instrument_are_good() -> None:
    assert is_good(Gap.type, first_sequence=None, last_sequence=None, missing=None, series=None)
    assert is_good(Quarantined.type, instrument=None, content=None, decided_by=None)
