"""A seeded synthetic market: the same seed and times give the same trades, quotes, books and bars, byte for byte.

What is streamed does not change the market: REST history and streams always agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from tidewire.errors import InputError
from tidewire.records.clock import Clock, SeededRng
from tidewire.sandbox.book import Book, Recorder
from tidewire.sandbox.config import SandboxConfig, SymbolInfo, symbol_info
from tidewire.sandbox.hub import Hub
from tidewire.sandbox.messages import (
    SPOT,
    Form,
    encode,
    kline_message,
    mini_ticker_facts,
    statistics,
    ticker_facts,
)
from tidewire.sandbox.series import INTERVALS, History, Series, Trade, bar_end, bar_open, e8

FIRST_ID = 1_000_000
_BLOCK_WORDS = 4_096
_CHUNK = 256
_TICK_S = 0.01
_KLINE_PUSH_MS = 2_000
_DEPTH = re.compile(r"depth(5|10|20)?(?:@(100|1000)ms)?")


class Pair:
    """One symbol of the market: its trades, bars and book."""

    def __init__(
        self, info: SymbolInfo, seed: int, start_ms: int, hours: int, form: Form = SPOT, stride: int = 1
    ) -> None:
        self.info = info
        self.form = form
        history = History(info, seed, start_ms, hours, FIRST_ID)
        self.series = Series(history)
        self.book = Book(info, 10 * FIRST_ID, form, stride)
        self.next_id = FIRST_ID + len(history)
        lower = info.symbol.lower()
        self.trade_stream = f"{lower}@trade"
        self.agg_stream = f"{lower}@aggTrade"
        self.quote_stream = f"{lower}@bookTicker"


@dataclass
class Push:
    """A stream pushed by time: ``push(at_ms)`` publishes and returns when it is due again."""

    due_ms: int
    push: Callable[[int], int]
    close: Callable[[], None] | None = None


class Market:
    """Drives the symbols and publishes what is subscribed."""

    mode = "synthetic"

    def __init__(self, config: SandboxConfig, hub: Hub, clock: Clock) -> None:
        self._config = config
        self._hub = hub
        self._clock = clock
        self._start_ns = config.start_ns if config.start_ns is not None else clock.wall_ns()
        self._now_ns = self._start_ns
        self._rng = SeededRng(f"{config.seed}:events")
        self._words = memoryview(b"").cast("Q")
        self._word = 0
        self._due_ms: float = float("inf")
        self._pushes: dict[str, Push] = {}
        self.events = 0
        self.state = "waiting"
        start_ms = self._start_ns // 1_000_000
        self.pairs = {name: self._listed(name, start_ms) for name in config.symbols}
        self._pair_list = list(self.pairs.values())
        self._lower = {name.lower(): pair for name, pair in self.pairs.items()}

    def _listed(self, name: str, start_ms: int) -> Pair:
        return Pair(symbol_info(name), self._config.seed, start_ms, self._config.history_hours)

    # --- what REST reads

    @property
    def symbols(self) -> dict[str, SymbolInfo]:
        """Every symbol listed."""
        return {name: pair.info for name, pair in self.pairs.items()}

    def list_symbol(self, name: str) -> None:
        """A new symbol is listed and traded from now on; `InputError` if there is one already."""
        check_symbols([name])
        if name in self.pairs:
            raise InputError(f"{name} is listed already.")
        pair = Pair(symbol_info(name), self._config.seed, self.now_ns() // 1_000_000, 1)
        self.pairs[name] = self._lower[name.lower()] = pair
        self._pair_list.append(pair)
        self._hub.renew()

    def delist(self, name: str) -> None:
        """A symbol is traded no more: nothing of it is streamed; it stays in the list, as at the venue."""
        pair = self.pairs.get(name)
        if pair is None or pair not in self._pair_list:
            raise InputError(f"{name} is not traded here; {', '.join(p.info.symbol for p in self._pair_list)} are.")
        if len(self._pair_list) == 1:
            raise InputError(f"{name} is the only symbol left; a market needs one.")
        pair.info = replace(pair.info, status="BREAK")
        self._pair_list.remove(pair)
        del self._lower[name.lower()]
        for stream in [stream for stream in self._pushes if stream.startswith(f"{name.lower()}@")]:
            self._pushes.pop(stream)
        self._redue()

    def now_ns(self) -> int:
        """The market's time.

        While it is paced its events are stamped a little behind the wall clock; its time is theirs, or a bar would
        be shown as closed before its last trade.
        """
        paced = self.state == "playing" and self._config.rate is not None
        if self._config.start_ns is not None or self.state == "done" or paced:
            return self._now_ns
        return max(self._now_ns, self._clock.wall_ns())

    def series(self, symbol: str) -> Series:
        """Trades and bars of a symbol."""
        return self.pairs[symbol].series

    def depth(self, symbol: str, limit: int) -> Any:
        """The body of a depth request."""
        return self.pairs[symbol].book.snapshot(limit)

    def best(self, symbol: str) -> dict[str, str]:
        """Best bid and ask."""
        return self.pairs[symbol].book.best()

    def expected(self, endings: frozenset[str]) -> set[str]:
        """The streams that must be subscribed before the market begins."""
        return {name.lower() + ending for name in self.pairs for ending in endings}

    # --- events

    def step(self, now_ns: int) -> None:
        """One market event: a trade, a change at the top of the book, or one behind it."""
        self._now_ns = now_ns
        now_ms = now_ns // 1_000_000
        if now_ms >= self._due_ms:
            self.roll(now_ns)
        if self._word == len(self._words):
            self._words = memoryview(bytes.fromhex(self._rng.token(_BLOCK_WORDS * 8))).cast("Q")
            self._word = 0
        word = self._words[self._word]
        self._word += 1
        self.events += 1
        pair = self._pair_list[(word >> 8) % len(self._pair_list)]
        kind = word & 7
        is_bid = bool(word & 8)
        steps = 1 + (word >> 32) % 20_000
        if kind < 3:
            self._trade(pair, is_bid, steps, now_ns, 1 + (word >> 48) % 20_000)
        elif kind < 6:
            pair.book.set_top(is_bid, steps)
        else:
            pair.book.set_inner(is_bid, 1 + (word >> 48) % 49, steps)
            return
        if pair.quote_stream in self._hub.channels:
            self._quote(pair, now_ns)

    def _trade(self, pair: Pair, buyer_maker: bool, steps: int, now_ns: int, fresh: int) -> None:
        book, info = pair.book, pair.info
        tick = book.bid_tick if buyer_maker else book.ask_tick
        price = tick * info.tick_e8
        size = book.take(not buyer_maker, steps, fresh) * info.step_e8
        ident, now_ms = pair.next_id, now_ns // 1_000_000
        pair.next_id += 1
        pair.series.add(ident, price, size, now_ms, buyer_maker)
        self._tell_trade(pair, (ident, price, size, now_ms, buyer_maker), now_ns)

    def _tell_trade(self, pair: Pair, trade: Trade, now_ns: int) -> None:
        ident, price, size, now_ms, buyer_maker = trade
        info = pair.info
        channels = self._hub.channels
        maker = "true" if buyer_maker else "false"
        if pair.trade_stream in channels:
            data = (
                f'{{"e":"trade","E":{now_ms},"s":"{info.symbol}","t":{ident},"p":"{e8(price)}","q":"{e8(size)}",'
                f'"T":{now_ms},"m":{maker},"M":true}}'
            )
            self._hub.publish(pair.trade_stream, ident, data.encode(), now_ns)
        if pair.agg_stream in channels:
            data = (
                f'{{"e":"aggTrade","E":{now_ms},"s":"{info.symbol}","a":{ident},"p":"{e8(price)}","q":"{e8(size)}",'
                f'"f":{ident},"l":{ident},"T":{now_ms},"m":{maker},"M":true}}'
            )
            self._hub.publish(pair.agg_stream, ident, data.encode(), now_ns)

    def _quote(self, pair: Pair, now_ns: int) -> None:
        book, step = pair.book, pair.info.step_e8
        data = (
            f'{{"u":{book.update_id},"s":"{pair.info.symbol}","b":"{book.bid_price}",'
            f'"B":"{e8(book.bids[book.bid_tick] * step)}","a":"{book.ask_price}",'
            f'"A":"{e8(book.asks[book.ask_tick] * step)}"}}'
        )
        self._hub.publish(pair.quote_stream, book.update_id, data.encode(), now_ns)

    # --- streams pushed by time

    def roll(self, now_ns: int) -> None:
        """Publish everything due by time: bars, 24 hour tickers, depth."""
        self._now_ns = max(self._now_ns, now_ns)
        now_ms = now_ns // 1_000_000
        while self._due_ms <= now_ms:
            at = int(self._due_ms)
            # A copy: a fault may cut the last listener of a stream while it is sent.
            for push in list(self._pushes.values()):
                if push.due_ms <= at:
                    push.due_ms = push.push(at)
            self._redue()

    def _redue(self) -> None:
        self._due_ms = min((push.due_ms for push in self._pushes.values()), default=float("inf"))

    def subscribed(self, streams: Iterable[str]) -> None:
        """The hub says which streams somebody listens to now."""
        wanted = set(streams)
        for stream in self._pushes.keys() - wanted:
            push = self._pushes.pop(stream)
            if push.close is not None:
                push.close()
        for stream in sorted(wanted - self._pushes.keys()):
            push = self._push(stream)
            if push is not None:
                self._pushes[stream] = push
        self._redue()

    def _push(self, stream: str) -> Push | None:
        now_ms = self.now_ns() // 1_000_000
        if stream == "!ticker@arr":
            return Push(now_ms + 1_000, lambda at: self._all_tickers(stream, at))
        symbol, _, kind = stream.partition("@")
        pair = self._lower.get(symbol)
        if pair is None:
            return None
        if kind in ("ticker", "miniTicker"):
            return Push(now_ms + 1_000, lambda at: self._ticker(stream, pair, at))
        if kind.startswith("kline_") and kind[6:] in INTERVALS:
            return self._kline_push(stream, pair, kind[6:], now_ms)
        if found := _DEPTH.fullmatch(kind):
            period = int(found[2] or 1_000)
            if found[1]:
                return Push(now_ms + period, lambda at: self._partial(stream, pair, int(found[1]), at, period))
            return self._depth_push(stream, pair, now_ms, period)
        return None

    def _statistics(self, pair: Pair, at: int) -> dict[str, Any]:
        return statistics(pair.info.symbol, pair.series, pair.book.best(), at)

    def _ticker(self, stream: str, pair: Pair, at: int) -> int:
        facts = mini_ticker_facts if stream.endswith("@miniTicker") else ticker_facts
        self._hub.publish(stream, at, encode(facts(self._statistics(pair, at), at)), self._now_ns)
        return at + 1_000

    def _all_tickers(self, stream: str, at: int) -> int:
        rows = [ticker_facts(self._statistics(pair, at), at) for pair in self._pair_list]
        self._hub.publish(stream, at, encode(rows), self._now_ns)
        return at + 1_000

    def _kline_push(self, stream: str, pair: Pair, interval: str, now_ms: int) -> Push:
        opened = bar_open(interval, now_ms)
        every = 1_000 if interval == "1s" else _KLINE_PUSH_MS

        def push(at: int) -> int:
            nonlocal opened
            end = bar_end(interval, opened)
            bar = pair.series.bar(opened, end)
            if bar is not None:
                data = kline_message(pair.info.symbol, interval, (opened, end), bar, at, pair.form)
                self._hub.publish(stream, opened, data, self._now_ns)
            if at >= end:
                opened = end
            return min((at // every + 1) * every, bar_end(interval, opened))

        return Push(min((now_ms // every + 1) * every, bar_end(interval, opened)), push)

    def _depth_push(self, stream: str, pair: Pair, now_ms: int, period: int) -> Push:
        book = pair.book
        recorder = Recorder(book.update_id)
        book.recorders.append(recorder)

        def push(at: int) -> int:
            if book.update_id > recorder.since:
                facts = self._depth_facts(pair, recorder, at)
                recorder.since = book.update_id
                recorder.bids.clear()
                recorder.asks.clear()
                self._hub.publish(stream, book.update_id, encode(facts), self._now_ns)
            return at + period

        return Push(now_ms + period, push, lambda: book.recorders.remove(recorder))

    def _depth_facts(self, pair: Pair, recorder: Recorder, at: int) -> dict[str, Any]:
        book = pair.book
        return {
            "e": "depthUpdate",
            "E": at,
            "s": pair.info.symbol,
            "U": recorder.since + 1,
            "u": book.update_id,
            "b": book.rows(True, recorder.bids),
            "a": book.rows(False, recorder.asks),
        }

    def _partial(self, stream: str, pair: Pair, levels: int, at: int, period: int) -> int:
        book = pair.book
        self._hub.publish(stream, book.update_id, encode(book.snapshot(levels)), self._now_ns)
        return at + period

    # --- the drive

    async def run(self) -> None:
        """Run until the configured number of events, or until cancelled."""
        await self._hub.started.wait()
        self.state = "playing"
        if self._config.rate is None:
            await self._run_max()
        else:
            await self._run_paced(self._config.rate)
        self.state = "done"
        self._hub.release_held()
        await self._hub.flush()

    async def _paused(self) -> int:
        """Stand still while somebody wants that; for how many ns."""
        if self._hub.started.is_set():
            return 0
        since, self.state = self._clock.mono_ns(), "paused"
        await self._hub.started.wait()
        self.state = "playing"
        return self._clock.mono_ns() - since

    def _left(self, most: int) -> int:
        limit = self._config.events
        return most if limit is None else min(most, limit - self.events)

    async def _run_max(self) -> None:
        own_clock = self._config.start_ns is not None
        step_ns = 1e9 / self._config.pace
        while (count := self._left(_CHUNK)) > 0:
            await self._paused()
            await self._hub.wanted.wait()
            for _ in range(count):
                if own_clock:
                    self.step(self._start_ns + int(self.events * step_ns))
                else:
                    self.step(max(self._now_ns, self._clock.wall_ns()))
            await self._hub.flush()
            await self._clock.sleep(0)

    async def _run_paced(self, rate: float) -> None:
        began = self._clock.mono_ns()
        base = self._start_ns if self._config.start_ns is not None else self._clock.wall_ns()
        step_ns = 1e9 / rate
        while self._left(1) > 0:
            paused_ns = await self._paused()
            began, base = began + paused_ns, base + paused_ns
            elapsed = self._clock.mono_ns() - began
            due = int(elapsed / step_ns) + 1 - self.events
            count = self._left(min(due, 4 * _CHUNK))
            for _ in range(count):
                self.step(base + int(self.events * step_ns))
            behind = due > count
            if not behind:
                self.roll(max(self._now_ns, base + elapsed))
            await self._hub.flush()
            await self._clock.sleep(0 if behind else _TICK_S)


def check_symbols(names: Iterable[str]) -> None:
    """Raise `InputError` for a symbol that cannot be listed."""
    for name in names:
        if not re.fullmatch(r"[A-Z0-9]{3,20}", name):
            raise InputError(f"{name!r} is not a symbol; valid is 3 to 20 capital letters and digits, such as BTCUSDT.")
        symbol_info(name)
