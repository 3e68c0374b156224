from __future__ import annotations

import msgspec
import pytest
import xxhash

from tidewire.records.batch import Batch, Lineage
from tidewire.records.clock import ManualClock, SeededRng
from tidewire.records.event import STAGES, data_event, notice
from tidewire.records.market import Trade
from tidewire.records.subject import matches


def batch(lane: int = 3, last: int = 9) -> Batch:
    return Batch(Trade.type, Trade.type.empty(), Lineage("journal", lane, 5, last, 7, "trace"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_data_event_is_a_function_of_what_its_batch_covers(stage: str) -> None:
    event = data_event(stage, batch(), 42)
    assert event.subject == f"data.trade.{stage}"
    assert matches(f"data.*.{stage}", event.subject)
    assert (event.source, event.time_ns, event.version, event.trace_id) == ("journal", 42, 1, "trace")
    assert event.id == data_event(stage, batch(), 43).id
    others = [data_event(stage, batch(lane=4), 42), data_event(stage, batch(last=10), 42)]
    others += [data_event(other, batch(), 42) for other in STAGES if other != stage]
    assert event.id not in {other.id for other in others}


def test_a_data_event_travels_as_its_batch() -> None:
    event = data_event("processed", batch(), 42)
    assert event.batch is event.payload
    assert event.payload_bytes == batch().to_bytes()
    assert event.payload_hash == xxhash.xxh3_128_hexdigest(event.payload_bytes)
    with pytest.raises(TypeError, match=r"data\.trade\.processed carries a batch"):
        _ = event.facts


def test_a_notice_travels_as_json_in_one_order() -> None:
    clock = ManualClock(99)
    one = notice("app.binance.started", "binance", {"b": 1, "a": {"y": 2, "x": "币"}}, clock, SeededRng(1))
    other = notice("app.binance.started", "binance", {"a": {"x": "币", "y": 2}, "b": 1}, clock, SeededRng(2))
    assert msgspec.json.decode(one.payload_bytes) == one.facts
    assert one.payload_hash == other.payload_hash
    assert (one.time_ns, one.version, one.source) == (99, 1, "binance")
    assert one.id == one.trace_id != other.id
    assert len(one.id) == 32
    with pytest.raises(TypeError, match=r"app\.binance\.started carries no batch"):
        _ = one.batch


def test_another_payload_has_another_hash() -> None:
    first, second = (notice("a.b", "s", {"n": n}, ManualClock(), SeededRng(1)) for n in (1, 2))
    assert first.payload_hash != second.payload_hash
