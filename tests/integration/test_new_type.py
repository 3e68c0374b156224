"""A record type is one class: store, REST, OpenAPI, stream and reference have it without another line."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
import websockets

from integration.kit import api, audited, balanced, idle, loaded, replayed, running, same_rows, tables, until
from tidewire.collect import control
from tidewire.errors import NotFound
from tidewire.journal import Kind, Origin
from tidewire.records.record import forget, record_type, types
from tidewire.runtime.config import Loaded
from tidewire.runtime.platform import Tidewire

PLUGIN = Path(__file__).with_name("mood.py")
MOOD = {"source": {"type": "sentiment", "name": "mood"}}


@pytest.fixture
def configuration(tmp_path: Path) -> Iterator[Loaded]:
    """A platform with the plugin in its plugin directory; the type is forgotten at the end."""
    (tmp_path / "plugins").mkdir()
    shutil.copy(PLUGIN, tmp_path / "plugins" / PLUGIN.name)
    assert "mood" not in types()
    yield loaded(tmp_path, [MOOD])
    _forget()


def _forget() -> None:
    forget("mood")
    sys.modules.pop("tidewire_plugin_mood", None)


def _note(platform: Tidewire) -> None:
    """A frame that comes while the plugin is away."""
    act = control.encode(control.Noted("a test"))
    platform.journal.append(Origin("test", "test", ""), act, kind=Kind.CONTROL)


async def _pushed(platform: Tidewire) -> list[dict[str, Any]]:
    """Some rows from the stream."""
    url = platform.url.replace("http", "ws") + "/v1/stream"
    rows: list[dict[str, Any]] = []
    async with websockets.connect(url, subprotocols=[websockets.Subprotocol("tidewire.v1.json")], proxy=None) as socket:
        await socket.send(msgspec.json.encode({"op": "subscribe", "channels": ["mood.*.BINANCE"], "id": 1}).decode())
        while len(rows) < 5:
            frame = msgspec.json.decode(await socket.recv())
            assert frame["op"] in {"welcome", "subscribed", "data"}, frame
            assert frame.get("ch", "mood.BTC-USDT.BINANCE") == "mood.BTC-USDT.BINANCE"
            rows += frame.get("rows", ())
    return rows


async def test_one_class(configuration: Loaded, tmp_path: Path) -> None:
    async with running(configuration) as platform, api(platform) as client:
        pushed = await _pushed(platform)
        await until(lambda: platform.journal.head >= 30, "thirty surveys")
        await platform.apps[0].stop()
        await idle(platform)

        answer = await client.get("/v1/mood", snapshot="2090-01-01", limit=1_000)
        served = {row["sequence"]: row for row in answer["data"]}
        assert answer["meta"]["units"]["target"] == "quote asset"
        assert all(row == served[row["sequence"]] for row in pushed), "the stream gives what REST gives"
        (latest,) = (await client.get("/v1/mood/latest", symbol="BTC-USDT"))["data"]
        assert latest == served[max(served)]
        assert (await client.get("/v1/mood", word="fear"))["data"] == []
        status, _, body = await client.raw("/v1/mood", word="joy")
        assert (status, b"fear, greed" in body) == (400, True)

        await _described(client)
        gaps = (await client.get("/v1/gaps", type="mood"))["data"]
        # Found open; given up as soon as it is seen that this source has no past to ask for.
        lost = {row["first_sequence"] for row in gaps if row["state"] in {"open", "unfillable"}}
        assert lost >= {10, 20, 30} & set(range(30))
        wrong = (await client.get("/v1/quarantine", type="mood"))["data"]
        assert wrong
        assert all("target" in row["reasons"] for row in wrong)
        balanced(await audited(client))

    rows = tables(configuration.data_dir)["mood_v1"]
    assert set(rows["sequence"]) == set(served)
    assert rows.sort("sequence")["target"][0] == Decimal("61001.123456789012")
    again = await replayed(configuration.data_dir, tmp_path / "again", configuration)
    same_rows(tables(configuration.data_dir), again, "live and replayed")


async def _described(client: Any) -> None:
    """The type is in the OpenAPI document, the list of types, its own page and the page for people."""
    document = await client.get("/openapi.json")
    assert set(document["components"]["schemas"]["Mood"]["properties"]) == set(record_type("mood").schema)
    assert {"/v1/mood", "/v1/mood/latest"} <= document["paths"].keys()
    (facts,) = [one for one in (await client.get("/v1/types"))["data"] if one["name"] == "mood"]
    assert facts["about"] == "How the crowd feels about an instrument."
    assert facts["columns"]["target"]["role"] == "price"
    _, headers, page = await client.raw("/v1/types/mood", accept="text/markdown")
    assert headers["content-type"].startswith("text/markdown")
    for column in record_type("mood").schema:
        assert f"`{column}`".encode() in page
    assert b"/v1/mood" in (await client.raw("/docs", accept="text/html"))[2]


async def test_forgotten_it_is_gone_and_the_rest_goes_on(configuration: Loaded) -> None:
    async with running(configuration) as platform:
        await until(lambda: platform.journal.head >= 5, "five surveys")
    kept = tables(configuration.data_dir)["mood_v1"].height
    _forget()
    (configuration.plugins / PLUGIN.name).unlink()
    with pytest.raises(NotFound, match="No record type 'mood'"):
        record_type("mood")

    without = loaded(configuration.base, [])
    async with running(without) as platform, api(platform) as client:
        assert (await client.raw("/v1/mood"))[0] == 404
        assert "Mood" not in (await client.get("/openapi.json"))["components"]["schemas"]
        _note(platform)
        await idle(platform)
        balanced(await audited(client))

    with duckdb.connect(str(without.data_dir / "tidewire.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM mood_v1").fetchall() == [(kept,)]


async def test_forgotten_and_back_it_continues(configuration: Loaded) -> None:
    """While the plugin is away its frames stay in the journal; other sources move on past them."""
    async with running(configuration) as platform:
        await until(lambda: platform.journal.head >= 5, "five surveys")
    kept = tables(configuration.data_dir)["mood_v1"]
    plugin = configuration.plugins / PLUGIN.name
    text = plugin.read_text()
    _forget()
    plugin.unlink()
    async with running(loaded(configuration.base, [])) as platform:
        _note(platform)
        await idle(platform)
    plugin.write_text(text)
    async with running(configuration) as platform, api(platform) as client:
        head = platform.journal.head
        await until(lambda: platform.journal.head >= head + 12, "more surveys")
        await platform.apps[0].stop()
        await idle(platform)
        balanced(await audited(client))
    rows = tables(configuration.data_dir)["mood_v1"]
    assert rows.height > kept.height, "the counter of the new run begins again, its rows are later facts"
