from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from tidewire.errors import InputError
from tidewire.records.clock import ManualClock
from tidewire.sandbox.config import Faults
from tidewire.sandbox.tape import parse_line, to_e8

DATA = Path(__file__).parents[4] / "shared" / "data" / "crypto" / "binance-spot-ethusdt-20240808.gz"
BEGIN = 1_723_161_254_024_619_568
ENDINGS = frozenset({"@trade", "@bookTicker"})


def trade(number, symbol="ETHUSDT"):
    ms = 1_723_161_255_000 + 50 * number
    return {
        "e": "trade",
        "E": ms,
        "s": symbol,
        "t": 500 + number,
        "p": f"{2683 + number % 7}.81000000",
        "q": "0.02500000",
        "T": ms,
        "m": number % 2 == 0,
        "M": True,
    }


def quote(number, symbol="ETHUSDT"):
    return {"u": 9_000 + number, "s": symbol, "b": "2683.80", "B": "3.0292", "a": "2683.81", "A": "31.4395"}


def lines(count=300, step_ns=10_000_000):
    """Trades and quotes in turn, two messages an instant, with one snapshot in the middle."""
    made = []
    for number in range(count):
        ns = BEGIN + number // 2 * step_ns
        kind, data = ("trade", trade(number)) if number % 2 else ("bookTicker", quote(number))
        made.append((ns, {"stream": f"ethusdt@{kind}", "data": data}))
    made.insert(count // 2, (made[count // 2][0], {"lastUpdateId": 77, "bids": [["1", "2"]], "asks": [["3", "4"]]}))
    return made


def record(path, made):
    with gzip.open(path, "wb") as file:
        for ns, message in made:
            file.write(b"%d %s\n" % (ns, msgspec.json.encode(message)))
    return path


@pytest.fixture
def tape(tmp_path):
    return record(tmp_path / "tape.gz", lines())


def messages(made):
    return [(ns, message) for ns, message in made if "stream" in message]


async def test_played_in_order_with_the_recordings_clock(local, tape):
    place = await local(tape=tape, speed=None, start_on=ENDINGS)
    listener = await place.listen("/stream?streams=ethusdt@trade/ethusdt@bookTicker")
    wanted = messages(lines())
    assert await listener.until_texts(len(wanted)) == [message for _, message in wanted]
    clock, stamped, told = 0, [], 0
    for kind, payload in listener.log:
        if kind == "PONG":
            assert payload[:2] == b"TW"
            clock = int.from_bytes(payload[2:], "little", signed=True)
            told += 1
        else:
            stamped.append(clock)
    assert stamped == [ns for ns, _ in wanted]
    assert told == len(set(stamped))
    await place.sandbox.finished()
    status = (await place.get("/sandbox/status")).body
    assert (status["state"], status["events"], status["events_total"]) == ("done", 301, 301)
    assert status["sent"] == {"ethusdt@trade": 150, "ethusdt@bookTicker": 150}
    ledger = (await place.get("/sandbox/ledger")).body["ethusdt@trade"]
    assert (ledger["first_id"], ledger["last_id"]) == (501, 799)


async def test_raw_connections_get_bare_data_of_their_stream_only(local, tape):
    place = await local(tape=tape, speed=None)
    raw = await place.listen("/ws/ethusdt@trade")
    both = await place.listen("/stream?streams=ethusdt@bookTicker/ethusdt@trade")
    assert place.sandbox.status()["state"] == "waiting"
    await place.post("/sandbox/play", {})
    trades = [message["data"] for _, message in messages(lines()) if message["stream"] == "ethusdt@trade"]
    assert await raw.until_texts(len(trades)) == trades
    await both.until_texts(300)


async def test_it_waits_until_every_stream_is_subscribed(local, tape):
    place = await local(tape=tape, speed=None, start_on=ENDINGS)
    listener = await place.listen("/ws/ethusdt@trade")
    assert place.sandbox.status()["state"] == "waiting"
    await listener.ask({"method": "SUBSCRIBE", "params": ["ethusdt@bookTicker"], "id": 1})
    await listener.until_texts(301)


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 1.49), (10.0, 0.149)])
async def test_speed(local, tape, speed, seconds):
    clock = ManualClock()
    place = await local(clock, tape=tape, speed=speed, start_on=frozenset({"@trade"}))
    await place.listen("/ws/ethusdt@trade")
    await clock.advance(seconds - 0.001)
    assert place.sandbox.status()["state"] == "playing"
    assert place.sandbox.status()["events"] == 299
    await clock.advance(0.002)
    assert place.sandbox.status()["state"] == "done"


async def test_rest_answers_from_the_recording(local, tape):
    place = await local(tape=tape, speed=None, start_on=frozenset({"@trade"}))
    before = await place.api("depth", symbol="ETHUSDT")
    assert before["lastUpdateId"] == 77
    assert await place.api("trades", symbol="ETHUSDT") == []
    assert await place.api("klines", symbol="ETHUSDT", interval="1m") == []
    assert (await place.api("ticker/24hr", symbol="ETHUSDT"))["count"] == 0
    listed = (await place.api("exchangeInfo"))["symbols"]
    assert [(entry["symbol"], entry["baseAsset"], entry["quoteAsset"]) for entry in listed] == [
        ("ETHUSDT", "ETH", "USDT")
    ]
    filters = {entry["filterType"]: entry for entry in listed[0]["filters"]}
    assert filters["PRICE_FILTER"]["tickSize"] == "0.01000000"
    assert filters["LOT_SIZE"]["stepSize"] == "0.00010000"
    await place.listen("/ws/ethusdt@trade")
    await place.sandbox.finished()
    rows = await place.api("historicalTrades", symbol="ETHUSDT", fromId=501, limit=3)
    wanted = [message["data"] for _, message in messages(lines()) if message["stream"] == "ethusdt@trade"]
    assert [(row["id"], row["price"], row["time"]) for row in rows] == [
        (data["t"], data["p"], data["T"]) for data in wanted[:3]
    ]
    assert (await place.api("ticker/bookTicker", symbol="ETHUSDT"))["askPrice"] == "2683.81"
    bars = await place.api(
        "klines", symbol="ETHUSDT", interval="1m", startTime=wanted[0]["T"] - 60_000, endTime=wanted[-1]["T"]
    )
    assert sum(bar[8] for bar in bars) == sum(data["T"] < BEGIN // 10**6 + 60_000 for data in wanted)


async def test_faults_and_the_ledger_agree_with_what_arrived(local, tape):
    place = await local(
        tape=tape, speed=None, start_on=ENDINGS, faults=Faults(drop=0.2, duplicate=0.2, reorder=0.1, only=("@trade",))
    )
    listener = await place.listen("/stream?streams=ethusdt@trade/ethusdt@bookTicker")
    await place.sandbox.finished()
    ledger = place.sandbox.ledger()
    quotes, trades = ledger["ethusdt@bookTicker"], ledger["ethusdt@trade"]
    assert (quotes["sent"], quotes["dropped"]) == (150, 0)
    assert trades["dropped"] > 0 < trades["duplicated"]
    await listener.until_texts(quotes["sent"] + trades["sent"])
    arrived = Counter(m["data"]["t"] for m in listener.json() if m["stream"] == "ethusdt@trade")
    assert set(range(501, 801, 2)) - set(arrived) == set(trades["dropped_ids"])
    assert sum(arrived.values()) == trades["sent"]
    assert sum(count - 1 for count in arrived.values()) == trades["duplicated"]


async def test_skew_shifts_event_times(local, tape):
    place = await local(tape=tape, speed=None, start_on=frozenset({"@trade"}), faults=Faults(skew_s=-2.0))
    listener = await place.listen("/ws/ethusdt@trade")
    first = (await listener.until_texts(1))[0]
    assert first == {**trade(1), "E": trade(1)["E"] - 2_000, "T": trade(1)["T"] - 2_000}


async def test_several_symbols_find_their_own_snapshot(local, tmp_path):
    def depth(symbol, update):
        data = {"e": "depthUpdate", "E": 1, "s": symbol, "U": update, "u": update, "b": [], "a": []}
        return {"stream": f"{symbol.lower()}@depth@100ms", "data": data}

    made = [
        (1, depth("ETHUSDT", 1_000)),
        (2, depth("BTCUSDT", 50_000)),
        (3, {"lastUpdateId": 50_001, "bids": [], "asks": []}),
        (4, {"lastUpdateId": 1_001, "bids": [], "asks": []}),
    ]
    place = await local(tape=record(tmp_path / "two.gz", made), speed=None)
    assert (await place.api("depth", symbol="BTCUSDT"))["lastUpdateId"] == 50_001
    assert (await place.api("depth", symbol="ETHUSDT"))["lastUpdateId"] == 1_001


async def test_a_stream_that_is_not_there_is_refused_at_the_start(local, tape):
    with pytest.raises(InputError, match=r"@kline.*it has ethusdt@bookTicker, ethusdt@trade"):
        await local(tape=tape, start_on=frozenset({"@kline_1m"}))


@pytest.mark.parametrize(
    "content",
    [b"hello", gzip.compress(b"1 {}\n" * 100)[:20], gzip.compress(b"not a line\n")],
    ids=["no gzip", "cut short", "no line"],
)
async def test_what_is_no_recording_is_refused(local, tmp_path, content):
    (tmp_path / "bad.gz").write_bytes(content)
    with pytest.raises(InputError):
        await local(tape=tmp_path / "bad.gz")


async def test_a_missing_recording_is_refused(local, tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        await local(tape=tmp_path / "none.gz")


def test_a_wrong_line_is_named():
    with pytest.raises(InputError, match="Line 7"):
        parse_line(b'12 {"data":1}', 7)


def test_numbers_are_exact_or_refused():
    assert to_e8("2683.80000001") == 268_380_000_001
    assert to_e8("5") == 500_000_000
    with pytest.raises(InputError):
        to_e8("0.000000001")


@pytest.mark.skipif(not DATA.exists(), reason="the recording ../shared/data/crypto is not here")
async def test_the_real_recording_arrives_whole_and_in_order(local):
    kinds = {"trade": 6_106, "bookTicker": 24_077, "depth@100ms": 3_434}
    place = await local(tape=DATA, speed=None, start_on=frozenset(f"@{kind}" for kind in kinds))
    listener = await place.listen("/stream?streams=" + "/".join(f"ethusdt@{kind}" for kind in kinds))
    await listener.until(lambda: len(listener.texts) == sum(kinds.values()))
    with gzip.open(DATA) as file:
        wanted = [line.rstrip().split(b" ", 1) for line in file]
    wanted = [(int(ns), body) for ns, body in wanted if body.startswith(b'{"stream"')]
    assert listener.texts == [body for _, body in wanted]
    clock, stamped = 0, []
    for kind, payload in listener.log:
        if kind == "PONG":
            clock = int.from_bytes(payload[2:], "little")
        else:
            stamped.append(clock)
    assert stamped == [ns for ns, _ in wanted]
    await place.sandbox.finished()
    assert place.sandbox.status()["sent"] == {f"ethusdt@{kind}": count for kind, count in kinds.items()}
