"""The synthetic market of Binance's futures: contracts in place of symbols, and the streams that only futures have.

It differs from spot as the venue does: update ids of books have holes and each update names the one before, trades
that did not come from the book take ids of the stream (REST never shows them), and marks and forced orders are told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tidewire.records.clock import Clock
from tidewire.sandbox.book import Recorder
from tidewire.sandbox.config import SandboxConfig
from tidewire.sandbox.contracts import ContractInfo, contract_info
from tidewire.sandbox.hub import Hub
from tidewire.sandbox.market import Market, Pair, Push
from tidewire.sandbox.messages import encode, kline_message
from tidewire.sandbox.series import INTERVALS, Trade, bar_end, bar_open, e8

BARS = {name for name in INTERVALS if name != "1s"}
PUBLIC_KINDS = ("trade", "depth", "bookTicker")
"""What USD-M serves under ``/public``; all else is under ``/market``."""

_STRIDE = 7
_DEPTH_MS = {"depth": 250, "depth@100ms": 100, "depth@500ms": 500}
_MARK_MS = {"markPrice": 3_000, "markPrice@1s": 1_000}
_OFF_BOOK = {1: "NA", 2: "INSURANCE_FUND", 3: "ADL"}
_FORCED = 4
_ODDS = 128
_KLINE_PUSH_MS = 250
_ALL_FORCED = "!forceOrder@arr"


def is_public(stream: str) -> bool:
    """Whether USD-M serves a stream under ``/public``."""
    return stream.partition("@")[2].partition("@")[0].startswith(PUBLIC_KINDS)


class FuturesMarket(Market):
    """Drives the contracts of USD-M or, ``inverse``, of COIN-M."""

    def __init__(self, config: SandboxConfig, hub: Hub, clock: Clock, *, inverse: bool) -> None:
        names = config.coinm_symbols if inverse else config.usdm_symbols
        self.contracts = {name: contract_info(name, inverse=inverse) for name in names}
        self.inverse = inverse
        # Another seed than spot's: whoever mixes the markets up must be found out.
        super().__init__(replace(config, symbols=names, seed=config.seed + 1 + inverse), hub, clock)

    def _listed(self, name: str, start_ms: int) -> Pair:
        info = self.contracts[name]
        return Pair(info, self._config.seed, start_ms, self._config.history_hours, info.form, _STRIDE)

    # --- what REST reads

    def mark(self, symbol: str) -> tuple[int, int]:
        """Mark and index price in 1e-8; the mark is the middle of the book, the index a little beside it."""
        book = self.pairs[symbol].book
        mark = (book.bid_tick + book.ask_tick) * book.info.tick_e8 // 2
        return mark, mark - mark // 10_000 * (book.update_id // _STRIDE % 7 - 3) // 10

    def funding(self, symbol: str, at_ms: int) -> tuple[str, int]:
        """The rate of the interval that holds a time, and when it is settled; empty and 0 without funding."""
        info = self.contracts[symbol]
        settled = info.settles(at_ms)
        return info.rate(self._config.seed, settled), settled

    def settlements(self, symbol: str, begin_ms: int, end_ms: int, limit: int) -> list[tuple[int, str, int]]:
        """Time, rate and mark price in 1e-8 of what was settled from ``begin_ms`` to ``end_ms``, both inclusive."""
        info, series = self.contracts[symbol], self.pairs[symbol].series
        at = info.settles(max(begin_ms, series.first_ms or 0) - 1)
        end_ms = min(end_ms, self.now_ns() // 1_000_000)
        found: list[tuple[int, str, int]] = []
        while info.funding_hours and at <= end_ms and len(found) < limit:
            found.append((at, info.rate(self._config.seed, at), series.price_before(at) or info.open_e8))
            at = info.settles(at)
        return found

    def open_interest(self, symbol: str) -> str:
        """How many contracts are open."""
        pair = self.pairs[symbol]
        return pair.form.size((5_000_000 + pair.next_id % 10_007) * pair.info.step_e8)

    # --- events

    def _trade(self, pair: Pair, buyer_maker: bool, steps: int, now_ns: int, fresh: int) -> None:
        super()._trade(pair, buyer_maker, steps, now_ns, fresh)
        odds = fresh % _ODDS
        if odds in _OFF_BOOK:
            self._off_book(pair, _OFF_BOOK[odds], buyer_maker, now_ns)
        elif odds == _FORCED:
            self._forced(pair, now_ns)

    def _tell_trade(self, pair: Pair, trade: Trade, now_ns: int) -> None:
        ident, price, size, now_ms, buyer_maker = trade
        channels, form = self._hub.channels, pair.form
        if pair.trade_stream in channels:
            self._publish_trade(pair, ident, (form.price(price), form.size(size), "MARKET"), buyer_maker, now_ns)
        if pair.agg_stream in channels:
            facts = {"e": "aggTrade", "E": now_ms, "s": pair.info.symbol, "a": ident, "p": form.price(price)}
            facts |= {"q": form.size(size), "f": ident, "l": ident, "T": now_ms, "m": buyer_maker}
            self._hub.publish(pair.agg_stream, ident, encode(facts), now_ns)

    def _publish_trade(
        self, pair: Pair, ident: int, what: tuple[str, str, str], buyer_maker: bool, now_ns: int
    ) -> None:
        now_ms = now_ns // 1_000_000
        price, size, origin = what
        data = (
            f'{{"e":"trade","E":{now_ms},"T":{now_ms},"s":"{pair.info.symbol}","t":{ident},"p":"{price}",'
            f'"q":"{size}","X":"{origin}","m":{"true" if buyer_maker else "false"},"st":1}}'
        )
        self._hub.publish(pair.trade_stream, ident, data.encode(), now_ns)

    def _off_book(self, pair: Pair, origin: str, buyer_maker: bool, now_ns: int) -> None:
        """A number of the stream's that was no trade at all, or one far from the market."""
        ident = pair.next_id
        pair.next_id += 1
        if pair.trade_stream in self._hub.channels:
            price, size = "0", "0"
            if origin != "NA":
                price = pair.form.price(pair.book.bid_tick * 9 // 10 * pair.info.tick_e8)
                size = pair.form.size(pair.info.step_e8)
            self._publish_trade(pair, ident, (price, size, origin), buyer_maker, now_ns)

    def _forced(self, pair: Pair, now_ns: int) -> None:
        ((ident, price, size, now_ms, buyer_maker),) = pair.series.recent(1)
        order = {"s": pair.info.symbol, "S": "SELL" if buyer_maker else "BUY", "o": "LIMIT", "f": "IOC"}
        quantity, at = pair.form.size(size), pair.form.price(price)
        order |= {"q": quantity, "p": at, "ap": at, "X": "FILLED", "l": quantity, "z": quantity}
        data = encode({"e": "forceOrder", "E": now_ms, "o": {**order, "T": now_ms}})
        for stream in (f"{pair.info.symbol.lower()}@forceOrder", _ALL_FORCED):
            self._hub.publish(stream, ident, data, now_ns)

    def _quote(self, pair: Pair, now_ns: int) -> None:
        now_ms, book = now_ns // 1_000_000, pair.book
        best = book.best()
        facts: dict[str, Any] = {"e": "bookTicker", "u": book.update_id, "s": pair.info.symbol}
        facts |= self._pair_name(pair) if self.inverse else {}
        facts |= {"b": best["bidPrice"], "B": best["bidQty"], "a": best["askPrice"], "A": best["askQty"]}
        self._hub.publish(pair.quote_stream, book.update_id, encode({**facts, "T": now_ms, "E": now_ms}), now_ns)

    def _pair_name(self, pair: Pair) -> dict[str, str]:
        return {"ps": self._contract(pair).pair}

    def _contract(self, pair: Pair) -> ContractInfo:
        return self.contracts[pair.info.symbol]

    # --- streams pushed by time

    def _push(self, stream: str) -> Push | None:
        now_ms = self.now_ns() // 1_000_000
        symbol, _, kind = stream.partition("@")
        pair = self._lower.get(symbol)
        if pair is None:
            return None
        if kind.startswith("kline_") and kind[6:] in BARS:
            return self._kline_push(stream, pair, kind[6:], now_ms)
        if kind in _MARK_MS:
            every = _MARK_MS[kind]
            return Push((now_ms // every + 1) * every, self._mark_push(stream, pair, every))
        if kind in _DEPTH_MS:
            return self._depth_push(stream, pair, now_ms, _DEPTH_MS[kind])
        return None

    def _kline_push(self, stream: str, pair: Pair, interval: str, now_ms: int) -> Push:
        """Bars that were traded come four times a second; the last word on one as soon as it is over."""
        opened = bar_open(interval, now_ms)

        def push(at: int) -> int:
            nonlocal opened
            end = bar_end(interval, opened)
            bar = pair.series.bar(opened, end)
            if bar is not None:
                data = kline_message(pair.info.symbol, interval, (opened, end), bar, at, pair.form)
                self._hub.publish(stream, opened, data, self._now_ns)
            if at >= end:
                opened = end
            return at + _KLINE_PUSH_MS - at % _KLINE_PUSH_MS

        return Push(now_ms + _KLINE_PUSH_MS - now_ms % _KLINE_PUSH_MS, push)

    def _mark_push(self, stream: str, pair: Pair, every: int) -> Callable[[int], int]:
        def push(at: int) -> int:
            mark, index = map(e8, self.mark(pair.info.symbol))
            rate, settled = self.funding(pair.info.symbol, at)
            facts = {"e": "markPriceUpdate", "E": at, "s": pair.info.symbol, "p": mark, "i": index, "P": mark}
            self._hub.publish(stream, at, encode({**facts, "r": rate, "T": settled, "st": 1}), self._now_ns)
            return at + every

        return push

    def _depth_facts(self, pair: Pair, recorder: Recorder, at: int) -> dict[str, Any]:
        """As on spot, but ``U`` is the id of the first change and ``pu`` the last id of the update before."""
        said = super()._depth_facts(pair, recorder, at)
        head = {"e": said["e"], "E": at, "T": self._now_ns // 1_000_000, "s": said["s"], **self._pair_name(pair)}
        ids = {"U": recorder.since + _STRIDE, "u": said["u"], "pu": recorder.since}
        return {**head, **ids, "b": said["b"], "a": said["a"], "st": 1}
