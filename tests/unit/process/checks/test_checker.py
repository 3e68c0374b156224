"""The checker inside the processor: restarts, forming rows, repeats, the wire."""

from __future__ import annotations

from polars.testing import assert_frame_equal

from tidewire.process import Processor
from tidewire.records.batch import Batch
from tidewire.records.record import types
from unit.process.checks.market import KLINE, TICKER, at, bar, findings, process, ticker
from unit.process.kit import batch, by_fate, rows

CLOSED = ticker(when="2026-01-06 15:00:03", frame=1, ingested_at=at("2026-01-06 15:00:03"))
EX_DATE = ticker(when="2026-01-07 09:31:00", frame=2, pre_close="9.95", ingested_at=at("2026-01-07 09:31:00"))


def test_what_was_seen_before_a_restart_is_shown_again_and_nothing_of_it_is_told() -> None:
    processor = Processor()
    first = rows(TICKER, [CLOSED, ticker(when="2026-01-06 15:00:06", volume="10000", frame=1, ordinal=1)])
    processor.warm(batch(TICKER, first, 0, 1).with_(connections=None), 1)
    second = batch(TICKER, rows(TICKER, [EX_DATE]), 1, 2).with_(connections=None)
    found = findings([processor.process(second)])
    assert [(one["rule"], one["expected"]) for one in found] == [("pre_close", "10.1")]


def test_without_a_past_nothing_is_held_against_a_row() -> None:
    assert findings(process(TICKER, [EX_DATE])) == []


def test_forming_bars_and_repeats_are_not_flagged() -> None:
    odd = bar(close="10.1234", frame=1)
    assert len(findings(process(KLINE, [odd, odd | {"frame": 2}]))) == 1
    assert findings(process(KLINE, [odd | {"final": False}])) == []


def test_forming_bars_in_lots_are_kept_from_the_bus() -> None:
    (made,) = process(KLINE, [bar(volume="10000", final=False)])
    assert made.forming is None or made.forming.is_empty()
    assert by_fate(made.fates) == {"received": 1, "quarantined": 1}


def test_findings_are_no_fate_and_travel_with_their_batch() -> None:
    (made,) = process(TICKER, [ticker(last="10.105")])
    assert by_fate(made.fates) == {"received": 1}
    back = Batch.from_bytes(made.to_bytes())
    assert back.findings is not None
    assert made.findings is not None
    assert_frame_equal(back.findings, made.findings)
    assert made.findings.schema == types()["finding"].schema
    assert types()["finding"].check(made.findings).max() == 0
    assert not made.is_mark


def test_a_batch_of_another_market_is_left_as_it_is() -> None:
    part = rows(TICKER, [ticker("BTC-USDT.BINANCE", last="99.105")])
    assert Processor().checks.look(TICKER, part) is None
