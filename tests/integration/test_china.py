"""The whole product against the Chinese sites, each with its faults: no wrong row stored, each fault told, others stand in."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from integration.china_truth import wrong_books, wrong_tickers
from integration.kit import (
    Api,
    all_gaps,
    api,
    audited,
    balanced,
    idle,
    loaded,
    replayed,
    running,
    same_rows,
    tables,
    until,
)
from tidewire.records.clock import UpstreamClock
from tidewire.runtime.config import FailoverSection, Loaded
from tidewire.runtime.platform import Tidewire
from tidewire.sandbox.config import changed_faults, session_ns
from tidewire.sandbox.server import Sandbox, SandboxConfig

SESSION = "2026-12-01T10:00:00+08:00"
STOCKS = 300
SITES = ("sina", "tencent", "eastmoney")
QUOTES = tuple(f"{site}.a_share_quotes" for site in SITES)
PAUSE_S = 1.0


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
    """Sites that refuse are left alone for a moment, and asked as often as the schedule says."""
    monkeypatch.setattr("tidewire.collect.family.PAUSE_S", PAUSE_S)
    monkeypatch.setattr("tidewire.collect.family.LONG_PAUSE_S", PAUSE_S)
    monkeypatch.setattr("tidewire.sources.declared.app.per_second", lambda *_: 100.0)


async def rows_of(on: Stage, source: str, kind: str = "ticker") -> int:
    counts = await on.platform.store.counts()
    return sum(count for (name, of, _), count in counts.items() if (name, of) == (kind, source))


async def more_rows(on: Stage, source: str, count: int = STOCKS, kind: str = "ticker") -> None:
    goal = await rows_of(on, source, kind) + count

    async def there() -> bool:
        return await rows_of(on, source, kind) >= goal

    await until(there, f"{count} more rows of {source}", 30.0, 0.1)


async def test_a_round_of_each_site_is_the_whole_market(tmp_path: Path) -> None:
    sources = {"eastmoney.listing": {}, **dict.fromkeys(QUOTES, {"every": "500ms"})}
    async with sandbox(1.0) as here:
        async with stage(tmp_path, here, sources) as on:
            for source in QUOTES:
                await more_rows(on, source, 3 * STOCKS)
            await on.platform.running.stop()
            await idle(on.platform)
            balanced(await audited(on.client))
        found = tables(tmp_path / "data")
        rows = found["ticker_v1"]
        print(rows.group_by("source").agg(pl.len(), pl.col("instrument").n_unique(), pl.col("event_time").n_unique()))
        print(found["quarantined_v1"], found["finding_v1"], found["gap_v1"])
        wrong = wrong_tickers(here.china, rows)
        assert wrong.is_empty(), wrong.head(3).to_dicts()
        books = wrong_books(here.china, found["quote_v1"], found["order_book_v1"])
        assert not books, (len(books), books[:3])


FAULTS = {
    "sina": {
        "lots": True, "renamed": True, "garbage": True, "block_page": True, "drop_windows": (3_600, 3_600), "stale": True
    },
    "tencent": {"lots": True, "renamed": True, "garbage": True, "block_page": True},
    "eastmoney": {"lots": True, "renamed": True, "garbage": True, "block_page": True, "drop_windows": (3_600, 3_600)},
}


@pytest.mark.parametrize("site", SITES)
async def test_faults(site: str, tmp_path: Path) -> None:
    import time
    first = f"{site}.a_share_quotes"
    order = [first, *(each for each in QUOTES if each != first)]
    sources = {"eastmoney.listing": {}, **dict.fromkeys(order, {"every": "500ms"})}
    duty = FailoverSection(order=order, retry="1s")
    async with sandbox(10.0) as here:
        async with stage(tmp_path, here, sources, failover={"quotes": duty}) as on:
            await more_rows(on, first, 2 * STOCKS)
            for fault, value in FAULTS[site].items():
                t = time.monotonic()
                on.break_(**{site: {fault: value}})
                try:
                    await until(lambda: on.turn != first, f"{fault}: another", 15.0)
                except AssertionError as e:
                    print("NOT", fault, e)
                    on.break_()
                    continue
                t1 = time.monotonic()
                print(fault, on.turn, on.failed)
                await more_rows(on, on.turn)
                on.break_()
                t2 = time.monotonic()
                await until(lambda: on.turn == first, f"{fault}: back", 30.0)
                await more_rows(on, first)
                print(f"{fault} down {t1 - t:.1f} rows {t2 - t1:.1f} back {time.monotonic() - t2:.1f}")
            await on.platform.running.stop()
            await idle(on.platform)
            balanced(await audited(on.client))
        found = tables(tmp_path / "data")
        rows = found["ticker_v1"]
        with pl.Config(tbl_rows=60, fmt_str_lengths=120, tbl_width_chars=250, tbl_cols=20):
            print(rows.group_by("source").agg(pl.len(), pl.col("instrument").n_unique(), pl.col("event_time").n_unique()))
            print(found["quarantined_v1"].group_by("source", "record_type", "reasons").len())
            print(found["finding_v1"].group_by("source", "rule", "severity").len())
            print(all_gaps(found).select("source", "instrument", "cause", "state", "detail"))
        wrong = wrong_tickers(here.china, rows)
        print("WRONG", wrong.height, wrong.head(3).to_dicts())
        books = wrong_books(here.china, found["quote_v1"], found["order_book_v1"])
        print("WRONG BOOKS", len(books), books[:3])
        same_rows(found, await replayed(tmp_path / "data", tmp_path / "again", on.configuration), "replay")
        assert wrong.is_empty() and not books
