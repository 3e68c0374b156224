"""What Binance lists, and which of it is meant by the symbols of a configuration."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

import msgspec

from tidewire.errors import ConfigError, InstrumentError, TerminalError, nearest
from tidewire.records.clock import Clock
from tidewire.records.instrument import InstrumentBook
from tidewire.sources.binance import wire
from tidewire.sources.binance.markets import Market
from tidewire.sources.binance.parse import names_of, said_status

ENDED = frozenset({"BREAK", "POST_TRADING", "DELIVERED", "CLOSE"})
"""What is said of a symbol that is traded no more. During maintenance it is said of all of them for some hours."""
GONE_NS = 24 * 3_600 * 1_000_000_000
"""A symbol that was traded while we watched, and has ended for so long, does not come back."""


class Listing:
    """The listed symbols of one market, as the last instrument list says."""

    def __init__(self, market: Market, instruments: InstrumentBook, clock: Clock) -> None:
        self._market = market
        self._book = instruments
        self._clock = clock
        self._names: dict[str, str] = {}
        self._natives: dict[str, str] = {}
        self._ended_ns: dict[str, int] = {}
        self.weight_per_minute: int | None = None
        """What the venue says one may ask for in a minute."""

    def learn(self, body: bytes) -> None:
        """Take in an instrument list."""
        info = msgspec.json.decode(body, type=wire.ExchangeInfo)
        self._names = names_of(info, self._market)
        self.weight_per_minute = info.weight_per_minute()
        self._natives = {instrument: native for native, instrument in self._names.items()}
        now_ns = self._clock.mono_ns()
        ended = [entry.symbol for entry in info.symbols if said_status(entry) in ENDED]
        self._ended_ns = {symbol: self._ended_ns.get(symbol, now_ns) for symbol in ended}
        for native, instrument in self._names.items():
            self._book.add(instrument, native)

    def instrument(self, native: str) -> str:
        """Canonical id of Binance's spelling."""
        return self._names[native]

    def instruments(self) -> list[str]:
        """Canonical ids of all that is listed."""
        return list(self._names.values())

    def unknown(self, natives: Collection[str]) -> frozenset[str]:
        """Those that the list does not have."""
        return frozenset(natives) - self._names.keys()

    def native_of(self, instrument: str) -> str:
        """Binance's spelling of a canonical id; `TerminalError` when it is not listed any more."""
        try:
            return self._natives[instrument]
        except KeyError:
            raise TerminalError(f"Binance does not list {instrument} any more") from None

    def native(self, spelling: str) -> str:
        """Binance's spelling of a symbol written in any way; `ConfigError` with the nearest valid one."""
        try:
            wanted = self._book.resolve(spelling)
        except InstrumentError:
            wanted = ""
        for candidate in (wanted, f"{wanted.rpartition('.')[0]}.{self._market.venue}"):
            if candidate in self._natives:
                return self._natives[candidate]
        bare = _bare(spelling)
        if bare in self._names:
            return bare
        example = "BTCUSD_PERP" if self._market.inverse else "BTCUSDT"
        raise ConfigError(
            f"symbols: Binance has no {spelling!r}.{nearest(bare, self._names)} Write e.g. {example}, or a pattern."
        )

    def resolve(self, spellings: Iterable[str], have: Collection[str] | None = None) -> list[str]:
        """The symbols meant by names and patterns (``*USDT``), in Binance's spelling.

        A pattern means what is traded now, and of what we ``have`` already all that has not ended for good. At first
        (``have`` is None) a name that is unknown and a pattern that fits nothing are a `ConfigError`; later they are
        symbols that are listed no more.
        """
        found: dict[str, None] = {}
        for spelling in spellings:
            found |= dict.fromkeys(self._meant(spelling, have))
        return list(found)

    def _meant(self, spelling: str, have: Collection[str] | None) -> Sequence[str]:
        known = have or ()
        if not is_pattern(spelling):
            try:
                native = self.native(spelling)
            except ConfigError:
                if have is None:
                    raise
                return ()
            return () if native in known and self._gone(native) else (native,)
        fitting = [native for native in self._names if fnmatchcase(native, _bare(spelling))]
        if not fitting and have is None:
            raise ConfigError(
                f"symbols: no symbol that Binance lists fits {spelling!r}; * stands for any letters, ? for one."
            )
        return [
            native
            for native in fitting
            if (not self._gone(native) if native in known else native not in self._ended_ns)
        ]

    def is_traded(self, instrument: str) -> bool:
        """Whether something is to be expected of it."""
        native = self._natives.get(instrument)
        return native is not None and native not in self._ended_ns

    def _gone(self, native: str) -> bool:
        ended_ns = self._ended_ns.get(native)
        return ended_ns is not None and self._clock.mono_ns() - ended_ns >= GONE_NS


def is_pattern(spelling: str) -> bool:
    """Whether it may mean several symbols."""
    return "*" in spelling or "?" in spelling


def _bare(spelling: str) -> str:
    return spelling.upper().replace("/", "").replace("-", "")
