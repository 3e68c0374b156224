"""What a sandbox can be told: symbols, pace, recording, faults, limits."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tidewire.errors import InputError, nearest
from tidewire.records.clock import SeededRng

E8 = 100_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# base, quote, tick and step in 1e-8, opening price in 1e-8; tick * step is a whole number of 1e-8.
_KNOWN = {
    "BTCUSDT": ("BTC", "USDT", 1_000_000, 1_000, 61_837 * E8),
    "ETHUSDT": ("ETH", "USDT", 1_000_000, 10_000, 2_683 * E8),
    "BNBUSDT": ("BNB", "USDT", 1_000_000, 100_000, 514 * E8),
    "SOLUSDT": ("SOL", "USDT", 1_000_000, 100_000, 154 * E8),
    "XRPUSDT": ("XRP", "USDT", 10_000, 10_000_000, 61_000_000),
    "DOGEUSDT": ("DOGE", "USDT", 1_000, E8, 10_300_000),
    "ADAUSDT": ("ADA", "USDT", 10_000, 10_000_000, 34_000_000),
    "TRXUSDT": ("TRX", "USDT", 10_000, 10_000_000, 12_900_000),
}
DEFAULT_SYMBOLS = tuple(_KNOWN)

_QUOTES = ("FDUSD", "USDT", "USDC", "BUSD", "TUSD", "USDP", "DAI", "BTC", "ETH", "BNB", "TRY", "EUR", "BRL", "JPY")


@dataclass(frozen=True)
class SymbolInfo:
    """One symbol of the venue; ``tick_e8``, ``step_e8`` and ``open_e8`` in 1e-8 of quote, base and quote."""

    symbol: str
    base: str
    quote: str
    tick_e8: int
    step_e8: int
    open_e8: int
    status: str = field(default="TRADING", kw_only=True)


def split_symbol(symbol: str) -> tuple[str, str]:
    """``"ETHUSDT"`` -> ``("ETH", "USDT")``; `InputError` when no known quote asset ends it."""
    for quote in _QUOTES:
        if symbol.endswith(quote) and len(symbol) > len(quote):
            return symbol.removesuffix(quote), quote
    raise InputError(f"Symbol {symbol!r} ends in no known quote asset; valid endings are {', '.join(_QUOTES)}.")


def symbol_info(symbol: str) -> SymbolInfo:
    """The listing of a symbol; one not known by name gets made-up, but fixed, ticks and price."""
    if symbol in _KNOWN:
        base, quote, tick, step, price = _KNOWN[symbol]
        return SymbolInfo(symbol, base, quote, tick, step, price)
    base, quote = split_symbol(symbol)
    price = round(SeededRng(f"price:{symbol}").uniform(1.0, 100.0) * E8)
    return SymbolInfo(symbol, base, quote, 100_000, 1_000_000, price)


def coinm_names(count: int) -> tuple[str, ...]:
    """That many inverse perpetuals (``BTCUSD_PERP`` ...)."""
    return tuple(f"{name.removesuffix('USDT')}USD_PERP" for name in symbol_names(count))


def harbour_names(count: int) -> tuple[str, ...]:
    """That many symbols of Harbour (``BTC-USD`` ...)."""
    return tuple(f"{name.removesuffix('USDT')}-USD" for name in symbol_names(count))


def symbol_names(count: int) -> tuple[str, ...]:
    """That many symbols: the eight known ones first, then generated ones (``TW009USDT`` ...)."""
    made = tuple(f"TW{place:03d}USDT" for place in range(len(DEFAULT_SYMBOLS) + 1, count + 1))
    return (DEFAULT_SYMBOLS + made)[:count]


_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class FailRest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answer the next ``times`` REST requests with ``status``."""

    status: Annotated[int, msgspec.Meta(ge=400, le=599)]
    times: Annotated[int, msgspec.Meta(ge=1)] = 1


class SiteFaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fault switches of one Chinese site.

    ``drop_windows``: connections broken for the first number of seconds of every second number of seconds, where in it
    by the seed; ``page_cap``: at most so many rows a page; ``new_key``: keys nobody knows in envelope and rows;
    ``renamed``: a column has another number (Eastmoney), a field more stands before the others (Sina, Tencent);
    ``garbage``: bytes that are no text; ``block_page``: 200 and a page of HTML; ``lots``: volume in shares where it was
    lots, in lots where it was shares; ``stale``: quotes stand still.
    """

    drop_windows: tuple[Annotated[float, msgspec.Meta(ge=0)], Annotated[float, msgspec.Meta(gt=0)]] | None = None
    page_cap: Annotated[int, msgspec.Meta(ge=0)] = 0
    new_key: bool = False
    renamed: bool = False
    garbage: bool = False
    block_page: bool = False
    lots: bool = False
    stale: bool = False


class ChinaFaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fault switches of the Chinese sites, each on its own."""

    eastmoney: SiteFaults = msgspec.field(default_factory=SiteFaults)
    sina: SiteFaults = msgspec.field(default_factory=SiteFaults)
    tencent: SiteFaults = msgspec.field(default_factory=SiteFaults)
    official: SiteFaults = msgspec.field(default_factory=SiteFaults)


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fault switches.

    ``drop``, ``duplicate`` and ``reorder`` are probabilities per message; ``only`` restricts these three to streams
    with one of these endings. ``silence_s``: accept connections but send nothing for that long (negative: for
    ever). ``away_s``: cut all connections and break every new one for that long. ``disconnect_every``: cut a connection
    after that many messages; ``halve_every``: the same, in the middle of one. ``slow_body``: REST bytes per second.
    ``skew_s`` is added to the venue's clock: ``E``, ``T``, times of REST trades and ``serverTime``. Zero is off.
    ``china``: those of the Chinese sites, which know ``away_s`` and ``slow_body`` besides.
    """

    drop: _Share = 0.0
    duplicate: _Share = 0.0
    reorder: _Share = 0.0
    only: tuple[str, ...] = ()
    silence_s: float = 0.0
    away_s: float = 0.0
    disconnect_every: Annotated[int, msgspec.Meta(ge=0)] = 0
    halve_every: Annotated[int, msgspec.Meta(ge=0)] = 0
    slow_body: Annotated[int, msgspec.Meta(ge=0)] = 0
    skew_s: float = 0.0
    fail_rest: FailRest | None = None
    seed: int = 7
    china: ChinaFaults = msgspec.field(default_factory=ChinaFaults)


def changed_faults(now: Faults, change: Mapping[str, Any]) -> Faults:
    """The switches with some of them set anew; `InputError` names what is wrong and what is valid."""
    valid = Faults.__struct_fields__
    for name in change:
        if name not in valid:
            raise InputError(f"Unknown fault {name!r}; valid are {', '.join(valid)}.{nearest(name, valid)}")
    try:
        return msgspec.convert({**msgspec.to_builtins(now), **change}, Faults)
    except msgspec.ValidationError as error:
        raise InputError(f"A fault switch cannot be set like this: {error}.") from error


@dataclass(frozen=True)
class LimitConfig:
    """The venue's limits; the defaults are Binance's, each market with a weight of its own, and Harbour's.

    After ``ban_after`` requests over the limit the answer is 418 for ``ban_s`` seconds instead of 429.
    ``slow_client_s``: a client that leaves its socket full for so long is cut.
    """

    weight_per_minute: int = 6_000
    futures_weight_per_minute: int = 2_400
    ban_after: int = 10
    ban_s: int = 120
    ping_interval_s: float = 20.0
    pong_timeout_s: float = 60.0
    client_messages_per_second: int = 5
    streams_per_connection: int = 1_024
    connections_per_5_minutes: int = 300
    connection_age_s: float = 86_400.0
    slow_client_s: float = 60.0
    harbour_requests_per_2_s: int = 20
    harbour_channels_per_connection: int = 60
    harbour_idle_s: float = 30.0


@dataclass(frozen=True)
class SandboxConfig:
    """How a sandbox runs.

    Synthetic market: ``symbols`` are spot's; ``usdm_symbols`` and ``coinm_symbols`` those of two futures markets,
    ``harbour_symbols`` those of Harbour, each of which runs beside it in the same way where it has any. ``rate`` is
    market events per second (one event gives zero to two messages), None = as fast as clients read; ``events`` stops it
    after so many. With ``start_ns`` the market
    has a clock of its own that begins there, moves ``1 / rate`` (or ``1 / pace``) seconds an event and is told to
    clients; runs with the same seed are then the same bytes. Without it the market lives on the wall clock. REST
    history reaches ``history_hours`` back.

    ``china_stocks`` turns the Chinese sites on, with so many stocks and daily bars of ``china_history_days`` sessions.

    ``session_at``, a time with an offset such as ``2026-12-01T09:29:50+08:00``, is where the clock of the whole sandbox
    begins; from there it goes on at ``session_speed`` times real speed, and is told to clients.

    Recording: ``tape`` is played at ``speed`` times real speed, None = as fast as clients read.

    Either begins when ``POST /sandbox/play`` is called or every stream with an ending in ``start_on`` is subscribed;
    a synthetic market without ``start_on`` begins at once.
    """

    host: str = "127.0.0.1"
    port: int = 0
    seed: int = 7
    symbols: tuple[str, ...] = DEFAULT_SYMBOLS
    usdm_symbols: tuple[str, ...] = ()
    coinm_symbols: tuple[str, ...] = ()
    harbour_symbols: tuple[str, ...] = ()
    china_stocks: int = 0
    china_history_days: int = 250
    session_at: str | None = None
    session_speed: float = 1.0
    rate: float | None = 200.0
    events: int | None = None
    start_ns: int | None = None
    pace: float = 5_000.0
    history_hours: int = 168
    tape: Path | None = None
    speed: float | None = 1.0
    start_on: frozenset[str] = frozenset()
    faults: Faults = field(default_factory=Faults)
    limits: LimitConfig = field(default_factory=LimitConfig)

    def __post_init__(self) -> None:
        if not _loopback(self.host):
            raise InputError(
                f"The sandbox listens on loopback only, not on {self.host!r}; use 127.0.0.1, ::1 or localhost."
            )
        if self.session_at is not None:
            session_ns(self.session_at)
            if self.tape is not None or self.start_ns is not None:
                raise InputError("A recording, and a market with start_ns, have a clock; leave session_at out.")
        for name in ("rate", "speed", "pace", "session_speed"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"{name} is {value}; valid is a number above 0, or None for as fast as possible.")
        if not 0 < self.history_hours <= 87_600:
            raise InputError(f"history_hours is {self.history_hours}; valid is 1 to 87600, ten years.")
        if not 1 <= self.china_history_days <= 2_500:
            raise InputError(f"china_history_days is {self.china_history_days}; valid is 1 to 2500, ten years.")
        if self.tape is not None and self.china_stocks:
            raise InputError("A recording is played on spot; leave china_stocks out.")
        if self.tape is not None and (self.usdm_symbols or self.coinm_symbols or self.harbour_symbols):
            raise InputError("A recording is played on spot; leave the symbols of the other markets out.")
        if not self.symbols:
            raise InputError("symbols is empty; name at least one, such as BTCUSDT.")


def session_ns(text: str) -> int:
    """UTC ns of a time with an offset; `InputError` for what is none."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise InputError(f"{text!r} is no time with an offset; valid is e.g. 2026-12-01T09:29:50+08:00.")
    return (at - _EPOCH) // timedelta(microseconds=1) * 1_000


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
