from __future__ import annotations

from collections import defaultdict

import msgspec
import pytest

from tidewire.records.clock import ManualClock
from tidewire.sandbox.config import FailRest, Faults
from tidewire.sandbox.faults import FaultInjector, LedgerEntry, in_microseconds, shift_times

STREAM = "btcusdt@trade"


def played(faults, count=400, clock=None):
    ledger = defaultdict(LedgerEntry)
    injector = FaultInjector(faults, clock or ManualClock(), ledger.__getitem__)
    out = [m[1] for ident in range(count) for m in injector.judge((STREAM, ident, b"{}", 0))]
    return out + [m[1] for m in injector.release()], ledger[STREAM]


def test_nothing_happens_without_faults():
    out, _ = played(Faults())
    assert out == list(range(400))
    assert not FaultInjector(Faults(), ManualClock(), lambda _: LedgerEntry()).touches


def test_dropped_messages_are_in_the_ledger():
    out, entry = played(Faults(drop=0.2))
    assert 40 < entry.dropped < 130
    assert sorted(out + entry.dropped_ids) == list(range(400))


def test_duplicates_follow_their_original():
    out, entry = played(Faults(duplicate=0.2))
    assert len(out) == 400 + entry.duplicated > 420
    assert list(dict.fromkeys(out)) == list(range(400))


def test_reordered_messages_change_places_and_none_is_lost():
    out, entry = played(Faults(reorder=0.2))
    assert out != sorted(out)
    assert sorted(out) == list(range(400))
    assert entry.reordered > 40


def test_the_seed_decides():
    faults = Faults(drop=0.1, duplicate=0.1, reorder=0.1)
    assert played(faults)[0] == played(faults)[0]
    assert played(faults)[0] != played(msgspec.structs.replace(faults, seed=8))[0]


def test_only_some_streams():
    assert played(Faults(drop=1.0, only=("@bookTicker",)))[0] == list(range(400))
    assert played(Faults(drop=1.0, only=("@bookTicker", "@trade")))[0] == []


async def test_silence_ends_unless_it_is_for_ever():
    clock = ManualClock()
    ledger = LedgerEntry()
    short = FaultInjector(Faults(silence_s=5), clock, lambda _: ledger)
    ever = FaultInjector(Faults(silence_s=-1), clock, lambda _: LedgerEntry())
    assert short.judge((STREAM, 1, b"", 0)) == []
    await clock.advance(5)
    assert len(short.judge((STREAM, 2, b"", 0))) == 1
    assert ledger.silenced == 1
    await clock.advance(1e6)
    assert ever.silent


async def test_an_absence_ends_unless_it_is_for_ever():
    clock = ManualClock()
    short = FaultInjector(Faults(away_s=5), clock, lambda _: LedgerEntry())
    ever = FaultInjector(Faults(away_s=-1), clock, lambda _: LedgerEntry())
    assert (short.away, ever.away, short.silent) == (True, True, False)
    await clock.advance(5)
    assert (short.away, ever.away) == (False, True)


def test_rest_fails_so_many_times():
    injector = FaultInjector(Faults(fail_rest=FailRest(503, 2)), ManualClock(), lambda _: LedgerEntry())
    assert [injector.rest_failure() for _ in range(3)] == [503, 503, None]


TRADE = b'{"e":"trade","E":1723161255343,"s":"BTCUSDT","t":3735683259,"p":"1.0","T":1723161255342,"m":true}'
KLINE = b'{"e":"kline","E":1633998523963,"s":"X","k":{"t":1633998480000,"T":1633998539999,"s":"X"}}'


@pytest.mark.parametrize(
    ("message", "before", "after"),
    [
        (TRADE, (1723161255343, 1723161255342), (1723161253843, 1723161253842)),
        (KLINE, (1633998523963, 1633998539999), (1633998522463, 1633998539999)),
    ],
)
def test_skew_moves_clock_readings_only(message, before, after):
    wanted = message
    for old, new in zip(before, after, strict=True):
        wanted = wanted.replace(str(old).encode(), str(new).encode())
    assert shift_times(message, -1_500) == wanted


def test_microseconds():
    trade = msgspec.json.decode(in_microseconds(TRADE))
    assert (trade["E"], trade["T"], trade["t"]) == (1723161255343000, 1723161255342000, 3735683259)
    kline = msgspec.json.decode(in_microseconds(KLINE))["k"]
    assert (kline["t"], kline["T"]) == (1633998480000000, 1633998539999999)
