"""Order books against what Binance really sent: at each update their top is the best bid and ask it told beside."""

from __future__ import annotations

import gzip
import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidewire.collect import (
    NOTE,
    BookSettings,
    BookSync,
    BookUpdate,
    ById,
    ByPrevious,
    Continuity,
    Frame,
    Level,
    settings_note,
)
from tidewire.collect.booksync import Step
from tidewire.journal import Kind, Origin
from tidewire.records.exact import build
from tidewire.sandbox.tape import Line, read_lines
from tidewire.sources.binance import BinanceParser
from tidewire.sources.binance.depth import SNAPSHOT, DepthMessage, DepthSnapshot
from tidewire.sources.binance.markets import SPOT, USDM, Market

DATA = Path(__file__).parents[5] / "shared" / "data" / "crypto"
MARKETS = {"spot": (SPOT, ById()), "usdm": (USDM, ByPrevious())}

pytestmark = pytest.mark.skipif(not DATA.exists(), reason=f"the recordings {DATA} are not here")


def lines(name: str) -> list[Line]:
    return list(read_lines(DATA / f"binance-{name}-ethusdt-20240808.gz"))


def is_depth(line: Line) -> bool:
    return "@depth" in line.stream


def update_of(line: Line) -> BookUpdate:
    return msgspec.json.decode(b'{"data":' + line.data + b"}", type=DepthMessage).data


class Best:
    """The recorded best bids and asks, by update id."""

    def __init__(self, listed: Sequence[Line]) -> None:
        quotes = [msgspec.json.decode(line.data) for line in listed if line.stream.endswith("@bookTicker")]
        quotes.sort(key=lambda quote: quote["u"])
        self._ids = [quote["u"] for quote in quotes]
        self._tops = [([(quote["b"], quote["B"])], [(quote["a"], quote["A"])]) for quote in quotes]

    def at(self, ident: int) -> tuple[list[Level], list[Level]] | None:
        """The last one whose id is not above this."""
        place = bisect_right(self._ids, ident)
        return self._tops[place - 1] if place else None


def kept(name: str, listed: Sequence[Line], rule: Continuity | None = None) -> tuple[list[Step], int]:
    """The steps of a book that is shown some lines, and given a recorded snapshot whenever it has none; wrong tops."""
    best, sync, wrong = Best(lines(name)), BookSync(rule or MARKETS[name][1]), 0
    steps: list[Step] = []
    for line in listed:
        if is_depth(line):
            steps.append(sync.update(update_of(line), line.ns))
        elif not line.stream:
            reply = msgspec.json.decode(line.data, type=DepthSnapshot)
            steps.append(sync.snapshot(reply.last_update_id, reply.bids, reply.asks))
        else:
            continue
        if sync.synced:
            told = best.at(sync.last)
            wrong += sync.book.crossed or (told is not None and sync.book.top(1) != told)
    return steps, wrong


@pytest.mark.parametrize(("name", "updates"), [("spot", 3_434), ("usdm", 6_586)])
def test_the_top_of_the_book_is_the_best_that_binance_told(name: str, updates: int) -> None:
    steps, wrong = kept(name, lines(name))
    assert steps.count(Step.APPLIED) + steps.count(Step.WAITING) == updates
    assert steps.count(Step.JOINED) == 1
    assert steps.count(Step.WAITING) < 10
    assert wrong == 0


@pytest.mark.parametrize("name", MARKETS)
def test_repeats_and_overtaking_change_nothing(name: str) -> None:
    chance = random.Random(5)
    listed = [line for line in lines(name) if is_depth(line) or not line.stream]
    after = next(place for place, line in enumerate(listed) if not line.stream) + 3
    head, tail = listed[:after], listed[after:]
    for place in range(0, len(tail) - 1, 7):
        tail[place], tail[place + 1] = tail[place + 1], tail[place]
    mixed = [line for line in tail for _ in range(1 + (chance.random() < 0.2))]
    steps, wrong = kept(name, [*head, *mixed])
    assert wrong == 0
    assert Step.LOST not in steps
    assert steps.count(Step.REPEATED) > 100
    assert steps.count(Step.HELD) > 100


class Careless(ById):
    """A rule that takes whatever comes."""

    def joins(self, at: int, update: BookUpdate) -> bool:
        return bool(at) and bool(update)

    continues = joins


@pytest.mark.parametrize("name", MARKETS)
def test_a_book_that_does_not_look_at_continuity_is_found_out(name: str) -> None:
    listed = [line for line in lines(name) if is_depth(line) or not line.stream]
    holes = [line for place, line in enumerate(listed) if place < 60 or place % 100 > 10]
    steps, wrong = kept(name, holes, Careless())
    assert Step.LOST not in steps
    assert wrong > 100


@pytest.mark.parametrize("name", MARKETS)
@pytest.mark.parametrize("missing", [1, 5, 20])
def test_each_update_that_is_taken_away_is_a_gap_of_just_its_ids(name: str, missing: int) -> None:
    chance = random.Random(missing)
    listed = [line for line in lines(name) if is_depth(line) or not line.stream]
    begin = next(place for place, line in enumerate(listed) if not line.stream) + 10
    taken = sorted(chance.sample(range(begin, len(listed) - 50, 40), missing))
    run = Run(MARKETS[name][0], listed)
    for place, line in enumerate(listed):
        if place not in taken:
            run.see(line)
            if run.wanted:  # a snapshot as the venue's book was at that update
                run.snapshot()
    assert run.crossed == 0
    assert run.gaps() == [run.ids(update_of(listed[place])) for place in taken]


class Run:
    """A parser that is shown lines as frames, and snapshots of the venue's book as it was at any time."""

    def __init__(self, market: Market, listed: Sequence[Line]) -> None:
        self._market = market
        self._rule = ById() if market is SPOT else ByPrevious()
        self._parser = BinanceParser({"ETHUSDT": "ETH-USDT.X"}, market)
        self._request = f"GET https://x{market.prefix}/depth?symbol=ETHUSDT&limit=1000"
        self._first = next(msgspec.json.decode(line.data, type=DepthSnapshot) for line in listed if not line.stream)
        self._updates = [update_of(line) for line in listed if is_depth(line)]
        self._gaps: set[tuple[int, int]] = set()
        self._sequence = self._last = self._ns = 0
        self.wanted = False
        self.crossed = 0
        self._parse(b"", settings_note(BookSettings(5, 100)), NOTE)

    def see(self, line: Line) -> None:
        self._ns = line.ns
        if not line.stream:
            self._parse(b"", line.data, self._request)
        else:
            self._parse(line.stream.encode(), line.data, "wss://x#1")

    def snapshot(self) -> None:
        """The venue's book as it is now: all updates so far, also those that were taken away."""
        self.wanted = False
        sync = BookSync(self._rule)
        sync.snapshot(self._first.last_update_id, self._first.bids, self._first.asks)
        for update in self._updates:
            if update.last <= self._last:
                sync.update(update, 0)
        body = {"lastUpdateId": sync.last, "bids": sync.book.bids.levels(), "asks": sync.book.asks.levels()}
        self._parse(b"", msgspec.json.encode(body), self._request)

    def _parse(self, stream: bytes, data: bytes, request: str) -> None:
        self._sequence += 1
        payload = b'{"stream":"%s","data":%s}' % (stream, data) if stream else data
        if stream:
            self._last = max(self._last, msgspec.json.decode(data)["u"])
        origin = Origin(self._market.name, "order_book", request)
        outcome = self._parser.parse([Frame(self._sequence, self._ns, 0, Kind.DATA, origin, b"", payload)])
        assert not outcome.unreadable
        self.wanted = any(ask.what == SNAPSHOT for ask in outcome.asks) and self._last > 0 and self._sequence > 60
        for part in outcome.parsed:
            own: dict[str, Any] = {"source": "x", "ordinal": part.ordinals}
            own["ingested_at"] = [frame.wall_ns // 1_000 for frame in part.frames]
            own["frame"] = [frame.sequence for frame in part.frames]
            built = build(part.type, {**part.columns, **own}, len(part.frames))
            assert not built.not_exact
            if part.type.name == "gap":
                self._gaps |= set(built.rows.select("first_sequence", "last_sequence").iter_rows())
            elif part.type.name == "order_book":
                self.crossed += int((part.type.check(built.rows) > 0).sum())

    def ids(self, update: BookUpdate) -> tuple[int, int]:
        """Those that are missing without an update."""
        before = self._updates[self._updates.index(update) - 1]
        return before.last + 1, update.last

    def gaps(self) -> list[tuple[int, int]]:
        return sorted(self._gaps)


def recorded() -> Iterator[tuple[float, str, bytes]]:
    """Time, symbol of a snapshot (or ""), and body of what another feed handler recorded."""
    with gzip.open(DATA / "cryptofeed-BINANCE.http.0.0.gz", "rt") as file:
        for line in file:
            if line.strip():
                url, _, rest = line.partition(" -> ")
                at, _, body = rest.partition(": ")
                yield float(at), url.partition("symbol=")[2].partition("&")[0], body.encode()
    with gzip.open(DATA / "cryptofeed-BINANCE.ws.1.0.gz", "rt") as file:
        for line in file:
            at, _, body = line.partition(": ")
            if body.startswith("{"):
                yield float(at), "", body.encode()


def test_another_handlers_recording() -> None:
    books: dict[str, BookSync] = {}
    depth = tickers = repeats = 0
    for _, symbol, body in sorted(recorded(), key=lambda entry: entry[0]):
        if symbol:
            reply = msgspec.json.decode(body, type=DepthSnapshot)
            sync = books.setdefault(symbol, BookSync(ById()))
            repeats += sum(update.last <= reply.last_update_id for update in sync.waiting)
            assert sync.snapshot(reply.last_update_id, reply.bids, reply.asks) is Step.JOINED
        elif b"@depth" in body:
            depth += 1
            update = msgspec.json.decode(body, type=DepthMessage).data
            step = books.setdefault(update.symbol, BookSync(ById())).update(update, 0)
            assert step in {Step.WAITING, Step.APPLIED, Step.REPEATED}
            repeats += step is Step.REPEATED
        else:
            tickers += b"@bookTicker" in body
    # Each snapshot is an update as well.
    assert (depth - repeats + len(books), tickers) == (176, 84)
    assert all(sync.synced and not sync.book.crossed for sync in books.values())
