"""The whole product against the Chinese sites: what is stored is true, whatever is wrong with a site."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from integration.china_truth import INDEX, key, wrong_bars, wrong_books, wrong_tickers
from integration.kit import (
    Api,
    api,
    audited,
    balanced,
    idle,
    loaded,
    replayed,
    same_rows,
    tables,
    until,
)
from tidewire.records.clock import UpstreamClock, utc
from tidewire.runtime.config import BreakerSection, FailoverSection, Loaded, PipeSection
from tidewire.runtime.platform import Tidewire
from tidewire.sandbox.config import changed_faults, session_ns
from tidewire.sandbox.server import Sandbox, SandboxConfig

SESSION = "2026-12-01T10:00:00+08:00"
STOCKS = 300
SITES = ("sina", "tencent", "eastmoney")
QUOTES = tuple(f"{site}.a_share_quotes" for site in SITES)
PAUSE_S = 1.0
BREAKER = PipeSection(store_ms=20.0, breaker=BreakerSection(rows=400))
OFTEN = {"every": "300ms"}
SPEED = 20.0
"""At that pace a minute without news is three seconds."""


@dataclass
class Stage:
    """A sandbox and a platform that lives on its clock."""

    sandbox: Sandbox
    platform: Tidewire
    client: Api
    configuration: Loaded

    def break_(self, **sites: Mapping[str, Any]) -> None:
        """Set the faults of the sites, all others end."""
        self.sandbox.faults = changed_faults(self.sandbox.faults, {"china": dict(sites)})

    @property
    def turn(self) -> str:
        return self.platform.failover.successions.all[0].standing.turn

    @property
    def failed(self) -> Mapping[str, str]:
        return self.platform.failover.successions.all[0].standing.failed


@asynccontextmanager
async def sandbox(speed: float) -> AsyncGenerator[Sandbox]:
    config = SandboxConfig(
        symbols=("BTCUSDT",),
        rate=1.0,
        history_hours=1,
        china_stocks=STOCKS,
        session_at=SESSION,
        session_speed=speed,
    )
    here = Sandbox(config)
    await here.start()
    try:
        yield here
    finally:
        await here.stop()


@asynccontextmanager
async def stage(
    directory: Path, here: Sandbox, sources: Mapping[str, Mapping[str, Any]], **settings: Any
) -> AsyncGenerator[Stage]:
    clock = UpstreamClock()
    clock.tell(session_ns(SESSION), 1.0)
    said = [
        {
            "source": {"type": "declared", "name": name},
            "api": {"base_url": f"{here.url}/{name.partition('.')[0]}"},
            "collectors": {"rows": dict(rows)},
        }
        for name, rows in sources.items()
    ]
    configuration = loaded(directory, said, clock="upstream", **settings)
    platform = Tidewire(configuration, clock)
    await platform.start()
    try:
        async with api(platform) as client:
            yield Stage(here, platform, client, configuration)
        assert platform.failure is None, f"a part failed: {platform.failure!r}"
    finally:
        await platform.stop()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites that refuse are left alone for a second, not thirty, and asked as often as the schedule says."""
    monkeypatch.setattr("tidewire.collect.family.PAUSE_S", PAUSE_S)
    monkeypatch.setattr("tidewire.collect.family.LONG_PAUSE_S", PAUSE_S)
    monkeypatch.setattr("tidewire.sources.declared.collector.GROWING_S", 0.5)
    monkeypatch.setattr("tidewire.sources.declared.app.per_second", lambda *_: 100.0)


async def rows_of(on: Stage, source: str, kind: str) -> int:
    counts = await on.platform.store.counts()
    return sum(count for (name, of, _), count in counts.items() if (name, of) == (kind, source))


async def more_rows(on: Stage, source: str, count: int = STOCKS, kind: str = "ticker") -> None:
    goal = await rows_of(on, source, kind) + count

    async def there() -> bool:
        return await rows_of(on, source, kind) >= goal

    await until(there, f"{count} more {kind} rows of {source}", poll_s=0.1)


async def ended(on: Stage) -> None:
    """Nobody asks any more, all is stored, and the books add up."""
    assert on.platform.running is not None
    await on.platform.running.stop()
    await idle(on.platform)
    balanced(await audited(on.client))


def nothing_is_wrong(here: Sandbox, found: Mapping[str, pl.DataFrame]) -> None:
    """Every stored row, revisions too, is true."""
    revisions = [table for table, rows in found.items() if table.endswith("_revisions") and rows.height]
    assert set(revisions) <= {"gap_v1_revisions", "instrument_v1_revisions"}
    wrong = wrong_tickers(here.china, found["ticker_v1"])
    assert wrong.is_empty(), (wrong.height, wrong.head(3).to_dicts())
    books = wrong_books(here.china, found["quote_v1"], found["order_book_v1"])
    assert not books, (len(books), books[:3])


async def test_a_round_of_each_site_is_the_whole_market(tmp_path: Path) -> None:
    sources = {"eastmoney.listing": {}, **dict.fromkeys(QUOTES, OFTEN)}
    async with sandbox(2.0) as here:
        async with stage(tmp_path, here, sources) as on:
            for source in QUOTES:
                await more_rows(on, source, 3 * STOCKS)
            await ended(on)
        found, true = tables(tmp_path / "data"), here.china.truth()
    rows = found["ticker_v1"]
    nothing_is_wrong(here, found)
    assert found["quarantined_v1"].is_empty()
    assert found["finding_v1"].is_empty()
    status = {key(*each): status for *each, status in zip(true["code"], true["exchange"], true["status"], strict=True)}
    stocks = {name for name in status if not pl.Series([name]).str.contains(INDEX)[0]}
    listed = {name for name in stocks if status[name] not in ("delisted", "unlisted")}
    assert len(stocks) == STOCKS
    assert len(listed) < STOCKS
    said = {source: rows.filter(pl.col("source") == source) for source in QUOTES}
    for source, wanted in zip(QUOTES, (listed, listed, stocks), strict=True):
        stock_rows = said[source].filter(~pl.col("instrument").str.contains(INDEX))
        assert set(stock_rows["instrument"]) == wanted, source
        # Each time that is told is told of everything, but the first and last ones, of which a round may show a part.
        times = stock_rows.group_by("event_time").len().sort("event_time")["len"].to_list()
        assert times.count(len(wanted)) >= 2, (source, times)
    agreed = said[QUOTES[0]]
    for source in QUOTES[1:]:
        agreed = agreed.join(said[source], on=["instrument", "event_time"], suffix=f"_{source.partition('.')[0]}")
    assert agreed.height >= 2 * len(listed)
    for name, site in itertools.product(("last", "open", "high", "low", "pre_close", "status"), SITES[1:]):
        assert agreed[name].equals(agreed[f"{name}_{site}"], null_equal=True), (name, site)


@dataclass(frozen=True)
class Fault:
    """A fault of a site, and the record it leaves, a text in a table; ``caps``: its pages are that long in turn."""

    name: str
    switches: Mapping[str, Any]
    table: str
    text: str
    caps: Sequence[int] = ()


UNIT = "unit"
DROPPED = {"drop_windows": (3_600, 3_600)}
COLUMNS = {"gap_v1": "detail", "quarantined_v1": "reasons", "finding_v1": "rule"}
LOTS = Fault("lots", {"lots": True}, "finding_v1", UNIT)
NOT_TEXT = "expected text in gb18030"
FAULTS = {
    "sina": (
        LOTS,
        Fault("renamed", {"renamed": True}, "quarantined_v1", "not_exact.*event_time"),
        Fault("garbage", {"garbage": True}, "quarantined_v1", NOT_TEXT),
        Fault("block page", {"block_page": True}, "gap_v1", "answered 200: <!DOCTYPE html>"),
        Fault("drop windows", DROPPED, "gap_v1", "disconnected"),
        Fault("stale", {"stale": True}, "gap_v1", "1m expected"),
        Fault("page cap", {"page_cap": 200}, "gap_v1", "not in the answer"),
    ),
    "tencent": (
        LOTS,
        Fault("renamed", {"renamed": True}, "quarantined_v1", "not_exact.*event_time"),
        Fault("garbage", {"garbage": True}, "quarantined_v1", NOT_TEXT),
        Fault("block page", {"block_page": True}, "gap_v1", "answered 200: <!DOCTYPE html>"),
    ),
    "eastmoney": (
        LOTS,
        Fault("renamed", {"renamed": True}, "quarantined_v1", "amount.*f6 .*not in the row"),
        Fault("garbage", {"garbage": True}, "quarantined_v1", "expected JSON"),
        Fault("block page", {"block_page": True}, "gap_v1", "answered 200: <!DOCTYPE html>"),
        Fault("drop windows", DROPPED, "gap_v1", "disconnected"),
        Fault("shrinking pages", {}, "gap_v1", r"\d of \d+ rows came", caps=(100, 40, 100, 30)),
    ),
}
HARMLESS = {
    "eastmoney": ({"page_cap": 50}, {"new_key": True}),
    "sina": ({"new_key": True},),
    "tencent": ({"new_key": True},),
}


@dataclass
class Told:
    """A fault, from when to when it was there, by the clock of the platform."""

    fault: Fault
    since: datetime
    until: datetime = field(default_factory=lambda: utc(0))


@pytest.mark.parametrize("site", SITES)
async def test_a_fault_is_told_and_another_source_stands_in(site: str, tmp_path: Path) -> None:
    first = f"{site}.a_share_quotes"
    order = [first, *(each for each in QUOTES if each != first)]
    sources = {"eastmoney.listing": {}, **dict.fromkeys(order, OFTEN)}
    duty = {"quotes": FailoverSection(order=order, retry="1s")}
    told: list[Told] = []
    async with sandbox(SPEED) as here:
        async with stage(tmp_path, here, sources, failover=duty, pipe=BREAKER) as on:
            await more_rows(on, first, 2 * STOCKS)
            for switches in HARMLESS[site]:
                on.break_(**{site: switches})
                await more_rows(on, first, 2 * STOCKS)
                assert on.turn == first, on.failed
            told = [await faulty(on, site, fault) for fault in FAULTS[site]]
            await ended(on)
        found = tables(tmp_path / "data")
    nothing_is_wrong(here, found)
    for each in told:
        column = COLUMNS[each.fault.table]
        rows = found[each.fault.table].filter(pl.col("ingested_at").is_between(each.since, each.until), source=first)
        assert rows[column].str.contains(each.fault.text).any(), (each.fault.name, rows[column].unique().to_list()[:5])
    assert len(told) >= 4
    by_source = dict(found["ticker_v1"].group_by("source").len().iter_rows())
    assert min(by_source[source] for source in order[:2]) >= len(told) * STOCKS * 9 // 10
    units = found["quarantined_v1"].filter(pl.col("reasons").str.contains(UNIT))
    assert units.height >= STOCKS // 2
    assert set(found["quarantined_v1"]["source"]) == {first}
    same_rows(found, await replayed(tmp_path / "data", tmp_path / "again", on.configuration), "replay")


async def faulty(on: Stage, site: str, fault: Fault) -> Told:
    """Break the site whose turn it is, see another stand in, mend it, and see it back."""
    first = on.turn
    told = Told(fault, utc(on.platform.clock.wall_ns()))
    on.break_(**{site: fault.switches})
    changing = asyncio.create_task(change_pages(on, site, fault.caps)) if fault.caps else None
    try:
        await until(lambda: on.turn != first, f"{fault.name}: another stands in")
        assert first in on.failed
        said = str((await on.client.get("/readyz"))["checks"]["failover quotes"])
        assert f"{first}: " in said
        await more_rows(on, on.turn)
        assert on.turn != first, "a site that is broken has no turn"
    finally:
        if changing is not None:
            changing.cancel()
    on.break_()
    await until(lambda: on.turn == first, f"{fault.name}: it is well again")
    await more_rows(on, first)
    told.until = utc(on.platform.clock.wall_ns())
    return told


async def change_pages(on: Stage, site: str, caps: Sequence[int]) -> None:
    """Let pages have another length with each request."""
    requests = getattr(on.sandbox.china, site).requests
    for cap in itertools.cycle(caps):
        seen = sum(requests.values())
        on.break_(**{site: {"page_cap": cap}})
        await until(lambda seen=seen: sum(requests.values()) != seen, "a request", poll_s=0.001)


async def test_bars_in_another_unit_are_not_stored(tmp_path: Path) -> None:
    source, symbols = "eastmoney.a_share_bars_1m", ["600519.SH", "300750.SZ", "688981.SH"]
    sources = {source: {"every": "500ms", "for_each": {"symbol": symbols}}}
    async with sandbox(SPEED) as here:
        async with stage(tmp_path, here, sources) as on:
            await more_rows(on, source, 2_000, "kline")
            on.break_(eastmoney={"lots": True})

            async def told() -> bool:
                return len((await on.client.get("/v1/quarantine", limit=1_000))["data"]) >= len(symbols)

            await until(told, "bars in quarantine", poll_s=0.1)
            on.break_(eastmoney={"renamed": True})  # a bar has no names that could change
            await more_rows(on, source, 2 * len(symbols), "kline")
            on.break_()
            await more_rows(on, source, len(symbols), "kline")
            await ended(on)
        found = tables(tmp_path / "data")
    assert found["kline_v1_revisions"].is_empty()
    assert set(found["kline_v1"]["instrument"]) == set(symbols)
    wrong = wrong_bars(here.china, found["kline_v1"])
    assert wrong.is_empty(), wrong.head(3).to_dicts()
    assert found["quarantined_v1"]["reasons"].str.contains(UNIT).all()
    assert set(found["quarantined_v1"]["instrument"]) == set(symbols)
    assert UNIT in set(found["finding_v1"]["rule"])
    same_rows(found, await replayed(tmp_path / "data", tmp_path / "again", on.configuration), "replay")
