"""A real recording through real sockets: every row is there, exact, once, and served the same in every form."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from integration.conftest import CHANNEL, QUOTES, TRADES, Recorded
from integration.kit import RECORDING, balanced

STEP_US = 10
"""By how much a receive time may be late: after each rest the journal's clock moves on by a microsecond."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def moment_of(text: str) -> int:
    return micros(datetime.fromisoformat(text))


@cache
def lines(stream: str) -> list[tuple[int, dict[str, Any]]]:
    """Receive time (ns) and message of a stream, read from the recording with the standard library."""
    found: list[tuple[int, dict[str, Any]]] = []
    with gzip.open(RECORDING, "rt") as file:
        for line in file:
            at, _, body = line.partition(" ")
            message = json.loads(body)
            if message.get("stream") == f"ethusdt@{stream}":
                found.append((int(at), message["data"]))
    return found


def bars() -> Iterator[dict[str, Any]]:
    """One-minute bars of the recording's trades."""
    minutes: dict[int, list[dict[str, Any]]] = {}
    for _, trade in lines("trade"):
        minutes.setdefault(trade["T"] // 60_000, []).append(trade)
    for minute, trades in sorted(minutes.items()):
        trades.sort(key=lambda trade: (trade["T"], trade["t"]))
        prices = [Decimal(trade["p"]) for trade in trades]
        sizes = [Decimal(trade["q"]) for trade in trades]
        bought = [not trade["m"] for trade in trades]
        yield {
            "open_time": minute * 60_000_000,
            "close_time": (minute + 1) * 60_000_000,
            "open": prices[0],
            "high": max(prices),
            "low": min(prices),
            "close": prices[-1],
            "volume": sum(sizes),
            "amount": sum(p * s for p, s in zip(prices, sizes, strict=True)),
            "trades": len(trades),
            "buy_volume": sum((s for s, b in zip(sizes, bought, strict=True) if b), Decimal(0)),
            "buy_amount": sum((p * s for p, s, b in zip(prices, sizes, bought, strict=True) if b), Decimal(0)),
        }


def test_every_trade_is_the_recordings(recorded: Recorded) -> None:
    rows = recorded.tables["trade_v1"].sort("sequence")
    assert rows.height == TRADES == len(lines("trade"))
    assert recorded.tables["trade_v1_revisions"].is_empty()
    for row, (at, trade) in zip(rows.iter_rows(named=True), lines("trade"), strict=True):
        assert row["source"] == "binance"
        assert row["instrument"] == "ETH-USDT.BINANCE"
        assert row["trade_id"] == str(trade["t"])
        assert row["sequence"] == trade["t"]
        assert row["price"] == Decimal(trade["p"])
        assert row["size"] == Decimal(trade["q"])
        assert row["side"] == ("sell" if trade["m"] else "buy")
        assert micros(row["event_time"]) == micros(row["public_at"]) == trade["T"] * 1_000
        assert 0 <= micros(row["ingested_at"]) - at // 1_000 <= STEP_US


def test_every_quote_is_the_recordings(recorded: Recorded) -> None:
    rows = recorded.tables["quote_v1"].sort("frame")
    assert rows.height == QUOTES == len(lines("bookTicker"))
    assert recorded.tables["quote_v1_revisions"].is_empty()
    for row, (at, quote) in zip(rows.iter_rows(named=True), lines("bookTicker"), strict=True):
        assert row["instrument"] == "ETH-USDT.BINANCE"
        assert row["sequence"] == quote["u"]
        for column, name in (("bid_price", "b"), ("bid_size", "B"), ("ask_price", "a"), ("ask_size", "A")):
            assert row[column] == Decimal(quote[name])
        assert micros(row["event_time"]) == micros(row["ingested_at"])
        assert 0 <= micros(row["ingested_at"]) - at // 1_000 <= STEP_US


def test_nothing_is_quarantined_for_the_skewed_clock(recorded: Recorded) -> None:
    assert recorded.tables["quarantined_v1"].is_empty()
    assert recorded.answers["quarantine"]["data"] == []
    (source,) = recorded.answers["sources"]["data"]
    assert source["clock_skew_seconds"]["trade"] == pytest.approx(-1.27, abs=0.01)


def test_no_gap_inside_the_recording(recorded: Recorded) -> None:
    assert recorded.answers["gaps"]["data"] == []


def test_the_books_add_up(recorded: Recorded) -> None:
    audit = recorded.answers["audit"]["data"]
    balanced(audit)
    stored = {line["type"]: line["fates"].get("stored", 0) for line in audit["lines"]}
    assert stored["trade"] == TRADES
    assert stored["quote"] == QUOTES


def test_bars_equal_bars_computed_here(recorded: Recorded) -> None:
    served = recorded.answers["bars"]["data"]
    expected = list(bars())
    assert len(served) == len(expected) == 7
    for bar, mine in zip(served, expected, strict=True):
        assert bar["interval"] == "1m"
        assert moment_of(bar["open_time"]) == moment_of(bar["event_time"]) == mine["open_time"]
        assert moment_of(bar["close_time"]) == mine["close_time"]
        assert bar["trades"] == mine["trades"]
        for name in ("open", "high", "low", "close", "volume", "amount", "buy_volume", "buy_amount"):
            assert Decimal(bar[name]) == mine[name], name


def test_latest_is_the_last_trade(recorded: Recorded) -> None:
    (row,) = recorded.answers["latest"]["data"]
    assert row["trade_id"] == str(lines("trade")[-1][1]["t"])


def test_the_last_trade_is_in_a_plain_read(recorded: Recorded) -> None:
    assert recorded.answers["shown"]["trade"]


def test_the_very_last_frame_is_in_a_plain_read(recorded: Recorded) -> None:
    assert recorded.answers["shown"]["quote"]


def _rows_of(form: str, body: bytes) -> list[dict[str, Any]]:
    if form == "json":
        return json.loads(body)["data"]
    if form == "ndjson":
        return [json.loads(line) for line in body.splitlines()]
    if form == "csv":
        return list(csv.DictReader(io.StringIO(body.decode())))
    table = pa.ipc.open_stream(body).read_all() if form == "arrow" else pq.read_table(io.BytesIO(body))
    return table.to_pylist()


def _plain(kind: str, row: dict[str, Any]) -> tuple[Any, ...]:
    """A row in any form, as comparable values."""
    decimals = ("price", "size") if kind == "trade" else ("bid_price", "bid_size", "ask_price", "ask_size")
    texts = ("source", "instrument") + (("trade_id", "side") if kind == "trade" else ())
    times = [
        micros(value) if isinstance(value := row[name], datetime) else moment_of(value)
        for name in ("event_time", "public_at", "ingested_at")
    ]
    whole = [int(row[name]) for name in ("sequence", "frame", "ordinal")]
    return (*(row[name] for name in texts), *(Decimal(row[name]) for name in decimals), *times, *whole)


@pytest.mark.parametrize("kind", ["trade", "quote"])
@pytest.mark.parametrize("form", ["json", "ndjson", "csv", "arrow", "parquet"])
def test_served_the_same_in_every_form(recorded: Recorded, kind: str, form: str) -> None:
    headers, body = recorded.bodies[f"{kind}.{form}"]
    stored = recorded.tables[f"{kind}_v1"].sort("event_time", "frame", "ordinal")
    served = _rows_of(form, body)
    assert int(headers["x-tidewire-rows"]) == stored.height == len(served)
    expected = (_plain(kind, row) for row in stored.iter_rows(named=True))
    for place, (row, mine) in enumerate(zip(served, expected, strict=True)):
        assert _plain(kind, row) == mine, f"row {place}"
        assert row.keys() == set(stored.columns)


def test_a_subscriber_got_every_trade_once(recorded: Recorded) -> None:
    data = [frame for frame in recorded.frames if frame["op"] == "data"]
    assert {frame["op"] for frame in recorded.frames} <= {"welcome", "subscribed", "data"}
    assert {frame["ch"] for frame in data} == {CHANNEL}
    assert [frame["seq"] for frame in data] == list(range(1, len(data) + 1))
    pushed = [row for frame in data for row in frame["rows"]]
    served = [json.loads(line) for line in recorded.bodies["trade.ndjson"][1].splitlines()]
    assert pushed == sorted(served, key=lambda row: row["frame"])


def test_stored_columns_have_the_declared_types(recorded: Recorded) -> None:
    assert recorded.tables["trade_v1"].schema["price"] == pl.Decimal(38, 12)
    assert recorded.tables["trade_v1"].schema["size"] == pl.Decimal(38, 8)
    assert recorded.tables["trade_v1"].schema["event_time"] == pl.Datetime("us", "UTC")
