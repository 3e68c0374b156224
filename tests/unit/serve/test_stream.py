"""The stream: patterns, batching, conflation, slow and dead readers, holes of the bus."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tidewire import telemetry
from tidewire.records import market, ops
from tidewire.serve.platform import ServeConfig
from unit.serve.harness import BTC, ETH, frame, kline, quote, rows_of, say, serving, trades

TRADE, QUOTE, KLINE = market.Trade.type, market.Quote.type, market.Kline.type


async def test_rows_arrive_in_their_json_form() -> None:
    async with serving() as served, served.stream("trades.BTCUSDT") as socket:
        await served.publish(TRADE, trades(2))
        data = await frame(socket)
        assert (data["op"], data["ch"], data["seq"]) == ("data", f"trade.{BTC}", 1)
        assert [row["trade_id"] for row in data["rows"]] == ["1000", "1001"]
        assert data["rows"][0]["price"] == "61837.63"
        assert data["rows"][0]["event_time"] == "2026-01-05T00:00:00.000000Z"
        await served.publish(TRADE, trades(1))
        assert (await frame(socket))["seq"] == 2


async def test_welcome_and_ping_and_unsubscribe() -> None:
    async with serving() as served:
        url = served.gateway.url.replace("http", "ws") + "/v1/stream"
        async with connect(url) as socket:
            welcome = await frame(socket)
            assert set(welcome) == {"op", "session", "epoch", "server_time", "limits"}
            await say(socket, op="ping", id=7)
            assert await frame(socket) == {"op": "pong", "id": 7}
            await say(socket, op="subscribe", channels=["trade.>", "quote.>"], id="x")
            assert await frame(socket) == {"op": "subscribed", "channels": ["trade.>", "quote.>"], "id": "x"}
            await say(socket, op="unsubscribe", channels=["trades.>"])
            assert await frame(socket) == {"op": "unsubscribed", "channels": ["trade.>"]}
            await served.publish(TRADE, trades(1))
            await served.publish(QUOTE, rows_of(QUOTE, [quote(1)]))
            assert (await frame(socket))["ch"] == f"quote.{BTC}"


async def test_each_pattern_gets_its_rows_only() -> None:
    async with serving() as served, served.stream("kline.1m.*.BINANCE") as some, served.stream(">") as all_of_it:
        bars = [kline(0, final=True), kline(0, final=True, instrument=ETH), kline(0, final=True, interval="5m")]
        await served.publish(KLINE, rows_of(KLINE, bars))
        await served.publish(TRADE, trades(1))
        assert {(await frame(some))["ch"] for _ in range(2)} == {f"kline.1m.{BTC}", f"kline.1m.{ETH}"}
        expected = {f"kline.1m.{BTC}", f"kline.1m.{ETH}", f"kline.5m.{BTC}", f"trade.{BTC}"}
        assert {(await frame(all_of_it))["ch"] for _ in range(4)} == expected
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await some.recv()


async def test_only_wanted_rows_of_a_batch_are_encoded() -> None:
    async with serving() as served, served.stream(f"quote.{ETH}") as socket:
        before = telemetry.value("tidewire_ws_rows_total", type="quote")
        await served.publish(QUOTE, rows_of(QUOTE, [quote(1), quote(2, instrument=ETH), quote(3)]))
        data = await frame(socket)
        assert [(row["instrument"], row["sequence"]) for row in data["rows"]] == [(ETH, 2)]
        assert telemetry.value("tidewire_ws_rows_total", type="quote") == before + 1


async def test_gaps_and_rejects_have_channels() -> None:
    gap = {"record_type": "trade", "gap_id": "1", "cause": "grid", "state": "open"}
    gaps = rows_of(ops.Gap.type, [gap | {"until_time": trades(1)["event_time"][0]}])
    bad = rows_of(
        ops.Quarantined.type, [{"journal": "j1", "record_type": "trade", "row": 0, "reasons": "{}", "state": "open"}]
    )
    async with serving() as served, served.stream("gaps.>", "quarantine.*") as socket:
        await served.publish(TRADE, trades(1), gaps=gaps, rejected=bad)
        assert {(await frame(socket))["ch"] for _ in range(2)} == {f"gap.{BTC}", "quarantined.binance"}


@pytest.mark.parametrize(
    ("sent", "code", "says"),
    [
        ('{"op": "subscribe", "channels": ["trad.>"]}', "not_found", "Did you mean 'trade'?"),
        ('{"op": "subscribe", "channels": ["trade.000001"]}', "ambiguous_instrument", "000001.SH"),
        ('{"op": "subscribe", "channels": []}', "invalid_frame", "needs channels"),
        ('{"op": "subscribes", "channels": ["trade.>"]}', "unknown_op", "Did you mean 'subscribe'?"),
        ('{"op": "subscribe", "chanels": ["trade.>"]}', "invalid_frame", "chanels"),
        ("not json", "invalid_frame", "Valid"),
        ("[1]", "invalid_frame", "Valid"),
        (b"\x81", "invalid_frame", "binary"),
    ],
)
async def test_wrong_frames_are_answered(sent: Any, code: str, says: str) -> None:
    async with serving() as served, served.stream() as socket:
        await socket.send(sent)
        error = await frame(socket)
        assert (error["op"], error["code"]) == ("error", code)
        assert says in error["detail"]
        await say(socket, op="ping")
        assert (await frame(socket))["op"] == "pong"


async def test_one_bad_channel_does_not_spoil_the_others() -> None:
    async with serving(ServeConfig(port=0, channels=2)) as served, served.stream() as socket:
        await say(socket, op="subscribe", channels=["trade.>", "nope.>", "quote.>", "ticker.>"])
        first, second, third = [await frame(socket) for _ in range(3)]
        assert (first["code"], first["channel"]) == ("not_found", "nope.>")
        assert (second["code"], second["channel"]) == ("too_many_channels", "ticker.>")
        assert third["channels"] == ["trade.>", "quote.>"]


async def test_refused_handshakes_are_problems() -> None:
    async with serving(ServeConfig(port=0, connections=1)) as served, served.stream():
        with pytest.raises(InvalidStatus) as refused:
            async with served.stream():
                pass
        assert refused.value.response.status_code == 503
        assert msgspec.json.decode(refused.value.response.body)["code"] == "too_many_connections"
        with pytest.raises(InvalidStatus) as refused:
            async with served.stream(subprotocols=["tidewire.v9"]):
                pass
        assert refused.value.response.status_code == 400
        assert b"tidewire.v1.json" in refused.value.response.body


async def test_rows_within_a_tick_share_a_frame_and_the_text_is_shared() -> None:
    async with (
        serving(ServeConfig(port=0, tick=0.3)) as served,
        served.stream("trade.>") as a,
        served.stream("trade.>") as b,
    ):
        await served.publish(TRADE, trades(1))
        assert len((await frame(a))["rows"]) == len((await frame(b))["rows"]) == 1
        before = telemetry.value("tidewire_ws_rows_total", type="trade")
        for _ in range(5):
            await served.publish(TRADE, trades(2))
        one, other = await a.recv(), await b.recv()
        assert one == other
        assert len(msgspec.json.decode(one)["rows"]) == 10
        assert telemetry.value("tidewire_ws_rows_total", type="trade") == before + 10


async def test_a_final_bar_is_not_followed_by_its_forming_ones() -> None:
    async with serving() as served, served.stream("kline.>") as socket:
        forming = rows_of(KLINE, [kline(0, final=False), kline(1, final=False)])
        await served.publish(KLINE, rows_of(KLINE, [kline(0, final=True)]), forming=forming)
        rows = (await frame(socket))["rows"] + (await frame(socket))["rows"]
        assert [(row["open_time"][14:16], row["final"]) for row in rows] == [("00", True), ("01", False)]


async def test_a_slow_reader_of_states_gets_the_latest() -> None:
    config = ServeConfig(port=0, queue_bytes=64 << 20)
    async with serving(config) as served, served.stream("trade.>", "quote.>") as socket:
        socket.transport.pause_reading()
        await served.clog(socket)
        for number in range(1, 200):
            await served.publish(QUOTE, rows_of(QUOTE, [quote(number)]))
            if number % 20 == 0:
                await served.settled(lambda: not served.gateway.application.hub._pending)
        await served.settled(lambda: not served.gateway.application.hub._pending)
        socket.transport.resume_reading()
        quotes = []
        while not quotes or quotes[-1]["rows"][-1]["sequence"] != 199:
            found = await frame(socket)
            quotes += [found] if found["ch"].startswith("quote") else []
        assert len(quotes) <= 2


async def test_a_slow_reader_of_events_gets_a_gap_then_4008_and_others_everything() -> None:
    config = ServeConfig(port=0, queue_bytes=64 << 10, full_grace=0.0, tick=0.001)
    async with serving(config) as served, served.stream("trade.>") as slow, served.stream("trade.>") as good:
        got: list[int] = []
        reader = asyncio.create_task(_numbers(good, got))
        before = telemetry.value("tidewire_ws_evictions_total", reason="slow_reader")
        slow.transport.pause_reading()
        evicted, published = 0.0, 0
        while not evicted:
            await served.publish(TRADE, trades(100, trade_id="x" * 200))
            published += 1
            # The good reader keeps up, so only the slow one can be full.
            await served.settled(lambda wanted=published: len(got) == wanted)
            evicted = telemetry.value("tidewire_ws_evictions_total", reason="slow_reader") - before
        slow.transport.resume_reading()
        frames: list[dict[str, Any]] = []
        with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012 - it ends somewhere in the loop
            while True:
                frames.append(await frame(slow))
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4008
        assert [one["op"] for one in frames[-2:]] == ["gap", "bye"]
        told = 0
        for one in frames[:-1]:
            first, told_to = (one["seq"], one["seq"]) if one["op"] == "data" else (one["from"], one["to"])
            assert first == told + 1
            told = told_to
        assert (frames[-1]["code"], frames[-1]["reconnect"]) == (4008, True)
        await served.publish(TRADE, trades(1))
        await served.settled(lambda: len(got) == published + 1)
        reader.cancel()
        assert got == list(range(1, len(got) + 1))
        assert len(served.gateway.application.hub._connections) == 1


async def _numbers(socket: Any, got: list[int]) -> None:
    while True:
        got.append((await frame(socket, "data"))["seq"])


async def test_a_dead_reader_is_cut_off_and_holds_no_memory() -> None:
    config = ServeConfig(port=0, queue_bytes=64 << 10, full_grace=0.0, close_timeout=0.2)
    async with serving(config) as served, served.stream("trade.>", close_timeout=0.1) as dead:
        hub = served.gateway.application.hub
        dead.transport.pause_reading()
        connection = next(iter(hub._connections))
        async with asyncio.timeout(20):
            while hub._connections:
                await served.publish(TRADE, trades(200, trade_id="x" * 200))
                await asyncio.sleep(0)
                assert connection._box.waiting_bytes < (64 << 10) + (200 << 10)


async def test_an_evicted_reader_that_never_reads_is_cut_off() -> None:
    config = ServeConfig(port=0, queue_bytes=64 << 20, close_timeout=0.2)
    async with serving(config) as served, served.stream("trade.>", close_timeout=0.1) as dead:
        hub = served.gateway.application.hub
        dead.transport.pause_reading()
        await served.clog(dead)
        connection = next(iter(hub._connections))
        connection.evict()
        assert connection._box.waiting_bytes == 0
        await served.settled(lambda: not hub._connections)


async def test_idle_connections_are_pinged_and_dropped() -> None:
    async with serving(ServeConfig(port=0, ping_interval=0.1)) as served, served.stream(close_timeout=0.1) as socket:
        socket.transport.pause_reading()
        await served.settled(lambda: not served.gateway.application.hub._connections)


async def test_a_dead_reader_is_dropped_by_ping_although_more_waits_to_be_written() -> None:
    config = ServeConfig(port=0, ping_interval=1.5, queue_bytes=64 << 20)
    async with serving(config) as served, served.stream("trade.>", close_timeout=0.1) as socket:
        socket.transport.pause_reading()
        await served.clog(socket)
        await served.settled(lambda: not served.gateway.application.hub._connections)


async def test_a_hole_of_the_bus_is_told_and_a_repeat_skipped() -> None:
    async with serving() as served, served.stream("trade.>") as socket, served.stream("quote.>") as other:
        await served.publish(TRADE, trades(1))
        await served.publish(TRADE, trades(1), prev=0, last=1)
        await served.publish(TRADE, trades(1), prev=5, last=6)
        first, gap, third = [await frame(socket) for _ in range(3)]
        assert (first["seq"], third["seq"]) == (1, 2)
        assert gap == {"op": "gap", "ch": "trade.>", "from": None, "to": None, "reason": "gateway_behind"}
        await served.publish(QUOTE, rows_of(QUOTE, [quote(1)]))
        assert (await frame(other))["op"] == "data"


async def test_a_row_that_cannot_be_encoded_is_told_and_the_stream_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from tidewire.serve import stream as module

    async with serving() as served, served.stream("trade.>") as socket:
        right = module.row_texts
        monkeypatch.setattr(module, "row_texts", lambda _kind, _rows: 1 / 0)
        await served.publish(TRADE, trades(1))
        assert (await frame(socket))["op"] == "gap"
        monkeypatch.setattr(module, "row_texts", right)
        await served.publish(TRADE, trades(1))
        assert (await frame(socket))["op"] == "data"


async def test_two_sources_of_one_instrument_do_not_conflate() -> None:
    async with serving() as served, served.stream("quote.>") as socket:
        both = rows_of(QUOTE, [quote(1), quote(2, source="other", bid_price=Decimal(9))])
        await served.publish(QUOTE, both)
        rows = [row for _ in range(2) for row in (await frame(socket))["rows"]]
        assert {row["source"] for row in rows} == {"binance", "other"}


async def test_numbers_never_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from tidewire.serve import stream as module

    monkeypatch.setattr(module, "_ROUTES", 1)
    async with serving() as served, served.stream("trade.>") as socket:
        seen: list[tuple[str, int]] = []
        for instrument in (BTC, BTC, ETH, BTC):
            await served.publish(TRADE, trades(1, instrument=instrument))
            found = await frame(socket)
            seen.append((found["ch"], found["seq"]))
        assert seen == [(f"trade.{BTC}", 1), (f"trade.{BTC}", 2), (f"trade.{ETH}", 3), (f"trade.{BTC}", 4)]
