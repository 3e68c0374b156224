"""Futures contracts: what they are called, how they are written, and what their funding is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from tidewire.errors import InputError
from tidewire.records.clock import SeededRng
from tidewire.sandbox.config import E8, SymbolInfo, split_symbol, symbol_info
from tidewire.sandbox.messages import Form, Text
from tidewire.sandbox.series import Bar, e8

HOUR_MS = 3_600_000
NEVER_MS = 4_133_404_800_000
"""When a perpetual is delivered."""

_LINEAR = re.compile(r"[A-Z0-9]{3,20}(?:_\d{6})?", re.ASCII)
_INVERSE = re.compile(r"([A-Z0-9]{2,15})USD_(?:PERP|\d{6})", re.ASCII)

# tick and step in 1e-8; those not listed get made-up, but fixed ones.
_LINEAR_STEPS = {
    "BTC": (10_000_000, 100_000),
    "ETH": (1_000_000, 100_000),
    "SOL": (1_000_000, E8),
    "XRP": (10_000, 10_000_000),
}
_INVERSE_STEPS = {"BTC": 10_000_000, "ETH": 1_000_000, "SOL": 100_000}
_EIGHT_HOURS = ("BTC", "ETH")


@dataclass(frozen=True)
class ContractInfo(SymbolInfo):
    """One contract; ``contract_size``: how much of the quote asset one is for, 0 where they are of the base asset.

    ``funding_hours`` is 0 for a contract that is delivered, at ``delivery_ms``.
    """

    pair: str
    contract_size: int
    funding_hours: int
    delivery_ms: int

    @property
    def kind(self) -> str:
        """The venue's word for it."""
        return "PERPETUAL" if self.funding_hours else "CURRENT_QUARTER"

    @property
    def margin(self) -> str:
        """The asset it is settled in."""
        return self.base if self.contract_size else self.quote

    @property
    def form(self) -> Form:
        """Prices with as many decimals as the tick has, quantities as the step."""
        return Form(_fixed(self.tick_e8), _fixed(self.step_e8), self._turnover)

    def _turnover(self, bar: Bar) -> tuple[int, int]:
        if not self.contract_size:
            return bar.quote, bar.taker_quote
        # Bars add up price times contracts: by their mean price, what the contracts were worth in the base asset.
        size = self.contract_size
        return _in_base(bar.volume, bar.quote, size), _in_base(bar.taker, bar.taker_quote, size)

    def settles(self, ms: int) -> int:
        """The first settlement of funding after a time; 0 without funding."""
        step = self.funding_hours * HOUR_MS
        return (ms // step + 1) * step if step else 0

    def rate(self, seed: int, at_ms: int) -> str:
        """The rate that is settled at a time; empty without funding."""
        if not self.funding_hours:
            return ""
        return e8(round(SeededRng(f"{seed}:funding:{self.symbol}:{at_ms}").uniform(-0.0002, 0.0003) * E8))


def _in_base(contracts: int, value: int, size: int) -> int:
    return contracts * size * contracts // value if value else 0


def _fixed(unit_e8: int) -> Text:
    places = 8 - (len(str(unit_e8)) - len(str(unit_e8).rstrip("0")))
    if places <= 0:
        return lambda value: e8(value)[:-9]
    return e8 if places == 8 else lambda value: e8(value)[: places - 8]


def contract_info(symbol: str, *, inverse: bool) -> ContractInfo:
    """The listing of a contract, ``BTCUSDT`` or ``BTCUSDT_261225``, inverse ``BTCUSD_PERP``; `InputError` for others.

    Funding is settled every eight hours on BTC and ETH and every four on all others.
    """
    pair, _, term = symbol.partition("_")
    if inverse:
        found = _INVERSE.fullmatch(symbol)
        if found is None:
            raise InputError(f"{symbol!r} is no COIN-M symbol; valid are e.g. BTCUSD_PERP and BTCUSD_261225.")
        base, quote = found[1], "USD"
        spot = symbol_info(f"{base}USDT")
        tick, step, size = _INVERSE_STEPS.get(base, spot.tick_e8), E8, 100 if base == "BTC" else 10
    else:
        if not _LINEAR.fullmatch(symbol):
            raise InputError(f"{symbol!r} is no USD-M symbol; valid are e.g. BTCUSDT and BTCUSDT_261225.")
        base, quote = split_symbol(pair)
        spot = symbol_info(pair)
        (tick, step), size = _LINEAR_STEPS.get(base, (spot.tick_e8, spot.step_e8)), 0
    perpetual = term in ("", "PERP")
    hours = (8 if base in _EIGHT_HOURS else 4) if perpetual else 0
    delivery = NEVER_MS if perpetual else _delivery_ms(symbol, term)
    return ContractInfo(symbol, base, quote, tick, step, spot.open_e8, pair, size, hours, delivery)


def _delivery_ms(symbol: str, term: str) -> int:
    try:
        day = datetime.strptime(term, "%y%m%d").replace(hour=8, tzinfo=UTC)
    except ValueError as error:
        raise InputError(f"{symbol!r} ends in no day of delivery; write e.g. _261225.") from error
    return int(day.timestamp()) * 1_000
