"""Quarantine in the whole product: a symbol that became known, a parser that was mended, a source that broke."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import polars as pl
import pytest

from integration.kit import (
    Api,
    api,
    balanced,
    binance,
    books,
    idle,
    loaded,
    replayed,
    running,
    same_rows,
    tables,
    until,
)
from tidewire.journal import Origin
from tidewire.records.record import forget
from tidewire.runtime.config import BreakerSection, Loaded, PipeSection
from tidewire.runtime.deciding import Deciding
from tidewire.runtime.platform import Tidewire
from tidewire.runtime.replaying import replay
from tidewire.sandbox.config import SandboxConfig
from tidewire.sandbox.server import Sandbox
from tidewire.serve.quarantine import Ask, Match
from unit.sources.binance.samples import REST, TRADE, WS, changed

PLUGIN = Path(__file__).with_name("mood.py")
MOOD = {"source": {"type": "sentiment", "name": "mood"}}
LIST = (
    b'{"symbols":[{"symbol":"XYZUSDT","status":"TRADING","baseAsset":"XYZ","quoteAsset":"USDT","filters":[]}]}',
    Origin("binance", "instrument", f"{REST}exchangeInfo"),
)
UNKNOWN = 40


async def post(client: Api, ask: dict[str, Any]) -> tuple[int, Any]:
    """A decision; status and document."""
    asked = {"who": "test", "why": "the list has it now", **ask}
    async with (
        aiohttp.ClientSession(trust_env=False) as session,
        session.post(f"{client.url}/v1/quarantine/decide", json=asked) as reply,
    ):
        return reply.status, await reply.json()


def keep(platform: Tidewire, number: int) -> None:
    """A trade as the venue would send it, of a symbol that is in no list yet."""
    at = platform.clock.wall_ns() // 1_000_000
    payload = changed(TRADE, s="XYZUSDT", t=number, T=at)
    platform.journal.append(Origin("binance", "stream", WS), payload.replace(b"btcusdt@", b"xyzusdt@"))


async def test_a_symbol_that_became_known(tmp_path: Path) -> None:
    sandbox = Sandbox(SandboxConfig(rate=500.0, history_hours=1))
    await sandbox.start()
    pipe = PipeSection(store_ms=20.0, breaker=BreakerSection(rows=100, least=10))
    configuration = loaded(tmp_path, [binance(sandbox.url, ["BTCUSDT", "ETHUSDT"])], pipe=pipe)
    try:
        async with running(configuration) as platform, api(platform) as client:
            await until(lambda: platform.journal.head > 300, "a market")
            for number in range(1, UNKNOWN + 1):
                keep(platform, number)
            await _released(platform, client)
        found = tables(configuration.data_dir)
    finally:
        await sandbox.stop()
    fates = books(configuration.data_dir)
    assert fates["trade", "binance", "superseded"] == UNKNOWN
    assert fates["trade", "binance", "quarantined"] == 0
    states = found["quarantined_v1_revisions"]
    assert states.select("state", "decided_by").unique().rows() == [("released", "test: the list has it now")]
    for seed, lanes in ((1, 1), (2, 4)):
        chance = random.Random(seed)
        again = await replayed(
            configuration.data_dir,
            tmp_path / f"again{seed}",
            configuration,
            lanes=lanes,
            cut=lambda chance=chance: chance.randint(1, 300),
        )
        same_rows(found, again, f"live and replayed with {lanes} lanes")
        assert books(tmp_path / f"again{seed}") == fates


async def _released(platform: Tidewire, client: Api) -> None:
    async def held(count: int) -> bool:
        rows = (await client.get("/v1/quarantine", type="trade", state="open"))["data"]
        return len(rows) == count

    await until(lambda: held(UNKNOWN), "rows in quarantine")
    (first, *_) = (await client.get("/v1/quarantine", type="trade", state="open"))["data"]
    shown = (await client.get(f"/v1/quarantine/{first['journal'][:8]}/{first['frame']}"))["data"]
    assert msgspec.json.decode(shown["text"])["data"]["s"] == "XYZUSDT"
    name = shown["rows"][0]["name"]
    status, problem = await post(client, {"act": "release", "rows": [name]})
    assert (status, problem["code"]) == (409, "fails_again")
    assert "instrument|nullability" in problem["detail"]
    payload, origin = LIST
    platform.journal.append(origin, payload)
    await platform.journal.drain()
    await platform.pipe.stored(platform.journal.accepted)
    snapshot = (await client.get("/v1/trade", limit=1))["meta"]["snapshot"]
    before = await client.get("/v1/trade", snapshot=snapshot, limit=100_000)
    status, done = await post(client, {"act": "release", "rows": [name]})
    assert (status, done["data"]["stored"], done["data"]["comes_to"]) == (200, True, {"trade": 1})
    status, problem = await post(client, {"act": "release", "rows": [name]})
    assert (status, problem["code"]) == (409, "already_decided")
    status, done = await post(client, {"act": "release", "match": {"rule": "instrument|nullability"}})
    assert (status, done["data"]["rows"], done["data"]["refused"]) == (200, UNKNOWN - 1, [])
    rules = (await client.get("/v1/quarantine/rules"))["data"]["rules"]
    mine = [line for line in rules if line["type"] == "trade" and line["rule"] == "instrument|nullability"]
    assert [(line["state"], line["hour"]) for line in mine] == [("released", UNKNOWN)]
    await platform.apps[0].stop()
    await idle(platform)
    rows = (await client.get("/v1/trade", symbol="XYZ-*", snapshot="2090-01-01"))["data"]
    assert [row["trade_id"] for row in rows] == [str(number) for number in range(1, UNKNOWN + 1)]
    assert all(row["ingested_at"] > snapshot for row in rows)
    after = await client.get("/v1/trade", snapshot=snapshot, limit=100_000)
    assert after["data"] == before["data"], "what was read before stays true"
    balanced((await client.get("/v1/audit", frames="true"))["data"])


@pytest.fixture
def mood(tmp_path: Path) -> Iterator[Loaded]:
    """A plugin whose parser has a bug; `_mend` takes it out."""
    (tmp_path / "plugins").mkdir()
    text = PLUGIN.read_text().replace(
        "said: list[dict[str, Any]] = [msgspec.json.decode(frame.payload) for frame in frames]",
        "said: list[dict[str, Any]] = [msgspec.json.decode(frame.payload) for frame in frames]\n"
        '        assert all(one["n"] % 3 for one in said), "a bug"',
    )
    assert "a bug" in text
    (tmp_path / "plugins" / PLUGIN.name).write_text(text)
    yield loaded(tmp_path, [MOOD])
    forget("mood")
    sys.modules.pop("tidewire_plugin_mood", None)


def _mend(configuration: Loaded) -> None:
    shutil.copy(PLUGIN, configuration.plugins / PLUGIN.name)


async def test_a_parser_that_was_mended(mood: Loaded, tmp_path: Path) -> None:
    async with running(mood) as platform, api(platform) as client:
        await until(lambda: platform.journal.head >= 30, "thirty surveys")
        await platform.apps[0].stop()
        await idle(platform)
        balanced((await client.get("/v1/audit", frames="true"))["data"])
    before = tables(mood.data_dir)
    frames = before["quarantined_v1"].filter(record_type="frame")
    assert frames.height >= 9
    assert "AssertionError: a bug" in frames["reasons"][0]

    # Nothing runs: the decision is written into the journal and stored by the pipe itself.
    deciding = Deciding(mood.data_dir, mood)
    assert "no platform is running" in deciding.how
    ask = Ask(act="release", who="test", why="mended", match=Match(type="frame"))
    refused = await deciding.decide(ask)
    assert (refused["rows"], len(refused["refused"])) == (0, frames.height)
    _mend(mood)
    done = await deciding.decide(ask)
    # Every seventh target cannot be: such a frame would come to a row that is quarantined again.
    impossible = [one for one in done["refused"] if "target|min_exclusive" in one["why"]]
    assert (done["stored"], done["rows"]) == (True, frames.height - len(impossible))
    assert len(done["refused"]) == len(impossible) >= 1
    balanced(await deciding.audit({"frames": ["true"]}))
    after = tables(mood.data_dir)
    new = after["mood_v1"].join(before["mood_v1"], on="frame", how="anti")
    assert new.height == done["rows"]
    assert set(new["sequence"] % 3) == {0}
    assert new["ingested_at"].min() > before["mood_v1"]["ingested_at"].max()  # type: ignore[operator]
    # The mended code would have read them at once: the same facts, at the time they came, and books that add up.
    again = tmp_path / "again"
    assert (await replay(mood, mood.data_dir, again, None))["difference"] == 0
    facts = ["sequence", "score", "target", "word", "event_time"]
    replayed_rows = tables(again)["mood_v1"].select(facts).sort("sequence")
    assert replayed_rows.equals(after["mood_v1"].select(facts).sort("sequence"))


async def test_a_source_that_broke(mood: Loaded) -> None:
    path = mood.plugins / PLUGIN.name
    path.write_text(path.read_text().replace('one["n"] % 3', 'one["n"] < 20'))
    pipe = PipeSection(store_ms=20.0, breaker=BreakerSection(rows=40, least=10))
    async with running(loaded(mood.base, [MOOD], pipe=pipe)) as platform, api(platform) as client:
        heard: list[str] = []
        platform.bus.subscribe("control.quarantine.*", lambda event: heard.append(event.subject))
        await until(lambda: bool(heard), "the breaker")
        (source,) = (await client.get("/v1/sources"))["data"]
        assert source["health"] == "degraded"
        assert "source broken, not data:" in source["problems"][-1]
        assert (await client.get("/readyz"))["checks"]["source mood"] == "degraded"
        head = platform.journal.head
        await until(lambda: platform.journal.head >= head + 10, "it goes on")
        await platform.apps[0].stop()
        await idle(platform)
        balanced((await client.get("/v1/audit", frames="true"))["data"])
        assert heard == ["control.quarantine.opened"]
    held = tables(mood.data_dir)["quarantined_v1"].filter(pl.col("record_type") == "frame")
    assert held.height >= 15, "nothing is dropped"
