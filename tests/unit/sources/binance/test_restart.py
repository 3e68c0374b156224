"""A parser that begins in the middle says just the rows that one from the beginning says from there on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tidewire.collect import NOTE, BookSettings, Frame, Outcome, doubt_note, settings_note, time_note
from tidewire.records.exact import build
from tidewire.sources.binance import BinanceParser
from unit.collect.venue import Venue, venues
from unit.sources.binance import samples

MS = 1_000_000
SNAPSHOT = f"{samples.REST}depth?symbol=BTCUSDT&limit=1000"
NOTES = {"doubt": doubt_note(), "time": time_note(), "settings": settings_note(BookSettings(3, 100, deltas=True))}


def payload_of(what: str, venue: Venue, place: int) -> tuple[bytes, str]:
    """A message or reply, and the request it came by."""
    if what == "trade":
        return samples.TRADE, samples.WS
    if what in NOTES:
        return NOTES[what], NOTE
    if what == "snapshot":
        ident, (bids, asks) = venue.snapshot(place)
        return msgspec.json.encode({"lastUpdateId": ident, "bids": bids, "asks": asks}), SNAPSHOT
    one = venue.updates[place]
    data = {"s": one.symbol, "E": one.at, "U": one.first, "u": one.last, "b": one.bids, "a": one.asks}
    return msgspec.json.encode({"stream": "btcusdt@depth@100ms", "data": data}), samples.WS


@st.composite
def frames(draw: st.DrawFn) -> list[Frame]:
    """Trades between updates, snapshots and notes, at any distance in time."""
    venue = draw(venues(most=10).filter(lambda made: made.rule == "by id"))
    what = st.sampled_from(["update"] * 4 + ["trade"] * 4 + ["snapshot", "doubt", "time"])
    made: list[Frame] = []
    ms = at = 0
    for one in ["settings", "update", "snapshot", *draw(st.lists(what, min_size=4, max_size=25))]:
        ms += draw(st.sampled_from([0, 1, 40, 120, 700, 11_000]))
        payload, request = payload_of(one, venue, min(at, len(venue.updates) - 1))
        own = samples.frame(payload, request, len(made) + 1)
        made.append(Frame(own.sequence, samples.START_NS + ms * MS, 0, own.kind, own.origin, b"", payload))
        if one == "update":
            at += draw(st.sampled_from([0, 1, 1, 1, 1, 2]))
    return made


def rows(outcomes: Sequence[Outcome], after: int) -> dict[str, list[dict[str, Any]]]:
    """Rows by type, those of frames after a place."""
    found: dict[str, list[dict[str, Any]]] = {}
    for part in (part for outcome in outcomes for part in outcome.parsed):
        own = {"source": "binance", "ingested_at": [0] * len(part.frames), "ordinal": part.ordinals}
        own["ordinal"] = part.ordinals or [0] * len(part.frames)
        own["frame"] = [frame.sequence for frame in part.frames]
        built = build(part.type, {**part.columns, **own}, len(part.frames))
        assert not built.not_exact
        found.setdefault(part.type.name, []).extend(row for row in built.rows.to_dicts() if row["frame"] > after)
    return {name: some for name, some in found.items() if some}


@settings(max_examples=200)
@given(frames(), st.data())
def test_whoever_begins_in_the_middle_says_the_same_rows(shown: list[Frame], data: st.DataObject) -> None:
    known = data.draw(st.integers(0, len(shown)), label="the state is of")
    begun = data.draw(st.integers(known, len(shown)), label="rows are wanted after")
    whole = BinanceParser(samples.NAMES)
    first = whole.parse(shown[:known])
    state = whole.state()
    second = whole.parse(shown[known:])
    later = BinanceParser(samples.NAMES)
    if state:
        later.resume(state)
    later.follow(shown[known:begun])
    assert rows([later.parse(shown[begun:])], begun) == rows([first, second], begun)
