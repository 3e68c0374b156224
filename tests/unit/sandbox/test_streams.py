from __future__ import annotations

import aiohttp
import picows
import pytest

from tidewire.records.clock import ManualClock
from tidewire.sandbox.config import Faults, LimitConfig

QUICK = {"rate": 2_000.0, "symbols": ("BTCUSDT", "ETHUSDT")}


async def test_a_raw_stream_gives_the_bare_message(local):
    place = await local(**QUICK)
    listener = await place.listen("/ws/btcusdt@trade")
    trade = (await listener.until_texts(1))[0]
    assert list(trade) == ["e", "E", "s", "t", "p", "q", "T", "m", "M"]
    assert (trade["e"], trade["s"], trade["M"]) == ("trade", "BTCUSDT", True)


async def test_a_combined_stream_has_the_envelope(local):
    place = await local(**QUICK)
    listener = await place.listen("/stream?streams=btcusdt@trade/ethusdt@bookTicker")
    await listener.until(lambda: len({m["stream"] for m in listener.json()}) == 2)
    for message in listener.json():
        assert list(message) == ["stream", "data"]
        assert message["data"]["s"] == message["stream"].partition("@")[0].upper()


async def test_subscribe_list_unsubscribe(local):
    place = await local(**QUICK)
    listener = await place.listen("/ws")
    assert await listener.ask({"method": "SUBSCRIBE", "params": ["btcusdt@trade", "btcusdt@depth"], "id": 1}) == {
        "result": None,
        "id": 1,
    }
    assert (await listener.ask({"method": "LIST_SUBSCRIPTIONS", "id": "x"}))["result"] == [
        "btcusdt@trade",
        "btcusdt@depth",
    ]
    await listener.until(lambda: any(m.get("e") == "trade" for m in listener.json()))
    assert (await listener.ask({"method": "UNSUBSCRIBE", "params": ["btcusdt@trade"], "id": 3}))["id"] == 3
    assert place.sandbox.status()["subscriptions"] == {"btcusdt@depth": 1}


async def test_a_connection_can_be_made_combined(local):
    place = await local(**QUICK)
    listener = await place.listen("/ws/btcusdt@trade")
    await listener.until_texts(1)
    assert await listener.ask({"method": "SET_PROPERTY", "params": ["combined", True], "id": 5}) == {
        "result": None,
        "id": 5,
    }
    assert (await listener.ask({"method": "GET_PROPERTY", "params": ["combined"], "id": 2}))["result"] is True
    await listener.until(lambda: "stream" in listener.json()[-1])


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"{nonsense", 3),
        ([], 2),
        ({"params": ["btcusdt@trade"], "id": 1}, 2),
        ({"method": "FOO", "id": 1}, 2),
        ({"method": "SUBSCRIBE", "params": [7], "id": 1}, 2),
        ({"method": "SUBSCRIBE", "params": "btcusdt@trade", "id": 1}, 2),
        ({"method": "SUBSCRIBE", "params": ["a@trade"], "id": 1.5}, 2),
        ({"method": "SET_PROPERTY", "params": ["combine", True], "id": 1}, 0),
        ({"method": "SET_PROPERTY", "params": ["combined", 1], "id": 1}, 1),
        ({"method": "SET_PROPERTY", "params": [], "id": 1}, 2),
    ],
)
async def test_wrong_requests_get_an_error_and_the_connection_lives(local, request_, code):
    place = await local(rate=1.0, symbols=("BTCUSDT",))
    listener = await place.listen("/ws")
    reply = await listener.ask(request_)
    assert reply.get("error", reply)["code"] == code
    assert (await listener.ask({"method": "LIST_SUBSCRIPTIONS", "id": 2}))["result"] == []


async def test_too_many_client_messages_are_a_policy_violation(local):
    place = await local(rate=1.0)
    listener = await place.listen("/ws")
    for ident in range(6):
        listener.send({"method": "LIST_SUBSCRIPTIONS", "id": ident})
    await listener.until_gone()
    assert listener.close_code == 1008
    assert len(listener.texts) == 5


async def test_more_streams_than_allowed_are_refused(local):
    place = await local(rate=1.0, limits=LimitConfig(streams_per_connection=3))
    listener = await place.listen("/stream?streams=a@trade/b@trade")
    reply = await listener.ask({"method": "SUBSCRIBE", "params": ["c@trade", "d@trade"], "id": 1})
    assert reply["error"]["code"] == 2
    with pytest.raises(picows.WSError):
        await place.listen("/stream?streams=a/b/c/d")


async def test_too_many_connections_are_refused(local):
    place = await local(rate=1.0, limits=LimitConfig(connections_per_5_minutes=2))
    await place.listen("/ws")
    await place.listen("/ws")
    with pytest.raises(picows.WSError):
        await place.listen("/ws")


async def test_an_ordinary_request_to_a_stream_is_refused(local):
    place = await local(rate=1.0)
    assert (await place.get("/ws/btcusdt@trade")).status == 400


async def test_compression_is_not_offered(local):
    place = await local(rate=1.0)
    async with aiohttp.ClientSession() as session, session.ws_connect(place.sandbox.ws_url + "/ws", compress=15) as ws:
        assert ws.compress == 0


async def test_pings_come_and_a_client_that_answers_stays(local):
    clock = ManualClock()
    place = await local(clock, rate=1.0)
    listener = await place.listen("/ws")
    await listener.ask({"method": "LIST_SUBSCRIPTIONS", "id": 0})
    for number in range(1, 6):
        await clock.advance(20)
        await listener.until(lambda n=number: len([k for k, _ in listener.log if k == "PING"]) == n)
        # The reply to a request proves that the pong before it has been read.
        await listener.ask({"method": "LIST_SUBSCRIPTIONS", "id": number})
    assert int(next(payload for kind, payload in listener.log if kind == "PING")) == 1_700_000_020_000


async def test_a_client_that_does_not_answer_pings_is_cut(local):
    clock = ManualClock()
    place = await local(clock, rate=1.0)
    listener = await place.listen("/ws", auto_pong=False)
    await listener.ask({"method": "LIST_SUBSCRIPTIONS", "id": 0})
    for _ in range(4):
        await clock.advance(20)
    await listener.until_gone()
    assert listener.close_code == 1008


async def test_a_day_is_the_longest(local):
    clock = ManualClock()
    place = await local(clock, rate=1.0, limits=LimitConfig(connection_age_s=30, pong_timeout_s=1e9))
    listener = await place.listen("/ws")
    await listener.ask({"method": "LIST_SUBSCRIPTIONS", "id": 0})
    await clock.advance(40)
    await listener.until_gone()
    assert listener.close_code == 1001


async def test_silence_accepts_and_says_nothing(local):
    clock = ManualClock()
    place = await local(clock, symbols=("BTCUSDT",), faults=Faults(silence_s=30))
    listener = await place.listen("/ws/btcusdt@trade")
    listener.send({"method": "LIST_SUBSCRIPTIONS", "id": 1})
    await clock.advance(29)
    assert listener.log == []
    await clock.advance(5)
    await listener.until_texts(1)
    entry = place.sandbox.ledger()["btcusdt@trade"]
    assert entry["silenced"] > 0
    assert listener.json()[0]["t"] == entry["first_id"]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("aggTrade", ["e", "E", "s", "a", "p", "q", "f", "l", "T", "m", "M"]),
        ("bookTicker", ["u", "s", "b", "B", "a", "A"]),
        ("depth@100ms", ["e", "E", "s", "U", "u", "b", "a"]),
        ("depth20@100ms", ["lastUpdateId", "bids", "asks"]),
        ("ticker", list("eEspPwxcQbBaAohlvqOCFLn")),
        ("miniTicker", list("eEscohlvq")),
        ("kline_1s", ["e", "E", "s", "k"]),
    ],
)
async def test_every_field_of_every_stream(local, start_ns, kind, fields):
    place = await local(rate=None, start_ns=start_ns, symbols=("BTCUSDT",))
    listener = await place.listen(f"/ws/btcusdt@{kind}")
    message = (await listener.until_texts(1))[0]
    assert sorted(message) == sorted(fields)
    if kind == "kline_1s":
        assert list(message["k"]) == list("tTsifLochlvnxqVQB")


async def test_microsecond_times_on_request(local):
    place = await local(**QUICK)
    listener = await place.listen("/ws/btcusdt@trade?timeUnit=MICROSECOND")
    assert len(str((await listener.until_texts(1))[0]["T"])) == 16
