"""What a source file may say of Harbour."""

from __future__ import annotations

from tidewire.collect import Section, SourceConfig, read, seconds
from tidewire.errors import ConfigError


class Instruments(Section, frozen=True):
    """``collectors: instrument:``; it runs always, and the list is loaded at every start."""

    update_interval: str = "1h"


class Streamed(Section, frozen=True):
    """``collectors: trade:`` and ``quote:``."""

    symbols: list[str]
    enabled: bool = True
    silence: str = "5m"


class OrderBooks(Section, frozen=True):
    """``collectors: order_book:``."""

    symbols: list[str]
    enabled: bool = True
    silence: str = "5m"
    depth: int = 20
    update_interval: str = "1s"
    deltas: bool = False


class Collectors(Section, frozen=True):
    """All of them; one that is not there does not run."""

    instrument: Instruments = Instruments()
    trade: Streamed | None = None
    quote: Streamed | None = None
    order_book: OrderBooks | None = None


def collectors(config: SourceConfig) -> Collectors:
    """The section, checked; `ConfigError` names what is wrong."""
    found = read(config.collectors, Collectors, "collectors")
    seconds(found.instrument.update_interval, "collectors.instrument.update_interval")
    for name, each in (("trade", found.trade), ("quote", found.quote), ("order_book", found.order_book)):
        if each is None:
            continue
        if not each.symbols:
            raise ConfigError(f"collectors.{name}.symbols: empty; name one symbol at least, such as BTC-USD.")
        if seconds(each.silence, f"collectors.{name}.silence") < 10:
            raise ConfigError(f"collectors.{name}.silence: {each.silence}; at least 10s.")
    if books := found.order_book:
        if not 1 <= books.depth <= 50:
            raise ConfigError(
                f"collectors.order_book.depth: {books.depth}; Harbour's books have 1 to 50 levels a side."
            )
        if seconds(books.update_interval, "collectors.order_book.update_interval") < 0.1:
            raise ConfigError(f"collectors.order_book.update_interval: {books.update_interval}; at least 100ms.")
    return found
