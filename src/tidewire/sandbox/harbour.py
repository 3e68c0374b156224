"""Harbour, an exchange that is nowhere but here: the same made-up market, told in a protocol unlike Binance's.

What it says is written in ``docs/sandbox.md``, for those who write a source against it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tidewire.errors import InputError
from tidewire.records.clock import Clock
from tidewire.sandbox.book import Recorder
from tidewire.sandbox.config import SandboxConfig, SymbolInfo, symbol_info
from tidewire.sandbox.hub import Hub
from tidewire.sandbox.market import Market, Pair, Push
from tidewire.sandbox.messages import Form, encode
from tidewire.sandbox.series import Trade, e8

TRADES, BBO, BOOK = "trades", "bbo", "book"
CHANNELS = (TRADES, BBO, BOOK)
TRADES_MS, BOOK_MS = 50, 100
"""How often trades are told, and changes of a book."""

QUIET_MS = 5_000
"""A book that did not change for so long says so."""

BATCH = 100
"""Trades in one message at most."""

NO_SEQ = -1
"""What a snapshot names as the update before."""

_SYMBOL = re.compile(r"([A-Z0-9]{2,15})-USD", re.ASCII)
_STRIDE = 5

# tick and lot in 1e-8; other symbols have those of Binance spot.
_STEPS = {"BTC": (10_000_000, 1_000), "ETH": (5_000_000, 10_000)}


def plain(value: int) -> str:
    """An integer of 1e-8 without zeros at its end: ``"61837.6"``, ``"0"``."""
    return e8(value).rstrip("0").rstrip(".")


FORM = Form(plain, plain)


def harbour_info(symbol: str) -> SymbolInfo:
    """The listing of a symbol, ``BTC-USD``; `InputError` for what is none."""
    found = _SYMBOL.fullmatch(symbol)
    if found is None:
        raise InputError(f"{symbol!r} is no symbol of Harbour; valid are e.g. BTC-USD and ETH-USD.")
    spot = symbol_info(f"{found[1]}USDT")
    tick, step = _STEPS.get(found[1], (spot.tick_e8, spot.step_e8))
    return SymbolInfo(symbol, found[1], "USD", tick, step, spot.open_e8)


def stream_of(channel: str, symbol: str) -> str:
    """What a channel is called in the ledger and in faults: ``BTC-USD@trades``."""
    return f"{symbol}@{channel}"


def trade_row(symbol: str, trade: Trade, shift_ms: int = 0) -> dict[str, str]:
    """One trade, over REST and in the channel."""
    ident, price, size, ms, maker = trade
    row = {"symbol": symbol, "id": str(ident), "price": plain(price), "size": plain(size)}
    return {**row, "side": "sell" if maker else "buy", "ts": str(ms + shift_ms)}


def notice(now_ms: int) -> bytes:
    """What everyone is told before the server shuts down."""
    said = {"event": "notice", "code": "2010", "msg": "The server will shut down; connect again."}
    return encode({**said, "ts": str(now_ms)})


class HarbourMarket(Market):
    """Drives the symbols of Harbour."""

    def __init__(self, config: SandboxConfig, hub: Hub, clock: Clock) -> None:
        # Another seed than the other markets': whoever mixes them up must be found out.
        super().__init__(replace(config, symbols=config.harbour_symbols, seed=config.seed + 3), hub, clock)

    def _listed(self, name: str, start_ms: int) -> Pair:
        pair = Pair(harbour_info(name), self._config.seed, start_ms, self._config.history_hours, FORM, _STRIDE)
        pair.quote_stream = stream_of(BBO, name)
        return pair

    def expected(self, endings: frozenset[str]) -> set[str]:
        """The streams that must be subscribed before the market begins."""
        return {name + ending for name in self.pairs for ending in endings}

    # --- what is read

    def book(self, symbol: str, limit: int, shift_ms: int = 0) -> dict[str, Any]:
        """The book as it is now."""
        book = self.pairs[symbol].book
        sides = {"bids": book.rows(True, book.bids, limit), "asks": book.rows(False, book.asks, limit)}
        return {**sides, "seq": book.update_id, "ts": str(self.now_ns() // 1_000_000 + shift_ms)}

    def first(self, channel: str, symbol: str) -> bytes | None:
        """What a new subscriber is told at once: the best prices, the whole book; of trades nothing."""
        pair = self.pairs[symbol]
        if channel == BBO:
            return self._bbo(pair, self.now_ns() // 1_000_000)
        if channel == BOOK:
            return _message(pair, BOOK, [{**self.book(symbol, len(pair.book.bids)), "prevSeq": NO_SEQ}], "snapshot")
        return None

    def tell(self, stream: str) -> None:
        """Tell now what waits for its time; a snapshot must be of a seq that an update ends with."""
        if stream in self._pushes:
            self._pushes[stream].push(self._now_ns // 1_000_000)

    # --- the channels

    def _bbo(self, pair: Pair, at: int) -> bytes:
        best = pair.book.best()
        row = {"bid": best["bidPrice"], "bidSize": best["bidQty"], "ask": best["askPrice"], "askSize": best["askQty"]}
        return _message(pair, BBO, [{**row, "seq": pair.book.update_id, "ts": str(at)}])

    def _quote(self, pair: Pair, now_ns: int) -> None:
        data = self._bbo(pair, now_ns // 1_000_000)
        self._hub.publish(pair.quote_stream, pair.book.update_id, data, now_ns)

    def _push(self, stream: str) -> Push | None:
        now_ms = self.now_ns() // 1_000_000
        symbol, _, channel = stream.partition("@")
        if channel == TRADES:
            return Push(now_ms + TRADES_MS, self._trades_push(stream, self.pairs[symbol]))
        if channel == BOOK:
            return self._book_push(stream, self.pairs[symbol], now_ms)
        return None  # best prices are told as they change

    def _trades_push(self, stream: str, pair: Pair) -> Callable[[int], int]:
        due = pair.next_id

        def push(at: int) -> int:
            nonlocal due
            while trades := pair.series.from_id(due, BATCH):
                last = trades[-1][0]
                due = last + 1
                rows = [trade_row(pair.info.symbol, trade) for trade in trades]
                self._hub.publish(stream, last, _message(pair, TRADES, rows), self._now_ns)
            return at + TRADES_MS

        return push

    def _book_push(self, stream: str, pair: Pair, now_ms: int) -> Push:
        book, spoke_ms = pair.book, now_ms
        recorder = Recorder(book.update_id)
        book.recorders.append(recorder)

        def push(at: int) -> int:
            nonlocal spoke_ms
            if book.update_id > recorder.since or at - spoke_ms >= QUIET_MS:
                sides = {"bids": book.rows(True, recorder.bids), "asks": book.rows(False, recorder.asks)}
                row = {**sides, "seq": book.update_id, "ts": str(at), "prevSeq": recorder.since}
                recorder.since, spoke_ms = book.update_id, at
                recorder.bids.clear()
                recorder.asks.clear()
                self._hub.publish(stream, book.update_id, _message(pair, BOOK, [row], "update"), self._now_ns)
            return at + BOOK_MS

        return Push(now_ms + BOOK_MS, push, lambda: book.recorders.remove(recorder))

    # --- standing still

    async def run(self) -> None:
        """Run until the configured number of events, or until cancelled; in the end all has been told."""
        await super().run()
        await self._tell_all()

    async def _paused(self) -> int:
        if not self._hub.started.is_set():
            await self._tell_all()
        return await super()._paused()

    async def _tell_all(self) -> None:
        for stream in list(self._pushes):
            self.tell(stream)
        self._hub.release_held()
        await self._hub.flush()


def _message(pair: Pair, channel: str, rows: list[Any], action: str | None = None) -> bytes:
    head = {"arg": {"channel": channel, "symbol": pair.info.symbol}} | ({"action": action} if action else {})
    return encode({**head, "data": rows})
