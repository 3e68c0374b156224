"""Live progress of a running platform: a table in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tidewire import telemetry
from tidewire.errors import StoreError
from tidewire.records.clock import utc
from tidewire.records.forms import for_json
from tidewire.records.market import Ticker, Trade
from tidewire.records.record import types
from tidewire.runtime.platform import Tidewire

REFRESH_S = 0.5
LINE_S = 5.0
SHOWN_PRICES = 6


class Progress:
    """Reads what a platform has done and shows it."""

    def __init__(self, platform: Tidewire, console: Console, hints: Sequence[str] = ()) -> None:
        self._platform = platform
        self._console = console
        self._hints = hints
        self._last = (platform.clock.mono_ns(), platform.journal.head)
        self._rate = 0.0

    async def show(self) -> None:
        """Until cancelled."""
        # Above the live part, which is cut to the size of the terminal: an example must be there whole.
        for hint in self._hints:
            self._console.print(hint, highlight=False, soft_wrap=True, markup=False)
        if self._console.is_terminal:
            with Live(self._picture(), console=self._console, refresh_per_second=4, transient=False) as live:
                while True:
                    await self._platform.clock.sleep(REFRESH_S)
                    live.update(self._picture())
        while True:
            await self._platform.clock.sleep(LINE_S)
            self._console.print(self.line(), highlight=False, soft_wrap=True)

    def line(self) -> str:
        """Progress in one line."""
        facts = self._facts()
        stored = ", ".join(f"{count:,} {name}" for name, count in facts["stored"].items() if count)
        return (
            f"{facts['frames']:,} frames received ({facts['rate']:,.0f}/s), {facts['in_flight']:,} in flight | "
            f"stored {stored or 'nothing yet'} | {facts['quarantined']:,} quarantined, {facts['duplicates']:,} "
            f"duplicates, {facts['gaps']:,} gaps ({facts['filled']:,} filled)"
        )

    def _facts(self) -> dict[str, Any]:
        platform = self._platform
        now, frames = platform.clock.mono_ns(), platform.journal.head
        then, before = self._last
        if now - then > 2e8:
            self._rate = (frames - before) / ((now - then) / 1e9)
            self._last = (now, frames)
        names = list(types())

        def stored(name: str, fate: str) -> int:
            return round(telemetry.value("tidewire_store_rows_total", type=name, outcome=fate))

        return {
            "frames": frames,
            "rate": self._rate,
            "in_flight": _in_flight(platform),
            "stored": {name: stored(name, "stored") for name in names},
            "quarantined": sum(round(_counted("process_rows", type=name, fate="quarantined")) for name in names),
            "duplicates": sum(
                round(_counted("process_rows", type=name, fate="duplicate")) + stored(name, "duplicate")
                for name in names
            ),
            "gaps": sum(round(_counted("process_gaps", type=name, state="open")) for name in names),
            "filled": sum(round(_counted("process_gaps", type=name, state="filled")) for name in names),
        }

    def _picture(self) -> Group:
        facts = self._facts()
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold")
        table.add_column(justify="right")
        table.add_column(style="dim")
        table.add_row("received", f"{facts['frames']:,}", f"frames in the journal, {facts['rate']:,.0f}/s")
        for name, count in facts["stored"].items():
            if count:
                table.add_row("stored", f"{count:,}", name)
        table.add_row("in flight", f"{facts['in_flight']:,}", "frames accepted, not stored yet")
        table.add_row("quarantined", f"{facts['quarantined']:,}", "rows that failed a check")
        table.add_row("duplicates", f"{facts['duplicates']:,}", "repeats, stored once")
        table.add_row("gaps", f"{facts['gaps']:,}", f"holes found in what came, {facts['filled']:,} filled")
        parts: list[Any] = [Panel(table, title="Tidewire", subtitle=self._sources(), border_style="cyan")]
        parts += [
            Text(problem, style="red")
            for app in self._platform.apps
            for problem in self._platform.health_of(app).problems
        ]
        prices = self._prices()
        if prices is not None:
            parts.append(prices)
        return Group(*parts)

    def _sources(self) -> str:
        words: list[str] = []
        for app in self._platform.apps:
            health = self._platform.health_of(app)
            colour = {"ok": "green", "standby": "cyan", "starting": "yellow", "degraded": "yellow"}.get(
                health.state, "red"
            )
            words.append(f"{app.name} [{colour}]{health.state}[/{colour}]")
        return ", ".join(words)

    def _prices(self) -> Table | None:
        table = Table(box=None, pad_edge=False)
        for title in ("instrument", "last", "size", "side", "at"):
            table.add_column(title, justify="right" if title in {"last", "size"} else "left", style="dim")
        trades = self._platform.cache.get(Trade.type, {})
        if trades.is_empty():
            tickers = self._platform.cache.get(Ticker.type, {})
            if tickers.is_empty():
                return None
            for row in for_json(tickers.head(SHOWN_PRICES)).iter_rows(named=True):
                table.add_row(row["instrument"], row["last"], "", "", row["event_time"][11:23])
            return table
        for row in for_json(trades.head(SHOWN_PRICES)).iter_rows(named=True):
            table.add_row(row["instrument"], row["price"], row["size"], row["side"] or "", row["event_time"][11:23])
        return table


def _in_flight(platform: Tidewire) -> int:
    """Frames accepted and not stored; a closed store has taken everything that could be drained."""
    try:
        return platform.pipe.in_flight()
    except StoreError:
        return 0


def _counted(name: str, **labels: str) -> float:
    return telemetry.value(f"tidewire_{name}_total", **labels)


async def show(platform: Tidewire, console: Console, hints: Sequence[str] = ()) -> None:
    """Show progress until cancelled."""
    await Progress(platform, console, hints).show()


def when(wall_ns: int | None) -> str:
    """A time for people."""
    return "never" if wall_ns is None else f"{utc(wall_ns):%Y-%m-%d %H:%M:%S} UTC"
