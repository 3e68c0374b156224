"""Quarantine: looked into, decided about, refused; whatever is decided, the books add up and a replay agrees."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from tidewire.errors import AlreadyDecided, DecisionRefused, FailsAgain, InputError, NotFound, StoreBusy
from tidewire.journal import Journal, JournalReader, Kind, Origin
from tidewire.records.clock import ManualClock, SystemClock
from tidewire.records.market import Trade
from tidewire.records.ops import Quarantined
from tidewire.records.reference import TradingDay
from tidewire.replay import Replay
from tidewire.runtime import quarantine
from tidewire.runtime.auditing import assembling
from tidewire.runtime.quarantine import Quarantine, plain
from tidewire.runtime.quarantine_cases import Cases, Name, name_of
from tidewire.serve.quarantine import Ask, Match
from tidewire.sources.binance import BinanceParser
from tidewire.store.duckdb import DuckDBStore
from tidewire.store.protocol import EVERYTHING, Query
from tidewire.watch.audit import Accepted, audit
from tidewire.watch.books import EVERYTHING as EVERY_HOUR
from tidewire.watch.trace import Evidence
from unit.runtime.kit import INFO, Run, Stepping, fill, messages, opened, tables, trade
from unit.runtime.test_pipe import same
from unit.sources.binance.samples import REST, WS, changed

ETH_INFO = INFO.replace(b"NKNUSDT", b"ETHUSDT").replace(b'"NKN"', b'"ETH"')
UNREADABLE = b'{"stream":"btcusdt@trade","data":{'


def eth(number: int) -> bytes:
    """A trade of a symbol that only `ETH_INFO` makes known."""
    return trade(number, s="ETHUSDT")


class Place:
    """A running pipe with a desk."""

    def __init__(self, journal: Journal, store: DuckDBStore, run: Run) -> None:
        self.journal, self.store, self.run = journal, store, run
        self.cases = Cases(store, journal, SystemClock())
        self.desk = Quarantine(self.cases, journal, SystemClock(), run.parsers, run.pipe.stored)

    async def feed(self, *payloads: bytes) -> None:
        listed = [(one, f"{REST}exchangeInfo" if one in (INFO, ETH_INFO) else WS, Kind.DATA) for one in payloads]
        await fill(self.journal, listed, self.run.now)
        await self.run.drained()

    async def rows(self, **where: str) -> list[dict[str, Any]]:
        asked = Query(
            Quarantined.type, {name: [value] for name, value in where.items()}, snapshot=EVERYTHING, limit=99_999
        )
        return (await self.store.read(asked)).rows.to_dicts()

    async def names(self, **where: str) -> list[str]:
        return [name_of(row) for row in await self.rows(**where)]

    async def trades(self, snapshot: datetime = EVERYTHING) -> pl.DataFrame:
        return (await self.store.read(Query(Trade.type, snapshot=snapshot, limit=99_999))).rows

    async def fates(self) -> dict[tuple[str, str], int]:
        sums: dict[tuple[str, str], int] = {}
        for (kind, fate), count in (await self.store.fates()).items():
            sums[kind, fate.fate] = sums.get((kind, fate.fate), 0) + count
        return {name: count for name, count in sums.items() if count}

    async def balanced(self) -> None:
        await self.run.drained()
        parsers = await self.run.parsers()
        evidence = Evidence(lambda: [JournalReader(self.journal.directory)], assembling(parsers), set(parsers))
        accepted = Accepted(self.journal.uuid, self.journal.accepted)
        books = await audit(self.store, accepted, EVERY_HOUR, evidence, "all")
        assert (books.difference, books.in_flight_frames, books.frames) == (0, 0, [])

    async def replays(self, lanes: int = 1, seed: int = 1) -> None:
        """The journal, cut at random, gives the same tables and the same sums of fates."""
        chance = random.Random(seed)
        store = DuckDBStore(":memory:")
        await store.open()
        run = Replay(self.journal, {"binance": BinanceParser()}, lanes=lanes, cut=lambda: chance.randint(1, 60))
        async for _ in run.into(store):
            pass
        same(await tables(self.store), await tables(store))
        assert dict(await store.fates()) == dict(await self.store.fates())
        await store.close()


@asynccontextmanager
async def place(directory: Path, lanes: int = 1) -> AsyncIterator[Place]:
    async with opened(directory) as (journal, store):
        run = Run(journal, store, lanes)
        await run.start()
        try:
            yield Place(journal, store, run)
        finally:
            await run.stop()


def release(*rows: str, **more: Any) -> Ask:
    return Ask(act="release", who="me", why="the list knows it now", rows=rows, **more)


# -- the life of a row ----------------------------------------------------------------------------------------------


async def test_released_after_the_symbol_became_known(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.feed(INFO, trade(1), eth(7), trade(2))
        (name,) = await here.names(state="open")
        with pytest.raises(FailsAgain, match=r"would be quarantined again: instrument\|nullability \(found null\)"):
            await here.desk.decide(release(name))
        await here.feed(ETH_INFO)
        before = await here.trades()
        cut = before["ingested_at"].max()
        done = await here.desk.decide(release(name))
        assert (done["stored"], done["rows"], done["comes_to"], done["refused"]) == (True, 1, {"trade": 1}, [])
        (one,) = done["decisions"]
        assert (one["rows"], one["state"], one["fails"], one["again"]) == ([name], "released", [], [])
        rows = await here.trades()
        (row,) = rows.filter(instrument="ETH-USDT.BINANCE").to_dicts()
        assert one["decision"] == f"{here.journal.uuid}/{row['frame']}"
        assert row["ingested_at"] > cut, "what was read before the decision stays true"
        assert (await here.trades(snapshot=cut)).equals(before)
        assert await here.fates() == {
            ("instrument", "received"): 4,
            ("instrument", "stored"): 3,
            ("instrument", "duplicate"): 1,
            ("trade", "received"): 4,
            ("trade", "stored"): 3,
            ("trade", "superseded"): 1,
        }
        (state,) = await here.rows()
        assert (state["state"], state["decided_by"]) == ("released", "me: the list knows it now")
        with pytest.raises(AlreadyDecided, match="is released since"):
            await here.desk.decide(release(name))
        await here.balanced()
        await here.replays()


async def test_shown_with_its_bytes_and_its_history(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.feed(INFO, eth(7), ETH_INFO, b"\xff\x00")
        frame = (await here.rows(record_type="trade"))[0]["frame"]
        await here.desk.decide(release(str(frame)))
        shown = await here.desk.show(here.journal.uuid[:8], frame)
        assert shown["text"] == eth(7).decode()
        assert (shown["source"], shown["request"], shown["kind"]) == ("binance", WS, "data")
        (row,) = shown["rows"]
        assert row["reasons"] == {"instrument|nullability": None}
        assert row["content"]["trade_id"] == "7"
        assert [step["state"] for step in row["history"]] == ["open", "released"]
        assert row["history"][1]["by"] == "me: the list knows it now"
        binary = await here.desk.show("-", 4)
        assert binary["base64"] == "/wA="
        with pytest.raises(NotFound, match="Nothing called 1 is or was in quarantine"):
            await here.desk.show("-", 1)
        with pytest.raises(InputError, match="not the name of a journal"):
            await here.desk.show("XYZ", 1)


async def test_corrected_it_is_a_row_with_our_values(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.feed(INFO, trade(1), trade(2, p="0"), trade(3))
        (name,) = await here.names()
        ask = Ask(act="correct", who="me", why="the tape says so", rows=[name], values={"price": "61000.5"})
        done = await here.desk.decide(ask)
        assert done["comes_to"] == {"trade": 1}
        rows = (await here.trades()).filter(trade_id="2")
        row = rows.to_dicts()[0]
        assert (str(row["price"]), row["public_at"]) == ("61000.500000000000", row["ingested_at"])
        assert (await here.rows())[0]["state"] == "corrected"
        # The hole it left is closed.
        gaps = (await tables(here.store))["gap"]
        assert gaps["state"].to_list() == ["open", "filled"]
        await here.balanced()
        await here.replays(lanes=3)


async def test_a_stored_row_that_is_corrected_has_a_revision(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.feed(INFO, trade(1), trade(1, p="-3"))
        (name,) = await here.names()
        await here.desk.decide(Ask(act="correct", who="me", why="said again", rows=[name], values={"price": "9"}))
        every = Query(Trade.type, snapshot=EVERYTHING, revisions="all")
        assert [str(price) for price in (await here.store.read(every)).rows["price"]][1] == "9.000000000000"
        assert (await here.trades()).height == 1
        await here.balanced()
        await here.replays()


async def test_rejected_it_stays_out_for_good(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.feed(INFO, trade(1), trade(2, p="0"), UNREADABLE)
        names = await here.names()
        done = await here.desk.decide(Ask(act="reject", who="me", why="nonsense", rows=names))
        assert done["rows"] == 2
        assert {row["state"] for row in await here.rows()} == {"rejected"}
        assert (await here.fates())["trade", "quarantined"] == 1
        assert (await here.fates())["quarantined", "quarantined"] == 1
        assert (await here.fates())["quarantined", "control"] == 2
        await here.balanced()
        await here.replays()


async def test_forced_it_is_quarantined_again_and_can_be_decided_again(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.feed(INFO, trade(1), trade(2, p="0"), UNREADABLE)
        row, frame = sorted(await here.names(), key=lambda name: "/trade/" not in name)
        done = await here.desk.decide(release(row, frame, force=True))
        again = [name for one in done["decisions"] for name in one["again"]]
        assert len(again) == 2
        assert sorted(again) == sorted(await here.names(state="open"))
        assert done["decisions"][0]["fails"][0]["reasons"] == {"price|min_exclusive": "0E-12"}
        # The decision carries the bytes: what failed again is corrected from there.
        (second,) = [name for name in again if "/trade/" in name]
        shown = await here.desk.show("-", Name.of(second).frame)
        assert shown["text"] == trade(2, p="0").decode()
        assert shown["decision"]["act"] == "release"
        await here.desk.decide(Ask(act="correct", who="me", why="tape", rows=[second], values={"price": "2"}))
        assert (await here.trades()).height == 2
        (third,) = [name for name in again if "/frame/" in name]
        with pytest.raises(DecisionRefused, match="no row to correct"):
            await here.desk.decide(Ask(act="correct", who="me", why="tape", rows=[third], values={"price": "2"}))
        with pytest.raises(FailsAgain, match="unreadable"):
            await here.desk.decide(release(third))
        await here.balanced()
        await here.replays()


# -- many at once ---------------------------------------------------------------------------------------------------


async def test_everything_of_a_rule_and_what_fails_again_stays(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        bad = [eth(n) for n in range(1, 8)] + [changed(eth(8), p="0")]
        await here.feed(INFO, *bad, ETH_INFO, trade(2, p="0"))
        match = Match(rule="instrument|nullability", type="trade", source="binance")
        ask = Ask(act="release", who="me", why="known now", match=match, dry_run=True)
        tried = await here.desk.decide(ask)
        assert (tried["rows"], tried["comes_to"], len(tried["refused"]), tried["stored"]) == (7, {"trade": 7}, 1, False)
        assert "price|min_exclusive" in tried["refused"][0]["why"]
        assert len(await here.names(state="open")) == 9
        some = await here.desk.decide(msgspec.structs.replace(ask, dry_run=False, limit=3))
        assert (some["rows"], some["left"]) == (3, 5)
        rest = await here.desk.decide(msgspec.structs.replace(ask, dry_run=False))
        assert (rest["rows"], rest["left"], len(rest["refused"])) == (4, 0, 1)
        assert (await here.trades()).filter(instrument="ETH-USDT.BINANCE").height == 7
        assert len(await here.names(state="open")) == 2
        late = Match(start=(datetime.now(UTC) + timedelta(days=1)).isoformat())
        none = await here.desk.decide(Ask(act="reject", who="me", why="x", match=late))
        assert (none["rows"], none["decisions"]) == (0, [])
        await here.balanced()
        await here.replays()


async def test_more_bytes_than_a_call_copies_are_left_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place(tmp_path) as here:
        await here.feed(INFO, eth(1), eth(2), eth(3), ETH_INFO)
        monkeypatch.setattr(quarantine, "MAX_BYTES", 100)
        done = await here.desk.decide(Ask(act="release", who="me", why="x", match=Match(type="trade")))
        assert (done["rows"], done["left"]) == (1, 2)
        with pytest.raises(InputError, match="more than 100 bytes together"):
            await here.desk.decide(release(*await here.names(state="open")))
        await here.balanced()


async def test_rules_are_counted_with_the_oldest_open_row(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.feed(INFO, trade(1), trade(2, p="0"), trade(3, p="0"), UNREADABLE)
        first = await here.rows(record_type="trade")
        clock = ManualClock(int(first[0]["event_time"].timestamp() * 1e9) + 7_200_000_000_000)
        cases = Cases(here.store, here.journal, clock)
        await here.desk.decide(Ask(act="reject", who="me", why="x", rows=[name_of(first[1])]))
        found = await cases.rules()
        lines = {(line["type"], line["rule"], line["state"]): line for line in found["rules"]}
        assert set(lines) == {
            ("trade", "price|min_exclusive", "open"),
            ("trade", "price|min_exclusive", "rejected"),
            ("frame", "unreadable", "open"),
        }
        line = lines["trade", "price|min_exclusive", "open"]
        assert (line["hour"], line["day"], line["all"]) == (0, 1, 1)
        assert line["oldest_open"] == first[0]["event_time"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        assert lines["trade", "price|min_exclusive", "rejected"]["oldest_open"] is None
        assert found["rows_left_out"] == 0


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        ({"rows": ["9"]}, NotFound, "Nothing called 9"),
        ({"rows": ["trade"]}, InputError, "Write FRAME, JOURNAL/FRAME"),
        ({"rows": ["3"], "why": " "}, InputError, "why: say it in 1 to 2,000 characters"),
        ({"rows": ["3"], "who": "x" * 201}, InputError, "who: say it in 1 to 200 characters, found 201"),
        ({}, InputError, "Name rows, or give a match"),
        ({"rows": ["3"], "match": Match()}, InputError, "exactly one of the two"),
        ({"rows": ["3"], "values": {"price": "1"}}, InputError, "only a correction has them"),
        ({"act": "correct", "rows": ["3"]}, InputError, "has values"),
        ({"act": "correct", "rows": ["3"], "values": {"prize": "1"}}, InputError, "Did you mean 'price'?"),
        ({"act": "correct", "rows": ["3"], "values": {"frame": "1"}}, InputError, "cannot be corrected"),
        ({"act": "correct", "rows": ["3"], "values": {"sequence": "x"}}, InputError, "a whole number"),
        ({"act": "correct", "rows": ["3"], "values": {"price": "x"}}, FailsAgain, "not_exact"),
        ({"act": "correct", "rows": ["3"], "values": {"side": "left"}}, FailsAgain, "side"),
        ({"act": "correct", "rows": ["3", "4"], "values": {"price": "1"}}, InputError, "about one row, found 2"),
        ({"match": Match(), "limit": 1_001}, InputError, "limit: 1001"),
        ({"match": Match(start="yesterday")}, InputError, "not a time"),
    ],
)
async def test_refusals_say_what_is_valid(
    shared: Place, ask: dict[str, Any], error: type[Exception], says: str
) -> None:
    head = shared.journal.head
    with pytest.raises(error, match=re.escape(says)):
        await shared.desk.decide(Ask(**{"act": "release", "who": "me", "why": "tested", **ask}))
    assert shared.journal.head == head, "nothing was written"


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as here:
        await here.feed(INFO, trade(1), trade(2, p="0"), trade(3, p="-1"))
        yield here


async def test_without_its_bytes_a_row_can_only_be_rejected(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.feed(INFO, trade(1), trade(2, p="0"))

        class Trimmed:
            uuid = here.journal.uuid

            def read(self, after: int, *, frames: int = 1, bytes_: int = 1) -> list[Any]:
                return here.journal.read(here.journal.accepted - 1)

        cases = Cases(here.store, Trimmed(), SystemClock())
        desk = Quarantine(cases, here.journal, SystemClock(), here.run.parsers, here.run.pipe.stored)
        with pytest.raises(NotFound, match="trimmed"):
            cases.original(here.journal.uuid, 1)
        with pytest.raises(NotFound, match="not the one of this data directory"):
            cases.original("another", 3)
        (name,) = await here.names()
        assert (await desk.decide(Ask(act="reject", who="me", why="x", rows=[name])))["rows"] == 1
        shown = await Cases(here.store, None, SystemClock()).show("-", Name.of(name).frame)
        assert shown["bytes"] is None
        assert "can only be rejected" in shown["note"]


async def test_a_store_that_is_behind_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with place(tmp_path) as here:
        await here.feed(INFO, trade(1), trade(2, p="0"))
        (name,) = await here.names()
        never = Quarantine(here.cases, here.journal, SystemClock(), here.run.parsers, lambda _: asyncio.Event().wait())  # type: ignore[arg-type]
        monkeypatch.setattr(quarantine, "STORED_S", 0.01)
        with pytest.raises(StoreBusy, match="has not caught up"):
            await never.decide(release(name))


async def test_two_who_decide_at_once_decide_once(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.feed(INFO, eth(7), ETH_INFO)
        (name,) = await here.names()
        done = await asyncio.gather(*(here.desk.decide(release(name)) for _ in range(3)), return_exceptions=True)
        assert sum(isinstance(one, AlreadyDecided) for one in done) == 2
        assert (await here.fates())["trade", "superseded"] == 1
        await here.balanced()
        await here.replays()


def test_values_are_what_a_parser_would_give() -> None:
    found = plain(Trade.type, {"price": 5, "sequence": "12", "side": "", "event_time": "2026-01-05T00:00:00Z"})
    assert found == {"price": "5", "sequence": 12, "side": "", "event_time": 1_767_571_200_000_000}
    assert plain(Trade.type, {"sequence": "", "side": None}) == {"sequence": None, "side": None}
    assert plain(TradingDay.type, {"day": "2026-10-08"}) == {"day": "2026-10-08"}
    with pytest.raises(InputError, match=r"'8\.10\.' is no value of trading_day\.day; it takes a day \(2026-01-05\)"):
        plain(TradingDay.type, {"day": "8.10."})
    for values in ({"event_time": "2026-01-05"}, {"sequence": True}, {"event_time": "soon"}):
        with pytest.raises(InputError, match="is no value of trade"):
            plain(Trade.type, values)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("12", Name("", 12)),
        ("fb00-1/12", Name("fb00-1", 12)),
        ("12/trade/0", Name("", 12, "trade", 0)),
        ("fb/12/frame/0", Name("fb", 12, "frame", 0)),
    ],
)
def test_names(text: str, name: Name) -> None:
    assert Name.of(text) == name
    assert str(name) == text


@pytest.mark.parametrize("text", ["", "x", "12/trade/", "12//0", "x*/12", "a/b/12", "1/2/3/4/5", "fb/12/trade/x", "-1"])
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="does not name anything in quarantine"):
        Name.of(text)


# -- anything, at random --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "lanes"), [(1, 1), (2, 3), (3, 1)])
async def test_whatever_is_decided_the_books_add_up_and_a_replay_agrees(tmp_path: Path, seed: int, lanes: int) -> None:
    chance = random.Random(seed)
    now = Stepping()
    decided = 0
    async with opened(tmp_path) as (journal, store):
        for turn in range(3):  # a restart between any two
            run = Run(journal, store, lanes, now)
            await run.start()
            here = Place(journal, store, run)
            listed = messages(120, seed * 10 + turn, first=1_000 * (turn + 1))
            listed += [(eth(turn * 100 + n), WS, Kind.DATA) for n in range(5)]
            if turn == 1:
                listed.append((ETH_INFO, f"{REST}exchangeInfo", Kind.DATA))
            chance.shuffle(tail := listed[1:])
            await fill(journal, [listed[0], *tail], now)
            await run.drained()
            for name in await here.names(state="open"):
                decided += await _decide_something(here, name, chance)
            await run.stop()
        run = Run(journal, store, lanes, now)
        await run.start()
        here = Place(journal, store, run)
        await here.balanced()
        assert decided >= 15
        assert len({row["state"] for row in await here.rows()}) == 4
        await here.replays(1, seed)
        await here.replays(4, seed)
        await run.stop()


async def _decide_something(here: Place, name: str, chance: random.Random) -> int:
    what = chance.choice(["release", "correct", "reject", "force", "nothing"])
    try:
        if what == "correct":
            values = {"price": str(chance.randint(1, 9)), "instrument": "BTC-USDT.BINANCE"}
            await here.desk.decide(Ask(act="correct", who="me", why="chance", rows=[name], values=values))
        elif what == "reject":
            await here.desk.decide(Ask(act="reject", who="me", why="chance", rows=[name]))
        elif what != "nothing":
            await here.desk.decide(release(name, force=what == "force"))
    except (DecisionRefused, InputError):
        return 0
    return what != "nothing"


async def test_a_frame_of_a_source_nobody_knows(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        here.journal.append(Origin("gone", "stream", "wss://x#1"), b"{}")
        await here.journal.drain()
        await here.run.drained()
        (name,) = await here.names()
        with pytest.raises(FailsAgain, match="no parser for source 'gone' is loaded"):
            await here.desk.decide(release(name))
