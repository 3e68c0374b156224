"""Writes the data of the trading calendars from `exchange_calendars`.

``python docs/calendars.py`` writes ``src/tidewire/records/data/xshg.txt``; with ``--check`` it only says whether it is
stale and exits 1. To be run when a new version of the library knows another year.
"""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path

import exchange_calendars

FILE = Path(__file__).parents[1] / "src" / "tidewire" / "records" / "data" / "xshg.txt"
FIRST = date(1990, 12, 19)


def xshg() -> str:
    """The closed weekdays of Shanghai by year, as the library knows them."""
    last = exchange_calendars.get_calendar("XSHG").bound_max().date()
    found = exchange_calendars.get_calendar("XSHG", start=FIRST.isoformat(), end=last.isoformat())
    sessions = {each.date() for each in found.sessions}
    lines = [
        "# Weekdays on which the exchanges of Shanghai, Shenzhen and Beijing are closed; no weekend is ever a session.",
        "# Written by docs/calendars.py from exchange_calendars (XSHG); edit nothing here.",
        f"first {FIRST}",
        f"last {last}",
    ]
    for year in range(FIRST.year, last.year + 1):
        days = (
            date.fromordinal(at)
            for at in range(max(FIRST, date(year, 1, 1)).toordinal(), min(last, date(year, 12, 31)).toordinal() + 1)
        )
        closed = [f"{day:%m-%d}" for day in days if day.weekday() < 5 and day not in sessions]
        if closed:
            lines.append(" ".join([str(year), *closed]))
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the file, or compare it."""
    text = xshg()
    if "--check" not in sys.argv[1:]:
        FILE.write_text(text, encoding="ascii")
        return 0
    if FILE.is_file() and FILE.read_text(encoding="ascii") == text:
        return 0
    sys.stderr.write(f"stale: {FILE.name}; run python docs/calendars.py\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
