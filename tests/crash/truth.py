"""What must be in the store, worked out without the product: from the journal's bytes and the ledger of the sandbox.

The reading of segments, of messages and of numbers is written here once more, in columns: ten million rows are
compared in a minute or two, and in a few GB.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import duckdb
import numpy as np
import polars as pl
import xxhash

from tidewire.records.record import types

SYMBOLS = {"BTCUSDT": "BTC-USDT.BINANCE", "ETHUSDT": "ETH-USDT.BINANCE", "SOLUSDT": "SOL-USDT.BINANCE"}
STORE = "tidewire.duckdb"
JOURNAL = "_journal"
DATA = 1

_HEAD = struct.Struct("<IQQqqBBHIHHI")
_KEYS = {
    "trade": ("instrument", "sequence"),
    "quote": ("instrument", "sequence"),
    "kline": ("instrument", "interval", "open_us"),
}
_E8 = ("price", "size", "bid_price", "bid_size", "ask_price", "ask_size", "open", "high", "low", "close", "volume")


class Raw(NamedTuple):
    """A frame as it lies in a segment."""

    sequence: int
    kind: int
    request: str
    payload: bytes


def walk(content: bytes, first: int) -> Iterator[Raw]:
    """The frames of a segment up to the zero that ends them; fails at anything else."""
    at, sequence = 64, first
    while at + _HEAD.size <= len(content):
        length, checksum, number, _, _, kind, flags, _, cursor, source, collector, request = _HEAD.unpack_from(
            content, at
        )
        if not length:
            return
        whole = length >= _HEAD.size and xxhash.xxh3_64_intdigest(content[at + 12 : at + length]) == checksum
        assert whole, f"at byte {at} of segment {first} is no frame, {sequence} is expected"
        assert (number, flags) == (sequence, 0), f"at byte {at} of segment {first} is frame {number}, not {sequence}"
        names = at + _HEAD.size + source + collector
        asked = content[names : names + request].decode()
        yield Raw(number, kind, asked, content[names + request + cursor : at + length])
        at += length
        sequence += 1


def frames(directory: Path) -> Iterator[Raw]:
    """Every frame of a journal; fails at a hole, and unless every segment is whole."""
    expect = 1
    for path in sorted(directory.glob("*.seg")):
        assert int(path.stem) == expect, f"{path.name} should begin with frame {expect}"
        for raw in walk(path.read_bytes(), expect):
            yield raw
            expect = raw.sequence + 1


@dataclass
class Truth:
    """The rows of a journal by record type, each at its first frame; ``frames`` and ``messages`` counted."""

    rows: dict[str, pl.DataFrame]
    frames: int = 0
    messages: int = 0
    resumed: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """What the control frames say about breaks."""
    connections: int = 0
    """How many the venue confirmed a subscription on."""
    untold: int = 0
    """How many of those, the first apart, began without a word about the time before."""

    @classmethod
    def of(cls, directory: Path) -> Truth:
        reading = _Reading()
        for raw in frames(directory):
            reading.take(raw)
        reading.flush()
        rows = {
            kind: pl.concat(parts).unique(_KEYS[kind], keep="first", maintain_order=True).sort(_KEYS[kind])
            for kind, parts in reading.parts.items()
        }
        return cls(rows, reading.frames, reading.messages, reading.resumed, reading.connections, reading.untold)


_TRADE = pl.Struct(
    {"s": pl.String, "t": pl.Int64, "p": pl.String, "q": pl.String, "T": pl.Int64, "m": pl.Boolean},
)
_QUOTE = pl.Struct(
    {"s": pl.String, "u": pl.Int64, "b": pl.String, "B": pl.String, "a": pl.String, "A": pl.String},
)
_MOST = 100_000


class _Reading:
    """Gathers messages of one kind and turns them into columns by the hundred thousand."""

    def __init__(self) -> None:
        self.parts: dict[str, list[pl.DataFrame]] = {kind: [] for kind in _KEYS}
        self.frames = self.messages = self.connections = self.untold = 0
        self._told = True
        self.resumed: list[dict[str, Any]] = []
        self._trades: tuple[list[int], list[bytes]] = [], []
        self._quotes: tuple[list[int], list[bytes]] = [], []
        self._bars: list[tuple[Any, ...]] = []
        self._asked: list[tuple[Any, ...]] = []

    def take(self, raw: Raw) -> None:
        self.frames += 1
        payload = raw.payload
        if raw.kind != DATA:
            act = json.loads(payload)
            if act.get("event") == "resumed":
                self._told = True
                self.resumed.append({"frame": raw.sequence, **act})
            return
        if payload.startswith(b'{"stream":"'):
            self.messages += 1
            stream = payload[11 : payload.index(b'"', 11)]
            if stream.endswith(b"@trade"):
                found = self._trades
            elif stream.endswith(b"@bookTicker"):
                found = self._quotes
            else:
                if b"@kline_" in stream:
                    self._bar(raw.sequence, json.loads(payload)["data"]["k"])
                return
            found[0].append(raw.sequence)
            found[1].append(payload)
            if len(found[0]) >= _MOST:
                self.flush()
        elif raw.request.startswith("GET "):
            self._answer(raw)
        elif payload.startswith(b'{"result":'):
            self.connections += 1
            self.untold += not self._told
            self._told = False

    def _bar(self, frame: int, bar: Mapping[str, Any]) -> None:
        if bar["x"]:
            values = (bar[name] for name in ("o", "h", "l", "c", "v", "q"))
            self._bars.append((frame, SYMBOLS[bar["s"]], bar["i"], bar["t"] * 1_000, *values, bar["n"]))

    def _answer(self, raw: Raw) -> None:
        """Bars and trades that were asked for by REST."""
        parts = urlsplit(raw.request.removeprefix("GET "))
        asked = {name: value[0] for name, value in parse_qs(parts.query).items()}
        if parts.path.endswith("/klines"):
            for row in json.loads(raw.payload)[:-1]:
                place = raw.sequence, SYMBOLS[asked["symbol"]], asked["interval"], row[0] * 1_000
                self._bars.append((*place, *row[1:6], row[7], row[8]))
        elif parts.path.endswith(("/historicalTrades", "/trades")):
            for row in json.loads(raw.payload):
                side = "sell" if row["isBuyerMaker"] else "buy"
                values = SYMBOLS[asked["symbol"]], row["id"], row["price"], row["qty"], side, row["time"] * 1_000
                self._asked.append((raw.sequence, *values))

    def flush(self) -> None:
        names = pl.col("s").replace_strict(SYMBOLS, return_dtype=pl.String).alias("instrument")
        if self._trades[0]:
            rows = _columns(*self._trades, _TRADE).select(
                pl.col("frame"), names, pl.col("t").alias("sequence"), _e8("p", "price"), _e8("q", "size"),
                pl.when("m").then(pl.lit("sell")).otherwise(pl.lit("buy")).alias("side"),
                (pl.col("T") * 1_000).alias("event_us"),
            )  # fmt: skip
            self.parts["trade"].append(rows)
        if self._asked:
            shape = ["frame", "instrument", "sequence", "price", "size", "side", "event_us"]
            rows = pl.DataFrame(self._asked, shape, orient="row")
            self.parts["trade"].append(rows.with_columns(_e8("price", "price"), _e8("size", "size")))
        if self._quotes[0]:
            rows = _columns(*self._quotes, _QUOTE).select(
                pl.col("frame"), names, pl.col("u").alias("sequence"), _e8("b", "bid_price"), _e8("B", "bid_size"),
                _e8("a", "ask_price"), _e8("A", "ask_size"),
            )  # fmt: skip
            self.parts["quote"].append(rows)
        if self._bars:
            texts = ["open", "high", "low", "close", "volume", "amount"]
            shape = ["frame", "instrument", "interval", "open_us", *texts, "trades"]
            rows = pl.DataFrame(self._bars, shape, orient="row")
            self.parts["kline"].append(rows.with_columns(_e8(name, name) for name in texts))
        for part in (*self._trades, *self._quotes, self._bars, self._asked):
            part.clear()


def _columns(sequences: list[int], payloads: list[bytes], shape: pl.Struct) -> pl.DataFrame:
    messages = pl.Series("m", payloads).cast(pl.String).str.json_decode(pl.Struct({"data": shape}))
    data = messages.struct.field("data").struct.unnest()
    return data.with_columns(pl.Series("frame", sequences, dtype=pl.Int64))


def _e8(name: str, to: str) -> pl.Expr:
    """Text with eight digits behind the point, as a whole number of 1e-8."""
    return pl.col(name).str.replace(".", "", literal=True).cast(pl.Int64).alias(to)


# -- the store ------------------------------------------------------------------------------------------------------

_STORED = {
    "trade": "frame, instrument, sequence, price, size, side, epoch_us(event_time) AS event_us",
    "quote": "frame, instrument, sequence, bid_price, bid_size, ask_price, ask_size",
    "kline": 'frame, instrument, "interval", epoch_us(open_time) AS open_us, open, high, low, close, volume, amount, '
    "trades",
}


class Stored:
    """A closed store's file, read without the product."""

    def __init__(self, data: Path) -> None:
        self._file = data / STORE

    def sql(self, statement: str) -> pl.DataFrame:
        with duckdb.connect(str(self._file), read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            found = pl.from_arrow(connection.sql(statement).to_arrow_table())
        assert isinstance(found, pl.DataFrame)
        return found

    def rows(self, kind: str) -> pl.DataFrame:
        found = self.sql(f"SELECT {_STORED[kind]} FROM {kind}_v1")
        exact = [name for name, dtype in found.schema.items() if isinstance(dtype, pl.Decimal)]
        scaled: list[pl.Expr] = []
        for name in exact:
            dtype = found.schema[name]
            assert isinstance(dtype, pl.Decimal)
            whole, unit = pl.col(name).to_physical(), pl.lit(10 ** (dtype.scale - 8), pl.Int128)
            assert found.select((whole % unit == 0).all()).item(), f"{kind}: {name} has digits that were never sent"
            scaled.append((whole // unit).cast(pl.Int64).alias(name))
        whole_numbers = [pl.col(name).cast(pl.Int64) for name in ("frame", "sequence", "trades") if name in found]
        return found.with_columns(*scaled, *whole_numbers).sort(_KEYS[kind])

    def count(self, table: str) -> int:
        return int(self.sql(f"SELECT count(*) AS n FROM {table}")["n"][0])

    def gaps(self) -> pl.DataFrame:
        """Every state that a gap was ever in, in order."""
        both = "SELECT * FROM gap_v1 UNION ALL SELECT * FROM gap_v1_revisions"
        return self.sql(f"SELECT * FROM ({both}) ORDER BY frame, ordinal")

    def open_gaps(self) -> pl.DataFrame:
        """The latest state of each gap that is not filled."""
        last = self.gaps().unique(["source", "record_type", "gap_id", "instrument"], keep="last", maintain_order=True)
        return last.filter(pl.col("state") != "filled")


def same(truth: Truth, stored: Stored) -> int:
    """Fail unless trades, quotes and bars of the journal are the store's, each once, at its first frame; how many."""
    total = 0
    no_key_twice(stored)
    for kind, expected in truth.rows.items():
        key = list(_KEYS[kind])
        found = stored.rows(kind).select(expected.columns)
        assert stored.count(f"{kind}_v1_revisions") == 0, f"{kind}: rows were revised, the source never did that"
        total += found.height
        if found.equals(expected):
            continue
        missing = expected.join(found, on=key, how="anti")
        assert missing.is_empty(), (
            f"{kind}: {missing.height:,} accepted rows are not stored: {missing.head(3).to_dicts()}"
        )
        extra = found.join(expected, on=key, how="anti")
        assert extra.is_empty(), f"{kind}: {extra.height:,} stored rows are in no frame: {extra.head(3).to_dicts()}"
        wrong = expected.join(found, on=expected.columns, how="anti")
        raise AssertionError(f"{kind}: {wrong.height:,} rows differ: {wrong.head(3).to_dicts()}")
    assert stored.count("quarantined_v1") == 0, "rows are in quarantine, the source sent none that are wrong"
    return total


def no_key_twice(stored: Stored) -> None:
    """Fail if any table of a record type holds a key twice."""
    for kind in types().values():
        key = ", ".join(f'"{name}"' for name in kind.key)
        twice = stored.sql(f"SELECT {key}, count(*) AS times FROM {kind.table} GROUP BY ALL HAVING count(*) > 1")
        assert twice.is_empty(), f"{kind.name}: {twice.height:,} rows are stored twice: {twice.head(3).to_dicts()}"


@dataclass(frozen=True)
class Trades:
    """What became of the trades the sandbox numbered."""

    numbered: int
    stored: int
    missing: int
    """Not stored, and in an open gap."""


def every_trade_is_accounted_for(stored: Stored, ledger: Mapping[str, Mapping[str, Any]]) -> Trades:
    """Fail unless each trade the sandbox sent, from its first to its last, is stored or in one recorded gap."""
    rows, gaps = stored.rows("trade"), stored.open_gaps().filter(record_type="trade")
    totals = np.zeros(3, dtype=np.int64)
    for symbol, instrument in SYMBOLS.items():
        entry = ledger[f"{symbol.lower()}@trade"]
        numbered = np.arange(entry["first_id"], entry["last_id"] + 1)
        have = rows.filter(instrument=instrument)["sequence"].to_numpy()
        missing = np.setdiff1d(numbered, have, assume_unique=True)
        mine = gaps.filter(instrument=instrument).select("first_sequence", "last_sequence").drop_nulls()
        spans = [np.arange(first, last + 1) for first, last in mine.iter_rows()]
        inside = np.setdiff1d(np.concatenate([np.empty(0, np.int64), *spans]), have)
        assert all(np.isin(span, missing).any() for span in spans), f"{symbol}: a gap misses nothing"
        assert sum(map(len, spans)) == len(np.unique(np.concatenate([np.empty(0, np.int64), *spans]))), symbol
        nowhere = np.setdiff1d(missing, inside)
        assert not len(nowhere), f"{symbol}: {len(nowhere):,} trades are nowhere, the first {nowhere[:3].tolist()}"
        unheard = np.setdiff1d(inside, missing)
        assert not len(unheard), f"{symbol}: {len(unheard):,} trades are in a gap and were never sent"
        assert entry["sent"] - entry["duplicated"] <= len(numbered)
        totals += len(numbered), len(have), len(missing)
    return Trades(*map(int, totals))


def _compared(column: str) -> str:
    """What of a column is compared. The content of a quarantined row names no column that came with a later version."""
    if column != '"content"':
        return column
    return "regexp_replace(content, '\"[a-z_]+\":null,?', '', 'g') AS content"


def same_as_replayed(data: Path, again: Path) -> int:
    """Fail unless two stores hold the same rows in all columns, and their books the same counts; how many rows."""
    total = 0
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{data / STORE}' AS a (READ_ONLY); ATTACH '{again / STORE}' AS b (READ_ONLY)")
        listed = connection.execute("SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'a'")
        columns: dict[str, list[str]] = {}
        for table, column in listed.fetchall():
            # An upgraded store has its columns in another order. Which id a journal got is no part of its rows.
            if column != JOURNAL and (not table.startswith("_") or table == "_fates"):
                columns.setdefault(table, []).append(f'"{column}"')
        assert {"trade_v1", "gap_v1", "_fates"} <= columns.keys()
        for table, names in sorted(columns.items()):
            chosen = ", ".join(map(_compared, sorted(names)))
            one, two = (f"(SELECT {chosen} FROM {base}.{table})" for base in "ab")
            # The sum over all rows of a hash over all columns does not depend on their order.
            asked = "SELECT count(*), sum(hash(t)::HUGEINT)::VARCHAR FROM"
            sums = [connection.execute(f"{asked} {rows} AS t").fetchall()[0] for rows in (one, two)]
            if sums[0] != sums[1]:
                pairs = (one, two), (two, one)
                only = [
                    connection.execute(f"SELECT t::VARCHAR FROM ({a} EXCEPT ALL {b} LIMIT 3) AS t").fetchall()
                    for a, b in pairs
                ]
                raise AssertionError(
                    f"{table}: a replay gives other rows, {sums[1][0]:,} for {sums[0][0]:,}: "
                    f"only live {only[0]}; only replayed {only[1]}"
                )
            total += sums[0][0]
    return total
