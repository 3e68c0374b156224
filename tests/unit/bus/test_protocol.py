from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewire.bus.protocol import Full, check_consumer, check_queue, check_subject, check_subscription
from tidewire.errors import InputError
from tidewire.records.event import STAGES
from tidewire.records.subject import matches


@pytest.mark.parametrize("stage", STAGES)
def test_a_consumer_reads_one_stage(stage: str) -> None:
    check_consumer(f"data.*.{stage}")
    check_consumer(f"data.trade.{stage}")


@pytest.mark.parametrize("pattern", ["data.trade", "*.stored", "data.>", "data.*.*", "data.a.b.stored", "stored"])
def test_a_pattern_of_several_stages_cannot_be_consumed(pattern: str) -> None:
    with pytest.raises(InputError, match="one stage of collected, processed, stored, quarantined"):
        check_consumer(pattern)


def test_a_misspelt_stage_is_guessed() -> None:
    with pytest.raises(InputError, match="Did you mean 'processed'"):
        check_consumer("data.*.procesed")


def test_keys_belong_to_conflate() -> None:
    check_subscription("a.*", 1, Full.CONFLATE, lambda event: event.id)
    check_subscription("a.*", 1, Full.BLOCK, None)
    with pytest.raises(InputError, match="'conflate' without a key"):
        check_subscription("a.*", 1, Full.CONFLATE, None)
    with pytest.raises(InputError, match="'close' with a key"):
        check_subscription("a.*", 1, Full.CLOSE, lambda event: event.id)


@pytest.mark.parametrize("queue", [0, -1])
def test_a_queue_holds_something(queue: int) -> None:
    with pytest.raises(InputError, match=f"a queue of {queue} events"):
        check_queue(queue)


@given(st.text(alphabet="ab.*> ", max_size=8))
def test_a_subject_is_a_pattern_that_matches_only_itself(text: str) -> None:
    try:
        check_subject(text)
    except InputError:
        assert not text or {"*", ">", " "} & set(text) or "" in text.split(".")
    else:
        assert matches(text, text)
        assert not matches(text, text + ".a")
