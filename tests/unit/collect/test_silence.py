"""One stream that stopped among others that go on: looked into, and written down only when something is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidewire.collect import Expected, StreamWatch, control
from tidewire.collect.silence import LOOK_S, SETTLE_S
from tidewire.errors import TransientError
from tidewire.journal import Kind
from tidewire.records.clock import ManualClock
from unit.collect.kit import Place, ToyApp, place, toy, until

QUOTE = Expected("quote", "BTC-USDT.X", None, 60.0)
TRADE = Expected("trade", "BTC-USDT.X", None, 60.0)
BAR = Expected("kline", "BTC-USDT.X", "1m", 60.0)
SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US


class Streaming(ToyApp):
    """Expects streams; ``more`` is what a probe finds."""

    expected: Sequence[Expected] = ()
    more: Any = False
    probed: list[Expected]
    reconnects: int = 0

    def fills(self, record_type: str) -> bool:
        return record_type in {"trade", "kline"}

    def expects(self) -> Sequence[Expected]:
        return self.expected

    async def probe(self, expected: Expected, last: Mapping[str, Any] | None) -> bool:
        self.probed.append(expected)
        if isinstance(self.more, Exception):
            raise self.more
        return bool(self.more)

    def reconnect(self, reason: str, silent: Sequence[Expected] = ()) -> None:
        assert silent, "only what is silent is made anew"
        self.reconnects += 1


@dataclass
class Watched:
    """A watch under way, with rows to be set by hand."""

    here: Place
    app: Streaming
    clock: ManualClock
    rows: dict[str, dict[tuple[str, str | None], dict[str, Any]]] = field(default_factory=dict)

    @property
    def now_us(self) -> int:
        return self.clock.wall_ns() // 1_000

    def row(self, expected: Expected, **more: Any) -> None:
        """The stream brings a row now."""
        facts = {"ingested_at": self.now_us, "public_at": self.now_us - SECOND_US, **more}
        self.rows.setdefault(expected.type, {})[expected.instrument, expected.series] = facts

    async def wait(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            await self.clock.advance(1.0)

    async def told(self, count: int) -> list[control.GapTold]:
        def acts() -> list[control.GapTold]:
            frames = [frame for frame in self.here.frames() if frame.kind is Kind.CONTROL]
            return [msgspec.json.decode(frame.payload, type=control.GapTold) for frame in frames]

        await until(lambda: len(acts()) >= count, f"{count} gaps")
        return acts()


@asynccontextmanager
async def watching(directory: Path, *expected: Expected, more: Any = True) -> AsyncIterator[Watched]:
    clock = ManualClock()
    async with place(directory, clock) as here:
        app = toy(here)
        app.__class__ = Streaming
        assert isinstance(app, Streaming)
        app.expected, app.more, app.probed = expected, more, []
        watched = Watched(here, app, clock)
        task = asyncio.create_task(StreamWatch(app, lambda kind: watched.rows.get(kind, {})).run())
        await asyncio.sleep(0)
        try:
            yield watched
            assert not task.done(), task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})


async def test_a_stream_that_brings_rows_is_left_alone(tmp_path: Path) -> None:
    async with watching(tmp_path, QUOTE) as it:
        for _ in range(10):
            it.row(QUOTE)
            await it.wait(30)
        assert it.app.probed == []
        assert it.here.frames() == []


async def test_a_quiet_market_is_no_gap(tmp_path: Path) -> None:
    async with watching(tmp_path, QUOTE, more=False) as it:
        it.row(QUOTE)
        await it.wait(200)
        assert it.here.frames() == []
        assert 2 <= len(it.app.probed) <= 3, "once in its time of silence, not every look"
        assert it.app.silent == ()
        assert it.app.reconnects == 0


async def test_what_was_only_late_is_no_gap(tmp_path: Path) -> None:
    async with watching(tmp_path, QUOTE) as it:
        it.row(QUOTE)
        while not it.app.probed:
            await it.clock.advance(SETTLE_S / 2)
        it.row(QUOTE)
        await it.wait(10)
        assert it.here.frames() == []
        assert it.app.reconnects == 0


async def test_a_stream_that_stopped_is_a_gap_until_it_is_back(tmp_path: Path) -> None:
    async with watching(tmp_path, QUOTE) as it:
        it.row(QUOTE)
        since = it.now_us
        await it.wait(60 + LOOK_S + SETTLE_S)
        (first,) = await it.told(1)
        assert (first.record_type, first.cause, first.state) == ("quote", "silence", "unfillable")
        assert first.event_time == since
        assert first.until_time >= since + 60 * SECOND_US
        assert it.app.silent == ("quote BTC-USDT.X",)
        assert it.app.reconnects == 1
        await it.wait(65)
        assert len(await it.told(2)) == 2, "the gap grows"
        assert it.app.reconnects == 1, "a new connection did not help; the others are left in peace"
        it.row(QUOTE)
        back = it.now_us
        await it.wait(LOOK_S + 1)
        last = (await it.told(3))[-1]
        assert (last.gap_id, last.event_time, last.until_time) == (first.gap_id, since, back)
        assert it.app.silent == ()
    assert "collector.toy.silent" in it.here.subjects()


async def test_what_can_be_filled_shows_by_its_sequence(tmp_path: Path) -> None:
    async with watching(tmp_path, TRADE) as it:
        it.row(TRADE)
        await it.wait(60 + LOOK_S + SETTLE_S)
        assert it.app.reconnects == 1, "the next row of the new connection will show the hole"
        assert it.app.silent == ("trade BTC-USDT.X",)
        assert it.here.frames() == []


async def test_bars_that_are_over_are_missing_by_the_calendar(tmp_path: Path) -> None:
    async with watching(tmp_path, BAR) as it:
        begin = it.now_us // MINUTE_US * MINUTE_US
        it.row(BAR, open_time=begin, final=False)
        await it.wait(200)
        first = (await it.told(1))[0]
        assert (first.cause, first.state, first.gap_id) == ("grid", "open", f"1m:{begin}")
        assert first.event_time == begin
        assert (first.until_time - begin) // MINUTE_US == first.missing
        assert it.app.reconnects == 1


async def test_bars_without_a_trade_are_missing_and_their_connection_is_left_alone(tmp_path: Path) -> None:
    async with watching(tmp_path, BAR, more=False) as it:
        it.row(BAR, open_time=it.now_us // MINUTE_US * MINUTE_US, final=False)
        await it.wait(200)
        assert (await it.told(1))[0].cause == "grid"
        assert set(it.app.probed) == {BAR}
        assert it.app.reconnects == 0
        assert it.app.silent == ()


@pytest.mark.parametrize("behind_s", [0, 3_600])
async def test_a_venue_whose_clock_is_behind_has_its_bars_later(tmp_path: Path, behind_s: int) -> None:
    async with watching(tmp_path, BAR, more=False) as it:
        begin = it.now_us // MINUTE_US * MINUTE_US
        it.row(BAR, open_time=begin, final=True, public_at=it.now_us - behind_s * SECOND_US)
        if behind_s:
            it.rows["kline"]["BTC-USDT.X", "1m"]["open_time"] = begin - behind_s * SECOND_US
        await it.wait(62)
        found = [frame for frame in it.here.frames() if frame.kind is Kind.CONTROL]
        assert found == [], "one bar after the last is not over yet"
        await it.wait(120)
        assert await it.told(1), "both are missing bars in the end, by the venue's own clock"


async def test_a_probe_that_fails_is_made_again(tmp_path: Path) -> None:
    async with watching(tmp_path, QUOTE, more=TransientError("busy")) as it:
        it.row(QUOTE)
        await it.wait(70)
        assert len(it.app.probed) == 1
        it.app.more = True
        await it.wait(70)
        assert len(await it.told(1)) == 1


async def test_a_stream_that_never_began_is_looked_into_too(tmp_path: Path) -> None:
    async with watching(tmp_path, QUOTE) as it:
        await it.wait(70)
        (gap,) = await it.told(1)
        assert gap.until_time - gap.event_time >= 60 * SECOND_US
        it.app.expected = ()
        await it.wait(LOOK_S + 1)
        assert it.app.silent == ()
