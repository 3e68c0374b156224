"""A small mainland market in good order, and what the checks find of rows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import polars as pl

from tidewire.process import Processor
from tidewire.process.checks import CheckConfig
from tidewire.records.batch import Batch
from tidewire.records.market import INTERVALS, Kline, Ticker
from tidewire.records.record import RecordType
from unit.process.kit import SECOND_US, START_US, batch, rows

LOCAL = timezone(timedelta(hours=8))
STOCKS = ("600000.SH", "000001.SZ", "300001.SZ", "688001.SH", "830001.BJ", "510300.SH")
"""One of each board, and a fund."""
INDEX = "000300.SH"
FUNDS = ("51", "15")


def at(text: str) -> int:
    """A local time as microseconds after the kit's start."""
    return round(datetime.fromisoformat(text).replace(tzinfo=LOCAL).timestamp() * 1e6) - START_US


def ticker(instrument: str = "600000.SH", when: str = "2026-01-06 10:00:00", **more: Any) -> dict[str, Any]:
    """A ticker in good order: 1,000,000 shares at 10.05 on average."""
    good = {"last": "10.10", "open": "10.00", "high": "10.20", "low": "9.90", "pre_close": "10.00"}
    volumes = {"volume": "1000000", "amount": "10050000"}
    return {"source": "a", "instrument": instrument, "event_time": at(when), **good, **volumes, **more}


def bar(
    instrument: str = "600000.SH", when: str = "2026-01-06 10:00:00", interval: str = "5m", **more: Any
) -> dict[str, Any]:
    """A bar in good order; ``when`` is its start."""
    begin, length = at(when), INTERVALS[interval] * SECOND_US
    good = {
        "open": "10.00",
        "high": "10.20",
        "low": "9.90",
        "close": "10.10",
        "volume": "1000000",
        "amount": "10050000",
    }
    times = {"event_time": begin, "open_time": begin, "close_time": begin + length, "interval": interval}
    return {"source": "a", "instrument": instrument, **times, "ingested_at": begin + length, **good, **more}


def process(
    kind: RecordType,
    specs: Sequence[Mapping[str, Any]],
    config: CheckConfig | None = None,
    cuts: Sequence[tuple[int, int]] = (),
    processor: Processor | None = None,
) -> list[Batch]:
    """The processed batches of rows, which come at once, or cut as said. Nothing is said about clocks."""
    table = rows(kind, specs)
    processor, prev, made = processor or Processor(checks=config), 0, list[Batch]()
    for begin, end in cuts or [(0, table.height)]:
        part = table[begin:end]
        last = int(part["frame"].max())  # type: ignore[arg-type]
        made.append(processor.process(batch(kind, part, prev, last).with_(connections=None)))
        prev = last
    return made


def findings(made: Sequence[Batch]) -> list[dict[str, Any]]:
    """The findings of batches, as plain values."""
    parts = [one.findings for one in made if one.findings is not None]
    return pl.concat(parts).to_dicts() if parts else []


def flagged(kind: RecordType, specs: Sequence[Mapping[str, Any]], config: CheckConfig | None = None) -> Counter[str]:
    """How many rows each rule flags."""
    return Counter(one["rule"] for one in findings(process(kind, specs, config)) if one["severity"] == "flag")


def rejected(kind: RecordType, specs: Sequence[Mapping[str, Any]], config: CheckConfig | None = None) -> Counter[str]:
    """How many rows each rule sends into quarantine."""
    made = process(kind, specs, config)
    reasons = [
        one
        for part in made
        if part.rejected is not None
        for one in part.rejected["reasons"]
        .str.json_decode(pl.Struct(dict.fromkeys(("range", "scale", "unit", "vwap"), pl.String)))
        .struct.unnest()
        .to_dicts()
    ]
    return Counter(name for one in reasons for name, said in one.items() if said is not None)


@dataclass
class _Stock:
    pre_close: Decimal
    tick: Decimal
    factor: int = 1
    last: Decimal = Decimal(0)
    open: Decimal | None = None
    high: Decimal = Decimal(0)
    low: Decimal = Decimal(0)
    volume: int = 0
    amount: Decimal = Decimal(0)

    def move(self, chance: random.Random) -> None:
        """Some trades, all inside a limit of 4 %."""
        steps = chance.randint(-3, 3)
        price = (self.last or self.pre_close) + steps * self.tick
        price = min(max(price, self.pre_close * Decimal("0.97")), self.pre_close * Decimal("1.03"))
        price = (price / self.tick).to_integral_value(ROUND_HALF_UP) * self.tick
        shares = chance.randint(1, 500) * 100
        self.volume += shares
        self.amount += shares * price
        self.last = price
        self.open = self.open or price
        self.high = max(self.high or price, price)
        self.low = min(self.low or price, price)

    def row(self) -> dict[str, str]:
        return {
            "last": str(self.last),
            "open": str(self.open),
            "high": str(self.high),
            "low": str(self.low),
            "pre_close": str(self.pre_close),
            "volume": str(self.volume),
            "amount": str(self.amount * self.factor),
        }


@dataclass
class Market:
    """A market with rounds of all its instruments, in frames of so many rows each."""

    seed: int = 0
    instruments: Sequence[str] = (*STOCKS, INDEX)
    source: str = "a"
    frame: int = 0
    specs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.stocks = {
            name: _Stock(
                Decimal(self.chance.randint(500, 5_000)).scaleb(-2),
                Decimal("0.001") if name.startswith(FUNDS) else Decimal("0.01"),
                # An index has an amount and a volume of the whole market: no price follows from them.
                37 if name == INDEX else 1,
            )
            for name in self.instruments
        }

    def open_day(self) -> None:
        """The last price becomes the close before."""
        for name, stock in self.stocks.items():
            self.stocks[name] = _Stock(stock.last or stock.pre_close, stock.tick, stock.factor)

    def round(self, when: str, **more: Any) -> list[dict[str, Any]]:
        """Everything moves; one frame of all instruments."""
        for stock in self.stocks.values():
            stock.move(self.chance)
        return self.same(when, **more)

    def same(self, when: str, **more: Any) -> list[dict[str, Any]]:
        """One frame of all instruments as they stand."""
        self.frame += 1
        place = {"source": self.source, "frame": self.frame, "event_time": at(when), "ingested_at": at(when) + 100_000}
        made = [
            {"instrument": name, "ordinal": ordinal, **place, **stock.row(), **more}
            for ordinal, (name, stock) in enumerate(self.stocks.items())
        ]
        self.specs += made
        return made


def days(
    market: Market, wanted: Sequence[str], times: Sequence[str] = ("09:31:00", "11:29:57", "13:30:00", "15:00:03")
) -> Market:
    """Some sessions of a market, each with rounds at these times."""
    for day in wanted:
        market.open_day()
        for when in times:
            market.round(f"{day} {when}")
    return market


WEEKDAYS = (
    "2026-01-06",
    "2026-01-07",
    "2026-01-08",
    "2026-01-09",
    "2026-01-12",
    "2026-01-13",
    "2026-01-14",
    "2026-01-15",
)

TICKER, KLINE = Ticker.type, Kline.type
