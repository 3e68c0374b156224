from __future__ import annotations

import asyncio

import aiohttp
import picows
import pytest

from tidewire.errors import InputError
from tidewire.records.clock import ManualClock
from tidewire.sandbox.config import Faults
from tidewire.sandbox.market import Market
from tidewire.sandbox.server import Sandbox, SandboxConfig, run, symbol_names


async def test_it_starts_and_stops_cleanly(local):
    place = await local(rate=500.0)
    listener = await place.listen("/ws/btcusdt@trade")
    await listener.until_texts(1)
    await place.sandbox.stop()
    await listener.until_gone()
    assert listener.close_code == 1001
    await place.sandbox.stop()
    with pytest.raises(aiohttp.ClientConnectionError):
        await place.get("/sandbox/status")


async def test_a_port_in_use_is_an_error_and_leaves_nothing(local):
    place = await local(rate=1.0)
    port = int(place.sandbox.url.rpartition(":")[2])
    other = Sandbox(SandboxConfig(port=port, history_hours=1))
    with pytest.raises(OSError, match="in use"):
        await other.start()
    await other.stop()


def test_impossible_symbols_are_refused():
    with pytest.raises(InputError):
        Sandbox(SandboxConfig(symbols=("BTC/USDT",)))


async def test_a_market_of_the_caller_is_driven():
    class Still(Market):
        async def run(self):
            self.state = "still"

    sandbox = Sandbox(SandboxConfig(history_hours=1), market=Still)
    await sandbox.start()
    await sandbox.finished()
    assert sandbox.status()["state"] == "still"
    await sandbox.stop()


async def test_status(local):
    place = await local(rate=100.0, symbols=symbol_names(10))
    listener = await place.listen("/ws/btcusdt@trade")
    await listener.until_texts(1)
    status = (await place.get("/sandbox/status")).body
    assert status["mode"] == "synthetic"
    assert status["state"] == "playing"
    assert status["connections"] == 1
    assert status["subscriptions"] == {"btcusdt@trade": 1}
    assert status["sent"]["btcusdt@trade"] >= 1
    assert len(status["symbols"]) == 10


async def test_faults_at_run_time(local):
    place = await local(rate=2_000.0, symbols=("BTCUSDT",))
    assert (await place.get("/sandbox/faults")).body["drop"] == 0
    assert (await place.post("/sandbox/faults", {"drop": 1.0})).body["drop"] == 1
    listener = await place.listen("/ws/btcusdt@trade")
    async with asyncio.timeout(10):
        while place.sandbox.ledger()["btcusdt@trade"]["dropped"] < 4:
            await place.get("/sandbox/status")
    assert listener.texts == []
    assert (await place.post("/sandbox/faults", {"drop": 0})).status == 200
    await listener.until_texts(1)
    entry = place.sandbox.ledger()["btcusdt@trade"]
    assert listener.json()[0]["t"] == entry["first_id"] == entry["dropped_ids"][-1] + 1


@pytest.mark.parametrize("body", [{"dorp": 1}, {"drop": 2}, {"drop": "x"}, [], {"disconnect": 1}])
async def test_wrong_faults_are_refused_and_change_nothing(local, body):
    place = await local(rate=1.0, faults=Faults(drop=0.25))
    reply = await place.post("/sandbox/faults", body)
    assert reply.status == 400
    assert reply.body["error"]
    assert place.sandbox.faults == Faults(drop=0.25)


async def test_disconnect_now(local):
    place = await local(rate=1.0)
    listener = await place.listen("/ws/btcusdt@trade")
    await place.post("/sandbox/faults", {"disconnect": True})
    await listener.until_gone()
    assert listener.close_code is None
    assert place.sandbox.status()["connections"] == 0


async def test_disconnect_every_and_the_hole_can_be_filled_over_rest(local):
    place = await local(rate=2_000.0, symbols=("BTCUSDT",), faults=Faults(disconnect_every=20))
    ids = []
    for _ in range(3):
        listener = await place.listen("/ws/btcusdt@trade")
        await listener.until_gone()
        assert len(listener.texts) == 20
        ids += [trade["t"] for trade in listener.json()]
    assert ids == sorted(set(ids))
    filled = await place.api("historicalTrades", symbol="BTCUSDT", fromId=ids[0], limit=1000)
    assert {row["id"] for row in filled} >= set(range(ids[0], ids[-1] + 1)) or len(filled) == 1000


async def test_the_last_listener_of_streams_pushed_by_time_may_be_cut_by_one_of_them(local):
    place = await local(rate=2_000.0, symbols=("BTCUSDT",), faults=Faults(disconnect_every=1))
    for _ in range(2):
        listener = await place.listen("/ws/btcusdt@kline_1s/btcusdt@depth@100ms/btcusdt@depth10@100ms")
        await listener.until_gone()
    assert place.sandbox.status()["failure"] is None


async def test_a_venue_that_is_away_breaks_every_connection(local):
    place = await local(rate=500.0, symbols=("BTCUSDT",))
    listener = await place.listen("/ws/btcusdt@trade")
    place.sandbox.faults = Faults(away_s=-1)
    await listener.until_gone()
    with pytest.raises(aiohttp.ClientError):
        await place.api("time")
    _, heard = await picows.ws_connect(picows.WSListener, place.sandbox.ws_url + "/ws/btcusdt@trade")
    assert heard is None, "the handshake was not answered"
    place.sandbox.faults = Faults()
    await place.api("time")
    await (await place.listen("/ws/btcusdt@trade")).until_texts(1)


async def test_the_same_seed_sends_the_same_bytes(local, start_ns):
    streams = "/".join(f"{name}@{kind}" for name in ("btcusdt", "ethusdt") for kind in ("trade", "depth@100ms"))
    seen = []
    for _ in range(2):
        place = await local(
            rate=None, start_ns=start_ns, events=3_000, symbols=("BTCUSDT", "ETHUSDT"), start_on=frozenset({"@trade"})
        )
        listener = await place.listen(f"/stream?streams={streams}")
        await place.sandbox.finished()
        await listener.until(lambda p=place, q=listener: len(q.texts) == sum(p.sandbox.status()["sent"].values()))
        seen.append(listener.log)
    assert seen[0] == seen[1]
    assert {kind for kind, _ in seen[0]} == {"TEXT", "PONG"}


async def test_a_slow_reader_slows_the_market_and_loses_nothing(local, start_ns):
    place = await local(rate=None, start_ns=start_ns, symbols=("BTCUSDT",), events=150_000)
    listener = await place.listen("/ws/btcusdt@trade/btcusdt@bookTicker")
    listener.transport.underlying_transport.pause_reading()
    held = -1
    async with asyncio.timeout(10):
        while held != place.sandbox.status()["events"]:
            held = place.sandbox.status()["events"]
            for _ in range(200):
                await asyncio.sleep(0)
    assert held < 150_000
    listener.transport.underlying_transport.resume_reading()
    await place.sandbox.finished()
    entry = place.sandbox.ledger()["btcusdt@trade"]
    messages = await listener.until_texts(sum(place.sandbox.status()["sent"].values()))
    ids = [message["t"] for message in messages if "t" in message]
    assert ids == list(range(entry["first_id"], entry["last_id"] + 1))


async def test_playing_that_fails_says_so(local, tmp_path, monkeypatch):
    place = await local(rate=None, symbols=("BTCUSDT",), start_on=frozenset({"@trade"}))

    def broken(_now):
        raise RuntimeError("no more")

    monkeypatch.setattr(place.sandbox._upstream, "step", broken)
    await place.listen("/ws/btcusdt@trade")
    await place.sandbox.finished()
    status = place.sandbox.status()
    assert (status["state"], status["failure"]) == ("failed", "RuntimeError: no more")


async def test_run_serves_until_cancelled():
    task = asyncio.create_task(run(SandboxConfig(history_hours=1), ManualClock()))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
