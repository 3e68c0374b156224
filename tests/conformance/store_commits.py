"""What every store must do when commits fail, seem to fail, or lose their connection, at any moment and in any order.

The writer of these tests does what the pipe does: after an error it asks the store for its positions and writes what
lies behind them. However the errors fall, rows, revisions, fates and positions must come to those of a plain model.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance.store_kit import Feed, Gap, Kline, Naive, Quarantined, Trade, bar, everything, fate_sums, rows, trade
from tidewire.errors import PositionMismatch, StoreError
from tidewire.records.batch import Batch, Fate, Stream
from tidewire.store.protocol import Store


class Trouble(StrEnum):
    """What becomes of one call to ``write``."""

    NONE = "none"
    BEFORE = "fails before anything is sent"
    MIDWAY = "fails between two statements"
    REFUSED = "the commit fails"
    REPLY_LOST = "the commit is done, its reply is lost"
    KILLED = "the connection dies before the commit"
    KILLED_AFTER = "the connection dies after the commit"


Breaks = Callable[[Trouble], AbstractContextManager[None]]
"""Makes the next write of the store go wrong in that way."""


class Rows(NamedTuple):
    """A batch of one of three feeds: keys and payloads of its rows, few of each so that they meet."""

    feed: int
    type: str
    rows: list[tuple[int, str]]
    gap: str | None = None
    rejected: bool = False


class Step(NamedTuple):
    """One call: its batches, what goes wrong each time it is tried, and whether the store is opened again after it."""

    batches: list[Rows]
    troubles: list[Trouble]
    reopen: bool = False


class CommitConformance:
    """Unknown outcomes; part of `StoreConformance`. A store says in ``breaks`` how it is broken."""

    persistent = True
    commit_settings = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    troubles = tuple(Trouble)
    """Those that can befall the store."""

    @pytest.fixture
    def breaks(self) -> Breaks:
        raise NotImplementedError

    def test_whatever_becomes_of_commits_rows_and_positions_agree(
        self, fresh: Callable[[], Store], breaks: Breaks
    ) -> None:
        @settings(parent=self.commit_settings)
        @given(steps=_histories(self.troubles))
        def check(steps: list[Step]) -> None:
            asyncio.run(follow(fresh, breaks, steps, reopens=self.persistent))

        check()

    @pytest.mark.parametrize("trouble", [trouble for trouble in Trouble if trouble is not Trouble.NONE])
    async def test_each_trouble_alone(self, fresh: Callable[[], Store], breaks: Breaks, trouble: Trouble) -> None:
        if trouble not in self.troubles:
            pytest.skip("this store has no connection that could die alone")
        call = [Rows(0, "trade", [(1, "1"), (1, "1"), (2, "2")], "open"), Rows(1, "kline", [(1, "2")], rejected=True)]
        await follow(fresh, breaks, [Step(call, [trouble])] * 3, reopens=False)


class _Model:
    """What a store must come to."""

    def __init__(self) -> None:
        self.kinds = {kind: Naive(kind) for kind in (Trade.type, Kline.type, Gap.type, Quarantined.type)}
        self.positions: dict[Stream, int] = {}
        self.fates: Counter[tuple[str, str]] = Counter()

    def take(self, batches: list[Batch]) -> None:
        for batch in batches:
            self.positions[batch.stream] = batch.lineage.last
            for fate, count in batch.fates.items():
                self.fates[batch.type.name, fate.fate] += count
            own = self.kinds[batch.type]
            before = Counter(own.outcomes)
            own.take(batch.rows)
            became = own.outcomes - before
            self.fates[batch.type.name, "stored"] += became["new"] + became["revision"]
            self.fates[batch.type.name, "duplicate"] += became["duplicate"]
            for kind, riders in ((Gap.type, batch.gaps), (Quarantined.type, batch.rejected)):
                if riders is not None:
                    self.kinds[kind].take(riders)


async def follow(fresh: Callable[[], Store], breaks: Breaks, steps: list[Step], *, reopens: bool) -> None:
    """Write everything through all troubles, compare with the model after each step."""
    model = _Model()
    feeds = [Feed(), Feed(lane=1), Feed(journal="other")]
    frames = itertools.count(10, 10)
    store = fresh()
    await store.open()
    try:
        for planned, troubles, reopen in steps:
            batches = [_batch(feeds[each.feed], each, next(frames)) for each in planned]
            await _deliver(store, breaks, batches, troubles)
            model.take(batches)
            assert dict(store.positions()) == model.positions
            if reopen and reopens:
                await store.close()
                await store.open()
                assert dict(store.positions()) == model.positions
        assert fate_sums(await store.fates()) == +model.fates
        for kind, naive in model.kinds.items():
            found = (await everything(store, kind, revisions="all")).to_dicts()
            expected = [row for versions in naive.versions.values() for row in versions]
            place = _place_of(kind.key)
            assert sorted(found, key=place) == sorted(expected, key=place), kind.name
    finally:
        await store.close()


def _place_of(key: tuple[str, ...]) -> Callable[[dict[str, Any]], str]:
    return lambda row: repr((row["frame"], row["ordinal"], [row[name] for name in key]))


async def _deliver(store: Store, breaks: Breaks, batches: list[Batch], troubles: list[Trouble]) -> None:
    """As the pipe does: try, and after an error go on from where the store says it is."""
    for trouble in [*troubles, Trouble.NONE]:
        at = store.positions()
        left = [batch for batch in batches if at.get(batch.stream, 0) < batch.lineage.last]
        if not left:
            return
        try:
            with breaks(trouble):
                written = await store.write(left)
        except PositionMismatch as error:
            raise AssertionError(f"{error}: the store said {dict(at)}") from error
        except StoreError:
            assert trouble is not Trouble.NONE
            continue
        assert [one.batch for one in written] == left
        assert sum(one.stored + one.duplicates for one in written) == sum(batch.rows.height for batch in left)
        return


def _batch(feed: Feed, planned: Rows, frame: int) -> Batch:
    received = {"ingested_at": 1_000 + frame}
    make = _trade if planned.type == "trade" else _bar
    specs = [make(*each) | received | {"frame": frame + place} for place, each in enumerate(planned.rows)]
    more: dict[str, Any] = {}
    if planned.gap is not None:
        gap = {"gap_id": "7", "event_time": 3, "until_time": 9, "frame": frame + 8, "state": planned.gap}
        more["gaps"] = rows(Gap.type, [gap | received])
    if planned.rejected:
        more["rejected"] = rows(Quarantined.type, [{"frame": frame + 9, "event_time": 4} | received])
        more["fates"] = {Fate("test", 0, "quarantined"): 1, Fate("test", 0, "received"): 1}
    kind = Trade.type if planned.type == "trade" else Kline.type
    return feed.batch(kind, specs, until=2_000 + frame, **more)


def _trade(number: int, price: str) -> dict[str, Any]:
    return trade(number, price=price)


def _bar(minute: int, close: str) -> dict[str, Any]:
    return bar(minute, close=close)


def _histories(troubles: Sequence[Trouble]) -> st.SearchStrategy[list[Step]]:
    some = st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["2", "3"])), max_size=5)
    gaps = st.sampled_from([None, "open", "filled"])
    batch = st.builds(Rows, st.integers(0, 2), st.sampled_from(["trade", "kline"]), some, gaps, st.booleans())
    wrong = st.lists(st.sampled_from(troubles), max_size=3)
    return st.lists(st.builds(Step, st.lists(batch, min_size=1, max_size=3), wrong, st.booleans()), max_size=6)
